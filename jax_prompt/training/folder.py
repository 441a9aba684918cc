"""The folder of a run: whose it is, what is written into it, and what came of it."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from flax.traverse_util import flatten_dict

from jax_prompt.files import locked, remove_litter, write_file
from jax_prompt.prompts.file import PromptFile, save_prompt
from jax_prompt.prompts.prompt import Tuned
from jax_prompt.prompts.versions import ENDING
from jax_prompt.training.reporting import METRICS_FILE

RUN_FILE = 'run.json'
#: Of the identity in it; 1 told optimizers by gin's names and has no entry for the format, 2 had no
#: best prompt in its checkpoints and chose it by the first metric alone.
RUN_FORMAT = 3
PROMPT_FILE = 'prompt.safetensors'
#: The folders of what the tasks of a run share, and of what each prompt started from.
SHARED = 'shared'
START = 'start'
CHECKPOINTS = 'checkpoints'
CURVES_FILE = 'curves.png'
CARD_FILE = 'card.md'
GIN_FILE = 'operative_config.gin'
_LOCK = 'lock'


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its files.

    Attributes:
      path: the folder.
      configuration: name -> value of the operative gin, to be kept in it.
      name: of the problem that is meant; '' for a run's only one.
    """

    path: pathlib.Path
    configuration: Mapping[str, str] = dataclasses.field(default_factory=dict)
    name: str = ''

    @property
    def checkpoints(self) -> pathlib.Path:
        """The folder of Orbax checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def prompt(self) -> pathlib.Path:
        """The file of the best prompt; of several tasks each has its own."""
        return self.path / (f'{self.name}{ENDING}' if self.name else PROMPT_FILE)

    @property
    def start(self) -> pathlib.Path:
        """The file of what the prompt started from, which tells how far training moved it."""
        return self.prompt.parent / START / self.prompt.name

    @property
    def model(self) -> pathlib.Path:
        """The folder of the model with its best weights, where weights are trained."""
        return self.path / 'model'

    @property
    def saved_bytes(self) -> int:
        """The size of what use needs: the best prompt, and the tuned model where there is one."""
        files = [self.prompt, *(self.model.iterdir() if self.model.is_dir() else ())]
        return sum(file.stat().st_size for file in files)

    @property
    def metrics(self) -> pathlib.Path:
        """The record of metrics."""
        return self.path / METRICS_FILE

    def save_prompt(self, prompt_file: PromptFile) -> None:
        """Replace the best prompt."""
        save_prompt(self.prompt, prompt_file)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run ended with.

    Attributes:
      folder: of the run; its `prompt` is this problem's, its `name` is this problem's name.
      results: heading (`run.MOST_COMMON`, `AFTER`; with `settings.compare` also `NO_PROMPT`,
        `BEFORE`) -> metrics; none without `settings.measure`.
      split: the split that they were measured on.
      best_step: the step of the prompt that was kept.
      remarks: sentences that say where it is no better than doing nothing.
      prompt_bytes, model_bytes: sizes of what was saved, the prompt's file and the tuned model, and
        of the frozen weights.
      trained_numbers: how many numbers were trained, by all problems of the run.
      tuned: what is best, in memory: its prompt, and the tuned weights where there are some.
      ensemble: heading -> metrics of the ensemble that it is a member of; none for no ensemble.
      tuned_model: the folder of the model, where its weights were trained.
    """

    folder: RunFolder
    results: dict[str, dict[str, float]]
    split: str
    best_step: int
    remarks: tuple[str, ...]
    prompt_bytes: int
    model_bytes: int
    trained_numbers: int
    tuned: Tuned = dataclasses.field(compare=False, repr=False)
    ensemble: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    tuned_model: pathlib.Path | None = None


