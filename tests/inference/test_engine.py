"""Batches of many tasks: each row gets what it gets alone, and nothing is compiled for a prompt."""

import functools
import logging

import numpy as np
import pytest

from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.beam import BeamSettings
from jax_prompt.inference.decodings import beam_search
from jax_prompt.inference.engine import Engine, UnknownPrompt
from jax_prompt.inference.generate import before_end, make_generator
from jax_prompt.inference.rank import probabilities
from jax_prompt.inference.rows import Prediction
from jax_prompt.inference.sampling import SamplingSettings
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt, no_prompt
from tests.inference.many_prompts import TASKS, open_tiny, prompt_file, prompts, requests
from tests.inference.whole import make_beam_generator, make_label_scorer

SHAPES = Shapes(batch_sizes=(8,), lengths=(48,), labels=((4, 4), (8, 4)), targets=(16,),
                shared_labels=1)


generator = functools.cache(make_generator)


@pytest.fixture(scope='module')
def opened(world):
    return open_tiny(world / 'model')


def make_engine(opened, **options):
    engine = Engine(opened, **{'shapes': SHAPES, 'capacity': 256} | options)
    for name, file in prompts(opened).items():
        engine.add(name, file)
    return engine


@pytest.fixture(scope='module')
def warm_engine(opened):
    engine = make_engine(opened)
    engine.warm_up()
    return engine


@pytest.fixture
def engine(warm_engine):
    """All prompts, warmed up; a test may change them."""
    before = warm_engine.prompts
    yield warm_engine
    for name in set(warm_engine.prompts) - set(before):
        warm_engine.remove(name)
    for name, prompt in before.items():
        if warm_engine.prompts.get(name) is not prompt:
            warm_engine.add(name, prompt.file)


def assert_same(found, expected):
    assert found.text == expected.text
    if expected.scores is not None:
        assert list(found.scores) == list(expected.scores)
        np.testing.assert_allclose([*found.scores.values(), *found.probabilities.values()],
                                   [*expected.scores.values(), *expected.probabilities.values()],
                                   rtol=1e-5, atol=1e-5)


def offline(opened, file, text):
    """Answer with one prompt alone, by the parts that know of no table."""
    task = TextTask.from_dict(file.metadata.task)
    converter = FeatureConverter.for_model(task, opened.vocabulary, opened.model,
                                           file.metadata.layout, len(file.prompt.rows))
    rendered = task.render({'text': text} if isinstance(text, str) else text)
    ids, _ = converter.input_ids(opened.vocabulary.encode(rendered))
    ids_1S = np.pad(ids, (0, 48 - len(ids)))[None]
    # Rows that no id names make all prompts one shape.
    prompt = Prompt(np.pad(file.prompt.rows, ((0, 17 - len(file.prompt.rows)), (0, 0))))
    if task.label_words is None:
        tokens = np.asarray(generator(opened.model, 12)(opened.frozen, prompt, ids_1S))[0]
        tokens = tokens[:task.targets_length]
        words = opened.vocabulary.decode(before_end(tokens, opened.model.tokens.ends))
        return Prediction(words.strip())
    score = make_label_scorer(opened.model,
                              [opened.vocabulary.encode(word) for word in task.label_words])
    scores_1C = np.asarray(score(opened.frozen, prompt, ids_1S))
    return Prediction(task.label_words[scores_1C.argmax()],
                      dict(zip(task.label_words, scores_1C[0].tolist(), strict=True)),
                      dict(zip(task.label_words, probabilities(scores_1C)[0].tolist(),
                               strict=True)))


def test_a_mixed_batch_gives_each_row_what_its_prompt_gives_alone(opened, engine):
    files = prompts(opened)
    asked = requests(len(TASKS), seed=3)
    for (name, inputs), answer in zip(asked, engine.run(engine.rows(asked)), strict=True):
        assert_same(answer, offline(opened, files[name], inputs))


def test_rows_do_not_depend_on_their_neighbours(engine):
    asked = requests(40)
    together = engine.run(engine.rows(asked))
    for one, answer in zip(asked, together, strict=True):
        assert_same(engine.run(engine.rows([one]))[0], answer)


def test_prompts_make_a_difference(engine):
    text = 'the film was great and the plot was dull'
    found = [engine.run([engine.row(name, text)])[0].scores for name in ('mood', 'short')]
    plain = engine.plain
    for name, scores in zip(('mood', 'short'), found, strict=True):
        labels = engine.prompt(name).labels
        unprompted = engine.run(engine.rows_of(plain, [text], labels=labels))[0].scores
        assert max(abs(unprompted[word] - scores[word]) for word in scores) > 0.01


