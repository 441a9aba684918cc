"""The training step: the gradient of the prompt alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jax_prompt.inference.encode import encode_inputs
from jax_prompt.models.t5.model import T5
from jax_prompt.parallel.mesh import DATA
from jax_prompt.parallel.rules import batch_sharding, replicated
from jax_prompt.prompts.methods import Method
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
      batch: seqio's keys; in packed rows, which have segment ids, every example sees itself alone.
      dropout_rng: a PRNG key switches the model's dropout on.

    Returns:
      float32[B, L, V].
    """
    encode_rng, decode_rng = (None, None) if dropout_rng is None else jax.random.split(dropout_rng)
    segments = None
    if 'encoder_segment_ids' in batch:
        segments = batch['encoder_segment_ids'], batch['decoder_segment_ids']
    encoded_BSD, mask_BS = encode_inputs(model, frozen, prompt_PD, batch['encoder_input_tokens'],
                                         encode_rng, segments and segments[0])
    inputs_BLD = model.embed(frozen, batch['decoder_input_tokens'])
    hidden_BLD = model.decode(frozen, inputs_BLD, encoded_BSD, mask_BS, segments, decode_rng)
    return model.logits(frozen, hidden_BLD)


def make_train_step(model: T5, method: Method, optimizer: optax.GradientTransformation,
                    z_loss: float = 1e-4, reduction: str = 'sum', seed: int = 0,
                    microbatches: int = 1, mesh: Mesh | None = None) -> TrainStep:
    """Compile one update of the prompt.

    The frozen weights are an argument: not differentiated, not donated, not returned. The state is
    donated. Dropout's randomness is a function of (seed, step), so that a resumed run repeats it.

    Args:
      model: the frozen model's shape; its `dropout_rate` above 0 switches dropout on.
      method: how the prompt is parameterised.
      optimizer: an optax transformation.
      z_loss: see `losses.token_loss`.
      reduction: 'sum' or 'mean' of the loss over the batch's target tokens.
      seed: of dropout.
      microbatches: the batch's rows go through the model in so many parts, one after the other, so
        that activations of one part alone are in memory; the gradients are summed.
      mesh: where state and weights live, from `make_mesh`; None for one device.

    Returns:
      step(state, frozen, batch) -> (state, metrics). Metrics are float32[]: sums over the batch
      `loss`, `z_loss`, `correct`, `tokens`, and `grad_norm` of the trained parameters. A batch
      whose rows do not divide by `microbatches` raises ValueError.
    """

    def loss_fn(prompt_PD, frozen, batch, dropout_rng):
        logits_BLV = forward(model, prompt_PD, frozen, batch, dropout_rng)
        return token_loss(logits_BLV, batch['decoder_target_tokens'],
                          batch['decoder_loss_weights'], z_loss)

    def step(state: TrainState, frozen: Params, batch: Batch):
        rng = None
        if model.dropout_rate > 0.0:
            rng = jax.random.fold_in(jax.random.key(seed), state.step)
        prompt_PD, unfold = jax.vjp(method.fold, state.params)
        grad_PD, metrics = _gradient(loss_fn, prompt_PD, frozen, batch, rng, microbatches, mesh)
        if reduction == 'mean':
            grad_PD = grad_PD / jnp.maximum(metrics['tokens'], 1.0)
        gradient, = unfold(grad_PD)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics['grad_norm'] = optax.global_norm(gradient)
        return TrainState(state.step + 1, params, opt_state), metrics

    where = {} if mesh is None else {'out_shardings': replicated(mesh)}
    return jax.jit(step, donate_argnums=0, **where)


def _gradient(loss_fn: Callable, prompt_PD: Array, frozen: Params, batch: Batch,
              rng: Array | None, microbatches: int, mesh: Mesh | None):
    """Return the prompt's gradient float32[P, D] and the metrics, both summed over the batch."""
    grad_fn = jax.grad(loss_fn, has_aux=True)
    if microbatches == 1:
        return grad_fn(prompt_PD, frozen, batch, rng)
    # Each place of the data axis sums the gradient of a copy of its own, so that the replicas
    # exchange one gradient a step and not one a microbatch.
    places = 1 if mesh is None else mesh.shape[DATA]
    copies_GPD = jnp.broadcast_to(prompt_PD, (places, *prompt_PD.shape))
    if places > 1:
        copies_GPD = jax.lax.with_sharding_constraint(copies_GPD, batch_sharding(mesh))

    def body(total, part):
        micro, number = part
        key = None if rng is None else jax.random.fold_in(rng, number)
        return jax.tree.map(jnp.add, total, grad_fn(copies_GPD, frozen, micro, key)), None

    micros = {name: _split(name, feature, microbatches) for name, feature in batch.items()}
    shapes = jax.eval_shape(lambda micro: grad_fn(copies_GPD, frozen, micro, rng),
                            {name: micro[0] for name, micro in micros.items()})
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (grad_GPD, metrics), _ = jax.lax.scan(body, zeros, (micros, jnp.arange(microbatches)))
    return jnp.sum(grad_GPD, axis=0), metrics


def _split(name: str, feature: Array, microbatches: int) -> Array:
    """Deal the rows of a feature out: [B, ...] -> [microbatches, B / microbatches, ...]."""
    rows = feature.shape[0]
    if rows % microbatches:
        raise ValueError(f'{name} has {rows} rows, which do not divide into {microbatches} '
                         'microbatches; choose a batch size that is a multiple of them')
    # Every microbatch takes rows from every place of the data axis: none of them moves.
    return jnp.moveaxis(feature.reshape(rows // microbatches, microbatches, *feature.shape[1:]),
                        1, 0)


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first update."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
