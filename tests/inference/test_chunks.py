"""What is encoded together: every input once, in little room."""

import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.inference.chunks import CHUNK_ROWS, divide, packed_lengths
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.parts import Parts
from jax_prompt.inference.shapes import Shapes
from tests.inference.many_prompts import open_tiny, prompts

SHAPES = Shapes()


def draw(seed, low, high, count=32):
    return np.random.default_rng(seed).integers(low, high, count).tolist()


def positions(chunks):
    return sum(CHUNK_ROWS * chunk.length for chunk in chunks)


@pytest.mark.parametrize('lengths', [
    [1], [128], [129], [5] * 9, draw(0, 1, 30), draw(1, 20, 90), draw(2, 100, 700),
    draw(3, 1, 600, 17), [512] * 32], ids=lambda lengths: f'{len(lengths)} of {lengths[0]}')
@pytest.mark.parametrize('shapes', [SHAPES, Shapes(lengths=(48, 100)), Shapes(lengths=(500,))],
                         ids=['many', 'few', 'one'])
def test_each_input_is_in_one_packed_row_that_has_room(lengths, shapes):
    chunks = divide(lengths, shapes)
    rows = [row for chunk in chunks for row in chunk.rows]
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    for chunk in chunks:
        assert 1 <= len(chunk.rows) <= CHUNK_ROWS
        assert all(sum(lengths[number] for number in row) <= chunk.length for row in chunk.rows)
        assert chunk.length in packed_lengths(
            max(lengths[number] for row in chunk.rows for number in row), shapes)


def test_sentences_are_packed_with_few_pads():
    """An input a row and eight of like lengths a chunk, at the engine's lengths, is the measure."""
    packed = tokens = apart = 0
    for seed in range(50):
        lengths = sorted(draw(seed, 27, 85), reverse=True)
        tokens += sum(lengths)
        packed += positions(divide(lengths, SHAPES))
        apart += sum(CHUNK_ROWS * SHAPES.length(length) for length in lengths[::CHUNK_ROWS])
    assert tokens < packed < 1.2 * tokens
    assert packed < 0.9 * apart


def test_long_inputs_are_sorted_and_not_packed():
    """No packed row is longer than the longest input asks for, where attention would grow."""
    lengths = draw(0, 130, 257)
    chunks = divide(lengths, SHAPES)
    assert {len(row) for chunk in chunks for row in chunk.rows} == {1}
    order = [lengths[row[0]] for chunk in chunks for row in chunk.rows]
    assert order == sorted(lengths, reverse=True)
    assert chunks[-1].length < chunks[0].length


def test_what_is_not_finite_stays_in_its_own_row(world, monkeypatch):
    """Masked or not, 0 times NaN is NaN: packed rows would pass it on."""
    monkeypatch.setattr('os.sched_getaffinity', lambda _: {0, 1}, raising=False)
    monkeypatch.setattr('jax_prompt.inference.engine.Parts', lambda **_: Parts())
    engine = Engine(open_tiny(world / 'model'), Shapes(batch_sizes=(32,), lengths=(16, 32)))
    for name, file in prompts(engine.opened).items():
        engine.add(name, file)

    def answers():
        rows = [engine.row(name, 'a warm film', rank=False, max_tokens=8)
                for name in ['title', 'long', 'mood', 'one'] * 8]
        assert all(len(some) > 1 for part in engine._parts.of(rows, engine.shapes)
                   for chunk in part.chunks for some in chunk.rows)
        assert len({answer.text for answer in engine.run(rows)}) > 1
        return [answer for row, answer in zip(rows, engine.run(rows), strict=True)
                if row.prompt.name != 'mood']

    expected, block = answers(), engine.prompt('mood').block
    engine.table._rows_RD = engine.table.rows_RD.at[block.offset].set(jnp.nan)
    assert answers() == expected
