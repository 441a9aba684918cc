"""What is kept with checkpoints, and what tells runs apart, stays readable as a run began it."""

import dataclasses

from jax_prompt.data.tasks.mixture import Mixture
from jax_prompt.prompts.initializers import uniform
from jax_prompt.prompts.methods.direct import direct
from jax_prompt.training.identity import run_identity
from jax_prompt.training.joint import for_tasks
from jax_prompt.training.loop import Run
from jax_prompt.training.optimizers import adafactor
from jax_prompt.training.problem import make_problems
from jax_prompt.training.progress import Kept, Progress

#: As runs of a single task were saved before there were any of several.
BEFORE = {'start': {'loss': 2.0}, 'best': {'loss': 1.0}, 'best_step': 4, 'waited': 2,
          'pruned': False, 'finished_at': 8, 'results': {'prompt after training': {'loss': 1.5}},
          'compared': False, 'unreported': [], 'logged': 'abc'}


def test_a_record_of_a_single_task_is_what_it_was_and_one_of_several_comes_back():
    progress = Progress.from_record(BEFORE)
    assert progress.tasks == (Kept({'loss': 2.0}, {'loss': 1.0}, 4, 2),)
    assert progress.results == {'': BEFORE['results']} and progress.to_record() == BEFORE
    several = dataclasses.replace(progress, tasks=progress.tasks * 2, results={'a': {}, 'b': {}})
    assert Progress.from_record(several.to_record()) == several
    assert Progress.from_record(Progress().to_record()) == Progress()


def test_what_came_later_says_nothing_of_a_run_that_does_not_use_it(model, task, prompt, settings):
    problems = make_problems(model, Mixture((task,)), prompt, settings())
    run = Run(model, problems, for_tasks(direct(), 1), {}, {}, adafactor(), settings(), *[None] * 4)
    prompt = dataclasses.replace(prompt, initializer=uniform())
    told = run_identity(run, prompt)
    assert set(told) == {'examples', 'format', 'model', 'optimizer', 'prompt', 'settings', 'task'}
    assert sorted(told['optimizer']) == [
        'clipping_threshold', 'decay_rate', 'learning_rate', 'name', 'original_step_offset',
        'weight_decay']
    assert sorted(told['settings']) == [
        'batch_size', 'bucket_multiple', 'choose_by', 'dropout_rate', 'evaluate_by',
        'evaluate_every', 'evaluation_limit', 'max_buckets', 'packing', 'reduction', 'seed',
        'z_loss']
    changed = dataclasses.replace(run, optimizer=adafactor(factored_from=64),
                                  settings=settings(noise=0.1))
    assert run_identity(changed, prompt)['optimizer']['factored_from'] == 64
    assert run_identity(changed, prompt)['settings']['noise'] == 0.1
