"""From gin files and command-line bindings to a configuration in which every line counts.

gin itself takes a misspelt name for a macro, passes values of any type on, and says nothing of
parameters that nobody reads. Here each of these is told, with the place it stands at.
"""

import inspect
import logging
import tokenize
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gin

from jax_prompt.commands.gin_reading import (
    MACRO,
    Binding,
    alternatives,
    hints_of,
    located,
    node_of,
    read_binding,
    read_file,
    references_in,
)

_log = logging.getLogger(__name__)

#: The macro that base.gin reads wherever a command has a task; it may stand unused.
_TASK = 'TASK'
_PLAIN_TYPES = {int: 'a whole number', float: 'a number', bool: 'True or False', str: 'text',
                type(None): 'None'}
_LITERALS = (str, int, float, tuple, list, dict, type(None))


def configure(names: Mapping[str, Callable], files: Sequence[str], bindings: Sequence[str],
              folders: Sequence[str] = ()) -> list[Binding]:
    """Replace gin's configuration by what files and bindings say, and check it.

    Args:
      names: configurables by name, registered with gin.
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
    read = []
    for file in files:
        for binding in read_file(file, folders):
            read.append(_bind(binding))
    for text in bindings:
        read.append(_bind(read_binding(text, names)))
    effective = list({binding.key: binding for binding in read}.values())
    _check_macros(read, effective, names)
    for binding in effective:
        if not binding.is_macro and binding.node in names:
            _check_value(binding, names)
    return effective


def check_use(effective: Iterable[Binding], command: str, commands: Iterable[str]) -> None:
    """Tell which bindings have no effect.

    Args:
      effective: from `configure`.
      command: the command that runs.
      commands: all commands; a file may hold settings for several.

    Raises:
      ValueError: for a binding of the command line that no command reads. Others are told in a line
        of the log: those of files that no command reads, and those of the command line that only
        another command reads.
    """
    effective = list(effective)
    used, by_any = _reachable([command], effective), _reachable(commands, effective)
    told = set()
    for binding in effective:
        if binding.is_macro or binding.node in used:
            continue
        unread = f'{binding.name} ({binding.where}) has no effect: '
        if binding.node in by_any:
            if binding.on_command_line:
                _log.warning('%snothing that %s uses reads it', unread, command)
        elif binding.on_command_line:
            raise ValueError(f'{unread}nothing refers to @{binding.node}(); bind it somewhere, as '
                             f'in --gin.NAME=@{binding.node}(), or leave this out')
        elif binding.node not in told:
            told.add(binding.node)
            _log.warning('%snothing refers to @%s()', unread, binding.node)


def check_arguments(command: str, function: Callable, values: Mapping[str, Any],
                    names: Mapping[str, Callable]) -> None:
    """Check the types of what gin has evaluated for a command.

    Raises:
      ValueError: naming the parameter.
    """
    hints = hints_of(function)
    for parameter, value in values.items():
        if not _fits(value, hints[parameter]):
            raise ValueError(_mismatch(f'{command}.{parameter}', value, hints[parameter], names))


def operative_configuration() -> dict[str, str]:
    """Return what gin has been asked for so far, name -> value, defaults included.

    gin's own text of it is not used: it sorts dictionaries, whose order is that of the labels, and
    records what a macro calls under the macro's name, where it would win over later flags.
    """
    recorded = dict(gin.config._OPERATIVE_CONFIG)
    macros = {scope for scope, selector in recorded if selector == MACRO}
    found: dict[str, str] = {}
    for (scope, selector), parameters in recorded.items():
        if selector == MACRO:
            found[scope] = repr(parameters['value'])
        elif selector != 'gin.constant':
            scopes = [part for part in scope.split('/') if part and part not in macros]
            owner = '/'.join([*scopes, selector.rsplit('.', 1)[-1]])
            found |= {f'{owner}.{name}': repr(value) for name, value in parameters.items()
                      if _is_readable(value)}
    return found


def _is_readable(value: Any) -> bool:
    """Say whether gin reads a value back from what Python writes for it."""
    try:
        return bool(gin.config.parse_value(repr(value)) == value)
    except (SyntaxError, ValueError, tokenize.TokenError):
        return False


def _bind(binding: Binding) -> Binding:
    with located(lambda: binding.where):
        gin.bind_parameter(binding.key, binding.value)
    return binding


def _reachable(roots: Iterable[str], bindings: Iterable[Binding]) -> set[str]:
    """Return all that the roots' parameters refer to, directly or not."""
    below: dict[str, set[str]] = {}
    for binding in bindings:
        below.setdefault(binding.node, set()).update(map(node_of, references_in(binding.value)))
    seen, waiting = set(), list(roots)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += below.get(node, ())
    return seen


