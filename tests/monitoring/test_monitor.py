"""A look at prompts: falls, drift from data and from a log, references, rollback."""

import csv
import dataclasses
import json
import logging
import pathlib

import numpy as np
import pytest

from jax_prompt import cli
from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.engine import Engine
from jax_prompt.models.open import open_model
from jax_prompt.monitoring.history import read_history
from jax_prompt.monitoring.measuring import load_measured, measure
from jax_prompt.monitoring.monitor import Sources, Target, file_for, look
from jax_prompt.monitoring.settings import MonitorSettings
from jax_prompt.monitoring.states import mean_states
from jax_prompt.prompts.file import load_prompt, save_prompt
from jax_prompt.prompts.registry import Registry
from jax_prompt.serving.request_log import RequestLog
from tests.inference.many_prompts import prompt_file

TASK = dict(name='mood', inputs_template='review : {text}', target='label',
            labels={'0': 'dull', '1': 'great'})
SHAPES = Shapes(batch_sizes=(32,), lengths=(32,), labels=((2, 4),), shared_labels=1)


@dataclasses.dataclass
class Place:
    """A folder of prompts, two versions of one that is right nine times in ten, and data."""

    model: str
    engine: Engine
    prompts: pathlib.Path
    data: pathlib.Path

    def file(self, name, rows, flipped=0.0, header=('text', 'label')):
        """Write rows, with a fraction of the labels flipped, drawn by chance."""
        flip = np.random.default_rng(1).permutation(len(rows)) < flipped * len(rows)
        path = self.data / f'{name}.csv'
        with path.open('w', newline='') as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for (text, label), other in zip(rows, flip, strict=True):
                writer.writerow([text, 1 - label if other else label][:len(header)])
        return str(path)


@pytest.fixture(scope='module')
def place(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp('monitored')
    opened = open_model(str(world / 'model'))
    (folder / 'prompts').mkdir()
    (folder / 'data').mkdir()
    for version in '12':  # of all that are random, one whose answers vary
        file = prompt_file(opened, 5, seed=1, scale=0.3, **TASK)
        file = dataclasses.replace(file, metadata=dataclasses.replace(
            file.metadata, step=int(version), metrics={'accuracy': 0.9, 'loss': 0.3}))
        save_prompt(folder / 'prompts' / f'mood@{version}.safetensors', file)
    return Place(str(world / 'model'), Engine(opened, SHAPES), folder / 'prompts', folder / 'data')


@pytest.fixture(scope='module')
def rows(place, world):
    """Texts with what the prompt says to them, but for every tenth: (reference, fresh)."""
    with (world / 'reviews.csv').open() as file:
        texts = [row['text'] for row in csv.DictReader(file)]
    np.random.default_rng(0).shuffle(texts)
    prompt = place.engine.add('mood@1', load_prompt(place.prompts / 'mood@1.safetensors'))
    answers = place.engine.run(place.engine.rows_of(prompt, texts))
    found = [(text, int((one.text == 'great') != (number % 10 == 0)))
             for number, (text, one) in enumerate(zip(texts, answers, strict=True))]
    return found[:256], found[256:]


@pytest.fixture
def see(place, tmp_path):
    """Return what looks at version 1."""
    def look_at(settings=MonitorSettings(), prompt='mood@1', **sources):  # noqa: B008
        name, version = prompt.split('@')
        target = Target(name, version, place.prompts / f'{prompt}.safetensors')
        return look(place.engine, [target], Sources(**sources), tmp_path, settings)[0]
    return look_at


def test_20_percent_of_labels_flipped_are_seen_and_fresh_ones_are_no_alarm(place, rows, see):
    reference, fresh = rows
    sources = {'reference': place.file('reference', reference)}
    quiet = see(data=place.file('fresh', fresh), **sources)
    assert not quiet.fallen and not quiet.drifted and not quiet.notes
    assert quiet.quality.value == pytest.approx(0.9, abs=0.01)
    assert (quiet.quality.size, quiet.quality.reference_size) == (256, 256)
    assert quiet.drift.keys() == {'lengths', 'unknown', 'states', 'labels', 'confidence'}
    fallen = see(data=place.file('flipped', fresh, flipped=0.2), **sources)
    assert fallen.fallen and fallen.quality.fall == pytest.approx(0.16, abs=0.02)
    assert not fallen.drifted  # of labels nobody knows anything without looking at them


def test_a_fall_within_the_margin_is_none(place, rows, see):
    flipped = place.file('flipped', rows[1], flipped=0.2)
    reference = place.file('reference', rows[0])
    assert not see(MonitorSettings(margin=0.2), data=flipped, reference=reference).fallen


def test_without_a_reference_the_figure_in_the_file_is_taken_as_exact(place, rows, see):
    found = see(data=place.file('flipped', rows[1], flipped=0.2))
    assert found.fallen and found.quality.test == 'exact binomial' and not found.drift
    assert any('as if that were exact; give --reference=FILE' in note for note in found.notes)
    assert any('has no reference, so drift cannot be told' in note for note in found.notes)


def test_a_reference_is_measured_once_and_anew_for_other_rows(place, rows, see, tmp_path, caplog):
    reference, fresh = place.file('reference', rows[0]), place.file('fresh', rows[1])
    with caplog.at_level(logging.INFO):
        first = see(data=fresh, reference=reference)
        assert see(data=fresh, reference=reference).quality == first.quality
        assert see(data=fresh).quality == first.quality  # what is kept will do
    assert caplog.text.count('to compare with; kept in') == 1
    with caplog.at_level(logging.INFO):
        see(data=fresh, reference=place.file('reference', rows[0][:200]))
    assert caplog.text.count('to compare with; kept in') == 2
    assert see(data=fresh, prompt='mood@2').drift == {}  # what one version does tells of no other


def test_a_reference_comes_back_as_it_was_and_a_broken_one_is_told(place, rows, see, tmp_path):
    reference = place.file('reference', rows[0])
    see(reference=reference)
    path, prompt = tmp_path / 'mood@1.npz', place.engine.prompt('mood@1')
    kept = load_measured(path, {'prompt': prompt.digest})
    task = dataclasses.replace(prompt.task, splits={'data': reference})
    again = measure(place.engine, prompt, task.rows('data'), reference)
    assert kept.figures == again.figures and kept.sample.answers == again.sample.answers
    np.testing.assert_array_equal(kept.sample.states, again.sample.states)
    assert load_measured(path, {'prompt': 'another'}) is None
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match='cannot read the reference .*mood@1.npz: .*; delete it'):
        see(data=reference)


