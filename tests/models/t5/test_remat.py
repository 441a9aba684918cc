"""What is recomputed: less memory for more work, and the same gradient to the last digits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.models.forward import score
from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.int8 import quantise_tree
from jax_prompt.models.t5.model import REMAT_POLICIES, T5
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.training.step import token_loss
from tests.models.t5 import reference
from tests.models.t5.random_weights import init

pytestmark = pytest.mark.slow  # it compiles many programs

# Long rows and many heads, so that attention weights are the most of what is kept.
CONFIG = T5Config(vocab_size=61, d_model=32, d_kv=4, d_ff=48, num_heads=8, num_layers=4,
                  num_decoder_layers=4)


@functools.cache
def compiled_gradient(remat: str, int8: bool):
    """Return the prompt's gradient, its temporaries in bytes, and its operations."""
    model = T5(CONFIG, remat=remat)
    frozen = jax.jit(lambda: init(model, jax.random.key(0)))()
    frozen = quantise_tree(frozen) if int8 else frozen
    data = reference.make_inputs(CONFIG)
    data['ids'] = np.tile(data['ids'], 3)
    batch = reference.as_batch(data, CONFIG.vocab_size)

    def loss(prompt_PD, frozen):
        logits_BLV = score(model, frozen, Prompt(prompt_PD), batch)
        return token_loss(logits_BLV, batch['decoder_target_tokens'],
                          batch['decoder_loss_weights'], 0.0)[0]

    prompt_PD = jnp.asarray(data['prompt'])
    compiled = jax.jit(jax.grad(loss)).lower(prompt_PD, frozen).compile()
    return (np.asarray(compiled(prompt_PD, frozen)),
            compiled.memory_analysis().temp_size_in_bytes, compiled.cost_analysis()['flops'])


@pytest.mark.parametrize('int8', [False, True], ids=['float32', 'int8'])
@pytest.mark.parametrize('remat', [name for name in REMAT_POLICIES if name != 'none'])
def test_the_gradient_is_the_same(remat, int8):
    ours, wanted = compiled_gradient(remat, int8)[0], compiled_gradient('none', int8)[0]
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize('int8', [False, True], ids=['float32', 'int8'])
def test_less_memory_for_more_work(int8):
    """'dots' gives up attention weights, the largest by far, for a few products."""
    (_, none, work), (_, dots, more), (_, full, most) = (
        compiled_gradient(remat, int8) for remat in ('none', 'dots', 'full'))
    assert full < dots < 0.7 * none
    assert work < more < 1.15 * work < most


def test_int8_is_kept_from_no_policy():
    """Its products are products, whose results 'dots' keeps; it works as much as with float32."""
    for remat in REMAT_POLICIES:
        assert compiled_gradient(remat, True)[2] < 1.05 * compiled_gradient(remat, False)[2]
