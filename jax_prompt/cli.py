"""The one command, `jax-prompt`; the only module that knows flags.

Everything heavy is imported when a command runs, so that `--help` answers at once.
"""

import argparse
import atexit
import contextlib
import gc
import importlib.resources
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence

from jax_prompt.files import shown
from jax_prompt.flags import ACTIONS, DISTRIBUTED, FLAGS, GIN_NAMES, SUMMARIES
from jax_prompt.usage import EXAMPLES

_DESCRIPTION = 'Train and use soft prompts for frozen T5 models.'
#: The exit code where another host was lost: sysexits.h's EX_TEMPFAIL, for "try again".
LOST_HOST = 75
#: Characters of a message, of which a list or a value may be a part that is cut nowhere else.
_LONGEST_LINE = 1000
#: What the collectives' libraries say when a host is gone.
_GONE = ('connection closed by peer', 'connection reset by peer', 'connection refused',
         'heartbeat', 'task died', 'broken pipe', 'coordination service')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
      argv: arguments without the program's name; None for the process's own.

    Returns:
      The exit code: 0; 2 for what the user can mend, told in one line on standard error; 143 where
      SIGTERM stopped a run that can go on; 75 where another host of the job was lost.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):  # what stands in for it may hold any text
            stream.reconfigure(errors='backslashreplace')
    args, bindings = _parse(sys.argv[1:] if argv is None else list(argv))
    try:
        code = _run(args, bindings)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _abandon_output()
        return 141  # as a shell reports programs that such a pipe ends
    except Exception as error:
        if args.debug:
            raise
        line = shown(_one_line(error))
        more = f'... ({len(line):,} characters)' if len(line) > _LONGEST_LINE else ''
        print(f'jax-prompt {args.command}: {line[:_LONGEST_LINE]}{more}', file=sys.stderr)
        code = LOST_HOST if _is_lost_host(error) else getattr(error, 'exit_code', 2)
        if _has_company() and not hasattr(error, 'exit_code'):
            _leave_alone(code)
        return code
    except KeyboardInterrupt:
        resumes = args.command in ('train', 'compare', 'sweep', 'search') or (
            args.command == 'predict' and args.output not in (None, '-'))
        told = '; start the same command again to go on' if resumes else ''
        print(f'jax-prompt {args.command}: interrupted{told}', file=sys.stderr)
        return 130


def _abandon_output() -> None:
    """Send nowhere what is left for a closed pipe; Python would complain of it as it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split the arguments into flags and gin bindings; argparse exits 2 on what is neither."""
    parser = argparse.ArgumentParser('jax-prompt', description=_DESCRIPTION, allow_abbrev=False)
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, summary in SUMMARIES.items():
        _add_flags(commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + '.',
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EXAMPLES[name]), name)
    args, rest = parser.parse_known_args(argv)
    unknown = [word for word in rest if not word.startswith('--gin.') or '=' not in word]
    if args.example is not None:
        unknown.insert(0, f'--gin.NAME={args.example}')
    if unknown:
        parser.error(f'unknown argument {unknown[0]!r}; settings are --gin.NAME=VALUE')
    return args, [word.removeprefix('--gin.') for word in rest]


