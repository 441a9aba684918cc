"""The one command, `jax-prompt`; the only module that knows flags.

Everything heavy is imported when a command runs, so that `--help` answers at once.
"""

import argparse
import contextlib
import importlib.resources
import os
import pathlib
import sys
from collections.abc import Sequence

_DESCRIPTION = 'Train and use soft prompts for frozen T5 models.'
_COMMANDS = {
    'train': 'train a prompt, or resume a run that was stopped',
    'evaluate': 'measure a prompt, or the plain model, on a split of a task',
    'predict': 'answer texts from a file or standard input with a prompt',
}
_BASE_FILE = 'base.gin'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
      argv: arguments without the program's name; None for the process's own.

    Returns:
      The exit code: 0, or 2 for what the user can mend, told in one line on standard error.
    """
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
        print(f'jax-prompt {args.command}: {_one_line(error)}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resumes = '; start the same command again to go on' if args.command == 'train' else ''
        print(f'jax-prompt {args.command}: interrupted{resumes}', file=sys.stderr)
        return 130


def _abandon_output() -> None:
    """Send nowhere what is left for a closed pipe; Python would complain of it as it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split the arguments into flags and gin bindings; argparse exits 2 on what is neither."""
    parser = argparse.ArgumentParser('jax-prompt', description=_DESCRIPTION, allow_abbrev=False)
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, summary in _COMMANDS.items():
        _add_flags(commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + '.',
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_epilog(name)), name)
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
    add('--gin_file', action='append', default=[], metavar='FILE',
        help='a gin file; names inside the package, such as demo.gin, resolve from anywhere; '
             'repeatable')
    add('--gin.NAME', dest='example', metavar='VALUE',
        help='set one value, such as --gin.prompt.rows=20; text needs no quotes; repeatable')
    add('--model', metavar='SOURCE',
        help='folder, package:NAME/folder or Hugging Face id of the T5 (gin: model.source)')
    if command == 'train':
        add('--task', help='a task by name, or a .csv, .tsv or .jsonl file (gin: TASK)')
        add('--output', metavar='FOLDER', help='folder of the run (gin: train.output)')
    else:
        add('--prompt', metavar='FILE', help=f'prompt file (gin: {command}.prompt)')
    if command == 'evaluate':
        add('--task', help='a task by name, or a .csv, .tsv or .jsonl file (gin: TASK)')
        add('--split', help='which split (gin: evaluate.split)')
    if command == 'predict':
        add('--inputs', metavar='FILE', help='texts; - for standard input (gin: predict.inputs)')
        add('--output', metavar='FILE', help='answers; - for standard output '
            '(gin: predict.output)')
        add('--format', choices=('lines', 'jsonl'),
            help='of inputs and answers; by the name of the inputs otherwise (gin: predict.format)')
    add('--debug', action='store_true', help='show the whole traceback of an error')


def _epilog(command: str) -> str:
    """Show how a command is used."""
    return {
        'train': 'examples:\n  jax-prompt train --gin_file=demo.gin\n'
                 '  jax-prompt train --model=google/flan-t5-small --task=reviews.csv '
                 '--output=runs/reviews \\\n      --gin.file_task.inputs_template="review: {text}" '
                 '--gin.file_task.labels=auto',
        'evaluate': 'example:\n  jax-prompt evaluate --gin_file=demo.gin '
                    '--prompt=runs/demo/prompt.safetensors --split=test',
        'predict': 'example:\n  echo "a film to remember" | jax-prompt predict '
                   '--gin_file=demo.gin --prompt=runs/demo/prompt.safetensors',
    }[command]


def _run(args: argparse.Namespace, bindings: list[str]) -> int:
    """Parse the configuration and call the command's function with it."""
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    from jax_prompt import commands

    commands.quieten_libraries()
    files = [_base_file(), *(find_gin_file(name) for name in args.gin_file)]
    bindings = [*_bindings_of(args), *bindings]
    return commands.run(args.command, files, bindings, [str(folder) for folder in gin_folders()])


def _bindings_of(args: argparse.Namespace) -> list[str]:
    """Translate the short flags to gin bindings."""
    command, bindings = args.command, []
    if args.model is not None:
        bindings.append(f'model.source={args.model}')
    if getattr(args, 'task', None) is not None:
        bindings += _task_bindings(args.task)
    for flag in ('output', 'prompt', 'split', 'inputs', 'format'):
        if getattr(args, flag, None) is not None:
            bindings.append(f'{command}.{flag}={getattr(args, flag)}')
    return bindings


def _task_bindings(task: str) -> list[str]:
    """Bind the task that --task names."""
    endings = [end + zipped for end in ('.csv', '.tsv', '.jsonl') for zipped in ('', '.gz')]
    if task.lower().endswith(tuple(endings)):
        return ['TASK=@file_task()', f'file_task.train_file={task}']
    from jax_prompt import commands

    if task in commands.TASKS:
        return [f'TASK=@{task}()']
    return ['TASK=@registered_task()', f'registered_task.name={task}']


def _base_file() -> str:
    """Return the wiring of the commands, which no file of the user's may stand in for."""
    for folder in gin_folders():
        if (folder / _BASE_FILE).is_file():
            return str(folder / _BASE_FILE)
    raise FileNotFoundError(f'{_BASE_FILE} is not there beside jax_prompt; install it again')


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
        if (folder / name).is_file():
            return str(folder / name)
    raise FileNotFoundError(f'no gin file {name!r}, neither here ({pathlib.Path().resolve()}) nor '
                            'among those that come with jax_prompt')


def gin_folders() -> list[pathlib.Path]:
    """Return where the gin files are: inside the installed package, or beside it in a checkout."""
    package = pathlib.Path(str(importlib.resources.files('jax_prompt')))
    return [folder for folder in (package / 'gin', package.parent / 'gin') if folder.is_dir()]


def _one_line(error: Exception) -> str:
    """Return the error's own line, without what gin adds below it.

    What is neither a ValueError nor the system's was not foreseen, so its kind is told as well.
    """
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f'{error.strerror}: {error.filename}'
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    if isinstance(error, ValueError | OSError):
        return lines[0] if lines else name
    return ': '.join([name, *lines[:1]]) + ' (--debug shows where)'


if __name__ == '__main__':
    sys.exit(main())
