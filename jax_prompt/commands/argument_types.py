"""What the arguments of constructors may be, told as a user would write them."""

import functools
import inspect
import os
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import typeguard

from jax_prompt.files import brief

_TOLD = {int: 'a whole number', float: 'a number', bool: 'True or False', str: 'text',
         type(None): 'None', Callable: 'a function'}
#: Parameters that name files and folders.
PATHS = {'source', 'vocabulary', 'model', 'prompt', 'prompts', 'inputs', 'output', 'file',
         'train_file', 'validation_file', 'test_file', 'data_dir', 'data', 'reference',
         'log', 'against', 'start', 'texts'}
_LITERALS = (str, int, float, tuple, list, dict, type(None))


@functools.cache
def hints_of(constructor: Callable) -> dict[str, Any]:
    """Return the types of a constructor's parameters."""
    return typing.get_type_hints(constructor)


def alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the one type."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def checked(name: str, constructor: Callable, names: Mapping[str, Callable]) -> Callable:
    """Return a constructor, known to gin as `name`, that checks its arguments and expands ~."""
    signature, hints = inspect.signature(constructor), hints_of(constructor)

    def construct(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind_partial(*args, **kwargs)
        for parameter, told in signature.parameters.items():
            if told.default is told.empty and parameter not in bound.arguments:
                raise ValueError(f'{name}.{parameter} is not given; set it as in '
                                 f'--gin.{name}.{parameter}=VALUE')
        for parameter, value in bound.arguments.items():
            check(f'{name}.{parameter}', value, hints.get(parameter, Any), names)
            if parameter in PATHS and isinstance(value, str):
                bound.arguments[parameter] = os.path.expanduser(value)  # no shell does so after a =
        return constructor(*bound.args, **bound.kwargs)

    construct.__module__, construct.__signature__ = constructor.__module__, signature
    return construct


def check(name: str, value: Any, hint: Any, names: Mapping[str, Callable]) -> None:
    """Check one argument; other than for Python True is no number, and a list is a tuple.

    Args:
      name: of the parameter, for the message.
      value: the argument.
      hint: its type.
      names: constructors by name, to say which one makes a value of the type.

    Raises:
      ValueError: what was got, what was expected and, where constructors are, which one to write.
    """
    wanted = alternatives(hint)
    try:
        if not isinstance(value, bool):
            typeguard.check_type(tuple(value) if isinstance(value, list) else value, hint)
        if not isinstance(value, bool) or bool in wanted or Any in wanted:
            return
    except typeguard.TypeCheckError:
        pass
    made = [key for key in names if names[key] in wanted]
    if isinstance(value, str) and value.strip('@()') in names:
        made = [value.strip('@()')]
    shown = brief(value) if isinstance(value, _LITERALS) else type(value).__name__
    raise ValueError(f'{name} is {shown}; expected {" or ".join(map(_told, wanted))}'
                     + (f'; write @{made[0]}()' if made else ''))


def _told(kind: Any) -> str:
    name = re.sub(r'\w+\.', '', inspect.formatannotation(kind))
    return _TOLD.get(typing.get_origin(kind) or kind) or f'a {name}'
