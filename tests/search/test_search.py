"""Whole searches on a tiny model: what they find and read, how they go on, what they refuse."""

import dataclasses
import json

import numpy as np
import pytest

from jax_prompt.data.design import Design
from jax_prompt.evaluation.evaluator import Evaluator
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.search import STRATEGIES, folder
from jax_prompt.search import run as searching
from jax_prompt.search.bdpl import BDPL
from jax_prompt.search.filling import Beam, beam_for_all
from jax_prompt.search.gcg import GCG
from jax_prompt.search.hotflip import HotFlip
from jax_prompt.search.instructions import Instructions
from jax_prompt.search.label_words import LabelWords
from jax_prompt.search.lexicon import make_lexicon
from jax_prompt.search.problem import TaskProblem
from jax_prompt.search.run import FOUND, PLAIN, examples_of, search
from jax_prompt.search.scoring import Scorer
from jax_prompt.search.settings import SearchSettings
from jax_prompt.search.strategy import Candidate
from jax_prompt.search.substitution import first_order, most_promising
from jax_prompt.search.templates import Templates
from jax_prompt.search.wording import filled, information
from tests.search.world import WORDS, make_task, open_words, reviews

SETTINGS = SearchSettings(budget=900, examples=16, first_examples=8, held_out=16, finalists=2,
                          batch_size=16)
SMALL = {'templates': Templates(beams=8, length=8, examples=8), 'gcg': GCG(candidates=16),
         'label_words': LabelWords(top=8), 'bdpl': BDPL(examples=8), 'hotflip': HotFlip(length=2),
         'instructions': Instructions(length=6, variants=3, beam=2)}


@pytest.fixture(scope='module')
def opened():
    return open_words()


def make_problem(opened, template='{search} review : {text}', left=10**9, **settings):
    """Return a problem of sixteen examples with a budget without end."""
    settings, task = dataclasses.replace(SETTINGS, **settings), make_task()
    lexicon = make_lexicon(opened.vocabulary, settings.allowed)
    table = np.asarray(opened.model.embedding_table(opened.frozen))
    problem = TaskProblem(Scorer(opened, task, 16), examples_of(task, settings)[0], template,
                          lexicon.with_rows(table[lexicon.ids_A]), settings)
    problem.left = left
    return problem


