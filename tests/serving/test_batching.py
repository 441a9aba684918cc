"""Dynamic batching: no row waits too long, batches fill up, nothing is lost."""

import threading
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest

from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.parts import Part
from jax_prompt.serving import batching
from jax_prompt.serving.batching import Batcher, BatchFailed, Busy, Stopped


class Row:
    """As much of a row as a batcher looks at."""

    passes = 1

    def __init__(self, number=0, length=4, group=('rank', 0)):
        self.number, self.group, self.ids = number, group, np.zeros(length, np.int32)


class Engine:
    """Answers each row by its number, once `open` is set; notes the batches."""

    shapes = Shapes(batch_sizes=(1, 4, 8), lengths=(8, 16, 64))

    def __init__(self):
        self.batches, self.open, self.cold = [], threading.Event(), set()
        self.ready = 0  # rows of a larger program that is there for what is cold
        self.open.set()

    def divide(self, rows):
        return [row.number for row in rows]

    def is_warm(self, rows, parts):
        assert parts == self.divide(rows)
        return rows[0].group not in self.cold

    def padded(self, rows):
        return self.ready and [Part(tuple(range(len(rows[:self.ready]))), self.ready, 64)]

    def start(self, rows, parts):
        assert parts in (None, self.divide(rows)) or len(parts[0].numbers) == len(rows)
        self.batches.append([row.number for row in rows])
        if any(row.number == 'fails' for row in rows):
            raise RuntimeError('no such program')
        if rows[0].group in self.cold:
            time.sleep(0.5)
        return self, rows

    # What `start` gives is asked for answers.
    def answers_of(self, rows):
        self.open.wait(10)
        return [row.number for row in rows]


class Running:
    def __init__(self, engine, rows):
        self.engine, self.rows = engine, rows

    def outcomes(self):
        return self.engine.answers_of(self.rows)


@pytest.fixture
def engine(monkeypatch):
    engine = Engine()
    start = engine.start
    monkeypatch.setattr(engine, 'start', lambda *batch: Running(*start(*batch)))
    return engine


def test_rows_that_come_together_share_a_batch(engine):
    with Batcher(engine, max_wait=0.2) as batcher:
        answers = [batcher.submit(Row(number)) for number in range(6)]
        assert [answer.result(5) for answer in answers] == list(range(6))
    assert engine.batches == [[0, 1, 2, 3, 4, 5]]


def test_a_full_batch_does_not_wait(engine):
    with Batcher(engine, max_wait=30) as batcher:
        answers = [batcher.submit(Row(number)) for number in range(16)]
        assert [answer.result(5) for answer in answers] == list(range(16))
    assert [len(batch) for batch in engine.batches] == [8, 8]


def test_a_lone_row_waits_no_longer_than_it_may(engine):
    with Batcher(engine, max_wait=0.05) as batcher:
        began = time.monotonic()
        assert batcher.submit(Row(1)).result(5) == 1
        assert 0.04 < time.monotonic() - began < 2


def test_what_is_not_compiled_goes_through_a_larger_program_if_there_is_one(engine):
    engine.cold, engine.ready = {('rank', 0)}, 2
    with Batcher(engine, max_wait=0.1) as batcher:
        answers = [batcher.submit(Row(number)) for number in range(5)]
        assert [answer.result(20) for answer in answers] == list(range(5))
        assert not batcher.compiles
    assert engine.batches == [[0, 1], [2, 3], [4]]


def test_groups_do_not_share_a_batch(engine):
    with Batcher(engine, max_wait=0.02) as batcher:
        answers = [batcher.submit(Row(number, group=('rank', number % 2))) for number in range(8)]
        assert [answer.result(5) for answer in answers] == list(range(8))
    assert sorted(engine.batches) == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_rows_gather_while_the_device_is_busy(engine):
    engine.open.clear()
    with Batcher(engine, max_wait=0.001) as batcher:
        answers = []
        for number in range(20):
            answers.append(batcher.submit(Row(number)))
            time.sleep(0.005)
        engine.open.set()
        assert [answer.result(5) for answer in answers] == list(range(20))
    assert max(map(len, engine.batches)) == 8