def test_other_inputs_are_seen_without_labels(place, rows, see):
    reference = place.file('reference', rows[0])
    long = [(f'{text} and the film was {text}', label) for text, label in rows[1]]
    found = see(data=place.file('long', long, header=('text',)), reference=reference)
    assert found.quality is None and {'lengths', 'states'} <= {*found.drifted}
    assert any("has no column 'label'" in note for note in found.notes)
    strange = [(text.replace('was', 'zzz'), label) for text, label in rows[1]]
    assert 'unknown' in see(data=place.file('strange', strange), reference=reference).drifted


def logged(place, folder, rows, texts, prompt='mood@1', **more):
    """Log requests as a server does that answered them."""
    served = place.engine.prompt(prompt)
    asked = place.engine.rows_of(served, [text for text, _ in rows])
    with RequestLog(str(folder), 1.0, 2**20, texts) as log:
        for row, answer, (text, _) in zip(asked, place.engine.run(asked), rows, strict=True):
            label, confidence = answer.likeliest
            ids = served.converter.text_ids(row.ids)
            log.write({'prompt': prompt, 'digest': served.digest, 'tokens': len(ids),
                       'unknown': int((ids == 2).sum()), 'label': label, 'confidence': confidence,
                       **({'inputs': text} if texts else {}), **more})
    return str(folder)


def test_a_log_of_requests_tells_drift(place, rows, see, tmp_path):
    reference = place.file('reference', rows[0])
    see(reference=reference)
    quiet = see(log=logged(place, tmp_path / 'same', rows[1], texts=True))
    assert not quiet.drifted and quiet.drift.keys() == {
        'lengths', 'unknown', 'states', 'labels', 'confidence'}
    positive = [one for one in rows[1] if one[1]]
    found = see(log=logged(place, tmp_path / 'other', positive, texts=False))
    assert 'labels' in found.drifted and 'states' not in found.drift
    assert any('the log holds no texts' in note for note in found.notes)


def test_lines_of_other_versions_and_broken_ones_are_passed_over(place, rows, see, tmp_path):
    see(reference=place.file('reference', rows[0]))
    folder = logged(place, tmp_path / 'log', rows[1][:50], texts=False)
    logged(place, tmp_path / 'log', rows[1][:50], texts=False, digest='another')
    file, = (tmp_path / 'log').glob('*.jsonl')
    with file.open('a') as lines:
        digest = place.engine.prompt('mood@1').digest
        lines.write('{"digest": "half a li\n[]\n' + json.dumps({'tokens': 'x', 'digest': digest}))
    assert see(log=folder).drift['lengths'].now
    file.write_text('')
    with pytest.raises(ValueError, match='nothing could be compared: mood@1: no line of .* is of'):
        see(log=folder)
    with pytest.raises(FileNotFoundError, match='no log of requests in .*; expected the folder'):
        see(log=str(tmp_path / 'no'))


@pytest.mark.parametrize('wrong, message', [
    ({}, 'nothing to look at; name fresh data with --data=FILE'),
    ({'data': 'no.csv'}, 'data no.csv do not exist; expected a file of rows'),
    ({'data': 'mixed'}, r"label '7' .* is outside the verbalizer of task mood"),
    ({'data': 'other', 'settings': MonitorSettings(metric='bleu')},
     "has no figure 'bleu' on .*; expected one of 'accuracy'"),
    ({'data': 'few', 'reference': 'reference'}, 'the fresh sample has 5 inputs; expected at')])
