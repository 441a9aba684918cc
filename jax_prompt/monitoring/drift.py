"""Two samples of a prompt's traffic: are inputs and answers still of the same kind?

Each test asks whether both samples could come from one distribution, and p is the probability of a
difference like the one seen if they do. Nothing here says that a drift does harm: without labels
nobody knows.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

#: Permutations of the test of states: p is a multiple of one in a thousand.
PERMUTATIONS = 999
#: Labels that are expected less often than this in a sample are counted together.
_LEAST_EXPECTED = 5
#: With fewer of either sample no test is made.
LEAST_SAMPLE = 20


@dataclasses.dataclass(frozen=True)
class Sample:
    """What is known of some requests to a prompt; arrays of one entry a request.

    Attributes:
      tokens: int32[N], of each input as the model reads it, the end token and cutting included,
        virtual tokens not.
      unknown: int32[N], those among them that the vocabulary does not know.
      states: float32[N, D], the encoder's mean state over each input; None where the texts are not
        known.
      answers: labels; empty for free text.
      confidences: float32[N], the probability of each label among the labels; None for free text.
      words: int32[N], of each answer of free text; None for labels.
    """

    tokens: np.ndarray
    unknown: np.ndarray
    states: np.ndarray | None = None
    answers: Sequence[str] = ()
    confidences: np.ndarray | None = None
    words: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.tokens)


@dataclasses.dataclass(frozen=True)
class Difference:
    """The result of one test.

    Attributes:
      test: what it is called.
      size: how large the difference is, between 0 (none) and 1; see the test.
      p: the probability of such a difference, or a larger one, between samples of one kind.
      then, now: what a reader may compare: medians, shares.
    """

    test: str
    size: float
    p: float
    then: str
    now: str


def differences(reference: Sample, fresh: Sample, seed: int = 0) -> dict[str, Difference]:
    """Test everything that both samples have.

    Args:
      reference: of training's or validation's data.
      fresh: of the requests.
      seed: of the permutations.

    Returns:
      Name -> the result: 'lengths', 'unknown', 'states' of inputs, 'labels', 'confidence',
      'words' of answers. p-values are not adjusted for their number.

    Raises:
      ValueError: a sample of fewer than 20.
    """
    for name, sample in (('reference', reference), ('fresh sample', fresh)):
        if len(sample) < LEAST_SAMPLE:
            raise ValueError(f'the {name} has {len(sample)} inputs; expected at least '
                             f'{LEAST_SAMPLE} to tell drift: wait for more, or sample a larger '
                             'share of the requests')
    found = {'lengths': kolmogorov_smirnov(reference.tokens, fresh.tokens),
             'unknown': shares(reference.unknown > 0, fresh.unknown > 0)}
    if reference.states is not None and fresh.states is not None:
        found['states'] = energy(reference.states, fresh.states, seed)
    if len(reference.answers) and len(fresh.answers):
        found['labels'] = label_shares(reference.answers, fresh.answers)
    for name, field in (('confidence', 'confidences'), ('words', 'words')):
        both = getattr(reference, field), getattr(fresh, field)
        if all(one is not None for one in both):
            found[name] = kolmogorov_smirnov(*both)
    return found


def kolmogorov_smirnov(then: np.ndarray, now: np.ndarray) -> Difference:
    """Compare numbers by the largest distance of their distribution functions.

    Of numbers with ties, such as lengths, p is no smaller than it should be.
    """
    from scipy import stats

    result = stats.ks_2samp(then, now)
    return Difference('Kolmogorov-Smirnov', float(result.statistic), float(result.pvalue),
                      _middle(then), _middle(now))


def shares(then: np.ndarray, now: np.ndarray) -> Difference:
    """Compare how often something is so, by Fisher's exact test; the size is the difference."""
    from scipy import stats

    counts = [[int(one.sum()), int((~one).sum())] for one in (then, now)]
    rates = [float(one.mean()) for one in (then, now)]
    return Difference('Fisher exact', abs(rates[1] - rates[0]),
                      float(stats.fisher_exact(counts).pvalue),
                      *(f'{100 * rate:.1f}%' for rate in rates))


def label_shares(then: Sequence[str], now: Sequence[str]) -> Difference:
    """Compare how often each label is answered, by the G-test.

    Labels that are expected fewer than 5 times in a sample are counted together; where one kind is
    left, there is nothing to compare and p is 1. The size is the total variation distance: the
    share of answers that would have to change.
    """
    from scipy import stats

    counts = [collections.Counter(one) for one in (then, now)]
    names = sorted(counts[0] | counts[1])
    table = np.array([[one[name] for name in names] for one in counts], float)
    rates = table / table.sum(axis=1, keepdims=True)
    least = table.sum(axis=0) * table.sum(axis=1).min() / table.sum() < _LEAST_EXPECTED
    table = np.column_stack([table[:, ~least], table[:, least].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    p = 1.0 if table.shape[1] < 2 else float(stats.chi2_contingency(
        table, correction=False, lambda_='log-likelihood').pvalue)
    told = [', '.join(f'{names[number]} {100 * rate[number]:.1f}%'
                      for number in np.argsort(-rate)[:3]) for rate in rates]
    return Difference('G-test', float(abs(rates[0] - rates[1]).sum() / 2), p, *told)


def energy(then: np.ndarray, now: np.ndarray, seed: int = 0,
           permutations: int = PERMUTATIONS) -> Difference:
    """Compare vectors by their energy distance, with permutations of who belongs to which sample.

    Its level is exact in samples of any size. The size is the coefficient of inhomogeneity: the
    energy distance over twice the mean distance between the samples, 0 for one distribution.

    Args:
      then: float32[N, D].
      now: float32[N, D], any number of them.
      seed: of the permutations.
      permutations: how many.

    Source: Szekely and Rizzo 2013, Journal of Statistical Planning and Inference 143.
    """
    both = np.concatenate([then, now]).astype(np.float64)
    squares = (both**2).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * both @ both.T, 0))
    np.fill_diagonal(distances, 0)
    draw = np.random.default_rng(seed)
    first = np.zeros((len(both), permutations + 1))
    first[:len(then), 0] = 1
    for number in range(1, permutations + 1):
        first[draw.permutation(len(both))[:len(then)], number] = 1
    within = np.einsum('nk,nk->k', first, distances @ first)
    totals = distances.sum(axis=1) @ first
    across, rest = totals - within, distances.sum() - 2 * totals + within
    across = across / (len(then) * len(now))
    found = 2 * across - within / len(then)**2 - rest / len(now)**2
    p = float((found[1:] >= found[0] * (1 - 1e-9)).sum() + 1) / (permutations + 1)
    size = float(found[0] / (2 * across[0])) if across[0] > 0 else 0.0
    return Difference('energy distance', size, p, f'{len(then)} inputs', f'{len(now)} inputs')


def _middle(values: np.ndarray) -> str:
    return f'median {np.median(values):.4g}'
