"""Sampling: draws from the filtered distribution that transformers draws from, row by row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.inference import sampling
from jax_prompt.inference.generate import make_generator
from jax_prompt.inference.sampling import (
    SamplingSettings,
    choose_tokens,
    filtered_weights,
    stack_settings,
)
from tests.inference.whole import make_sampler

LENGTH = 10
FILTERS = [dict(temperature=1.0), dict(temperature=0.5), dict(temperature=2.5),
           dict(temperature=1.0, top_k=1), dict(temperature=1.3, top_k=5),
           dict(temperature=1.0, top_k=10**6), dict(temperature=1.0, top_p=0.9),
           dict(temperature=0.7, top_p=0.85), dict(temperature=1.0, top_p=0.0),
           dict(temperature=1.8, top_k=7, top_p=0.8), dict(temperature=1e-30, top_p=0.5)]
compiled = functools.cache(make_sampler)


def run(case, settings, ids=None, length=LENGTH):
    ids = case.ids(True) if ids is None else ids
    settings = settings if isinstance(settings, list) else [settings] * len(ids)
    return np.asarray(compiled(case.model, length)(case.frozen, case.prompt, ids,
                                                   stack_settings(settings, length)))


def probabilities(logits, **filters):
    """Filter as the definitions have it, by sorting: float64[V] that sum to 1."""
    logits = logits.astype(np.float64)
    odds = np.exp((logits - logits.max()) / filters['temperature'])
    order = np.argsort(-odds, kind='stable')
    if filters.get('top_k'):
        odds[order[filters['top_k']:]] = 0
    before = (np.cumsum(odds[order]) - odds[order]) / odds.sum()
    cut = before >= filters.get('top_p', 1.0)
    cut[0] = False
    odds[order[cut]] = 0
    return odds / odds.sum()


@functools.cache
def compiled_filters(window):
    """Return the filters as a function of its own: it reads the window when it is compiled."""
    return jax.jit(lambda *arguments: filtered_weights(*arguments))


def filtered(logits, **filters):
    rows = stack_settings([SamplingSettings(**filters)] * len(logits), 1)
    weights = np.asarray(compiled_filters(sampling._WINDOW)(logits, *rows[1:4]),
                         np.float64)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize('filters', FILTERS, ids=str)
@pytest.mark.parametrize('window', [2, 128], ids='window={}'.format)
def test_filters_keep_what_the_definitions_keep(filters, window, monkeypatch):
    monkeypatch.setattr(sampling, '_WINDOW', window)  # 2 leaves nearly all cuts to bisection
    logits = 4 * np.random.default_rng(1).normal(size=(6, 300)).astype(np.float32)
    logits[1] *= 0.1  # almost even: no window reaches far
    logits[2, 7] = -np.inf
    expected = np.stack([probabilities(row, **filters) for row in logits])
    np.testing.assert_allclose(filtered(logits, **filters), expected, rtol=2e-4, atol=1e-9)


@pytest.mark.parametrize('filters', FILTERS[:-1], ids=str)
def test_filters_equal_transformers(filters):
    torch = pytest.importorskip('torch', reason='PyTorch is not installed')
    from transformers.generation import logits_process
    logits = 3 * np.random.default_rng(2).normal(size=(5, 400)).astype(np.float32)
    scores = logits_process.TemperatureLogitsWarper(filters['temperature'])(
        None, torch.tensor(logits))
    if 'top_k' in filters:
        scores = logits_process.TopKLogitsWarper(filters['top_k'])(None, scores)
    if 'top_p' in filters:
        scores = logits_process.TopPLogitsWarper(filters['top_p'])(None, scores)
    np.testing.assert_allclose(filtered(logits, **filters), scores.softmax(-1).numpy(),
                               rtol=1e-4, atol=1e-9)


def test_rows_with_other_settings_are_filtered_as_alone():
    logits = 3 * np.random.default_rng(3).normal(size=(len(FILTERS), 300)).astype(np.float32)
    rows = stack_settings([SamplingSettings(**filters) for filters in FILTERS], 1)
    together = np.asarray(filtered_weights(logits, *rows[1:4]))
    for row, filters in enumerate(FILTERS):
        alone = filtered(logits[row:row + 1], **filters)[0]
        np.testing.assert_allclose(together[row] / together[row].sum(), alone, rtol=1e-5)


@pytest.mark.parametrize('window', [2, 128])
def test_equal_logits_at_the_cut_are_all_kept(window, monkeypatch):
    monkeypatch.setattr(sampling, '_WINDOW', window)
    logits = np.array([[3.0, 2.0, 2.0, 2.0, 0.0, -0.0, -1.0]], np.float32)
    assert (filtered(logits, temperature=1.0, top_k=2)[0] > 0).tolist() == [True] * 4 + [False] * 3
    assert (filtered(logits, temperature=1.0, top_k=5)[0] > 0).tolist() == [True] * 6 + [False]
    level = np.array([[1.0, 1.0, 1.0, 1.0, 0.0, -1.0]], np.float32)  # more equals than a window
    assert (filtered(level, temperature=1.0, top_k=3)[0] > 0).tolist() == [True] * 4 + [False] * 2
    assert (filtered(level, temperature=1.0, top_p=0.5)[0] > 0).tolist() == [True] * 4 + [False] * 2


@pytest.mark.parametrize('filters', [FILTERS[i] for i in (0, 2, 4, 7, 9)], ids=str)
def test_draws_have_the_filtered_distribution(filters):
    """A chi-square test at 1 in 10,000 on 20,000 draws with fixed seeds."""
    count, size = 20_000, 12
    logits = (1.5 * np.random.default_rng(4).normal(size=size)).astype(np.float32)
    rows = stack_settings([SamplingSettings(seed=seed, **filters) for seed in range(count)], 1)
    keys = jax.vmap(jax.random.key)(rows.seed_B)
    drawn = jax.jit(choose_tokens)(jnp.tile(logits, (count, 1)).T, keys, rows)
    found = np.bincount(np.asarray(drawn), minlength=size)
    expected = count * probabilities(logits, **filters)
    kept = expected > 0
    assert found[~kept].sum() == 0, 'a token that is cut off was drawn'
    statistic = (((found - expected)**2)[kept] / expected[kept]).sum()
    # Wilson and Hilferty's approximation of the quantile; 3.72 is the normal one.
    freedom = kept.sum() - 1
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.72 * (2 / (9 * freedom))**0.5)**3


def test_unlikely_tokens_far_apart_are_drawn_as_often_as_they_should():
    """Several blocks of the vocabulary, most of the mass in a few tokens."""
    count, size = 20_000, 700
    logits = np.full(size, -9.0, np.float32)
    logits[[3, 400, 699]] = [2.0, 1.0, 0.0]
    logits[500:600] = -np.inf
    rows = stack_settings([SamplingSettings(1.0, seed=seed) for seed in range(count)], 1)
    drawn = np.asarray(jax.jit(choose_tokens)(
        jnp.tile(logits, (count, 1)).T, jax.vmap(jax.random.key)(rows.seed_B), rows))
    wanted = probabilities(logits, temperature=1.0)
    assert not ((drawn >= 500) & (drawn < 600)).any()
    others = ~np.isin(np.arange(size), [3, 400, 699])
    for where in ([3], [400], [699], others):
        share = wanted[where].sum()
        assert abs(np.isin(drawn, np.arange(size)[where]).mean() - share) < 4 * (
            share / count)**0.5


def test_sampled_text_follows_the_models_distribution(one_case, teacher_forced):
    """The first two tokens of a row, over many seeds, against the product of their softmaxes."""
    seeds, ids = 1500, one_case.ids(True)[3:4]
    settings = [SamplingSettings(2.0, top_k=3, seed=seed) for seed in range(seeds)]
    tokens = run(one_case, settings, np.repeat(ids, seeds, axis=0), length=2)
    pairs, counts = np.unique(tokens, axis=0, return_counts=True)
    assert len(pairs) > 4
    inputs = np.stack([np.zeros(len(pairs), np.int32), pairs[:, 0]], axis=1)
    logits = np.asarray(teacher_forced(one_case, np.repeat(ids, len(pairs), axis=0),
                                       one_case.prompt, inputs))
    wanted = [probabilities(row[0], temperature=2.0, top_k=3)[first]
              * (probabilities(row[1], temperature=2.0, top_k=3)[second] if first != 1 else 1.0)
              for row, (first, second) in zip(logits, pairs, strict=True)]
    assert sum(wanted) > 0.98
    np.testing.assert_allclose(counts / seeds, wanted, atol=4 * (0.25 / seeds)**0.5)


def test_temperature_zero_is_greedy_whatever_the_neighbours(one_case):
    ids = one_case.ids(True)
    greedy = np.asarray(make_generator(one_case.model, LENGTH)(
        one_case.frozen, one_case.prompt, ids))
    np.testing.assert_array_equal(run(one_case, SamplingSettings()), greedy)
    mixed = run(one_case, [SamplingSettings(seed=5), SamplingSettings(3.0)] * 3)
    np.testing.assert_array_equal(mixed[::2], greedy[::2])
    assert (mixed[1::2] != greedy[1::2]).any()


def test_the_same_seed_gives_the_same_text_and_another_another(one_case):
    settings = SamplingSettings(2.0, top_p=0.95, seed=2**32 - 1)
    np.testing.assert_array_equal(run(one_case, settings), run(one_case, settings))
    texts = {run(one_case, SamplingSettings(2.0, top_p=0.95, seed=seed)).tobytes()
             for seed in range(5)}
    assert len(texts) == 5


def test_a_sample_depends_on_neither_neighbours_nor_its_place(one_case):
    ids = one_case.ids(True)
    settings = [SamplingSettings(**filters, seed=seed) for seed, filters in enumerate(FILTERS[4:])]
    settings = settings[:6]
    together = run(one_case, settings)
    for row in range(6):
        others = np.roll(ids, 2, axis=0)
        others[5], others[1:3] = ids[row], 0
        alone = run(one_case, [SamplingSettings()] * 3 + [SamplingSettings(3.0)] * 2
                    + [settings[row]], others)
        np.testing.assert_array_equal(alone[5], together[row])
    wide = run(one_case, settings, one_case.ids(True, width=40))
    np.testing.assert_array_equal(wide, together)


def test_rows_keep_their_own_limits(one_case):
    whole = run(one_case, SamplingSettings(2.5, seed=3))
    limits = [1, 4, 10, 2, 7, 3]
    tokens = run(one_case, [SamplingSettings(2.5, seed=3, max_tokens=limit) for limit in limits])
    for row, limit in enumerate(limits):
        np.testing.assert_array_equal(tokens[row, :limit], whole[row, :limit])
        assert (tokens[row, limit:] == 0).all()
    early = run(one_case, [SamplingSettings(8.0, seed=seed) for seed in range(6)])
    late = run(one_case, [SamplingSettings(8.0, seed=seed, min_tokens=9) for seed in range(6)])
    assert (early[:, :9] == 1).any() and not (late[:, :9] == 1).any()


def test_settings_compile_nothing_new(one_case, compilations):
    sample = make_sampler(one_case.model, 4)
    for number, filters in enumerate(FILTERS):
        rows = stack_settings([SamplingSettings(**filters)] * 6, 4)
        sample(one_case.frozen, one_case.prompt, one_case.ids(True), rows)
        if number == 0:
            compilations.clear()
    assert not compilations


@pytest.mark.parametrize('make, message', [
    (lambda: SamplingSettings(-0.1), 'temperature=-0.1; expected a number from 0'),
    (lambda: SamplingSettings(float('inf')), 'temperature=inf; expected'),
    (lambda: SamplingSettings(top_k=-1), 'top_k=-1; expected a number of tokens, or 0 for all'),
    (lambda: SamplingSettings(top_p=1.5), 'top_p=1.5; expected a probability from 0 to 1'),
    (lambda: SamplingSettings(top_p=float('nan')), 'top_p=nan; expected a probability'),
    (lambda: SamplingSettings(seed=2**32), 'seed=4294967296; expected a number from 0 to 42949672'),
    (lambda: SamplingSettings(max_tokens=0), 'max_tokens=0; expected at least one token'),
    (lambda: SamplingSettings(min_tokens=-1), 'min_tokens=-1; expected a number from 0'),
    (lambda: stack_settings([SamplingSettings(), SamplingSettings(max_tokens=9)], 8),
     'row 1 asks for 9 tokens; expected at most max_length=8, what was compiled'),
])
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
