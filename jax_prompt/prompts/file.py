"""The prompt file: the folded prompt and all that is needed to use it rightly.

A safetensors file with a tensor `prompt` float32[P, D], where rows are added to the text also
`added` float32[W, D], and metadata that say which model, vocabulary, task and layout it belongs to.
A prompt in front of another model gives nonsense without any error, so `check_prompt` compares.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from jax_prompt.files import brief, check_regular, write_file
from jax_prompt.prompts import container
from jax_prompt.prompts.metadata import FORMAT_VERSIONS, PromptMetadata
from jax_prompt.prompts.prompt import Prompt

_ADDED, _STATES = 'added', 'design/states'
#: Tensors of a prefix -> whose they are, and which of keys and values; [N, H, M, K].
_PREFIX = {f'prefix/{name}/{part}': (name, number) for name in ('encoder', 'decoder', 'cross')
           for number, part in enumerate(('keys', 'values'))}


@dataclasses.dataclass(frozen=True, eq=False)
class PromptFile:
    """A trained prompt with its metadata.

    Attributes:
        prompt: its rows as a float32[P, D] numpy array, those that are added to the text last, and
            its prefix, if it has one, in arrays for T = 1.
        metadata: what it belongs to.
        path: the file it was loaded from, for messages; None for one not loaded.
        states_ND: float32[N, D], those of its design's pool; None where it has none.
    """

    prompt: Prompt
    metadata: PromptMetadata
    path: Path | None = None
    states_ND: np.ndarray | None = None

    def __post_init__(self):
        prompt_PD = np.asarray(self.prompt.rows)
        if prompt_PD.dtype != np.float32 or prompt_PD.ndim != 2:
            raise ValueError(
                f'prompt is {prompt_PD.dtype} of shape {prompt_PD.shape}; expected float32[P, D]'
            )
        prefix = {name: tuple(np.asarray(one, np.float32) for one in keys_values)
                  for name, keys_values in self.prompt.prefix.items()}
        _check_prefix(prefix)
        if not all(np.isfinite(one).all() for one in (prompt_PD, *jax.tree.leaves(prefix))):
            raise ValueError(
                'prompt holds numbers that are not finite; use one from a step at which training '
                'had not diverged'
            )
        prompt = self.prompt.replace(rows=prompt_PD, prefix=prefix)
        self.metadata.layout.num_rows_before(prompt.num_virtual)
        object.__setattr__(self, 'prompt', prompt)

    @property
    def prefix_length(self) -> int:
        """Return M, the positions of its prefix; the most of them where they differ."""
        return max((keys.shape[3] for keys, _ in self.prompt.prefix.values()), default=0)

    @property
    def prefix_tensors(self) -> dict[str, np.ndarray]:
        """Return the prefix as a file keeps it: name -> float32[N, H, M, K]."""
        return {tensor: self.prompt.prefix[name][part][0]
                for tensor, (name, part) in _PREFIX.items() if name in self.prompt.prefix}


def save_prompt(path: str | os.PathLike, prompt_file: PromptFile, overwrite: bool = True) -> None:
    """Write a prompt file so that a kill at any moment leaves the old file or the new one.

    Args:
        path: where to; its folder is made if it is not there.
        prompt_file: the prompt, whose own `path` plays no part.
        overwrite: replace a file that is there.

    Raises:
        FileExistsError: it is there and may not be replaced, or it is no plain file.
    """
    prompt = prompt_file.prompt
    virtual, added = np.split(prompt.rows, [prompt.num_virtual])
    more = ({_ADDED: added} if prompt.added else {}) | prompt_file.prefix_tensors
    more |= {} if prompt_file.states_ND is None else {_STATES: prompt_file.states_ND}
    version = FORMAT_VERSIONS[bool(more)]
    write_file(path, container.pack(virtual, prompt_file.metadata.to_strings(version), more),
               overwrite)


def load_prompt(path: str | os.PathLike) -> PromptFile:
    """Read a prompt file and check that it is whole; `check_prompt` checks that it fits.

    Raises:
        ValueError: the file is missing, unreadable, damaged, no prompt file or of an unknown
            format version; one line that names the file.
    """
    path = Path(path)
    check_regular(path)
    try:
        prompt_PD, strings, more = container.read(path, (_ADDED, _STATES, *_PREFIX))
        metadata = PromptMetadata.from_strings(strings)
        prompt, states_ND = _with_added(prompt_PD, more.pop(_ADDED, None)), more.pop(_STATES, None)
        return PromptFile(prompt.replace(prefix=_read_prefix(more)), metadata, path, states_ND)
    except OSError as error:
        raise ValueError(
            f'cannot read prompt file {path}: {error.strerror}; check the path, or train a prompt '
            'with `jax-prompt train`'
        ) from error
    except ValueError as error:
        raise ValueError(
            f'cannot use prompt file {path}: {error}; give an intact prompt file '
            'that this version of jax_prompt can read'
        ) from error


def check_prompt(
    prompt_file: PromptFile, *, d_model: int, model_name: str, model_fingerprint: str,
    vocabulary_fingerprint: str | None = None, allow_other_model: bool = False,
) -> None:
    """Check that a prompt was trained for the model in use.

    Args:
        prompt_file: the prompt.
        d_model: D of the model in use.
        model_name: its name, for messages.
        model_fingerprint: digest of its weights.
        vocabulary_fingerprint: digest of its tokenizer; None leaves it unchecked.
        allow_other_model: accept another model or vocabulary of the same width, for transfer
            experiments.

    Raises:
        ValueError: the widths differ, or the fingerprints do and that was not allowed.
    """
    metadata = prompt_file.metadata
    what = 'the prompt' if prompt_file.path is None else f'prompt file {prompt_file.path}'
    width = prompt_file.prompt.rows.shape[1]
    if width != d_model:
        raise ValueError(
            f'{what} has D={width} but {model_name} has D={d_model}; '
            'train or choose a prompt for this model'
        )
    if allow_other_model:
        return
    override = 'set allow_other_model=True to use it all the same'
    if not same_model(metadata.base_model_fingerprint, model_fingerprint):
        raise ValueError(
            f'{what} was trained for {metadata.base_model} '
            f'(weights {metadata.base_model_fingerprint}) but the model in use is {model_name} '
            f'(weights {model_fingerprint}); train or choose a prompt for this model, or {override}'
        )
    if vocabulary_fingerprint not in (None, metadata.vocabulary_fingerprint):
        raise ValueError(
            f'{what} was trained with the vocabulary {metadata.vocabulary_fingerprint} but '
            f'{model_name} is used with {vocabulary_fingerprint}; use the tokenizer it was trained '
            f'with, or {override}'
        )


def same_model(one: str, other: str) -> bool:
    """Tell whether two fingerprints are of the same weights.

    The former ones, 64 digits, heed the first and last 4 KiB of each tensor alone. Today's heed all
    and end in '-' and 16 digits of the former one; where either is a former one, these count.
    """
    (whole, _, ends), (other_whole, _, other_ends) = one.partition('-'), other.partition('-')
    if bool(ends) == bool(other_ends):
        return one == other
    return (ends or whole[:16]) == (other_ends or other_whole[:16])


def _with_added(prompt_PD: np.ndarray, added_WD: np.ndarray | None) -> Prompt:
    """Return a prompt with the rows that it adds to the text behind its own."""
    if added_WD is None:
        return Prompt(prompt_PD)
    if added_WD.ndim != 2 or added_WD.shape[1] != prompt_PD.shape[1]:
        raise ValueError(f'its tensor {_ADDED!r} has shape {brief(added_WD.shape)}; expected rows '
                         f'of the width of its prompt, {prompt_PD.shape[1]}')
    return Prompt(np.concatenate([prompt_PD, added_WD]), len(added_WD))


def _read_prefix(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the prefix of one prompt that `prefix_tensors` are."""
    names = {name for tensor, (name, _) in _PREFIX.items() if tensor in tensors}
    wanted = [tensor for tensor, (name, _) in _PREFIX.items() if name in names]
    for tensor in wanted:
        if tensor not in tensors or len(tensors[tensor]) == 0:
            raise ValueError(f'it has no tensor {tensor!r}, but others of a prefix')
    return {name: tuple(tensors[tensor][None] for tensor in wanted if _PREFIX[tensor][0] == name)
            for name in sorted(names)}


def _check_prefix(prefix: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Refuse keys and values that are no prefix of one prompt."""
    for name, (keys, values) in prefix.items():
        if keys.shape != values.shape or keys.ndim != 5 or keys.shape[0] != 1 or not keys.size:
            raise ValueError(f'prefix {name!r} has keys of shape {keys.shape} and values of shape '
                             f'{values.shape}; expected both [1, layers, heads, positions, width]')
        if keys.shape[3] > container.MOST_ROWS:
            raise ValueError(f'prefix {name!r} has {keys.shape[3]:,} positions; expected at most '
                             f'{container.MOST_ROWS:,}')
