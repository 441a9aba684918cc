"""The folder of prompts: names, versions, changes, and nothing outside it."""

import errno
import logging
import os
import pathlib
import shutil
import tempfile
import threading
import time
import types

import pytest

from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.engine import Engine, UnknownPrompt
from jax_prompt.prompts.file import save_prompt
from jax_prompt.prompts.log import PromptLog
from jax_prompt.prompts.registry import Registry
from jax_prompt.prompts.versions import BadName
from jax_prompt.serving.prompt_folder import Exists, PromptFolder
from tests.inference.many_prompts import prompt_file


class Uncompiled(Engine):
    """An engine that compiles nothing ahead: these tests run no batch.

    Attributes:
      warmed: the seeds of the prompts that it was to compile for, in order.
      failures: seed -> what compiling for that prompt raises, time after time; None for nothing.
    """

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.warmed, self.failures = [], {}

    def warm_up(self, rows, longest, stop):
        seed = rows[0].prompt.file.metadata.seed
        self.warmed.append(seed)
        failure = self.failures[seed].pop(0) if self.failures.get(seed) else None
        if failure is not None:
            raise failure
        return 0


@pytest.fixture
def prompts(opened, tmp_path):
    """A folder without files, in an engine."""
    (tmp_path / 'prompts').mkdir()
    engine = Uncompiled(opened, Shapes(), capacity=512)
    return PromptFolder(engine, tmp_path / 'prompts')


def save(opened, prompts, name, seed=0):
    save_prompt(prompts.path / f'{name}.safetensors', prompt_file(opened, 4, seed=seed))


def content(opened, seed=0, rows=4, **task):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'prompt.safetensors'
        save_prompt(path, prompt_file(opened, rows, seed=seed, **task))
        return path.read_bytes()


def listed(prompts):
    return {name: [one.version for one in versions]
            for name, versions in prompts.versions().items()}


def test_the_highest_version_is_the_default_and_the_others_stay(opened, prompts):
    for number, version in enumerate(('9', '10', '1')):
        save(opened, prompts, f'mood@{version}', seed=number)
    prompts.refresh()
    assert listed(prompts) == {'mood': ['10', '9', '1']}
    assert prompts.find('mood').full_name == 'mood@10'
    assert prompts.find('mood@9').prompt.name == 'mood@9'
    save(opened, prompts, 'mood@11', seed=5)
    assert prompts.find('mood').version == '10'
    prompts.refresh()
    assert prompts.find('mood').version == '11'
    with pytest.raises(UnknownPrompt, match="'mood' has no version '12'; there are: 11, 10, 9, 1"):
        prompts.find('mood@12')


def test_a_file_that_is_overwritten_has_its_new_content_alone(opened, prompts):
    seen = []
    for seed in (0, 1, 0):
        save(opened, prompts, 'mood', seed=seed)
        prompts.refresh()
        seen.append(prompts.find('mood').version)
        assert listed(prompts) == {'mood': [seen[-1]]}
        assert prompts.find(f'mood@{seen[-1]}').prompt.file.metadata.seed == seed
        assert set(prompts._engine.prompts) == {'mood'}
    assert seen[0] == seen[2] != seen[1]
    with pytest.raises(UnknownPrompt, match=f"'mood' has no version '{seen[1]}'; there are"):
        prompts.find(f'mood@{seen[1]}')


def test_a_file_without_a_version_is_the_default(opened, prompts):
    save(opened, prompts, 'mood@7', seed=1)
    save(opened, prompts, 'mood', seed=2)
    prompts.refresh()
    assert prompts.find('mood').prompt.file.metadata.seed == 2
    os.unlink(prompts.path / 'mood.safetensors')
    prompts.refresh()
    assert prompts.find('mood').full_name == 'mood@7'


