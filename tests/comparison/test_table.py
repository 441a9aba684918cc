"""The table, the advice and the pictures, of records whose figures are known."""

import csv
import dataclasses
import io
import json
import math
import types

import pytest

from jax_prompt.comparison import advice, page, plots, table
from jax_prompt.comparison.contender import Plain
from jax_prompt.comparison.records import ComparisonFolder
from jax_prompt.comparison.run import Comparison, ComparisonSettings
from jax_prompt.comparison.tuning import Tuning

FOLDER = 'records'


@pytest.fixture
def compared(toy, tmp_path):
    """Return the table of records: name -> those of seed after seed, at the largest size."""
    def make(records, sizes=(None,), seeds=2):
        contenders = tuple(Plain(name) if len(some) == 1 else Tuning(name)
                           for name, some in records.items())
        comparison = Comparison((toy,), contenders,
                                ComparisonSettings(tuple(range(seeds)), sizes))
        folder = ComparisonFolder(tmp_path / FOLDER)
        for one in contenders:
            for seed, record in enumerate(records[one.name]):
                for size in sizes:
                    folder.keep(comparison.cell(toy, one, size, seed), record)
        return comparison, folder

    return make


def test_figures_are_those_of_the_records(compared, record):
    comparison, folder = compared({'plain': [record(20, 0.4)], 'tuned': [
        record(30, 0.6, 1, trained_numbers=80, examples=64, seconds=2.0),
        record(34, 0.7, 2, trained_numbers=80, examples=96, seconds=4.0)]})
    group, = table.groups_of(comparison, folder)
    plain, tuned = group.lines
    assert group.metric == 'accuracy' and group.examples == 40 and group.common == 14 / 40
    assert (tuned.mean, tuned.best) == (32 / 40, True)
    assert tuned.validation == pytest.approx(0.65)
    assert tuned.deviation == pytest.approx(0.1 / math.sqrt(2))
    assert (tuned.examples, tuned.seconds, tuned.runs) == (80, 3.0, 2)
    assert tuned.low < tuned.mean < tuned.high and tuned.p_value is None
    assert math.isnan(plain.deviation) and plain.runs == 1 and 0 < plain.p_value < 1
    assert tuned.error == pytest.approx(max(0.05, math.sqrt(0.65 * 0.35 / 400)))


def test_the_best_is_the_validations_and_not_the_tests(compared, record):
    comparison, folder = compared({'lucky': [record(40, 0.5)], 'good': [record(20, 0.6)]})
    group, = table.groups_of(comparison, folder)
    assert group.best.contender == 'good'


def test_one_seed_is_mcnemars_test(compared, record):
    from scipy.stats import binomtest

    comparison, folder = compared({'a': [record(10, 0.9, 1)], 'b': [record(30, 0.1, 2)]}, seeds=1)
    group, = table.groups_of(comparison, folder)
    right = [[answer != 'none of them' for answer in folder.record(cell).answers]
             for cell in comparison.cells()]
    up = sum(b and not a for a, b in zip(*right, strict=True))
    down = sum(a and not b for a, b in zip(*right, strict=True))
    assert group.lines[1].p_value == pytest.approx(binomtest(up, up + down).pvalue)


def test_csv_json_and_markdown_say_the_same(compared, record):
    comparison, folder = compared({'plain': [record(20)], 'tuned': [record(30, 0.7, 1),
                                                                    record(30, 0.7, 1)]})
    groups = table.groups_of(comparison, folder)
    rows = list(csv.DictReader(io.StringIO(table.as_csv(groups))))
    lines = json.loads(table.as_json(groups))[0]['lines']
    assert [row['contender'] for row in rows] == [line['contender'] for line in lines]
    assert float(rows[1]['mean']) == lines[1]['mean'] == 0.75
    assert lines[0]['deviation'] is None and rows[0]['deviation'] == ''
    text = table.markdown(groups)
    assert '| tuned (best by validation) | 2 | 70.0 | 75.0 ± 0.0 |' in text
    assert 'the most common answer always: 35.0' in text


def line(name='x', validation=0.8, **fields):
    told = dict(task='toy', contender=name, size=None, runs=3, validation=validation, error=0.02,
                mean=0.7, deviation=0.01, low=0.6, high=0.8, best=False, p_value=0.5,
                trained_numbers=0, stored_bytes=100, examples=0, seconds=0.0,
                seconds_an_answer=0.01)
    return table.Line(**told | fields)


def group(*lines, size=None):
    best = max(lines, key=lambda one: one.validation)
    return table.Group('toy', size, 'accuracy', 40, 0.5, tuple(
        dataclasses.replace(one, best=one is best, p_value=None if one is best else one.p_value)
        for one in lines))


@pytest.mark.parametrize(('others', 'taken'), [
    ([], 'best'),  # nothing is as good
    ([dict(validation=0.785, stored_bytes=100)], 'other'),  # within the error, and smaller
    ([dict(validation=0.775, stored_bytes=100)], 'best'),  # just outside
    ([dict(validation=0.785, stored_bytes=900, seconds_an_answer=0.001)], 'other'),  # quicker
    ([dict(validation=0.785, stored_bytes=900, seconds_an_answer=0.009)], 'best'),  # named first
    ([dict(validation=0.785, stored_bytes=900, trained_numbers=10)], 'other'),  # fewer numbers
])
def test_the_rules_take_the_cheapest_of_those_that_are_as_good(others, taken):
    best = line('best', 0.8, stored_bytes=1000, trained_numbers=10 if len(others) and
                'trained_numbers' not in others[0] else 20)
    one = group(best, *(line('other', **{'trained_numbers': 10, **other}) for other in others))
    assert advice.chosen(one).contender == taken


