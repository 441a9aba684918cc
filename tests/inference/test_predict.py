"""The one way to answers needs rows and a prompt; what is compiled for a model goes with it."""

import gc
import weakref

import numpy as np
import pytest

from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.inference.batching import How, Shapes
from jax_prompt.inference.decodings import SAMPLING, beam_search
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.predict import Runner, predict
from jax_prompt.inference.programs import Programs
from jax_prompt.inference.rank import LabelSet
from jax_prompt.inference.rows import Row
from tests.inference.many_prompts import open_tiny, prompts

HOW = How(Shapes(batch_sizes=(4,), lengths=(32,), labels=((4, 4),), targets=(8,), shared_labels=1))
TEXTS = ['the film was great', 'a plot', 'the hero was dull and the cast was warm', 'film'] * 2


@pytest.fixture(scope='module')
def opened(world):
    return open_tiny(world / 'model')


def rows_of(opened, file, how=HOW):
    """Make rows with no engine: ids of a prompt that stands alone, labels or a length."""
    task = TextTask.from_dict(file.metadata.task)
    converter = FeatureConverter.for_model(task, opened.vocabulary, opened.model,
                                           file.metadata.layout, len(file.prompt.rows))
    labels = task.label_words and LabelSet.encode(
        task.label_words, opened.vocabulary.encode, opened.model)
    group = how.generation_group(8, 'sample') if labels is None else how.rank_group(labels)
    return [Row('p', converter.input_ids(opened.vocabulary.encode(task.render({'text': text})))[0],
                False, labels, task.targets_length, 'sample', None, group) for text in TEXTS]


@pytest.mark.parametrize('name', ['mood', 'title'])
def test_it_answers_as_the_engine_does_and_compiles_once(opened, name, compilations):
    file = prompts(opened)[name]
    engine = Engine(opened, HOW.shapes, capacity=64)
    engine.add('before', prompts(opened)['words'])  # so that the prompt does not begin the table
    engine.add(name, file)
    expected = engine.run(engine.rows([(name, text) for text in TEXTS]))
    found = predict(opened, file.prompt, rows_of(opened, file), HOW)
    assert [one.text for one in found] == [one.text for one in expected]
    if found[0].scores is not None:
        np.testing.assert_allclose([list(one.scores.values()) for one in found],
                                   [list(one.scores.values()) for one in expected], rtol=1e-5)
    compilations.clear()
    assert predict(opened, file.prompt, rows_of(opened, file), HOW) == found
    assert not compilations


def test_what_is_compiled_goes_with_the_model(world):
    opened = open_tiny(world / 'model')
    file = prompts(opened)['mood']
    first, second = Runner(opened, HOW), Runner(opened, HOW)
    rows = rows_of(opened, file)
    first.run(rows, file.prompt)
    assert first.compilations == 1 and second.is_warm(rows[:4], file.prompt)
    second.run(rows, file.prompt)
    assert second.compilations == 0
    gone = weakref.ref(opened)
    del opened, first, second
    gc.collect()
    assert gone() is None


def test_of_too_many_programs_those_go_that_were_not_used_for_longest(opened, monkeypatch):
    programs, made = Programs(opened.model), []
    monkeypatch.setattr('jax_prompt.inference.programs.MOST_PROGRAMS', 3)
    doubled = programs.by_sizes('doubled', lambda: made.append(1) or (lambda _, array: 2 * array))
    for size in (1, 2, 3, 1, 4, 1):  # the fourth takes the place of 2
        assert len(doubled(None, np.ones(size))) == size
    assert len(made) == 4
    programs.ran(HOW)['3'] = 'has run'
    doubled(None, np.ones(3))
    assert len(made) == 4 and programs.ran(HOW)
    doubled(None, np.ones(2))
    assert len(made) == 5 and not programs.ran(HOW), 'what has gone must be found cold'


def test_ways_that_are_told_alike_are_the_same():
    def how():
        return How(Shapes(), (('sample', SAMPLING), ('beam', beam_search(3))))

    assert how() == how() and hash(how()) == hash(how())
    assert how() != How(Shapes(), (('sample', SAMPLING), ('beam', beam_search(4))))
