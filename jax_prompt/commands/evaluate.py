"""`jax-prompt evaluate`."""

import numpy as np

from jax_prompt.commands.shared import Opener, check_model, print_table, require
from jax_prompt.data.examples import load_examples
from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation.evaluator import Evaluator, scores_of
from jax_prompt.inference.calibration import (
    calibrated_probabilities,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
)
from jax_prompt.parallel.hosts import is_first
from jax_prompt.prompts.file import PromptFile, load_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import no_prompt
from jax_prompt.training.run import MOST_COMMON
from jax_prompt.training.settings import TrainSettings


def evaluate_command(model: Opener | None = None,
                     task: TextTask | RegisteredTask | None = None, prompt: str | None = None,
                     split: str = 'test', settings: TrainSettings | None = None,
                     calibration: bool = False, allow_other_model: bool = False,
                     allow_other_task: bool = False) -> int:
    """Measure a prompt file, or without one the plain model, on a split of a task.

    With `calibration` it also tells how far the labels' probabilities are from how often they are
    right, as they are and at the `answers.label_temperature` that suits this split best. Choose the
    temperature on validation examples, not on those that results are reported for.
    """
    require(model, 'model', '--model=SOURCE')
    require(task, 'task', '--task=NAME or --task=FILE.csv')
    settings = settings or TrainSettings()
    loaded = None if prompt is None else load_prompt(prompt)
    if loaded is not None and not allow_other_task:
        _check_task(loaded, task)
    if calibration and task.label_words is None:
        raise ValueError(f'calibration is of label probabilities, but task {task.name} has no '
                         'labels; leave --calibration out')
    opened = model()
    layout, tuned = Layout('before'), no_prompt(opened.model.d_model)
    if loaded is not None:
        check_model('evaluate', loaded, opened, allow_other_model)
        layout, tuned = loaded.metadata.layout, loaded.prompt
    evaluator = Evaluator(opened, task, layout, settings.evaluate_by,
                          settings.evaluation_batch_size)
    if calibration and 'rank' not in evaluator.ways:
        raise ValueError(f'calibration is of label probabilities, but evaluate_by is '
                         f'{evaluator.ways}; add rank to it, or leave --calibration out')
    examples = load_examples(task, split, opened.vocabulary)
    metrics, predictions = evaluator.measure(tuned, examples)
    if is_first():
        name = 'no prompt' if prompt is None else prompt
        print_table(f'{task.name}, {split} ({len(examples)} examples)', {
            MOST_COMMON: evaluator.most_common(examples)[1], name: metrics})
        if calibration:
            print(_sureness(scores_of(predictions['rank']), examples.labels), end='')
    return 0


def _sureness(scores_BC: np.ndarray, labels_B: np.ndarray) -> str:
    """Tell how far the labels' probabilities can be believed, and what makes them better."""
    temperature = fit_temperature(scores_BC, labels_B)
    lines = ['\n']
    for one in (1.0, temperature):
        odds_BC = calibrated_probabilities(scores_BC, temperature=one)
        lines.append(f'label_temperature {one:.3g}: calibration error '
                     f'{100 * expected_calibration_error(odds_BC, labels_B):.2f}%, negative '
                     f'log-likelihood {negative_log_likelihood(odds_BC, labels_B):.4f}\n')
    return ''.join(lines)


def _check_task(loaded: PromptFile, task: TextTask | RegisteredTask) -> None:
    """Check that a prompt is measured on inputs and answers such as it was trained on."""
    theirs = TextTask.from_dict(loaded.metadata.task)
    ours = TextTask.from_dict(task.to_dict())
    for name in ('inputs_template', 'label_words', 'inputs_length'):
        if getattr(theirs, name) != getattr(ours, name):
            raise ValueError(
                f'prompt file {loaded.path} was trained on task {theirs.name} with {name} '
                f'{getattr(theirs, name)!r} but task {ours.name} in use has '
                f'{getattr(ours, name)!r}; set the task as it was, or give '
                '--gin.evaluate.allow_other_task=True')
