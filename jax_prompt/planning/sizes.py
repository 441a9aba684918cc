"""Shapes of T5s by name, with no weights: those released, or the `config.json` of a folder."""

import pathlib

from jax_prompt.models.families import family_of
from jax_prompt.models.t5.config import T5_1_1_SHAPES, T5Config, t5_1_1
from jax_prompt.weights.huggingface import read_json

# The first T5: layers, d_model, d_ff, heads, d_kv (Raffel et al. 2020, section 3.7 and the released
# checkpoints' configurations). 3B and 11B differ in d_ff and heads alone.
_T5_SHAPES = {
    't5-small': (6, 512, 2048, 8, 64),
    't5-base': (12, 768, 3072, 12, 64),
    't5-large': (24, 1024, 4096, 16, 64),
    't5-3b': (24, 1024, 16384, 32, 128),
    't5-11b': (24, 1024, 65536, 128, 128),
}
_PREFIXES = ('google/t5-v1_1-', 'google/flan-t5-', 'flan-t5-', 't5-v1_1-', 't5-1.1-')

#: Names that need no folder.
NAMES = tuple(f't5-1.1-{size}' for size in T5_1_1_SHAPES) + tuple(_T5_SHAPES)


def find_config(model: str) -> T5Config:
    """Find out the shape of a model; weights are not looked at.

    Args:
      model: a name of `NAMES` ('t5-1.1-xxl'; 'flan-t5-xl' and 'google/t5-v1_1-xl' are of the same
        shapes), or a local folder with a Hugging Face `config.json`, or that file.

    Returns:
      The configuration.

    Raises:
      ValueError: the name is not known and no such folder is there, or its file cannot be read.
    """
    size = next((model.removeprefix(one) for one in _PREFIXES if model.startswith(one)), '')
    if size in T5_1_1_SHAPES:
        return t5_1_1(size)
    name = model.removeprefix('google-t5/')
    if name in _T5_SHAPES:
        layers, d_model, d_ff, heads, d_kv = _T5_SHAPES[name]
        return T5Config(vocab_size=32128, d_model=d_model, d_kv=d_kv, d_ff=d_ff, num_heads=heads,
                        num_layers=layers, num_decoder_layers=layers, activation='relu',
                        gated=False, tied_head=True, scale_decoder_outputs=True, name=name)
    path = pathlib.Path(model)
    path = path / 'config.json' if path.is_dir() else path
    if path.name != 'config.json' or not path.is_file():
        raise ValueError(f'model {model!r} is neither a folder with a config.json nor one of '
                         f'{", ".join(NAMES)}')
    fields = read_json(path, 'it tells the shape')
    return family_of(fields, str(path)).from_hugging_face(fields, str(path), path.parent.name)
