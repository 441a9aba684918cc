import json

import pytest

from jax_prompt.data.tasks.files import file_task, normalized, split_of


def table(num=200, offset=0, labels=('neg', 'pos')):
    """A CSV of so many different texts."""
    return 'text,label\n' + ''.join(
        f'review {i + offset},{labels[i % len(labels)]}\n' for i in range(num))


def all_texts(task):
    return {split: [normalized(text) for text, _ in task.texts(split)] for split in task.splits}


def test_one_file_is_cut_by_a_hash_of_the_text(write):
    task = file_task(write('mine.csv', table(2000)))
    parts = all_texts(task)
    assert list(parts) == ['train', 'validation', 'test']
    assert sorted(sum(parts.values(), [])) == sorted(f'review {i}' for i in range(2000))
    assert 150 < len(parts['validation']) < 250 and 150 < len(parts['test']) < 250
    assert all(split_of(text) == split for split, texts in parts.items() for text in texts)
    assert task.name == 'mine'


def test_no_text_is_in_two_splits_and_duplicates_are_taken_once(write):
    doubled = table(300) + ''.join(
        f' REVIEW  {i},{("neg", "pos")[i % 2]}\n' for i in range(300))
    parts = all_texts(file_task(write('a.csv', doubled), labels='auto'))
    texts = sum(parts.values(), [])
    assert len(texts) == len(set(texts)) == 300


def test_texts_with_conflicting_labels_are_left_out(write):
    path = write('a.csv', table(300) + 'Review 7,neg\nreview 8,pos\n')
    texts = sum(all_texts(file_task(path, labels='auto')).values(), [])
    assert 'review 7' not in texts and 'review 8' not in texts
    assert len(texts) == 298


def test_free_text_keeps_several_targets_of_a_text_in_one_split(write):
    path = write('a.csv', table(300) + 'review 7,another answer\n')
    parts = all_texts(file_task(path))
    assert sum(texts.count('review 7') for texts in parts.values()) == 2
    assert parts[split_of('review 7')].count('review 7') == 2


def test_rewording_the_template_moves_no_text(write):
    path = write('a.csv', table(300))
    plain, worded = file_task(path), file_task(path, inputs_template='say: {text} ?')
    assert [f'say: {text} ?' for text in all_texts(plain)['test']] == all_texts(worded)['test']


def test_given_files_are_used_as_they_are(write):
    task = file_task(write('a.csv', table(50)), write('b.csv', table(7, 100)),
                     write('c.csv', table(5, 200)))
    assert {split: len(texts) for split, texts in all_texts(task).items()} == {
        'train': 50, 'validation': 7, 'test': 5}


def test_validation_alone_is_cut_where_only_a_test_file_is_given(write):
    task = file_task(write('a.csv', table(300)), test_file=write('c.csv', table(5, 900)))
    parts = all_texts(task)
    assert len(parts['test']) == 5
    assert len(parts['train']) + len(parts['validation']) == 300
    assert list(parts) == ['train', 'validation', 'test']


def test_training_file_is_not_cut_where_only_a_validation_file_is_given(write):
    task = file_task(write('a.csv', table(300)), write('b.csv', table(5, 900)))
    assert {split: len(texts) for split, texts in all_texts(task).items()} == {
        'train': 300, 'validation': 5}


@pytest.mark.parametrize('kind', ['tsv', 'jsonl'])
def test_other_kinds_of_files(write, kind):
    rows = [(f'review {i}', ('bad', 'good')[i % 2]) for i in range(100)]
    text = {'tsv': 'body\tstars\n' + ''.join(f'{a}\t{b}\n' for a, b in rows),
            'jsonl': ''.join(f'{{"body": "{a}", "stars": "{b}"}}\n' for a, b in rows)}[kind]
    task = file_task(write(f'a.{kind}', text), inputs_template='{body}', target_column='stars',
                     labels='auto')
    assert task.label_words == ('bad', 'good')
    assert set(task.texts('train')) < set(rows)


def test_auto_labels_are_those_of_the_training_file_sorted(write):
    train = write('a.csv', table(30, labels=('c', 'a', 'b')))
    task = file_task(train, write('b.csv', table(3, labels=('a', 'b'))), labels='auto')
    assert task.label_words == ('a', 'b', 'c')
    with pytest.raises(ValueError, match="label 'z' in column 'label' at c.csv line 3 is outside"):
        file_task(train, write('c.csv', table(3, labels=('a', 'z'))), labels='auto')


