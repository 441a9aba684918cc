"""Counting what a program computes and moves, loops included."""

import jax
import jax.numpy as jnp
import pytest

from jax_prompt.planning.hlo import read_module
from jax_prompt.planning.work import hbm_bytes, product_flops


def module(*lines: str, before: str = '') -> str:
    body = '\n'.join(f'  {line}' for line in lines)
    return f'HloModule m\n\n{before}\nENTRY %main (p: f32[]) -> f32[] {{\n{body}\n}}\n'


def moved(text: str, rounds: int | None = None) -> int:
    return hbm_bytes(read_module(text, rounds))


@pytest.mark.parametrize('einsum, shapes, flops', [
    ('BD,DF->BF', [(8, 16), (16, 32)], 2 * 8 * 16 * 32),
    ('GBD,GDF->GBF', [(4, 8, 16), (4, 16, 32)], 4 * 2 * 8 * 16 * 32),
    ('BSD,DHK->BSHK', [(2, 9, 16), (16, 3, 5)], 2 * 2 * 9 * 16 * 3 * 5),
    ('BSHK,HKD->BSD', [(2, 9, 3, 5), (3, 5, 16)], 2 * 2 * 9 * 16 * 3 * 5),
])
def test_products(einsum, shapes, flops):
    traced = jax.jit(lambda *arrays: jnp.einsum(einsum, *arrays) + 1).trace(
        *(jnp.ones(shape) for shape in shapes))
    assert product_flops(traced.jaxpr) == flops


def stack(scanned: bool, remat: bool = False):
    """Trace the gradient of eight layers of two products and a softmax between them."""
    def layer(x, weights):
        return jax.nn.softmax(x @ weights) @ weights.T, None

    def run(x, weights_NDF):
        y, _ = jax.lax.scan(jax.checkpoint(layer) if remat else layer, x, weights_NDF,
                            unroll=not scanned)
        return jnp.sum(y)

    return jax.jit(jax.grad(run)).trace(jnp.ones((64, 96)), jnp.ones((8, 96, 128)))


@pytest.mark.parametrize('scanned', [False, True])
def test_a_loop_counts_as_often_as_it_runs_recomputation_included(scanned):
    product = 2 * 64 * 96 * 128
    # Two forward and two back (and no weight's gradient); of the two, one is recomputed.
    assert product_flops(stack(scanned).jaxpr) == 8 * 4 * product
    assert product_flops(stack(scanned, remat=True).jaxpr) == 8 * 5 * product


def test_an_unrolled_program_counts_as_the_compiler_counts():
    """What XLA counts besides products is elementwise: a few percent here. (It finds one product
    of 32 to be needless: a softmax sums to one.)"""
    unrolled = stack(scanned=False)
    counted = unrolled.lower().compile().cost_analysis()['flops']
    assert 0.93 * counted < product_flops(unrolled.jaxpr) < 1.04 * counted


def test_a_loop_whose_length_depends_on_data_is_refused_unless_its_length_is_said():
    traced = jax.jit(lambda x: jax.lax.while_loop(
        lambda x: x[0, 0] < 9, lambda x: x @ x, x)).trace(jnp.ones((4, 4)))
    with pytest.raises(ValueError, match='a loop whose number of rounds cannot be known; say how'):
        product_flops(traced.jaxpr)
    assert product_flops(traced.jaxpr, rounds=10) == 10 * 2 * 4**3


LOOP = """
%body (s: (s32[], f32[5,16])) -> (s32[], f32[5,16]) {
  %s = (s32[], f32[5,16]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %v = f32[5,16]{1,0} get-tuple-element(%s), index=1
  %w = f32[16,16]{1,0} constant({...})
  %r = f32[5,16]{1,0} dot(%v, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (s32[], f32[5,16]) tuple(%i, %r)
}

%condition (s: (s32[], f32[5,16])) -> pred[] {
  %s = (s32[], f32[5,16]) parameter(0)
  ROOT %more = pred[] custom-call(%s), custom_call_target="ask"
}
"""
UNKNOWN = module('%p = (s32[], f32[5,16]) parameter(0)',
                 'ROOT %loop = (s32[], f32[5,16]) while(%p), condition=%condition, body=%body',
                 before=LOOP)


def test_memory_moved_in_a_loop_of_unknown_length_is_refused_unless_its_length_is_said():
    with pytest.raises(ValueError, match='is in a loop whose number of rounds cannot be known'):
        moved(UNKNOWN)
    assert moved(UNKNOWN, rounds=10) == 10 * moved(UNKNOWN, rounds=1) > 0


