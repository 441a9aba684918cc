"""From gin files and command-line bindings to a configuration in which every line counts.

gin itself takes a misspelt name for a macro, passes values of any type on, and says nothing of
parameters that nobody reads. Here each of these is told, with the place it stands at.
"""

import contextlib
import functools
import graphlib
import importlib
import inspect
import io
import logging
import os
import re
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import gin
from gin.config_parser import (
    BindingStatement,
    ConfigParser,
    ImportStatement,
    IncludeStatement,
    parse_binding_key,
)

from jax_prompt.commands import recipes
from jax_prompt.commands.argument_types import alternatives, check, checked, hints_of
from jax_prompt.commands.reachable import MACRO, reachable, short
from jax_prompt.data.tasks.rows import decode
from jax_prompt.files import first_line

#: The macro that base.gin reads wherever a command has a task; it may stand unused.
_TASK = 'TASK'
#: The one that benchmarks' gin files read their folder from; base.gin's may stand unused.
_DATA = 'DATA'

#: The file that is always read, of how commands and contenders are wired.
_WIRING = 'base.gin'

_log = logging.getLogger(__name__)


#: What `register` was given.
_names: dict[str, Callable] = {}


def register(names: Mapping[str, Callable]) -> None:
    """Make constructors and commands known to gin; their arguments' types are checked."""
    _names.update(names)
    for name, constructor in names.items():
        gin.external_configurable(checked(name, constructor, names), name=name)


def configure(names: Mapping[str, Callable], files: Sequence[str], bindings: Sequence[str],
              folders: Sequence[str] = ()) -> list[BindingStatement]:
    """Replace gin's configuration by what files and bindings say, and check it.

    Args:
      names: what `register` was given.
      files: gin files; later ones win.
      bindings: 'NAME=VALUE', which win over all files.
      folders: where included files are looked for, after the folder of the including file.

    Returns:
      The bindings in effect, for `check_use`.

    Raises:
      ValueError: for what cannot be read, what gin does not know, a name without a dot that nothing
        refers to, and a value of the wrong type; names the place.
    """
    gin.clear_config()
    read = [binding for file in files
            for binding in _read_file(file, folders=folders)]
    read += [_read_binding(text, names) for text in bindings]
    read = [*recipes.expanded(read, folders, functools.partial(_read_file, folders=folders)), *read]
    for binding in read:
        with _located(_where(binding)):
            gin.bind_parameter(_key(binding), binding.value)
    referred = {reference.config_key for reference in gin.config.iterate_references(read)}
    effective = list({_key(binding): binding for binding in read}.values())
    for binding in effective:
        with _located(_where(binding)):
            _check_binding(binding, names)
            if not binding.arg_name and _key(binding)[:2] not in referred:
                _check_unused_macro(binding, names)
    _refuse_circles(effective)
    return effective


def rebind(values: Mapping[str, Any]) -> None:
    """Bind what a trial varies, and check it as `configure` does; what else is bound stays.

    Args:
      values: name of a parameter or a macro -> value; text is read as on the command line, so that
        '@uniform()' is a reference.

    Raises:
      ValueError: for what gin does not know, and a value of the wrong type; says that it stands in
        the search space.
    """
    with _located('in the search space'):
        for name, value in values.items():
            text = value if isinstance(value, str) else repr(value)
            binding = _read_binding(f'{name}={text}', _names)
            gin.bind_parameter(_key(binding), binding.value)
            _check_binding(binding, _names)


