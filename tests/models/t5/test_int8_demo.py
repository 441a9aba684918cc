"""What eight bits cost a model that was trained: the demo's, on the demo's sentences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.data.tasks.reviews import rotten_tomatoes
from jax_prompt.data.vocabularies import load_vocabulary
from jax_prompt.models.t5.int8 import quantise_tree
from jax_prompt.models.t5.model import T5
from jax_prompt.prompts.prompt import no_prompt
from jax_prompt.weights.load import load_weights
from tests.inference.whole import make_label_scorer
from tests.models.t5.test_int8 import num_bytes, relative_error

pytestmark = pytest.mark.slow

MODEL = 'package:traceforge_title_model/data/span'
SENTENCES, LENGTH, ROWS = 320, 64, 32


@pytest.fixture(scope='module')
def demo():
    pytest.importorskip('onnx')
    loaded = load_weights(MODEL)
    vocabulary = load_vocabulary(str(loaded.folder))
    frozen = jax.tree.map(jnp.asarray, loaded.frozen)
    return T5(loaded.config), vocabulary, frozen, quantise_tree(frozen)


@pytest.fixture(scope='module')
def sentences(demo):
    """Return int32[N, LENGTH] inputs and the number of each one's label."""
    vocabulary = demo[1]
    encoded = [(vocabulary.encode(text) + [1], ('negative', 'positive').index(label))
               for text, label in rotten_tomatoes().texts('test')]
    chosen = [(ids, label) for ids, label in encoded if len(ids) <= LENGTH][:SENTENCES]
    assert len(chosen) == SENTENCES
    inputs = np.zeros((SENTENCES, LENGTH), np.int32)
    for row, (ids, _) in zip(inputs, chosen, strict=True):
        row[:len(ids)] = ids
    return inputs, np.array([label for _, label in chosen])


def test_words_are_scored_as_with_float32(demo, sentences):
    """To 1.5 % of the logits' root mean square without their mean, which softmax ignores."""
    model, _, wide, stored = demo

    @jax.jit
    def first_logits(frozen, ids_BS):
        mask_BS = ids_BS != 0
        encoded_BSD = model.encode(frozen, model.embed(frozen, ids_BS), mask_BS)
        start_BLD = model.embed(frozen, jnp.zeros((len(ids_BS), 1), jnp.int32))
        logits_BLV = model.logits(frozen, model.decode(frozen, start_BLD, encoded_BSD, mask_BS))
        return logits_BLV - logits_BLV.mean(-1, keepdims=True)

    wanted = first_logits(wide, sentences[0][:ROWS])
    assert relative_error(first_logits(stored, sentences[0][:ROWS]), wanted) < 0.015


def test_accuracy_moves_by_less_than_half_a_point(demo, sentences):
    model, vocabulary, wide, stored = demo
    score = make_label_scorer(model, [vocabulary.encode('negative'), vocabulary.encode('positive')])
    inputs, labels = sentences
    nothing = no_prompt(model.d_model)

    def accuracy(frozen) -> float:
        scores = [np.asarray(score(frozen, nothing, inputs[start:start + ROWS]))
                  for start in range(0, SENTENCES, ROWS)]
        return 100 * float((np.concatenate(scores).argmax(1) == labels).mean())

    before, after = accuracy(wide), accuracy(stored)
    assert before > 70, 'the demo model is asked in the words it was trained on'
    assert abs(after - before) <= 0.5


def test_the_layers_take_a_quarter_of_float32(demo):
    _, _, wide, stored = demo
    for stack in ('encoder', 'decoder'):
        assert num_bytes(stored[stack]) < 0.255 * num_bytes(wide[stack])
