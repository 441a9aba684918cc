"""`jax-prompt train`."""

import pathlib

import optax

from jax_prompt.commands import gin_setup
from jax_prompt.commands.shared import Opener, print_table, require
from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.parallel.hosts import from_first, is_first
from jax_prompt.training.card import size_line
from jax_prompt.training.folder import RunFolder, check_folder
from jax_prompt.training.run import Outcome, train
from jax_prompt.training.settings import PromptSettings, TrainSettings


def train_command(model: Opener | None = None, task: TextTask | RegisteredTask | None = None,
                  output: str | None = None, prompt: PromptSettings | None = None,
                  optimizer: optax.GradientTransformation | None = None,
                  settings: TrainSettings | None = None, quiet: bool = False) -> int:
    """Train a prompt and print what it gained; see `training.run.train`."""
    require(model, 'model', '--model=SOURCE')
    require(task, 'task', '--task=NAME or --task=FILE.csv')
    require(output, 'output folder', '--output=FOLDER')
    folder = RunFolder(pathlib.Path(output), gin_setup.operative_configuration('train'))
    from_first(lambda: check_folder(folder.path))
    outcome = train(model(), task, folder, prompt, optimizer, settings, quiet)
    if is_first():
        _print_outcome(outcome, task)
    return 0


def _print_outcome(outcome: Outcome, task: TextTask | RegisteredTask) -> None:
    """Print the table of results, the sizes and where things are."""
    print_table(f'{task.name}, {outcome.split} split', outcome.results)
    print(f'\n{outcome.trained_numbers:,} trained numbers, best at step {outcome.best_step}')
    print(size_line(outcome.prompt_bytes, outcome.model_bytes))
    print(f'prompt {outcome.folder.prompt}, curves and card beside it')
