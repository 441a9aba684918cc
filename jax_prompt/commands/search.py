"""`jax-prompt search`."""

from jax_prompt.commands.shared import Opener, print_table, require
from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation.registry import check_metrics
from jax_prompt.search.folder import DESIGN_FILE, START_FILE, start_text
from jax_prompt.search.run import chosen_strategy, search
from jax_prompt.search.settings import SearchSettings
from jax_prompt.search.strategy import Strategy


def search_command(model: Opener | None = None, task: TextTask | RegisteredTask | None = None,
                   strategy: str | Strategy | None = None, output: str | None = None,
                   settings: SearchSettings | None = None, quiet: bool = False) -> int:
    """Search the words of a prompt by a strategy, and print what they are and what they gain.

    The folder gets a design file, which `evaluate`, `predict` and `serve` take as they take a
    prompt file, and the words' rows for a soft prompt to start from; see `search.run.search`.
    """
    require(model, 'model', '--model=SOURCE')
    require(task, 'task', '--task=NAME or --task=FILE.csv')
    require(strategy, 'strategy', '--strategy=NAME')
    require(output, 'output folder', '--output=FOLDER')
    strategy = chosen_strategy(strategy)
    check_metrics(task)
    found = search(model(), task, strategy, settings, output, quiet)
    for split in found.metrics[next(iter(found.metrics))]:
        print_table(f'{task.name}, {split}', {
            heading: metrics[split] for heading, metrics in found.metrics.items()})
    print(f'\n{found.calls:,} model calls in {found.seconds:.0f} s')
    print(f'template: {found.design.template}')
    if found.design.words is not None:
        print('words: ' + '; '.join(f'{label}: {", ".join(words)}'
                                    for label, words in found.design.words.items()))
    print(f'{found.folder / DESIGN_FILE} is the design: give it wherever a prompt file goes')
    if text := start_text(found):
        print(f'{found.folder / START_FILE} has the rows of {text!r}, to start a soft prompt '
              "from:\n"
              f"  --gin.prompt.initializer='@from_string()' --gin.from_string.text={text!r}")
    return 0
