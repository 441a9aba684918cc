"""Logits, loss and prompt gradient are those of transformers' PyTorch T5, for every shape."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.models.forward import score
from jax_prompt.models.t5.model import T5
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.training.step import token_loss
from tests.models.t5 import reference

GOLDEN = pathlib.Path(__file__).parent / 'golden'


@functools.cache
def our_answers(shape: str, **options) -> dict[str, np.ndarray]:
    config = reference.make_config(shape)
    model = T5(config, **options)
    frozen = jax.tree.map(jnp.asarray, reference.make_frozen(config))
    data = reference.make_inputs(config)
    batch = reference.as_batch(data, config.vocab_size)

    def loss_fn(prompt_PD):
        logits_BLV = score(model, frozen, Prompt(prompt_PD), batch)
        loss, _ = token_loss(logits_BLV, batch['decoder_target_tokens'],
                             batch['decoder_loss_weights'], reference.Z_LOSS)
        return loss, logits_BLV

    (loss, logits), gradient = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(data['prompt'])
    return {'logits': logits, 'loss': loss, 'gradient': gradient}


def assert_close(ours, theirs, tolerance=2e-5):
    for name, wanted in theirs.items():
        scale = np.abs(wanted).max()
        error = np.abs(np.asarray(ours[name]) - wanted).max()
        assert error <= tolerance * scale, f'{name}: off by {error:.2e} at a scale of {scale:.2e}'


@pytest.mark.parametrize('shape', reference.SHAPES)
def test_equals_the_kept_answers_of_pytorch(shape):
    with np.load(GOLDEN / f'{shape}.npz') as theirs:
        assert_close(our_answers(shape), dict(theirs))


@pytest.mark.parametrize('options', [
    dict(scan_layers=False), dict(remat='full'),
    pytest.param(dict(remat='dots'), marks=pytest.mark.slow),
    pytest.param(dict(scan_layers=False, remat='full'), marks=pytest.mark.slow)], ids=str)
def test_equals_pytorch_however_the_layers_are_run(options):
    with np.load(GOLDEN / 'umt5.npz') as theirs:
        assert_close(our_answers('umt5', **options), dict(theirs))


@pytest.mark.parametrize('shape', [
    shape if shape in ('t5_1_1', 'umt5') else pytest.param(shape, marks=pytest.mark.slow)
    for shape in reference.SHAPES])
def test_equals_pytorch_itself(shape):
    pytest.importorskip('torch', reason='PyTorch is not installed')
    theirs = reference.torch_answers(reference.make_config(shape))
    assert_close(our_answers(shape), theirs)
    with np.load(GOLDEN / f'{shape}.npz') as kept:
        assert_close(theirs, dict(kept))
