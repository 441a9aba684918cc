"""How alike prompts are: the cosines of Vu et al., by their definition."""

import numpy as np
import pytest

from jax_prompt.prompts.similarity import load_prompts, ranked, similarity


def test_both_cosines_are_those_of_the_definition():
    one, other = (np.random.default_rng(seed).normal(size=(rows, 6)) + 0.5
                  for seed, rows in ((0, 3), (1, 4)))

    def cosine(a, b):
        return a @ b / np.sqrt((a @ a) * (b @ b))

    told = similarity(one, other)
    np.testing.assert_allclose(told['pairs'], np.mean([[cosine(a, b) for b in other] for a in one]))
    np.testing.assert_allclose(told['means'], cosine(one.mean(0), other.mean(0)))
    assert similarity(other, one) == pytest.approx(told)
    assert similarity(one, 3 * one)['means'] == pytest.approx(1)
    assert similarity(np.zeros((2, 6)), one) == {'pairs': 0, 'means': 0}


def test_prompts_of_different_widths_are_refused(tmp_path):
    with pytest.raises(ValueError, match='rows of width 6 and 5; only prompts of one model'):
        similarity(np.ones((2, 6)), np.ones((2, 5)))
    with pytest.raises(ValueError, match="ranked by 'size'; expected pairs or means"):
        ranked(np.ones((2, 6)), {}, 'size')
    with pytest.raises(ValueError, match='holds no prompt files'):
        load_prompts(tmp_path)
    with pytest.raises(FileNotFoundError, match='no folder of prompts at '):
        load_prompts(tmp_path / 'none')
