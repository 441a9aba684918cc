"""Files: written so that a kill leaves the old content or the new, found elsewhere, told of.

An existing file or folder is replaced only when that was asked for.
"""

import contextlib
import errno
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

#: What a tokenizer is read from, besides the model's config.json: the files that are looked for
#: beside the weights, copied with a converted model, and asked of a hub.
TOKENIZER_FILES = ('tokenizer.json', 'tokenizer_config.json', 'spiece.model', 'sentencepiece.model',
                   'vocab.json', 'merges.txt', 'vocab.txt', 'added_tokens.json',
                   'special_tokens_map.json')

#: Control characters, ends of lines, turns of direction, halves of surrogate pairs.
_UNSHOWN = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
#: What the hub allows as an id, a name or an owner and a name, and a revision that may follow.
_HUB_ID = re.compile(r'([A-Za-z0-9][\w.-]*(?:/[\w.-]+)?)(?:@([\w./-]+))?')
#: For `writing` what a killed process may leave half done.
GO_ON = 'mend that and start the same command again to go on'
#: A full disk or quota, and what may not be written to.
_WRITING_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def new_file(path: str | os.PathLike, overwrite: bool = False, mode: str = 'wb') -> Iterator[IO]:
    """Open a file that appears under its final name only once it is whole on disk.

    Args:
        path: where to; its folder is made if it is not there.
        overwrite: replace a file that is there.
        mode: 'wb', or 'w' for text in UTF-8.

    Yields:
        What to write to; an error leaves everything as it was.

    Raises:
        FileExistsError: it is there and may not be replaced, or it is no plain file.
    """
    path = Path(path)
    refuse_to_replace(path, overwrite, 'file')
    path.parent.mkdir(parents=True, exist_ok=True)
    path = Path(os.path.realpath(path))  # a link stays, and what it leads to is replaced
    # In the same folder, since a rename across file systems is a copy.
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with temporary.open(mode, encoding='utf-8' if mode == 'w' else None) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # as of a full disk
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_file(path: str | os.PathLike, content: bytes, overwrite: bool = False) -> Path:
    """Write a file as `new_file` does.

    Args:
        path: where to; its folder is made if it is not there.
        content: all of it.
        overwrite: replace a file that is there.

    Returns:
        The path.

    Raises:
        FileExistsError: it is there and may not be replaced, or it is no plain file.
    """
    with new_file(path, overwrite) as file:
        file.write(content)
    return Path(os.path.realpath(path))


def write_folder(folder: str | os.PathLike, files: Mapping[str, bytes], key: str,
                 overwrite: bool = False) -> Path:
    """Write a folder that appears whole.

    A folder that is there keeps its other files. While its own are replaced, the one without which
    readers refuse the folder is not there: no reader finds the files of two prompts together.

    Args:
        folder: where to.
        files: name -> content.
        key: the name of the file that readers need first.
        overwrite: replace files of these names in a folder that is there.

    Returns:
        The folder.

    Raises:
        FileExistsError: it is there and may not be changed, or it is no folder.
    """
    folder = Path(folder)
    refuse_to_replace(folder, overwrite, 'folder')
    if folder.is_dir():
        (folder / key).unlink(missing_ok=True)
        for name in sorted(files, key=lambda name: name == key):
            write_file(folder / name, files[name], overwrite=True)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f'.{folder.name}.{os.getpid()}.tmp')
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        for name, content in files.items():
            write_file(temporary / name, content)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(folder.parent)
    return folder


def refuse_to_replace(path: Path, overwrite: bool, kind: str) -> None:
    """Raise where something stands that may not be replaced.

    Raises:
        FileExistsError: says what is there and how to replace it.
    """
    if path.is_symlink() and not path.exists():
        raise FileExistsError(f'{path} is a link to nothing; remove it or choose another name')
    if not path.exists():
        return
    fits = path.is_dir() if kind == 'folder' else path.is_file()
    if not fits:
        raise FileExistsError(f'{path} exists and is no {kind}; choose another name')
    # An empty folder has nothing to lose.
    if not overwrite and not (kind == 'folder' and not any(path.iterdir())):
        raise FileExistsError(f'{kind} {path} exists already; choose another name, '
                              'or say that it may be overwritten (--overwrite)')


@contextlib.contextmanager
def writing(what: str, how: str = 'mend that, or name another output') -> Iterator[None]:
    """Let errors that only writing can meet name what is written, and say how to go on.

    Args:
        what: is written; for the message.
        how: to go on; for the message.

    Raises:
        OSError: in place of one, or of what a library made of one.
    """
    try:
        yield
    except Exception as error:
        number, text = getattr(error, 'errno', None), str(error)
        told = next((reason for code in _WRITING_ERRORS if (reason := os.strerror(code)) and
                     (code == number or number is None and reason in text)), None)
        if told is None:
            raise
        raise OSError(f'cannot write {what}: {told}; {how}') from error


