"""Load a frozen model from where it is: a folder, an installed package, the Hugging Face hub."""

import contextlib
import pathlib
import re
from typing import NamedTuple

from jax_prompt.files import TOKENIZER_FILES, hub_id, package_path
from jax_prompt.models.architecture import ModelConfig
from jax_prompt.types import Params
from jax_prompt.weights.assemble import Shardings, assemble, check_weights
from jax_prompt.weights.tensors import Checkpoint

_PACKAGE = 'package:'
_HUGGING_FACE = ('model.safetensors', 'model.safetensors.index.json', 'pytorch_model.bin',
                 'pytorch_model.bin.index.json')
_BUCKET = 'gs://'


class Weights(NamedTuple):
    """A frozen model's weights and who it is.

    Attributes:
      config: its shape.
      frozen: the tree, the layers of a stack on a leading axis: numpy arrays, or JAX arrays where
        shardings were given.
      fingerprint: tells it from any other model; independent of the dtype it was loaded in.
      name: what prompt files and messages call it.
      folder: where its tokenizer files are, or None if it came without.
    """

    config: ModelConfig
    frozen: Params
    fingerprint: str
    name: str
    folder: pathlib.Path | None


def load_weights(source: str | pathlib.Path, dtype: str = 'float32', shardings: Shardings = None,
                 weights: str | None = None) -> Weights:
    """Load a model's weights into the frozen tree, tensor by tensor.

    Args:
      source: one of
        a folder in Hugging Face's format (`config.json` with safetensors or `pytorch_model.bin`,
        whole or in shards);
        a folder with a T5 as ONNX (`encoder.onnx` and `decoder.onnx`), float or quantised;
        a T5X checkpoint (`.../checkpoint_1100000`, native or Orbax's), also as `gs://bucket/path`;
        a folder that `convert.convert_model` wrote;
        `package:NAME/sub/folder`, any of these inside an installed Python package;
        a repository id on the Hugging Face hub, such as `google/flan-t5-small`, at a branch, a tag
        or a commit as `google/flan-t5-small@REVISION`.
      dtype: 'float32' or 'bfloat16', to keep the weights in. What was converted to bfloat16 was
        rounded then, whatever it becomes.
      shardings: where the weights live: a tree of `jax.sharding.Sharding` like the frozen tree, or
        a function that makes one of a tree of `jax.ShapeDtypeStruct` and the model's rules, such
        as `functools.partial(frozen_shardings, mesh)`. Each device of this process is then given
        its own parts as they are read, and the host never holds the model. None for numpy arrays.
      weights: 'int8' to keep kernels as `t5.int8.Int8`, quantised as they are read, and the rest in
        `dtype`; 'float32' or 'bfloat16' are the same as giving them as `dtype`; None for what a
        converted folder was converted to, and for `dtype` elsewhere.

    Returns:
      The weights.

    Raises:
      FileNotFoundError: when nothing is found, saying where it was looked for.
      ValueError: for weights that are corrupt, or not all there, or not those of a known model.
    """
    check_weights(dtype, weights)
    source, folder = str(source), None
    with contextlib.ExitStack() as stack:
        if source.startswith(_BUCKET):
            from jax_prompt.weights.t5x import open_t5x
            checkpoint = open_t5x(source, _called(pathlib.PurePosixPath(source)))
        else:
            folder, name = locate(source)
            source = str(folder)
            checkpoint = _with_generation(_open(folder, name, stack), folder)
        kept = checkpoint.weights
        if None not in (kept, weights) and (weights == 'int8') != (kept == 'int8'):
            raise ValueError(f'{source} was converted to {kept}, but {weights} is wanted; convert '
                             f'the model again with weights={weights}, or leave weights out')
        frozen, fingerprint = assemble(checkpoint, source, dtype,
                                       kept if kept == 'int8' else weights, shardings)
    has_tokenizer = folder and any((folder / file).is_file() for file in TOKENIZER_FILES)
    return Weights(checkpoint.config, frozen, fingerprint, checkpoint.config.name,
                   folder if has_tokenizer else None)


def locate(source: str) -> tuple[pathlib.Path, str]:
    """Find the folder that a source means, fetching it from the hub if need be.

    Args:
      source: as for `load_weights`.

    Returns:
      The folder, and what to call the model in it.

    Raises:
      FileNotFoundError: when nothing is found, saying where it was looked for.
      ValueError: when the hub cannot give it.
    """
    if source.startswith(_PACKAGE):
        return package_path(source), source.removeprefix(_PACKAGE).strip('/')
    folder = pathlib.Path(source).expanduser()
    if folder.is_dir():
        return folder, _called(folder.resolve())
    known = hub_id(source)
    if known is None:
        found = 'a file' if folder.is_file() else 'nothing'
        raise FileNotFoundError(
            f'no model at {source!r}: found {found} there, expected a folder, '
            'package:NAME/folder, or a Hugging Face repository id such as google/flan-t5-small '
            '(google/flan-t5-small@main where there is a folder google)')
    from jax_prompt.weights.huggingface import download
    try:
        return download(source), known[0]
    except ValueError as error:
        raise ValueError(f'no folder {source!r} here, and {error}') from error


def _with_generation(checkpoint: Checkpoint, folder: pathlib.Path) -> Checkpoint:
    """Heed `generation_config.json`; what was converted has heeded it."""
    path = folder / 'generation_config.json'
    if checkpoint.weights is not None or not path.is_file():
        return checkpoint
    from jax_prompt.models.families import FAMILIES
    from jax_prompt.weights.huggingface import read_json
    config = checkpoint.config
    said = read_json(path, 'it says where generation starts and ends')
    return checkpoint._replace(config=FAMILIES[config.family].with_generation(
        config, said, str(path)))


def _called(folder: pathlib.PurePath) -> str:
    """What to call the model of a folder; a step of training is no name."""
    step = re.fullmatch(r'checkpoint_\d+', folder.name)
    return f'{folder.parent.name}/{folder.name}' if step and folder.parent.name else folder.name


def _open(folder: pathlib.Path, name: str, stack: contextlib.ExitStack) -> Checkpoint:
    """Open what a folder holds."""
    # Imported here: each brings a library that only it needs.
    from jax_prompt.weights.converted import is_converted, open_converted
    from jax_prompt.weights.huggingface import open_hugging_face
    from jax_prompt.weights.onnx import find_onnx, open_onnx
    from jax_prompt.weights.t5x import is_t5x, open_t5x
    if is_converted(folder):
        return open_converted(folder, stack)
    if any((folder / file).is_file() for file in _HUGGING_FACE):
        return open_hugging_face(folder, name, stack)
    if find_onnx(folder) is not None:
        return open_onnx(folder, name)
    if is_t5x(folder):
        return open_t5x(str(folder), name)
    if any(folder.glob('*.bin')) or (folder / 'config.json').is_file():
        return open_hugging_face(folder, name, stack)
    steps = sorted(folder.glob('checkpoint_*'))
    hint = f'; a T5X checkpoint is a folder such as {steps[-1]}' if steps else ''
    raise FileNotFoundError(
        f'no T5 in the folder {folder}: expected config.json with {_HUGGING_FACE[0]} (Hugging '
        f'Face), encoder.onnx with decoder.onnx (ONNX) or the file checkpoint (T5X){hint}')
