"""A benchmark in one command: a prompt a task, resumable, with its average and its submission."""

import json
import pathlib
import shutil
import types

import pytest

from jax_prompt import cli
from jax_prompt.commands.benchmark import print_benchmark
from jax_prompt.data.tasks.suites import super_glue
from jax_prompt.training import suite as suites
from jax_prompt.training.run import AFTER
from jax_prompt.training.suite import SuiteOutcome, train_suite
from tests import tiny_world
from tests.data.benchmark_records import SUPER_GLUE

OFFICIAL = ('boolq', 'cb', 'copa', 'multirc', 'record', 'rte', 'wic', 'wsc')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder with a few records of each task for training, validation and the leaderboard."""
    folder = tmp_path_factory.mktemp('superglue')
    for name in (*OFFICIAL, 'axb', 'axg'):
        for file, content in SUPER_GLUE[f'super_glue_{name}'].files():
            path = folder / file
            path.parent.mkdir(exist_ok=True)
            splits = ('train', 'val', 'test') if path.stem == 'train' else (path.stem,)
            for split in splits:
                path.with_stem(split).write_bytes(content)
    return folder


def test_superglue_has_eight_tasks_and_two_that_rte_answers(data):
    suite = super_glue(str(data))
    assert [task.name for task in suite.tasks] == [f'super_glue_{name}' for name in OFFICIAL]
    assert [(task.name, of) for task, of in suite.diagnostics] == [
        ('super_glue_axb', 'super_glue_rte'), ('super_glue_axg', 'super_glue_rte')]
    rte = suite.tasks[5]
    assert all(task.inputs_template == rte.inputs_template for task, _ in suite.diagnostics)
    assert rte.inputs_template == 'hypothesis: {hypothesis} premise: {premise}'
    suite.check_data()
    some = super_glue(str(data), tasks=('wsc',), wsc_ranking=True, with_name=True)
    assert [task.name for task in some.tasks] == ['super_glue_wsc_ranking'] and not some.diagnostics
    assert some.tasks[0].inputs_template == 'wsc text: {marked}'
    with pytest.raises(ValueError, match="tasks of super_glue are 'sst2'; expected some of 'bo"):
        super_glue(tasks=('sst2',))


def test_all_data_is_looked_for_before_anything_is_trained(data, tmp_path, monkeypatch):
    monkeypatch.setattr(suites, 'train', None)
    broken = tmp_path / 'data'
    for name in ('BoolQ', 'CB'):
        broken.joinpath(name).mkdir(parents=True)
        for split in ('train', 'val')[:1 if name == 'CB' else 2]:
            (broken / name / f'{split}.jsonl').write_bytes((data / name / 'val.jsonl').read_bytes())
    with pytest.raises(FileNotFoundError, match='no split validation of super_glue_cb'):
        train_suite(None, super_glue(str(broken), tasks=('boolq', 'cb')), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_the_row_stands_beside_the_published_ones(capsys):
    figures = {'accuracy': 0.5, 'macro_f1': 0.3, 'f1a': 0.4, 'f1': 0.2, 'exact_match': 0.0,
               'loss': 2.0}
    results = {f'super_glue_{name}': figures for name in OFFICIAL}
    print_benchmark(SuiteOutcome(results, ('x/BoolQ.jsonl',)), 'flan', 512)
    told = capsys.readouterr().out
    assert ('SuperGLUE, validation         boolq       cb     copa  multirc   record      rte      '
            'wic      wsc  average\n') in told
    # 5 tasks at 50, CB (50 + 30) / 2, MultiRC (40 + 0) / 2, ReCoRD (20 + 0) / 2.
    assert ('this run                       50.0     40.0     50.0     20.0     10.0     50.0     '
            '50.0     50.0     40.0\n') in told
    lines = told.splitlines()
    assert 'prompt tuning (published)      59.8     63.1     74.5     79.2     88.8' in lines
    assert 'this run                       40.0' in lines
    assert 'predictions for the leaderboard, checked: x/BoolQ.jsonl' in lines
    print_benchmark(SuiteOutcome(results, ()), 'tiny', 16)
    assert capsys.readouterr().out.splitlines()[-2].endswith(f'{40.0:>9}')
    del results['super_glue_cb']
    print_benchmark(SuiteOutcome(results, ()), 'flan', 512)
    assert 'average' not in capsys.readouterr().out


def test_what_is_answered_is_not_answered_again(data, tmp_path, monkeypatch):
    outcome = types.SimpleNamespace(results={AFTER: {'accuracy': 1.0}})
    engines = []

    class Stub:
        def __init__(self, *_):
            engines.append(self)

        def add(self, name, prompt):
            return prompt

        def rows_of(self, prompt, inputs, where):
            return inputs

        def run(self, rows):
            return [types.SimpleNamespace(text='entailment') for _ in rows]

    monkeypatch.setattr(suites, 'Engine', Stub)
    monkeypatch.setattr(suites, 'load_prompt', pathlib.Path.read_bytes)
    prompts = iter([b'one', b'one', b'two'])

    def train(model, task, folder, *_):
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.prompt.write_bytes(next(prompts))
        return outcome

    monkeypatch.setattr(suites, 'train', train)
    suite = super_glue(str(data), tasks=('rte',))
    for count in (3, 3, 6):  # another prompt answers anew
        found = train_suite(None, suite, tmp_path)
        assert len(engines) == count and len(found.submission) == 3
    assert {path.name for path in (tmp_path / 'submission').iterdir()} == {
        'RTE.jsonl', 'AX-b.jsonl', 'AX-g.jsonl', 'answered.json'}
    assert json.loads((tmp_path / 'results.json').read_text()) == found.results


@pytest.mark.slow
def test_superglue_runs_in_one_command_and_goes_on_where_it_was(data, tmp_path, capsys):
    model, output = tiny_world.write_model(tmp_path / 'model', bytes_only=True), tmp_path / 'run'
    command = ['train', '--gin_file=superglue.gin', f'--model={model}', f'--data_dir={data}',
               f'--output={output}', '--gin.model.vocabulary=byt5', '--gin.prompt.rows=3',
               '--gin.settings.steps=2', '--gin.settings.evaluate_every=2',
               '--gin.settings.batch_size=2', '--gin.settings.max_buckets=1',
               '--gin.super_glue.targets_length=24', '--gin.train.quiet=True']
    assert cli.main(command) == 0
    first = capsys.readouterr().out
    assert 'SuperGLUE, validation' in first and first.count('leaderboard, checked') == 10
    written = {path: path.read_bytes() for path in sorted(output.rglob('submission/*'))}
    # As if it had been killed before the last task, and while the one before it was answered.
    (output / 'submission' / 'WiC.jsonl').unlink()
    shutil.rmtree(output / 'super_glue_wsc')
    assert cli.main(command) == 0
    assert capsys.readouterr().out == first
    assert {path: path.read_bytes() for path in written} == written