FUSED = """
%again (c: bf16[24,64]) -> bf16[24,64] {
  %c = bf16[24,64]{1,0} parameter(0)
  ROOT %d = bf16[24,64]{1,0} bitcast(%c)
}

%inner (a: bf16[24,64], b: s32[]) -> bf16[1,64] {
  %a = bf16[24,64]{1,0} parameter(0)
  %b = s32[] parameter(1)
  %laid = bf16[24,64]{1,0} fusion(%a), kind=kLoop, output_to_operand_aliasing={{}: (0, {})}, \
calls=%again
  %view = bf16[24,64]{1,0} bitcast(%laid)
  ROOT %slice = bf16[1,64]{1,0} dynamic-slice(%view, %b, %b), dynamic_slice_sizes={1,64}
}

%fused (x: bf16[24,64], y: s32[], z: f32[8,64], o: f32[24,64]) -> f32[24,64] {
  %x = bf16[24,64]{1,0} parameter(0)
  %y = s32[] parameter(1)
  %z = f32[8,64]{1,0} parameter(2)
  %o = f32[24,64]{1,0} parameter(3)
  %layer = bf16[1,64]{1,0} fusion(%x, %y), kind=kLoop, calls=%inner
  %wide = f32[1,64]{1,0} convert(%layer)
  ROOT %update = f32[24,64]{1,0} dynamic-update-slice(%o, %wide, %y, %y)
}

%viewed (v: f32[24,64], w: f32[8,64]) -> f32[24,8] {
  %v = f32[24,64]{1,0} parameter(0)
  %w = f32[8,64]{1,0} parameter(1)
  %seen = f32[24,64]{1,0} fusion(%v), kind=kLoop, calls=%again
  ROOT %product = f32[24,8]{1,0} dot(%seen, %w), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}
"""
ARGUMENTS = ['%x = bf16[24,64]{1,0:T(8,128)(2,1)} parameter(0)', '%y = s32[]{:S(2)} parameter(1)',
             '%z = f32[8,64]{1,0:T(8,128)S(1)} parameter(2)', '%o = f32[24,64]{1,0} parameter(3)']


CARRIED = """
%carry (s: f32[8,64], d: f32[32,64], x: f32[24,64]) -> (f32[24,64], f32[8,64], f32[32,64]) {
  %s = f32[8,64]{1,0} parameter(0)
  %d = f32[32,64]{1,0} parameter(1)
  %x = f32[24,64]{1,0} parameter(2)
  %g = f32[32,64]{1,0} all-gather(%s), channel_id=7, dimensions={0}
  %y = f32[24,64]{1,0} negate(%x)
  ROOT %t = (f32[24,64], f32[8,64], f32[32,64]) tuple(%y, %s, %g)
}
"""


def test_a_fusion_that_carries_a_collective_on_moves_only_its_own():
    lines = ['%s = f32[8,64]{1,0} parameter(0)', '%d = f32[32,64]{1,0} parameter(1)',
             '%x = f32[24,64]{1,0} parameter(2)',
             'ROOT %f = (f32[24,64]{1,0}, f32[8,64]{1,0}, f32[32,64]{1,0}) fusion(%s, %d, %x), '
             'kind=kOutput, output_to_operand_aliasing={{1}: (0, {}), {2}: (1, {})}, calls=%carry']
    assert moved(module(*lines, before=CARRIED)) == 2 * 24 * 64 * 4


@pytest.mark.parametrize('line, number', [
    # one layer's slice is read, one row written; z stands in the core's memory
    ('ROOT %f = f32[24,64]{1,0} fusion(%x, %y, %z, %o), kind=kLoop, calls=%fused', 128 + 256),
    # all of it is read, though through a view
    ('ROOT %f = f32[24,8]{1,0} fusion(%o, %z), kind=kOutput, calls=%viewed', 4 * 24 * (64 + 8)),
    ('ROOT %f = f32[24,64]{1,0} add(%o, %o)', 3 * 24 * 64 * 4),
    ('ROOT %f = f32[24,64]{1,0:S(1)} add(%o, %o)', 2 * 24 * 64 * 4),
    ('ROOT %f = f32[8,64]{1,0} copy(%z)', 8 * 64 * 4),
    ('ROOT %f = bf16[1,64]{1,0} dynamic-slice(%x, %y, %y), dynamic_slice_sizes={1,64}', 2 * 128),
    # prefetching a slice into the core's memory
    ('%f = ((bf16[24,64]{1,0}), bf16[2,64]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x)', 256),
    ('%f = (f32[24,64]{1,0:S(1)}, f32[24,64]{1,0}, u32[]{:S(2)}) copy-start(%o)', 24 * 64 * 4),
    ('ROOT %f = bf16[64,24]{0,1} bitcast(%x)', 0),
])
def test_memory_that_is_moved(line, number):
    assert moved(module(*ARGUMENTS, line, before=FUSED)) == number
