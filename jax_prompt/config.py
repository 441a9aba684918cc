"""What a constructor was given, told by what it made.

A run's identity and its card tell optimizers, schedules, initialisers and methods by name and
arguments, which neither optax's transformations nor closures remember.
"""

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


class Config(dict):
    """How something was made, ready for JSON: the constructor's name and its arguments.

    Attributes:
        constructor: the function itself, undecorated.
        arguments: as they were given, by name, with the defaults.
    """

    constructor: Callable
    arguments: Mapping[str, Any]


def configured(constructor: Callable) -> Callable:
    """Let what a constructor returns remember its name and arguments, for `config_of`.

    Args:
        constructor: of a function, or of an object that takes attributes.

    Example:
        >>> @configured
        ... def power(exponent=2):
        ...     return lambda x: x**exponent
        >>> config_of(power())
        {'name': 'power', 'exponent': 2}
    """
    signature = inspect.signature(constructor)

    @functools.wraps(constructor)
    def build(*args: Any, **kwargs: Any) -> Any:
        made = constructor(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        config = Config({'name': constructor.__name__} | {
            name: config_of(value) for name, value in bound.arguments.items()})
        config.constructor, config.arguments = constructor, bound.arguments
        object.__setattr__(made, 'config', config)
        return made

    return build


def config_of(value: Any) -> Any:
    """Tell a value as JSON can hold it, what constructors made by how they were made.

    Functions of one's own are told by their names, arrays by a digest.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(getattr(value, 'config', None), Mapping):
        return dict(value.config)
    if isinstance(value, Mapping):
        return {str(key): config_of(one) for key, one in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, '_fields'):
        return [config_of(one) for one in value]
    if dataclasses.is_dataclass(value):
        return {field.name: config_of(getattr(value, field.name))
                for field in dataclasses.fields(value)}
    if hasattr(value, '__array__'):
        array = np.asarray(value)
        digest = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=8)
        return f'{array.dtype}{list(array.shape)} {digest.hexdigest()}'
    return getattr(value, '__qualname__', None) or (
        str(value) if hasattr(value, '__fspath__') else type(value).__qualname__)


def described(config: Any) -> str:
    """Write what `config_of` gave in one line, as Python calls its constructors."""
    if not isinstance(config, Mapping) or 'name' not in config:
        return str(config) if isinstance(config, str) else repr(config)
    told = ', '.join(f'{name}={described(value) if isinstance(value, Mapping) else repr(value)}'
                     for name, value in config.items() if name != 'name')
    return f'{config["name"]}({told})'
