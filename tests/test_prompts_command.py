"""`jax-prompt prompts`, as a user calls it, and `predict` with a folder that has promotions."""

import json

import pytest

from jax_prompt import cli
from jax_prompt.commands.predict import prompt_files
from tests.prompts.test_registry import save
from tests.test_cli import fails


@pytest.fixture
def call(tmp_path, capsys):
    """Call the command for a folder; return what it prints."""
    (tmp_path / 'prompts').mkdir(exist_ok=True)

    def call(action, *arguments, code=0):
        assert cli.main(['prompts', action, f'--prompts={tmp_path / "prompts"}',
                         *arguments]) == code
        return capsys.readouterr().out

    return call


@pytest.fixture
def three(call, tmp_path):
    """The folder with mood@1 to mood@3, of the runs 0 to 2."""
    for seed in range(3):
        run = tmp_path / f'run{seed}'
        run.mkdir()
        (run / 'run.json').write_text('{}')
        save(run / 'prompt.safetensors', seed, step=seed, metrics={'accuracy': 0.5 + seed / 10})
        told = call('add', '--prompt=mood', f'--file={run / "prompt.safetensors"}', '--who=ann')
        assert told == f'mood@{seed + 1} is added\n'
    return tmp_path / 'prompts'


def test_a_version_is_added_promoted_looked_at_and_gone_back_from(call, three, tmp_path):
    assert ' promote 2 by bob -- it is better\n' in call(
        'promote', '--prompt=mood@2', '--who=bob', '--why=it is better')
    call('promote', '--prompt=mood@3')
    assert call('promote', '--prompt=mood@3') == 'mood is so already\n'
    assert call('rollback', '--prompt=mood') == 'mood@2 is promoted again\n'
    call('tag', '--prompt=mood@1', '--tag=old')
    assert ' canary 3 (share 0.25) by ' in call('canary', '--prompt=mood@3', '--share=0.25')
    rows = call('list').splitlines()
    assert [row.split()[:2] for row in rows[1:]] == [
        ['mood@3', 'accuracy'], ['mood@2', 'promoted'], ['mood@1', 'old']]
    assert all(' mood  tiny ' in row and row.endswith(' ann') for row in rows[1:])
    shown = call('show', '--prompt=mood')
    assert shown.startswith('mood@2\n') and f'run                {tmp_path}/run1\n' in shown
    assert 'mood@3 is a canary with 25.0% of the requests' in shown
    assert ' promote 2 by bob -- it is better\n' in shown and ' rollback 2 by ' in shown
    told = json.loads(call('show', '--prompt=mood@old', '--json'))
    assert (told['version'], told['tags'], told['parent'], len(told['history'])) == (
        '1', ['old'], None, 8)
    call('canary', '--prompt=mood', '--share=0')
    call('tag', '--prompt=mood', '--tag=old', '--remove')
    assert {(one['version'], *one['tags'], one['promoted'])
            for one in json.loads(call('list', '--json'))} == {
                ('1', False), ('2', True), ('3', False)}
    assert call('verify') == 'whole: 3 versions\n'


def test_the_difference_is_told_from_what_the_name_means(call, three):
    call('promote', '--prompt=mood@1')
    lines = call('diff', '--prompt=mood@3').splitlines()
    assert lines[0].split() == ['mood@1', 'mood@3']
    assert lines[1].split() == ['accuracy', '0.5000', '0.7000', '+0.2000']
    assert lines[2].split() == ['step', '0', '->', '2']
    assert json.loads(call('diff', '--prompt=mood@3', '--with=mood@2', '--json'))['metrics'] == {
        'accuracy': [0.6, 0.7]}


def test_verify_tells_problems_and_ends_with_2(call, three):
    (three / 'registry' / 'mood' / '00000002.json').write_text('{}')
    assert '00000002.json is no entry of a log' in call('verify', code=2)
    assert len(json.loads(call('verify', '--prompt=mood', '--json', code=2))) == 1


@pytest.mark.parametrize('arguments, parts', [
    (['add', '--prompt=mood'], ['no prompt file given; name one with --file=FILE']),
    (['promote'], ['no prompt given; name one with --prompt=NAME@VERSION']),
    (['promote', '--prompt=mood'], ['mood names no version', '--prompt=mood@VERSION', '3, 2, 1']),
    (['promote', '--prompt=mood@9'], ["'mood' has no version '9'; there are: 3, 2, 1"]),
    (['rollback', '--prompt=mood'], ['no version of mood was promoted', 'nothing to go back to']),
    (['rollback', '--prompt=mood@2'], ['mood@2 is not what is promoted']),
    (['tag', '--prompt=mood@2'], ['no tag given; name one with --tag=TAG']),
    (['canary', '--prompt=mood@2'], ['no share given']),
    (['canary', '--prompt=mood@2', '--share=1.5'], ['share of 1.5; expected more than 0']),
    (['show', '--prompt=../mood'], ['is no name of a prompt']),
    (['list', '--prompt=none'], ["prompt 'none' has no versions in", "there are: 'mood'"]),
    (['add', '--prompt=mood', '--file=RUN'], ['prompt.safetensors is mood@3 already']),
    (['add', '--prompt=mood', '--file=/nowhere'], ['cannot read prompt file /nowhere']),
])
def test_mistakes_are_told_in_a_line(three, tmp_path, capsys, arguments, parts):
    arguments = [one.replace('RUN', f'{tmp_path}/run2/prompt.safetensors') for one in arguments]
    fails(capsys, ['prompts', arguments[0], f'--prompts={three}', *arguments[1:]], *parts)


def test_a_folder_that_is_not_there_or_not_named_is_told(tmp_path, capsys):
    fails(capsys, ['prompts', 'list'], 'no folder of prompts given; name one with --prompts=FOLDER')
    fails(capsys, ['prompts', 'list', f'--prompts={tmp_path}/no'], 'does not exist; make it')
    assert cli.main(['prompts', 'list', f'--prompts={tmp_path}']) == 0
    assert 'holds no versions' in capsys.readouterr().out
    fails(capsys, ['prompts', 'add', f'--prompts={tmp_path}/no', '--prompt=mood',
                   f'--file={tmp_path}/none'], 'cannot read prompt file')
    assert not (tmp_path / 'no').exists()
    assert cli.main(['prompts', 'add', f'--prompts={tmp_path}/no', '--prompt=mood',
                     f'--file={save(tmp_path / "a.safetensors")}']) == 0
    assert (tmp_path / 'no' / 'mood@1.safetensors').exists()


def test_predict_means_by_a_bare_name_what_the_server_does(call, three):
    def meant():
        return {name: path.rpartition('/')[2] for name, path in
                prompt_files(None, str(three)).items() if name in ('mood', 'mood@old')}

    assert meant() == {'mood': 'mood@3.safetensors'}
    save(three / 'mood.safetensors', 9)
    assert meant() == {'mood': 'mood.safetensors'}
    for version in (2, 1):
        call('promote', f'--prompt=mood@{version}')
    call('tag', '--prompt=mood@3', '--tag=old')
    assert meant() == {'mood': 'mood@1.safetensors', 'mood@old': 'mood@3.safetensors'}
    (three / 'mood@1.safetensors').unlink()
    assert meant()['mood'] == 'mood@2.safetensors'
