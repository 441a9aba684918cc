"""The table of prompts: blocks never overlap, come back, and nothing in flight is disturbed."""

import logging

import numpy as np
import pytest

from jax_prompt.inference.prompt_table import FreeRows, PromptTable


def rows(count, value):
    return np.full((count, 4), value, np.float32)


def content(table, block, count):
    return np.asarray(table.rows_RD)[block.offset:block.offset + count]


def test_free_rows_are_taken_first_fit_and_join_when_they_come_back():
    free = FreeRows(40)
    assert [free.take(8) for _ in range(5)] == [0, 8, 16, 24, 32]
    assert free.take(8) is None and free.count == 0
    free.give(24, 8)
    free.give(8, 8)
    assert free.take(16) is None  # sixteen are free, but not side by side
    free.give(16, 8)
    assert free.take(16) == 8 and free.take(8) == 24 and free.count == 0


def test_free_rows_at_random_never_overlap_and_none_is_lost():
    draw, free, held = np.random.default_rng(0), FreeRows(512), {}
    for _ in range(2000):
        if held and draw.random() < 0.5:
            offset = draw.choice(list(held))
            free.give(int(offset), held.pop(offset))
        else:
            size = int(2**draw.integers(3, 7))
            offset = free.take(size)
            if offset is not None:
                held[offset] = size
        taken = [row for offset, size in held.items() for row in range(offset, offset + size)]
        assert len(taken) == len(set(taken)) == 512 - free.count
    for offset, size in held.items():
        free.give(offset, size)
    assert free.take(512) == 0


def test_blocks_hold_what_was_put_and_nothing_of_their_neighbours():
    table = PromptTable(4, capacity=64)
    blocks = [table.put(rows(count, value)) for value, count in enumerate((5, 8, 1, 9), start=1)]
    for value, (block, count) in enumerate(zip(blocks, (5, 8, 1, 9), strict=True), start=1):
        np.testing.assert_array_equal(content(table, block, count), rows(count, value))
    spans = sorted((block.offset, block.offset + block.size) for block in blocks)
    assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))


def test_rows_are_free_again_once_nobody_refers_to_the_block():
    table = PromptTable(4, capacity=16)
    first, second = table.put(rows(8, 1)), table.put(rows(8, 2))
    assert table.free_rows == 0
    kept = first  # as a request does that is not answered yet
    del first
    assert table.free_rows == 0
    before = table.rows_RD
    del kept
    third = table.put(rows(8, 3))
    assert third.offset == 0
    np.testing.assert_array_equal(content(table, second, 8), rows(8, 2))
    np.testing.assert_array_equal(np.asarray(before)[:8], rows(8, 1))  # a batch in flight has it


def test_a_full_table_doubles_says_so_and_keeps_its_rows(caplog):
    table = PromptTable(4, capacity=16)
    held = [table.put(rows(8, value)) for value in (1, 2)]
    with caplog.at_level(logging.WARNING):
        held.append(table.put(rows(30, 3)))
    assert table.capacity == 64
    assert [record.getMessage().split(';')[0] for record in caplog.records] == [
        'the prompt table grows from 16 to 32 rows', 'the prompt table grows from 32 to 64 rows']
    for value, (block, count) in enumerate(zip(held, (8, 8, 30), strict=True), start=1):
        np.testing.assert_array_equal(content(table, block, count), rows(count, value))


def test_a_prompt_that_cannot_be_written_takes_no_rows(monkeypatch):
    table = PromptTable(4, capacity=16)
    held = table.put(rows(8, 1))

    assert table.rows_RD is not None  # used: the table is on the device from here on

    def fail(*_):
        raise RuntimeError('out of memory')

    with monkeypatch.context() as patched:
        patched.setattr(table, '_write', fail)
        with pytest.raises(RuntimeError, match='out of memory'):
            table.put(rows(8, 2))
    assert table.free_rows == 8
    assert table.put(rows(8, 3)).offset == 8 and table.capacity == 16
    np.testing.assert_array_equal(content(table, held, 8), rows(8, 1))


def test_warmed_up_no_length_compiles_anything():
    table = PromptTable(4, capacity=512)
    held = table.put(rows(3, 7))
    table.warm_up(100)
    np.testing.assert_array_equal(content(table, held, 3), rows(3, 7))
    compiled = table.compilations
    for count in (1, 7, 8, 9, 50, 100):
        table.put(rows(count, 1))
    assert table.compilations == compiled <= 5


@pytest.mark.parametrize('shape', [(2, 3), (4,)])
def test_a_prompt_of_another_width_is_refused(shape):
    with pytest.raises(ValueError, match='does not fit a table of width D=4'):
        PromptTable(4).put(np.zeros(shape, np.float32))


def test_a_table_without_rows_is_refused():
    with pytest.raises(ValueError, match='capacity 0; expected at least 1'):
        PromptTable(4, capacity=0)