def test_the_paragraph_tells_costs_training_and_more_data():
    many = group(line('plain', 0.6, mean=0.55), line('direct', 0.8, trained_numbers=10240,
                                                     stored_bytes=41800, seconds=100.0))
    few = group(line('plain', 0.6), line('direct', 0.61), size=64)
    told, = advice.advise([few, many])
    assert told.startswith('toy: Take "direct": 10,240 trained numbers, 41.8 kB to store, 0.01 s '
                           'an answer, 100 s to get there. On the test it has 70.0 % (60.0 to 80.0')
    assert ('Training is worth its while: the best without it, "plain", is 20.0 points below on '
            'the validation and has 55.0 % (60.0 to 80.0) on the test.') in told
    assert 'From 64 to all examples the best gained 19.0 points: label more if you can.' in told
    close = group(line('plain', 0.79), line('direct', 0.8, trained_numbers=10, stored_bytes=500))
    told, = advice.advise([close])
    assert 'Take "plain": no training' in told and 'chance explains (p = 0.5)' in told
    assert 'Training gives nothing that can be told: "plain" needs none.' in told


def test_pictures_are_the_same_for_the_same_table():
    groups = [group(line('plain', 0.6), line('a & b <c>', 0.8, trained_numbers=100), size=size)
              for size in (16, None)]
    pictures = plots.draw(groups)
    assert set(pictures) == {*plots.COSTS, plots.SIZES}
    assert pictures == plots.draw(groups)
    assert 'trained numbers' in pictures['trained_numbers']
    text = page.page(groups, pictures, advice.advise(groups))
    assert 'a &amp; b &lt;c&gt;' in text and '<c>' not in text and 'http' not in text
    assert all(rule in text.replace('&#x27;', "'") for rule in
               (one.replace('<', '&lt;') for one in advice.RULES))


@pytest.mark.slow
def test_the_page_stands_alone_in_a_browser(browser, compared, record, tmp_path):
    comparison, folder = compared({'plain': [record(20)], 'tuned': [record(30, 0.7, 1),
                                                                    record(34, 0.7, 2)]})
    page.write_report(comparison, folder)
    alone = tmp_path / 'alone' / 'page.html'
    alone.parent.mkdir()
    alone.write_text((folder.path / 'comparison.html').read_text())
    problems, tab = [], browser.new_page()
    tab.on('request', lambda one: problems.append(one.url) if not one.url.startswith(
        ('file:', 'data:')) else None)
    tab.on('pageerror', lambda error: problems.append(str(error)))
    tab.on('console', lambda one: problems.append(one.text) if one.type == 'error' else None)
    tab.goto(alone.as_uri())
    widths = tab.evaluate('[...document.images].map(one => one.naturalWidth)')
    assert len(widths) == 3 and all(widths) and not problems
    assert tab.locator('tr.best').count() == 1
    tab.close()


def test_names_that_are_one_are_refused(toy):
    with pytest.raises(ValueError, match="two contenders of the comparison are called 'a'; give "
                                         r'one of them another name, as in @NAME/tuning\(\)'):
        Comparison((toy,), (Plain('a'), Tuning('a')), ComparisonSettings())
    with pytest.raises(ValueError, match="two tasks of the comparison are called 'toy'"):
        Comparison((toy, toy), (Plain('a'),), ComparisonSettings())
    with pytest.raises(ValueError, match='a comparison of no contenders; expected at least one'):
        Comparison((toy,), (), ComparisonSettings())


@pytest.mark.parametrize(('fields', 'told'), [
    ({'seeds': ()}, r'comparison.seeds is \(\); expected different whole numbers from 0'),
    ({'seeds': (1, 1)}, r'comparison.seeds is \(1, 1\); expected different'),
    ({'sizes': (1,)}, r'comparison.sizes is \(1,\); expected different whole numbers from 2'),
    ({'validation': 0}, 'comparison.validation is 0; expected at least 1'),
])
def test_settings_that_say_nothing_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        ComparisonSettings(**fields)


def test_a_folder_of_another_comparison_is_refused(compared, toy, tmp_path):
    opened = types.SimpleNamespace(fingerprint='f', vocabulary_fingerprint='v',
                                   model=types.SimpleNamespace(numerics={'dtype': 'float32'}))
    first = Comparison((toy,), (Plain('a'), Tuning('b')), ComparisonSettings())
    folder = ComparisonFolder(tmp_path / 'out')
    with folder.claimed(first.identity(opened)):
        pass
    more = Comparison((toy,), (Tuning('c'), Plain('a')), ComparisonSettings((5,), (8, None)))
    with folder.claimed(more.identity(opened)):  # what is new is added
        pass
    settings = dataclasses.replace(Tuning('b').settings, batch_size=7)
    other = Comparison((toy,), (Tuning('b', settings=settings),), ComparisonSettings())
    with pytest.raises(ValueError, match='holds a run of another configuration: contenders.b.'
                                         'settings.batch_size is 32 there and 7 here'):
        with folder.claimed(other.identity(opened)):
            pass
    opened.fingerprint = 'g'
    with pytest.raises(ValueError, match="model.fingerprint is 'f' there and 'g' here"):
        with folder.claimed(first.identity(opened)):
            pass
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('x')
    with pytest.raises(ValueError, match='mine holds no comparison.json, so it is no folder of a'):
        ComparisonFolder(tmp_path / 'mine').check()
