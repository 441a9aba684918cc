"""The training step: the gradient of what is tuned, and of nothing else."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jax_prompt.models.base import Model
from jax_prompt.models.forward import embed_inputs, score
from jax_prompt.parallel.mesh import DATA
from jax_prompt.parallel.rules import batch_sharding, replicated
from jax_prompt.prompts.method import Method
from jax_prompt.prompts.prompt import Prompt, Tuned, in_place_of
from jax_prompt.training.joint import for_each_prompt, gradient_norm
from jax_prompt.training.optimizers import numbers_of, with_numbers
from jax_prompt.training.regularisation import averaged, disturbed, worsened
from jax_prompt.training.settings import TrainSettings
from jax_prompt.types import Array, Batch, Params, TrainState

#: step(state, frozen, batch, constants=None, numbers=None) -> (state, metrics)
TrainStep = Callable[..., tuple[TrainState, dict[str, Array]]]


def make_train_step(model: Model, method: Method, optimizer: optax.GradientTransformation,
                    settings: TrainSettings = TrainSettings(),  # noqa: B008
                    mesh: Mesh | None = None, living: Any = None) -> TrainStep:
    """Compile one update of what a method trains.

    The frozen weights are an argument: not differentiated, not donated, not returned. The state is
    donated. All randomness is a function of (seed, step), so that a resumed run repeats it.

    Args:
      model: the frozen model; its `dropout_rate` above 0 switches dropout on.
      method: how what is trained is parameterised.
      optimizer: an optax transformation; with a method for several tasks one that keeps them
        apart, see `joint`.
      settings: of them count `z_loss`, `reduction`, `microbatches`, the seed and what regularises.
        The rows of microbatches go through the model one after the other, so that activations of
        one part alone are in memory; the gradients are summed.
      mesh: where state and weights live, from `make_mesh`; None for one device.
      living: the shardings of the state; None for a copy of it on every device.

    Returns:
      step(state, frozen, batch, constants=None, numbers=None) -> (state, metrics), the constants
      being those that the method's `init` gave; the `numbers_of_run` of another run let one program
      serve both. Metrics are float32[]: sums over the batch `loss`, `z_loss`,
      `correct`, `tokens`, and `grad_norm` of the trained parameters; of a method for T tasks they
      are float32[T], one a task, and the mean is each task's own. A batch whose rows do not divide
      by `microbatches` raises ValueError.
    """

    def loss_fn(teacher, tuned, frozen, batch, dropout_rng, embed=embed_inputs):
        prompt = tuned.prompt
        if embed is _embed_by_place:
            prompt, batch = _prefix_by_place(prompt, batch)
        logits_BLV = score(model, in_place_of(frozen, tuned.weights), prompt, batch,
                           dropout_rng, embed)
        loss, metrics = token_loss(logits_BLV, batch['decoder_target_tokens'],
                                   batch['decoder_loss_weights'], settings.z_loss,
                                   method.tasks and (batch['decoder_task_ids'], method.tasks))
        if teacher is not None:
            told_BLV = jax.lax.stop_gradient(score(model, frozen, teacher.prompt, batch))
            loss += method.distillation * divergence(told_BLV, logits_BLV,
                                                     batch['decoder_loss_weights'])
        return loss, metrics

    own_numbers = numbers_of_run(optimizer, settings)

    def step(state: TrainState, frozen: Params, batch: Batch, constants: Params | None = None,
             numbers: Mapping[str, Any] | None = None):
        constants, numbers = constants or {}, numbers or own_numbers
        key = jax.random.fold_in(jax.random.wrap_key_data(numbers['seed']), state.step)
        rng = key if model.dropout_rate > 0.0 else None
        loss = functools.partial(
            loss_fn, method.teacher and method.teacher(state.params, constants))
        tuned, pull_back = jax.vjp(lambda params: for_each_prompt(
            method, lambda tuned: disturbed(tuned, settings, key))(
                method.apply(params, constants)), state.params)
        if method.tasks and tuned.prompt.prefix and 'prompt_ids' not in batch:
            raise ValueError('packed rows hold examples of several tasks but a row can have one '
                             'prefix; train prefixes of several tasks without settings.packing')
        gradient, metrics = _gradient(loss, tuned, frozen, batch, rng, settings.microbatches, mesh)
        if settings.adversarial:
            tuned = for_each_prompt(method, lambda tuned, gradient: worsened(
                tuned, gradient, settings.adversarial))(tuned, gradient)
            gradient, _ = _gradient(loss, tuned, frozen, batch, rng, settings.microbatches, mesh)
        count = jnp.maximum(metrics['tokens'], 1.0)
        if settings.reduction == 'mean':
            gradient = _by_token(gradient, count)
        gradient, = pull_back(gradient)
        if method.penalty is not None:
            weight = count if settings.reduction == 'sum' else 1.0
            gradient = _penalised(gradient, weight, method, state.params, constants)
        updates, opt_state = with_numbers(optimizer, numbers['optimizer']).update(
            gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics['grad_norm'] = gradient_norm(gradient, method)
        average = averaged(state.average, params, state.step + 1, settings)
        return TrainState(state.step + 1, params, opt_state, average), metrics

    where = {} if mesh is None else {
        'out_shardings': (living or replicated(mesh), replicated(mesh))}
    return jax.jit(step, donate_argnums=0, **where)


def numbers_of_run(optimizer: optax.GradientTransformation,
                   settings: TrainSettings) -> dict[str, Any]:
    """Return what runs may differ in that one compiled step serves; the rate is in the state."""
    seed = jax.random.key_data(jax.random.key(settings.seed))
    return {'seed': np.asarray(seed), 'optimizer': numbers_of(optimizer)}


def _penalised(gradient: Params, weight: Array | float, method: Method, params: Params,
               constants: Params) -> Params:
    """Add the gradient of what a method adds to the loss."""
    pull = jax.grad(lambda params: jnp.sum(weight * method.penalty(params, constants)))(params)
    return jax.tree.map(jnp.add, gradient, pull)


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


def _prefix_by_place(copies: Prompt, batch: Batch) -> tuple[Prompt, Batch]:
    """Put the places' copies of prefixes one after the other; each row uses its own place's."""
    if not copies.prefix:
        return copies, batch
    places, prompts = jax.tree.leaves(copies.prefix)[0].shape[:2]
    if 'prompt_ids' in batch:  # without, equal parts of the rows use the copies in their order
        ids_B = batch['prompt_ids']
        place_B = jnp.arange(len(ids_B)) // (len(ids_B) // places)
        batch = batch | {'prompt_ids': ids_B + prompts * place_B}
    return copies.replace(prefix=jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), copies.prefix)), batch


def _embed_by_place(model: Model, frozen: Params, copies: Prompt, ids_BS: Array) -> Array:
    """Embed ids whose rows stand place by place, each place with its own copy of the prompt."""
    copies = copies.replace(prefix={})  # which is no matter of embeddings
    places = copies.rows.shape[0]
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


def _by_token(gradient: Tuned, tokens: Array) -> Tuned:
    """Divide the gradient of a sum by its tokens: float32[], or float32[T] of each task's own."""
    if not tokens.ndim:
        return jax.tree.map(lambda leaf: leaf / tokens, gradient)

    def divide(leaf: Array) -> Array:
        own = leaf.reshape(len(tokens), -1, *leaf.shape[1:])
        return (own / tokens.reshape(-1, *(1,) * leaf.ndim)).reshape(leaf.shape)

    return jax.tree.map(divide, gradient)


