"""Sweeps: no trial is lost or run twice, and what is found is what train gives again."""

import dataclasses
import threading
import types

import numpy as np
import pytest

from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.prompts.file import PromptFile, PromptMetadata, save_prompt
from jax_prompt.prompts.initializers import InitContext, uniform
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.sweep import report, study
from jax_prompt.sweep.report import by_length, finished, importances, table
from jax_prompt.sweep.run import Sweep, TrialSettings, run_sweep
from jax_prompt.sweep.space import Space
from jax_prompt.sweep.study import SweepFolder, SweepSettings, open_study, take
from jax_prompt.training.settings import PromptSettings, TrainSettings

STEPS = (0, 4, 8)
RATES = {'low': 0.05, 'high': 1.0, 'log': True}


def accuracy(rows, rate, step):
    return 0.5 + (step / 8) * (0.1 * min(rows, 4) / 4 + 0.1 * (1 - rate))


def write_prompt(path, rows, step=0, metrics=None):
    save_prompt(path, PromptFile(Prompt(rows), PromptMetadata(
        base_model='toy', base_model_fingerprint='a', vocabulary_fingerprint='b', task={},
        layout=Layout(), method='direct', step=step, seed=0, metrics=metrics or {})))


@pytest.fixture
def ran():
    """The folders that `train` was called with, in order."""
    return []


@pytest.fixture(autouse=True)
def quick_training(monkeypatch, ran):
    """Let trials compute their figures by a formula."""

    def train(opened, task, folder, prompt, rate, settings, quiet, on_evaluation):
        ran.append(folder.path.name)
        if rate > 0.99:
            raise ValueError('the loss is nan')
        for step in STEPS:
            metrics = {'accuracy': accuracy(prompt.rows, rate, step), 'loss': 1.0}
            if not on_evaluation(step, metrics):
                break
        folder.path.mkdir(parents=True, exist_ok=True)
        write_prompt(folder.prompt, np.full((prompt.rows, 4), rate, np.float32), step, metrics)
        if folder.configuration:
            (folder.path / 'operative_config.gin').write_text(''.join(
                f'{name} = {value}\n' for name, value in folder.configuration.items()))
        return types.SimpleNamespace(folder=folder, best_step=step)

    monkeypatch.setattr('jax_prompt.sweep.run.train', train)
    monkeypatch.setattr('jax_prompt.sweep.run.make_problem',
                        lambda *_: types.SimpleNamespace(choose_by='accuracy', batch_size=8,
                                                         features=[None] * 80))
    monkeypatch.setattr(report, '_draw_parallel', lambda *_: b'')


def build(params, start):
    return TrialSettings(
        PromptSettings(rows=params.get('rows', 4), initializer=start and (lambda *_: start)),
        params.get('rate', 0.5), TrainSettings(steps=STEPS[-1]),
        {'train.output': "'elsewhere'", 'prompt.rows': f'{params.get("rows", 4)}'})


def sweep(folder, space, base=None, made=build, **settings):
    task = types.SimpleNamespace(to_dict=lambda: {'name': 'toy'})
    model = types.SimpleNamespace(numerics={'dtype': 'float32'})
    opened = types.SimpleNamespace(model=model, fingerprint='a', vocabulary_fingerprint='b',
                                   as_begun=lambda numerics: opened)
    return Sweep(opened, task, SweepFolder(folder), Space.of(space), made,
                 SweepSettings(**settings), base or {})


def trials(found):
    return found.get_trials(deepcopy=False)


def test_a_sweep_has_its_trials_table_lengths_and_best(tmp_path, ran):
    space = {'rows': [1, 4, 20], 'rate': [0.2, 0.4]}
    found = run_sweep(sweep(tmp_path / 'all', space, sampler='grid', pruning=False))
    assert len(trials(found)) == len(ran) == 6 and {*ran} == {f'{n:04d}' for n in range(6)}
    rows = table(found)
    assert rows[0]['accuracy'] == pytest.approx(accuracy(4, 0.2, 8))
    assert (rows[0]['rows'], rows[0]['rate'], rows[0]['state']) == (4, 0.2, 'complete')
    assert [rows[n]['accuracy'] for n in range(6)] == sorted(
        (row['accuracy'] for row in rows), reverse=True)
    lengths = by_length(finished(trials(found)))
    assert {rows: len(figures) for rows, figures in lengths.items()} == {1: 2, 4: 2, 20: 2}
    assert sum(importances(found).values()) == pytest.approx(1)
    text = (tmp_path / 'all' / 'report.md').read_text()
    assert '6 trials: 6 ran to their ends' in text and '## By length' in text
    mean = np.mean([accuracy(1, rate, 8) for rate in (0.2, 0.4)])
    assert f'| 1 | 2 | {mean:.4g} | {0.1 * 0.2 / 2**0.5:.4g} |' in text
    assert (tmp_path / 'all' / 'lengths.png').read_bytes().startswith(b'\x89PNG')
    best = (tmp_path / 'all' / 'best.gin').read_text()
    assert f"train.output = '{tmp_path / 'all' / 'best'}'" in best
    assert 'elsewhere' not in best and 'prompt.rows = 4\n' in best
    assert run_sweep(sweep(tmp_path / 'all', space, sampler='grid', pruning=False))
    assert len(ran) == 6  # nothing is left to run


