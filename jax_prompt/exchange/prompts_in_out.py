"""Prompts in and out: one way in for every kind of file, one way out, and a look inside.

    prompt_file = import_prompt('adapter', model, {'name': 'sst2'})
    save_prompt('sst2.safetensors', prompt_file)
    export_prompt(prompt_file, 'adapter-again', 'peft', base_model='google/t5-base-lm-adapt')
"""

import dataclasses
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jax_prompt.exchange.numpy_prompt import find_numpy_prompt, read_numpy_prompt
from jax_prompt.exchange.peft import (
    CONFIG,
    PICKLED,
    WEIGHTS,
    is_peft,
    read_peft_prompt,
    write_peft_prompt,
)
from jax_prompt.exchange.t5x_prompt import is_t5x, read_t5x_prompt
from jax_prompt.files import hub_folder, hub_id, write_file
from jax_prompt.models.open import OpenedModel
from jax_prompt.prompts.file import PromptFile, PromptMetadata, load_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.nearest import nearest_words, row_norms
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.types import Array

IMPORTED = ('peft', 't5x', 'numpy')
EXPORTED = ('peft', 'numpy')
PROMPT_FILE = 'prompt file'


class FoundPrompt(NamedTuple):
    """A prompt of any kind that can be read.

    Attributes:
        form: 'prompt file', or one of `IMPORTED`.
        rows_PD: float32[P, D], its virtual tokens.
        file: what a prompt file holds besides; None for other kinds.
        origin: of other kinds, where it comes from in words.
    """

    form: str
    rows_PD: np.ndarray
    file: PromptFile | None = None
    origin: str | None = None


def import_prompt(source: str | os.PathLike, model: OpenedModel, task: Mapping[str, Any],
                  layout: Layout | None = None, form: str | None = None,
                  parameter: str | None = None) -> PromptFile:
    """Make a prompt file's content of a prompt that another tool trained.

    Numbers are taken as they are; what the other tool does not say of them, the caller does.

    Args:
        source: a numpy file of any name, a T5X checkpoint's folder or gs:// address, or the folder
            of a PEFT adapter (prompt tuning, P-tuning, multitask prompt tuning), or such an
            adapter on the Hugging Face hub as 'owner/name@revision'.
        model: the frozen model that the prompt was trained for.
        task: as a prompt file holds it: name, inputs_template, labels, inputs_length,
            targets_length.
        layout: where its rows stood in training; before the text unless given.
        form: 'numpy', 't5x' or 'peft'; by default told from what is there.
        parameter: of several prompts the one that is meant: a parameter of a T5X checkpoint, or
            the number of a task of PEFT's multitask prompt tuning.

    Returns:
        The prompt with its metadata, of which `method` tells where it comes from; step and seed are
        0, since these files do not tell.

    Raises:
        FileNotFoundError: the source or a part of it is not there.
        ValueError: it is damaged, or no prompt for this model.
    """
    source, layout = _here(os.fspath(source)), layout or Layout()
    form = _form_of(source) if form is None else form
    prompt_PD, method = _read_foreign(source, form, layout, parameter)
    if prompt_PD.shape[1] != model.model.d_model:
        raise ValueError(f'{source} has D={prompt_PD.shape[1]} but {model.name} has '
                         f'D={model.model.d_model}; give the model that the prompt was trained for')
    return PromptFile(Prompt(prompt_PD), PromptMetadata(
        base_model=model.name, base_model_fingerprint=model.fingerprint,
        vocabulary_fingerprint=model.vocabulary_fingerprint, task=task, layout=layout,
        method=method, step=0, metrics={}, seed=0))


def export_prompt(prompt_file: PromptFile, destination: str | os.PathLike, form: str,
                  base_model: str | None = None, overwrite: bool = False) -> Path:
    """Write a prompt for other tools.

    Args:
        prompt_file: the prompt.
        destination: for 'peft' a folder, for 'numpy' a file.
        form: 'peft' or 'numpy'. A numpy file holds the rows alone, in any layout.
        base_model: for 'peft', what to load the model by there: a hub repository or a folder; the
            prompt file's name of it unless given.
        overwrite: replace what is there.

    Returns:
        Where it was written.

    Raises:
        ValueError: an unknown form, or one that cannot express the prompt.
        FileExistsError: something is there that may not be replaced.
    """
    if form in EXPORTED and prompt_file.prompt.prefix:
        what = 'the prompt' if prompt_file.path is None else f'prompt file {prompt_file.path}'
        raise ValueError(f'{what} has a prefix of keys and values, which no other tool reads as a '
                         f'T5 means them (PEFT has the decoder alone, {form!r} rows alone); use it '
                         'with jax_prompt, or train a method that gives rows')
    if prompt_file.prompt.added:
        raise ValueError(f'the prompt adds {prompt_file.prompt.added} rows to the text (method '
                         f'{prompt_file.metadata.method}), which {form} cannot say; export a '
                         'prompt of a method that gives virtual tokens alone')
    if form in EXPORTED and prompt_file.metadata.design is not None:
        raise ValueError(f'the prompt has a design, words around its inputs, which {form} cannot '
                         'say; export a prompt without one')
    if form == 'numpy':
        content = io.BytesIO()
        np.save(content, np.ascontiguousarray(prompt_file.prompt.rows, '<f4'), allow_pickle=False)
        return write_file(destination, content.getvalue(), overwrite)
    if form == 'peft':
        base_model = base_model or prompt_file.metadata.base_model
        return write_peft_prompt(destination, prompt_file, base_model, overwrite)
    raise ValueError(f'cannot export to {form!r}; choose one of {", ".join(EXPORTED)}')


