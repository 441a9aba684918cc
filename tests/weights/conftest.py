"""Tiny random T5 models in every shape, and Hugging Face folders that hold them."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from jax_prompt.models.architecture import leaf_shapes
from jax_prompt.models.t5.config import T5Config
from tests.models.t5.random_weights import to_hugging_face

_SIZES = dict(vocab_size=24, d_model=8, d_kv=3, d_ff=10, num_heads=2, num_layers=2,
              num_decoder_layers=2, relative_attention_num_buckets=6)

CONFIGS = {
    't5-1.0': T5Config(**_SIZES, activation='relu', gated=False, tied_head=True,
                       scale_decoder_outputs=True),
    't5-1.1': T5Config(**_SIZES, activation='gelu', gated=True),
    'ul2': T5Config(**_SIZES, activation='silu', gated=True),
    'byt5': T5Config(**(_SIZES | dict(num_layers=3, num_decoder_layers=1))),
    'umt5': T5Config(**_SIZES, per_layer_relative_bias=True),
}


@pytest.fixture(params=CONFIGS)
def config(request):
    """Each shape in turn."""
    return CONFIGS[request.param]


@pytest.fixture
def plain_config():
    """The shape of T5 1.1."""
    return CONFIGS['t5-1.1']


@pytest.fixture
def tied_config():
    """The shape of T5 1.0."""
    return CONFIGS['t5-1.0']


def make_tree(config, seed=0):
    """Make a frozen tree of random float32 numbers."""
    rng = np.random.default_rng(seed)
    tree = {}
    for path, shape in leaf_shapes(config).items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = rng.normal(size=shape).astype(np.float32)
    return tree


@pytest.fixture
def random_tree():
    """The function that makes a frozen tree of random float32 numbers."""
    return make_tree


def write_config_json(config, **changes):
    """Describe a T5Config as the config.json of an older hub repository does."""
    activation = {'relu': 'relu', 'gelu': 'gelu', 'silu': 'silu'}[config.activation]
    fields = dict(
        model_type='umt5' if config.per_layer_relative_bias else 't5',
        feed_forward_proj=f'gated-{activation}' if config.gated else activation,
        tie_word_embeddings=config.tied_head, architectures=['T5ForConditionalGeneration'])
    for name in ('vocab_size', 'd_model', 'd_kv', 'd_ff', 'num_heads', 'num_layers',
                 'num_decoder_layers', 'relative_attention_num_buckets'):
        fields[name] = getattr(config, name)
    return {key: value for key, value in (fields | changes).items() if value is not None}


def write_hugging_face(folder, frozen, config, said, edit=None):
    """Write a frozen tree as a Hugging Face folder with a given config.json."""
    folder.mkdir(exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(said))
    tensors = to_hugging_face(frozen, config)
    if edit is not None:
        edit(tensors)
    save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})
    return folder


@pytest.fixture
def config_json():
    """A function that writes a T5Config as the config.json of an older hub repository."""
    return write_config_json


@pytest.fixture
def hugging_face_folder(tmp_path):
    """A function that writes a frozen tree as a Hugging Face folder."""

    def make(frozen, config, name='tiny-t5', edit=None, **changes):
        return write_hugging_face(tmp_path / name, frozen, config,
                                  write_config_json(config, **changes), edit)

    return make