def test_a_version_in_two_files_is_one_and_lasts_as_long_as_either(opened, prompts):
    save(opened, prompts, 'mood', seed=1)
    prompts.refresh()
    version = prompts.find('mood').version
    file, copy = (prompts.path / f'{name}.safetensors' for name in ('mood', f'mood@{version}'))
    shutil.copy(file, copy)  # pinned
    prompts.refresh()
    assert listed(prompts) == {'mood': [version]}
    save(opened, prompts, 'mood', seed=2)
    prompts.refresh()
    assert listed(prompts)['mood'][1:] == [version]
    assert prompts.find(f'mood@{version}').prompt.file.metadata.seed == 1
    save(opened, prompts, 'mood', seed=1)
    prompts.refresh()
    assert prompts.remove(f'mood@{version}') == [f'mood@{version}']
    assert not list(prompts.path.iterdir()) and not prompts._engine.prompts


def test_a_version_never_means_two_contents(opened, prompts):
    save(opened, prompts, 'mood', seed=1)
    prompts.refresh()
    name = prompts.find('mood').full_name
    with pytest.raises(Exists, match=f'{name} is there with another content; give another'):
        prompts.upload(name, content(opened, seed=2))
    assert [path.name for path in prompts.path.iterdir()] == ['mood.safetensors']
    save(opened, prompts, name, seed=2)
    prompts.refresh()
    assert prompts.find(name).prompt.file.metadata.seed == 1


def test_a_file_that_is_gone_is_no_longer_in_use(opened, prompts):
    save(opened, prompts, 'mood@1')
    prompts.refresh()
    row = prompts._engine.rows_of(prompts.find('mood').prompt, ['film'])[0]
    os.unlink(prompts.path / 'mood@1.safetensors')
    prompts.refresh()
    with pytest.raises(UnknownPrompt, match="no prompt 'mood' in use"):
        prompts.find('mood')
    assert not prompts._engine.prompts
    assert row.prompt.block is not None  # what was accepted is still answered


def test_what_cannot_be_used_is_said_once_and_the_old_content_stays(opened, prompts, caplog):
    save(opened, prompts, 'mood@1', seed=1)
    (prompts.path / 'half@1.safetensors').write_bytes(b'half of it')
    prompts.refresh()
    (prompts.path / 'mood@1.safetensors').write_bytes(b'being copied')
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            prompts.refresh()
    assert sum('mood@1.safetensors is not taken into use' in record.getMessage()
               for record in caplog.records) == 1
    assert prompts.find('mood').prompt.file.metadata.seed == 1
    save(opened, prompts, 'mood@1', seed=2)
    save(opened, prompts, 'half@1', seed=3)
    prompts.refresh()
    assert prompts.find('mood').prompt.file.metadata.seed == 2
    assert prompts.find('half').prompt.file.metadata.seed == 3


def test_what_fails_holds_up_no_other_file_and_is_tried_again(opened, prompts, caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, 'monotonic', lambda: now[0])
    for seed, name in enumerate(('a@1', 'b@1', 'c@1')):
        save(opened, prompts, name, seed)
    prompts._engine.failures[1] = [RuntimeError('out of memory')] * 2
    with caplog.at_level(logging.WARNING):
        prompts.refresh()
        assert listed(prompts) == {'a': ['1'], 'c': ['1']}
        assert set(prompts._engine.prompts) == {'a@1', 'c@1'}  # half a prompt is none
        for later, tried in ((1, 1), (30, 2), (31, 2), (61, 3)):
            now[0] = later
            prompts.refresh()
            assert prompts._engine.warmed.count(1) == tried
    assert listed(prompts) == {'a': ['1'], 'b': ['1'], 'c': ['1']}
    said = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in said] == [
        'prompt b@1.safetensors is not taken into use: out of memory'] * 2
    assert all(record.exc_info for record in said)  # where it comes from is not known


def test_a_content_that_fails_leaves_the_one_before(opened, prompts):
    for seed in (1, 2):
        save(opened, prompts, 'mood@1', seed)
        prompts._engine.failures[2] = [RuntimeError('out of memory')]
        prompts.refresh()
    assert prompts.find('mood').prompt is prompts._engine.prompts['mood@1']
    assert prompts.find('mood').prompt.file.metadata.seed == 1


