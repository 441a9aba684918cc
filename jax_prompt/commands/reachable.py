"""What a command's configuration leads to: the constructors and macros that it reads."""

import inspect
import tokenize
from collections.abc import Iterable, Sequence
from typing import Any

import gin

#: What gin calls macros by.
MACRO = 'gin.macro'


def operative_configuration(command: str) -> dict[str, str]:
    """Return all that a command is configured with, name -> value, defaults included.

    gin's own text of it is not used: it sorts dictionaries, whose order is that of the labels, and
    records what a macro calls under the macro's name, where it would win over later flags.
    """
    found: dict[str, str] = {}
    for (scope, selector), values in reachable([command]).items():
        if selector == MACRO:
            found[scope] = repr(values['value'])
            continue
        parameters = inspect.signature(gin.get_configurable(selector)).parameters.values()
        values = {one.name: one.default for one in parameters} | values
        owner = '/'.join(filter(None, [scope, short(selector)]))
        found |= {f'{owner}.{name}': repr(value) for name, value in values.items()
                  if _is_readable(value)}
    return found


def _is_readable(value: Any) -> bool:
    """Say whether gin reads a value back from what Python writes for it."""
    try:
        return bool(gin.config.parse_value(repr(value)) == value)
    except (SyntaxError, ValueError, tokenize.TokenError):
        return False


def reachable(roots: Iterable[str | tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return (scope, configurable) -> what is bound there, for all that the roots lead to."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    waiting = [('', root) if isinstance(root, str) else root for root in roots]
    while waiting:
        scope, selector = key = waiting.pop()
        if key not in found:
            found[key] = gin.get_bindings('/'.join(filter(None, key)), resolve_references=False)
            for reference in gin.config.iterate_references(found[key]):
                inner, called = reference.config_key
                # Without a scope of its own it is in that of its caller; macros have none.
                waiting.append((inner if MACRO in (selector, called) else inner or scope, called))
    return found


def reached_by(command: str, parameters: Sequence[str]) -> set[str]:
    """Return the constructors and macros that some parameters of a command lead to, by name."""
    bound = gin.get_bindings(command, resolve_references=False)
    references = gin.config.iterate_references([bound.get(name) for name in parameters])
    return {scope if selector == MACRO else '/'.join(filter(None, [scope, short(selector)]))
            for scope, selector in reachable(one.config_key for one in references)}


def short(selector: str) -> str:
    """Return the name of a constructor without its module's."""
    return selector.rsplit('.', 1)[-1]
