"""`jax-prompt evaluate`."""

import glob
import hashlib
import json
import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jax_prompt.commands.shared import Opener, check_model, check_task, print_table, require
from jax_prompt.data.design import Design
from jax_prompt.data.examples import Examples, load_examples
from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation.evaluator import Evaluator, scores_of
from jax_prompt.evaluation.registry import check_metrics
from jax_prompt.evaluation.statistics import over_runs
from jax_prompt.inference.calibration import (
    calibrated_probabilities,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
)
from jax_prompt.inference.ensemble import VOTE, check_ensemble
from jax_prompt.inference.rows import Prediction
from jax_prompt.parallel.hosts import is_first
from jax_prompt.prompts.file import PromptFile, load_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import no_prompt
from jax_prompt.prompts.similarity import load_prompts
from jax_prompt.training.run import MOST_COMMON, NO_PROMPT
from jax_prompt.training.settings import TrainSettings

#: Where the plain model's rows stand, and its design.
_PLAIN = ((Layout('before'), None), None)


class _Measured(NamedTuple):
    """What one prompt gives."""

    metrics: dict[str, float]
    predictions: dict[str, list[Prediction]]
    evaluator: Evaluator


def evaluate_command(model: Opener | None = None,
                     task: TextTask | RegisteredTask | None = None, prompt: str | None = None,
                     split: str = 'test', settings: TrainSettings | None = None,
                     calibration: bool = False, allow_other_model: bool = False,
                     allow_other_task: bool = False) -> int:
    """Measure prompt files, or without one the plain model, on a split of a task.

    `prompt` may stand for several files, as 'runs/seed*/prompt.safetensors' does: such as those of
    several seeds, of which mean and standard deviation are told. Each figure has its 95 % interval
    by bootstrap over the examples.

    Of a folder all prompt files are measured, each by itself and together as an ensemble.

    With `calibration` it also tells how far the labels' probabilities are from how often they are
    right, as they are and at the `answers.label_temperature` that suits this split best. Choose the
    temperature on validation examples, not on those that results are reported for.
    """
    require(model, 'model', '--model=SOURCE')
    require(task, 'task', '--task=NAME or --task=FILE.csv')
    settings = settings or TrainSettings()
    check_metrics(task)
    prompts = [load_prompt(path) for path in _files(prompt)]
    for loaded in prompts if not allow_other_task else ():
        check_task('evaluate', loaded, task)
    if calibration and task.label_words is None:
        raise ValueError(f'calibration is of label probabilities, but task {task.name} has no '
                         'labels; leave --calibration out')
    opened = model()
    for loaded in prompts:
        check_model('evaluate', loaded, opened, allow_other_model)
    examples = load_examples(task, split, opened.vocabulary)
    tuned = {str(loaded.path): ((loaded.metadata.layout, _design_key(loaded)), loaded.prompt)
             for loaded in prompts}
    designs = {_design_key(loaded): Design.of(loaded) for loaded in prompts}
    evaluators = {kind: Evaluator(opened, task, kind[0], settings.evaluate_by,
                                  settings.evaluation_batch_size, design=designs.get(kind[1]))
                  for kind, _ in tuned.values() or [_PLAIN]}
    ways = next(iter(evaluators.values())).ways
    if calibration and 'rank' not in ways:
        raise ValueError(f'calibration is of label probabilities, but evaluate_by is '
                         f'{ways}; add rank to it, or leave --calibration out')
    tuned = tuned or {NO_PROMPT: (_PLAIN[0], no_prompt(opened.model.d_model))}
    measured = {name: _Measured(*evaluators[kind].measure(one, examples), evaluators[kind])
                for name, (kind, one) in tuned.items()}
    together = {}
    if prompt is not None and os.path.isdir(prompt):
        kind, _ = next(iter(tuned.values()))
        together = evaluators[kind].measure_ensemble([one for _, one in tuned.values()], examples)
    if is_first():
        _print_measured(f'{task.name}, {split} ({len(examples)} examples)', measured, examples,
                        together)
        for name, one in measured.items() if calibration else ():
            print(f'\n{name}:' if len(measured) > 1 else '')
            print(_sureness(one.evaluator.calibrated(scores_of(one.predictions['rank'])),
                            examples.labels), end='')
    return 0


def _files(prompt: str | None) -> list[str]:
    """Return the prompt files that a name, a pattern or the folder of an ensemble stands for."""
    if prompt is None:
        return []
    if os.path.isdir(prompt):
        loaded = load_prompts(prompt)
        check_ensemble(loaded, VOTE, has_labels=True)
        kinds = {(file.metadata.layout, file.prompt.rows.shape, _design_key(file))
                 for file in loaded.values()}
        if len(kinds) > 1:
            raise ValueError(f'the prompts of {prompt} have different layouts, rows, widths or '
                             'designs; expected an ensemble of one kind: put the others elsewhere')
        return [str(file.path) for file in loaded.values()]
    found = [] if os.path.exists(prompt) else sorted(glob.glob(prompt))
    return found or [prompt]


def _design_key(loaded: PromptFile) -> str | None:
    """Return what tells a prompt file's design from others; None where it has none."""
    if loaded.metadata.design is None:
        return None
    states = b'' if loaded.states_ND is None else loaded.states_ND.tobytes()
    return json.dumps(loaded.metadata.design) + hashlib.sha256(states).hexdigest()


def _print_measured(title: str, measured: Mapping[str, _Measured], examples: Examples,
                    together: Mapping[str, dict[str, float]]) -> None:
    """Print a table of what was measured, with intervals, and the spread over several prompts."""
    rows = {name: one.metrics for name, one in measured.items()}
    intervals = {name: one.evaluator.intervals(one.predictions, examples)
                 for name, one in measured.items()}
    common = next(iter(measured.values())).evaluator.most_common(examples)[1]
    if len(measured) > 1:
        spread = over_runs([*rows.values()])
        rows |= {'mean': {name: one.mean for name, one in spread.items()},
                 'standard deviation': {name: one.deviation for name, one in spread.items()}}
    print_table(title, {MOST_COMMON: common} | rows | together, intervals)


def _sureness(scores_BC: np.ndarray, labels_B: np.ndarray) -> str:
    """Tell how far the labels' probabilities can be believed, and what makes them better."""
    temperature = fit_temperature(scores_BC, labels_B)
    lines = []
    for one in (1.0, temperature):
        odds_BC = calibrated_probabilities(scores_BC, temperature=one)
        lines.append(f'label_temperature {one:.3g}: calibration error '
                     f'{100 * expected_calibration_error(odds_BC, labels_B):.2f}%, negative '
                     f'log-likelihood {negative_log_likelihood(odds_BC, labels_B):.4f}\n')
    return ''.join(lines)