@pytest.mark.parametrize('labels', ['auto', {'neg': 'bad', 'pos': 'good', 'rare': 'odd'}])
def test_a_rare_label_is_learned_though_its_texts_were_cut_off(write, labels, caplog):
    cut = [f'text {i}' for i in range(300) if split_of(f'text {i}') == 'validation']
    path = write('a.csv', table(100) + ''.join(f'{text},rare\n' for text in cut[:2]))
    with caplog.at_level('INFO'):
        task = file_task(path, labels=labels)
    word = 'rare' if labels == 'auto' else 'odd'
    assert set(task.label_words) == {'neg', 'pos', word} or labels != 'auto'
    assert [target for _, target in task.texts('train')].count(word) == 2
    assert not any(target == word for split in ('validation', 'test')
                   for _, target in task.texts(split))
    assert f"2 rows stay in training, which else had none of the labels '{word}'" in caplog.text
    assert len(sum(all_texts(task).values(), [])) == 102


@pytest.mark.parametrize('labels, message', [
    (('good', 'bad', 'good '), r"alike: 'good' \(34 rows\), 'good ' \(33 rows\); make them one"),
    (('good', 'bad', 'GOOD'), r"look alike: 'GOOD' \(33 rows\), 'good' \(34 rows\); .* a mapping"),
    (('für', 'gegen', 'fu\u0308r'), r"look alike: 'fu.u0308r' \(33 rows\), 'f.xfcr' \(34 rows\)"),
    (('a', 'b', 'a\u200b'), r"look alike: 'a' \(34 rows\), 'a.u200b' \(33 rows\)"),
    (('1', '0', '1.0', '0.0'), r"'0' \(25 rows\), '0.0' \(.* \(and 1 more groups\); make"),
    (('a', 'b', ' '), "'label' at a.csv line 4 holds ' '; 33 of 100 rows have no label; fill them"),
    (('a', 'NaN', 'b', ''), "'label' at a.csv line 3 holds 'NaN'; 50 of 100 rows have no label"),
    ([f'answer {i}' for i in range(60)], "'label' holds 60 different values in 100 rows .'answer "
     "0', 'answer 1', 'answer 2' and 57 more., too many for labels=auto .* leave labels out"),
])
def test_values_that_are_hardly_labels_are_told_with_their_counts(write, labels, message):
    path = write('a.csv', table(100, labels=labels))
    with pytest.raises(ValueError, match=message):
        file_task(path, labels='auto')
    if len(labels) < 5 and all(map(str.strip, labels)):
        assert file_task(path, labels={label: f'word {i // 2}' for i, label in enumerate(labels)})


def test_cells_that_hold_nothing_are_counted(write):
    path = write('a.jsonl', ''.join(
        f'{{"text": "{i}", "label": {("1", "NaN", "null")[i % 3]}}}\n' for i in range(9)))
    with pytest.raises(ValueError, match="'label' at a.jsonl line 2 holds nothing .* 6 of 9 rows"):
        file_task(path, labels='auto')


def test_free_text_that_is_none_is_warned_of(write, caplog):
    path = write('a.csv', 'text,label\nhello there,\n,good\n"   ",bad\nfine film,   \n')
    file_task(path, path, inputs_template='say: {text}')
    told = [record.getMessage() for record in caplog.records]
    assert told[:2] == ['a train: the input is empty in 2 of 4 rows, first at a.csv line 3',
                        'a train: the target is empty in 2 of 4 rows, first at a.csv line 2']


@pytest.mark.parametrize('file, name, expected', [
    ('tickets/train.tsv', None, 'tickets'), ('tickets/Data.tsv', None, 'tickets'),
    ('tickets/team.v2.tsv', None, 'team.v2'), ('tickets/train.tsv', 'mine', 'mine'),
])
def test_a_task_is_named_by_what_says_most(tmp_path, file, name, expected):
    (tmp_path / 'tickets').mkdir()
    (tmp_path / file).write_text(table(100).replace(',', '\t'))
    assert file_task(tmp_path / file, name=name).name == expected


def test_raw_values_become_words(write):
    task = file_task(write('a.csv', table(50, labels=('0', '1'))),
                     labels={0: 'negative', 1: 'positive'})
    assert {target for _, target in task.texts('train')} == {'negative', 'positive'}


