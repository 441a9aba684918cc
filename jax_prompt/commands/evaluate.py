"""`jax-prompt evaluate`."""

import jax

from jax_prompt.commands.shared import check_types, open_prompt, print_table, require
from jax_prompt.data.examples import load_examples
from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.parallel.hosts import is_first
from jax_prompt.prompts.file import PromptFile
from jax_prompt.prompts.layout import Layout
from jax_prompt.training.evaluation import make_evaluator, make_features
from jax_prompt.training.frozen_model import FrozenModel
from jax_prompt.training.settings import TrainSettings


def evaluate_command(model: FrozenModel | None = None,
                     task: TextTask | RegisteredTask | None = None, prompt: str | None = None,
                     split: str = 'test', settings: TrainSettings | None = None,
                     allow_other_model: bool = False, allow_other_task: bool = False) -> int:
    """Measure a prompt file, or without one the plain model, on a split of a task."""
    check_types('evaluate', evaluate_command, locals())
    require(model, 'model', '--model=SOURCE')
    require(task, 'task', '--task=NAME or --task=FILE.csv')
    settings = settings or TrainSettings()
    layout, prompt_PD = Layout('before'), jax.numpy.zeros((0, model.model.config.d_model))
    if prompt is not None:
        loaded = open_prompt('evaluate', prompt, model, allow_other_model)
        if not allow_other_task:
            _check_task(loaded, task)
        layout, prompt_PD = loaded.metadata.layout, loaded.prompt_PD
    examples = load_examples(task, split, model.vocabulary)
    features = make_features(examples, task, model, layout, prompt_PD.shape[0])
    evaluator = make_evaluator(model, task, settings.evaluate_by, settings.evaluation_batch_size)
    name = 'no prompt' if prompt is None else prompt
    metrics = evaluator(prompt_PD, features)
    if is_first():
        print_table(f'{task.name}, {split} ({len(examples)} examples)', {name: metrics})
    return 0


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