@contextlib.contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold a file that no second process may hold; a kill gives it back.

    Args:
        path: of the file, which is made for the purpose and goes in the end.
        doing: what for; for the messages.

    Raises:
        ValueError: another process holds it; names that process.
    """
    with path.open('a+b', buffering=0) as file:
        try:
            import fcntl  # not on Windows, where two processes are the user's business

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not (path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())):
                raise BlockingIOError  # the other process ends in this moment
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read(100).decode(errors='replace') or 'process'
            raise ValueError(f'another {holder} is {doing}; wait for it to end, or name another '
                             'output') from error
        except (ImportError, OSError) as error:  # some network file systems cannot
            _log.warning('%s cannot be locked (%s); see to it that no second process is %s', path,
                         getattr(error, 'strerror', error), doing)
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}'.encode())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def remove_litter(folder: Path) -> None:
    """Remove what killed processes left of their files, an hour ago or longer."""
    with contextlib.suppress(OSError):  # another process may do so now
        for path in folder.iterdir():
            if (re.fullmatch(r'\..+\.[0-9]+\.tmp|\.[0-9a-f]{16}\.upload', path.name)
                    and path.is_file() and time.time() - path.stat().st_mtime > 3600):
                path.unlink()


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power failure, where folders can be synchronised."""
    with contextlib.suppress(OSError):  # Windows and some network file systems cannot.
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def package_path(source: str) -> Path:
    """Return the path behind 'package:NAME/sub/file'; the package is found, not imported.

    Args:
        source: names a file or a folder inside an installed Python package.

    Raises:
        FileNotFoundError: the package is not installed or has no such file or folder.
        ValueError: the path leaves its package.
    """
    package, _, inside = source.removeprefix('package:').strip('/').partition('/')
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f'{source} needs the Python package {package!r}, which is not '
                                f'installed: pip install {package.replace("_", "-")}')
    if '..' in Path(inside).parts:
        raise ValueError(f'{source} leaves its package; expected package:NAME/sub/path')
    tried = [Path(root) / inside for root in spec.submodule_search_locations]
    for path in tried:
        if path.exists():
            return path
    raise FileNotFoundError(f'{source}: the Python package {package!r} has no {inside!r} (looked '
                            f'in {tried[0]})')


def hub_id(source: str) -> tuple[str, str | None] | None:
    """Return the repository and the revision of a source on the Hugging Face hub.

    Args:
        source: 'owner/name', or 'owner/name@revision' for a branch, a tag or a commit.

    Returns:
        None for what cannot be one, and for what looks like a mistyped path: a name within a folder
        that is here. With a revision it is the hub's in any case.
    """
    match, path = _HUB_ID.fullmatch(source), Path(source)
    if match is None or not match[2] and (path.exists() or '/' in source and path.parent.is_dir()):
        return None
    return match[1], match[2]


def hub_folder(source: str, patterns: list[str]) -> Path:
    """Fetch files from the Hugging Face hub, or find them in the local cache.

    Args:
        source: what `hub_id` reads.
        patterns: of the names of the files.

    Returns:
        The folder of the snapshot, which may lack files that the hub does not have.

    Raises:
        ValueError: the hub has no such repository or revision, or cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    repository, revision = hub_id(source)
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ValueError(f'could not get {source!r} from the Hugging Face hub: '
                         f'{first_line(error)}; give a repository id that exists, or a local '
                         'folder') from error


def check_regular(path: str | os.PathLike) -> None:
    """Refuse, with ValueError, a pipe, a device or a socket: reading could wait for ever."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise ValueError(f'{path} is a pipe, a device or a socket; expected a regular file')


def first_line(said: Exception | str) -> str:
    """Return what an error says in one line of moderate length; its kind where it says nothing.

    Libraries quote files; what no terminal should be sent is escaped.
    """
    lines = str(said).strip().splitlines()
    return shown(lines[0].strip().rstrip('.')[:300]) if lines else type(said).__name__


def shown(text: str) -> str:
    """Return text in which what could repaint, split or turn a line is as Python writes it."""
    return _UNSHOWN.sub(lambda found: repr(found[0])[1:-1], text)


def listed(items: Iterable[Any], most: int = 8) -> str:
    """Return items as a message shows them: the first few, quoted, and how many more there are."""
    items = list(items)
    more = f' and {len(items) - most:,} more' if len(items) > most else ''
    return ', '.join(map(brief, items[:most])) + more or 'none'


def brief(value: Any) -> str:
    """Return what Python writes for a value, cut to what a message can show."""
    text = repr(value)
    return text if len(text) <= 100 else f'{text[:80]}... ({len(text):,} characters)'


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record, which JSON can hold, with a digest of all else in it.

    A record that was read is whole where `sealed(record) == record`.
    """
    content = {key: value for key, value in record.items() if key != 'digest'}
    text = json.dumps(content, sort_keys=True)
    return content | {'digest': hashlib.sha256(text.encode()).hexdigest()}
