"""Each strategy on a toy whose best words are known."""

import json

import numpy as np
import pytest

from jax_prompt.search import STRATEGIES
from jax_prompt.search.bdpl import BDPL, policy_gradient, softmax
from jax_prompt.search.gcg import GCG
from jax_prompt.search.hotflip import HotFlip
from jax_prompt.search.instructions import Instructions
from jax_prompt.search.label_words import LabelWords, assignment_loss, best_assignments
from jax_prompt.search.pez import PEZ
from jax_prompt.search.strategy import Candidate, Spent, race
from jax_prompt.search.substitution import first_order, most_promising
from jax_prompt.search.templates import Templates
from tests.search.toy import Toy, best, candidates, run

TOKENS = {'hotflip': HotFlip(length=2, candidates=4), 'gcg': GCG(length=2, candidates=8, top=8),
          'pez': PEZ(length=2, rate=0.3), 'bdpl': BDPL(length=2, vocabulary=40, samples=16)}


@pytest.mark.parametrize('name', TOKENS)
def test_a_token_search_finds_the_planted_words(name):
    tried, _ = run(TOKENS[name], Toy(), 60)
    assert best(tried).texts == ('word7 word3',)


def test_reinforce_comes_to_prefer_the_planted_word():
    strategy = BDPL(length=1, vocabulary=20, samples=8)
    tried, state = run(strategy, Toy(planted=(13,)), 40)
    logits = np.frombuffer(__import__('base64').b64decode(state['logits']['float32']), '<f4')
    assert logits.argmax() == 13 and softmax(logits[None])[0, 13] > 0.5
    assert best(tried).texts == ('word13',)


def test_the_policy_gradient_is_that_of_the_expected_loss():
    """Over all prompts, each as often as it is drawn, the estimate is the exact gradient."""
    draw = np.random.default_rng(0)
    logits_PA, loss_A = draw.normal(size=(1, 5)), draw.normal(size=5)
    odds_PA = softmax(logits_PA)
    drawn = draw.choice(5, size=(200_000, 1), p=odds_PA[0])
    found = policy_gradient(odds_PA, drawn, loss_A[drawn[:, 0]])
    mean = odds_PA[0] @ loss_A
    deviation = np.sqrt(odds_PA[0] @ np.square(loss_A - mean))
    np.testing.assert_allclose(found[0], odds_PA[0] * (loss_A - mean) / deviation, atol=0.01)


def test_first_order_is_exact_where_the_loss_is_linear():
    toy, words = Toy(), [1, 2]
    gradient_PD = np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32)
    change_PA = first_order(gradient_PD, words, toy.lexicon)
    moved = toy.lexicon.rows_AD[9] - toy.lexicon.rows_AD[2]
    assert change_PA[1, 9] == pytest.approx(moved @ gradient_PD[1], rel=1e-4)
    best_PC = most_promising(change_PA, words, 100)
    assert best_PC.shape == (2, 39) and words[0] not in best_PC[0]
    assert best_PC[1, 0] == np.argmin(np.where(np.arange(40) == 2, np.inf, change_PA[1]))


def test_templates_are_scored_after_they_are_written():
    toy = Toy(planted=(5,))
    tried, _ = run(Templates(beams=8, at_once=3), toy, 9)
    assert best(tried).texts == ('word5',)
    assert {one.texts[0] for one in toy.asked} == {f'word{number}' for number in range(8)}


def test_label_words_are_those_that_tell_the_classes_apart():
    class Words(Toy):
        slots = 0

        def losses(self, candidates, examples):
            self.spend(len(candidates) * len(examples))
            return np.array([[{('word11', 'word12'): 0.0}.get(
                tuple(word for _, word in one.words), 1.0)] * len(examples)
                for one in candidates])

    tried, _ = run(LabelWords(top=6), Words(), 3)
    assert dict(best(tried).words) == {'no': 'word11', 'yes': 'word12'}


