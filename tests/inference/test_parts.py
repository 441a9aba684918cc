"""Batches that a CPU generates in parts: every row once, the answers those of the whole."""

import dataclasses
import threading
import types

import numpy as np
import pytest

from jax_prompt.inference.chunks import Chunk
from jax_prompt.inference.decodings import beam_search
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.parts import Part, Parts
from jax_prompt.inference.sampling import SamplingSettings
from jax_prompt.inference.shapes import Shapes
from jax_prompt.models.t5.kernel_first import with_steps
from tests.inference.many_prompts import open_tiny, prompts, requests

SHAPES = Shapes(batch_sizes=(8, 32), lengths=(16, 32, 48), labels=((8, 4),), targets=(16,),
                shared_labels=1)


def rows_of(lengths, labels=None):
    return [types.SimpleNamespace(ids=np.ones(length, np.int32), labels=labels)
            for length in lengths]


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.setattr('os.sched_getaffinity', lambda _: {0, 1}, raising=False)
    return Parts()


@pytest.mark.parametrize('count', [9, 15, 16, 17, 31, 32])
def test_every_row_is_in_one_part_and_has_room(parts, count):
    rows = rows_of(np.random.default_rng(count).integers(1, 48, count))
    found = parts.of(rows, SHAPES)
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


def test_a_single_row_with_room_for_many_is_one_part(parts):
    found, = parts.of(rows_of([5]), Shapes(batch_sizes=(32,), lengths=(16,)))
    assert found.numbers == (0,) and found.chunks == (Chunk(((0,),), 32),)


def test_small_batches_and_ranked_ones_stay_whole(parts):
    assert parts.of(rows_of([5] * 8), SHAPES) == [Part(tuple(range(8)), 8, 16)]
    assert parts.of(rows_of([20] * 20, labels=('a', 'b')), SHAPES) == [
        Part(tuple(range(20)), 32, 32)]
    assert len(Parts(enabled=False).of(rows_of([5] * 20), SHAPES)) == 1


def test_one_core_leaves_batches_whole(monkeypatch):
    monkeypatch.setattr('os.sched_getaffinity', lambda _: {0}, raising=False)
    assert len(Parts().of(rows_of([5] * 20), SHAPES)) == 1


def test_no_part_decodes_before_all_have_encoded(parts):
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

    results = parts.start([work(0), work(1)], aside=True)
    assert first.wait(10)
    assert seen == [('encode', 0)]
    go.set()
    assert [result()[0] for result in results] == [0.0, 1.0]
    assert {what for what, _ in seen[:2]} == {'encode'}


def test_a_part_that_cannot_encode_fails_the_batch_and_holds_up_nothing(parts):
    def fail():
        raise RuntimeError('out of memory')

    def fine():
        return np.ones(1)

    good, bad = (fine, lambda inputs: inputs), (fail, lambda inputs: inputs)
    for wait in parts.start([bad, good], aside=True):
        with pytest.raises(RuntimeError, match='out of memory'):
            wait()
    assert parts.start([good, good], aside=True)[0]()[0] == 1.0


def test_batches_from_many_threads_do_not_wait_for_each_other(parts):
    done = []

    def run():
        works = [(lambda: np.zeros(1), lambda inputs: inputs)] * 2
        done.extend(result() for _ in range(20) for result in parts.start(works, aside=True))

    threads = [threading.Thread(target=run, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(done) == 4 * 20 * 2


@pytest.fixture(scope='module')
def opened(world):
    opened = open_tiny(world / 'model')
    opened.model = dataclasses.replace(opened.model, scan_layers=False)
    opened.for_generation = with_steps(opened.frozen)
    return opened


@pytest.mark.parametrize('decoding', ['sample', 'beam'])
def test_rows_get_in_parts_what_they_get_in_whole_batches(opened, decoding, monkeypatch):
    def answers(enabled):
        monkeypatch.setattr('jax_prompt.inference.engine.Parts', lambda **_: Parts(enabled))
        engine = Engine(opened, SHAPES, 256, decodings={'beam': beam_search(2)})
        for name, file in prompts(opened).items():
            engine.add(name, file)
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
        return cold

    monkeypatch.setattr('os.sched_getaffinity', lambda _: {0, 1}, raising=False)
    assert answers(True) == answers(False)


def test_a_warm_engine_is_warm_for_any_mixture_of_lengths(opened, monkeypatch):
    monkeypatch.setattr('os.sched_getaffinity', lambda _: {0, 1}, raising=False)
    engine = Engine(opened, SHAPES, 256)
    row = engine.row(None, 'a film', rank=False, max_tokens=8)
    engine.warm_up([row], longest=48)
    before = engine.compilations
    lengths = np.random.default_rng(0).integers(1, 49, 32)
    rows = [dataclasses.replace(row, ids=np.full(length, 5, np.int32)) for length in lengths]
    assert engine.is_warm(rows)
    engine.run(rows)
    assert engine.compilations == before
