"""`jax-prompt train`."""

import pathlib
from collections.abc import Sequence

import optax

from jax_prompt.commands.benchmark import print_benchmark
from jax_prompt.commands.reachable import operative_configuration
from jax_prompt.commands.shared import Opener, print_table, require
from jax_prompt.data.tasks.mixture import Mixture
from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.suites import Suite
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation.registry import check_metrics
from jax_prompt.parallel.hosts import from_first, is_first
from jax_prompt.training.card import size_line
from jax_prompt.training.folder import RunFolder, check_folder
from jax_prompt.training.run import Outcome, train_together
from jax_prompt.training.settings import PromptSettings, TrainSettings
from jax_prompt.training.suite import train_suite
from jax_prompt.training.transfer import choose_source


def train_command(model: Opener | None = None, task: TextTask | RegisteredTask | None = None,
                  tasks: Mixture | Suite | Sequence[TextTask | RegisteredTask] | None = None,
                  output: str | None = None, prompt: PromptSettings | None = None,
                  optimizer: optax.GradientTransformation | None = None,
                  settings: TrainSettings | None = None, quiet: bool = False) -> int:
    """Train a prompt and print what it gained; see `training.run.train`.

    With `tasks`, a list or a mixture, each task gets a prompt; with `prompt.ensemble` several. Of a
    whole benchmark, such as `@super_glue()`, the tasks are trained one after the other; see
    `training.suite.train_suite`.
    """
    require(model, 'model', '--model=SOURCE')
    if tasks is None:
        require(task, 'task', '--task=NAME or --task=FILE.csv')
    elif task is not None:
        raise ValueError(f'both TASK ({task.name}) and train.tasks are given; leave one of them '
                         'out, or add the task to the tasks')
    require(output, 'output folder', '--output=FOLDER')
    folder = RunFolder(pathlib.Path(output), operative_configuration('train'))
    if isinstance(tasks, Suite):
        opened = model()
        found = train_suite(opened, tasks, folder, prompt, optimizer, settings, quiet)
        if is_first():
            print_benchmark(found, opened.name, opened.model.d_model)
        return 0
    tasks = (task,) if tasks is None else tasks
    mixture = tasks if isinstance(tasks, Mixture) else Mixture(tuple(tasks))
    for one in mixture.tasks:
        check_metrics(one)
    from_first(lambda: check_folder(folder.path))
    opened = model()
    prompt = choose_source(opened, mixture, output, prompt or PromptSettings(), optimizer, settings,
                           quiet)
    outcomes = train_together(opened, mixture, folder, prompt, optimizer, settings, quiet)
    if is_first():
        for outcome in outcomes:
            _print_outcome(outcome, outcome.folder.name or mixture.tasks[0].name)
        if outcomes[0].ensemble:
            print_table(f'ensemble of {len(outcomes)}, {outcomes[0].split} split',
                        outcomes[0].ensemble)
    return 0


def _print_outcome(outcome: Outcome, name: str) -> None:
    """Print the table of results, the sizes and where things are."""
    print_table(f'{name}, {outcome.split} split', outcome.results)
    print(f'\n{outcome.trained_numbers:,} trained numbers, best at step {outcome.best_step}')
    if outcome.tuned_model is None:
        print(size_line(outcome.prompt_bytes, outcome.model_bytes))
        print(f'prompt {outcome.folder.prompt}, curves and card beside it')
    else:
        print(size_line(outcome.prompt_bytes, outcome.model_bytes, 'tuned model'))
        print(f'model {outcome.tuned_model}, prompt {outcome.folder.prompt}, curves and card '
              'beside them')