def _check_macros(read: Iterable[Binding], effective: Iterable[Binding],
                  names: Mapping[str, Callable]) -> None:
    """Refuse macros that are referred to but not there, and those that nothing refers to."""
    referred = {node_of(found) for binding in read for found in references_in(binding.value)}
    defined = {binding.node for binding in effective if binding.is_macro}
    for binding in effective:
        for node in map(node_of, references_in(binding.value)):
            if node.startswith('%') and node not in defined:
                raise ValueError(f'{binding.name} is {node}, but nothing sets {node[1:]} '
                                 f'({binding.where})')
        if binding.name == _TASK and isinstance(binding.value, str):
            name = binding.value if binding.value in names else 'file_task'
            raise ValueError(f'{_TASK} is {binding.value!r}; expected a task, such as @{name}() '
                             f'({binding.where})')
        if binding.is_macro and binding.node not in referred | {f'%{_TASK}'}:
            owners = [f'{name}.{binding.name}' for name, constructor in names.items()
                      if binding.name in inspect.signature(constructor).parameters]
            close = f'did you mean {" or ".join(owners)}?' if owners else (
                'expected one such as prompt.rows')
            raise ValueError(f'{binding.name!r} names no parameter, and nothing refers to it as '
                             f'%{binding.name}; {close} ({binding.where})')


def _check_value(binding: Binding, names: Mapping[str, Callable]) -> None:
    """Refuse a literal of the wrong type, and a constructor that is named but not called."""
    hint = hints_of(names[binding.node]).get(binding.key[2], Any)
    references = list(references_in(binding.value))
    for reference in references:
        if not reference.evaluate and node_of(reference) in names:
            raise ValueError(f'{binding.name} is {reference!r}, the constructor itself; write '
                             f'{reference!r}() ({binding.where})')
    if not references and not _fits(binding.value, hint):
        raise ValueError(f'{_mismatch(binding.name, binding.value, hint, names)} '
                         f'({binding.where})')


def _mismatch(name: str, value: Any, hint: Any, names: Mapping[str, Callable]) -> str:
    """Say what was got, what was expected and, where constructors are, which one to write."""
    wanted = alternatives(hint)
    made = [f'@{key}()' for key, constructor in names.items() if constructor in wanted]
    if isinstance(value, str) and value.strip('@()') in names:
        made = [f'@{value.strip("@()")}()']
    expected = ' or '.join(_PLAIN_TYPES.get(kind, _type_name(kind)) for kind in wanted)
    shown = repr(value) if isinstance(value, _LITERALS) else type(value).__name__
    return f'{name} is {shown}; expected {expected}' + (f'; write {made[0]}' if made else '')


def _type_name(kind: Any) -> str:
    origin = typing.get_origin(kind) or kind
    return 'a function' if origin is Callable else f'a {getattr(origin, "__name__", origin)}'


def _fits(value: Any, hint: Any) -> bool:
    """Say whether a value has a type, as far as its outermost part tells."""
    kinds = [typing.get_origin(kind) or kind for kind in alternatives(hint)]
    if Any in kinds:
        return True
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int) and float in kinds or isinstance(value, list) and tuple in kinds:
        return True
    return any(callable(value) if kind is Callable else
               isinstance(value, kind) if isinstance(kind, type) else True for kind in kinds)
