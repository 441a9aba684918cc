"""What the commands do: one module a command, configured by gin."""

import logging
import os
import sys
from collections.abc import Sequence

import gin
import jax
from gin.config_parser import BindingStatement

from jax_prompt.commands import gin_setup
from jax_prompt.commands.convert import convert_command
from jax_prompt.commands.evaluate import evaluate_command
from jax_prompt.commands.export_prompt import export_command
from jax_prompt.commands.import_prompt import import_command
from jax_prompt.commands.inspect_prompt import inspect_command
from jax_prompt.commands.names import CONFIGURABLES, TASKS
from jax_prompt.commands.plan import plan_command
from jax_prompt.commands.predict import predict_command
from jax_prompt.commands.serve import serve_command
from jax_prompt.commands.train import train_command

__all__ = ['COMMANDS', 'CONFIGURABLES', 'TASKS', 'configure', 'quieten_libraries', 'run']

#: By the names that gin knows them by; `import` is a word of gin's own.
COMMANDS = {
    'train': train_command,
    'evaluate': evaluate_command,
    'predict': predict_command,
    'plan': plan_command,
    'convert': convert_command,
    'serve': serve_command,
    'import_prompt': import_command,
    'export_prompt': export_command,
    'inspect_prompt': inspect_command,
}
gin_setup.register(CONFIGURABLES | COMMANDS)


def quieten_libraries() -> None:
    """Let the project speak on standard error, and its libraries only of what went wrong."""
    logging.basicConfig(level=logging.WARNING, format='%(message)s', stream=sys.stderr)
    logging.getLogger('jax_prompt').setLevel(logging.INFO)
    # A checkpoint of kilobytes needs no paragraph; jax warns of cached programs it recompiles,
    # tensorboardX of each NaN.
    for name in ('absl', 'orbax', 'jax._src.compiler', 'tensorboardX'):
        logging.getLogger(name).setLevel(logging.ERROR)


def use_compilation_cache() -> None:
    """Keep compiled programs between processes, unless the user has chosen otherwise."""
    if jax.config.jax_compilation_cache_dir is None:
        base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
        jax.config.update('jax_compilation_cache_dir', os.path.join(base, 'jax_prompt', 'xla'))
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
        jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def run(command: str, files: list[str], bindings: list[str], folders: list[str]) -> int:
    """Configure with gin and run one command.

    Args:
      command: 'train', 'evaluate' or 'predict'.
      files: gin files; later ones win.
      bindings: 'NAME=VALUE', which win over all files.
      folders: where gin files may include others from.

    Returns:
      The exit code.
    """
    if command != 'plan':  # what is compiled for a TPU cannot be read back where there is none
        use_compilation_cache()
    effective = configure(files, bindings, folders)
    gin_setup.check_use(effective, command, COMMANDS)
    return gin.get_configurable(command)()


def configure(files: Sequence[str], bindings: Sequence[str],
              folders: Sequence[str] = ()) -> list[BindingStatement]:
    """Parse and check files and bindings; see `gin_setup.configure`."""
    return gin_setup.configure(CONFIGURABLES | COMMANDS, files, bindings, folders)
