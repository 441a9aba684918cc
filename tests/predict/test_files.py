"""What `jax-prompt predict` cannot read or write is told before it answers."""

import os

import pytest

from jax_prompt import cli
from jax_prompt.commands.predict import check_files, format_of, prompt_files
from jax_prompt.commands.shared import result_file


def test_the_answers_do_not_take_the_place_of_their_questions(world, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'in.txt').write_text('the film was great\n')
    (tmp_path / 'link.txt').symlink_to('in.txt')
    (tmp_path / 'hard.txt').hardlink_to('in.txt')
    for inputs, output in (('in.txt', 'in.txt'), ('in.txt', 'link.txt'), ('link.txt', 'in.txt'),
                           ('in.txt', '../' + tmp_path.name + '/hard.txt')):
        with pytest.raises(ValueError, match='is the file of the prompt, which the answers'):
            check_files('-', output, inputs)
        with pytest.raises(ValueError, match=f'output {output} is the file of the inputs'):
            check_files(inputs, output)
    for inputs, output in (('in.txt', '-'), ('-', 'new.txt'), ('-', 'in.txt'), ('in.txt', 'new'),
                           ('/dev/null', '/dev/null')):
        check_files(inputs, output)
    assert cli.main(['predict', f'--model={world / "model"}', '--prompt=any', '--inputs=in.txt',
                     '--output=in.txt']) == 2
    assert 'name another output' in capsys.readouterr().err
    assert (tmp_path / 'in.txt').read_text() == 'the film was great\n'
    assert len(os.listdir(tmp_path)) == 3


def test_a_full_disk_is_told_with_the_output():
    with pytest.raises(OSError, match='^cannot write output /dev/full: No space left on device; '):
        with result_file('/dev/full') as out:
            out.write('the film was great\n')


@pytest.mark.parametrize(('inputs', 'output', 'message'), [
    ('in.txt', '', '--output= is empty; name a file, or - for standard output'),
    ('', 'out.txt', '--inputs= is empty; name a file, or - for standard input'),
    ('no.txt', 'out.txt', 'no inputs at no.txt; name a file with --inputs=FILE'),
    ('.', 'out.txt', 'inputs . are a folder'),
])
def test_what_names_no_file_is_refused(tmp_path, monkeypatch, inputs, output, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'in.txt').write_text('the film was great\n')
    with pytest.raises((ValueError, OSError), match=message):
        check_files(inputs, output)


def test_only_lines_are_read_as_lines():
    found = {name: format_of(name, None) for name in ('-', 'a.txt', 'a', 'a.JSONL', 'a.csv.txt')}
    assert found == {'-': 'lines', 'a.txt': 'lines', 'a': 'lines', 'a.JSONL': 'jsonl',
                     'a.csv.txt': 'lines'}
    for name in ('a.csv', 'a.TSV', 'a.json'):
        with pytest.raises(ValueError, match=f'inputs {name} are neither .* say with --format='):
            format_of(name, None)
        assert format_of(name, 'jsonl') == 'jsonl'
    for given in (None, 'lines', 'jsonl'):
        with pytest.raises(ValueError, match='a.jsonl.gz are compressed; .* zcat a.jsonl.gz | jax'):
            format_of('a.jsonl.gz', given)


def test_a_plain_name_means_what_the_server_means_by_it(tmp_path):
    for name in ('words@2', 'words@10', 'words@9', 'mood', 'mood@3', 'my own', 'a@1@2'):
        (tmp_path / f'{name}.safetensors').touch()
    found = prompt_files(None, str(tmp_path))
    assert {name: path.removeprefix(f'{tmp_path}/').removesuffix('.safetensors')
            for name, path in found.items()} == {
        'words': 'words@10', 'words@2': 'words@2', 'words@9': 'words@9', 'words@10': 'words@10',
        'mood': 'mood', 'mood@3': 'mood@3', 'my own': 'my own', 'a@1@2': 'a@1@2'}


def test_two_files_do_not_go_by_one_name(tmp_path):
    folder, own = tmp_path / 'prompts', tmp_path / 'words.safetensors'
    folder.mkdir()
    own.touch()
    for name in ('words.safetensors', 'words@1.safetensors'):
        (folder / name).touch()
        with pytest.raises(ValueError, match=f"{own} and {folder / name} .* known as 'words'"):
            prompt_files(str(own), str(folder))
        assert prompt_files(str(folder / name), str(folder)).keys() >= {'words'}
        (folder / name).unlink()