def test_rows_without_a_prompt_run_the_plain_model(opened, engine):
    row = engine.row(None, 'the film was', max_tokens=8)
    ids = np.zeros((1, 16), np.int32)
    tokens = [*opened.vocabulary.encode('the film was'), 1]
    assert row.ids.tolist() == tokens
    ids[0, :len(tokens)] = tokens
    plain = make_generator(opened.model, 8)(opened.frozen, no_prompt(16), ids)
    expected = opened.vocabulary.decode(np.asarray(plain)[0].tolist()).strip()
    assert engine.run([engine.row('mood', 'film'), row])[1].text == expected


def test_labels_and_lengths_can_be_the_requests_own(engine):
    labels = engine.label_set(['hero', 'film', 'the plot'])
    rows = [engine.rows_of(engine.prompt('title'), ['a great film'], labels=labels)[0],
            engine.row('title', 'a great film', max_tokens=2),
            engine.row('mood', 'a great film', rank=False, max_tokens=3)]
    ranked, short, free = engine.run(rows)
    assert list(ranked.scores) == ['hero', 'film', 'the plot']
    assert sum(ranked.probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert engine.run([engine.row('title', 'a great film')])[0].text.startswith(short.text)
    assert free.scores is None


def test_sampled_and_greedy_rows_share_a_batch(engine):
    warm = SamplingSettings(temperature=2.0, seed=5)
    rows = [engine.row('title', 'film', options=options)
            for options in (None, warm, SamplingSettings(temperature=2.0, seed=6), None)]
    assert len({row.group for row in rows}) == 1
    found = [answer.text for answer in engine.run(rows)]
    assert found[0] == found[3] and len(set(found)) == 3
    assert engine.run([rows[1]])[0].text == found[1]


def test_beam_search_plugs_in_with_settings_of_each_row(opened):
    engine = make_engine(opened, decodings={'beams': beam_search(2)})
    rows = [engine.row('title', 'film', decoding='beams', options=options)
            for options in (None, BeamSettings(length_penalty=-5.0), None)]
    rows.append(engine.row('long', 'the plot', decoding='beams', max_tokens=3))
    together = [answer.text for answer in engine.run(rows)]
    assert together == [engine.run([row])[0].text for row in rows]
    assert together[0] == together[2]
    ids = np.zeros((1, 48), np.int32)
    ids[0, :len(rows[0].ids)] = rows[0].ids
    search = make_beam_generator(opened.model, 6, num_beams=2)
    tokens = np.asarray(search(opened.frozen, Prompt(engine.table.rows_RD), ids))[0].tolist()
    assert together[0] == opened.vocabulary.decode(tokens).strip()


def test_adding_removing_and_switching_prompts_compiles_nothing(opened, engine, compilations):
    engine.run(engine.rows(requests(9)))
    compiled = engine.compilations
    compilations.clear()
    for seed in range(6):
        engine.add('new', prompt_file(opened, 3 + 7 * seed, Layout('after'), seed=50 + seed,
                                      labels=['warm', 'cold film']))
        engine.run(engine.rows([*requests(9 + seed, seed), ('new', 'the cast was lovely')]))
        engine.remove('new')
    assert engine.compilations == compiled
    assert not compilations


def test_programs_are_one_a_shape_and_warming_up_compiles_them_all(opened):
    shapes = Shapes(batch_sizes=(1, 4), lengths=(16, 48), labels=((4, 4),), targets=(8, 16),
                    shared_labels=1)
    engine = Engine(opened, shapes, capacity=64)
    engine.add('mood', prompts(opened)['mood'])
    text = 'film ' * 20
    engine.run([engine.row('mood', 'film')])
    table = engine.table.compilations
    assert engine.compilations == table + 1
    engine.run([engine.row('mood', text)])
    assert engine.compilations == table + 2
    assert engine.warm_up() == 2 + engine.table.compilations - table
    compiled = engine.compilations
    for count in (1, 2, 3, 4, 5, 11):
        engine.run(engine.rows([('mood', text[:5 * length + 1]) for length in range(count)]))
    assert engine.compilations == compiled


def test_a_batch_in_flight_is_not_disturbed_by_changes(opened, engine):
    row = engine.row('mood', 'the film was great')
    expected = engine.run([row])[0]
    running = engine.start([row] * 3)
    for name in list(TASKS):
        engine.remove(name)
    for seed in range(12):  # over the rows that were freed
        engine.add(f'other{seed}', prompt_file(opened, 8, seed=90 + seed, scale=30.0))
    for answer in running.answers(str):
        assert_same(answer, expected)
    # The row itself still holds its block, so it can be started now and gives the same.
    assert_same(engine.run([row])[0], expected)


def test_a_replaced_prompt_serves_new_rows_and_the_old_one_those_made_before(opened, engine):
    old_row = engine.row('mood', 'the film was great')
    old = engine.run([old_row])[0]
    engine.add('mood', prompt_file(opened, 12, seed=99, labels=['negative', 'positive']))
    new = engine.run([engine.row('mood', 'the film was great')])[0]
    assert abs(new.scores['positive'] - old.scores['positive']) > 1e-3
    assert_same(engine.run([old_row])[0], old)


def test_blocks_of_removed_prompts_are_used_again(opened):
    engine = Engine(opened, SHAPES, capacity=64)
    for seed in range(40):
        engine.add('only', prompt_file(opened, 20, seed=seed))
        assert engine.table.capacity == 64
        if seed % 20 == 0:
            engine.run([engine.row('only', 'film', rank=False, max_tokens=2)])


def test_a_table_that_grows_says_so_and_changes_no_answer(opened, engine, caplog):
    with caplog.at_level(logging.WARNING):
        small, asked = make_engine(opened, capacity=16), requests(12)
    assert 'the prompt table grows from 16 to 32 rows' in caplog.text
    expected = engine.run(engine.rows(asked))
    for answer, one in zip(small.run(small.rows(asked)), expected, strict=True):
        assert_same(answer, one)


def test_room_that_is_made_for_a_prompt_leaves_nothing_to_compile_once_it_is_there(world):
    opened = open_tiny(world / 'model')
    small, asked = make_engine(opened, capacity=64), requests(12)
    assert small.table.capacity == 128
    rows = small.rows(asked)
    expected = small.run(rows)
    small.run([small.row('mood', 'the film was great')])
    file = prompt_file(opened, 40, seed=7, labels=['negative', 'positive'])
    before = small.compilations
    small.make_room(Prompt(np.zeros((40, 1))))
    compiled = small.compilations
    assert compiled > before and small.table.capacity == 128
    small.make_room(Prompt(np.zeros((40, 1))))
    small.make_room(Prompt(np.zeros((1, 1))))
    small.add('large', file)
    small.run([small.row('large', 'the film was great')])
    for answer, one in zip(small.run(rows), expected, strict=True):
        assert_same(answer, one)
    assert small.table.capacity == 256 and small.compilations == compiled


def test_the_same_rows_give_the_same_bits(engine):
    asked = requests(20, seed=4)
    assert engine.run(engine.rows(asked)) == engine.run(engine.rows(asked))


def test_no_rows_give_no_answers(engine):
    assert engine.run([]) == []


def test_what_is_wrong_is_refused(opened, engine):
    with pytest.raises(UnknownPrompt, match="no prompt 'nobody' in use; there are: long, marked"):
        engine.row('nobody', 'film')
    with pytest.raises(UnknownPrompt, match="no prompt 'nobody'"):
        engine.remove('nobody')
    with pytest.raises(ValueError, match='reads 2 columns .first, second. but the request gives'):
        engine.row('pair', 'film')
    with pytest.raises(ValueError, match="column 'second' is not there at the request"):
        engine.row('pair', {'first': 'film'})
    with pytest.raises(ValueError, match="prompt 'title' has no labels to choose from"):
        engine.row('title', 'film', rank=True)
    with pytest.raises(ValueError, match='half of a surrogate pair'):
        engine.row('title', 'a \ud800 b')
    with pytest.raises(ValueError, match="no decoding 'dream'"):
        engine.row('title', 'film', decoding='dream')
    with pytest.raises(ValueError, match="'sample' are BeamSettings.*; expected SamplingSettings"):
        engine.row('title', 'film', options=BeamSettings())
    with pytest.raises(ValueError, match='max_tokens is 0; expected at least 1'):
        engine.row('title', 'film', max_tokens=0)
    with pytest.raises(ValueError, match='marker .* is missing in an input|stands 2 times'):
        engine.row('marked', 'a <extra_id_99> b')
    with pytest.raises(ValueError, match='a prompt needs a name'):
        engine.add('', prompt_file(opened, 2))


@pytest.mark.parametrize('layout, template, message', [
    (Layout('marker'), '<extra_id_99> {text} <extra_id_99>', 'stands 2 times in an input'),
    (Layout('marker', marker='no entry'), 'no entry {text}', 'has no single entry for the marker'),
    (Layout(), 'no column', 'names no column, so all inputs would be the same')])
def test_a_prompt_that_no_request_can_use_is_refused(opened, engine, layout, template, message):
    with pytest.raises(ValueError, match=f'the prompt cannot be used: .*{message}'):
        engine.add('x', prompt_file(opened, 4, layout, inputs_template=template))
    assert 'x' not in engine.prompts


def test_a_prompt_of_another_model_is_refused(opened, engine):
    import dataclasses

    file = prompt_file(opened, 2)
    other = dataclasses.replace(file, metadata=dataclasses.replace(
        file.metadata, base_model_fingerprint='another'))
    with pytest.raises(ValueError, match='the prompt was trained for tiny'):
        engine.add('other', other)
    assert 'other' not in engine.prompts
    engine.add('other', other, allow_other_model=True)
    engine.remove('other')


def test_texts_that_are_too_long_are_cut_and_marked(engine):
    assert engine.row('short', 'film ' * 9).cut
    assert not engine.row('short', 'film').cut
