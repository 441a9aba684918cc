"""The encoder's self-attention in each implementation at hand: speed, memory and error.

    python -m benchmarks.attention                                          (an NVIDIA GPU)
    python -m benchmarks.attention --sizes=small --batch_size=2 --length=64 --times=2   (a CPU)

From queries, keys and values to their mixtures, with the relative position bias of T5, in bfloat16:
forward, and forward with the gradient of queries, keys and values. `x` is how many times as fast as
the model's attention='xla'. `whole` rows have no pads, `padded` ones end with some, `packed` ones
hold three examples each; `low` are whole rows of another length (4.5 blocks of 128) whose logits
are all far below zero, where some versions of cuDNN gave NaN.

Errors are the largest against float32, relative to the largest number. Exact with T5's bias is what
errs no more than XLA does with the same products: `xla` has those of the backward pass with logits
in float32, `jax.nn, xla` has all in bfloat16, as cuDNN does.

A measurement is a compiled loop that feeds each result to the next call, so that no time goes by
between them; implementations take turns.
"""

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.models.t5.attention import check_device, cudnn_attention, fused_bias
from jax_prompt.models.t5.config import T5Config, t5_1_1
from jax_prompt.models.t5.layers import Attention
from jax_prompt.models.t5.positions import bias_from_table, mask_bias, relative_buckets
from jax_prompt.models.t5.products import Precision

#: From a case: attend(query, key, value, given) -> result, and what is given beside.
Contender = Callable[..., tuple[Callable, Any]]

LOW, LOW_LENGTH = -120.0, 576  # exp() of -LOW is beyond float32


@dataclasses.dataclass
class Case:
    """What there is to attend to.

    Attributes:
      operands: queries, keys and values, bfloat16[B, S, H, K].
      cotangent: of the result; zero at pads, whose results nothing reads.
      bias: bfloat16[1, H, S, S].
      mask: bool[B, S].
      segments: int32[B, S], or None where rows are not packed.
    """

    operands: tuple[jax.Array, ...]
    cotangent: jax.Array
    bias: jax.Array
    mask: jax.Array
    segments: jax.Array | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--sizes', default='base,xl,xxl', help='of T5 1.1, separated by commas')
    parser.add_argument('--rows', default='whole,padded,packed,low')
    parser.add_argument('--batch_size', type=int, default=16)
    parser.add_argument('--length', type=int, default=612, help='512 tokens and 100 virtual ones')
    parser.add_argument('--times', type=int, default=50, help='calls in one measurement')
    parser.add_argument('--rounds', type=int, default=7)
    args = parser.parse_args()
    print(f'{jax.devices()[0].device_kind}, jax {jax.__version__}: {args.batch_size} rows, medians '
          f'of {args.rounds} turns of {args.times} calls')
    contenders = at_hand()
    for size in args.sizes.split(','):
        config = t5_1_1(size)
        for rows in args.rows.split(','):
            length = 64 if args.length < LOW_LENGTH else LOW_LENGTH
            length = length if rows == 'low' else args.length
            print(f'{size}, {rows}: {args.batch_size} x {config.num_heads} x {length} x '
                  f'{config.d_kv}')
            compare(make_case(config, rows, args.batch_size, length), contenders, args)


def at_hand() -> dict[str, Contender]:
    """Name the implementations that the device has, the model's usual one first."""
    everywhere = {'xla': xla, 'jax.nn, xla': of_jax('xla')}
    try:
        check_device('cudnn')
    except ValueError as error:
        print(f'without cudnn: {error}')
        return everywhere
    return everywhere | {'cudnn': cudnn, 'jax.nn, cudnn': of_jax('cudnn')}


