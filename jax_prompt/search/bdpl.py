"""BDPL: a policy over words, learned by REINFORCE; the model is only called."""

import dataclasses
from typing import ClassVar

import numpy as np

from jax_prompt.search.arrays import from_text, to_text
from jax_prompt.search.strategy import (
    Problem,
    State,
    Stepped,
    check_slots,
    draw,
    positive,
    race,
)
from jax_prompt.search.substitution import of_words


@dataclasses.dataclass(frozen=True)
class BDPL:
    """Learn a distribution over words for each place, from the losses of prompts drawn from it.

    A step draws `samples` prompts, scores them on a few examples, and moves the policy's logits
    against the loss, of which the samples' mean is taken away. The likeliest prompt is scored on
    all examples whenever it is a new one, and so is the best of a step's samples.

    Attributes:
      length: P, words to search.
      samples: prompts drawn a step; at least 2.
      examples: that they are scored on.
      vocabulary: A, words to choose from: those that tell most about the examples.
      rate: by which the logits move; losses are divided by their deviation over the samples.

    Source: Diao et al. 2023 (arXiv:2201.08531), section 3.2, equations 4 and 5; the baseline there,
    with its factor 1 / (samples - 1), is that of leaving one out. Logits and a softmax stand in for
    the projection to the simplex.
    """

    length: int = 4
    samples: int = 8
    examples: int = 16
    vocabulary: int = 64
    rate: float = 1.0
    name: ClassVar[str] = 'bdpl'
    template: ClassVar[str] = '{search} {inputs}'

    def __post_init__(self):
        positive(self, 'length', 'samples', 'examples', 'vocabulary')
        if self.samples < 2 or not 0 < self.rate < float('inf'):
            raise ValueError(f'bdpl.samples is {self.samples} and bdpl.rate {self.rate}; expected '
                             'at least 2 prompts a step, to compare them, and a rate above 0')

    def start(self, problem: Problem, rng: np.random.Generator) -> State:
        """Return a policy of equal chances; see `Strategy`."""
        check_slots(self, problem)
        words = problem.telling_words(self.vocabulary)
        return {'words': words, 'scored': [],
                'logits': to_text(np.zeros((self.length, len(words)), np.float32))}

    def step(self, problem: Problem, state: State, rng: np.random.Generator) -> Stepped:
        """Draw prompts and learn from their losses; see `Strategy`."""
        logits_PA, words = from_text(state['logits']), np.asarray(state['words'])
        odds_PA = softmax(logits_PA)
        drawn = np.stack([[rng.choice(len(words), p=odds_A) for odds_A in odds_PA]
                          for _ in range(self.samples)])
        candidates = [of_words(problem, words[choice]) for choice in drawn]
        examples = draw(problem, rng, self.examples)
        losses_C = problem.losses(candidates, examples).mean(axis=1)
        logits_PA = logits_PA - self.rate * policy_gradient(odds_PA, drawn, losses_C)
        best = [candidates[int(np.argmin(losses_C))],
                of_words(problem, words[logits_PA.argmax(axis=1)])]
        new = [one for one in dict.fromkeys(best) if one.texts[0] not in state['scored']]
        tried = race(problem, new, keep=2) if new else []
        return Stepped({
            'words': state['words'], 'logits': to_text(logits_PA),
            'scored': state['scored'] + [one.candidate.texts[0] for one in tried]}, tried)


def softmax(logits_PA: np.ndarray) -> np.ndarray:
    """Return probabilities, float64[P, A], that sum to one."""
    odds_PA = np.exp(logits_PA.astype(np.float64) - logits_PA.max(axis=1, keepdims=True))
    return odds_PA / odds_PA.sum(axis=1, keepdims=True)


def policy_gradient(odds_PA: np.ndarray, drawn_CP: np.ndarray, losses_C: np.ndarray) -> np.ndarray:
    """Estimate the gradient of the expected loss by a policy's logits.

    Args:
      odds_PA: float64[P, A], the policy.
      drawn_CP: int[C, P], prompts drawn from it.
      losses_C: float64[C], their losses.

    Returns:
      float64[P, A]: the sum over prompts of (loss - mean loss) / deviation times the gradient of
      the prompt's log-probability, which is 1 - p for the word that was drawn and -p for others;
      divided by C - 1.

    Source: Williams 1992, REINFORCE; Diao et al. 2023 (arXiv:2201.08531), equation 5.
    """
    advantage_C = losses_C - losses_C.mean()
    advantage_C = advantage_C / (losses_C.std() + 1e-8)
    chosen_CPA = np.eye(odds_PA.shape[1])[drawn_CP] - odds_PA
    return np.einsum('C,CPA->PA', advantage_C, chosen_CPA) / (len(losses_C) - 1)
