"""Load a frozen T5 from wherever it is: a folder, an installed package, the Hugging Face hub."""

import dataclasses
import importlib.util
import pathlib
import re

from jax_prompt.checkpoints.assemble import check_dtype
from jax_prompt.t5.config import T5Config
from jax_prompt.types import Params

_PACKAGE = 'package:'
_TOKENIZER_FILES = ('tokenizer.json', 'spiece.model', 'tokenizer_config.json')
_SAFETENSORS = ('model.safetensors', 'model.safetensors.index.json')
#: What the hub allows as an id: a name, or an owner and a name.
_HUB_ID = re.compile(r'[A-Za-z0-9][\w.-]*(/[\w.-]+)?')


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A frozen T5 and who it is.

    Attributes:
      config: its shape.
      frozen: its weights as numpy arrays, the layers of a stack on a leading axis.
      name: what prompt files and messages call it.
      fingerprint: tells it from any other model; independent of the dtype it was loaded in.
      folder: where its tokenizer files are, or None if it came without.
    """

    config: T5Config
    frozen: Params
    name: str
    fingerprint: str
    folder: pathlib.Path | None


def load_t5(source: str | pathlib.Path, dtype: str = 'float32') -> LoadedModel:
    """Load a T5's weights into the frozen tree.

    Args:
      source: one of
        a folder in Hugging Face's format (`config.json` and safetensors, whole or in shards);
        a folder with a T5 as ONNX (`encoder.onnx` and `decoder.onnx`), float or quantised;
        `package:NAME/sub/folder`, either of these inside an installed Python package;
        a repository id on the Hugging Face hub, such as `google/flan-t5-small`.
      dtype: 'float32' or 'bfloat16', to keep the weights in.

    Returns:
      The model, on the host.

    Raises:
      FileNotFoundError: when nothing is found, saying where it was looked for.
      ValueError: for weights that are corrupt, or not all there, or not those of a T5.
    """
    check_dtype(dtype)
    folder, name = locate(str(source))
    loader = _loader(folder)
    config, frozen, fingerprint = loader(folder, dtype, name)
    has_tokenizer = any((folder / file).is_file() for file in _TOKENIZER_FILES)
    return LoadedModel(config, frozen, name, fingerprint, folder if has_tokenizer else None)


def locate(source: str) -> tuple[pathlib.Path, str]:
    """Find the folder that a source means, fetching it from the hub if need be.

    Args:
      source: as for `load_t5`.

    Returns:
      The folder, and what to call the model in it.

    Raises:
      FileNotFoundError: when nothing is found, saying where it was looked for.
      ValueError: when the hub cannot give it.
    """
    if source.startswith(_PACKAGE):
        return _in_package(source), source.removeprefix(_PACKAGE).strip('/')
    folder = pathlib.Path(source).expanduser()
    if folder.is_dir():
        return folder, folder.resolve().name
    if not _HUB_ID.fullmatch(source):
        found = 'a file' if folder.is_file() else 'nothing'
        raise FileNotFoundError(
            f'no model at {source!r}: found {found} there, expected a folder, '
            'package:NAME/folder, or a Hugging Face repository id such as google/flan-t5-small')
    from jax_prompt.checkpoints.huggingface import download
    try:
        return download(source), source
    except ValueError as error:
        raise ValueError(f'no folder {source!r} here, and {error}') from error


def _in_package(source: str) -> pathlib.Path:
    """The folder inside an installed package; the package is found, not imported."""
    package, _, inner = source.removeprefix(_PACKAGE).strip('/').partition('/')
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f'model source {source!r} needs the Python package {package!r}, '
                                f'which is not installed: pip install {package.replace("_", "-")}')
    if '..' in pathlib.PurePosixPath(inner).parts:
        raise ValueError(f'model source {source!r} leaves its package; '
                         'expected package:NAME/folder')
    tried = [pathlib.Path(root) / inner for root in spec.submodule_search_locations]
    for folder in tried:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f'model source {source!r}: the package {package!r} has no folder '
                            f'{inner!r} (looked in {tried[0]})')


def _loader(folder: pathlib.Path):
    """The loader for what a folder holds."""
    from jax_prompt.checkpoints.huggingface import load_hugging_face
    from jax_prompt.checkpoints.onnx import find_onnx, load_onnx
    if any((folder / file).is_file() for file in _SAFETENSORS):
        return load_hugging_face
    if find_onnx(folder) is not None:
        return load_onnx
    if any(folder.glob('*.bin')) or (folder / 'config.json').is_file():
        return load_hugging_face
    raise FileNotFoundError(
        f'no T5 in the folder {folder}: expected config.json with {_SAFETENSORS[0]} or '
        f'{_SAFETENSORS[1]} (Hugging Face), or encoder.onnx with decoder.onnx (ONNX)')
