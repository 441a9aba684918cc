"""Prefixes give the logits and the greedy text of AdapterHub's `adapters`, as kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.inference.generate import make_generator
from jax_prompt.models.forward import score
from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.model import T5
from jax_prompt.prompts.prompt import Prompt
from tests.models.t5 import make_adapters_golden as golden
from tests.models.t5.random_weights import param_shapes


@pytest.fixture(scope='module')
def kept():
    with np.load(golden.FILE) as file:
        return dict(file)


def model_of(kept):
    """Lay the kept weights out as our tree."""
    config = T5Config(**golden.CONFIG)
    model = T5(config)
    frozen = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), param_shapes(model))
    for name, slot in config.slots().items():
        leaf, array = frozen, kept[f'weight/{name}']
        for key in slot.path:
            leaf = leaf[key]
        leaf = leaf if slot.layer is None else leaf[slot.layer]
        leaf[...] = (array.T if slot.inputs else array).reshape(leaf.shape)
    return model, jax.tree.map(jnp.asarray, frozen)


def test_logits_and_greedy_text_are_those_of_adapters(kept):
    model, frozen = model_of(kept)
    prompt = Prompt(jnp.zeros((0, model.d_model)), prefix={name: tuple(
        kept[f'prefix/{name}/{part}'][None] for part in ('keys', 'values'))
        for name in ('encoder', 'decoder', 'cross')})
    data = golden.inputs()
    batch = {'encoder_input_tokens': data['ids'], 'decoder_input_tokens': data['decoder_ids']}
    logits = jax.jit(lambda prompt: score(model, frozen, prompt, batch))(prompt)
    scale = np.abs(kept['logits']).max()
    np.testing.assert_allclose(logits, kept['logits'], atol=2e-5 * scale)
    plain = score(model, frozen, Prompt(prompt.rows), batch)
    assert np.abs(plain - kept['logits']).max() > 0.1 * scale
    tokens = make_generator(model, golden.TOKENS)(frozen, prompt, data['ids'])
    np.testing.assert_array_equal(tokens, kept['text'][:, 1:])
