"""Counting what a program computes and moves, loops included."""

import jax
import jax.numpy as jnp
import pytest

from jax_prompt.planning.hlo_work import hbm_bytes, product_flops


def module(*lines: str, before: str = '') -> str:
    body = '\n'.join(f'  {line}' for line in lines)
    return f'HloModule m\n\n{before}\nENTRY %main (p: f32[]) -> f32[] {{\n{body}\n}}\n'


@pytest.mark.parametrize('lines, flops', [
    # [8, 16] x [16, 32]
    (['%a = f32[8,16]{1,0} parameter(0)', '%b = f32[16,32]{1,0} parameter(1)',
      'ROOT %c = f32[8,32]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}'],
     2 * 8 * 16 * 32),
    # batched: 4 x [8, 16] x [16, 32]
    (['%a = f32[4,8,16]{2,1,0} parameter(0)', '%b = f32[4,16,32]{2,1,0} parameter(1)',
      'ROOT %c = f32[4,8,32]{2,1,0} dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}, '
      'rhs_batch_dims={0}, rhs_contracting_dims={1}'], 4 * 2 * 8 * 16 * 32),
    # no spatial dimension
    (['%a = bf16[8,16]{1,0} parameter(0)', '%b = bf16[16,32]{1,0} parameter(1)',
      'ROOT %c = bf16[8,32]{1,0} convolution(%a, %b), dim_labels=bf_io->bf'], 2 * 8 * 16 * 32),
    # a window of 3 over 10 positions with margins of 1: the two outermost pairs meet nothing
    (['%a = f32[2,10,16]{2,1,0} parameter(0)', '%b = f32[3,16,32]{2,1,0} parameter(1)',
      'ROOT %c = f32[2,10,32]{2,1,0} convolution(%a, %b), window={size=3 pad=1_1}, '
      'dim_labels=b0f_0io->b0f'], 2 * 2 * 16 * 32 * (3 * 10 - 2)),
    # the TPU compiler's batched product: of 8 x 8 pairs only the diagonal meets an input
    (['%a = bf16[8,128,64]{2,1,0} parameter(0)', '%b = bf16[8,128,64]{2,1,0} parameter(1)',
      'ROOT %c = f32[8,128,128]{2,1,0} convolution(%a, %b), window={size=8 stride=7 lhs_dilate=8}, '
      'dim_labels=0bf_0oi->0bf'], 8 * 2 * 128 * 128 * 64),
    # heads as a window that is turned around: every output position meets its one head
    (['%a = bf16[8,128,256]{2,1,0} parameter(0)', '%b = bf16[256,4,64]{2,1,0} parameter(1)',
      'ROOT %c = bf16[8,128,4,64]{3,2,1,0} convolution(%a, %b), '
      'window={size=1x4 pad=0_0x3_3 rhs_reversal=0x1}, dim_labels=0bf1_i1o0->0b1f'], None),
])
def test_products(lines, flops):
    if flops is None:  # [8 * 128, 256] x [256, 4 * 64], with a dimension of 1 made explicit
        lines[0] = '%a = bf16[8,128,256,1]{3,2,1,0} parameter(0)'
        lines[1] = '%b = bf16[256,4,64,1]{3,2,1,0} parameter(1)'
        flops = 2 * 8 * 128 * 256 * 4 * 64
    assert product_flops(module(*lines)) == flops


def stack(scanned: bool):
    """Eight layers of two products and a softmax between them."""
    def layer(x, weights):
        return jax.nn.softmax(x @ weights) @ weights.T, None

    def run(x, weights_NDF):
        y, _ = jax.lax.scan(layer, x, weights_NDF, unroll=not scanned)
        return jnp.sum(y)

    return jax.jit(jax.grad(run)).lower(jnp.ones((64, 96)), jnp.ones((8, 96, 128))).compile()


def test_a_loop_counts_as_often_as_it_runs():
    unrolled, scanned = stack(scanned=False), stack(scanned=True)
    # Unrolled, the compiler finds one product of 32 to be needless: a softmax sums to one.
    assert product_flops(scanned) == pytest.approx(product_flops(unrolled), rel=0.04)
    # Two products forward and two back (and no weight's gradient).
    assert product_flops(scanned) == pytest.approx(8 * 4 * 2 * 64 * 96 * 128, rel=0.07)
    assert scanned.cost_analysis()['flops'] < product_flops(scanned) / 4


def test_an_unrolled_program_counts_as_the_compiler_counts():
    """What XLA counts besides products is elementwise: a few percent here."""
    unrolled = stack(scanned=False)
    counted = unrolled.cost_analysis()['flops']
    assert 0.93 * counted < product_flops(unrolled) <= counted


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


@pytest.mark.parametrize('count', [product_flops, hbm_bytes])
def test_a_loop_of_unknown_length_is_refused_unless_its_length_is_said(count):
    with pytest.raises(ValueError, match='in a loop whose number of rounds cannot be known; say'):
        count(UNKNOWN)
    assert count(UNKNOWN, rounds=10) == 10 * count(UNKNOWN, rounds=1) > 0


FUSED = """
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
    assert hbm_bytes(module(*lines, before=CARRIED)) == 2 * 24 * 64 * 4


@pytest.mark.parametrize('line, moved', [
    # one layer's slice is read, one row written; z stands in the core's memory
    ('ROOT %f = f32[24,64]{1,0} fusion(%x, %y, %z, %o), kind=kLoop, calls=%fused', 128 + 256),
    ('ROOT %f = f32[24,64]{1,0} add(%o, %o)', 3 * 24 * 64 * 4),
    ('ROOT %f = f32[24,64]{1,0:S(1)} add(%o, %o)', 2 * 24 * 64 * 4),
    ('ROOT %f = f32[8,64]{1,0} copy(%z)', 8 * 64 * 4),
    ('ROOT %f = bf16[1,64]{1,0} dynamic-slice(%x, %y, %y), dynamic_slice_sizes={1,64}', 2 * 128),
    # prefetching a slice into the core's memory
    ('%f = ((bf16[24,64]{1,0}), bf16[2,64]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x)', 256),
    ('%f = (f32[24,64]{1,0:S(1)}, f32[24,64]{1,0}, u32[]{:S(2)}) copy-start(%o)', 24 * 64 * 4),
    ('ROOT %f = bf16[64,24]{0,1} bitcast(%x)', 0),
])
def test_memory_that_is_moved(line, moved):
    assert hbm_bytes(module(*ARGUMENTS, line, before=FUSED)) == moved