def token_loss(logits_BLV: Array, targets_BL: Array, weights_BL: Array, z_loss: float = 1e-4,
               tasks: tuple[Array, int] | None = None) -> tuple[Array, dict[str, Array]]:
    """Compute the cross-entropy of target tokens, plus `z_loss * log(Z)**2`, summed.

    The z-loss keeps the softmax's normaliser near one, so that logits do not drift.

    Args:
      logits_BLV: float32[B, L, V].
      targets_BL: int32[B, L], the token to predict at each position.
      weights_BL: float32[B, L], 0 where there is no target.
      z_loss: weight of the squared log-normaliser.
      tasks: int32[B, L], the task of each position, and T, how many there are; None for one.

    Returns:
      The loss float32[] and sums over the batch to be divided by `tokens` for reporting: `loss`
      (cross-entropy alone, nats), `z_loss`, `correct` (tokens whose target has the highest logit)
      and `tokens`; float32[], or float32[T] with `tasks`.

    Source: T5X's `cross_entropy_with_logits`; Lester et al. 2021 train with the sum.
    """
    log_z_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
    # A comparison and a sum fuse into one pass; a gather's gradient would be a scatter.
    vocabulary = jax.lax.broadcasted_iota(jnp.int32, logits_BLV.shape, 2)
    chosen_BL = jnp.sum(jnp.where(vocabulary == targets_BL[..., None], logits_BLV, 0.0), -1)
    each_BL = {
        'loss': (log_z_BL - chosen_BL) * weights_BL,
        'z_loss': z_loss * log_z_BL**2 * weights_BL,
        # The largest logit is at hand; where it stands takes longer to find than a layer's
        # attention.
        'correct': (chosen_BL >= jnp.max(logits_BLV, -1)) * weights_BL,
        'tokens': weights_BL}
    sums = {name: jnp.sum(values_BL) for name, values_BL in each_BL.items()}
    loss = sums['loss'] + sums['z_loss']
    if tasks is not None:
        of_task = jax.nn.one_hot(*tasks)
        sums = {name: jnp.sum(values_BL[..., None] * of_task, axis=(0, 1))
                for name, values_BL in each_BL.items()}
    return loss, sums


def divergence(told_BLV: Array, logits_BLV: Array, weights_BL: Array) -> Array:
    """Return how far a model's probabilities are from a teacher's, summed over target tokens.

    Args:
      told_BLV: float32[B, L, V], the teacher's logits.
      logits_BLV: float32[B, L, V].
      weights_BL: float32[B, L], 0 where there is no target.

    Returns:
      float32[], the sum of the Kullback-Leibler divergences KL(teacher || model), in nats.
    """
    told_BLV, logits_BLV = (jax.nn.log_softmax(one) for one in (told_BLV, logits_BLV))
    return jnp.sum(jnp.sum(jnp.exp(told_BLV) * (told_BLV - logits_BLV), -1) * weights_BL)


def init_state(params: Params, optimizer: optax.GradientTransformation,
               settings: TrainSettings = TrainSettings()) -> TrainState:  # noqa: B008
    """Return the state before the first update."""
    average = None if settings.average is None else jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)
