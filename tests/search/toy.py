"""A problem without a model: each place of a prompt has one word that is best, known beforehand."""

import numpy as np

from jax_prompt.search.lexicon import Lexicon
from jax_prompt.search.strategy import Candidate, Spent

SIZE = 16


class Toy:
    """Lose the squared distance from the planted words' rows; count calls as a model would."""

    slots, size, first, labels, label_B = 1, SIZE, 4, ('no', 'yes'), np.arange(SIZE) % 2

    def __init__(self, planted=(7, 3), words=40, width=8, budget=10**6):
        draw = np.random.default_rng(5)
        rows_AD = draw.normal(size=(words, width)).astype(np.float32)
        names = tuple(f'word{number}' for number in range(words))
        self.lexicon = Lexicon(np.arange(words, dtype=np.int32), names, rows_AD,
                               lambda text: [names.index(one) if one in names else 2
                                             for one in text.split()])
        self.noise_B = draw.normal(size=SIZE) * 0.1
        self.planted, self.left, self.asked = list(planted), budget, []
        self.written = []

    def spend(self, calls):
        if calls > self.left:
            raise Spent
        self.left -= calls

    def usable(self, candidates):
        return list(dict.fromkeys(candidates))

    def losses(self, candidates, examples):
        self.spend(len(candidates) * len(examples))
        self.asked += candidates
        return np.array([[self.loss(one.texts[0]) + self.noise_B[number] for number in examples]
                         for one in candidates])

    def loss(self, text):
        words = self.lexicon.numbers(text)
        apart_PD = self.lexicon.rows_AD[words] - self.lexicon.rows_AD[self.planted[:len(words)]]
        return float(np.square(apart_PD).sum())

    def gradient(self, words, examples):
        self.spend(2 * len(examples))
        apart_PD = self.lexicon.rows_AD[words] - self.lexicon.rows_AD[self.planted]
        return float(np.square(apart_PD).sum()), 2 * apart_PD

    def telling_words(self, count):
        return list(range(count))

    def write(self, inputs, length, temperature, seed):
        self.spend(len(inputs))
        self.written += inputs
        draw = np.random.default_rng(seed)
        return [f'word{draw.integers(len(self.lexicon))}' for _ in inputs]

    def fill(self, examples, ways, length, temperature, seed):
        self.spend(ways * len(examples))
        return [(f'word{number}',) for number in range(ways)]

    def word_scores(self, examples):
        self.spend(len(examples))
        scores_BA = np.full((len(examples), len(self.lexicon)), -9.0)
        scores_BA[:, 0] = -1  # likely whatever the class
        scores_BA[self.label_B == 0, 11], scores_BA[self.label_B == 1, 12] = -2, -2
        return scores_BA


def run(strategy, problem, steps, seed=0):
    """Run a strategy by itself; return all that was tried and the last state."""
    state = strategy.start(problem, np.random.default_rng([seed]))
    tried = []
    for step in range(steps):
        try:
            state, more, done = strategy.step(problem, state, np.random.default_rng([seed, step]))
        except Spent:
            break
        tried += more
        if done:
            break
    return tried, state


def best(tried):
    return min(tried, key=lambda one: one.loss).candidate


def candidates(*texts):
    return [Candidate((text,)) for text in texts]
