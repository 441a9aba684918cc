"""Ensembles: what several answers become."""

import numpy as np
import pytest

from jax_prompt.inference.ensemble import check_ensemble, together
from jax_prompt.inference.rows import Prediction


def ranked(*odds, scores=None):
    words = ('bad', 'good', 'fair')[:len(odds)]
    scores = np.log(np.array(odds) / 10) if scores is None else scores
    return Prediction(words[int(np.argmax(odds))], dict(zip(words, scores, strict=True)),
                      dict(zip(words, odds, strict=True)))


def test_the_majority_and_the_mean_may_differ():
    members = [ranked(0.55, 0.45), ranked(0.6, 0.4), ranked(0.05, 0.95)]
    assert together(members, 'vote').text == 'bad' and together(members, 'mean').text == 'good'
    told = together(members, 'mean')
    assert told.probabilities == pytest.approx({'bad': 0.4, 'good': 0.6})
    likelihoods = [[np.exp(one.scores[word]) for word in ('bad', 'good')] for one in members]
    np.testing.assert_allclose(list(told.scores.values()), np.log(np.mean(likelihoods, axis=0)))


def test_of_equal_votes_the_surer_ones_win_and_of_texts_the_first():
    assert together([ranked(0.6, 0.4), ranked(0.1, 0.9)]).text == 'good'
    texts = [Prediction(text, target_score=score) for text, score in
             (('a', -1.0), ('b', -2.0), ('b', -3.0), ('a', -2.5))]
    told = together(texts)
    assert told.text == 'a' and told.scores is None and told.probabilities is None
    np.testing.assert_allclose(told.target_score, np.log(np.mean(np.exp([-1, -2, -3, -2.5]))))
    assert together(texts[1:3] + texts[:1]).text == 'b'


def test_what_is_no_ensemble_is_refused():
    with pytest.raises(ValueError, match=r'^an ensemble of 1 is none \(got a\); expected at'):
        check_ensemble(['a', 'a'], 'vote', True)
    with pytest.raises(ValueError, match="^ensemble is 'sum'; expected one of vote, mean"):
        check_ensemble(['a', 'b'], 'sum', True)
    with pytest.raises(ValueError, match='^the mean is of label probabilities, which free text'):
        check_ensemble(['a', 'b'], 'mean', False)
