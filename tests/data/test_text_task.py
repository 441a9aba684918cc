import json

import pytest

from jax_prompt.data.tasks.text_task import TextTask

LABELS = {'0': 'bad', '1': 'good'}
ROWS = [{'text': 'a film', 'label': '0'}, {'text': 'the plot', 'label': '1'}]


def make(rows=ROWS, **kwargs):
    return TextTask('toy', {'train': lambda: rows}, **{'labels': LABELS, **kwargs})


def test_template_and_verbalizer():
    task = make(inputs_template='{{x}} sst2 sentence: {text}!')
    assert list(task.texts('train')) == [
        ('{x} sst2 sentence: a film!', 'bad'), ('{x} sst2 sentence: the plot!', 'good')]


def test_a_column_may_have_any_name():
    task = make(inputs_template='{{{the premise} / {h.y}{text: en} / {x!r}}}{the premise}')
    assert task.columns == ('the premise', 'h.y', 'text: en', 'x!r')
    columns = {'the premise': 'p', 'h.y': 'q', 'text: en': 'r', 'x!r': 's'}
    assert task.render(columns) == '{p / qr / s}p'


def test_braces_in_the_text_stay():
    assert make(inputs_template='{text}').render({'text': '{label} {0}'}) == '{label} {0}'


@pytest.mark.parametrize('value, raw', [(1, '1'), ('1', '1'), (True, 'true'), (1.5, '1.5')])
def test_raw_values_of_json(value, raw):
    assert make(labels={raw: 'yes', 'other': 'no'}).verbalize(value) == 'yes'


def test_words_as_labels_stand_for_themselves():
    task = make(labels=('bad', 'good'))
    assert task.verbalize('good') == 'good'
    assert task.label_words == ('bad', 'good')


def test_two_raw_values_may_share_a_word():
    task = make(labels={'1': 'bad', '2': 'bad', '5': 'good'})
    assert task.label_words == ('bad', 'good')


def test_free_text_has_no_labels():
    task = make(labels=None)
    assert task.label_words is None
    assert task.verbalize('anything') == 'anything'


def test_metadata_round_trip_through_json():
    task = make(inputs_template='x {text}', inputs_length=9, targets_length=3)
    again = TextTask.from_dict(json.loads(json.dumps(task.to_dict())))
    assert again.to_dict() == task.to_dict()
    assert again.render(ROWS[0]) == 'x a film'
    with pytest.raises(ValueError, match="task toy has no split 'train'; it has none"):
        again.rows('train')


def test_metadata_of_something_else():
    with pytest.raises(ValueError, match="task entries are 'name', 'rows'; expected name and"):
        TextTask.from_dict({'name': 'x', 'rows': 3})


def test_a_file_can_be_a_split(write):
    path = write('a.csv', 'text,label\na film,1\n')
    assert list(TextTask('toy', {'train': path}, labels=LABELS).texts('train')) == [
        ('a film', 'good')]


@pytest.mark.parametrize('kwargs, message', [
    ({'inputs_template': 'no field'}, "'no field' names no column, so all inputs would be the s"),
    ({'inputs_template': 'a {text'}, "'a {text' cannot be read from '{text' on; name columns as"),
    ({'inputs_template': '{a} {} x'}, "read from '{} x' on; .* write {{ and }} for braces"),
    ({'inputs_template': '{text}}'}, "cannot be read from '}' on"),
    ({'inputs_template': '{text} {label}'}, "shows the target column 'label', so the answer wo"),
    ({'labels': {}}, 'expected at least two different words to choose from'),
    ({'labels': {'0': 'x', '1': 'x'}}, 'expected at least two different words to choose from'),
    ({'labels': {'0': 'x', '1': ' '}}, "label '1' of task toy has the word ' '; expected text"),
    ({'labels': 'bad good'}, "labels of task toy are 'bad good'; expected a mapping"),
    ({'inputs_length': 0}, 'inputs_length of task toy is 0; expected a whole number from 1, to h'),
    ({'targets_length': True}, 'targets_length of task toy is True; expected a whole number'),
    ({'inputs_length': '8'}, "inputs_length of task toy is '8'; expected a whole number from 1"),
    ({'targets_length': 2**16 + 1}, 'targets_length of task toy is 65537; .* to 65,536'),
    ({'target': 3}, 'target of a task is 3; expected text of at most'),
    ({'inputs_template': '{text}' + 'x' * 20_000}, 'inputs_template of a task is .* most 20,000'),
    ({'labels': list(map(str, range(1001)))}, 'task toy has 1,001 labels; expected at most 1,000'),
    ({'labels': ['a', 'b' * 501]}, 'label .* has the word .*; expected text of at most 500'),
])
def test_what_a_task_refuses(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_unknown_split():
    with pytest.raises(ValueError, match="task toy has no split 'dev'; it has train"):
        make().rows('dev')


def test_empty_split(write):
    with pytest.raises(ValueError, match="split 'train' of task toy is empty: no rows"):
        make(rows=[]).rows('train')
    path = write('a.csv', 'text,label\n')
    with pytest.raises(ValueError, match=r"split 'train' of task toy \(.*a.csv\) is empty: no row"):
        TextTask('toy', {'train': path}).rows('train')


def test_label_outside_the_verbalizer(write):
    path = write('a.csv', 'text,label\na,1\nb,7\n')
    task = TextTask('toy', {'train': path}, labels=LABELS)
    with pytest.raises(ValueError, match="label '7' in column 'label' at a.csv line 3 is outside "
                                         "the verbalizer of task toy; allowed: '0', '1'"):
        list(task.texts('train'))


@pytest.mark.parametrize('rows, message', [
    ([{'body': 'x', 'label': '1'}], "column 'text' is not there at row 1 of split train; the "
                                    "columns there are 'body', 'label'"),
    ([{'text': 'x'}], "column 'label' is not there at row 1 of split train"),
    ([ROWS[0], {'text': None, 'label': '1'}], "column 'text' at row 2 of split train holds nothin"),
    ([{'text': ['x'], 'label': '1'}], "column 'text' at row 1 of split train holds a list; expec"),
    ([{'text': 'x', 'label': float('nan')}], "'label' at row 1 of split train holds nan; expected"),
    ([{'text': 1e999, 'label': '1'}], "column 'text' at row 1 of split train holds inf; expected"),
    ([{'text': 'é \ud83d', 'label': '1'}],
     r"at row 1 of split train holds half of a surrogate pair \('\\ud83d'\); expected text"),
    ([{'text': ('x', ''), 'label': '1'}],
     'holds 2 values, since the first line names 2 columns so; expected text or a number'),
    ([{f'column {i}': 1 for i in range(5000)}], "'column 7' and 4,992 more$"),
    ([{'text': 'x', 'label': 'y' * 5000}], r"label 'y{79}... \(5,002 characters\) in column"),
])
def test_rows_that_do_not_fit(rows, message):
    with pytest.raises(ValueError, match=message):
        list(make(rows=rows).texts('train'))
