"""Data is fetched into one folder, checked, and read from there without the network."""

import functools
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile

import pytest

from jax_prompt import cli
from jax_prompt.data import prepare as preparing
from jax_prompt.data.downloads import BY_HAND, DOWNLOADS, Download, HubDownload
from jax_prompt.data.prepare import chosen_tasks, prepare
from jax_prompt.data.tasks.benchmarks import BENCHMARK_TASKS, benchmark_task
from tests.data.benchmark_records import GOLDEN


def zipped(*names):
    """Return a zip file of golden records, as SuperGLUE's are."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, 'w') as archive:
        for name in names:
            for file, content in GOLDEN[name].files():
                archive.writestr(file, content)
        archive.writestr('__MACOSX/._x', b'x')
    return packed.getvalue()


def tarred(name):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode='w:gz') as archive:
        for file, content in GOLDEN[name].files():
            told = tarfile.TarInfo(file)
            told.size = len(content)
            archive.addfile(told, io.BytesIO(content))
    return packed.getvalue()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(tmp_path):
    """Serve what stands in for the hosts; yields its address, its files and what was asked for."""
    root, asked = tmp_path / 'served', []

    class Handler(Quiet):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

    root.mkdir()
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(
        Handler, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def put(url, content):
        path = root / url.removeprefix('https://').removeprefix('http://')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return url, hashlib.sha256(content).hexdigest()

    yield f'http://127.0.0.1:{server.server_port}', put, asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def served(mirror, monkeypatch):
    """Serve BoolQ as an archive, TREC as files and IMDB as a tar file, with their checksums."""
    address, put, asked = mirror
    boolq = put('https://a.org/v2/BoolQ.zip', zipped('super_glue_boolq'))
    imdb = put('https://b.org/aclImdb_v1.tar.gz', tarred('imdb_reviews'))
    (_, content), = GOLDEN['trec'].files()
    trec = put('https://c.org/train.label', content)
    monkeypatch.setattr(preparing, 'DOWNLOADS', {
        'super_glue_boolq': (Download(*boolq),), 'imdb_reviews': (Download(*imdb),),
        'trec': (Download(trec[0], None, 'TREC/train_5500.label'),)})
    return address, put, asked


def test_what_is_fetched_is_read_without_a_network(served, tmp_path, capsys):
    address, _, asked = served
    command = ['data', 'prepare', '--task=super_glue_boolq,imdb_reviews,trec',
               f'--data_dir={tmp_path / "data"}', f'--mirror={address}']
    assert cli.main(command) == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        f'super_glue_boolq: 1 files in {tmp_path / "data"}')
    assert asked == ['/a.org/v2/BoolQ.zip', '/b.org/aclImdb_v1.tar.gz', '/c.org/train.label']
    boolq = benchmark_task('super_glue_boolq', str(tmp_path / 'data'))
    assert list(boolq.texts('train')) == GOLDEN['super_glue_boolq'].pairs
    assert (tmp_path / 'data/TREC/train_5500.label').is_file()
    assert (tmp_path / 'data/aclImdb/train/neg/0_2.txt').is_file()
    assert not list((tmp_path / 'data').glob('.*')) and not list((tmp_path / 'data').glob('__M*'))
    sums = json.loads((tmp_path / 'data/checksums.json').read_text())
    content = next(GOLDEN['super_glue_boolq'].files())[1]
    assert sums['https://a.org/v2/BoolQ.zip'] == {
        'BoolQ/train.jsonl': hashlib.sha256(content).hexdigest()}
    # Nothing is fetched twice, and a copy is checked without a network.
    command[-1] = '--mirror=http://127.0.0.1:9'
    assert cli.main(command) == 0 and len(asked) == 3


def test_what_was_changed_or_lost_is_fetched_again(served, tmp_path, caplog):
    address, _, asked = served
    for damage in (lambda path: path.write_text('x'), lambda path: path.unlink()):
        prepare(['super_glue_boolq'], tmp_path / 'data', address)
        damage(tmp_path / 'data/BoolQ/train.jsonl')
    prepare(['super_glue_boolq'], tmp_path / 'data', address)
    assert len(asked) == 3
    assert 'train.jsonl is not what was fetched; it is fetched again' in caplog.text
    assert 'train.jsonl is gone; it is fetched again' in caplog.text


def test_what_is_not_as_published_is_refused(served, tmp_path):
    address, put, _ = served
    put('https://a.org/v2/BoolQ.zip', b'<html>sign in')
    with pytest.raises(ValueError, match='BoolQ.zip has the SHA-256 .*; expected .*, so it is not'):
        prepare(['super_glue_boolq'], tmp_path / 'data', address)
    assert not list((tmp_path / 'data').iterdir())
    with pytest.raises(ValueError, match='no/b.org/.* cannot be fetched: HTTP Error 404'):
        prepare(['imdb_reviews'], tmp_path / 'data', f'{address}/no')
    with pytest.raises(ValueError, match='cannot be fetched: .*refused'):
        prepare(['trec'], tmp_path / 'data', 'http://127.0.0.1:9')


def test_an_archive_that_cannot_be_unpacked_is_named(mirror, tmp_path, monkeypatch):
    address, put, _ = mirror
    url, digest = put('https://a.org/x.zip', zipped('super_glue_boolq')[:-30])
    monkeypatch.setattr(preparing, 'DOWNLOADS', {'squad': (Download(url, digest),)})
    with pytest.raises(ValueError, match='x.zip cannot be unpacked'):
        prepare(['squad'], tmp_path / 'data', address)


def test_a_download_that_breaks_off_is_told(tmp_path, monkeypatch):
    class Handler(Quiet):
        def do_GET(self):
            self.send_response(200)
            self.send_header('Content-Length', '1000')
            self.end_headers()
            self.wfile.write(b'half')

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(preparing, 'DOWNLOADS', {
            'squad': (Download('https://a.org/x', None, 'x'),)})
        with pytest.raises(ValueError, match='x broke off after 4 of 1,000 bytes; start the same'):
            prepare(['squad'], tmp_path / 'data', f'http://127.0.0.1:{server.server_port}')
        server.shutdown()


def test_mrpc_is_divided_as_glue_has_it(mirror, tmp_path, monkeypatch):
    address, put, _ = mirror
    header = 'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n'
    files = {'msr_paraphrase_train.txt': '\ufeff' + header + '1\t1\t2\tA "x .\tB .\r\n'
                                         '0\t3\t4\tC .\tD .\r\n',
             'msr_paraphrase_test.txt': '\ufeff' + header + '1\t5\t6\tE .\tF .\r\n',
             'mrpc_dev_ids.tsv': '3\t4\n'}
    monkeypatch.setattr(preparing, 'DOWNLOADS', {'glue_mrpc': tuple(
        Download(*put(f'https://a.org/{name}', text.encode()), f'MRPC/{name}')
        for name, text in files.items())})
    prepare(['glue_mrpc'], tmp_path / 'data', address)
    task = benchmark_task('glue_mrpc', str(tmp_path / 'data'))
    assert list(task.texts('train')) == [('mrpc sentence1: A "x . sentence2: B .', 'equivalent')]
    assert list(task.texts('validation')) == [
        ('mrpc sentence1: C . sentence2: D .', 'not_equivalent')]
    assert task.render(task.rows('leaderboard')[0]) == 'mrpc sentence1: E . sentence2: F .'


def test_files_of_the_hub_are_fetched_into_the_tasks_folder(tmp_path, monkeypatch):
    def snapshot_download(repository, repo_type, local_dir, allow_patterns):
        assert (repository, repo_type, allow_patterns) == ('o/xsum', 'dataset', ['*.parquet'])
        (local_dir / 'data').mkdir(parents=True)
        (local_dir / 'data/train-00000-of-00001.parquet').write_bytes(b'x')

    monkeypatch.setattr('huggingface_hub.snapshot_download', snapshot_download)
    monkeypatch.setattr(preparing, 'DOWNLOADS', {
        'xsum': (HubDownload('o/xsum', ('*.parquet',), 'xsum'),)})
    assert prepare(['xsum'], tmp_path) == {'xsum': 1}
    sums = json.loads((tmp_path / 'checksums.json').read_text())
    assert list(sums['hf://datasets/o/xsum']) == ['xsum/data/train-00000-of-00001.parquet']


def test_names_stand_for_tasks():
    assert chosen_tasks('super_glue') == [task for task in DOWNLOADS if 'super_glue' in task]
    assert chosen_tasks('squad,anli_r1,squad') == ['squad', 'anli_r1']
    assert chosen_tasks('all') == list(DOWNLOADS)
    with pytest.raises(ValueError, match='did you mean squad'):
        chosen_tasks('squod')
    with pytest.raises(ValueError, match='mrqa_bio_asq cannot be fetched by a program: sign up'):
        prepare(['mrqa_bio_asq'], '.')


def test_every_task_can_be_fetched_or_says_how():
    assert {*DOWNLOADS, *BY_HAND} == {*BENCHMARK_TASKS}
    for task in DOWNLOADS.values():
        for one in task:
            if isinstance(one, Download):
                assert one.url.startswith('https://') and (one.sha256 is None or
                                                           len(one.sha256) == 64)
