"""The training step: the gradient of what is tuned, and of nothing else."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jax_prompt.models.base import Model
from jax_prompt.models.forward import embed_inputs, score
from jax_prompt.parallel.mesh import DATA
from jax_prompt.parallel.rules import batch_sharding, replicated
from jax_prompt.prompts.method import Method
from jax_prompt.prompts.prompt import Prompt, Tuned, in_place_of
from jax_prompt.training.losses import token_loss
from jax_prompt.types import Array, Batch, Params, TrainState

#: step(state, frozen, batch, constants=None) -> (state, metrics)
TrainStep = Callable[..., tuple[TrainState, dict[str, Array]]]


def make_train_step(model: Model, method: Method, optimizer: optax.GradientTransformation,
                    z_loss: float = 1e-4, reduction: str = 'sum', seed: int = 0,
                    microbatches: int = 1, mesh: Mesh | None = None) -> TrainStep:
    """Compile one update of what a method trains.

    The frozen weights are an argument: not differentiated, not donated, not returned. The state is
    donated. Dropout's randomness is a function of (seed, step), so that a resumed run repeats it.

    Args:
      model: the frozen model; its `dropout_rate` above 0 switches dropout on.
      method: how what is trained is parameterised.
      optimizer: an optax transformation.
      z_loss: see `losses.token_loss`.
      reduction: 'sum' or 'mean' of the loss over the batch's target tokens.
      seed: of dropout.
      microbatches: the batch's rows go through the model in so many parts, one after the other, so
        that activations of one part alone are in memory; the gradients are summed.
      mesh: where state and weights live, from `make_mesh`; None for one device.

    Returns:
      step(state, frozen, batch, constants=None) -> (state, metrics), the constants being those that
      the method's `init` gave. Metrics are float32[]: sums over the batch `loss`, `z_loss`,
      `correct`, `tokens`, and `grad_norm` of the trained parameters. A batch whose rows do not
      divide by `microbatches` raises ValueError.
    """

    def loss_fn(tuned, frozen, batch, dropout_rng, embed=embed_inputs):
        logits_BLV = score(model, in_place_of(frozen, tuned.weights), tuned.prompt, batch,
                           dropout_rng, embed)
        return token_loss(logits_BLV, batch['decoder_target_tokens'],
                          batch['decoder_loss_weights'], z_loss)

    def step(state: TrainState, frozen: Params, batch: Batch, constants: Params | None = None):
        rng = None
        if model.dropout_rate > 0.0:
            rng = jax.random.fold_in(jax.random.key(seed), state.step)
        tuned, pull_back = jax.vjp(lambda params: method.apply(params, constants or {}),
                                   state.params)
        gradient, metrics = _gradient(loss_fn, tuned, frozen, batch, rng, microbatches, mesh)
        if reduction == 'mean':
            count = jnp.maximum(metrics['tokens'], 1.0)
            gradient = jax.tree.map(lambda leaf: leaf / count, gradient)
        gradient, = pull_back(gradient)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics['grad_norm'] = optax.global_norm(gradient)
        return TrainState(state.step + 1, params, opt_state), metrics

    where = {} if mesh is None else {'out_shardings': replicated(mesh)}
    return jax.jit(step, donate_argnums=0, **where)


def _gradient(loss_fn: Callable, tuned: Tuned, frozen: Params, batch: Batch, rng: Array | None,
              microbatches: int, mesh: Mesh | None) -> tuple[Tuned, dict[str, Array]]:
    """Return the gradient of what is tuned, and the metrics, both summed over the batch."""
    grad_fn = jax.grad(loss_fn, has_aux=True)
    if microbatches == 1:
        return grad_fn(tuned, frozen, batch, rng)
    # Each place of the data axis sums the gradient of a prompt of its own, so that the replicas
    # exchange one gradient a step and not one a microbatch.
    places = 1 if mesh is None else mesh.shape[DATA]
    copies = tuned.replace(prompt=jax.tree.map(
        lambda leaf: _for_each_place(leaf, places, mesh), tuned.prompt))

    def body(total, part):
        micro, number = part
        key = None if rng is None else jax.random.fold_in(rng, number)
        found = grad_fn(copies, frozen, micro, key, _embed_by_place)
        return jax.tree.map(jnp.add, total, found), None

    micros = {name: _split(name, feature, microbatches) for name, feature in batch.items()}
    shapes = jax.eval_shape(lambda micro: grad_fn(copies, frozen, micro, rng, _embed_by_place),
                            {name: micro[0] for name, micro in micros.items()})
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (gradient, metrics), _ = jax.lax.scan(body, zeros, (micros, jnp.arange(microbatches)))
    prompt = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), gradient.prompt)
    return gradient.replace(prompt=prompt), metrics


def _for_each_place(leaf: Array, places: int, mesh: Mesh | None) -> Array:
    """Give each place of the data axis a copy: [...] -> [places, ...]."""
    copies = jnp.broadcast_to(leaf, (places, *leaf.shape))
    if places == 1:
        return copies
    return jax.lax.with_sharding_constraint(copies, batch_sharding(mesh))


def _embed_by_place(model: Model, frozen: Params, copies: Prompt, ids_BS: Array) -> Array:
    """Embed ids whose rows stand place by place, each place with its own copy of the prompt."""
    places = jax.tree.leaves(copies)[0].shape[0]
    ids_GBS = ids_BS.reshape(places, -1, ids_BS.shape[-1])
    hidden_GBSD = jax.vmap(lambda prompt, ids_BS: embed_inputs(model, frozen, prompt, ids_BS))(
        copies, ids_GBS)
    return hidden_GBSD.reshape(*ids_BS.shape, -1)


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