def test_short_rows_do_not_pay_for_a_long_one_that_came_later(engine, monkeypatch):
    monkeypatch.setattr(batching, '_UNDER_WAY_ON_CPU', 2)
    engine.open.clear()
    with Batcher(engine, max_wait=0.001) as batcher:
        first = [batcher.submit(Row('a')), ]
        time.sleep(0.1)
        first.append(batcher.submit(Row('b')))  # two batches under way: the others queue up
        time.sleep(0.1)
        lengths = [5, 60, 5, 5, 60, 5]
        answers = [batcher.submit(Row(n, length)) for n, length in enumerate(lengths)]
        engine.open.set()
        assert [answer.result(5) for answer in answers] == list(range(6))
    assert engine.batches[2:] == [[0, 2, 3, 5], [1, 4]]


def test_the_oldest_row_is_in_the_next_batch_though_others_fit_better(engine, monkeypatch):
    monkeypatch.setattr(batching, '_UNDER_WAY_ON_CPU', 2)
    engine.open.clear()
    with Batcher(engine, max_wait=0.001) as batcher:
        for number in 'ab':
            batcher.submit(Row(number))
            time.sleep(0.1)
        answers = [batcher.submit(Row(0, 60)), *(batcher.submit(Row(n)) for n in range(1, 9))]
        engine.open.set()
        assert [answer.result(5) for answer in answers] == list(range(9))
    assert 0 in engine.batches[2]


def test_a_long_row_is_run_with_the_longest_of_the_others(engine):
    engine.open.clear()
    with Batcher(engine, max_wait=0.001) as batcher:
        batcher.submit(Row('a'))
        time.sleep(0.1)
        lengths = [60, 5, 5, 60, 12, 60, 5, 60]
        answers = [batcher.submit(Row(n, length)) for n, length in enumerate(lengths)]
        engine.open.set()
        assert [answer.result(5) for answer in answers] == list(range(8))
    assert engine.batches[1:] == [[0, 3, 5, 7], [1, 2, 4, 6]]


def test_rows_that_generate_share_the_weights_rather_than_the_length(engine):
    engine.open.clear()
    with Batcher(engine, max_wait=0.001) as batcher:
        batcher.submit(Row('a'))
        time.sleep(0.1)
        rows = [Row(n, length) for n, length in enumerate([60, 5, 5, 60, 12, 60, 5, 60])]
        for row in rows:
            row.passes = 33
        answers = [batcher.submit(row) for row in rows]
        engine.open.set()
        assert [answer.result(5) for answer in answers] == list(range(8))
    assert engine.batches[1:] == [list(range(8))]


@pytest.mark.parametrize(('later', 'order'), [
    (2.0, [list('bcdefghi'), ['a']]),    # one row for 8 would be dear
    (100.0, [['a'], list('bcdefghi')])])  # but it has waited for so long
def test_few_rows_let_many_go_first_but_not_for_ever(engine, later, order):
    now = [0.0]
    engine.open.clear()
    with Batcher(engine, max_wait=0.001, clock=lambda: now[0]) as batcher:
        first = batcher.submit(Row('first', group=('rank', 1)))
        now[0] = 1.0
        while engine.batches != [['first']]:
            time.sleep(0.001)
        answers = [batcher.submit(Row('a', group=('generate', 0)))]
        now[0] += later
        answers += [batcher.submit(Row(name)) for name in 'bcdefghi']
        now[0] += 1.0
        engine.open.set()
        assert [answer.result(10) for answer in (first, *answers)] == ['first', *'abcdefghi']
    assert engine.batches[1:] == order


def test_a_program_that_must_be_compiled_does_not_hold_up_the_others(engine):
    engine.cold.add(('generate', 8))
    with Batcher(engine, max_wait=0.001) as batcher:
        slow = batcher.submit(Row('slow', group=('generate', 8)))
        time.sleep(0.05)
        began = time.monotonic()
        assert batcher.submit(Row('quick')).result(5) == 'quick'
        assert time.monotonic() - began < 0.4 and not slow.done()
        assert slow.result(5) == 'slow'


