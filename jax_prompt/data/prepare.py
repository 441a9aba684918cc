"""Fetch benchmarks' data into one folder, which tasks then read without a network.

`checksums.json` in it holds the SHA-256 of every file. A file that is there as it says is not
fetched again; so a killed command, started again, goes on, and another machine's copy of the folder
can be checked by the same command without a network.
"""

import contextlib
import hashlib
import http.client
import json
import logging
import os
import pathlib
import shutil
import tarfile
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator, Mapping

from jax_prompt.data.downloads import BY_HAND, DOWNLOADS, Download, HubDownload
from jax_prompt.data.tasks.benchmarks import BENCHMARK_TASKS, definition
from jax_prompt.files import first_line, locked, write_file

CHECKSUMS = 'checksums.json'
_LOCK = '.prepare.lock'
_TIMEOUT = 60  # seconds without a byte
_CHUNK = 2**20

_log = logging.getLogger(__name__)


def chosen_tasks(name: str) -> list[str]:
    """Return the tasks that a name stands for.

    Args:
        name: a task, the beginning of several ('super_glue', 'mrqa'), 'all', or names with commas.

    Raises:
        ValueError: no task is called so.
    """
    found: dict[str, None] = {}
    for one in name.split(','):
        several = [task for task in DOWNLOADS if one == 'all' or task.startswith(f'{one}_')]
        for task in [one] if one in BENCHMARK_TASKS or not several else several:
            found[definition(task).name] = None
    return list(found)


def prepare(names: Iterable[str], data_dir: str | os.PathLike,
            mirror: str | None = None) -> dict[str, int]:
    """Fetch what tasks need, unless it is there.

    Args:
        names: of tasks.
        data_dir: the folder; made if it is not there.
        mirror: an address that stands for all hosts: of https://HOST/PATH, MIRROR/HOST/PATH is
            fetched.

    Returns:
        Task -> how many files it has there.

    Raises:
        ValueError: something cannot be fetched, or is not what was published; what was fetched
            before stays.
    """
    folder, counts = pathlib.Path(data_dir), {}
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / _LOCK, f'fetching data into {folder}'):
        sums = _read_sums(folder)
        for name in names:
            if name in BY_HAND:
                raise ValueError(f'{name} cannot be fetched by a program: {BY_HAND[name]}')
            files: list[str] = []
            for one in DOWNLOADS[name]:
                key = _key(one)
                if not _is_whole(folder, sums.get(key)):
                    _log.info('%s: fetching %s', name, key)
                    sums[key] = _sums_of(folder, _fetch(one, folder, mirror))
                    write_file(folder / CHECKSUMS, (json.dumps(sums, indent=1, sort_keys=True)
                                                    + '\n').encode(), overwrite=True)
                files += sums[key]
            if name in ('glue_mrpc', 'glue_mrpc_from_qqp', 'glue_qqp_from_mrpc'):
                _divide_mrpc(folder / 'MRPC')
            counts[name] = len(files)
    return counts


def _key(one: Download | HubDownload) -> str:
    return one.url if isinstance(one, Download) else f'hf://datasets/{one.repository}'


def _read_sums(folder: pathlib.Path) -> dict[str, dict[str, str]]:
    """Return address -> file -> SHA-256."""
    path = folder / CHECKSUMS
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f'{path} is not JSON ({first_line(error)}); remove it to fetch the data '
                         'again') from None


def _is_whole(folder: pathlib.Path, sums: Mapping[str, str] | None) -> bool:
    """Say whether all files that came from an address are there, as they came."""
    if not sums:
        return False
    for name, digest in sums.items():
        if not (folder / name).is_file():
            _log.warning('%s is gone; it is fetched again', folder / name)
            return False
        if _sha256(folder / name) != digest:
            _log.warning('%s is not what was fetched; it is fetched again', folder / name)
            return False
    return True


def _sums_of(folder: pathlib.Path, paths: Iterable[pathlib.Path]) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in paths}


