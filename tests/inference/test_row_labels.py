"""Labels of each row's own: the same scores as for one set of labels alone, whatever is beside."""

import numpy as np
import pytest

from jax_prompt.inference import rank
from jax_prompt.inference.rank import make_label_scorer
from jax_prompt.inference.row_labels import LabelSet, make_row_label_scorer, stack_labels

SETS = [[[4], [5]], [[4, 5, 6], [7], [8, 9]], [[20, 21], [3, 3], [11], [12], [13]]]


def label_sets(model):
    words = {f'{number}/{tokens}': tokens for number, one in enumerate(SETS) for tokens in one}
    return [LabelSet.encode([f'{number}/{tokens}' for tokens in one], words.get, model)
            for number, one in enumerate(SETS)]


def scores(case, sets, ids, labels=8, length=4):
    arrays = stack_labels(sets, len(ids), labels, length, 0)
    score = make_row_label_scorer(case.model)
    return np.asarray(score(case.frozen, case.prompt, ids, *arrays))


def test_each_row_scores_its_own_labels_as_alone(case):
    ids = case.ids(prompted=True)
    sets = [label_sets(case.model)[row % 3] for row in range(len(ids))]
    found = scores(case, sets, ids)
    for row in range(len(ids)):
        alone = make_label_scorer(case.model, SETS[row % 3])(case.frozen, case.prompt, ids)[row]
        np.testing.assert_allclose(found[row, :len(alone)], alone, rtol=1e-5, atol=1e-5)


def test_scores_do_not_depend_on_the_padding_of_labels(one_case):
    ids = one_case.ids(prompted=True)
    sets = [label_sets(one_case.model)[row % 3] for row in range(len(ids))]
    np.testing.assert_allclose(scores(one_case, sets, ids, 16, 8)[:, :8],
                               scores(one_case, sets, ids, 8, 4), rtol=1e-5, atol=1e-5)
    assert not scores(one_case, sets, ids)[0, 2:].any()  # row 0 has two labels


def test_scoring_in_groups_gives_the_same(one_case, monkeypatch):
    ids = one_case.ids(prompted=True)
    sets = [label_sets(one_case.model)[row % 3] for row in range(len(ids))]
    whole = scores(one_case, sets, ids)
    monkeypatch.setattr(rank, 'LOGITS_BYTES', 4 * len(ids) * 4 * 29 * 3)
    np.testing.assert_allclose(scores(one_case, sets, ids), whole, rtol=1e-5, atol=1e-5)


def test_missing_rows_have_no_labels(one_case):
    some = label_sets(one_case.model)[:2]
    targets, weights = stack_labels(some, 4, 4, 4, 0)
    assert targets.shape == weights.shape == (4, 4, 4)
    assert not weights[2:].any() and not targets[2:].any()
    assert weights[0].sum() == 4 and weights[1].sum() == 4 + 2 + 3  # end tokens count


def test_labels_that_the_vocabulary_cannot_tell_apart_are_refused(one_case):
    with pytest.raises(ValueError, match='labels 0 and 1 have the same tokens'):
        LabelSet.encode(['a', 'b'], lambda word: [5], one_case.model)