def test_a_disk_that_fails_for_a_while_takes_nothing_out_of_use(opened, prompts, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ESTALE, 'Stale file handle')

    save(opened, prompts, 'mood@1')
    prompts.refresh()
    save(opened, prompts, 'other@1')
    with monkeypatch.context() as patched:
        patched.setattr(pathlib.Path, 'stat', fail)
        with pytest.raises(OSError, match='Stale file handle'):
            prompts.refresh()
        assert listed(prompts) == {'mood': ['1']}
    with monkeypatch.context() as patched:
        patched.setattr(pathlib.Path, 'open', fail)
        prompts.refresh()
        assert listed(prompts) == {'mood': ['1']}
    later = time.monotonic() + 31
    monkeypatch.setattr(time, 'monotonic', lambda: later)
    prompts.refresh()
    assert listed(prompts) == {'mood': ['1'], 'other': ['1']}


def test_a_folder_that_is_lost_while_it_is_listed_takes_nothing_out_of_use(
        opened, prompts, tmp_path, monkeypatch):
    save(opened, prompts, 'mood@1')
    prompts.refresh()
    names = os.listdir(prompts.path)
    prompts.path.rename(tmp_path / 'away')
    monkeypatch.setattr(os, 'listdir', lambda path: names)
    with pytest.raises(FileNotFoundError):
        prompts.refresh()
    assert prompts.find('mood').full_name == 'mood@1'


def test_at_the_end_no_more_files_are_taken_up(opened, tmp_path):
    (tmp_path / 'prompts').mkdir()
    engine = Uncompiled(opened, capacity=512)
    prompts = PromptFolder(engine, tmp_path / 'prompts', stop=lambda: bool(engine.warmed))
    for seed, name in enumerate(('a@1', 'b@1')):
        save(opened, prompts, name, seed)
    prompts.refresh()
    assert engine.warmed == [0] and listed(prompts) == {'a': ['1']}


def test_other_files_are_left_alone(opened, prompts):
    for name in ('notes.txt', '.hidden.safetensors', 'a b.safetensors', 'x@1@2.safetensors',
                 '.safetensors'):
        (prompts.path / name).write_bytes(b'')
    (prompts.path / 'folder.safetensors').mkdir()
    os.mkfifo(prompts.path / 'pipe.safetensors')
    prompts.refresh()
    assert listed(prompts) == {}


def test_a_name_that_no_request_can_give_is_said_once(opened, prompts, caplog):
    for name in ('we ird', 'ümlaut', 'line\nbreak', '.hidden', 'fine'):
        save(opened, prompts, name)
    save(opened, prompts, 'X')
    (prompts.path / 'X.safetensors').rename(prompts.path / 'X.SAFETENSORS')
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            prompts.refresh()
    assert set(listed(prompts)) == {'fine'}
    said = sorted(record.getMessage() for record in caplog.records)
    for line, (name, why) in zip(said, [
            ('X.SAFETENSORS', 'its name does not end in .safetensors; rename it'),
            (r'line\nbreak.safetensors', r"'line\nbreak' is no name of a prompt; expected letters"),
            ('we ird.safetensors', "'we ird' is no name of a prompt"),
            ('ümlaut.safetensors', "'ümlaut' is no name of a prompt")], strict=True):
        assert line.startswith(f'prompt {name} is not taken into use: {why}')


def test_nothing_outside_the_folder_is_read(opened, prompts, tmp_path, caplog):
    save_prompt(tmp_path / 'outside.safetensors', prompt_file(opened, 4))
    os.symlink(tmp_path / 'outside.safetensors', prompts.path / 'link.safetensors')
    (tmp_path / 'prompts2').mkdir()  # begins with the folder's name
    shutil.copy(tmp_path / 'outside.safetensors', tmp_path / 'prompts2' / 'x.safetensors')
    os.symlink('../prompts2/x.safetensors', prompts.path / 'near.safetensors')
    with caplog.at_level(logging.WARNING):
        prompts.refresh()
        prompts.refresh()
    assert listed(prompts) == {}
    assert caplog.text.count('leads out of the folder') == 2
    save(opened, prompts, 'real@1')
    os.symlink('real@1.safetensors', prompts.path / 'alias.safetensors')  # stays inside
    prompts.refresh()
    assert set(listed(prompts)) == {'real', 'alias'}


