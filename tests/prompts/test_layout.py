"""Layouts: which ids stand where, by exhaustive loops over small inputs."""

import itertools
import json

import numpy as np
import pytest

from jax_prompt.prompts.layout import Layout

V, EOS, MARKER = 100, 1, 99

LAYOUTS = [
    Layout(),
    Layout('after'),
    Layout('after', after_end=True),
    Layout('around'),
    Layout('around', after_end=True),
    Layout('around', rows_before=0),
    Layout('around', rows_before=1, after_end=True),
    Layout('marker'),
    Layout('marker', marker='<extra_id_0>'),
]


def text(length, marker_at=None):
    """A text of different tokens, with a marker before the given one."""
    tokens = list(range(2, 2 + length))
    if marker_at is not None:
        tokens.insert(marker_at, MARKER)
    return np.array(tokens, np.int32)


def cases():
    """Layouts with every small combination of text, prompt and room."""
    for layout, length, rows in itertools.product(LAYOUTS, range(6), range(5)):
        for max_length in (None, 1, 2, 4, 6, 9):
            if rows < (layout.rows_before or 0):
                continue
            marks = range(length + 1) if layout.placement == 'marker' else [None]
            for marker_at in marks:
                yield layout, length, rows, max_length, marker_at


def test_whatever_the_layout_the_prompt_the_end_and_the_text_are_whole():
    seen = 0
    for layout, length, rows, max_length, marker_at in cases():
        ids, truncated = layout.insert(
            text(length, marker_at), rows, V, EOS, max_length, MARKER
        )
        room = length + 1 if max_length is None else min(length + 1, max_length)
        assert ids.dtype == np.int32 and ids.shape == (room + rows,)
        assert ids[ids >= V].tolist() == list(range(V, V + rows))  # each once and in order
        plain = ids[ids < V].tolist()
        assert plain == [*text(length)[: room - 1].tolist(), EOS]
        assert truncated == (room < length + 1)
        seen += 1
    assert seen > 2000


def test_no_rows_leave_the_plain_input():
    for layout, length, rows, max_length, marker_at in cases():
        if rows == 0:
            ids, _ = layout.insert(text(length, marker_at), 0, V, EOS, max_length, MARKER)
            keep = length if max_length is None else min(length, max_length - 1)
            assert ids.tolist() == [*text(length)[:keep].tolist(), EOS]


@pytest.mark.parametrize(('layout', 'expected'), [
    (Layout(), [100, 101, 102, 2, 3, 1]),
    (Layout('after'), [2, 3, 100, 101, 102, 1]),
    (Layout('after', after_end=True), [2, 3, 1, 100, 101, 102]),
    (Layout('around'), [100, 2, 3, 101, 102, 1]),
    (Layout('around', after_end=True), [100, 2, 3, 1, 101, 102]),
    (Layout('around', rows_before=2), [100, 101, 2, 3, 102, 1]),
    (Layout('around', rows_before=3, after_end=True), [100, 101, 102, 2, 3, 1]),
])
def test_rows_stand_where_the_layout_says(layout, expected):
    assert layout.insert(text(2), 3, V, EOS, 512)[0].tolist() == expected


@pytest.mark.parametrize(('marker_at', 'max_length', 'expected'), [
    (0, 512, [100, 101, 2, 3, 4, 1]),
    (1, 512, [2, 100, 101, 3, 4, 1]),
    (3, 512, [2, 3, 4, 100, 101, 1]),
    (1, 3, [2, 100, 101, 3, 1]),
    (3, 3, [2, 3, 100, 101, 1]),  # beyond the kept text: it moves to the end
    (3, 1, [100, 101, 1]),
])
def test_rows_replace_the_marker(marker_at, max_length, expected):
    ids, _ = Layout('marker').insert(text(3, marker_at), 2, V, EOS, max_length, MARKER)
    assert ids.tolist() == expected


def test_a_text_that_just_fits_is_not_trimmed():
    assert Layout().insert(text(3), 50, V, EOS, 4)[1] is False
    assert Layout().insert(text(4), 50, V, EOS, 4)[1] is True


