"""Batches that a CPU answers in parts: every row once, the answers those of the whole."""

import dataclasses
import threading
import types

import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.decodings import beam_search
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.parts import (
    CHUNK_ROWS,
    Chunk,
    Part,
    chunks_of,
    divide,
    packed_lengths,
    start,
)
from jax_prompt.inference.sampling import SamplingSettings
from tests.inference.many_prompts import open_tiny, prompts, requests

SHAPES = Shapes(batch_sizes=(8, 32), lengths=(16, 32, 48), labels=((8, 4),), targets=(16,),
                shared_labels=1)


MANY = Shapes()


def rows_of(lengths, labels=None):
    return [types.SimpleNamespace(ids=np.ones(length, np.int32), labels=labels, prefix=None)
            for length in lengths]


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr('os.sched_getaffinity', lambda _: {0, 1}, raising=False)


@pytest.mark.parametrize('count', [9, 15, 16, 17, 31, 32])
def test_every_row_is_in_one_part_and_has_room(count):
    rows = rows_of(np.random.default_rng(count).integers(1, 48, count))
    found = divide(rows, SHAPES)
    assert sorted(number for part in found for number in part.numbers) == list(range(count))
    assert len(found) == 2
    for part in found:
        assert len(part.numbers) <= part.batch == 16
        assert all(len(rows[number].ids) <= part.length for number in part.numbers)
    assert found[0].length >= found[1].length
    encoded = [number for part in found for chunk in part.chunks
               for row in chunk.rows for number in row]
    assert sorted(encoded) == list(range(count))
    assert abs(len(found[0].chunks) - len(found[1].chunks)) <= 1


def test_a_single_row_with_room_for_many_is_one_part():
    found, = divide(rows_of([5]), Shapes(batch_sizes=(32,), lengths=(16,)))
    assert found.numbers == (0,) and found.chunks == (Chunk(((0,),), 32),)


def test_small_batches_stay_whole():
    assert divide(rows_of([5] * 8), SHAPES) == [Part(tuple(range(8)), 8, 16)]
    assert len(divide(rows_of([20] * 20, labels=('a', 'b')), SHAPES)) == 2
    assert len(divide(rows_of([5] * 20), SHAPES, whole=True)) == 1


def test_one_core_leaves_batches_whole(monkeypatch):
    monkeypatch.setattr('os.sched_getaffinity', lambda _: {0}, raising=False)
    assert len(divide(rows_of([5] * 20), SHAPES)) == 1


def test_no_part_decodes_before_all_have_encoded():
    seen = []
    first, go = threading.Event(), threading.Event()

    def work(number):
        def encode():
            if number == 1:
                go.wait(10)
            seen.append(('encode', number))
            first.set()
            return np.zeros(1)

        def decode(inputs):
            seen.append(('decode', number))
            return inputs + number

        return encode, decode

    results = start([work(0), work(1)], aside=True)
    assert first.wait(10)
    assert seen == [('encode', 0)]
    go.set()
    assert [result()[0] for result in results] == [0.0, 1.0]
    assert {what for what, _ in seen[:2]} == {'encode'}


def test_a_part_that_cannot_encode_fails_the_batch_and_holds_up_nothing():
    def fail():
        raise RuntimeError('out of memory')

    def fine():
        return np.ones(1)

    good, bad = (fine, lambda inputs: inputs), (fail, lambda inputs: inputs)
    for wait in start([bad, good], aside=True):
        with pytest.raises(RuntimeError, match='out of memory'):
            wait()
    assert start([good, good], aside=True)[0]()[0] == 1.0


