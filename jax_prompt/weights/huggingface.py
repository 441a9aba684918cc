"""Read weights from Hugging Face files: `config.json`, and safetensors or `pytorch_model.bin`.

Either may be whole or in shards. Where both kinds lie side by side, safetensors are read.
"""

import contextlib
import json
import pathlib
from typing import Any

from jax_prompt.files import TOKENIZER_FILES, hub_folder
from jax_prompt.models.families import family_of
from jax_prompt.weights.safetensors_file import open_safetensors
from jax_prompt.weights.tensors import Checkpoint, RawFile, Stored, equal
from jax_prompt.weights.torch_files import open_torch

WEIGHTS = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
TORCH_WEIGHTS = 'pytorch_model.bin'
TORCH_INDEX = 'pytorch_model.bin.index.json'
#: Of a file, in Linux's file systems.
_LONGEST_NAME = 255

#: What a model needs of a hub repository beside its weights: its shape and its vocabulary.
_HUB_PATTERNS = ['config.json', 'generation_config.json', *TOKENIZER_FILES]
_HUB_WEIGHTS = ['model*.safetensors', INDEX]
#: Repositories have both kinds: the second is asked for only where the first is not there.
_HUB_TORCH_WEIGHTS = ['pytorch_model*.bin', TORCH_INDEX]


def download(repository: str) -> pathlib.Path:
    """Fetch a model from the Hugging Face hub, or find it in the local cache.

    Args:
      repository: its id, such as 'google/flan-t5-small' or 'google/flan-t5-small@REVISION'.

    Returns:
      The folder of the snapshot.

    Raises:
      ValueError: when the hub has no such repository or cannot be reached.
    """
    folder = hub_folder(repository, _HUB_PATTERNS + _HUB_WEIGHTS)
    if not any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        folder = hub_folder(repository, _HUB_PATTERNS + _HUB_TORCH_WEIGHTS)
    return folder


def open_hugging_face(folder: pathlib.Path, name: str, stack: contextlib.ExitStack) -> Checkpoint:
    """Open a folder in Hugging Face's format.

    Args:
      folder: holds `config.json` and `model.safetensors` or `pytorch_model.bin`, or shards of
        either and their index.
      name: what to call the model.
      stack: keeps the files open.

    Returns:
      The checkpoint.

    Raises:
      FileNotFoundError: for a missing file, naming it.
      ValueError: for a corrupt file, or copies of a tensor that differ.
    """
    said = read_json(folder / 'config.json', 'a Hugging Face T5 folder needs it')
    where = str(folder / 'config.json')
    family = family_of(said, where)
    config = family.from_hugging_face(said, where, name)
    tensors = _tensors(folder, stack)
    # Some savers keep only one of the names of a tensor.
    for copy, (original, _) in config.copies().items():
        if original not in tensors and copy in tensors:
            tensors[original] = tensors.pop(copy)
    config = family.settle(config, said, tensors,
                           lambda one, other: equal(tensors[one], tensors[other]))
    for copy, (original, why) in config.copies().items():
        if copy in tensors and original in tensors:
            tensor = tensors.pop(copy)
            if not equal(tensor, tensors[original]):
                raise ValueError(f'{tensor.where} has {copy!r} that differs from {original!r}; '
                                 f'expected them equal: {why}')
    for unread in config.unread():
        tensors.pop(unread, None)
    return Checkpoint(config, tensors)


def _tensors(folder: pathlib.Path, stack: contextlib.ExitStack) -> dict[str, Stored]:
    """The tensors of a folder, by name, whichever file each is in."""
    tensors: dict[str, Stored] = {}
    for path in _weight_files(folder):
        file = stack.enter_context(RawFile(path))
        opened = open_torch(file) if path.suffix == '.bin' else open_safetensors(file)
        for name, tensor in opened.items():
            if name in tensors:
                other = pathlib.Path(tensors[name].where).name
                raise ValueError(f'tensor {name!r} is in both {other} and {path.name} of {folder}; '
                                 'remove the file that is not meant')
            tensors[name] = tensor
    return tensors


def _weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of a folder that hold its weights, by an index where there is one."""
    for whole, index in ((WEIGHTS, INDEX), (TORCH_WEIGHTS, TORCH_INDEX)):
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / index).is_file():
            return _shards(folder, index)
    raise FileNotFoundError(f'{folder} has no weights; expected one of {WEIGHTS}, {INDEX}, '
                            f'{TORCH_WEIGHTS}, {TORCH_INDEX}')


def _shards(folder: pathlib.Path, index: str) -> list[pathlib.Path]:
    """The files that an index lists, each of them in the folder itself."""
    weight_map = read_json(folder / index, 'it lists the shards').get('weight_map')
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f'{folder / index} has no "weight_map"; expected tensor name -> file name')
    paths = []
    for shard in sorted(set(map(str, weight_map.values()))):
        # An index from elsewhere must not make us open files outside of its folder.
        if (shard != pathlib.PurePath(shard).name or '\\' in shard or not shard.isprintable()
                or len(shard) > _LONGEST_NAME):
            raise ValueError(f'{folder / index} names the shard {shard!r:.100}; '
                             'expected a file name within the folder, without any path')
        if not (folder / shard).is_file():
            raise FileNotFoundError(f'{folder} has no {shard:.100}, which {index} lists; '
                                    'download the missing shard')
        paths.append(folder / shard)
    return paths


def read_json(path: pathlib.Path, purpose: str) -> dict[str, Any]:
    """Parse a file that holds a JSON object.

    Raises:
      FileNotFoundError: when there is no such file, saying its purpose.
      ValueError: when it holds anything else.
    """
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist; {purpose}')
    return parse_object(path.read_bytes(), str(path))


def parse_object(content: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object, which messages call `where`.

    Raises:
      ValueError: when it is anything else.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f'{where} is not valid JSON ({error}); copy or download it again') from error
    if not isinstance(value, dict):
        raise ValueError(f'{where} holds a JSON {type(value).__name__}; expected an object')
    return value
