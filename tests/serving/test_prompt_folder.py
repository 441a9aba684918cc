"""The folder of prompts: names, versions, changes, and nothing outside it."""

import logging
import os
import pathlib
import shutil
import tempfile
import types

import pytest

from jax_prompt.inference.engine import Engine, UnknownPrompt
from jax_prompt.inference.shapes import Shapes
from jax_prompt.prompts.file import save_prompt
from jax_prompt.serving.names import BadName, split_name, version_order
from jax_prompt.serving.prompt_folder import Exists, PromptFolder
from tests.inference.many_prompts import prompt_file


class Uncompiled(Engine):
    """An engine that compiles nothing ahead: these tests run no batch."""

    def warm_up(self, *_):
        return 0


@pytest.fixture
def prompts(opened, tmp_path):
    """A folder without files, in an engine."""
    (tmp_path / 'prompts').mkdir()
    engine = Uncompiled(opened, Shapes(), capacity=512)
    return PromptFolder(engine, tmp_path / 'prompts', kept_versions=2)


def save(opened, prompts, name, seed=0, **task):
    file = prompt_file(opened, 4, seed=seed, **task)
    save_prompt(prompts.path / f'{name}.safetensors', file)
    return file


def content(opened, seed):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'prompt.safetensors'
        save_prompt(path, prompt_file(opened, 4, seed=seed))
        return path.read_bytes()


def listed(prompts):
    return {name: [one.version for one in versions]
            for name, versions in prompts.versions().items()}


@pytest.mark.parametrize('name, expected', [
    ('sst2', ('sst2', None)), ('sst2@3', ('sst2', '3')), ('a.b-c_d@v1.2', ('a.b-c_d', 'v1.2'))])
def test_names_and_versions_are_read(name, expected):
    assert split_name(name) == expected


@pytest.mark.parametrize('name', [
    '', '.', '..', '../x', 'a/b', 'a\\b', '/etc/passwd', '.hidden', 'a@', '@1', 'a@1@2', 'a b',
    'a\n', 'ä', 'a' * 65, 'a@' + 'b' * 65, 'a\0', '-a'])
def test_what_is_no_name_is_refused(name, prompts):
    with pytest.raises(BadName, match='is no name of a prompt'):
        prompts.find(name)


def test_versions_sort_by_their_numbers():
    versions = ['10', '2', 'v1.10', 'v1.9', '1', 'v1']
    assert sorted(versions, key=version_order) == ['v1', 'v1.9', 'v1.10', '1', '2', '10']


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


def test_a_file_that_is_overwritten_keeps_its_earlier_contents_in_use(opened, prompts):
    seen = []
    for seed in range(5):
        save(opened, prompts, 'mood', seed=seed)
        prompts.refresh()
        seen.append(prompts.find('mood').version)
    assert len(set(seen)) == 5
    assert listed(prompts) == {'mood': [seen[4], *sorted(
        seen[2:4], key=version_order, reverse=True)]}
    old = prompts.find(f'mood@{seen[3]}')
    assert old.path is None and old.prompt.file.metadata.seed == 3
    save(opened, prompts, 'mood', seed=3)  # as it was
    prompts.refresh()
    assert prompts.find('mood').version == seen[3]
    assert sorted(listed(prompts)['mood']) == sorted(seen[2:5])
    assert set(prompts._engine.prompts) == {f'mood@{version}' for version in seen[2:5]}


def test_a_file_without_a_version_is_the_default(opened, prompts):
    save(opened, prompts, 'mood@7', seed=1)
    save(opened, prompts, 'mood', seed=2)
    prompts.refresh()
    assert prompts.find('mood').prompt.file.metadata.seed == 2
    os.unlink(prompts.path / 'mood.safetensors')
    prompts.refresh()
    assert prompts.find('mood').full_name == 'mood@7'


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


def test_other_files_are_left_alone(opened, prompts):
    for name in ('notes.txt', '.hidden.safetensors', 'a b.safetensors', 'x@1@2.safetensors',
                 '.safetensors'):
        (prompts.path / name).write_bytes(b'')
    (prompts.path / 'folder.safetensors').mkdir()
    os.mkfifo(prompts.path / 'pipe.safetensors')
    prompts.refresh()
    assert listed(prompts) == {}


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
        'mood@1.safetensors', 'mood@2.safetensors', 'mood@beta.safetensors']


def test_uploads_that_cannot_be_used_leave_nothing(opened, prompts):
    other = types.SimpleNamespace(**{**vars(opened), 'fingerprint': 'another'})
    file = prompt_file(other, 4)
    save_prompt(prompts.path.parent / 'other.safetensors', file)
    other_content = (prompts.path.parent / 'other.safetensors').read_bytes()
    with pytest.raises(ValueError, match='truncated or no safetensors file'):
        prompts.upload('mood', b'nothing')
    with pytest.raises(ValueError, match='was trained for tiny'):
        prompts.upload('mood', other_content)
    with pytest.raises(BadName):
        prompts.upload('../mood', other_content)
    assert not list(prompts.path.iterdir()) and not prompts._engine.prompts


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


def test_removing_an_earlier_content_leaves_the_file(opened, prompts):
    for seed in (1, 2):
        save(opened, prompts, 'mood', seed=seed)
        prompts.refresh()
    new, old = listed(prompts)['mood']
    assert prompts.remove(f'mood@{old}') == [f'mood@{old}']
    assert listed(prompts) == {'mood': [new]}
    assert (prompts.path / 'mood.safetensors').exists()


def test_a_folder_that_is_not_there_is_refused(opened, tmp_path):
    with pytest.raises(FileNotFoundError, match='folder of prompts .* does not exist; make it'):
        PromptFolder(Uncompiled(opened), tmp_path / 'nowhere')
