"""Substitution of tokens: what HotFlip and GCG share."""

from collections.abc import Sequence

import numpy as np

from jax_prompt.search.lexicon import Lexicon
from jax_prompt.search.strategy import (
    Candidate,
    Problem,
    State,
    Stepped,
    Strategy,
    Tried,
    check_slots,
    race,
)

#: Words that a start is drawn from: as many as `sampled_vocabulary` draws rows from.
_FREQUENT = 5000


def first_order(gradient_PD: np.ndarray, words: Sequence[int], lexicon: Lexicon) -> np.ndarray:
    """Estimate how the loss changes when one word is put in another's place.

    Args:
      gradient_PD: float32[P, D], of the loss by the embeddings of the words.
      words: their numbers in the lexicon.
      lexicon: of A words.

    Returns:
      float32[P, A]: (e' - e) . g, of the loss's first-order Taylor expansion.

    Source: HotFlip, Ebrahimi et al. 2018 (arXiv:1712.06751), equation 4; AutoPrompt, Shin et al.
    2020 (arXiv:2010.15980), section 2.2, which drops the constant e . g.
    """
    new_PA = gradient_PD @ lexicon.rows_AD.T
    return new_PA - np.take_along_axis(new_PA, np.asarray(words)[:, None], axis=1)


def most_promising(change_PA: np.ndarray, words: Sequence[int], count: int) -> np.ndarray:
    """Return of each place the words whose estimated loss is least, the best first.

    Args:
      change_PA: float32[P, A], from `first_order`.
      words: that stand there now; they are left out.
      count: how many for each place.

    Returns:
      int[P, min(count, A - 1)].
    """
    change_PA = change_PA.copy()
    np.put_along_axis(change_PA, np.asarray(words)[:, None], np.inf, axis=1)
    order_PA = np.argsort(change_PA, axis=1, kind='stable')
    return order_PA[:, :min(count, change_PA.shape[1] - 1)]


def start_words(strategy: Strategy, problem: Problem, rng: np.random.Generator) -> list[int]:
    """Return the words to start from: those of the strategy's `start`, or frequent ones by chance.

    Raises:
      ValueError: the template has another number of slots, or a word of the start is unknown.
    """
    check_slots(strategy, problem)
    if strategy.start_text:
        return problem.lexicon.numbers(strategy.start_text)
    frequent = min(_FREQUENT, len(problem.lexicon))
    return rng.choice(frequent, strategy.length, replace=strategy.length > frequent).tolist()


def start_state(strategy: Strategy, problem: Problem, rng: np.random.Generator) -> State:
    """Return the state of a search that has not scored its start yet."""
    return {'words': start_words(strategy, problem, rng), 'loss': None}


def of_words(problem: Problem, words: Sequence[int]) -> Candidate:
    """Return the candidate of some words of the lexicon."""
    return Candidate((problem.lexicon.text(words),))


def substituted(problem: Problem, state: State, proposed: Sequence[tuple[int, int]]) -> Stepped:
    """Put the best of some words in place, where that is better than what stands there.

    Args:
      problem: to score on.
      state: with the words and their loss.
      proposed: pairs of a place and the word for it, the most promising first.
    """
    words, loss = state['words'], state['loss']
    made = {}
    for place, word in proposed:
        new = [*words[:place], word, *words[place + 1:]]
        made.setdefault(of_words(problem, new), new)
    tried = race(problem, list(made))
    best = tried[0]
    if best.loss < loss:
        state = {'words': [int(word) for word in made[best.candidate]], 'loss': best.loss}
    return Stepped(state, tried)


def scored(problem: Problem, state: State) -> tuple[State, list[Tried]]:
    """Return the state with the loss of its words, which a search begins with."""
    if state['loss'] is not None:
        return state, []
    tried = race(problem, [of_words(problem, state['words'])])
    return state | {'loss': tried[0].loss}, tried