@contextlib.contextmanager
def claimed(folder: RunFolder, identity: dict[str, Any]) -> Iterator[None]:
    """Take a new folder for a run, or the folder of the same run to resume it, for oneself alone.

    Args:
      folder: made if it is not there.
      identity: whatever decides the run's trajectory, ready for JSON.

    Raises:
      ValueError: when the folder holds a run of another configuration (names what differs), or
        files that are not a run's, or another process trains in it.
    """
    record = folder.path / RUN_FILE
    check_folder(folder.path)
    folder.path.mkdir(parents=True, exist_ok=True)
    remove_litter(folder.path)
    with locked(folder.path / _LOCK, f'training in {folder.path}'):
        if record.exists():
            check_same(identity, _read(record), f'output folder {folder.path}')
        else:
            write_file(record, (json.dumps(identity, indent=2, sort_keys=True) + '\n').encode())
        for litter in folder.path.glob('.*.tmp'):  # of a killed process
            litter.unlink()
        for litter in folder.path.glob(f'.{folder.model.name}.*'):
            shutil.rmtree(litter)
        if folder.configuration:
            lines = [f'{name} = {value}\n' for name, value in sorted(folder.configuration.items())]
            write_file(folder.path / GIN_FILE, ''.join(lines).encode(), overwrite=True)
        yield


def recorded(folder: RunFolder) -> dict[str, Any] | None:
    """Return what decides the trajectory of the run in a folder; None where there is none.

    Raises:
      ValueError: it is not readable, or of another version.
    """
    record = folder.path / RUN_FILE
    return _read(record) if record.exists() else None


def check_folder(path: pathlib.Path) -> None:
    """Check that a folder can be a run's, which needs no model.

    Raises:
      ValueError: it is none and cannot be made, or holds what is not a run's.
    """
    if any('\ud800' <= one <= '\udfff' for one in str(path.absolute())):  # as Python reads bytes
        raise ValueError(f'output {path} is no UTF-8 text, which checkpoints need; choose another '
                         'name')
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        what = 'a file' if there.is_file() else 'nothing that can be written into'
        raise ValueError(f'output {path} cannot be a folder for the run: {there} is {what}')
    if path.is_dir() and not (path / RUN_FILE).exists() and \
            not all(map(_is_left_over, path.iterdir())):
        raise ValueError(f'output folder {path} holds files but no {RUN_FILE}, so it is not a run '
                         'of jax_prompt; choose an empty or a new folder')


def _is_left_over(path: pathlib.Path) -> bool:
    """Say whether a file is what a claim leaves that was killed before it was done."""
    return path.name.startswith(f'.{RUN_FILE}.') or path.name == _LOCK


def _read(record: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(record.read_text())
    except ValueError as error:
        raise ValueError(f'{record} is not readable as JSON ({error}); '
                         'choose a new output folder') from error
    if not isinstance(found, dict):
        raise ValueError(f'{record} holds no JSON object; choose a new output folder')
    if found.get('format') != RUN_FORMAT:
        raise ValueError(f'output folder {record.parent} holds a run that another version of '
                         f'jax_prompt began (format {found.get("format", 1)}, expected '
                         f'{RUN_FORMAT}); finish it with that version, or choose a new folder')
    return found


def check_same(ours: dict[str, Any], theirs: dict[str, Any], where: str) -> None:
    """Compare what decides two runs.

    Args:
      ours: of this run, ready for JSON.
      theirs: of the other one.
      where: the other one stands, for the message.

    Raises:
      ValueError: they differ; names the first entries that do.
    """
    ours, theirs = (flatten_dict(json.loads(json.dumps(identity)), sep='.')
                    for identity in (ours, theirs))
    different = [name for name in sorted(ours.keys() | theirs.keys())
                 if ours.get(name) != theirs.get(name)]
    if different:
        listed = '; '.join(f'{name} is {theirs.get(name)!r} there and {ours.get(name)!r} here'
                           for name in different[:3])
        raise ValueError(f'{where} holds a run of another configuration: {listed}; '
                         'choose a new folder, or the same configuration to resume it')
