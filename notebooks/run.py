"""Runs notebooks from a cold kernel and keeps what came out of them: `make notebooks`.

    python notebooks/run.py                     # all
    python notebooks/run.py quickstart.ipynb    # one
"""

import pathlib
import sys
import tempfile
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = pathlib.Path(__file__).parent
#: The cell whose assignments `executed` can replace, and cells of which no output is kept: what
#: they show lives no longer than the kernel.
PARAMETERS, LIVE = 'parameters', 'live'


def executed(path: pathlib.Path, timeout: float = 7200, **parameters: Any) -> NotebookNode:
    """Run a notebook to its end, in an empty folder.

    Args:
      path: the notebook, which stays as it is.
      timeout: seconds that a cell may take.
      **parameters: in place of what its cell of parameters assigns.

    Returns:
      The notebook with its outputs.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
      ValueError: it has no such parameter.
    """
    notebook = nbformat.read(path, as_version=4)
    place = next((number for number, cell in enumerate(notebook.cells) if tagged(cell, PARAMETERS)),
                 None)
    unknown = [name for name in parameters
               if place is None or f'\n{name} = ' not in '\n' + notebook.cells[place].source]
    if unknown:
        raise ValueError(f'{path.name} has no parameter {", ".join(unknown)} in its cell tagged '
                         f'{PARAMETERS!r}')
    if parameters:
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(
            '\n'.join(f'{name} = {value!r}' for name, value in parameters.items())))
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=timeout, startup_timeout=180, kernel_name='python3',
                       record_timing=False, resources={'metadata': {'path': folder}}).execute()
    for cell in notebook.cells:
        if tagged(cell, LIVE):
            cell.outputs = []
    return notebook


def tagged(cell: NotebookNode, tag: str) -> bool:
    """Tell whether a cell has a tag."""
    return tag in cell.metadata.get('tags', ())


def main(names: list[str]) -> None:
    """Run notebooks and write them with their outputs."""
    for path in [FOLDER / name for name in names] or sorted(FOLDER.glob('*.ipynb')):
        notebook = executed(path)
        notebook.metadata = {'kernelspec': notebook.metadata['kernelspec'],
                             'language_info': {'name': 'python'}}  # no version of this machine's
        nbformat.write(notebook, path)
        print(f'{path.name}: {path.stat().st_size / 1e3:.0f} kB')


if __name__ == '__main__':
    main(sys.argv[1:])