def _add_flags(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the flags of one command; most are short for a gin binding."""
    add = parser.add_argument
    if command in ACTIONS:
        add('action', choices=ACTIONS[command], help='what to do')
    add('--gin_file', action='append', default=[], metavar='FILE',
        help='a gin file; names inside the package, such as demo.gin, resolve from anywhere; '
             'repeatable')
    add('--gin.NAME', dest='example', metavar='VALUE',
        help='set one value, such as --gin.prompt.rows=20; text needs no quotes; repeatable')
    for flag in FLAGS[command]:
        keywords = {'metavar': flag.metavar} if flag.metavar else {}
        if flag.choices:
            keywords = {'choices': flag.choices}
        if flag.switch:
            keywords = {'action': 'store_const', 'const': True}
        add(f'--{flag.name}', dest=flag.name, help=f'{flag.help} (gin: {flag.binding})', **keywords)
    if command in DISTRIBUTED:
        add('--distributed', action='store_true',
            help='one program on several hosts, started on each; the cluster (Cloud TPU, GKE, '
                 'Slurm, MPI) tells them of each other')
        add('--coordinator', metavar='HOST:PORT', help='of the first host, where no cluster tells')
        add('--num_processes', type=int, metavar='N', help='hosts, where no cluster tells')
        add('--process_id', type=int, metavar='I', help='which one this is, from 0')
    add('--debug', action='store_true', help='show the whole traceback of an error')


def _run(args: argparse.Namespace, bindings: list[str]) -> int:
    """Parse the configuration and call the command's function with it."""
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    if args.command == 'plan':
        # A plan compiles for devices that are not here; those that are must be left alone.
        os.environ['JAX_PLATFORMS'] = 'cpu'
    with _no_garbage():
        from jax_prompt import commands
    commands.quieten_libraries()
    if args.command in DISTRIBUTED:
        given = (args.coordinator, args.num_processes, args.process_id)
        if args.distributed or given != (None, None, None):
            from jax_prompt.parallel import hosts

            hosts.start(*given)
    # No file of the user's may stand in for the wiring of the commands.
    files = [str(gin_folders()[0] / 'base.gin'), *map(find_gin_file, args.gin_file)]
    bindings = [*_bindings_of(args), *bindings]
    return commands.run(GIN_NAMES.get(args.command, args.command), files, bindings,
                        [str(folder) for folder in gin_folders()])


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Look for no garbage while modules are imported, nor ever among what they leave.

    They leave half a million objects and no garbage: looking through them took a quarter of the
    time of importing, and as long again when Python ends.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
    atexit.register(gc.freeze)  # what is left then goes with the process


def _bindings_of(args: argparse.Namespace) -> list[str]:
    """Translate the short flags to gin bindings."""
    bindings = []
    if len(ACTIONS.get(args.command, ())) > 1:
        bindings.append(f'{args.command}.action={args.action}')
    if args.command == 'predict' and (args.distributed or args.coordinator is not None):
        bindings.append('mesh.each_host=True')  # a host answers its share by itself
    for flag in FLAGS[args.command]:
        value = getattr(args, flag.name)
        if value is not None:
            bindings += [flag.also] if flag.also else []
            value = f'@{value}()' if flag.constructor else value
            bindings += (_task_bindings(value) if flag.binding == 'TASK'
                         else [f'{flag.binding}={value}'])
    return bindings


def _task_bindings(task: str) -> list[str]:
    """Bind the task that --task names; what looks like a file is one, be it of a kind to refuse."""
    from jax_prompt import commands

    if task in commands.TASKS:
        return [f'TASK=@{task}()']
    if task in commands.BENCHMARK_TASKS:
        return ['TASK=@benchmark_task()', f'benchmark_task.name={task}',
                'benchmark_task.data_dir=%DATA']
    if (task.lower().endswith(commands.FILE_ENDINGS) or os.sep in task
            or os.path.exists(task)):
        return ['TASK=@file_task()', f'file_task.train_file={task}']
    return ['TASK=@registered_task()', f'registered_task.name={task}']


def find_gin_file(name: str) -> str:
    """Find a gin file: as a path, or by its name inside the package.

    Args:
      name: such as 'mine.gin', 'demo.gin' or 'tasks/imdb.gin'.

    Returns:
      Its path.

    Raises:
      FileNotFoundError: saying where it was looked for.
    """
    for folder in (pathlib.Path(), *gin_folders()):
        if (path := folder / os.path.expanduser(name)).is_file():
            return str(path)
    raise FileNotFoundError(f'no gin file {name!r}, neither here ({pathlib.Path().resolve()}) nor '
                            'among those that come with jax_prompt')


def gin_folders() -> list[pathlib.Path]:
    """Return where the gin files are: inside the installed package, or beside it in a checkout."""
    package = pathlib.Path(str(importlib.resources.files('jax_prompt')))
    return [folder for folder in (package / 'gin', package.parent / 'gin') if folder.is_dir()]


def _has_company() -> bool:
    """Say whether this process is one of several that make one program."""
    if 'jax' not in sys.modules:
        return False
    import jax

    return jax.distributed.is_initialized() and jax.process_count() > 1


def _leave_alone(code: int) -> None:
    """End a process of several at once: the usual way would wait for the others, who do not end."""
    import jax

    sys.stderr.flush()
    if jax.process_index() == 0:
        # The others speak through the first one; those that met the same error end before it.
        time.sleep(3)
    os._exit(code)


def _is_lost_host(error: Exception) -> bool:
    """Say whether an error means that another host of the job is gone."""
    told = str(error).lower()
    return (not isinstance(error, ValueError | OSError) and _has_company()
            and any(sign in told for sign in _GONE))


def _one_line(error: Exception) -> str:
    """Return the error's own line, without what gin adds below it.

    What is neither a ValueError nor the system's was not foreseen, so its kind is told as well.
    """
    if _is_lost_host(error):
        return ('another host of the job was lost, so this one ends too; start all of them again '
                f'to go on from the last checkpoint ({str(error).splitlines()[0][:200]})')
    if isinstance(error, OSError) and isinstance(error.__context__, OSError) and \
            str(error).startswith(str(error.__context__)):
        error = error.__context__  # gin's stand-in for it has its text alone
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f'{error.strerror}: {error.filename}'
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    if isinstance(error, ValueError | OSError) or hasattr(error, 'exit_code'):
        return lines[0] if lines else name
    return ': '.join([name, *lines[:1]]) + ' (--debug shows where)'


if __name__ == '__main__':
    sys.exit(main())
