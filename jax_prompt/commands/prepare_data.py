"""`jax-prompt data prepare`."""

from jax_prompt.commands.shared import require
from jax_prompt.data.prepare import chosen_tasks, prepare


def prepare_command(data_dir: str | None = None, tasks: str | None = None,
                    mirror: str | None = None) -> int:
    """Fetch the data of benchmarks' tasks into one folder; see `data.prepare.prepare`."""
    require(tasks, 'task', '--task=NAME, --task=super_glue for several or --task=all')
    require(data_dir, 'folder for the data', '--data_dir=FOLDER')
    for name, count in prepare(chosen_tasks(tasks), data_dir, mirror).items():
        print(f'{name}: {count} files in {data_dir}')
    return 0
