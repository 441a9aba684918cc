"""The registry: versions, promotions, what two writers and kills leave, and untrusted files."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest

from jax_prompt.prompts.file import PromptFile, PromptMetadata, save_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.log import PromptLog, create_file
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.prompts.registry import Registry
from jax_prompt.prompts.versions import BadName

METADATA = PromptMetadata(
    base_model='tiny', base_model_fingerprint='w1', vocabulary_fingerprint='v1',
    task={'name': 'mood', 'labels': {'0': 'negative', '1': 'positive'}}, layout=Layout(),
    method='direct', step=1, metrics={'accuracy': 0.5}, seed=0)
ROOT = pathlib.Path(__file__).parents[2]


def save(path, seed=0, rows=3, **metadata):
    drawn = np.random.default_rng(seed).normal(size=(rows, 4)).astype(np.float32)
    save_prompt(path, PromptFile(Prompt(drawn), dataclasses.replace(METADATA, **metadata)))
    return path


@pytest.fixture
def registry(tmp_path):
    (tmp_path / 'prompts').mkdir()
    return Registry(tmp_path / 'prompts')


@pytest.fixture
def three(registry, tmp_path):
    """A registry with mood@1, mood@2 and mood@3, none promoted."""
    for seed in range(3):
        registry.add(save(tmp_path / 'new.safetensors', seed, metrics={'accuracy': seed / 10}),
                     'mood', run=f'runs/{seed}', who='ann@there')
    return registry


def actions(registry, name='mood'):
    return [(entry.action, entry.version) for entry in registry.history(name)]


def test_versions_tell_where_they_come_from(three):
    versions = three.versions('mood')
    assert [one.full_name for one in versions] == ['mood@3', 'mood@2', 'mood@1']
    assert [one.parent for one in versions] == ['2', '1', None]
    last = versions[0]
    assert (last.run, last.who, last.metrics, last.model, last.model_fingerprint) == (
        'runs/2', 'ann@there', {'accuracy': 0.2}, 'tiny', 'w1')
    assert last.task == METADATA.task and last.created == three.history('mood')[2].when
    assert three.names() == ['mood'] and three.verify() == []


def test_the_promoted_version_is_what_was_promoted_last(three):
    again = Registry(three.folder)  # another machine
    for version, before in (('2', None), ('3', '2'), ('1', '3')):
        assert again.promoted('mood') == before
        entry = three.promote('mood', version, 'ann', f'for {version}')
        assert (entry.version, entry.who, entry.why) == (version, 'ann', f'for {version}')
        assert again.promoted('mood') == three.promoted('mood') == version
    assert three.promote('mood', '1') is None  # it is already
    assert [three.rollback('mood', 'bob').version for _ in range(2)] == ['3', '2']
    assert again.promoted('mood') == '2' and again.find('mood').version == '2'
    with pytest.raises(ValueError, match='mood@2 is the first that was promoted, so there is noth'):
        three.rollback('mood')
    assert actions(again)[3:] == [('promote', '2'), ('promote', '3'), ('promote', '1'),
                                  ('rollback', '3'), ('rollback', '2')]
    assert three.verify() == []


def test_a_rollback_of_what_is_no_longer_promoted_is_refused(three):
    for version in ('1', '2', '3'):
        three.promote('mood', version)
    assert three.rollback('mood', of='3').version == '2'
    with pytest.raises(ValueError, match='mood@3 is not what is promoted, mood@2 is; see'):
        three.rollback('mood', of='3')
    assert three.promoted('mood') == '2'


def test_a_tag_means_one_version_and_moves(three):
    three.tag('mood', '1', 'stable')
    three.tag('mood', '2', 'best')
    three.tag('mood', '3', 'stable')
    assert [one.tags for one in three.versions('mood')] == [('stable',), ('best',), ()]
    three.promote('mood', 'best')
    assert three.promoted('mood') == three.find('mood@best').version == '2'
    assert three.tag('mood', None, 'best').version is None
    with pytest.raises(ValueError, match=r"no version 'best'; there are: 3, 2, 1 \(tags: 'stab"):
        three.find('mood@best')
    for tag in ('7', '3'):
        with pytest.raises(ValueError, match=f"'{tag}' may be a version of mood; choose another"):
            three.tag('mood', '1', tag)
    with pytest.raises(ValueError, match="has no tag 'old'; there are: 'stable'"):
        three.tag('mood', None, 'old')
    with pytest.raises(BadName):
        three.tag('mood', '1', 'two words')


def test_a_canary_lasts_until_it_is_promoted_or_ended(three):
    three.promote('mood', '1')
    three.set_canary('mood', '2', 0.25, 'ann', 'try it')
    assert Registry(three.folder).canary('mood') == ('2', 0.25)
    assert three.set_canary('mood', '2', 0.25) is None
    three.promote('mood', '3')
    assert three.canary('mood') == ('2', 0.25)
    three.promote('mood', '2')
    assert three.canary('mood') is None
    three.set_canary('mood', '3', 0.5)
    three.set_canary('mood', None)
    assert three.canary('mood') is None
    for share in (0, 1, -1, 2, float('nan')):
        with pytest.raises(ValueError, match=r'mood@3 is to get a share of .*; expected more than'):
            three.set_canary('mood', '3', share)
    with pytest.raises(ValueError, match='mood@2 is promoted and gets all requests; name another'):
        three.set_canary('mood', '2', 0.5)


@pytest.mark.parametrize('labels, told', [
    (['positive', 'other', 'negative'], "'negative', 'other', 'positive'"), (None, 'free text')])
def test_a_canary_answers_as_what_is_promoted_does(three, tmp_path, labels, told):
    task = METADATA.task | {'labels': labels}
    three.add(save(tmp_path / 'new.safetensors', 7, task=task), 'mood')
    three.promote('mood', '1')
    with pytest.raises(ValueError, match=f"mood@4 answers with {told} but mood@1, beside which it "
                                         "is to be tried, with 'negative', 'positive'"):
        three.set_canary('mood', '4', 0.5)
    three.promote('mood', '4')
    with pytest.raises(ValueError, match=f"mood@1 answers with .* but mood@4, .*, with {told}"):
        three.set_canary('mood', '1', 0.5)
    three.add(save(tmp_path / 'new.safetensors', 8, task=task | {'labels': labels and [
        'negative', 'other', 'positive']}), 'mood')
    three.set_canary('mood', '5', 0.5)  # in another order


def test_what_is_there_cannot_be_added_again(three, tmp_path):
    with pytest.raises(ValueError, match='new.safetensors is mood@3 already; promote or tag that'):
        three.add(tmp_path / 'new.safetensors', 'mood')
    with pytest.raises(ValueError, match='mood@2 is there with another content; give another vers'):
        three.add(tmp_path / 'new.safetensors', 'mood@2')
    content = (three.folder / 'mood@3.safetensors').read_bytes()
    (three.folder / 'mood@3.safetensors').unlink()
    with pytest.raises(ValueError, match='mood@3 was added before with another content'):
        three.add(save(tmp_path / 'other.safetensors', 9), 'mood@3')
    assert three.add(tmp_path / 'other.safetensors', 'mood').version == '4'
    assert three.add(tmp_path / 'new.safetensors', 'mood@3').version == '3'  # put back
    assert (three.folder / 'mood@3.safetensors').read_bytes() == content and three.verify() == []


def test_another_models_prompt_is_none_of_the_family(three, tmp_path):
    other = save(tmp_path / 'other.safetensors', base_model='big', base_model_fingerprint='w2')
    with pytest.raises(ValueError, match=r'other.safetensors was trained for big \(weights w2\) '
                       r'but mood@3 for tiny \(weights w1\); add it under another name'):
        three.add(other, 'mood')
    assert three.add(other, 'big_mood').full_name == 'big_mood@1'
    (three.folder / 'mood@4.safetensors').write_bytes(other.read_bytes())
    assert '\n'.join(three.verify()).count('was trained for') == 3  # which of them is to go?
    three.promote('mood', '1')
    assert [line.split(' was ')[0] for line in three.verify()] == [
        f'{three.folder}/mood@4.safetensors']


@pytest.mark.parametrize('reference, message', [
    ('mood@9', "prompt 'mood' has no version '9'; there are: 3, 2, 1"),
    ('none@1', "prompt 'none' has no versions in .*; there are: 'mood'"),
    ('loose@1', 'loose.safetensors is there, which is no version: `jax-prompt prompts add`'),
    ('../mood@1', 'is no name of a prompt')])
def test_what_is_not_there_is_not_promoted(three, reference, message):
    save(three.folder / 'loose.safetensors')
    with pytest.raises(ValueError, match=message):
        three.promote(*reference.split('@'))
    with pytest.raises(ValueError, match=message):
        three.set_canary(*reference.split('@'), 0.5)
    assert len(three.history('mood')) == 3


def test_nothing_promoted_is_nothing_to_go_back_to(three):
    with pytest.raises(ValueError, match='no version of mood was promoted, so there is nothing'):
        three.rollback('mood')


def test_a_file_put_there_by_hand_is_a_version_and_add_says_whence(registry, tmp_path):
    by_hand = save(registry.folder / 'mood@2.safetensors')
    assert (registry.find('mood').who, registry.find('mood').run) == (None, None)
    assert registry.add(by_hand, 'mood', run='runs/a').full_name == 'mood@2'
    assert registry.find('mood').run == 'runs/a' and registry.find('mood').parent is None
    assert registry.add(save(tmp_path / 'b.safetensors', 1), 'mood').full_name == 'mood@3'


def test_the_difference_of_two_versions(registry, tmp_path):
    for seed in range(2):
        registry.add(save(tmp_path / 'a.safetensors', seed, step=seed, metrics={'accuracy': seed},
                          task={'name': 'mood', 'inputs_length': seed}), 'mood')
    told = registry.diff('mood@1', 'mood@2')
    assert told['versions'] == ['mood@1', 'mood@2'] and told['metrics'] == {'accuracy': [0, 1]}
    assert told['metadata'] == {'step': [0, 1], 'task.inputs_length': [0, 1]}
    one, other = (np.random.default_rng(seed).normal(size=(3, 4)) for seed in range(2))
    assert told['moved'] == pytest.approx(np.linalg.norm(one - other, axis=1).mean(), rel=1e-6)
    assert registry.diff('mood@1', 'mood@1')['metadata'] == {}


def test_two_writers_at_once_lose_nothing(three, tmp_path):
    """More than two, each with a registry of its own, as processes and machines have."""
    failed = []

    def write(number):
        mine = Registry(three.folder)
        try:
            for turn in range(6):
                file = save(tmp_path / f'{number}.safetensors', 100 * number + turn)
                version = mine.add(file, 'mood', why=f'{number} {turn}').version
                mine.promote('mood', version, f'writer {number}', str(turn))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    entries = Registry(three.folder).history('mood')
    added = [entry for entry in entries if entry.action == 'add']
    assert [entry.number for entry in entries] == list(range(1, 3 + 48 + 1))
    assert sorted(entry.why for entry in added[3:]) == sorted(
        f'{number} {turn}' for number in range(4) for turn in range(6))
    assert {one.version for one in three.versions('mood')} == {str(n) for n in range(1, 28)}
    for number in range(4):
        assert [entry.why for entry in entries if entry.who == f'writer {number}'] == list('012345')
    assert three.promoted('mood') == [e for e in entries if e.action == 'promote'][-1].version
    assert three.verify() == []


# Children are forked, so that 20 of them import nothing; they do what the commands do.
KILLS = '''
import os, pathlib, random, signal, sys, time
from jax_prompt.prompts.registry import Registry
folder, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
contents = sorted((folder.parent / 'new').iterdir())
draw = random.Random(5)
seen = 0
for kill in range(count):
    child = os.fork()
    if not child:
        registry, acts = Registry(folder), random.Random(kill)
        while True:
            act = acts.choice(['add', 'promote', 'rollback'])
            there = [one.version for one in registry.versions('mood')]
            try:
                if act == 'add':
                    registry.add(acts.choice(contents), 'mood')
                elif act == 'promote':
                    registry.promote('mood', acts.choice(there))
                else:
                    registry.rollback('mood')
            except ValueError:  # there already, or nothing to go back to
                pass
    time.sleep(draw.uniform(0.0, 0.12))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    registry = Registry(folder)
    problems, entries = registry.verify(), registry.history('mood')
    assert not problems and len(entries) >= seen, problems
    assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    promoted = registry.promoted('mood')
    assert promoted is None or registry.find('mood').problem is None
    seen = len(entries)
print(seen)
'''


def test_kills_at_random_moments_leave_a_whole_registry(three, tmp_path):
    (tmp_path / 'new').mkdir()
    for seed in range(40):
        save(tmp_path / 'new' / f'{seed:02}.safetensors', 1000 + seed)
    done = subprocess.run([sys.executable, '-c', KILLS, str(three.folder), '20'], text=True,
                          capture_output=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20  # more was done than what was killed


def test_a_kill_between_the_file_and_its_entry_is_mended_by_the_same_add(three, tmp_path,
                                                                         monkeypatch):
    file = save(tmp_path / 'next.safetensors', 7)
    with monkeypatch.context() as patched:
        patched.setattr(PromptLog, 'append', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            three.add(file, 'mood', run='runs/7')
    assert three.verify() == [] and three.find('mood@4').run is None
    assert three.add(file, 'mood', run='runs/7').version == '4'
    assert three.find('mood@4').run == 'runs/7' and len(three.versions('mood')) == 4


def entry_file(registry, number):
    return registry.folder / 'registry' / 'mood' / f'{number:08}.json'


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize('damage, message', [
    (lambda path: edit(path, version='3'), 'does not match its digest: it was damaged or edited'),
    (lambda path: path.write_bytes(b''), 'is no entry of a log'),
    (lambda path: path.write_bytes(b'[' * 60_000), 'is no entry of a log'),
    (lambda path: path.write_bytes(b'{}' + b' ' * 70_000), 'has more than 65,536 bytes'),
    (lambda path: path.write_text('{"format": 2}'), 'no JSON object of format 1'),
    (lambda path: (path.unlink(), path.symlink_to('/dev/zero')), 'is no regular file'),
    (lambda path: (path.unlink(), os.mkfifo(path)), 'is no regular file'),
    (lambda path: (path.unlink(), path.mkdir()), 'is no regular file'),
    (lambda path: path.unlink(), 'entry 5 is missing in'),
], ids=['edited', 'empty', 'deep', 'long', 'newer', 'link', 'pipe', 'folder', 'missing'])
def test_a_damaged_entry_is_told_of_passed_over_and_no_ground_to_roll_back(three, damage, message):
    for version in ('1', '2', '1'):
        three.promote('mood', version)
    damage(entry_file(three, 5))  # the second promotion
    fresh = Registry(three.folder)
    assert any(message in line for line in fresh.verify())
    assert fresh.promoted('mood') == '1' and fresh.find('mood').version == '1'
    with pytest.raises(ValueError, match='what was promoted before is not known; promote the vers'):
        fresh.rollback('mood')
    assert fresh.promote('mood', '3').number == 7 and fresh.promoted('mood') == '3'


def test_an_entry_that_was_replaced_with_its_digest_is_found(three, tmp_path):
    three.promote('mood', '1')
    three.promote('mood', '2')
    (tmp_path / 'other').mkdir()
    other = Registry(tmp_path / 'other')
    for seed in range(3):
        other.add(save(tmp_path / 'new.safetensors', seed), 'mood')
    other.promote('mood', '3', 'mallory')
    entry_file(three, 4).write_bytes(entry_file(other, 4).read_bytes())
    assert Registry(three.folder).verify() == [
        f'{entry_file(three, 4)} does not follow on the entry before it, which was replaced',
        f'{entry_file(three, 5)} does not follow on the entry before it, which was replaced']


def test_verify_tells_of_files_that_are_damaged_replaced_or_gone(three):
    three.promote('mood', '3')
    three.tag('mood', '2', 'old')
    three.set_canary('mood', '1', 0.1)
    (three.folder / 'mood@1.safetensors').write_bytes(b'half of it')
    save(three.folder / 'mood@2.safetensors', 77)
    (three.folder / 'registry' / 'not a name').mkdir()
    found = three.verify()
    assert len(found) == 3 and 'truncated, damaged or no safetensors file' in found[1]
    assert 'mood@2.safetensors is not the file that ann@there added at' in found[0]
    assert 'is no log of a prompt' in found[2]
    assert 'damaged' in three.find('mood@1').problem
    with pytest.raises(ValueError, match='cannot use prompt file .*mood@1'):
        three.promote('mood', '1')
    for number in (2, 3):
        (three.folder / f'mood@{number}.safetensors').unlink()
    found = '\n'.join(three.verify(['mood']))
    assert "mood@3 is promoted, and its file is not there" in found
    assert "mood@2 is what the tag 'old' means, and its file is not there" in found


@pytest.mark.parametrize('wrong', [
    dict(who='two\nlines'), dict(why='x' * 501), dict(who='\x1b[2J')])
def test_the_log_holds_lines_of_moderate_length(three, wrong):
    with pytest.raises(ValueError, match='expected text of one line, at most 500'):
        three.promote('mood', '1', **wrong)
    assert three.promoted('mood') is None


def test_a_new_file_is_made_once_and_a_lost_answer_of_nfs_is_known(tmp_path, monkeypatch):
    assert create_file(tmp_path / 'a', b'1') and not create_file(tmp_path / 'a', b'2')
    assert (tmp_path / 'a').read_bytes() == b'1' and os.listdir(tmp_path) == ['a']
    link = os.link

    def lost(*paths):
        link(*paths)
        raise FileExistsError

    def none(*paths):
        raise PermissionError(1, 'Operation not permitted')

    monkeypatch.setattr(os, 'link', lost)
    assert create_file(tmp_path / 'b', b'1')
    monkeypatch.setattr(os, 'link', none)
    with pytest.raises(OSError, match='the file system of .* has no hard links, which let one of'):
        create_file(tmp_path / 'c', b'1')
    assert sorted(os.listdir(tmp_path)) == ['a', 'b']