def check_use(effective: Iterable[BindingStatement], command: str, commands: Iterable[str],
              also: Iterable[str] = ()) -> None:
    """Tell which bindings have no effect.

    Args:
      effective: from `configure`.
      command: the command that runs.
      commands: all commands; a file may hold settings for several.
      also: commands whose configuration it reads besides.

    Raises:
      ValueError: for a binding of the command line that no command reads. Others are told in a line
        of the log: those of files that no command reads, and those of the command line that only
        another command reads.
    """
    used, by_any = ({short(name) for _, name in reachable(roots)}
                    for roots in ([command, *also], commands))
    told = set()
    for binding in effective:
        owner, typed = short(binding.selector), binding.location is None
        unread = f'{_name(binding)} ({_where(binding)}) has no effect: '
        if not binding.arg_name or owner in used or owner in by_any and not typed:
            continue
        if not typed and os.path.basename(binding.location.filename) == _WIRING:
            continue  # nobody wrote it for this run
        if owner in by_any:
            _log.warning('%snothing that %s uses reads it', unread, command)
        elif typed:
            raise ValueError(f'{unread}nothing refers to @{owner}(); bind it somewhere, as in '
                             f'--gin.NAME=@{owner}(), or leave this out')
        elif owner not in told:
            told.add(owner)
            _log.warning('%snothing refers to @%s()', unread, owner)


def _read_file(path: str, delegate: Any = None, folders: Sequence[str] = (),
               chain: tuple[str, ...] = ()) -> Iterator[BindingStatement]:
    """Yield a file's bindings and those of the files that it includes, in order."""
    if os.path.realpath(path) in chain:
        raise ValueError(f'gin file {path} includes itself; take the include out')
    for statement in _statements(path, delegate or gin.config.ParserDelegate()):
        if isinstance(statement, IncludeStatement):
            included = _included(statement, path, folders)
            yield from _read_file(included, delegate, folders,
                                  (*chain, os.path.realpath(path)))
        elif isinstance(statement, ImportStatement):
            with _located(_where(statement)):
                _import(statement.module, os.path.dirname(os.path.abspath(path)))
        elif isinstance(statement, BindingStatement):
            yield statement


def _import(module: str, folder: str) -> None:
    """Import what a gin file asks for; it may stand beside the file or in the working folder."""
    sys.path += [one for one in (folder, os.getcwd()) if one not in sys.path]
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever the user's own code raises
        hint = ''
        if isinstance(error, ModuleNotFoundError) and module.startswith(f'{error.name}'):
            hint = f'; put it into {folder}, or name its folder in PYTHONPATH'
        raise ValueError(f'module {module} cannot be imported: {type(error).__name__}: '
                         f'{first_line(error)}{hint}') from error


def _statements(path: str, delegate: Any) -> Iterator[Any]:
    """Yield a file's statements one by one: one may need what another imports."""
    parser = None
    with open(path, 'rb') as file:
        text = io.StringIO(''.join(decode(line, f'line {number} of {path}', number == 1)
                                   for number, line in enumerate(file, 1)), newline=None)
    text.name = path  # for gin's messages
    with _located(
            lambda: f'line {parser.current_token.start[0]} of {path}' if parser else f'in {path}'):
        parser = ConfigParser(text, delegate)
        yield from parser


def _included(statement: IncludeStatement, by: str, folders: Sequence[str]) -> str:
    """Find an included file: beside the including one, in the package, then from here."""
    for folder in (os.path.dirname(by), *folders, ''):
        path = os.path.join(folder, os.path.expanduser(statement.filename))
        if os.path.isfile(path):
            return path
    raise FileNotFoundError(f'no gin file {statement.filename!r} to include ({_where(statement)})')


def _read_binding(text: str, names: Mapping[str, Callable]) -> BindingStatement:
    """Read NAME=VALUE of the command line.

    A parameter of type text takes the value as it is, but for %DATA. For all others it is a gin
    literal or reference, or, being neither, text.
    """
    name, _, value = text.partition('=')
    name = name.strip()
    if not re.fullmatch(r'[A-Za-z_][\w./]*', name):
        raise ValueError(f'{name!r} is no name of a setting; expected one such as prompt.rows')
    scope, selector, parameter = parse_binding_key(name)
    hint = hints_of(names[short(selector)]).get(parameter) if short(selector) in names else None
    if set(alternatives(hint)) - {type(None)} == {str} and value != f'%{_DATA}':
        value = None if value == 'None' and hint is not str else value
    else:
        with _located(f'{name}={value}'):
            value = _read_value(value)
    return BindingStatement(scope, selector, parameter, value, None)


