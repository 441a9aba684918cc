"""Fill the frozen tree tensor by tensor, each accounted for, and tell what model it is."""

import hashlib
import json

import ml_dtypes
import numpy as np

from jax_prompt.checkpoints.names import leaf_shapes, slots
from jax_prompt.t5.config import T5Config
from jax_prompt.types import Params

_DTYPES = {'float32': np.dtype(np.float32), 'bfloat16': np.dtype(ml_dtypes.bfloat16)}
_SAMPLE_BYTES = 4096

#: Fields that change neither the function that the frozen model computes nor who it is.
_NOT_IDENTITY = ('name', 'dropout_rate')


def check_dtype(dtype: str) -> np.dtype:
    """Return the numpy dtype to keep the weights in.

    Raises:
      ValueError: for anything but 'float32' and 'bfloat16'.
    """
    name = getattr(dtype, '__name__', None) or str(dtype)
    if name not in _DTYPES:
        raise ValueError(f'weights cannot be kept in {name!r}; expected float32 or bfloat16 '
                         '(T5 overflows in float16)')
    return _DTYPES[name]


class TreeAssembler:
    """Gather the tensors of one model into preallocated leaves and a fingerprint.

    Memory holds the tree and one tensor beside it, whatever the model's size.

    The fingerprint is a sha256 over the configuration and, for each tensor, its name, dtype, shape
    and first and last 4 KiB as the source stores them. It tells models apart whatever dtype they
    are loaded in and however the files are split; it is no protection against a forger.
    """

    def __init__(self, config: T5Config, dtype: str, source: str):
        self._config = config
        self._source = source
        self._slots = slots(config)
        self._digests: dict[str, str] = {}
        wanted = check_dtype(dtype)
        self._leaves = {path: np.empty(shape, wanted)
                        for path, shape in leaf_shapes(config).items()}

    def put(self, name: str, array: np.ndarray, stored: tuple[np.ndarray, ...] = (),
            inputs_first: bool = False) -> None:
        """Copy one tensor to its place.

        Args:
          name: its Hugging Face name.
          array: its values, in Hugging Face's layout.
          stored: the arrays that the source stores for it where they are not `array` itself
            (quantised values, scale, zero point); they enter the fingerprint.
          inputs_first: whether `array` is a matrix `[inputs, outputs]` as ONNX multiplies by.

        Raises:
          ValueError: when the model has no such tensor, or it has another shape.
        """
        slot = self._slots.get(name)
        if slot is None:
            raise ValueError(f'{self._source} has an unexpected tensor {name!r} '
                             f'{list(array.shape)}; {describe(self._config)} has no such tensor')
        expected = slot.matrix_shape if inputs_first else slot.hugging_face_shape
        check_shape(name, array.shape, expected, self._source, self._config)
        leaf = self._leaves[slot.path]
        # Cast first: a cast in the order of memory, then a transposed copy, is the faster way.
        values = array.astype(leaf.dtype, copy=False)
        if slot.inputs and not inputs_first:
            values = values.T
        target = leaf if slot.layer is None else leaf[slot.layer]
        target[...] = values.reshape(slot.shape)
        self._digests[name] = _digest(stored or (array,))

    def finish(self) -> tuple[Params, str]:
        """Return the tree and its fingerprint.

        Raises:
          ValueError: naming the tensors that were not put.
        """
        check_complete(set(self._digests), self._config, self._source)
        identity = {field: value for field, value in self._config.to_dict().items()
                    if field not in _NOT_IDENTITY}
        text = json.dumps([identity, sorted(self._digests.items())], sort_keys=True)
        tree: Params = {}
        for path, leaf in self._leaves.items():
            node = tree
            for key in path[:-1]:
                node = node.setdefault(key, {})
            node[path[-1]] = leaf
        return tree, hashlib.sha256(text.encode()).hexdigest()


def describe(config: T5Config) -> str:
    """Say in a few words which shape a configuration describes."""
    head = 'tied' if config.tied_head else 'untied'
    return (f'a T5 of {config.num_layers}+{config.num_decoder_layers} layers, d_model '
            f'{config.d_model}, vocabulary {config.vocab_size}, {head} head')


def check_shape(name, got, expected, source, config) -> None:
    """Raise the ValueError for a misshapen tensor."""
    if tuple(got) != tuple(expected):
        raise ValueError(f'{source} has {name!r} with shape {list(got)}; expected '
                         f'{list(expected)} for {describe(config)}; '
                         'the weights belong to another configuration')


def check_complete(have: set[str], config: T5Config, source: str) -> None:
    """Raise the ValueError for missing tensors, naming the first."""
    missing = [name for name in slots(config) if name not in have]
    if missing:
        more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
        raise ValueError(f'{source} has no tensor {missing[0]!r}{more}; {describe(config)} needs '
                         'it; use a complete T5 with encoder, decoder and head')


def _digest(arrays: tuple[np.ndarray, ...]) -> str:
    """Hash dtype, shape and both ends of each array."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f'{array.dtype} {array.shape} '.encode())
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        digest.update(flat[:_SAMPLE_BYTES].tobytes() + flat[-_SAMPLE_BYTES:].tobytes())
    return digest.hexdigest()
