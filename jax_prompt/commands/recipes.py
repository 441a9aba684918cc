"""Gin files whose lines count in one scope alone, so that contenders can be told by recipes.

`residual/tuning.recipe = 'methods/residual.gin'` binds what the file binds under `residual/`; one's
own lines in that scope win over it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gin
from gin.config_parser import BindingStatement

#: The constructor that takes a recipe, and the command whose settings recipes are written for.
_TAKER, _COMMAND, _PARAMETER = 'tuning', 'train', 'recipe'

#: (path, delegate of gin's parser) -> the bindings of a file and of those that it includes.
Reader = Callable[[str, Any], Iterator[BindingStatement]]


class _InScope:
    """Makes the references of a file lead into a scope; those without one are in it anyway."""

    def __init__(self, scope: str):
        self._scope, self._made = scope, gin.config.ParserDelegate()

    def configurable_reference(self, name: str, evaluate: bool) -> Any:
        """Make a reference to a constructor."""
        return self._made.configurable_reference(
            f'{self._scope}/{name}' if '/' in name else name, evaluate)

    def macro(self, name: str) -> Any:
        """Make a reference to a macro, of which each scope has its own."""
        return self._made.macro(f'{self._scope}/{name}')


def expanded(read: Sequence[BindingStatement], folders: Sequence[str],
             reader: Reader) -> list[BindingStatement]:
    """Return what the recipes bind that bindings name.

    Args:
      read: all bindings, of which later ones win.
      folders: where recipes are looked for, after the working folder.
      reader: reads a file.

    Raises:
      ValueError: a recipe in no scope.
      FileNotFoundError: no such file.
    """
    named = {one.scope: one for one in read
             if one.selector.rsplit('.', 1)[-1] == _TAKER and one.arg_name == _PARAMETER}
    found = []
    for scope, one in named.items():
        if one.value is None:
            continue
        if not scope:
            raise ValueError(f'{_TAKER}.{_PARAMETER} is in no scope, so it would be of all '
                             f'contenders; write NAME/{_TAKER}.{_PARAMETER} for the contender '
                             f'@NAME/{_TAKER}()')
        path = _find(str(one.value), folders)
        found += [_in_scope(line, scope) for line in reader(path, _InScope(scope))]
    return found


def _in_scope(line: BindingStatement, scope: str) -> BindingStatement:
    """Return a line of a recipe as one of a contender."""
    selector = _TAKER if line.selector == _COMMAND else line.selector
    return line._replace(scope='/'.join(filter(None, [scope, line.scope])), selector=selector)


def _find(name: str, folders: Sequence[str]) -> str:
    for folder in ('', *folders):
        if os.path.isfile(path := os.path.join(folder, os.path.expanduser(name))):
            return path
    raise FileNotFoundError(f'no gin file {name!r} for a recipe, neither here nor among those that '
                            'come with jax_prompt')
