"""Every method, and all that regularises, in a run: killed and resumed, saved, and used."""

import json

import pytest

from jax_prompt.data.examples import load_examples
from jax_prompt.evaluation.evaluator import Evaluator
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.initializers import best_of, class_labels, sampled_vocabulary
from jax_prompt.prompts.methods.dept import dept
from jax_prompt.prompts.methods.dpt import dpt
from jax_prompt.prompts.methods.prefix_tuning import prefix_tuning
from jax_prompt.prompts.methods.superpos import superpos
from jax_prompt.prompts.methods.ulpt import ulpt
from jax_prompt.prompts.methods.wayward import wayward
from jax_prompt.training.optimizers import adafactor, adamw, per_parameter
from jax_prompt.training.run import train
from jax_prompt.training.settings import PromptSettings
from tests.training.test_run import Stop, read_lines, stop_before

REGULARISED = dict(prompt_dropout=0.1, noise=0.1, adversarial=0.1, average=0.9, average_from=2)
#: name -> (method, optimizer, settings, numbers that are trained)
RUNS = {
    'dept': (dept(rank=2), per_parameter(adafactor(), {'left': adamw(0.01), 'right': adamw(0.01)}),
             dict(packing=True), None),
    'regularised': (wayward('great'), None, REGULARISED, 5 * 16),
    'ulpt': (ulpt(rank=3, from_start=True), None, {}, 5 * 3 + 2 * 16),
    'dpt': (dpt(rank=2, scale=None), None, {}, 5 * 2 + 2 * 16),
    'superpos': (superpos(entries=9), adafactor(0.05), {}, 5 * 9),
    # Rows and prefixes together, with the network that is folded into what is saved, and without.
    'prefix_tuning': (prefix_tuning(length=3, width=4, start='text', text='film'), adamw(0.05), {},
                      None),
    'p_tuning_v2': (prefix_tuning(length=3, cross=False), adamw(0.05), {}, None),
}
QUICK = ('dept',)


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    monkeypatch.setattr('jax_prompt.training.run.draw_curves', lambda *_: None)


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in RUNS])
def test_stopped_and_resumed_equals_uninterrupted_and_what_is_saved_is_what_was_measured(
        model, task, settings, tmp_path, monkeypatch, name):
    method, optimizer, chosen, numbers = RUNS[name]
    prompt = PromptSettings(rows=5, method=method)
    chosen = settings(steps=8, **chosen)
    whole = train(model, task, tmp_path / 'whole', prompt, optimizer, chosen, quiet=True)
    with monkeypatch.context() as patch:
        stop_before(patch, 6)
        with pytest.raises(Stop):
            train(model, task, tmp_path / 'parts', prompt, optimizer, chosen, quiet=True)
    parts = train(model, task, tmp_path / 'parts', prompt, optimizer, chosen, quiet=True)
    assert parts.folder.prompt.read_bytes() == whole.folder.prompt.read_bytes()
    assert read_lines(tmp_path / 'parts') == read_lines(tmp_path / 'whole')
    assert parts.results == whole.results and numbers in (None, whole.trained_numbers)

    file = load_prompt(whole.folder.prompt)
    evaluator = Evaluator(model, task, file.metadata.layout, batch_size=32)
    found = evaluator(file.prompt, load_examples(task, 'validation', model.vocabulary))
    assert found['loss'] == pytest.approx(file.metadata.metrics['loss'], rel=1e-5)
    losses = [line['value'] for line in read_lines(tmp_path / 'whole')
              if (line['split'], line['name']) == ('validation', 'loss')]
    assert losses[-1] < losses[0]
    method, = [line for line in (tmp_path / 'whole' / 'card.md').read_text().splitlines()
               if line.startswith('| method')]
    assert RUNS[name][0].config['name'] in method
    assert bool(file.prompt.prefix) == ('prefix' in RUNS[name][0].config['name'])
    if name == 'dept':
        assert file.prompt.rows.shape == (5 + file.prompt.added, 16)
        assert 8 < file.prompt.added == whole.trained_numbers // 2 - (5 * 16 + 2 * 16) // 2


def test_a_run_starts_from_the_best_of_its_starts(model, task, settings, tmp_path, caplog):
    caplog.set_level('INFO')
    starts = best_of(texts=['the film was', 'review : negative positive great dull'],
                     starts=[class_labels(), sampled_vocabulary()])
    train(model, task, tmp_path / 'run', PromptSettings(rows=7, initializer=starts),
          settings=settings(steps=1), quiet=True)
    told, = [line for line in caplog.messages if line.startswith('the best of 4 starts')]
    best, *losses = [float(word.strip(',')) for word in told.replace(';', '').split()
                     if word.count('.') == 1 and word[0].isdigit()]
    assert best == min(losses) and len(set(losses)) == 4
    begun = json.loads((tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()[1])
    assert begun['name'] == 'loss' and abs(begun['value'] - best) < 0.2


def test_a_name_that_the_method_does_not_train_is_refused(model, task, settings, tmp_path):
    optimizer = per_parameter(adafactor(), {'lift': adamw()})
    with pytest.raises(ValueError, match='names lift, which the method does not train; it trains '
                                         'prompt'):
        train(model, task, tmp_path / 'run', PromptSettings(rows=5), optimizer,
              settings(steps=1), quiet=True)
    with pytest.raises(ValueError, match='per_parameter has no groups'):
        per_parameter(adafactor(), {})
