"""Damage files on purpose, the same way each time, and check that a loader is never deceived.

    for name, content in mutations(path.read_bytes()):
        path.write_bytes(content)
        assert_refused_or_equal(load, path, original, name)
"""

import contextlib
import os
import pathlib
import pickle
import resource
import signal
import struct
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

#: What a loader may raise: what a user can cause, in one line. Anything else is a crash.
REFUSALS = (ValueError, FileNotFoundError)

#: Structural bytes are at the front of every format: headers get every bit flipped, data a sample.
HEADER_BYTES = 512


def mutations(content: bytes, seed: int = 0, samples: int = 40) -> Iterator[tuple[str, bytes]]:
    """Yield named damaged versions of a file: cut, flipped, zeroed, swapped, lengthened, replaced.

    Args:
        content: the whole file.
        seed: of the sampled positions.
        samples: how many random ones of each kind.
    """
    yield from truncations(content, seed, samples)
    yield from bit_flips(content, seed, samples)
    yield from overwritten(content, seed, samples)
    yield from strangers(content)


def truncations(content: bytes, seed: int = 0, samples: int = 40) -> Iterator[tuple[str, bytes]]:
    """Yield the file cut at its ends and at sampled lengths, and with bytes in front and behind."""
    rng = np.random.default_rng([seed, 1])
    lengths = {0, 1, 4, 8, len(content) // 2, len(content) - 8, len(content) - 1}
    lengths |= set(rng.integers(0, max(len(content), 1), samples).tolist())
    for length in sorted(length for length in lengths if 0 <= length < len(content)):
        yield f'cut to {length} bytes', content[:length]
    for extra in (b'\0', b'\0' * 64, content):
        yield f'{len(extra)} bytes appended', content + extra
    yield 'a byte in front', b'\0' + content
    yield 'the first byte gone', content[1:]


def bit_flips(content: bytes, seed: int = 0, samples: int = 40) -> Iterator[tuple[str, bytes]]:
    """Yield the file with one bit flipped: often in the header, sampled further on."""
    rng = np.random.default_rng([seed, 2])
    if not content:
        return
    head = rng.integers(0, 8 * min(len(content), HEADER_BYTES), 2 * samples)
    rest = rng.integers(0, 8 * len(content), samples)
    for position in dict.fromkeys([*head.tolist(), *rest.tolist()]):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        yield f'bit {position} flipped', bytes(damaged)


def overwritten(content: bytes, seed: int = 0, samples: int = 40) -> Iterator[tuple[str, bytes]]:
    """Yield the file with runs of bytes replaced, digits raised and blocks changing places."""
    rng = np.random.default_rng([seed, 3])
    if len(content) < 16:
        return
    for fill in (b'\0', b'\xff', b'9', b'{', b'"'):
        for start in rng.integers(0, len(content) - 8, max(samples // 10, 1)).tolist():
            yield (f'{fill!r} over bytes {start}..{start + 8}',
                   content[:start] + 8 * fill + content[start + 8:])
    for start in range(0, min(len(content), HEADER_BYTES) - 8, max(HEADER_BYTES // samples, 1)):
        yield (f'2**62 in little endian at {start}',
               content[:start] + struct.pack('<Q', 2**62) + content[start + 8:])
    digits = [i for i in range(min(len(content), HEADER_BYTES)) if 48 <= content[i] <= 57]
    for i in digits[:samples]:
        yield f'a digit of byte {i} made 15 nines', content[:i] + b'9' * 15 + content[i + 1:]
    half = len(content) // 2
    yield 'halves swapped', content[half:] + content[:half]


def strangers(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield files of other kinds, as long as the right one or with huge declared sizes."""
    yield 'zeros', b'\0' * len(content)
    yield 'ones', b'\xff' * len(content)
    yield 'noise', np.random.default_rng(5).bytes(len(content))
    yield 'text', b'no such thing\n' * 20
    yield 'an HTML page', b'<!DOCTYPE html><html><body>404 Not Found</body></html>\n'
    yield 'a git-lfs pointer', (b'version https://git-lfs.github.com/spec/v1\noid sha256:'
                                + b'0' * 64 + b'\nsize 40960\n')
    yield 'deep JSON', b'[' * 100_000
    yield 'deep JSON objects', b'{"a":' * 100_000
    yield 'JSON null', b'null'
    yield 'deep msgpack', b'\x91' * 100_000
    yield 'huge msgpack array', b'\xdd\xff\xff\xff\xff' + b'\0' * 64
    yield 'huge msgpack binary', b'\xc6\xff\xff\xff\xff' + b'\0' * 64
    yield 'huge numpy array', npy_header("{'descr': '<f4', 'fortran_order': False, "
                                         "'shape': (1000000000000000, 1)}")
    yield 'numpy of objects', npy_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"
                                         ) + marked_pickle(NOWHERE)
    yield 'numpy header that is code', npy_header("__import__('os').abort()")
    yield 'safetensors with a huge header', struct.pack('<Q', 2**62) + b'{}' + content[:64]
    yield 'safetensors of a huge tensor', safetensors_header(
        b'{"a":{"dtype":"F32","shape":[1000000000000000,4],"data_offsets":[0,16000000000000000]}}')
    yield 'a pickle', marked_pickle(NOWHERE)
    yield 'an empty zip', b'PK\x05\x06' + b'\0' * 18


#: Where pickles of `strangers` would write, were one ever run; `assert_refused_or_equal` looks.
NOWHERE = pathlib.Path(tempfile.gettempdir(), f'a-pickle-was-run-{os.getpid()}')


class Writes:
    """What a hostile pickle holds: unpickling it makes a file."""

    def __init__(self, path: pathlib.Path):
        self._path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self._path,)


def marked_pickle(mark: pathlib.Path, protocol: int = 2) -> bytes:
    """Return a pickle that makes the file `mark` when it is unpickled."""
    return pickle.dumps(Writes(mark), protocol)


def npy_header(text: str, version: int = 1) -> bytes:
    """Return the bytes of a numpy file up to its data, with any text as the header."""
    size = '<H' if version == 1 else '<I'
    body = text.encode('latin1') + b'\n'
    return b'\x93NUMPY' + bytes([version, 0]) + struct.pack(size, len(body)) + body


def safetensors_header(text: bytes, length: int | None = None) -> bytes:
    """Return the bytes of a safetensors file up to its data, of any text and declared length."""
    return struct.pack('<Q', len(text) if length is None else length) + text


def assert_refused(load: Callable[[Any], Any], argument: Any, name: str = '',
                   mark: pathlib.Path = NOWHERE) -> str:
    """Check that a loader refuses, in one clear line, and runs nothing; return that line."""
    loaded, message = attempt(load, argument, name, mark)
    assert message is not None, f'{name}: not refused, gave {loaded!r}'
    return message


def assert_refused_or_equal(load: Callable[[Any], Any], argument: Any, original: Any,
                            name: str = '', mark: pathlib.Path = NOWHERE) -> str | None:
    """Check that a loader refuses a damaged file, or gives just what the whole file holds.

    Args:
        load: called with `argument`; returns nested dicts, lists, tuples, arrays and plain values.
        argument: usually the path of the damaged file.
        original: what `load` gives for the file undamaged, compared bit for bit.
        name: of the damage, for the failure's message.
        mark: a file that a pickle within would make.

    Returns:
        The refusal's line, or None where the damage was harmless.
    """
    loaded, message = attempt(load, argument, name, mark)
    if message is None:
        assert same(loaded, original), f'{name}: loaded other content without a word: {loaded!r}'
    return message


def same(one: Any, other: Any) -> bool:
    """Tell whether two nested values are equal, arrays to the last bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if hasattr(one, 'dtype') and hasattr(other, 'dtype'):
        a, b = np.asarray(one), np.asarray(other)
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(one) is type(other) and bool(one == other)


def attempt(load, argument, name, mark) -> tuple[Any, str | None]:
    """Load within bounds of time; return what was loaded, or None and the refusal's line."""
    try:
        with at_most(seconds=20):
            return load(argument), None
    except REFUSALS as error:
        message = str(error)
    finally:
        ran = mark.exists()
        mark.unlink(missing_ok=True)
        assert not ran, f'{name}: code in the file was run'
    assert message.strip() and '\n' not in message, f'{name}: expected one line, got {message!r}'
    assert len(message) < 2000, f'{name}: a message of {len(message)} letters'
    return None, message


@contextlib.contextmanager
def at_most(seconds: int):
    """Fail what takes longer; no hang of a loader may hang the tests."""

    def stop(*_):
        raise AssertionError(f'still loading after {seconds} s')

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def little_memory(extra_bytes: int = 2 * 2**30):
    """Forbid asking for much more memory than the process has now: declared sizes are no needs."""
    pages = int(pathlib.Path('/proc/self/statm').read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + extra_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
