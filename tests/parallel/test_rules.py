"""The partition rules against the trees of every kind of T5."""

import copy
import dataclasses
import functools
import math
import re

import jax
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as Spec

from jax_prompt.models.t5.config import T5Config, t5_1_1
from jax_prompt.models.t5.int8 import quantised_shapes
from jax_prompt.models.t5.model import T5
from jax_prompt.parallel.rules import (
    batch_sharding,
    frozen_shardings,
    path_name,
    replicated,
    rule_for,
)
from tests.models.t5.random_weights import param_shapes

TINY = T5Config(vocab_size=48, d_model=16, d_kv=4, d_ff=24, num_heads=8, num_layers=2,
                num_decoder_layers=3)
SHAPES = {
    't5-1.1': TINY,
    't5-1.0': dataclasses.replace(TINY, activation='relu', gated=False, tied_head=True),
    'umt5': dataclasses.replace(TINY, per_layer_relative_bias=True),
    'ul2': dataclasses.replace(TINY, activation='silu'),
}


def mesh(data: int, model: int) -> AbstractMesh:
    return AbstractMesh((data, model), ('data', 'model'))


def leaves(tree) -> dict:
    """Return a tree's leaves by path; a sharding is a leaf."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@functools.cache
def shapes_of(config: T5Config):
    return param_shapes(T5(config))


def specs(config: T5Config, on: AbstractMesh, fully_sharded: bool = False) -> dict[str, Spec]:
    shardings = frozen_shardings(on, shapes_of(config), T5.rules, fully_sharded)
    return {path: sharding.spec for path, sharding in leaves(shardings).items()}


@pytest.mark.parametrize('config', SHAPES.values(), ids=SHAPES)
def test_every_parameter_has_one_rule_of_its_shape(config):
    for path, leaf in leaves(shapes_of(config)).items():
        sizes = {'V': config.vocab_size, 'D': config.d_model, 'H': config.num_heads,
                 'K': config.d_kv, 'F': config.d_ff, 'X': config.relative_attention_num_buckets,
                 'N': config.num_decoder_layers if path.startswith('decoder')
                 else config.num_layers}
        letters = rule_for(path, T5.rules).dimensions
        assert leaf.shape == tuple(sizes[letter] for letter in letters), path


def test_every_rule_is_somebodys():
    used = {rule_for(path, T5.rules) for config in SHAPES.values()
            for path in leaves(shapes_of(config))}
    assert used == set(T5.rules)


def test_every_alternative_in_a_rule_is_somebodys():
    """A name in a pattern that no T5 has would hide a misspelling."""
    words = {word for rule in T5.rules for word in re.findall(r'\w+', rule.pattern)}
    real = {word for config in SHAPES.values() for path in leaves(shapes_of(config))
            for word in path.split('/')}
    assert words <= real | {'self', 'cross', '_attention'}


def test_heads_widths_and_vocabulary_are_split_over_model():
    split = specs(TINY, mesh(4, 2))
    assert split['token_embedder/embedding'] == Spec('model', None)
    assert split['lm_head/kernel'] == Spec(None, 'model')
    attention = 'decoder/layers/cross_attention'
    assert split[f'{attention}/key/kernel'] == Spec(None, None, 'model', None)
    assert split[f'{attention}/out/kernel'] == Spec(None, 'model', None, None)
    assert split['encoder/layers/feed_forward/wi_1/kernel'] == Spec(None, None, 'model')
    assert split['encoder/layers/feed_forward/wo/kernel'] == Spec(None, 'model', None)
    assert split['encoder/relative_bias/embedding'] == Spec(None, 'model')
    for path in ('encoder/layers/feed_forward/norm/scale', 'decoder/final_norm/scale'):
        assert split[path] == Spec()
    bias = 'decoder/layers/self_attention/relative_bias/embedding'
    assert specs(SHAPES['umt5'], mesh(4, 2))[bias] == Spec(None, None, 'model')


def test_without_full_sharding_nothing_is_split_over_data():
    assert not any('data' in spec for config in SHAPES.values()
                   for spec in specs(config, mesh(4, 2)).values())


@pytest.mark.parametrize('config', SHAPES.values(), ids=SHAPES)
def test_fully_sharded_every_large_kernel_is_split_over_both_axes(config):
    on, shapes = mesh(4, 2), leaves(shapes_of(config))
    shardings = leaves(frozen_shardings(on, shapes_of(config), T5.rules, True))
    for path, sharding in shardings.items():
        if path.endswith('kernel') or path == 'token_embedder/embedding':
            part = math.prod(sharding.shard_shape(shapes[path].shape))
            assert part * on.size == math.prod(shapes[path].shape), path
        else:
            assert 'data' not in sharding.spec, path
            assert ('model' in sharding.spec) == ('relative_bias' in path), path


@pytest.mark.parametrize('fully_sharded', [False, True])
@pytest.mark.parametrize('config', SHAPES.values(), ids=SHAPES)
def test_int8_values_stand_like_the_kernels_and_scales_like_what_they_scale(config, fully_sharded):
    wide = specs(config, mesh(4, 2), fully_sharded)
    shapes = quantised_shapes(shapes_of(config))
    on = leaves(frozen_shardings(mesh(4, 2), shapes, T5.rules, fully_sharded))
    for path, leaf in leaves(shapes).items():
        kernel, part = path.rsplit('/', 1)
        if part == 'values':
            assert on[path].spec == wide[kernel]
        elif kernel.endswith('/kernel'):
            wanted = [None if size == 1 else axis for size, axis
                      in zip(leaf.shape, wide[kernel], strict=True)]
            assert on[path].spec == (Spec(*wanted) if any(wanted) else Spec())
        else:
            assert on[path].spec == wide[path]


def test_scales_are_whole_where_a_product_sums():
    shapes = quantised_shapes(shapes_of(TINY))
    on = {path: sharding.spec for path, sharding
          in leaves(frozen_shardings(mesh(4, 2), shapes, T5.rules, True)).items()}
    attention = 'encoder/layers/self_attention'
    assert on[f'{attention}/query/kernel/values'] == Spec(None, 'data', 'model', None)
    assert on[f'{attention}/query/kernel/scale'] == Spec(None, None, 'model', None)
    assert on[f'{attention}/out/kernel/scale'] == Spec(None, None, None, 'data')
    assert on['encoder/layers/feed_forward/wi_0/kernel/scale'] == Spec(None, None, 'model')
    assert on['encoder/layers/feed_forward/wo/kernel/scale'] == Spec(None, None, 'data')


def test_a_kernel_of_size_one_where_it_is_split_is_still_refused():
    """Only scales may be whole for having one number along a dimension."""
    with pytest.raises(ValueError, match='num_heads=1 does not divide by model=2'):
        specs(dataclasses.replace(TINY, num_heads=1), mesh(4, 2))


def test_xxl_fully_sharded_is_divided_by_the_number_of_devices():
    shapes = shapes_of(t5_1_1('xxl'))
    shardings = frozen_shardings(mesh(2, 8), shapes, T5.rules, True)
    part = sum(math.prod(sharding.shard_shape(leaf.shape)) for leaf, sharding
               in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True))
    assert part == pytest.approx(11_135_332_352 / 16, rel=1e-3)


def test_batches_and_what_is_trained():
    on = mesh(4, 2)
    assert batch_sharding(on).spec == Spec('data')
    assert replicated(on).spec == Spec()


def test_a_parameter_without_a_rule_is_named():
    shapes = copy.deepcopy(shapes_of(TINY))
    shapes['encoder']['adapter'] = {'kernel': jax.ShapeDtypeStruct((2, 16), 'float32')}
    with pytest.raises(ValueError, match='parameter encoder/adapter/kernel has no partition rule'):
        frozen_shardings(mesh(4, 2), shapes, T5.rules)


def test_another_number_of_dimensions_is_named():
    shapes = copy.deepcopy(shapes_of(TINY))
    shapes['lm_head']['kernel'] = jax.ShapeDtypeStruct((16, 48, 1), 'float32')
    with pytest.raises(ValueError, match=r'lm_head/kernel has the shape \(16, 48, 1\).*\[D, V\]'):
        frozen_shardings(mesh(4, 2), shapes, T5.rules)


@pytest.mark.parametrize('changes, sizes, fully_sharded, message', [
    (dict(num_heads=6), (3, 4), False,
     r'^num_heads=6 does not divide by model=4 \(dimension H of decoder/layers/cross_attention/key/'
     r'kernel\); with 12 devices choose model:1, 2, 3 or 6$'),
    (dict(d_ff=20), (1, 8), False,
     r'd_ff=20 does not divide by model=8 \(dimension F of decoder/.*wi_0/kernel\); '
     'with 8 devices choose model:1, 2 or 4'),
    (dict(vocab_size=50), (2, 4), False,
     r'vocab_size=50 .* model=4 \(dimension V of lm_head/kernel\); .* choose model:1 or 2$'),
    (dict(d_model=18), (4, 2), True,
     r'd_model=18 does not divide by data=4 \(dimension D .* choose data:1 or 2$'),
])
def test_what_does_not_divide_is_named(changes, sizes, fully_sharded, message):
    config = dataclasses.replace(TINY, **changes)
    with pytest.raises(ValueError, match=message):
        specs(config, mesh(*sizes), fully_sharded)


def test_the_width_need_not_divide_where_it_is_not_split():
    assert specs(dataclasses.replace(TINY, d_model=18), mesh(4, 2))