@pytest.mark.parametrize('text, kwargs, error, message', [
    (table(9), {'inputs_template': '{body}'}, ValueError,
     "column 'body' is not there at a.csv line 2; the columns there are 'text', 'label'"),
    (table(9), {'target_column': 'stars'}, ValueError,
     "column 'stars' is not there at a.csv line 2"),
    ('text,label\n', {}, ValueError, r"split 'train' of task a \(.*a.csv\) is empty: no rows"),
    ('', {}, ValueError, r"split 'train' of task a \(.*a.csv\) is empty: no rows"),
    (table(9), {'validation_file': 'none.csv'}, FileNotFoundError,
     'data file none.csv does not exist'),
    (table(9) + 'x,1,2\n', {}, ValueError, 'a.csv line 11 cannot be parsed'),
    (table(9).replace('label', 'text'), {}, ValueError, "'text' at a.csv line 2 holds 2 values"),
    (table(9).replace(',', ';'), {'delimiter': '|'}, ValueError, "set file_task.delimiter=';'"),
    (table(9, labels=('x',)), {'validation_file': 'SELF', 'labels': 'auto'}, ValueError,
     'expected at least two different words'),
])
def test_mistakes_show_when_the_task_is_made(write, text, kwargs, error, message):
    path = write('a.csv', text)
    kwargs = {key: path if value == 'SELF' else value for key, value in kwargs.items()}
    with pytest.raises(error, match=message):
        file_task(path, **kwargs)


def test_too_few_texts_to_cut(write):
    with pytest.raises(ValueError, match='a.csv has 2 different texts, too few to cut a validatio'):
        file_task(write('a.csv', table(2)))


def golds_of(task, split='train'):
    return [task.right_answers(row) for row in task.rows(split)]


def test_several_right_answers_stand_in_a_list_in_a_cell_or_in_a_column(write):
    rows = [{'text': f'question {i}', 'label': [f'{i}', 'x'], 'all': [f'{i}', 'x']}
            for i in range(60)]
    listed = file_task(write('a.jsonl', '\n'.join(map(json.dumps, rows))))
    parted = file_task(write('b.csv', 'text,label\n' + ''.join(
        f'question {i},{i} | x\n' for i in range(60))), golds_separator='|')
    aside = file_task(write('c.jsonl', '\n'.join(
        json.dumps(row | {'label': row['all'][0]}) for row in rows)), golds_column='all')
    for task in (listed, parted, aside):
        assert all(golds == (target, 'x') for golds, (_, target) in zip(
            golds_of(task), task.texts('train'), strict=True))
        assert golds_of(task) == golds_of(listed)
    assert [row.columns['label'] for row in aside.rows('train')] == [
        golds[0] for golds in golds_of(aside)]


def test_labels_may_have_several_right_ones_too(write):
    path = write('a.csv', 'text,label\n' + ''.join(
        f'review {i},{("a|b", "b", "c|a")[i % 3]}\n' for i in range(90)))
    task = file_task(path, labels='auto', golds_separator='|')
    assert task.label_words == ('a', 'b', 'c')
    assert {target for _, target in task.texts('train')} == {'a', 'b', 'c'}
    assert set(golds_of(task)) == {('a', 'b'), ('b',), ('c', 'a')}


@pytest.mark.parametrize('answers, message', [
    ([], "column 'label' at a.jsonl line 2 is an empty list; expected at least one right answer"),
    (['x', None], "column 'label' at a.jsonl line 2 holds nothing; expected text"),
    (['x', ['y']], "column 'label' at a.jsonl line 2 holds a list; expected text or a number"),
    ({'text': ['x']}, "column 'label' at a.jsonl line 2 holds a dict"),
])
def test_right_answers_that_are_none_are_named(write, answers, message):
    path = write('a.jsonl', '\n'.join(json.dumps({'text': 'film', 'label': one})
                                      for one in (['x'], answers)))
    with pytest.raises(ValueError, match=message):
        file_task(path)


def test_a_column_of_right_answers_that_is_not_there_is_named(write):
    with pytest.raises(ValueError, match="column 'golds' is not there at a.csv line 2; the col"):
        file_task(write('a.csv', table(30)), golds_column='golds')


@pytest.mark.parametrize('name', ['Text (en)', 'a;b', '问题', 'text ', 'a.b', '0', 'a:b!r'])
def test_columns_may_have_any_name(write, name):
    path = write('a.jsonl', '\n'.join(json.dumps({name: f'film {i}', f'{name}?': 'x'})
                                      for i in range(40)))
    task = file_task(path, inputs_template=f'see {{{name}}} .', target_column=f'{name}?')
    assert next(task.texts('train'))[0].startswith('see film ')


def test_metrics_are_the_tasks(write):
    task = file_task(write('a.csv', table(40)), metrics=('accuracy', len))
    assert task.metrics == ('accuracy', len) and 'metrics' not in task.to_dict()