def test_uploads_get_the_next_number_and_never_replace(opened, prompts):
    first, second = content(opened, 1), content(opened, 2)
    assert prompts.upload('mood', first)[0].version == '1'
    assert prompts.upload('mood', second)[0].version == '2'
    assert prompts.upload('mood@1', first) == (prompts.find('mood@1'), False)
    with pytest.raises(Exists, match='mood@1 is there with another content'):
        prompts.upload('mood@1', second)
    version, is_new = prompts.upload('mood@beta', first)
    assert is_new and version.full_name == 'mood@beta'
    assert sorted(path.name for path in prompts.path.iterdir()) == [
        'mood@1.safetensors', 'mood@2.safetensors', 'mood@beta.safetensors', 'registry']
    log = Registry(prompts.path).history('mood')
    assert [entry.version for entry in log] == ['1', '2', 'beta']
    assert all(entry.who.startswith('upload to ') for entry in log)


def test_an_upload_to_a_bare_name_finds_its_content_and_no_number_comes_twice(opened, prompts):
    save(opened, prompts, 'mood', seed=1)
    version, is_new = prompts.upload('mood', content(opened, seed=1))
    assert (version, is_new) == (prompts.find('mood'), False)
    for seed, number in ((2, '1'), (3, '2')):
        for expected_new in (True, False):
            version, is_new = prompts.upload('mood', content(opened, seed))
            assert (version.version, is_new) == (number, expected_new)
    save(opened, prompts, 'mood@2', seed=4)  # by hand; the watcher has not seen it
    assert prompts.upload('mood', content(opened, seed=3))[0].version == '3'
    prompts.remove('mood@3')
    assert prompts.upload('mood', content(opened, seed=5))[0].version == '4'
    prompts.remove('mood')
    assert prompts.upload('mood', content(opened, seed=6))[0].full_name == 'mood@5'


def test_a_version_of_many_digits_is_one_and_has_no_next(opened, prompts):
    prompts.upload('mood@' + '9' * 64, content(opened, 0))
    added, _ = prompts.upload('mood', content(opened, 1))
    assert added.full_name == 'mood@1' and prompts.find('mood').version == '9' * 64


def test_uploads_that_cannot_be_used_leave_nothing(opened, prompts):
    other = types.SimpleNamespace(**{**vars(opened), 'fingerprint': 'another'})
    file = prompt_file(other, 4)
    save_prompt(prompts.path.parent / 'other.safetensors', file)
    other_content = (prompts.path.parent / 'other.safetensors').read_bytes()
    with pytest.raises(ValueError, match='truncated, damaged or no safetensors file'):
        prompts.upload('mood', b'nothing')
    with pytest.raises(ValueError, match='was trained for tiny'):
        prompts.upload('mood', other_content)
    with pytest.raises(BadName):
        prompts.upload('../mood', other_content)
    assert not list(prompts.path.iterdir()) and not prompts._engine.prompts


@pytest.mark.parametrize('wrong, message', [
    (dict(rows=600), 'rows 600; expected at most 512'),
    (dict(inputs_length=513), 'inputs_length 513; expected at most 512'),
    (dict(targets_length=20_000_000), 'targets_length of task task is 20000000; expected a whole'),
    (dict(targets_length=513), 'targets_length 513; expected at most 512'),
    (dict(labels=[f'label{number}' for number in range(65)]), 'labels 65; expected at most 64'),
    (dict(labels=['film', 'film ' * 9]), 'of a label with its end 1[01]; expected at most 8'),
], ids=['rows', 'inputs', 'targets', 'no number', 'labels', 'words of a label'])
def test_uploads_that_are_too_large_are_refused(opened, prompts, wrong, message):
    with pytest.raises(ValueError, match=message):
        prompts.upload('mood', content(opened, **wrong))
    assert not list(prompts.path.iterdir()) and not prompts._engine.prompts
    assert not prompts._engine.warmed and prompts._engine.table.capacity == 512


