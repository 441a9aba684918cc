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


def test_auto_labels_are_those_of_the_training_split_sorted(write):
    train = write('a.csv', table(30, labels=('c', 'a', 'b')))
    task = file_task(train, write('b.csv', table(3, labels=('a', 'z'))), labels='auto')
    assert task.label_words == ('a', 'b', 'c')
    with pytest.raises(ValueError, match="label 'z' in column 'label' at b.csv line 3 is outside"):
        list(task.texts('validation'))


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
    (table(9, labels=('x',)), {'validation_file': 'SELF', 'labels': 'auto'}, ValueError,
     'expected at least two different words'),
])
def test_mistakes_show_when_the_task_is_made(write, text, kwargs, error, message):
    path = write('a.csv', text)
    kwargs = {key: path if value == 'SELF' else value for key, value in kwargs.items()}
    with pytest.raises(error, match=message):
        file_task(path, **kwargs)


def test_too_few_texts_to_cut(write):
    task = file_task(write('a.csv', table(2)))
    with pytest.raises(ValueError, match='a.csv has 2 different texts, too few to cut a validatio'):
        task.rows('train')