def _read_value(text: str) -> Any:
    """Read a literal or a reference; what is neither is text."""
    try:
        statement, = ConfigParser(f'value = {text.strip()}\n', gin.config.ParserDelegate())
        return statement.value
    except (SyntaxError, tokenize.TokenError):
        if text.strip().startswith(('@', '%')):
            raise
        return text


@contextlib.contextmanager
def _located(where: str | Callable[[], str]) -> Iterator[None]:
    """Turn what gin raises into a line that names the place."""
    try:
        yield
    except (SyntaxError, tokenize.TokenError, ValueError, ImportError) as error:
        unread = isinstance(error, SyntaxError | tokenize.TokenError)
        told = f'not readable as gin: {error.args[0]}' if unread else str(error)
        place = where if isinstance(where, str) else where()
        raise ValueError(f'{first_line(told)} ({place})') from error


def _where(statement: BindingStatement | ImportStatement | IncludeStatement) -> str:
    at = statement.location
    return f'line {at.line_num} of {at.filename}' if at else 'on the command line'


def _name(binding: BindingStatement) -> str:
    """Return what a binding sets, as it was written."""
    owner = '/'.join(filter(None, [binding.scope, binding.selector]))
    return f'{owner}.{binding.arg_name}' if binding.arg_name else owner


def _key(binding: BindingStatement) -> tuple[str, str, str]:
    """Return what gin calls it: scope, configurable and parameter."""
    return binding[:3] if binding.arg_name else (_name(binding), MACRO, 'value')


def _check_binding(binding: BindingStatement, names: Mapping[str, Callable]) -> None:
    """Refuse a macro that is not there, a constructor that is not called, and a wrong type."""
    name, owner = _name(binding), short(binding.selector)
    references = list(gin.config.iterate_references([binding.value]))
    for reference in references:
        scope, selector = reference.config_key
        if selector == MACRO and not gin.get_bindings(f'{scope}/{MACRO}', False):
            raise ValueError(f'{name} is {reference!r}, but nothing sets {scope}')
        if not reference.evaluate and short(selector) in names:
            raise ValueError(f'{name} is {reference!r}, the constructor itself; write '
                             f'{reference!r}()')
    if binding.arg_name and owner in names and not references:
        check(name, binding.value, hints_of(names[owner]).get(binding.arg_name, Any), names)
    if name == _TASK and isinstance(binding.value, str):
        task = binding.value if binding.value in names else 'file_task'
        raise ValueError(f'{_TASK} is {binding.value!r}; expected a task, such as @{task}()')


def _refuse_circles(effective: Iterable[BindingStatement]) -> None:
    """Refuse constructors and macros that need themselves."""
    needs: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for binding in effective:
        scope, selector, _ = _key(binding)
        found = needs.setdefault((scope, short(selector)), set())
        for reference in gin.config.iterate_references([binding.value]):
            found.add((reference.config_key[0], short(reference.config_key[1])))
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        macro = short(MACRO)
        told = [f'%{scope}' if name == macro else f'@{name}()' for scope, name in error.args[1]]
        raise ValueError(f'settings refer to themselves: {" of ".join(told)}; take one of these '
                         'references out') from None


def _check_unused_macro(binding: BindingStatement, names: Mapping[str, Callable]) -> None:
    """Refuse a name without a dot that nothing refers to."""
    name = _name(binding)
    if name == _DATA and binding.location is None:
        raise ValueError(f'data_dir {binding.value!r} has no effect: the task is none of a '
                         'benchmark; leave --data_dir out, or name one with --task=NAME')
    if name not in (_TASK, _DATA):
        owners = [f'{owner}.{name}' for owner in names
                  if name in inspect.signature(names[owner]).parameters]
        close = f'did you mean {" or ".join(owners)}?' if owners else (
            'expected one such as prompt.rows')
        raise ValueError(f'{name!r} names no parameter, and nothing refers to it as %{name}; '
                         f'{close}')
