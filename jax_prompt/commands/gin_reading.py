"""Read gin files and command-line bindings into lines that remember where they stood."""

import contextlib
import dataclasses
import functools
import importlib
import os
import re
import tokenize
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin
from gin import config_parser

MACRO = 'gin.macro'


@dataclasses.dataclass(frozen=True)
class Binding:
    """One line NAME = VALUE.

    Attributes:
      name: as written: 'settings.steps', or 'STEPS' for a macro.
      key: what gin binds: scope, configurable and parameter.
      value: parsed; references are not evaluated.
      where: its place, for messages.
      on_command_line: whether the user typed it for this one command.
    """

    name: str
    key: tuple[str, str, str]
    value: Any
    where: str
    on_command_line: bool

    @property
    def is_macro(self) -> bool:
        return self.key[1] == MACRO

    @property
    def node(self) -> str:
        """What reads the line: the configurable's name, or '%NAME' for a macro."""
        return f'%{self.key[0]}' if self.is_macro else self.key[1].rsplit('.', 1)[-1]


@contextlib.contextmanager
def located(where: Callable[[], str]) -> Iterator[None]:
    """Turn what gin raises into a line that names the place."""
    try:
        yield
    except (SyntaxError, tokenize.TokenError, ValueError, ImportError) as error:
        text = error.msg if isinstance(error, SyntaxError) else str(
            error.args[0] if isinstance(error, tokenize.TokenError) else error)
        if isinstance(error, SyntaxError | tokenize.TokenError):
            text = f'not readable as gin: {text}'
        raise ValueError(f'{text.strip().splitlines()[0].rstrip(".")} ({where()})') from error


def read_file(path: str, folders: Sequence[str],
              chain: tuple[str, ...] = ()) -> Iterator[Binding]:
    """Yield a file's bindings and those of the files that it includes, in order.

    Args:
      path: the gin file.
      folders: where included files are looked for, after the folder of the including file.
      chain: the files that include this one.

    Raises:
      ValueError: for what is no gin, with its line; FileNotFoundError: for a missing file.
    """
    if os.path.realpath(path) in chain:
        raise ValueError(f'gin file {path} includes itself; take the include out')
    chain = (*chain, os.path.realpath(path))
    parser = None

    def where() -> str:
        return f'line {parser.current_token.start[0]} of {path}' if parser else f'in {path}'

    with open(path, encoding='utf-8-sig') as file:
        while True:
            with located(where):
                parser = parser or config_parser.ConfigParser(file, gin.config.ParserDelegate())
                statement = parser.parse_statement()
            if statement is None:
                return
            place = f'line {statement.location.line_num} of {path}'
            if isinstance(statement, config_parser.IncludeStatement):
                yield from read_file(_included(statement.filename, path, folders, place), folders,
                                      chain)
            elif isinstance(statement, config_parser.ImportStatement):
                _import(statement, place)
            elif isinstance(statement, config_parser.BindingStatement):
                scope, selector, parameter, value, _ = statement
                yield _binding(scope, selector, parameter, value, place)


def _included(name: str, by: str, folders: Sequence[str], place: str) -> str:
    """Find an included file: beside the including one, in the package, then from here."""
    for folder in (os.path.dirname(by), *folders, ''):
        if os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
    raise FileNotFoundError(f'no gin file {name!r} to include ({place})')


def _import(statement: config_parser.ImportStatement, place: str) -> None:
    """Import a module that registers its own configurables."""
    if statement.module.startswith('__gin__'):
        raise ValueError(f'{statement.format()!r} is not supported; import the module ({place})')
    try:
        importlib.import_module(statement.module)
    except ImportError as error:
        raise ValueError(f'cannot import module {statement.module}: {error} ({place})') from error


def _binding(scope: str, selector: str, parameter: str, value: Any, where: str,
             on_command_line: bool = False) -> Binding:
    name = '/'.join(filter(None, [scope, selector])) + (f'.{parameter}' if parameter else '')
    key = (scope, selector, parameter) if parameter else (name, MACRO, 'value')
    return Binding(name, key, value, where, on_command_line)


def read_binding(text: str, names: Mapping[str, Callable]) -> Binding:
    """Read one line of the command line.

    A parameter of type text takes the value as it is. For all others it is a gin literal or
    reference, or, being neither, text.

    Args:
      text: NAME=VALUE.
      names: configurables by name, for the types of their parameters.

    Raises:
      ValueError: for what is no name, or a reference that cannot be read.
    """
    name, _, value = text.partition('=')
    name = name.strip()
    if not re.fullmatch(r'[A-Za-z_][\w./]*', name):
        raise ValueError(f'{name!r} is no name of a setting; expected one such as prompt.rows')
    where = 'on the command line'
    with located(lambda: where):
        scope, selector, parameter = config_parser.parse_binding_key(name)
    owner = names.get(selector.rsplit('.', 1)[-1])
    hint = hints_of(owner).get(parameter) if owner else None
    return _binding(scope, selector, parameter, _read_value(name, value, hint), where, True)


def _read_value(name: str, text: str, hint: Any) -> Any:
    """Take text as it is where text is wanted; else read a literal, and text if it is none."""
    if set(alternatives(hint)) - {type(None)} == {str}:
        return None if text == 'None' and hint is not str else text
    with located(lambda: f'{name}={text}'):
        try:
            parser = config_parser.ConfigParser(f'{name} = {text.strip()}\n',
                                                gin.config.ParserDelegate())
            statement = parser.parse_statement()
            if parser.parse_statement() is None:
                return statement.value
        except (SyntaxError, tokenize.TokenError):
            if text.strip().startswith(('@', '%')):
                raise
        return text


def references_in(value: Any) -> Iterator[gin.config.ConfigurableReference]:
    """Yield what a value refers to, however nested."""
    return gin.config.iterate_references([value])


def node_of(reference: gin.config.ConfigurableReference) -> str:
    """Name what a reference leads to, as `Binding.node` does."""
    scope, selector = reference.config_key
    return f'%{scope}' if selector == MACRO else selector.rsplit('.', 1)[-1]


@functools.cache
def hints_of(constructor: Callable) -> dict[str, Any]:
    """Return the types of a constructor's parameters."""
    return typing.get_type_hints(constructor)


def alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the one type."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)
