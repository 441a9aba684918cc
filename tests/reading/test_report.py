"""The report: a page that stands alone, the same as JSON, and what the command refuses."""

import dataclasses
import json
import re
import sys
import types

import numpy as np
import pytest

from jax_prompt import cli
from jax_prompt.exchange.prompts_in_out import export_prompt
from jax_prompt.prompts.file import save_prompt
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.reading import maps
from jax_prompt.reading.read import read_prompt
from jax_prompt.reading.report import page_of, write_report
from jax_prompt.reading.settings import ReadingSettings
from tests.reading.conftest import SETTINGS

SECTIONS = ('prompt', 'rows', 'labels', 'norms', 'movement', 'map', 'similarity', 'comparison',
            'ablation', 'attention', 'discrete')


@pytest.fixture(scope='module')
def page(reading, tmp_path_factory):
    return write_report(tmp_path_factory.mktemp('report') / 'new', reading)


def fails(capsys, arguments, *parts):
    capsys.readouterr()
    assert cli.main(['inspect', *arguments]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and all(part in told[0] for part in parts), told


def test_the_page_holds_all_and_asks_for_nothing(page, reading):
    text = page.read_text()
    assert re.findall(r'<section id="(\w+)">', text) == list(SECTIONS)
    addresses = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(one.startswith(('data:', '#')) for one in addresses)
    assert text.count('<img') == 8 and 'url(' not in text and '<script' not in text
    for one in reading.told['nearest'][0]['cosine']:
        assert f'<b>{one["word"]}</b>' in text
    assert '2 and 3 (1.000)' in text  # the duplicates
    told = json.loads((page.parent / 'report.json').read_text())
    assert told == json.loads(json.dumps(reading.told))
    assert set(told['map']) == {'pca'} and 'discrete.safetensors' in text


def test_what_a_file_says_is_text_and_no_markup(reading):
    told = json.loads(json.dumps(reading.told))
    for section in ('movement', 'comparison', 'ablation', 'discrete'):  # which take time to draw
        del told[section]
    told['prompt']['metadata']['base_model'] = '<script>alert(1)</script>'
    told['nearest'][0]['cosine'][0]['word'] = '<i>$x$'
    told['attention']['texts'][0]['text'] = '"><img src=x onerror=alert(1)>'
    named = {'pca': dataclasses.replace(reading.maps['pca'], named={0: '$x', 1: '$y$ <b>'})}
    text = page_of(dataclasses.replace(reading, told=told, maps=named))
    assert '<script' not in text and '<i>' not in text and '<img src=x' not in text


@pytest.mark.slow
def test_a_browser_without_a_network_shows_all_pictures(browser, page, reading):
    context, problems = browser.new_context(offline=True, viewport={'width': 390, 'height': 800},
                                            color_scheme='dark'), []
    shown = context.new_page()
    shown.on('request', lambda request: problems.append(request.url) if not
             request.url.startswith(('file:', 'data:')) else None)
    shown.on('pageerror', lambda error: problems.append(str(error)))
    shown.on('console', lambda message: problems.append(message.text))
    shown.goto(page.as_uri())
    widths = shown.evaluate('async () => { const all = [...document.images]; await Promise.all('
                            'all.map(one => one.decode())); return all.map(one => '
                            'one.naturalWidth); }')
    assert len(widths) == 8 and all(widths)
    assert shown.evaluate('document.documentElement.scrollWidth') <= 390  # on a phone as well
    context.close()
    assert not problems
    assert page.read_bytes() == page_of(reading).encode()  # the same prompt, the same bytes


def test_what_is_not_told_is_said_and_why(folder, file, opened, tmp_path):
    bare = read_prompt(folder / 'others' / 'turned.safetensors').told
    assert [one.split(':')[0] for one in bare['not_shown']] == [
        'No model was given (--model=SOURCE)', 'What the prompt started from is not known']
    assert 'nearest' not in bare and np.shape(bare['similarity']) == (4, 4)
    rows = export_prompt(file, tmp_path / 'rows.npy', 'numpy')
    settings = dataclasses.replace(SETTINGS, umap=False)
    foreign = read_prompt(rows, opened, settings=settings)
    assert foreign.told['not_shown'][0].startswith('A prompt of this kind (numpy) says neither its')
    assert 'labels' not in foreign.told and len(foreign.told['nearest']) == 4
    assert re.findall(r'<section id="(\w+)">', page_of(foreign)) == [
        'prompt', 'rows', 'norms', 'map', 'similarity']
    no_task = read_prompt(folder / 'prompt.safetensors', opened, settings=settings).told
    assert [one.split(':')[0] for one in no_task['not_shown']] == [
        'No task was given (--task)', 'Attention is left out']
    save_prompt(tmp_path / 'none.safetensors', dataclasses.replace(
        file, prompt=Prompt(file.prompt.rows[:0])))
    none = read_prompt(tmp_path / 'none.safetensors', opened, settings=settings)
    assert none.told['not_shown'][-1].startswith('The prompt has no virtual tokens')
    assert re.findall(r'<section id="(\w+)">', page_of(none)) == ['prompt']


def test_umap_is_asked_where_it_is_installed(folder, words, opened, monkeypatch):
    seen = {}

    class UMAP:
        def __init__(self, **options):
            seen.update(options)

        def fit_transform(self, rows):
            seen['rows'] = rows
            return rows[:, :2]

    monkeypatch.setitem(sys.modules, 'umap', types.SimpleNamespace(UMAP=UMAP))
    monkeypatch.setattr(maps, 'has_umap', lambda: True)
    settings = dataclasses.replace(SETTINGS, umap=True, seed=3)
    found = read_prompt(folder / 'prompt.safetensors', opened, settings=settings)
    assert seen['metric'] == 'cosine' and seen['random_state'] == 3
    np.testing.assert_allclose(np.linalg.norm(seen['rows'], axis=1), 1, rtol=1e-5)
    assert set(found.told['map']['umap']) == {'title', 'rows', 'start'}
    assert page_of(found).count('<img') == 5
    monkeypatch.setattr(maps, 'has_umap', lambda: False)
    told = read_prompt(folder / 'prompt.safetensors', opened, settings=settings).told
    assert "pip install 'jax-prompt[reading]'" in told['not_shown'][0]


def test_the_command_writes_a_report_once(world, folder, tmp_path, capsys):
    flags = [f'--prompt={folder / "prompt.safetensors"}', f'--model={world / "model"}',
             f'--task={world / "reviews.csv"}', '--gin.file_task.inputs_length=32',
             '--gin.file_task.inputs_template=review : {text}', '--gin.reading.examples=3',
             '--gin.file_task.labels={"0": "warm", "1": "cold"}', '--gin.reading.umap=False',
             f'--output={tmp_path / "told"}']
    assert cli.main(['inspect', *flags, '--json']) == 0
    assert len(json.loads(capsys.readouterr().out)['nearest']) == 4
    assert {path.name for path in (tmp_path / 'told').iterdir()} == {
        'report.html', 'report.json', 'discrete.safetensors'}
    told = json.loads((tmp_path / 'told' / 'report.json').read_text())
    assert told['ablation']['examples'] == 3 and told['start'].endswith('start/prompt.safetensors')
    fails(capsys, flags, 'holds a report already', '--overwrite')
    assert cli.main(['inspect', *flags, '--overwrite']) == 0
    fails(capsys, [one for one in flags if 'template' not in one] + ['--overwrite'],
          "with inputs_template 'review : {text}' but task reviews in use has '{text}'",
          '--gin.reading.allow_other_task=True')
    fails(capsys, [*flags, '--overwrite', '--split=dev'], "has no split 'dev'")


def test_what_cannot_be_read_is_refused_in_one_line(world, folder, file, tmp_path, capsys):
    prompt = f'--prompt={folder / "prompt.safetensors"}'
    output = f'--output={tmp_path / "told"}'
    fails(capsys, [prompt, '--texts=x'], 'none is asked for; name its folder with --output=FOLDER')
    fails(capsys, [prompt, output, f'--against={tmp_path}/none*'], 'no prompts to compare with at')
    wider = dataclasses.replace(file, prompt=Prompt(np.ones((4, 8), np.float32)))
    save_prompt(tmp_path / 'wide.safetensors', wider)
    fails(capsys, [prompt, output, f'--against={tmp_path}'],
          'rows of width 8 but the one that is read has 16', 'only prompts of one model')
    fails(capsys, [prompt, output, f'--start={tmp_path}/wide.safetensors'],
          'has 4 rows of width 8 but the prompt', 'name the file that it started from')
    fails(capsys, [f'--prompt={tmp_path}/wide.safetensors', f'--model={world / "model"}', output],
          'has D=8 but', 'D=16')
    (tmp_path / 'file').touch()
    fails(capsys, [prompt, f'--output={tmp_path / "file"}'], 'exists and is no folder')
    assert not (tmp_path / 'told').exists()
    with pytest.raises(ValueError, match='examples=0 of a reading; expected at least 1'):
        ReadingSettings(examples=0)
    with pytest.raises(ValueError, match='duplicates=2 of a reading; expected a cosine'):
        ReadingSettings(duplicates=2)