def test_rows_that_wait_for_a_program_count_can_be_cancelled_and_share_batches(engine):
    engine.cold.add(('generate', 8))
    start, compiling, go = engine.start, threading.Event(), threading.Event()

    def compile(rows, parts):
        compiling.set()
        go.wait(10)
        engine.cold.clear()
        return start(rows, parts)

    engine.start = compile
    with Batcher(engine, max_wait=0.001, max_queue=10) as batcher:
        first = batcher.submit(Row('first', group=('generate', 8)))
        assert compiling.wait(5)
        for _ in range(3):  # who leaves makes room
            left = [batcher.submit(Row('left', group=('generate', 8))) for _ in range(10)]
            # Whether they were found to be cold by now or not.
            end = time.monotonic() + 0.02
            while time.monotonic() < end:
                with pytest.raises(Busy, match='10 requests are waiting'):
                    batcher.submit(Row('one too many', group=('generate', 8)))
            assert all(answer.cancel() for answer in left) and batcher.waiting == 0
        answers = [batcher.submit(Row(n, group=('generate', 8))) for n in range(8)]
        go.set()
        assert first.result(5) == 'first'
        assert [answer.result(5) for answer in answers] == list(range(8))
    assert engine.batches == [['first'], list(range(8))]
    assert batcher.unanswered == 0


def test_a_full_queue_refuses(engine):
    engine.open.clear()
    with Batcher(engine, max_wait=10, max_queue=3) as batcher:
        answers = [batcher.submit(Row(number)) for number in range(3)]
        with pytest.raises(Busy, match='3 requests are waiting'):
            batcher.submit(Row(3))
        assert batcher.waiting == 3
        engine.open.set()
    assert [answer.result(0) for answer in answers] == [0, 1, 2]


def test_stopping_answers_what_is_there_and_takes_nothing_more(engine):
    batcher = Batcher(engine, max_wait=30)
    with batcher:
        answers = [batcher.submit(Row(number)) for number in range(5)]
    assert [answer.result(0) for answer in answers] == list(range(5))
    with pytest.raises(Stopped):
        batcher.submit(Row())
    assert batcher.unanswered == batcher.waiting == 0


def test_what_nobody_waits_for_any_more_is_not_worked_on(engine):
    engine.open.clear()
    with Batcher(engine, max_wait=0.2) as batcher:
        answers = [batcher.submit(Row(number)) for number in range(4)]
        assert answers[1].cancel()
        engine.open.set()
        assert answers[3].result(5) == 3
        with pytest.raises(CancelledError):
            answers[1].result(0)
    assert engine.batches == [[0, 2, 3]]


def test_an_error_reaches_its_own_batch_alone(engine):
    with Batcher(engine, max_wait=0.001) as batcher:
        with pytest.raises(BatchFailed, match='its log says how') as failed:
            batcher.submit(Row('fails')).result(5)
        assert str(failed.value.__cause__) == 'no such program'
        assert [batcher.submit(Row(n)).result(5) for n in range(4)] == list(range(4))


def test_answers_arrive_though_watching_fails(engine):
    with Batcher(engine, max_wait=0.001, watch=lambda *_: 1 / 0) as batcher:
        assert [batcher.submit(Row(n)).result(5) for n in range(4)] == list(range(4))


def test_many_threads_lose_nothing(engine):
    found, watched = [], []

    def watch(rows, waited, seconds):
        watched.append((len(rows), waited))

    with Batcher(engine, max_wait=0.002, watch=watch) as batcher:

        def work(thread):
            for number in range(30):
                found.append(batcher.submit(Row((thread, number), 4 + number)).result(20))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(found) == [(thread, number) for thread in range(16) for number in range(30)]
    assert sum(count for count, _ in watched) == 480
    assert max(map(len, engine.batches)) <= 8
