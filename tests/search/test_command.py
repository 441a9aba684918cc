"""`jax-prompt search`: what it prints and writes, and its errors in one line."""

import json

import pytest

from jax_prompt import cli
from jax_prompt.flags import FLAGS
from jax_prompt.search import STRATEGIES


@pytest.fixture
def run(world, tmp_path, capsys, monkeypatch):
    """Return what runs the command with a small search and gives (code, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def command(*more, budget=400):
        settings = {'examples': 16, 'held_out': 16, 'finalists': 2, 'batch_size': 16,
                    'measured': 32}
        code = cli.main([
            'search', f'--model={world}/model', f'--task={world}/reviews.csv', '--strategy=gcg',
            '--output=out', '--gin.file_task.labels={"0": "negative", "1": "positive"}',
            '--gin.gcg.candidates=8', f'--budget={budget}',
            *(f'--gin.search_settings.{name}={value}' for name, value in settings.items()), *more])
        return code, *capsys.readouterr()

    return command


def test_the_command_searches_and_says_what_it_found(run, tmp_path):
    code, output, _ = run()
    assert code == 0
    found = json.loads((tmp_path / 'out/result.json').read_text())
    assert f'template: {found["template"]}' in output and 'out/design.safetensors' in output
    assert f'{found["calls"]} model calls' in output
    for split in ('train', 'validation', 'test'):
        assert f'reviews, {split}' in output
    if found['text']:
        assert f"from_string.text='{found['text']}'" in output and (
            tmp_path / 'out/start.safetensors').exists()
    again, same, _ = run()
    assert (again, same) == (0, output)
    code, _, error = run('--gin.search_settings.seed=1')
    assert code == 2 and error.count('\n') == 1
    assert 'another configuration: ' in error and 'settings.seed is 0 there and 1 here' in error


@pytest.mark.parametrize('more, budget, message', [
    ((), 0, 'search_settings.budget is 0; expected a whole number of at least 1 model calls'),
    (('--gin.search_settings.allowed=["greatest", "dull"]',), 400,
     "allowed word 'greatest' of the search has"),
    (('--template={text} was',), 400, 'has {search} 0 times but strategy gcg needs one'),
    (('--template={wrong} {search}',), 400, "column 'wrong' is not there"),
    (('--gin.search_settings.fluency=1',), 400, 'has no <extra_id_0>, which fluency needs'),
    (('--output=full',), 400, 'output folder full holds files but no search.json'),
], ids=range(6))
def test_what_cannot_be_searched_is_told_in_one_line(run, tmp_path, more, budget, message):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/mine.txt').write_text('mine')
    code, _, error = run(*more, budget=budget)
    assert code == 2 and message in error and error.count('\n') == 1
    assert (tmp_path / 'full/mine.txt').read_text() == 'mine'
    assert not (tmp_path / 'out/search.json').exists()


def test_a_damaged_record_is_told(run, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/search.json').write_text('{"format": 1, "steps": 3}')
    code, _, error = run()
    assert code == 2 and 'out/search.json is damaged' in error


def test_the_flag_names_all_strategies():
    flag, = [one for one in FLAGS['search'] if one.name == 'strategy']
    assert set(flag.choices) == set(STRATEGIES)
