"""What the commands do: one module a command, configured by gin."""

import copy
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

import gin
import jax
from gin.config_parser import BindingStatement

from jax_prompt.commands import gin_setup
from jax_prompt.commands.compare import compare_command
from jax_prompt.commands.convert import convert_command
from jax_prompt.commands.design import design_command
from jax_prompt.commands.evaluate import evaluate_command
from jax_prompt.commands.export_prompt import export_command
from jax_prompt.commands.import_prompt import import_command
from jax_prompt.commands.inspect_prompt import inspect_command
from jax_prompt.commands.monitor import monitor_command
from jax_prompt.commands.names import CONFIGURABLES, TASKS
from jax_prompt.commands.plan import plan_command
from jax_prompt.commands.predict import predict_command
from jax_prompt.commands.prepare_data import prepare_command
from jax_prompt.commands.prompts import prompts_command
from jax_prompt.commands.search import search_command
from jax_prompt.commands.serve import serve_command
from jax_prompt.commands.similarity import similarity_command
from jax_prompt.commands.sweep import sweep_command
from jax_prompt.commands.tasks import tasks_command
from jax_prompt.commands.train import train_command
from jax_prompt.data.tasks.benchmarks import BENCHMARK_TASKS
from jax_prompt.data.tasks.rows import FILE_ENDINGS
from jax_prompt.files import shown

__all__ = ['BENCHMARK_TASKS', 'COMMANDS', 'CONFIGURABLES', 'FILE_ENDINGS', 'TASKS', 'configure',
           'quieten_libraries', 'run']

#: By the names that gin knows them by; `import` is a word of gin's own.
COMMANDS = {
    'train': train_command,
    'sweep': sweep_command,
    'evaluate': evaluate_command,
    'predict': predict_command,
    'prepare_data': prepare_command,
    'tasks': tasks_command,
    'plan': plan_command,
    'compare': compare_command,
    'convert': convert_command,
    'serve': serve_command,
    'search': search_command,
    'import_prompt': import_command,
    'export_prompt': export_command,
    'inspect_prompt': inspect_command,
    'prompts': prompts_command,
    'similarity': similarity_command,
    'monitor': monitor_command,
    'make_design': design_command,
}
#: Commands that read the configuration of others.
_ALSO_READ = {'sweep': ('train',)}
gin_setup.register(CONFIGURABLES | COMMANDS)


class _Formatter(logging.Formatter):
    """Send a terminal no control characters that stood in a file or its name."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return shown(super().formatMessage(record))


def quieten_libraries() -> None:
    """Let the project speak on standard error, and its libraries only of what went wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter('%(message)s'))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger('jax_prompt').setLevel(logging.INFO)
    # jax warns of cached programs it recompiles. A checkpoint of kilobytes needs no paragraph, and
    # what Orbax's threads meet, on a full disk say, reaches the main thread as an error.
    for name, level in (('jax._src.compiler', logging.ERROR), ('absl', logging.CRITICAL),
                        ('orbax', logging.CRITICAL)):
        logging.getLogger(name).setLevel(level)
    sys.unraisablehook = _heed_what_cannot_be_raised


def _heed_what_cannot_be_raised(lost: Any) -> None:
    """Send ctrl-C again where it was lost, and say nothing of what came too late for anyone.

    Python calls JAX back when it collects garbage; a KeyboardInterrupt that falls in there ends
    nothing. Where arrays of a checkpoint meet a full disk, the first error ends the wait for all,
    and TensorStore's threads complain that nobody waits.
    """
    if issubclass(lost.exc_type, KeyboardInterrupt):
        # To the main thread itself: what it waits in would not notice a signal of this process.
        again = threading.Timer(0.05, signal.pthread_kill,
                                [threading.main_thread().ident, signal.SIGINT])
        again.daemon = True
        again.start()
    elif threading.current_thread() is threading.main_thread():
        sys.__unraisablehook__(lost)


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
    gin_setup.check_use(effective, command, COMMANDS, _ALSO_READ.get(command, ()))
    model = gin.get_bindings(command, resolve_references=False).get('model')
    # What gin evaluates by copying it is left for the command to open, once all else is known good.
    opener = [] if model is None else [lambda: copy.deepcopy(model)]
    return gin.get_configurable(command)(*opener)


def configure(files: Sequence[str], bindings: Sequence[str],
              folders: Sequence[str] = ()) -> list[BindingStatement]:
    """Parse and check files and bindings; see `gin_setup.configure`."""
    return gin_setup.configure(CONFIGURABLES | COMMANDS, files, bindings, folders)