def make_case(config: T5Config, rows: str, batch_size: int, length: int) -> Case:
    """Draw operands whose logits spread by three or so, and a bias table that does too."""
    shape = (batch_size, length, config.num_heads, config.d_kv)
    keys = iter(jax.random.split(jax.random.key(0), 5))
    draw = functools.partial(jax.random.normal, dtype=jnp.bfloat16)
    query = (draw(next(keys), shape) * 3 / config.d_kv**0.5).astype(jnp.bfloat16)
    operands = (query, draw(next(keys), shape), draw(next(keys), shape))
    positions = np.arange(length)
    table = 3 * draw(next(keys), (config.relative_attention_num_buckets, config.num_heads))
    bias = bias_from_table(table, relative_buckets(
        jnp.asarray(positions - positions[:, None]), True, config))
    bias = (bias + (LOW if rows == 'low' else 0.0)).astype(jnp.bfloat16)
    mask, segments = np.ones((batch_size, length), bool), None
    if rows == 'padded':
        mask = positions < np.linspace(length / 2, length, batch_size).astype(int)[:, None]
    if rows == 'packed':
        segments = np.broadcast_to(1 + positions * 3 // length, mask.shape).astype(np.int32)
    cotangent = draw(next(keys), shape) * mask[..., None, None]
    return Case(operands, cotangent.astype(jnp.bfloat16), bias, jnp.asarray(mask),
                None if segments is None else jnp.asarray(segments))


def xla(case: Case, dtype: jnp.dtype = jnp.bfloat16):
    """Attend as the model does with attention='xla'; heads stand before positions."""
    heads, width = case.operands[0].shape[2:]
    module = Attention(T5Config(1, 1, width, 1, heads, 1, 1), Precision(dtype), 0.0)
    biases = (case.bias.astype(jnp.float32), mask_bias(case.mask, case.segments, case.segments))

    def attend(query, key, value, biases):
        return module.apply({}, query, (key, value), biases, method='mix')

    return attend, biases


def cudnn(case: Case):
    """Attend as the model does with attention='cudnn'."""
    def attend(query, key, value, fused):
        return cudnn_attention(query, key, value, fused.bias, fused.lengths_B)

    return attend, fused_bias((case.bias,), case.mask, case.segments, jnp.bfloat16)


def of_jax(implementation: str) -> Contender:
    """Attend with JAX's own function; with cuDNN it computes the bias's gradient too."""
    def make(case: Case):
        def attend(query, key, value, fused):
            return jax.nn.dot_product_attention(
                query, key, value, fused.bias, scale=1.0, implementation=implementation,
                key_value_seq_lengths=fused.lengths_B)

        return attend, cudnn(case)[1]

    return make


def compare(case: Case, contenders: dict[str, Contender], args: argparse.Namespace) -> None:
    """Measure the implementations in turns, and print a line each."""
    wanted = reference(case)
    programs, notes = {}, {}
    for name, make in contenders.items():
        try:
            programs[name], notes[name] = prepare(name, make, case, wanted, args.times)
        except Exception as error:  # what an implementation cannot do is a result here
            print(f'  {name:16} {str(error).splitlines()[0][:120]}')
    seconds = {name: {what: [] for what in pair} for name, pair in programs.items()}
    for _ in range(args.rounds):
        for name, pair in programs.items():
            for what, run in pair.items():
                start = time.perf_counter()
                run()
                seconds[name][what].append((time.perf_counter() - start) / args.times)
    medians = {name: {what: statistics.median(taken) for what, taken in pair.items()}
               for name, pair in seconds.items()}
    for name, taken in medians.items():
        parts = [f'{what} {1e3 * value:8.3f} ms'
                 + (f' ({medians["xla"][what] / value:.2f} x)' if 'xla' in medians else '')
                 for what, value in taken.items()]
        print(f'  {name:16} {", ".join(parts)}; {notes[name]}')


def prepare(name: str, make: Contender, case: Case, wanted: list[np.ndarray], times: int):
    """Compile one implementation; return its loops by name, and its memory and errors in words."""
    turn = (lambda array: array.swapaxes(1, 2)) if name == 'xla' else (lambda array: array)
    operands = tuple(turn(array) for array in (*case.operands, case.cotangent))
    attend, given = make(case)

    def forward(given, query, key, value):
        return attend(query, key, value, given), key, value

    gradient = gradient_of(attend)
    compiled = jax.jit(gradient).lower(given, *operands).compile()
    errors = [largest_error(np.asarray(turn(found), np.float32), other, np.asarray(case.mask))
              for found, other in zip(compiled(given, *operands), wanted, strict=True)]
    told = ', '.join(f'{part} {size:.1e}' for part, size in zip(
        ('d query', 'd key', 'd value', 'result'), errors, strict=True))
    memory = compiled.memory_analysis().temp_size_in_bytes
    runs = {'forward': repeated(forward, given, operands[:3], times),
            'and backward': repeated(gradient, given, operands, times)}
    return runs, f'{memory / 2**20:.0f} MiB of temporaries; errors: {told}'


def gradient_of(attend: Callable) -> Callable:
    """Return a function to gradients and result: as many, of the same shapes, as it takes."""
    def gradient(given, query, key, value, cotangent):
        result, pull = jax.vjp(lambda *each: attend(*each, given), query, key, value)
        return *pull(cotangent), result

    return gradient


def repeated(step: Callable, given: Any, operands: tuple, times: int) -> Callable[[], None]:
    """Return a function that feeds a step its own results so many times; it is compiled."""
    loop = jax.jit(lambda given, *operands: jax.lax.fori_loop(
        0, times, lambda _, carried: step(given, *carried), operands))

    def run() -> None:
        jax.block_until_ready(loop(given, *operands))

    run()
    return run


def reference(case: Case) -> list[np.ndarray]:
    """Return gradients and result in float32, [B, S, H, K]."""
    attend, given = xla(case, jnp.float32)
    wide = [array.swapaxes(1, 2).astype(jnp.float32) for array in (*case.operands, case.cotangent)]
    with jax.default_matmul_precision('highest'):
        found = jax.jit(gradient_of(attend))(given, *wide)
    return [np.asarray(array.swapaxes(1, 2)) for array in found]


def largest_error(found: np.ndarray, wanted: np.ndarray, mask: np.ndarray) -> float:
    """Return the largest error at tokens relative to the largest number; NaN if any is."""
    return float(np.abs(found - wanted)[mask].max() / np.abs(wanted[mask]).max())


if __name__ == '__main__':
    main()