def quick_if(*names):
    """Return parameters for all strategies, of which only these are tested each time."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in names))
            for name in STRATEGIES]


@pytest.mark.parametrize('name', quick_if('gcg', 'label_words', 'bdpl'))
def test_a_search_beats_the_plain_template_on_what_it_is_given(opened, tmp_path, name):
    strategy = SMALL.get(name) or STRATEGIES[name]()
    # Sampled tokens of a random model are hardly better than none.
    settings = SETTINGS if name != 'pez' else dataclasses.replace(SETTINGS, budget=2500)
    found = search(opened, make_task(), strategy, settings, tmp_path / 'out', quiet=True)
    assert found.losses[FOUND] <= found.losses[PLAIN]
    assert found.calls <= settings.budget
    assert {*found.metrics[FOUND]} == {'train', 'validation', 'test'}
    assert [one['calls'] for one in found.history] == sorted(one['calls'] for one in found.history)


def test_the_design_file_gives_what_the_search_reports(opened, tmp_path):
    task = make_task()
    found = search(opened, task, SMALL['gcg'], SETTINGS, tmp_path, quiet=True)
    loaded = load_prompt(tmp_path / folder.DESIGN_FILE)
    assert loaded.prompt.num_virtual == 0 and loaded.metadata.method == 'search (gcg)'
    design = Design.of(loaded)
    assert design.template == found.design.template.replace('{search}', '')
    measured = searching.measure(opened, task, design, SETTINGS)
    assert measured == found.metrics[FOUND]
    start = load_prompt(tmp_path / folder.START_FILE).prompt.rows
    ids = opened.vocabulary.encode(found.candidate.texts[0])
    np.testing.assert_array_equal(start, np.asarray(
        opened.frozen['token_embedder']['embedding'])[ids])
    # Rows in front of the task's own template are what the words are there.
    assert Evaluator(opened, task, Layout())(
        load_prompt(tmp_path / folder.START_FILE).prompt, _examples(opened, task))['loss'] == \
        pytest.approx(found.metrics[FOUND]['test']['loss'], rel=1e-5)
    result = json.loads((tmp_path / folder.RESULT_FILE).read_text())
    assert result['text'] == found.candidate.texts[0] and result['calls'] == found.calls


def _examples(opened, task):
    from jax_prompt.data.examples import load_examples
    return load_examples(task, 'test', opened.vocabulary)


@pytest.mark.parametrize('name, last', [('gcg', 2), ('label_words', 0), ('templates', 0)])
def test_a_killed_search_goes_on_as_if_it_had_not_been(opened, tmp_path, monkeypatch, name, last):
    settings = dataclasses.replace(SETTINGS, fluency=0.1 * (name == 'gcg'), fluency_examples=2)
    whole = search(opened, make_task(), SMALL[name], settings, tmp_path / 'whole', quiet=True)
    kind, calls = type(SMALL[name]), []
    step = kind.step

    def killed(self, *arguments):
        calls.append(1)
        if len(calls) > last + 1:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kind, 'step', killed)
        search(opened, make_task(), SMALL[name], settings, tmp_path / 'killed', quiet=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(searching, 'measure', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        search(opened, make_task(), SMALL[name], settings, tmp_path / 'killed', quiet=True)
    again = search(opened, make_task(), SMALL[name], settings, tmp_path / 'killed', quiet=True)
    for one in ('candidate', 'calls', 'losses', 'metrics', 'history'):
        assert getattr(again, one) == getattr(whole, one), one


@pytest.mark.parametrize('name', quick_if('gcg'))
def test_nothing_of_validation_and_test_reaches_the_search(opened, tmp_path, monkeypatch, name):
    """Their rows hold a word that no row of training has: nothing before the end may have it."""
    read, seen = [], []
    marked = [{'text': f'{row["text"]} aax', 'label': row['label']} for row in reviews(12, 1)]
    plain = [row for row in reviews(60, 0) if 'aax' not in row['text']]

    def rows(split, found):
        read.append(split)
        return found

    task = make_task(splits={'train': lambda: rows('train', plain),
                             'validation': lambda: rows('validation', marked),
                             'test': lambda: rows('test', marked)})
    measure, losses = searching.measure, Scorer.losses
    monkeypatch.setattr(Scorer, 'losses', lambda self, designs, rows: (
        seen.extend(row.columns['text'] for row in rows) or losses(self, designs, rows)))
    monkeypatch.setattr(searching, 'measure', lambda *arguments: (
        read.append('measured') or measure(*arguments)))
    strategy = SMALL.get(name) or STRATEGIES[name]()
    search(opened, task, strategy, SETTINGS, tmp_path, quiet=True)
    assert {*read[:read.index('measured')]} == {'train'}
    assert len(seen) >= 48 and not any('aax' in text for text in seen)
    assert {*read[read.index('measured'):]} == {'measured', 'train', 'validation', 'test'}


def test_the_gradient_is_that_of_what_is_scored(opened):
    problem, words = make_problem(opened), [5, 9, 40]
    loss, gradient_PD = problem.gradient(words, range(16))
    own = problem.losses([Candidate((problem.lexicon.text(words),))], range(16)).mean()
    assert loss == pytest.approx(own, rel=1e-5)
    step, rows = 1e-3 * np.sign(gradient_PD), problem.lexicon.rows_AD.copy()
    rows[words] += step
    problem.lexicon = dataclasses.replace(problem.lexicon, rows_AD=rows)
    moved, _ = problem.gradient(words, range(16))
    assert moved - loss == pytest.approx((gradient_PD * step).sum(), rel=0.05)


def test_gradient_candidates_hold_the_best_substitution_ten_times_as_often_as_chance(opened):
    problem = make_problem(opened, examples=4, allowed=tuple(WORDS[11:]))
    lexicon, draw, hits, trials, named = problem.lexicon, np.random.default_rng(0), 0, 4, 8
    for _ in range(trials):
        words = draw.integers(len(lexicon), size=3).tolist()
        _, gradient_PD = problem.gradient(words, range(4))
        best_PC = most_promising(first_order(gradient_PD, words, lexicon), words, named)
        others = [word for word in range(len(lexicon)) if word != words[1]]
        losses = problem.losses([Candidate((lexicon.text([words[0], word, words[2]]),))
                                 for word in others], range(4)).mean(axis=1)
        hits += others[int(np.argmin(losses))] in best_PC[1]
    assert hits / trials > 10 * named / (len(lexicon) - 1)


def test_a_label_word_is_scored_as_the_first_of_the_answer(opened):
    """In a cloze a word is one token, so what is read of all words at once is each one's score."""
    problem = make_problem(opened, '{text} . {answer}')
    scores_BA = problem.word_scores(range(16))
    pair = [7, 30]
    words = tuple(zip(problem.labels, (problem.lexicon.words[one] for one in pair), strict=True))
    losses_B = problem.losses([Candidate((), words)], range(16))[0]
    total_B = np.logaddexp(*scores_BA[:, pair].T.astype(np.float64))
    right_B = scores_BA[np.arange(16), np.array(pair)[problem.label_B]]
    np.testing.assert_allclose(losses_B, total_B - right_B, atol=1e-5)


