"""Rank classification: PyTorch's log-probabilities, whatever the labels, pads and neighbours."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.inference import rank
from jax_prompt.inference.rank import (
    LabelSet,
    make_row_label_scorer,
    probabilities,
    stack_labels,
)
from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.model import T5
from jax_prompt.prompts.prompt import Prompt
from tests.inference.whole import assert_compiled_once, make_label_scorer
from tests.models.t5.random_weights import param_shapes

LABELS = ((7,), (9, 3, 22, 5), (9, 4))
compiled = functools.cache(make_label_scorer)


def scores(case, prompted, ids=None, labels=LABELS):
    ids = case.ids(prompted) if ids is None else ids
    score = compiled(case.model, labels)
    return np.asarray(score(case.frozen, case.prompt, ids))


def test_scores_are_pytorchs_log_probabilities(case, pytorch, prompted):
    found = scores(case, prompted)
    assert found.shape == (6, 3)
    assert found.dtype == np.float32
    for number, label in enumerate(LABELS):
        expected = pytorch.label_score(case.ids(prompted), case.prompt, list(label))
        np.testing.assert_allclose(found[:, number], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('way', ['teacher_forced', 'cached'])
def test_scores_are_those_of_training_and_of_generation(case, way, request):
    """What is trained, ranked and generated is one distribution, label by label."""
    ids = case.ids(prompted=True)
    found = scores(case, True)
    for number, label in enumerate(LABELS):
        target = np.zeros((len(ids), 10), np.int32)
        target[:, :len(label) + 1] = [*label, 1]
        inputs = np.concatenate([np.zeros_like(target[:, :1]), target[:, :-1]], axis=1)
        logits = request.getfixturevalue(way)(case, ids, case.prompt, inputs)
        each = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), target[..., None], -1)
        alone = each[:, :len(label) + 1, 0].sum(-1)
        np.testing.assert_allclose(found[:, number], alone, rtol=1e-4, atol=1e-4)


def test_the_prompt_changes_the_scores(case):
    assert (np.abs(scores(case, True) - scores(case, False)) > 1e-2).all()


def test_pads_of_the_inputs_change_nothing(one_case):
    wide = scores(one_case, True, one_case.ids(prompted=True, width=40))
    np.testing.assert_allclose(wide, scores(one_case, True), rtol=1e-5, atol=1e-5)


def test_pads_of_the_labels_change_nothing(one_case):
    short = scores(one_case, True, labels=(LABELS[0], LABELS[2]))
    np.testing.assert_allclose(short, scores(one_case, True)[:, [0, 2]], rtol=1e-5, atol=1e-5)


def test_rows_do_not_depend_on_their_neighbours(case):
    ids = case.ids(True)
    together = scores(case, True)
    assert np.isfinite(scores(case, True, np.zeros_like(ids))).all()
    for row in range(len(ids)):
        mixed = np.roll(ids, 1, axis=0)
        mixed[0] = ids[row]
        mixed[1:3] = 0
        np.testing.assert_allclose(scores(case, True, mixed)[0], together[row], atol=1e-5)


@pytest.mark.parametrize('labels_at_once', [1, 2])
def test_labels_scored_in_groups_score_the_same(one_case, monkeypatch, labels_at_once):
    together = scores(one_case, True)
    monkeypatch.setattr(rank, 'LOGITS_BYTES', labels_at_once * 6 * 5 * 29 * 4)
    score = make_label_scorer(one_case.model, LABELS)
    found = score(one_case.frozen, one_case.prompt, one_case.ids(True))
    np.testing.assert_allclose(found, together, rtol=1e-5, atol=1e-5)


def test_groups_bound_the_memory_for_logits(monkeypatch):
    model = T5(T5Config(vocab_size=4000, d_model=4, d_kv=2, d_ff=4, num_heads=1, num_layers=1,
                        num_decoder_layers=1))
    labels = [(token, other) for token in range(2, 12) for other in range(2, 12)]
    arguments = (param_shapes(model), Prompt(jax.ShapeDtypeStruct((4, 4), jnp.float32)),
                 jax.ShapeDtypeStruct((8, 16), jnp.int32))
    all_logits = 100 * 8 * 3 * 4000 * 4

    def temporaries():
        program = make_label_scorer(model, labels).lower(*arguments).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert temporaries() > all_logits
    monkeypatch.setattr(rank, 'LOGITS_BYTES', all_logits // 20)
    assert temporaries() < all_logits // 4


def test_labels_share_the_encoder_and_its_keys_and_values(one_case):
    """Nothing of width D or K exists for every label (7) and every input position (37)."""
    score = make_label_scorer(one_case.model, [(token,) for token in range(2, 9)])
    ids = jnp.asarray(one_case.ids(True, width=37)[:5])
    program = score.lower(one_case.frozen, one_case.prompt, ids).as_text()
    shapes = [shape.split('x') for shape in set(re.findall(r'tensor<([\dx]+)xf32>', program))]
    of_each_label = [set(shape) for shape in shapes if {'7', '37'} <= set(shape)]
    assert {'7', '5', '3', '2', '37'} in of_each_label, 'attention of 2 positions, 3 heads'
    assert not [shape for shape in of_each_label if shape & {'6', '16'}]


def test_it_compiles_once_a_shape_and_captures_no_weights(one_case, compilations):
    assert_compiled_once(lambda: make_label_scorer(one_case.model, LABELS), one_case, compilations)


def test_probabilities_are_a_softmax_that_does_not_overflow():
    odds = probabilities(np.array([[-1000.0, -1000.0 + np.log(3)], [0.0, -800.0]]))
    np.testing.assert_allclose(odds, [[0.25, 0.75], [1.0, 0.0]], atol=1e-4)


@pytest.mark.parametrize(('labels', 'message'), [
    ([[5]], r'got 1 label\(s\); expected at least two'),
    ([[5], []], 'label 1 has no tokens'),
    ([[5], [6, 29]], 'label 1 has token 29; expected words of the vocabulary, ids below 29'),
    ([[5, 1], [6]], 'label 0 has token 1; .*the end token is added here'),
    ([[5], [6, 7], [6, 7]], r'labels 1 and 2 have the same tokens \[6, 7\]'),
])
def test_labels_that_cannot_be_ranked_are_refused(one_case, labels, message):
    with pytest.raises(ValueError, match=message):
        make_label_scorer(one_case.model, labels)


row_scorer = functools.cache(make_row_label_scorer)
SETS = [[[4], [5]], [[4, 5, 6], [7], [8, 9]], [[20, 21], [3, 3], [11], [12], [13]]]


def label_sets(model):
    words = {f'{number}/{tokens}': tokens for number, one in enumerate(SETS) for tokens in one}
    return [LabelSet.encode([f'{number}/{tokens}' for tokens in one], words.get, model)
            for number, one in enumerate(SETS)]


def row_scores(case, sets, ids, labels=8, length=4):
    arrays = stack_labels(sets, len(ids), labels, length, 0)
    score = row_scorer(case.model)
    return np.asarray(score(case.frozen, case.prompt, ids, *arrays))


def test_each_row_scores_its_own_labels_as_alone(one_case):
    case = one_case
    ids = case.ids(prompted=True)
    sets = [label_sets(case.model)[row % 3] for row in range(len(ids))]
    found = row_scores(case, sets, ids)
    for row in range(len(ids)):
        score = compiled(case.model, tuple(map(tuple, SETS[row % 3])))
        alone = score(case.frozen, case.prompt, ids)[row]
        np.testing.assert_allclose(found[row, :len(alone)], alone, rtol=1e-5, atol=1e-5)


def test_scores_do_not_depend_on_the_padding_of_labels(one_case):
    ids = one_case.ids(prompted=True)
    sets = [label_sets(one_case.model)[row % 3] for row in range(len(ids))]
    np.testing.assert_allclose(row_scores(one_case, sets, ids, 16, 8)[:, :8],
                               row_scores(one_case, sets, ids, 8, 4), rtol=1e-5, atol=1e-5)
    assert not row_scores(one_case, sets, ids)[0, 2:].any()  # row 0 has two labels


def test_scoring_in_groups_gives_the_same(one_case, monkeypatch):
    ids = one_case.ids(prompted=True)
    sets = [label_sets(one_case.model)[row % 3] for row in range(len(ids))]
    whole = row_scores(one_case, sets, ids)
    monkeypatch.setattr(rank, 'LOGITS_BYTES', 4 * len(ids) * 4 * 29 * 3)
    row_scorer.cache_clear()
    np.testing.assert_allclose(row_scores(one_case, sets, ids), whole, rtol=1e-5, atol=1e-5)


def test_missing_rows_have_no_labels(one_case):
    some = label_sets(one_case.model)[:2]
    targets, weights = stack_labels(some, 4, 4, 4, 0)
    assert targets.shape == weights.shape == (4, 4, 4)
    assert not weights[2:].any() and not targets[2:].any()
    assert weights[0].sum() == 4 and weights[1].sum() == 4 + 2 + 3  # end tokens count


def test_labels_that_the_vocabulary_cannot_tell_apart_are_refused(one_case):
    with pytest.raises(ValueError, match='labels 0 and 1 have the same tokens'):
        LabelSet.encode(['a', 'b'], lambda word: [5], one_case.model)
