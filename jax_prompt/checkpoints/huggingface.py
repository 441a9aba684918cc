"""Read T5 weights from Hugging Face files: `config.json` and safetensors, whole or in shards."""

import contextlib
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from jax_prompt.checkpoints.assemble import (
    TreeAssembler,
    check_complete,
    check_dtype,
    check_shape,
    describe,
)
from jax_prompt.checkpoints.names import EMBEDDING, EMBEDDING_COPIES, HEAD, NEVER_READ, slots
from jax_prompt.t5.config import T5Config
from jax_prompt.types import Params

WEIGHTS = 'model.safetensors'
INDEX = 'model.safetensors.index.json'

#: What a model needs of a hub repository: its shape, its weights, its vocabulary.
_HUB_PATTERNS = ['config.json', 'model*.safetensors', INDEX, 'tokenizer.json', 'spiece.model',
                 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json']
_FLOATS = ('F32', 'BF16', 'F16', 'F64')
_COMPARE_ROWS = 8192


def download(repository: str) -> pathlib.Path:
    """Fetch a model from the Hugging Face hub, or find it in the local cache.

    Args:
      repository: its id, such as 'google/flan-t5-small'.

    Returns:
      The folder of the snapshot.

    Raises:
      ValueError: when the hub has no such repository or cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    try:
        return pathlib.Path(snapshot_download(repository, allow_patterns=_HUB_PATTERNS))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f'could not get {repository!r} from the Hugging Face hub: {reason}; give '
                         'a repository id that exists, or a local folder') from error


def load_hugging_face(folder: str | pathlib.Path, dtype: str = 'float32',
                      name: str | None = None) -> tuple[T5Config, Params, str]:
    """Read a T5 from a folder in Hugging Face's format, tensor by tensor.

    The head is tied where `config.json` says so. Files written by transformers 5 always say so,
    whatever the weights are; there, an `lm_head.weight` that differs from the embedding decides.

    Args:
      folder: holds `config.json` and `model.safetensors`, or shards and their index.
      dtype: 'float32' or 'bfloat16', to keep the weights in.
      name: what to call the model; the folder's name unless given.

    Returns:
      The configuration, the frozen tree as numpy arrays (layers stacked) and the fingerprint.

    Raises:
      FileNotFoundError: for a missing file, naming it.
      ValueError: for a corrupt file, or a missing, extra or misshapen tensor, naming it.
    """
    folder = pathlib.Path(folder)
    check_dtype(dtype)
    said = _read_json(folder / 'config.json', 'a Hugging Face T5 folder needs it')
    config = T5Config.from_hugging_face(said, name or folder.resolve().name)
    with contextlib.ExitStack() as stack:
        tensors = _Tensors(folder, stack)
        config = _settle_head(config, said, tensors)
        plan = _account(config, tensors)
        assembler = TreeAssembler(config, dtype, str(folder))
        for tensor, stored_as in plan.items():
            assembler.put(tensor, tensors.read(stored_as))
        frozen, fingerprint = assembler.finish()
    return config, frozen, fingerprint


class _Tensors:
    """The tensors of a folder, by name, whichever file each is in."""

    def __init__(self, folder: pathlib.Path, stack: contextlib.ExitStack):
        self.folder = folder
        self._file_of: dict[str, pathlib.Path] = {}
        self._opened = {}
        for path in _weight_files(folder):
            self._opened[path] = stack.enter_context(_open(path))
            for name in self._opened[path].keys():
                if name in self._file_of:
                    raise ValueError(f'tensor {name!r} is in both {self._file_of[name].name} and '
                                     f'{path.name} of {folder}; remove the file that is not meant')
                self._file_of[name] = path
        self.names = set(self._file_of)

    def where(self, name: str) -> str:
        """The file that holds a tensor, for messages."""
        return str(self._file_of[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, which must hold floating-point numbers."""
        slice_ = self._opened[self._file_of[name]].get_slice(name)
        if slice_.get_dtype() not in _FLOATS:
            raise ValueError(f'{self.where(name)} has {name!r} as {slice_.get_dtype()}; expected '
                             f'one of {", ".join(_FLOATS)}: use the unquantised weights')
        return tuple(slice_.get_shape())

    def read(self, name: str) -> np.ndarray:
        """One tensor as a numpy array of its own."""
        try:
            return self._opened[self._file_of[name]].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ValueError(f'cannot read {name!r} of {self.where(name)}: {error}; '
                             'copy or download the file again') from error

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors hold the same numbers, compared some rows at a time."""
        if self.shape(one) != self.shape(other):
            return False
        a, b = (self._opened[self._file_of[name]].get_slice(name) for name in (one, other))
        rows = a.get_shape()[0]
        # safetensors takes no slice beyond the end.
        ends = [*range(_COMPARE_ROWS, rows, _COMPARE_ROWS), rows]
        return all(np.array_equal(a[max(end - _COMPARE_ROWS, 0):end],
                                  b[max(end - _COMPARE_ROWS, 0):end]) for end in ends)


def _account(config: T5Config, tensors: _Tensors) -> dict[str, str]:
    """Check every tensor by its header; return model tensor -> name it is stored under."""
    embedding = _embedding_name(tensors)
    copies = set(EMBEDDING_COPIES) | ({HEAD} if config.tied_head else set())
    table = slots(config)
    plan = {}
    for name in sorted(tensors.names):
        model_name = EMBEDDING if name == embedding else name
        if model_name in table:
            plan[model_name] = name
            check_shape(name, tensors.shape(name), table[model_name].hugging_face_shape,
                        tensors.where(name), config)
        elif name in copies:
            if not tensors.equal(name, embedding):
                why = 'T5 has one embedding table for both stacks'
                if name == HEAD:
                    why = ('config.json ties the head; set tie_word_embeddings to false there if '
                           'the head is its own')
                raise ValueError(f'{tensors.where(name)} has {name!r} that differs from '
                                 f'{embedding!r}; expected them equal: {why}')
        elif name not in NEVER_READ:
            raise ValueError(f'{tensors.where(name)} has an unexpected tensor {name!r} '
                             f'{list(tensors.shape(name))}; {describe(config)} has no such tensor: '
                             'does config.json belong to these weights?')
    check_complete(set(plan), config, str(tensors.folder))
    return plan


def _embedding_name(tensors: _Tensors) -> str:
    """The name the embedding table is stored under; some savers keep only one of its copies."""
    for name in (EMBEDDING, *EMBEDDING_COPIES):
        if name in tensors.names:
            return name
    raise ValueError(f'{tensors.folder} has no tensor {EMBEDDING!r}; expected the weights of a T5 '
                     'with encoder and decoder')


def _settle_head(config: T5Config, said: dict[str, Any], tensors: _Tensors) -> T5Config:
    """Decide by the tensors what a file's config.json leaves open about the head.

    transformers 5 writes `tie_word_embeddings: true` for every T5, mT5 and umT5, and for T5 alone
    `scale_decoder_outputs`; mT5 it never scales (`models/*/configuration_*.py`, release 5.23).
    Before it, the class default of mT5 and umT5 changed between releases.
    """
    model_type = said.get('model_type', 't5')
    version = str(said.get('transformers_version', '0')).split('.')[0]
    by_5 = 'scale_decoder_outputs' in said or (version.isdigit() and int(version) >= 5)
    if not by_5 and ('tie_word_embeddings' in said or model_type == 't5'):
        return config
    tied = HEAD not in tensors.names or tensors.equal(HEAD, _embedding_name(tensors))
    scaled = config.scale_decoder_outputs
    if 'scale_decoder_outputs' not in said and model_type != 't5':
        scaled = tied and not (by_5 and model_type == 'mt5')
    return dataclasses.replace(config, tied_head=tied, scale_decoder_outputs=scaled)


def _weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The safetensors files of a folder, by the index where there is one."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(
            f'{folder} has neither {WEIGHTS} nor {INDEX}; a model that has only pickled weights '
            '(pytorch_model.bin, never read here) is converted by: python -c "from transformers '
            "import T5ForConditionalGeneration as T5; T5.from_pretrained('MODEL')"
            ".save_pretrained('FOLDER')\"")
    index = _read_json(folder / INDEX, 'it lists the shards')
    weight_map = index.get('weight_map')
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f'{folder / INDEX} has no "weight_map"; expected tensor name -> file name')
    paths = []
    for shard in sorted(set(map(str, weight_map.values()))):
        # An index from elsewhere must not make us open files outside of its folder.
        if shard != pathlib.PurePath(shard).name or '\\' in shard or shard in ('.', '..'):
            raise ValueError(f'{folder / INDEX} names the shard {shard!r}; '
                             'expected a file name within the folder, without any path')
        if not (folder / shard).is_file():
            raise FileNotFoundError(f'{folder} has no {shard}, which {INDEX} lists; '
                                    'download the missing shard')
        paths.append(folder / shard)
    return paths


def _open(path: pathlib.Path):
    """Open one safetensors file, or say what is wrong with it."""
    try:
        return safe_open(path, framework='numpy')
    except (SafetensorError, OSError) as error:
        raise ValueError(f'{path} is corrupt or truncated: {error}; '
                         'copy or download the file again') from error


def _read_json(path: pathlib.Path, purpose: str) -> dict[str, Any]:
    """Parse a JSON object."""
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist; {purpose}')
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(
            f'{path} is not valid JSON ({error}); copy or download it again') from error
    if not isinstance(value, dict):
        raise ValueError(f'{path} holds a JSON {type(value).__name__}; expected an object')
    return value