def _sha256(path: pathlib.Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _fetch(one: Download | HubDownload, folder: pathlib.Path,
           mirror: str | None) -> list[pathlib.Path]:
    """Fetch what an address has; return the files."""
    if isinstance(one, HubDownload):
        return _from_hub(one, folder)
    parts = urllib.parse.urlsplit(one.url)
    url = one.url if mirror is None else f'{mirror.rstrip("/")}/{parts.netloc}{parts.path}'
    name = pathlib.PurePosixPath(parts.path).name
    with _fetched(url, folder / f'.{name}.part', one.sha256) as part:
        if one.path is None:
            return _unpacked(part, name, folder)
        target = folder / one.path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, target)
        return [target]


@contextlib.contextmanager
def _fetched(url: str, part: pathlib.Path, sha256: str | None) -> Iterator[pathlib.Path]:
    """Fetch a file under a name that is gone afterwards, and see that it is what was published."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, part.open('wb') as file:
            shutil.copyfileobj(answer, file, _CHUNK)
            expected = answer.headers.get('Content-Length')
        got = part.stat().st_size
        if expected is not None and got != int(expected):
            raise ValueError(f'{url} broke off after {got:,} of {int(expected):,} bytes; start the '
                             'same command again')
        found = _sha256(part)
        if sha256 is not None and found != sha256:
            raise ValueError(f'{url} has the SHA-256 {found}; expected {sha256}, so it is not what '
                             'was published, or what stands between cannot be trusted')
        yield part
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(f'{url} cannot be fetched: {first_line(error)}; on a machine without a '
                         'network, copy the folder from one that has it') from error
    finally:
        part.unlink(missing_ok=True)


def _unpacked(archive: pathlib.Path, name: str, folder: pathlib.Path) -> list[pathlib.Path]:
    """Unpack an archive into the folder; return its files."""
    try:
        if name.endswith('.zip'):
            with zipfile.ZipFile(archive) as opened:
                members = [one for one in opened.infolist() if not one.is_dir()
                           and not one.filename.startswith('__MACOSX')]
                return [pathlib.Path(opened.extract(one, folder)) for one in members]
        with tarfile.open(archive) as opened:
            files = [one for one in opened if one.isfile()]
            opened.extractall(folder, files, filter='data')
            return [folder / one.name for one in files]
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise ValueError(f'{name} cannot be unpacked: {first_line(error)}') from error


def _from_hub(one: HubDownload, folder: pathlib.Path) -> list[pathlib.Path]:
    """Fetch files of the Hugging Face hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    target = folder / one.path
    try:
        snapshot_download(one.repository, repo_type='dataset', local_dir=target,
                          allow_patterns=list(one.patterns))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ValueError(f'{one.repository} cannot be fetched from the Hugging Face hub: '
                         f'{first_line(error)}') from error
    found = sorted({path for pattern in one.patterns for path in target.rglob(
        pathlib.PurePosixPath(pattern).name)})
    if not found:
        raise ValueError(f'{one.repository} on the Hugging Face hub has no files '
                         f'{", ".join(one.patterns)}; fetch the data by hand into {target}')
    return found


def _divide_mrpc(folder: pathlib.Path) -> None:
    """Make GLUE's train.tsv, dev.tsv and test.tsv of Microsoft's files and GLUE's list of ids."""
    ids = {tuple(line.split('\t')[:2]) for line in
           (folder / 'mrpc_dev_ids.tsv').read_text(encoding='utf-8').splitlines()}
    text = (folder / 'msr_paraphrase_train.txt').read_text(encoding='utf-8-sig')
    header, *lines = [line for line in text.split('\n') if line]
    parts: dict[str, list[str]] = {'train': [header], 'dev': [header]}
    for line in lines:
        parts['dev' if tuple(line.split('\t')[1:3]) in ids else 'train'].append(line)
    test = (folder / 'msr_paraphrase_test.txt').read_text(encoding='utf-8-sig')
    parts['test'] = [line for line in test.split('\n') if line]
    for split, part in parts.items():
        write_file(folder / f'{split}.tsv', ('\n'.join(part) + '\n').encode(), overwrite=True)