def test_an_upload_that_fails_leaves_nothing(opened, prompts, monkeypatch):
    prompts._engine.failures[1] = [RuntimeError('boom')]
    with pytest.raises(RuntimeError, match='boom'):
        prompts.upload('mood', content(opened, seed=1))
    assert not list(prompts.path.iterdir()) and not prompts._engine.prompts
    with monkeypatch.context() as patched:
        patched.setattr(os, 'link', lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prompts.upload('mood', content(opened, seed=1))
    prompts.refresh()
    assert not list(prompts.path.iterdir()) and not prompts._engine.prompts
    version, is_new = prompts.upload('mood', content(opened, seed=1))
    prompts.refresh()
    assert is_new and prompts.find('mood') is version  # not taken up once more


def test_a_bare_name_means_what_was_promoted_last(opened, prompts):
    registry = Registry(prompts.path)  # the command's, on another machine
    for version in ('1', '2', '3'):
        save(opened, prompts, f'mood@{version}', seed=int(version))
    registry.promote('mood', '2')
    prompts.refresh()
    assert listed(prompts) == {'mood': ['2', '3', '1']}
    prompts.upload('mood', content(opened, seed=4))
    save(opened, prompts, 'mood', seed=5)
    prompts.refresh()
    assert prompts.find('mood').version == '2'  # nothing that comes goes before it
    registry.promote('mood', '3')
    registry.tag('mood', '1', 'stable')
    assert prompts.find('mood').version == '2'
    prompts.follow()
    assert prompts.find('mood').version == '3' and prompts.find('mood@stable').version == '1'
    registry.rollback('mood')
    prompts.follow()
    assert prompts.find('mood').version == '2'


def test_a_promoted_version_is_meant_once_it_is_in_use(opened, prompts, tmp_path):
    registry = Registry(prompts.path)
    for version in ('1', '2', '3'):
        save(opened, prompts, f'mood@{version}', seed=int(version))
    registry.promote('mood', '1')
    registry.promote('mood', '2')
    prompts.refresh()
    save_prompt(tmp_path / 'new.safetensors', prompt_file(opened, 4, seed=4))
    registry.promote('mood', registry.add(tmp_path / 'new.safetensors', 'mood').version)
    prompts.follow()
    assert prompts.find('mood').version == '2' and prompts.standing('mood').promoted == '4'
    prompts.refresh()
    assert prompts.find('mood').version == '4'
    (prompts.path / 'mood@4.safetensors').unlink()
    prompts.refresh()
    assert prompts.find('mood').version == '2'  # which was promoted before it


def test_a_promotion_waits_for_nothing_that_is_compiled(opened, prompts):
    registry = Registry(prompts.path)
    for version in ('1', '2'):
        save(opened, prompts, f'mood@{version}', seed=int(version))
    prompts.refresh()
    seen = []

    def warm_up(*_, **__):
        registry.promote('mood', '1')
        thread = threading.Thread(target=prompts.follow)  # as the service has it
        thread.start()
        thread.join(10)
        seen.append(prompts.find('mood').version)
        return 0

    prompts._engine.warm_up = warm_up
    save(opened, prompts, 'other@1')
    prompts.refresh()
    assert seen == ['1'] and listed(prompts) == {'mood': ['1', '2'], 'other': ['1']}


def test_a_log_that_cannot_be_read_leaves_what_was_promoted_and_is_told_once(
        opened, prompts, caplog, monkeypatch):
    registry = Registry(prompts.path)
    for version in ('1', '2'):
        save(opened, prompts, f'mood@{version}', seed=int(version))
    registry.promote('mood', '1')
    prompts.refresh()
    registry.promote('mood', '2')

    def fail(*_):
        raise OSError(errno.ESTALE, 'Stale file handle')

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(PromptLog, 'entries', fail)
        for _ in range(3):
            prompts.follow()
        assert prompts.find('mood').version == '1'
    assert caplog.text.count('the log of prompt mood is not whole: [Errno') == 1
    (prompts.path / 'registry' / 'mood' / '00000003.json').write_bytes(b'damaged')
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            prompts.follow()
    assert prompts.find('mood').version == '2'
    assert caplog.text.count('00000003.json is no entry of a log') == 1


def test_a_folder_that_is_lost_for_a_while_leaves_what_was_promoted(opened, prompts, tmp_path,
                                                                    caplog):
    for version in ('1', '2'):
        save(opened, prompts, f'mood@{version}', seed=int(version))
    Registry(prompts.path).promote('mood', '1')
    prompts.refresh()
    prompts.path.rename(tmp_path / 'away')
    prompts.follow()
    assert prompts.find('mood').version == '1'
    (tmp_path / 'away').rename(prompts.path)
    prompts.follow()
    assert prompts.find('mood').version == '1' and caplog.text.count('not whole') == 1


def test_the_promoted_version_is_removed_with_all_the_others_alone(opened, prompts):
    for version in ('1', '2'):
        save(opened, prompts, f'mood@{version}', seed=int(version))
    Registry(prompts.path).promote('mood', '1')
    Registry(prompts.path).tag('mood', '2', 'next')
    with pytest.raises(ValueError, match='mood@1 is promoted; promote another version first, or'):
        prompts.remove('mood@1')
    assert prompts.remove('mood@next') == ['mood@2']
    assert prompts.remove('mood') == ['mood@1'] and listed(prompts) == {}
    assert prompts.upload('mood', content(opened, seed=1))[0].version == '3'
    assert prompts.find('mood').version == '3'


def test_removing_deletes_one_version_or_all(opened, prompts):
    for version in ('1', '2', '3'):
        save(opened, prompts, f'mood@{version}', seed=int(version))
    save(opened, prompts, 'other@1')
    prompts.refresh()
    assert prompts.remove('mood@2') == ['mood@2']
    assert listed(prompts) == {'mood': ['3', '1'], 'other': ['1']}
    assert prompts.remove('mood') == ['mood@3', 'mood@1']
    assert [path.name for path in prompts.path.iterdir()] == ['other@1.safetensors']
    with pytest.raises(UnknownPrompt):
        prompts.remove('mood')


def test_removing_a_content_spares_a_newer_one_that_has_just_come(opened, prompts):
    save(opened, prompts, 'mood', seed=1)
    prompts.refresh()
    old = prompts.find('mood').full_name
    save(opened, prompts, 'mood', seed=2)
    with pytest.raises(UnknownPrompt, match='has no version'):
        prompts.remove(old)
    assert prompts.find('mood').prompt.file.metadata.seed == 2
    assert (prompts.path / 'mood.safetensors').exists()


def test_what_a_kill_left_is_cleaned_away_and_what_is_under_way_is_not(opened, tmp_path):
    kept = ['.hidden', '.a.tmp', '.0123456789abcdef.upload', 'b.7.tmp']
    for name in [*kept, '.fedcba9876543210.upload', '..fedcba9876543210.upload.7.tmp']:
        (tmp_path / name).touch()
        if name != kept[2]:
            os.utime(tmp_path / name, (1, 1))
    PromptFolder(Uncompiled(opened, Shapes(), capacity=512), tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(kept)


def test_a_folder_that_is_not_there_is_refused(opened, tmp_path):
    with pytest.raises(FileNotFoundError, match='folder of prompts .* does not exist; make it'):
        PromptFolder(Uncompiled(opened), tmp_path / 'nowhere')