def test_what_cannot_be_compared_is_told(place, rows, see, wrong, message):
    files = {'mixed': rows[1][:5] + [('film', 7)], 'other': rows[1][:50], 'few': rows[1][:5],
             'reference': rows[0]}
    wrong = {key: place.file(value, files[value]) if value in files else value
             for key, value in wrong.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        see(**wrong)


def test_each_prompt_has_a_file_of_its_own_in_a_folder(tmp_path):
    for name in ('mood.csv', 'mood.x.jsonl', 'pair.jsonl.gz', 'pair.tsv', 'mood.txt'):
        (tmp_path / name).touch()
    assert file_for(str(tmp_path), 'mood') == str(tmp_path / 'mood.csv')
    assert file_for(str(tmp_path), 'mood.x') == str(tmp_path / 'mood.x.jsonl')
    assert file_for(str(tmp_path), 'title') is None
    with pytest.raises(ValueError, match="has 2 files for prompt pair: 'pair.jsonl.gz', 'pair.tsv"):
        file_for(str(tmp_path), 'pair')
    with pytest.raises(ValueError, match='is one file for 2 prompts; name one prompt with'):
        file_for(str(tmp_path / 'mood.csv'), 'mood', 2)


def test_an_alarm_is_for_all_prompts_of_a_look_together(place, rows, tmp_path):
    targets = [Target('mood', version, place.prompts / f'mood@{version}.safetensors')
               for version in '12']
    place.file('mood', rows[1], flipped=0.2)
    found = look(place.engine, targets, Sources(str(place.data)), tmp_path, MonitorSettings())
    assert [one.adjusted['quality'] for one in found] == pytest.approx(
        [2 * one.quality.p for one in found])


def test_the_mean_state_of_a_text_depends_on_nothing_beside_it(place):
    draw = np.random.default_rng(0)
    texts = [draw.integers(3, 20, size).tolist() for size in (1, 7, 30, 12)]
    together = mean_states(place.engine.opened, texts, SHAPES)
    for number, text in enumerate(texts):
        alone = mean_states(place.engine.opened, [text], SHAPES)
        np.testing.assert_allclose(alone[0], together[number], rtol=1e-5, atol=1e-6)
    assert together.dtype == np.float32 and np.isfinite(together).all()


@pytest.fixture
def run(place, tmp_path, capsys):
    """Return what runs the command on the folder, and gives its exit code and what it prints."""
    def monitor(*arguments):
        code = cli.main(['monitor', f'--model={place.model}', f'--prompts={place.prompts}',
                         f'--output={tmp_path / "monitoring"}', *arguments])
        return code, capsys.readouterr()
    return monitor


@pytest.mark.slow
def test_the_command_keeps_a_history_and_rolls_back_what_has_fallen(place, rows, run, tmp_path):
    registry = Registry(place.prompts)
    for version in '12':
        registry.promote('mood', version)
    reference = f'--reference={place.file("reference", rows[0])}'
    code, said = run(reference, f'--data={place.file("fresh", rows[1])}')
    assert code == 0 and 'mood@2: no alarm (alpha 0.01)' in said.out, said
    flipped = f'--data={place.file("flipped", rows[1], flipped=0.2)}'
    code, said = run(flipped, '--json')
    assert code == 3 and json.loads(said.out)[0]['fallen']
    assert registry.promoted('mood') == '2'
    code, said = run(flipped, '--rollback')
    assert code == 3 and 'mood@2: FALLEN' in said.out and 'mood is 1 again' in said.out
    assert registry.promoted('mood') == '1'
    assert 'jax-prompt monitor: accuracy fell by 0.1' in registry.history('mood')[-1].why
    code, said = run(flipped, '--rollback')  # there is nothing before it
    assert code == 3 and 'not rolled back: mood@1 is the first that was promoted' in said.out
    records = read_history(tmp_path / 'monitoring' / 'history.jsonl')
    assert [(one['version'], one['fallen'], one['rolled_back']) for one in records] == [
        ('2', False, None), ('2', True, None), ('2', True, '1'), ('1', True, None)]
    assert (tmp_path / 'monitoring' / 'history.png').read_bytes().startswith(b'\x89PNG')


def test_the_command_says_what_is_missing(run, tmp_path):
    for missing, message in (('prompts', 'no folder of prompts given'),
                             ('output', 'no output folder given')):
        code, said = run('--data=x.csv', f'--gin.monitor.{missing}=None')
        assert code == 2 and message in said.err
    (tmp_path / 'empty').mkdir()
    code, said = run(f'--prompts={tmp_path / "empty"}', '--data=x.csv')
    assert code == 2 and 'holds no prompts; add one with `jax-prompt prompts add`' in said.err