def test_a_sweep_keeps_the_dtype_that_was_measured_for_it(tmp_path, ran):
    def measured(dtype, by_measuring=True):
        one = sweep(tmp_path / 'all', {'rate': [0.2, 0.4]}, sampler='grid')
        one.opened.model.numerics['dtype'] = dtype
        one.opened.as_begun = lambda numerics: measured(
            numerics['dtype']).opened if by_measuring and numerics else one.opened
        return one

    assert len(trials(run_sweep(measured('bfloat16')))) == len(ran) == 2
    run_sweep(measured('float32'))
    with pytest.raises(ValueError, match="dtype is 'bfloat16' there and 'float32' here"):
        run_sweep(measured('float32', by_measuring=False))


def test_a_trial_whose_process_was_killed_goes_on_under_its_number(tmp_path, ran):
    one = sweep(tmp_path / 'all', {'rate': RATES}, trials=3)
    found = open_study(one.folder, one.space, one.settings, one.identity)
    trial, held = take(found, one.folder, one.space, one.settings)
    again, also = take(found, one.folder, one.space, one.settings)
    assert (trial.number, again.number) == (0, 1)
    also.close()  # as the system does for a process that it kills
    params = again.params
    run_sweep(one)
    assert ran == ['0001', '0002']
    assert trials(found)[1].params == params
    held.close()
    assert [one.state.name for one in trials(run_sweep(one))] == ['COMPLETE'] * 3
    assert ran == ['0001', '0002', '0000']


def test_a_trial_that_ends_in_this_moment_is_not_taken_again(tmp_path, monkeypatch):
    one = sweep(tmp_path / 'all', {'rate': RATES}, trials=2)
    found = open_study(one.folder, one.space, one.settings, one.identity)
    number, hold = found.ask().number, SweepFolder.hold

    def late(folder, asked):
        if asked == number and trials(found)[number].state.name == 'RUNNING':
            found.tell(number, 0.5)  # by the process that ran it, which then lets it go
        return hold(folder, asked)

    monkeypatch.setattr(SweepFolder, 'hold', late)
    trial, held = take(found, one.folder, one.space, one.settings)
    assert trial.number == 1
    held.close()


def test_killed_while_it_draws_its_parameters(tmp_path, monkeypatch):
    one = sweep(tmp_path / 'all', {'rows': [1, 4], 'rate': RATES}, trials=1)
    found = open_study(one.folder, one.space, one.settings, one.identity)
    found.ask().suggest_categorical('rows', (1, 4))
    only, = trials(run_sweep(one))
    assert set(only.params) == {'rows', 'rate'} and only.state.name == 'COMPLETE'