def find_prompt(path: str | os.PathLike, parameter: str | None = None) -> FoundPrompt:
    """Read a prompt file, or whatever can be imported, for those who look at rows alone.

    Args:
        path: of a prompt file, or of anything that can be imported.
        parameter: as for `import_prompt`.

    Raises:
        FileNotFoundError, ValueError: as for `import_prompt` and `load_prompt`.
    """
    path = _here(os.fspath(path))
    form = _form_of(path, prompt_files=True)
    if form == PROMPT_FILE:
        file = load_prompt(path)
        return FoundPrompt(form, file.prompt.virtual, file)
    rows_PD, origin = _read_foreign(path, form, Layout(), parameter)
    return FoundPrompt(form, rows_PD, origin=origin)


def inspect_prompt(path: str | os.PathLike, table_VD: Array | np.ndarray | None = None,
                   word: Callable[[int], str] | None = None, count: int = 5,
                   num_words: int | None = None, parameter: str | None = None) -> dict[str, Any]:
    """Tell what a prompt is: its metadata, the lengths of its rows, the words that they are near.

    Args:
        path: of a prompt file, or of anything that can be imported.
        table_VD: float[V, D], the model's embedding table, to find the nearest words.
        word: token id -> text, to name them; ids alone without it.
        count: how many words a row.
        num_words: how many ids the tokenizer has, where the table has more.
        parameter: as for `import_prompt`.

    Returns:
        What JSON can hold: path, form, rows, width, row_norms, added_rows (where some are added to
        the text), metadata (of a prompt file) or origin (of others, in words), and with a table
        nearest, a list a row of {id, cosine, word}.

    Raises:
        FileNotFoundError, ValueError: as for `import_prompt` and `load_prompt`.
    """
    found = find_prompt(path, parameter)
    told: dict[str, Any] = {'path': os.fspath(path), 'form': found.form}
    prompt_PD = found.rows_PD
    if found.file is None:
        told['origin'] = found.origin
    else:
        prompt, metadata = found.file.prompt, found.file.metadata
        if prompt.added:
            told['added_rows'] = prompt.added
        told['prefix'] = {name: list(keys.shape[1:]) for name, (keys, _) in prompt.prefix.items()}
        told['metadata'] = {field.name: getattr(metadata, field.name)
                            for field in dataclasses.fields(metadata)
                            if field.name != 'design' or metadata.design is not None}
        told['metadata']['layout'] = metadata.layout.to_dict()
    told |= {'rows': prompt_PD.shape[0], 'width': prompt_PD.shape[1],
             'row_norms': [float(norm) for norm in row_norms(prompt_PD)]}
    if table_VD is not None:
        ids, cosines = nearest_words(prompt_PD, table_VD, count, num_words=num_words)
        told['nearest'] = [
            [{'id': int(i), 'cosine': round(float(cosine), 6)} | ({'word': word(int(i))} if word
                                                                  else {})
             for i, cosine in zip(*row, strict=True)] for row in zip(ids, cosines, strict=True)]
    return told


def _here(source: str) -> str:
    """Return a source's path, fetched from the hub if it is OWNER/NAME@REVISION."""
    if '@' not in source or os.path.exists(source) or hub_id(source) is None:
        return source
    return str(hub_folder(source, [CONFIG, WEIGHTS, PICKLED]))


def _read_foreign(source: str, form: str, layout: Layout,
                  parameter: str | None) -> tuple[np.ndarray, str]:
    """Return the rows of another tool's prompt, and where they come from in words."""
    if parameter is not None and form not in ('t5x', 'peft'):
        raise ValueError(f'parameter={parameter!r} chooses of several prompts, '
                         f'but {source} is read as {form}; leave it out')
    if form == 'peft':
        if layout.placement != 'before':
            raise ValueError(f"{source} is PEFT's, which puts prompts before the text, but the "
                             f"layout given has placement {layout.placement!r}; use 'before'")
        return read_peft_prompt(source, parameter)
    name = Path(source).resolve().name
    if form == 't5x':
        return read_t5x_prompt(source, parameter), f'imported from the T5X checkpoint {name}'
    if form == 'numpy':
        return read_numpy_prompt(source), f'imported from the numpy file {name}'
    raise ValueError(f'cannot import from {form!r}; choose one of {", ".join(IMPORTED)}')


def _form_of(address: str, prompt_files: bool = False) -> str:
    """Tell by what is there which kind of prompt a path means."""
    if address.startswith('gs://'):
        return 't5x'
    source = Path(address)
    if source.is_dir():
        if is_peft(source):
            return 'peft'
        if find_numpy_prompt(source) is not None:
            return 'numpy'
        if is_t5x(source) or any(source.glob('checkpoint_*')):
            return 't5x'
        # PEFT saves an adapter that has a name in a folder of that name.
        inside = sorted(path for path in source.iterdir() if path.suffix == '.safetensors'
                        or path.is_dir() and (is_peft(path) or is_t5x(path)))
        hint = f'; there is {inside[0]}' if inside else ''
        raise FileNotFoundError(
            f'no prompt in the folder {source}: expected a PEFT adapter (adapter_config.json), a '
            f'T5X checkpoint (a file checkpoint), or one numpy file{hint}')
    if not source.exists():
        raise FileNotFoundError(f'no prompt at {source}: no such file or folder; check the '
                                'path, or name one of the Hugging Face hub as OWNER/NAME@main')
    if find_numpy_prompt(source) is not None:
        return 'numpy'
    if prompt_files:
        return PROMPT_FILE
    raise ValueError(
        f'{source} cannot be imported: it is no numpy file; give a .npy file, the folder of a T5X '
        'checkpoint or of a PEFT adapter (a prompt file of jax_prompt needs no import)')
