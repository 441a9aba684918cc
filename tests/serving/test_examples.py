"""Examples beside a prompt: what of a file is shown, and what is refused."""

import pytest

from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.serving import examples
from jax_prompt.serving.examples import read_examples

TASK = TextTask('pair', {}, '{first} and {second}')


def test_the_first_rows_are_shown_without_their_answers(tmp_path):
    lines = [f'{number},"a film, {number}",{label}' for number in range(9) for label in ('good',)]
    (tmp_path / 'pair.examples.csv').write_text('\n'.join(['first,second,label', *lines]))
    assert read_examples(tmp_path, 'pair', TASK) == [
        {'first': str(number), 'second': f'a film, {number}'} for number in range(8)]


def test_other_kinds_of_file_are_read_as_they_are(tmp_path):
    (tmp_path / 'pair.examples.jsonl').write_text('{"first": 2, "second": true, "label": null}\n')
    assert read_examples(tmp_path, 'pair', TASK) == [{'first': 2, 'second': True}]
    (tmp_path / 'pair.examples.tsv').write_text('first\tsecond\na\tb\n')
    assert read_examples(tmp_path, 'pair', TASK) == [{'first': 'a', 'second': 'b'}]


def test_where_there_is_no_file_there_is_no_example(tmp_path):
    (tmp_path / 'other.examples.csv').write_text('first,second\na,b\n')
    assert read_examples(tmp_path, 'pair', TASK) == []


@pytest.mark.parametrize('content, message', [
    ('first,label\na,b\n', "column 'second' is not there at pair.examples.csv line 2"),
    ('first,second\na\n', 'pair.examples.csv line 2 cannot be parsed: it has 1 fields'),
    ('first,second\na,"b', 'pair.examples.csv line 2 cannot be parsed'),
    ('first,second\na,' + 'b' * 100, 'pair.examples.csv has 115 bytes; expected at most 64: keep '
                                     'the 8 rows that are shown'),
])
def test_a_file_that_cannot_be_shown_is_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(examples, '_MOST_BYTES', 64)
    (tmp_path / 'pair.examples.csv').write_text(content)
    with pytest.raises(ValueError, match=message):
        read_examples(tmp_path, 'pair', TASK)


def test_a_file_elsewhere_is_refused_and_a_folder_too(tmp_path):
    (tmp_path / 'secret.csv').write_text('first,second\na,b\n')
    folder = tmp_path / 'prompts'
    folder.mkdir()
    (folder / 'pair.examples.csv').symlink_to(tmp_path / 'secret.csv')
    with pytest.raises(ValueError, match='pair.examples.csv leads out of the folder of prompts'):
        read_examples(folder, 'pair', TASK)
    (folder / 'pair.examples.csv').unlink()
    (folder / 'pair.examples.csv').mkdir()
    with pytest.raises(ValueError, match='pair.examples.csv is a folder'):
        read_examples(folder, 'pair', TASK)