def test_assignments_of_many_labels_are_found_without_trying_all():
    scores_BA = np.random.default_rng(0).normal(size=(6, 30)) - 5
    scores_BA[np.arange(6), [3, 8, 1, 20, 9, 4]] += 9
    kept = [list(range(30))] * 6
    found = best_assignments(scores_BA, np.arange(6), kept, 5)
    assert found[0] == (3, 8, 1, 20, 9, 4) and len(found) == 5
    losses = [assignment_loss(scores_BA, np.arange(6), one) for one in found]
    assert losses == sorted(losses)


def test_instructions_are_paraphrased_and_a_beam_is_kept():
    toy = Toy(planted=(6,))
    strategy = Instructions(('word1', 'word2'), beam=2, variants=8, ask='again: {instruction}')
    tried, state = run(strategy, toy, 25)
    assert best(tried).texts == ('word6',)
    assert len(state['beam']) == 2 and toy.written[0] == 'again: word' + toy.written[0][-1]


@pytest.mark.parametrize('name', ['hotflip', 'gcg', 'pez', 'bdpl', 'templates', 'instructions'])
def test_a_state_read_back_goes_on_as_if_nothing_had_happened(name):
    strategy = TOKENS.get(name) or STRATEGIES[name](**{
        'instructions': {'start_texts': ('word1',)}, 'templates': {'at_once': 4}}[name])
    toy, state = Toy(), None
    state = strategy.start(toy, np.random.default_rng(0))
    for step in range(6):
        state, one, done = strategy.step(toy, state, np.random.default_rng(step))
        if done:
            break
    state, whole = strategy.start(toy, np.random.default_rng(0)), one
    for step in range(6):
        state = json.loads(json.dumps(state))
        state, one, done = strategy.step(toy, state, np.random.default_rng(step))
        if done:
            break
    assert one == whole


def test_a_race_scores_the_best_on_all_examples_and_the_others_on_few():
    toy, names = Toy(planted=(0,)), [f'word{number}' for number in range(16)]
    before = toy.left
    found = race(toy, candidates(*names), keep=2)
    assert found[0].candidate.texts == ('word0',) and found[0].loss == pytest.approx(
        toy.noise_B.mean())
    assert before - toy.left == 16 * 4 + 4 * 12  # not 16 * 16
    losses = [toy.loss(name) for name in names]
    assert found[1].candidate.texts == (names[np.argsort(losses)[1]],)


def test_a_race_leaves_out_what_the_budget_does_not_reach_for():
    toy = Toy(planted=(9,), budget=50)
    found = race(toy, candidates(*(f'word{number}' for number in range(10))))
    assert found[0].candidate.texts != ('word9',) and 0 <= toy.left < 20
    toy.left = 15
    with pytest.raises(Spent):
        race(toy, candidates('word9'))


@pytest.mark.parametrize('make, message', [
    (lambda: GCG(length=0), 'gcg.length is 0; expected a whole number of at least 1'),
    (lambda: PEZ(rate=0), 'pez.rate is 0; expected a number above 0'),
    (lambda: BDPL(samples=1), 'expected at least 2 prompts a step'),
    (lambda: Instructions(ask='again'), 'a text with {instruction}'),
    (lambda: HotFlip(start_text='word1 wrong').start(Toy(), np.random.default_rng(0)),
     "word 'wrong' of 'word1 wrong' has"),
], ids=range(5))
def test_settings_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize('name, slots, message', [
    ('gcg', 2, 'has {search} 2 times but strategy gcg needs one; put it where'),
    ('instructions', 0, 'has {search} 0 times but strategy instructions needs one;'),
    ('templates', 0, 'has {search} 0 times but strategy templates needs one or more;'),
    ('label_words', 1, 'has {search} 1 times but strategy label_words needs none; take it out')])
def test_a_template_of_another_number_of_places_is_refused(name, slots, message):
    toy = Toy()
    toy.slots = slots
    with pytest.raises(ValueError) as error:
        STRATEGIES[name]().start(toy, np.random.default_rng(0))
    assert message in str(error.value)


def test_a_candidate_is_read_back_from_json():
    one = Candidate(('a b', ''), (('no', 'bad'), ('yes', 'good')))
    assert Candidate.from_json(json.loads(json.dumps(one.to_json()))) == one