def test_batches_from_many_threads_do_not_wait_for_each_other():
    done = []

    def run():
        works = [(lambda: np.zeros(1), lambda inputs: inputs)] * 2
        done.extend(result() for _ in range(20) for result in start(works, aside=True))

    threads = [threading.Thread(target=run, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(done) == 4 * 20 * 2


def draw(seed, low, high, count=32):
    return np.random.default_rng(seed).integers(low, high, count).tolist()


def positions(chunks):
    return sum(CHUNK_ROWS * chunk.length for chunk in chunks)


@pytest.mark.parametrize('lengths', [
    [1], [128], [129], [5] * 9, draw(0, 1, 30), draw(1, 20, 90), draw(2, 100, 700),
    draw(3, 1, 600, 17), [512] * 32], ids=lambda lengths: f'{len(lengths)} of {lengths[0]}')
@pytest.mark.parametrize('shapes', [MANY, Shapes(lengths=(48, 100)), Shapes(lengths=(500,))],
                         ids=['many', 'few', 'one'])
def test_each_input_is_in_one_packed_row_that_has_room(lengths, shapes):
    chunks = chunks_of(lengths, shapes)
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
        packed += positions(chunks_of(lengths, MANY))
        apart += sum(CHUNK_ROWS * MANY.length(length) for length in lengths[::CHUNK_ROWS])
    assert tokens < packed < 1.2 * tokens
    assert packed < 0.9 * apart


def test_long_inputs_are_sorted_and_not_packed():
    """No packed row is longer than the longest input asks for, where attention would grow."""
    lengths = draw(0, 130, 257)
    chunks = chunks_of(lengths, MANY)
    assert {len(row) for chunk in chunks for row in chunk.rows} == {1}
    order = [lengths[row[0]] for chunk in chunks for row in chunk.rows]
    assert order == sorted(lengths, reverse=True)
    assert chunks[-1].length < chunks[0].length


@pytest.fixture(scope='module')
def engine(world):
    opened = open_tiny(world / 'model')
    opened = dataclasses.replace(opened, model=dataclasses.replace(opened.model, scan_layers=False))
    engine = Engine(opened, SHAPES, 256, decodings={'beam': beam_search(2)})
    for name, file in prompts(opened).items():
        engine.add(name, file)
    return engine


@pytest.mark.parametrize('decoding', ['sample', 'beam'])
def test_rows_get_in_parts_what_they_get_in_whole_batches(engine, decoding, monkeypatch):
    rows = [engine.row(name, text, rank=False, max_tokens=12, decoding=decoding)
            for name, text in requests(40, 5)]
    if decoding == 'sample':
        rows = [dataclasses.replace(row, options=SamplingSettings(
            temperature=float(number % 3), seed=number)) for number, row in enumerate(rows)]
    cold, warm = engine.run(rows), engine.run(rows)
    assert warm == cold
    compiled = engine.compilations
    assert engine.run(rows) == cold
    assert engine.compilations == compiled
    monkeypatch.setattr('os.sched_getaffinity', lambda _: {0}, raising=False)
    assert not engine.is_warm(rows[:20])
    assert engine.run(rows) == cold


def test_a_warm_engine_is_warm_for_any_mixture_of_lengths(engine):
    row = engine.row(None, 'a film', rank=False, max_tokens=8)
    engine.warm_up([row], longest=48)
    before = engine.compilations
    lengths = np.random.default_rng(0).integers(1, 49, 32)
    rows = [dataclasses.replace(row, ids=np.full(length, 5, np.int32)) for length in lengths]
    assert engine.is_warm(rows)
    engine.run(rows)
    assert engine.compilations == before


@pytest.mark.parametrize('options', [
    {}, {'options': SamplingSettings(1.5, seed=3)}, {'decoding': 'beam'}],
    ids=['greedy', 'sampled', 'beams'])
def test_what_is_not_finite_stays_in_its_own_row_and_is_no_answer(engine, options, monkeypatch):
    """Masked or not, 0 times NaN is NaN: packed rows would pass it on."""
    rows = [engine.row(name, 'a warm film', rank=False, max_tokens=12, **options)
            for name in ['title', 'long', 'mood', 'one'] * 8]
    assert all(len(some) > 1 for part in divide(rows, engine.shapes)
               for chunk in part.chunks for some in chunk.rows)
    expected, table = engine.start(rows).outcomes(), engine.table.rows_RD
    assert len({answer.text for answer in expected}) > 1 or 'options' in options
    offset = engine.prompt('mood').block.offset
    monkeypatch.setattr(engine.table, '_rows_RD', table.at[offset].set(jnp.nan))
    for row, then, now in zip(rows, expected, engine.start(rows).outcomes(), strict=True):
        if row.prompt.name == 'mood':
            assert "prompt 'mood' gives scores that are not finite" in str(now)
        else:
            assert now == then
    with pytest.raises(ValueError, match="row 2: prompt 'mood' gives scores that are not finite"):
        engine.run(rows)