def test_the_text_given_is_not_changed():
    tokens = text(3, 1)
    before = tokens.copy()
    Layout('marker').insert(tokens, 2, V, EOS, 2, MARKER)
    np.testing.assert_array_equal(tokens, before)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts_survive_json(layout):
    assert Layout.from_dict(json.loads(json.dumps(layout.to_dict()))) == layout


def test_layouts_describe_themselves():
    assert Layout().describe(20) == '20 virtual tokens before the text'
    assert Layout('after', after_end=True).describe() == (
        'virtual tokens after the text, after the end token'
    )
    assert 'the first 3 in front' in Layout('around', rows_before=3).describe(8)
    assert Layout('marker').describe(2) == '2 virtual tokens in the place of <extra_id_99>'
    assert len({layout.describe() for layout in LAYOUTS}) == len(LAYOUTS)


@pytest.mark.parametrize(('values', 'message'), [
    ({'placement': 'middle'}, "placement 'middle'; choose one of before, after, around, marker"),
    ({'placement': None}, 'unknown prompt placement None'),
    ({'after_end': True}, "after_end=True does not apply to placement 'before'"),
    ({'placement': 'after', 'after_end': 1}, 'after_end is 1; expected true or false'),
    ({'rows_before': 2}, "rows_before=2 does not apply to placement 'before'"),
    ({'placement': 'around', 'rows_before': -1}, 'rows_before is -1; expected a whole number'),
    ({'placement': 'around', 'rows_before': 1.5}, r'rows_before is 1\.5; expected'),
    ({'placement': 'around', 'rows_before': True}, 'rows_before is True; expected'),
    ({'marker': '<x>'}, "marker='<x>' does not apply to placement 'before'"),
    ({'placement': 'marker', 'marker': ''}, "marker is ''; expected one vocabulary entry"),
    ({'place': 'after'}, "unknown entries 'place'; expected some of placement, after_end"),
    (['before'], 'expected a dictionary'),
])
def test_impossible_layouts_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Layout.from_dict(values)


@pytest.mark.parametrize(('layout', 'tokens', 'arguments', 'message'), [
    (Layout('marker'), [2, 3], {'marker_id': MARKER}, r'\(id 99\) is missing in an input of 2'),
    (Layout('marker'), [99, 3, 99], {'marker_id': MARKER}, 'stands 2 times.*tokens 0 and 2'),
    (Layout('marker'), [2, 99], {}, 'no single entry for the marker'),
    (Layout('around', rows_before=4), [2], {}, '4 rows before the text but the prompt has 3'),
    (Layout(), [2], {'max_length': 0}, 'max_length is 0; at least 1'),
    (Layout(), [2, V], {}, "token id 100 is outside the model's vocabulary of 100 rows"),
    (Layout(), [-2], {}, 'token id -2 is outside'),
])
def test_impossible_inputs_are_refused(layout, tokens, arguments, message):
    with pytest.raises(ValueError, match=message):
        layout.insert(np.array(tokens), 3, V, EOS, **arguments)


def test_rows_stand_at_two_markers_around_the_words_between_them():
    layout = Layout('marker', rows_before=2)
    text = [9, 50, 7, 8, 9, 6]
    ids, cut = layout.insert(text, 3, 100, 1, None, marker_id=9)
    assert ids.tolist() == [100, 101, 50, 7, 8, 102, 6, 1] and not cut
    ids, cut = layout.insert(text, 3, 100, 1, 3, marker_id=9)  # a marker that is cut moves along
    assert ids.tolist() == [100, 101, 50, 7, 102, 1] and cut
    assert Layout('marker', rows_before=0).insert(text, 2, 100, 1, None, 9)[0].tolist() == [
        50, 7, 8, 100, 101, 6, 1]
    with pytest.raises(ValueError, match='stands once in an input, but rows_before puts rows in '
                                         'two places; put it twice'):
        layout.insert([9, 5], 3, 100, 1, None, 9)
    with pytest.raises(ValueError, match=r'stands 3 times .*keep exactly two'):
        layout.insert([9, 9, 9], 3, 100, 1, None, 9)
    with pytest.raises(ValueError, match='puts 4 rows at the first marker but the prompt has 3'):
        Layout('marker', rows_before=4).insert(text, 3, 100, 1, None, 9)
    assert layout.describe(3) == ('3 virtual tokens in the place of <extra_id_99>, the first 2 at '
                                  'its first place')