def test_two_at_once_share_the_trials(tmp_path, ran):
    one = sweep(tmp_path / 'all', {'rate': RATES}, trials=5, sampler='random')
    workers = [threading.Thread(target=run_sweep, args=(one,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = open_study(one.folder, one.space, one.settings, one.identity)
    assert sorted(ran) == [f'{number:04d}' for number in range(5)]
    assert len({one.params['rate'] for one in trials(found)}) == 5
    # The points are those that a single process draws.
    alone = run_sweep(sweep(tmp_path / 'alone', {'rate': RATES}, trials=5, sampler='random'))
    assert [one.params for one in trials(alone)] == [one.params for one in trials(found)]


def test_pruned_by_the_curve_and_again_after_a_kill(tmp_path, monkeypatch):
    one = sweep(tmp_path / 'all', {'rate': [0.1, 0.2, 0.3, 0.4, 0.9]}, sampler='grid')
    found = run_sweep(one)
    last = trials(found)[-1]
    assert [one.state.name for one in trials(found)] == ['COMPLETE'] * 4 + ['PRUNED']
    assert sorted(last.intermediate_values) == [0, 4] and last.user_attrs['pruned_at'] == 4
    assert all(one.number != 4 for one in finished(trials(found)))
    # Killed when that was known and nothing saved: the same evaluation ends it, whatever came then.
    late = sweep(tmp_path / 'late', {'rate': [0.1]}, sampler='grid')
    study = open_study(late.folder, late.space, late.settings, late.identity)
    trial, held = take(study, late.folder, late.space, late.settings)
    trial.report(accuracy(4, 0.1, 0), 0)
    trial.set_user_attr('pruned_at', 4)
    held.close()
    only, = trials(run_sweep(late))
    assert only.state.name == 'PRUNED' and sorted(only.intermediate_values) == [0]


def test_the_same_parameters_are_run_once(tmp_path, ran):
    found = run_sweep(sweep(tmp_path / 'all', {'rows': [1, 4]}, trials=6))
    assert len(trials(found)) == 6 and len(ran) == 2
    assert len(finished(trials(found))) == 2
    copies = [row for row in table(found) if row['note']]
    assert len(copies) == 4 and all(row['note'].startswith('as trial ') for row in copies)


def test_a_shorter_prompt_starts_a_longer_one(tmp_path):
    started = []

    def noted(params, start):
        started.append(start)
        return build(params, start)

    space = {'rows': [1, 4, 20], 'rate': [0.1, 0.6]}
    found = run_sweep(sweep(tmp_path / 'all', space, made=noted, sampler='grid', warm_start=True,
                            pruning=False))
    starts = [one.user_attrs['start'] for one in trials(found)]
    folder = SweepFolder(tmp_path / 'all')
    assert starts[:2] == [None, None]  # none is shorter
    assert starts[2] == str(folder.trial(0) / 'prompt.safetensors')  # the better one of both
    assert starts[4] == str(folder.trial(2) / 'prompt.safetensors')
    assert started[-1] == starts[-1]
    # One that goes on keeps its start, whatever has been found since.
    later = sweep(tmp_path / 'later', {'rows': [20]}, sampler='grid', warm_start=True, made=noted)
    study = open_study(later.folder, later.space, later.settings, later.identity)
    trial, held = take(study, later.folder, later.space, later.settings)
    trial.set_user_attr('start', 'first.safetensors')
    held.close()
    run_sweep(later)
    assert started[-1] == 'first.safetensors'


def test_extended_keeps_the_rows_of_the_shorter_prompt(tmp_path):
    from jax_prompt.prompts.extended import extended

    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    path = tmp_path / 'short.safetensors'
    write_prompt(path, rows)
    context = InitContext(np.zeros((30, 4), np.float32), 5, list)
    import jax
    made = np.asarray(extended(str(path), uniform())(jax.random.key(0), context))
    np.testing.assert_array_equal(made[:2], rows)
    np.testing.assert_array_equal(made[2:], uniform()(jax.random.key(0), context)[2:])
    for size, width in ((1, 4), (5, 3)):
        context = InitContext(np.zeros((30, width), np.float32), size, list)
        with pytest.raises(ValueError, match='has 2 rows of width 4 but the prompt has '
                           f'{size} of width {width}; expected at most as many'):
            extended(str(path))(jax.random.key(0), context)


def test_a_trial_that_fails_is_told_and_the_sweep_goes_on(tmp_path):
    found = run_sweep(sweep(tmp_path / 'all', {'rate': [0.2, 1.0, 0.4]}, sampler='grid'))
    assert [one.state.name for one in trials(found)] == ['COMPLETE', 'FAIL', 'COMPLETE']
    assert table(found)[-1]['note'] == 'the loss is nan'
    assert '1 failed' in (tmp_path / 'all' / 'report.md').read_text()
    with pytest.raises(ValueError, match='the loss is nan'):
        run_sweep(sweep(tmp_path / 'bad', {'rate': [1.0, 2.0, 3.0, 4.0]}, sampler='grid'))
    bad = table(open_study(*(getattr(sweep(tmp_path / 'bad', {'rate': [1.0, 2.0, 3.0, 4.0]},
                                           sampler='grid'), name)
                             for name in ('folder', 'space', 'settings', 'identity'))))
    assert len(bad) == 3


def test_other_examples_are_another_study(tmp_path):
    def swept(text):
        rows = [{'text': text, 'label': 'good'}]
        task = TextTask('toy', {split: lambda: rows for split in ('train', 'validation')})
        return dataclasses.replace(sweep(tmp_path / 'all', {'rate': [0.2]}, trials=1), task=task)

    run_sweep(swept('fine'))
    with pytest.raises(ValueError, match='another configuration: examples.train is .*; examples.v'):
        run_sweep(swept('poor'))


def test_no_trial_is_pruned_before_it_has_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), 'accuracy', lambda rows, rate, step: (
        0.5 + (rate == 0.5) * (0.4 if step else -0.4)))
    found = run_sweep(sweep(tmp_path / 'all', {'rate': [0.1, 0.2, 0.3, 0.4, 0.5]}, sampler='grid'))
    assert [one.state.name for one in trials(found)] == ['COMPLETE'] * 5


def test_another_space_or_configuration_is_refused(tmp_path, ran):
    run_sweep(sweep(tmp_path / 'all', {'rate': [0.2, 0.4]}, base={'settings.steps': '8'}, trials=1))
    for space, told in (
            ({'rate': [0.2, 0.5]}, r'of another search space: rate is \[0.2, 0.4\] there and '
             r'\[0.2, 0.5\] here; name another output'),
            ({'rate': [0.2, 0.4], 'rows': [1]}, r'rows is not varied there and \[1\] here')):
        with pytest.raises(ValueError, match=told):
            run_sweep(sweep(tmp_path / 'all', space, base={'settings.steps': '8'}, trials=2))
    with pytest.raises(ValueError, match="configuration.settings.steps is '8' there and '9' here"):
        run_sweep(sweep(tmp_path / 'all', {'rate': [0.2, 0.4]}, {'settings.steps': '9'}, trials=2))
    assert ran == ['0000']
    run_sweep(sweep(tmp_path / 'all', {'rate': [0.2, 0.4]}, {'settings.steps': '8'}, trials=2))
    assert len(ran) <= 2


@pytest.mark.parametrize('space, told', [
    ({}, r'the search space is \{\}; expected names with values'),
    ({'a': []}, 'a has no values in the search space'),
    ({'a': 'text'}, "a is 'text' in the search space; expected a list"),
    ({'a': [uniform()]}, "a has the value function in the search space; write what gin shall make"),
    ({'a': [1, 2, 1]}, 'a has the value 1 twice'),
    ({'a': {'low': 1}}, "the range of a has 'low'; expected low and high"),
    ({'a': {'low': 1, 'high': 2, 'by': 1}}, "the range of a has 'by'; expected low and high"),
    ({'a': {'low': 2, 'high': 2}}, 'the range of a is empty: low=2 is not below high=2'),
    ({'a': {'low': '1', 'high': 2}}, "the range of a has low='1'; expected a number"),
    ({'a': {'low': 0, 'high': 2, 'log': True}}, 'drawn by its logarithm with low=0'),
    ({'a': {'low': 0, 'high': 2, 'step': 3}}, 'the range of a has step=3; expected above 0'),
], ids=range(11))
def test_spaces_that_are_none(space, told):
    with pytest.raises(ValueError, match=told):
        Space.of(space)


def test_other_bad_input(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match='a sweep of 0 trials is none'):
        SweepSettings(trials=0)
    with pytest.raises(ValueError, match="sampler is 'tpa'; expected one of tpe, random, grid"):
        SweepSettings(sampler='tpa')
    with pytest.raises(ValueError, match='rate is a range, of which a grid has no end'):
        run_sweep(sweep(tmp_path / 'grid', {'rate': RATES}, sampler='grid'))
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match='holds files but no study.db, so it is no sweep'):
        run_sweep(sweep(tmp_path / 'full', {'rate': RATES}))
    monkeypatch.setattr(study, '_PATIENCE', 0)
    folder = SweepFolder(tmp_path / 'held')
    with folder.alone(), pytest.raises(ValueError, match='another process .* is writing'):
        run_sweep(sweep(tmp_path / 'held', {'rate': RATES}))
    monkeypatch.setitem(__import__('sys').modules, 'optuna', None)
    with pytest.raises(ValueError, match=r"needs the Python package 'optuna', which is not "
                       r"installed: pip install 'jax-prompt\[sweep\]'"):
        study.import_optuna()
