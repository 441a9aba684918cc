"""Follow a pickle of tensors without unpickling it: nothing that it names is looked up or called.

A pickle is a program, and unpickling runs it. `pickletools` only takes it apart into instructions;
the few of them that a dictionary of tensors needs are followed here by hand. What they name
(`torch.FloatStorage`, `OrderedDict`) is compared with a table, and any other name or instruction is
refused.

Source: torch/_utils.py (`_rebuild_tensor_v2`) and torch/serialization.py, release 2.13; Python's
pickletools.
"""

import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

#: The storages that weights are made of, and others: named, so that a message can be clear.
STORAGES = {
    'FloatStorage': np.dtype(np.float32), 'DoubleStorage': np.dtype(np.float64),
    'HalfStorage': np.dtype(np.float16), 'BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
}
OTHER_STORAGES = ('LongStorage', 'IntStorage', 'ShortStorage', 'CharStorage', 'ByteStorage',
                  'BoolStorage')


class Malformed(ValueError):
    """The file is not what torch.save writes of a state dict; the message says why."""


class Name(NamedTuple):
    """What a pickle names; never looked up."""

    module: str
    name: str


class Storage(NamedTuple):
    """One file within the zip: its type's name, its own name and how many numbers it holds."""

    kind: str
    key: str
    count: int


class Tensor(NamedTuple):
    """A view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def interpret(content: bytes) -> Any:
    """Follow the instructions of a pickle that only builds dictionaries of tensors.

    Args:
      content: the pickle.

    Returns:
      What it builds, with `Tensor` for tensors; unchecked but for the types within `Tensor`.

    Raises:
      Malformed: it has a name or an instruction that no state dict needs.
      ValueError, IndexError, KeyError, TypeError, OverflowError: it is damaged.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name == 'STOP':
            return stack.pop()
        if name in ('PROTO', 'FRAME'):
            continue
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]() if callable(_CONSTANTS[name]) else _CONSTANTS[name])
        elif name in _LITERALS:
            stack.append(argument)
        elif name in ('BINPUT', 'LONG_BINPUT'):
            memo[argument] = stack[-1]
        elif name == 'MEMOIZE':
            memo[len(memo)] = stack[-1]
        elif name in ('BINGET', 'LONG_BINGET'):
            stack.append(memo[argument])
        elif name in _STEPS:
            _STEPS[name](stack, argument)
        else:
            raise Malformed(f'its pickle has the instruction {name}, which no state dict needs '
                            '(a pickle can run code, so only plain tensors are read)')
    raise Malformed('its pickle has no end; copy or download the file again')


def what(value: Any) -> str:
    """Say in a few words what a pickle has built, for messages."""
    if isinstance(value, Name):
        return f'{value.module}.{value.name}'
    kind = type(value).__name__.lower()
    return f'an {kind}' if kind[0] in 'aeiou' else f'a {kind}'


def _global(stack: list, argument: str) -> None:
    module, _, name = argument.partition(' ')
    known = (module, name) in _CALLS or (
        module == 'torch' and (name in STORAGES or name in OTHER_STORAGES))
    if not known:
        raise Malformed(f'its pickle names {argument.replace(" ", ".")!r:.80}, which no state dict '
                        'needs (a pickle can run code, so only plain tensors are read)')
    stack.append(Name(module, name))


def _stack_global(stack: list, _: Any) -> None:
    name, module = _expect(stack.pop(), str), _expect(stack.pop(), str)
    _global(stack, f'{module} {name}')


def _reduce(stack: list, _: Any) -> None:
    arguments, function = stack.pop(), stack.pop()
    if not isinstance(function, Name) or (function.module, function.name) not in _CALLS:
        raise Malformed(f'its pickle calls {what(function)}; expected plain tensors alone')
    stack.append(_CALLS[function.module, function.name](arguments))


def _persistent(stack: list, _: Any) -> None:
    """('storage', type, key, device, count): a file of the zip."""
    kind, storage, key, _, count = stack.pop()
    if kind != 'storage' or not isinstance(storage, Name) or storage.module != 'torch':
        raise Malformed(f'its pickle refers to {what(storage)}; expected a storage')
    stack.append(Storage(storage.name, _expect(key, str), _expect(count, int)))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    sizes = tuple(_expect(size, int) for size in _expect(shape, tuple))
    steps = tuple(_expect(step, int) for step in _expect(strides, tuple))
    return Tensor(_expect(storage, Storage), _expect(offset, int), sizes, steps)


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise Malformed(f'its pickle has {what(value)} out of place; copy or download it again')
    return value


def _to_mark(stack: list) -> list:
    """Take what was put on the stack since the last mark."""
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _tuple(count: int | None) -> Callable[[list, Any], None]:
    def step(stack: list, _: Any) -> None:
        items = _to_mark(stack) if count is None else [stack.pop() for _ in range(count)][::-1]
        stack.append(tuple(items))
    return step


def _set(many: bool) -> Callable[[list, Any], None]:
    def step(stack: list, _: Any) -> None:
        items = _to_mark(stack) if many else [stack.pop(), stack.pop()][::-1]
        target = _expect(stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Tuples may nest so that hashing one, which is no tensor's name, would never end.
            if not isinstance(key, str):
                raise Malformed(f'it has {what(key)} as a key; expected a state dict, tensor name '
                                '-> tensor: save model.state_dict() alone')
            if key in target:
                raise Malformed(f'it has {key!r:.80} twice; save it again')
            target[key] = value
    return step


def _build(stack: list, _: Any) -> None:
    """Attributes of a dict (a module's versions) say nothing about its tensors."""
    stack.pop()
    _expect(stack[-1], dict)


_MARK = object()
_CALLS = {
    ('collections', 'OrderedDict'): lambda args: {},
    ('torch._utils', '_rebuild_tensor_v2'): lambda args: _tensor(*args[:4]),
    ('torch._utils', '_rebuild_parameter'): lambda args: args[0],
}
_CONSTANTS = {'MARK': _MARK, 'EMPTY_DICT': dict, 'EMPTY_TUPLE': (),
              'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}
_LITERALS = ('BINUNICODE', 'SHORT_BINUNICODE', 'BININT', 'BININT1', 'BININT2', 'LONG1')
_STEPS = {'GLOBAL': _global, 'STACK_GLOBAL': _stack_global, 'REDUCE': _reduce,
          'BINPERSID': _persistent, 'TUPLE': _tuple(None), 'TUPLE1': _tuple(1),
          'TUPLE2': _tuple(2), 'TUPLE3': _tuple(3), 'SETITEM': _set(False), 'SETITEMS': _set(True),
          'BUILD': _build}