def test_what_fills_blanks_is_the_likeliest_of_all(opened):
    """By a table of what follows what; the best of all texts of up to two words is known."""
    table_VV = np.log(np.random.default_rng(0).dirichlet(np.ones(9), size=9))
    words_V = np.arange(9) < 6

    def score(prefixes_GL, position):
        return table_VV[prefixes_GL[:, position]]

    found = beam_for_all(score, 8, (6, 7), words_V, Beam(40, 5, 0.0, 1, 0))
    texts = [(a,) for a in range(6)] + [(a, b) for a in range(6) for b in range(6)]

    def total(text):
        return sum(table_VV[one, other] for one, other in zip((6, *text), (*text, 7), strict=True))

    assert [one for one in found if len(one) < 3][:3] == sorted(texts, key=total)[::-1][:3]
    drawn = beam_for_all(score, 8, (6, 7), words_V, Beam(40, 5, 2.0, 1, 3))
    assert drawn == beam_for_all(score, 8, (6, 7), words_V, Beam(40, 5, 2.0, 1, 3)) != found


def test_fluency_weighs_what_the_model_would_write_itself(opened):
    plain, weighed = make_problem(opened), make_problem(opened, fluency=0.5, fluency_examples=4)
    tried = [Candidate(('film aax',)), Candidate(('great',))]
    told = weighed.losses(tried, range(16)) - plain.losses(tried, range(16))
    fluency = weighed.fluency(tried)
    np.testing.assert_allclose(told, 0.5 * fluency[:, None] * np.ones((1, 16)), rtol=1e-6)
    assert fluency[0] != fluency[1] and plain.left - weighed.left == 2 * 4


@pytest.mark.slow
def test_words_are_searched_for_free_text_too(opened, tmp_path):
    task = make_task(labels=None, targets_length=4)
    found = search(opened, task, SMALL['gcg'], SETTINGS, tmp_path, quiet=True)
    assert found.losses[FOUND] <= found.losses[PLAIN]
    assert found.metrics[FOUND]['train']['loss'] == pytest.approx(
        searching.measure(opened, task, found.design, SETTINGS)['train']['loss'])
    with pytest.raises(ValueError, match='label_words searches a word for each label but the task'):
        search(opened, task, 'label_words', SETTINGS, tmp_path / 'other', quiet=True)


def test_only_allowed_words_are_tried_and_what_is_fixed_stays(opened, tmp_path):
    settings = dataclasses.replace(SETTINGS, allowed=('great', 'dull', 'aax', 'film'),
                                   template='the {search} review : {text} {search}')
    found = search(opened, make_task(), HotFlip(length=2), dataclasses.replace(
        settings, template='the {search} review : {text}'), tmp_path, quiet=True)
    for one in found.history:
        assert {*one['texts'][0].split()} <= {*settings.allowed}
    if found.candidate is not None:
        assert found.design.template == f'the {found.candidate.texts[0]} review : {{text}}'


def test_texts_fill_the_slots_of_a_template():
    assert filled('{search} {text} {search} {answer} {search}', ('', '', '')) == '{text} {answer}'
    assert filled('{text} {search} {answer} {search}', ('Is', '.')) == '{text} Is {answer} .'
    assert filled('{search} {text}', ('{x}',)) == '{{x}} {text}'


def test_words_are_ranked_by_what_they_tell():
    told = information({(0, 0): 5, (1, 0): 5, (1, 1): 5, (2, 1): 4}, np.repeat([0, 1], 5))
    assert sorted(told, key=told.get)[::-1] == [0, 2, 1] and told[1] == pytest.approx(0)


@pytest.mark.parametrize('settings, strategy, message', [
    ({'budget': 79}, 'gcg', 'budget is 79 model calls but scoring one candidate takes 16 and '
     'comparing 2 with the plain template 64; expected at least 80'),
    ({'template': 'review {search}'}, 'gcg', 'names no column'),
    ({'template': '{text} {search} {answer}', 'words': {'no': 'bad'}}, 'gcg',
     'the labels of task toy are'),
    ({'allowed': ('great', 'greatfilm')}, 'gcg', "allowed word 'greatfilm' of the search has"),
    ({'allowed': ('great',)}, 'gcg', 'the search has 1 words to choose from'),
    ({}, 'wrong', "no search strategy 'wrong'; choose one of templates, label_words, hotflip"),
], ids=range(6))
def test_a_search_that_cannot_be_is_refused(opened, tmp_path, settings, strategy, message):
    settings = dataclasses.replace(SETTINGS, **settings)
    with pytest.raises(ValueError) as error:
        search(opened, make_task(), strategy, settings, tmp_path / 'out', quiet=True)
    assert message in str(error.value) and '\n' not in str(error.value)
