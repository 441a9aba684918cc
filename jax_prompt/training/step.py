"""The training step: the gradient of the prompt alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jax_prompt.inference.encode import encode_inputs
from jax_prompt.prompts.methods import Method
from jax_prompt.t5.model import T5
from jax_prompt.training.losses import token_loss
from jax_prompt.types import Array, Batch, Params, TrainState

#: step(state, frozen, batch) -> (state, metrics)
TrainStep = Callable[[TrainState, Params, Batch], tuple[TrainState, dict[str, Array]]]


def forward(model: T5, prompt_PD: Array, frozen: Params, batch: Batch,
            dropout_rng: Array | None = None) -> Array:
    """Score the target tokens of a batch, teacher-forced.

    Args:
      model: the frozen model's shape.
      prompt_PD: float32[P, D], the folded prompt; P may be 0.
      frozen: the weights.
      batch: seqio's keys.
      dropout_rng: a PRNG key switches the model's dropout on.

    Returns:
      float32[B, L, V].
    """
    encode_rng, decode_rng = (None, None) if dropout_rng is None else jax.random.split(dropout_rng)
    encoded_BSD, mask_BS = encode_inputs(model, frozen, prompt_PD, batch['encoder_input_tokens'],
                                         encode_rng)
    inputs_BLD = model.embed(frozen, batch['decoder_input_tokens'])
    hidden_BLD = model.decode(frozen, inputs_BLD, encoded_BSD, mask_BS, dropout_rng=decode_rng)
    return model.logits(frozen, hidden_BLD)


def make_train_step(model: T5, method: Method, optimizer: optax.GradientTransformation,
                    z_loss: float = 1e-4, reduction: str = 'sum', seed: int = 0) -> TrainStep:
    """Compile one update of the prompt.

    The frozen weights are an argument: not differentiated, not donated, not returned. The state is
    donated. Dropout's randomness is a function of (seed, step), so that a resumed run repeats it.

    Args:
      model: the frozen model's shape; its `dropout_rate` above 0 switches dropout on.
      method: how the prompt is parameterised.
      optimizer: an optax transformation.
      z_loss, reduction: of the loss, see `losses.token_loss`.
      seed: of dropout.

    Returns:
      step(state, frozen, batch) -> (state, metrics). Metrics are float32[]: sums over the batch
      `loss`, `z_loss`, `correct`, `tokens`, and `grad_norm` of the trained parameters.
    """

    def loss_fn(params, frozen, batch, dropout_rng):
        logits_BLV = forward(model, method.fold(params), frozen, batch, dropout_rng)
        return token_loss(logits_BLV, batch['decoder_target_tokens'],
                          batch['decoder_loss_weights'], z_loss, reduction)

    def step(state: TrainState, frozen: Params, batch: Batch):
        rng = None
        if model.dropout_rate > 0.0:
            rng = jax.random.fold_in(jax.random.key(seed), state.step)
        gradient, metrics = jax.grad(loss_fn, has_aux=True)(state.params, frozen, batch, rng)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics['grad_norm'] = optax.global_norm(gradient)
        return TrainState(state.step + 1, params, opt_state), metrics

    return jax.jit(step, donate_argnums=0)


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first update."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
