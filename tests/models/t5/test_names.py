"""The table between Hugging Face's names and the frozen tree."""

import dataclasses

import jax
import numpy as np
import pytest

from jax_prompt.models.architecture import leaf_shapes
from jax_prompt.models.t5.config import t5_1_1
from jax_prompt.models.t5.model import T5
from tests.models.t5.random_weights import param_shapes, to_hugging_face
from tests.weights.conftest import CONFIGS, make_tree, write_config_json

PLAIN = CONFIGS['t5-1.1']
every_config = pytest.mark.parametrize('config', CONFIGS.values(), ids=CONFIGS)


@every_config
def test_leaves_are_those_of_the_model(config):
    shapes, _ = jax.tree_util.tree_flatten_with_path(param_shapes(T5(config)))
    of_model = {tuple(key.key for key in path): leaf.shape for path, leaf in shapes}
    assert of_model == leaf_shapes(config)


@pytest.mark.parametrize('size, parameters', [
    ('small', 76_961_152), ('base', 247_577_856), ('large', 783_150_080), ('xl', 2_849_757_184),
    ('xxl', 11_135_332_352)])
def test_parameter_counts_of_t5_1_1(size, parameters):
    """The counts of the T5 1.1 family, as published (Lester et al. 2021)."""
    assert sum(int(np.prod(shape)) for shape in leaf_shapes(t5_1_1(size)).values()) == parameters


@every_config
def test_every_place_of_the_tree_is_filled_exactly_once(config):
    filled = {path: np.zeros(shape, int) for path, shape in leaf_shapes(config).items()}
    for slot in config.slots().values():
        filled[slot.path][() if slot.layer is None else slot.layer] += 1
    assert all((count == 1).all() for count in filled.values())


def test_projections_are_transposed_with_their_heads_apart():
    """x @ W.T in PyTorch equals the einsum that the model's dimension names say."""
    frozen = make_tree(PLAIN)
    tensors = to_hugging_face(frozen, PLAIN)
    block = 'decoder.block.1.layer.1.EncDecAttention'
    attention = frozen['decoder']['layers']['cross_attention']
    x_BD = np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)
    queries_BHK = np.einsum('BD,DHK->BHK', x_BD, attention['query']['kernel'][1])
    np.testing.assert_allclose((x_BD @ tensors[f'{block}.q.weight'].T).reshape(4, 2, 3),
                               queries_BHK, rtol=1e-5)
    out_BD = np.einsum('BHK,HKD->BD', queries_BHK, attention['out']['kernel'][1])
    np.testing.assert_allclose(queries_BHK.reshape(4, 6) @ tensors[f'{block}.o.weight'].T, out_BD,
                               rtol=1e-5)
    assert tensors['lm_head.weight'].shape == (24, 8)


@every_config
def test_names_are_those_of_pytorch(config):
    """Names and shapes equal the state dict of transformers' own module."""
    torch = pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    kind = 'UMT5' if config.per_layer_relative_bias else 'T5'
    with torch.device('meta'):
        module = getattr(transformers, f'{kind}ForConditionalGeneration')(
            getattr(transformers, f'{kind}Config')(**write_config_json(config, model_type=None)))
    copies = {'encoder.embed_tokens.weight', 'decoder.embed_tokens.weight'}
    copies |= {'lm_head.weight'} if config.tied_head else set()
    theirs = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()
              if name not in copies}
    ours = {name: array.shape for name, array in
            to_hugging_face(make_tree(config), config).items()}
    assert ours == theirs
    assert ours == {name: slot.hugging_face_shape for name, slot in config.slots().items()}


def test_tied_head_has_no_tensor_of_its_own():
    tied = dataclasses.replace(PLAIN, tied_head=True)
    assert set(PLAIN.slots()) - set(tied.slots()) == {'lm_head.weight'}
