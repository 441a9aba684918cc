"""Read T5 weights from Hugging Face files: `config.json`, and safetensors or `pytorch_model.bin`.

Either may be whole or in shards. Where both kinds lie side by side, safetensors are read.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from typing import Any

from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.names import EMBEDDING, EMBEDDING_COPIES, HEAD, NEVER_READ, slots
from jax_prompt.types import Params
from jax_prompt.weights.assemble import (
    Shardings,
    assemble,
    check_complete,
    check_depth,
    check_shape,
    check_weights,
    describe,
)
from jax_prompt.weights.safetensors_file import open_safetensors
from jax_prompt.weights.tensors import RawFile, Stored, equal
from jax_prompt.weights.torch_files import open_torch

WEIGHTS = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
TORCH_WEIGHTS = 'pytorch_model.bin'
TORCH_INDEX = 'pytorch_model.bin.index.json'

#: What a model needs of a hub repository beside its weights: its shape and its vocabulary.
_HUB_PATTERNS = ['config.json', 'tokenizer.json', 'spiece.model', 'tokenizer_config.json',
                 'special_tokens_map.json', 'added_tokens.json']
_HUB_WEIGHTS = ['model*.safetensors', INDEX]
#: Repositories have both kinds: the second is asked for only where the first is not there.
_HUB_TORCH_WEIGHTS = ['pytorch_model*.bin', TORCH_INDEX]
_JSON = '.index.json'

#: The types that fields of a config.json may have; each may be null, too.
_FIELD_KINDS = {
    'model_type': (str,), 'feed_forward_proj': (str,), 'tie_word_embeddings': (bool,),
    'scale_decoder_outputs': (bool,), 'eos_token_id': (int, list), 'pad_token_id': (int,),
    'decoder_start_token_id': (int,), 'layer_norm_epsilon': (int, float),
    'dropout_rate': (int, float), **dict.fromkeys((
        'vocab_size', 'd_model', 'd_kv', 'd_ff', 'num_heads', 'num_layers', 'num_decoder_layers',
        'relative_attention_num_buckets', 'relative_attention_max_distance'), (int,)),
}
_LONGEST_TEXT = 100


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
        folder = pathlib.Path(snapshot_download(
            repository, allow_patterns=_HUB_PATTERNS + _HUB_WEIGHTS))
        if not any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
            folder = pathlib.Path(snapshot_download(
                repository, allow_patterns=_HUB_PATTERNS + _HUB_TORCH_WEIGHTS))
        return folder
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f'could not get {repository!r} from the Hugging Face hub: {reason}; give '
                         'a repository id that exists, or a local folder') from error


def load_hugging_face(folder: str | pathlib.Path, dtype: str = 'float32', name: str | None = None,
                      weights: str | None = None,
                      shardings: Shardings = None) -> tuple[T5Config, Params, str]:
    """Read a T5 from a folder in Hugging Face's format, tensor by tensor.

    The head is tied where `config.json` says so. Files written by transformers 5 always say so,
    whatever the weights are; there, an `lm_head.weight` that differs from the embedding decides.

    Args:
      folder: holds `config.json` and `model.safetensors` or `pytorch_model.bin`, or shards of
        either and their index.
      dtype, weights, shardings: as for `weights.load_t5`.
      name: what to call the model; the folder's name unless given.

    Returns:
      The configuration, the frozen tree (layers stacked) and the fingerprint.

    Raises:
      FileNotFoundError: for a missing file, naming it.
      ValueError: for a corrupt file, or a missing, extra or misshapen tensor, naming it.
    """
    folder = pathlib.Path(folder)
    check_weights(dtype, weights)
    said = read_json(folder / 'config.json', 'a Hugging Face T5 folder needs it')
    config = config_of(said, str(folder / 'config.json'), name or folder.resolve().name)
    with contextlib.ExitStack() as stack:
        tensors = _tensors(folder, stack)
        config = _settle_head(config, said, tensors, folder)
        check_depth(config, len(tensors), str(folder))
        used = _account(config, tensors, folder)
        frozen, fingerprint = assemble(config, used, str(folder), dtype, weights, shardings)
    return config, frozen, fingerprint


def config_of(said: dict[str, Any], where: str, name: str) -> T5Config:
    """Make a T5Config of a parsed config.json.

    Raises:
      ValueError: for a field that is missing, or of another type, or of a value unheard of.
    """
    for field, kinds in _FIELD_KINDS.items():
        value = said.get(field)
        too_long = isinstance(value, str) and len(value) > _LONGEST_TEXT
        too_large = isinstance(value, int) and abs(value) >= 2**31
        if value is not None and (type(value) not in kinds or too_long or too_large):
            wanted = ' or '.join(kind.__name__ for kind in kinds)
            raise ValueError(f'{where} has {field}={value!r:.60}; expected {wanted} of an '
                             'ordinary size: copy or download it again')
    epsilon, rate = said.get('layer_norm_epsilon'), said.get('dropout_rate')
    if (epsilon is not None and not 0 < epsilon < 1) or (rate is not None and not 0 <= rate < 1):
        raise ValueError(f'{where} has layer_norm_epsilon={epsilon!r} and '
                         f'dropout_rate={rate!r}; expected numbers between 0 and 1')
    for field in ('eos_token_id', 'pad_token_id', 'decoder_start_token_id'):
        value = said.get(field)
        ids = value if isinstance(value, list) else [0 if value is None else value]
        if not ids or any(type(one) is not int or not 0 <= one < 2**31 for one in ids):
            raise ValueError(f'{where} has {field}={value!r:.60}; expected an id of a token')
    return T5Config.from_hugging_face(said, name)


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


def _account(config: T5Config, tensors: dict[str, Stored],
             folder: pathlib.Path) -> dict[str, Stored]:
    """Check every tensor by its header; return model tensor -> what is stored for it."""
    embedding = _embedding_name(tensors, folder)
    copies = set(EMBEDDING_COPIES) | ({HEAD} if config.tied_head else set())
    table = slots(config)
    used = {}
    for name, tensor in sorted(tensors.items()):
        model_name = EMBEDDING if name == embedding else name
        if model_name in table:
            used[model_name] = tensor
            check_shape(name, tensor.shape, table[model_name].hugging_face_shape, tensor.where,
                        config)
        elif name in copies:
            if not equal(tensor, tensors[embedding]):
                why = 'T5 has one embedding table for both stacks'
                if name == HEAD:
                    why = ('config.json ties the head; set tie_word_embeddings to false there if '
                           'the head is its own')
                raise ValueError(f'{tensor.where} has {name!r} that differs from '
                                 f'{embedding!r}; expected them equal: {why}')
        elif name not in NEVER_READ:
            raise ValueError(f'{tensor.where} has an unexpected tensor {name!r} '
                             f'{list(tensor.shape)}; {describe(config)} has no such tensor: '
                             'does config.json belong to these weights?')
    check_complete(set(used), config, str(folder))
    return used


def _embedding_name(tensors: dict[str, Stored], folder: pathlib.Path) -> str:
    """The name the embedding table is stored under; some savers keep only one of its copies."""
    for name in (EMBEDDING, *EMBEDDING_COPIES):
        if name in tensors:
            return name
    raise ValueError(f'{folder} has no tensor {EMBEDDING!r}; expected the weights of a T5 '
                     'with encoder and decoder')


def _settle_head(config: T5Config, said: dict[str, Any], tensors: dict[str, Stored],
                 folder: pathlib.Path) -> T5Config:
    """Decide by the tensors what a file's config.json leaves open about the head.

    transformers 5 writes `tie_word_embeddings: true` for every T5, mT5 and umT5, and for T5, since
    release 5.24 for umT5 too, `scale_decoder_outputs`; mT5 it never scales
    (`models/*/configuration_*.py`). Before it, the class default of mT5 and umT5 changed between
    releases.
    """
    model_type = said.get('model_type', 't5')
    version = str(said.get('transformers_version', '0')).split('.')[0]
    by_5 = 'scale_decoder_outputs' in said or (version.isdigit() and int(version) >= 5)
    if not by_5 and ('tie_word_embeddings' in said or model_type == 't5'):
        return config
    tied = HEAD not in tensors or equal(tensors[HEAD], tensors[_embedding_name(tensors, folder)])
    scaled = config.scale_decoder_outputs
    if 'scale_decoder_outputs' not in said and model_type != 't5':
        scaled = tied and not (by_5 and model_type == 'mt5')
    return dataclasses.replace(config, tied_head=tied, scale_decoder_outputs=scaled)


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
        if (shard != pathlib.PurePath(shard).name or '\\' in shard or '\0' in shard
                or shard in ('', '.', '..')):
            raise ValueError(f'{folder / index} names the shard {shard!r:.100}; '
                             'expected a file name within the folder, without any path')
        if len(os.fsencode(shard)) > 255 or not (folder / shard).is_file():
            raise FileNotFoundError(f'{folder} has no {shard:.100}, which {index} lists; '
                                    'download the missing shard')
        if pathlib.PurePath(shard).suffix != pathlib.PurePath(index.removesuffix(_JSON)).suffix:
            raise ValueError(f'{folder / index} names the shard {shard!r}; expected a name that '
                             f'ends in {pathlib.PurePath(index.removesuffix(_JSON)).suffix}')
        paths.append(folder / shard)
    return paths


def read_json(path: pathlib.Path, purpose: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
      FileNotFoundError: when there is no such file, saying its purpose.
      ValueError: when it holds anything else.
    """
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist; {purpose}')
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f'{path} is not valid JSON ({error}); copy or download it again') from error
    if not isinstance(value, dict):
        raise ValueError(f'{path} holds a JSON {type(value).__name__}; expected an object')
    return value
