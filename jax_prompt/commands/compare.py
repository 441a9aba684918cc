"""`jax-prompt compare`."""

import pathlib
from collections.abc import Sequence

from jax_prompt.commands.reachable import operative_configuration
from jax_prompt.commands.shared import Opener, require
from jax_prompt.comparison.advice import advise
from jax_prompt.comparison.contender import Contender
from jax_prompt.comparison.page import write_report
from jax_prompt.comparison.records import ComparisonFolder
from jax_prompt.comparison.run import Comparison, ComparisonSettings, run_comparison
from jax_prompt.comparison.table import markdown
from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.text_task import TextTask


def compare_command(model: Opener | None = None, task: TextTask | RegisteredTask | None = None,
                    tasks: Sequence[TextTask | RegisteredTask] | None = None,
                    contenders: Sequence[Contender] | None = None, output: str | None = None,
                    settings: ComparisonSettings | None = None) -> int:
    """Run the contenders that have not run yet, and print the table and which one to take.

    See `comparison.run.run_comparison`; the folder holds `comparison.html`, the table as Markdown,
    CSV and JSON, and pictures.
    """
    require(model, 'model', '--model=SOURCE')
    require(task or tasks, 'task', '--task=NAME or --task=FILE.csv')
    require(contenders, 'contenders', '--gin_file=FILE, such as compare/reviews.gin,')
    require(output, 'output folder', '--output=FOLDER')
    if task is not None and tasks is not None:
        raise ValueError(f'both TASK ({task.name}) and compare.tasks are given; leave one of them '
                         'out, or add the task to the tasks')
    comparison = Comparison(tuple(tasks or (task,)), tuple(contenders),
                            settings or ComparisonSettings()).with_rows_read()
    folder = ComparisonFolder(pathlib.Path(output), operative_configuration('compare'))
    folder.check()
    tables = []
    run_comparison(model(), comparison, folder,
                   lambda: tables.append(write_report(comparison, folder)))
    print(markdown(tables[-1]))
    print('\n\n'.join(advise(tables[-1])))
    print(f'\n{folder.path / "comparison.html"} has it with pictures and the rules of the advice')
    return 0
