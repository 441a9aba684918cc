"""Model tuning: which weights move, that only they do, and that they move as PyTorch's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.models.t5.int8 import quantise_tree
from jax_prompt.models.t5.model import T5
from jax_prompt.parallel.rules import path_name, rule_for
from jax_prompt.prompts.initializers import InitContext, uniform
from jax_prompt.prompts.methods.model_tuning import joined, model_tuning
from jax_prompt.prompts.prompt import in_place_of
from jax_prompt.training.optimizers import adafactor, adamw
from jax_prompt.training.settings import TrainSettings
from jax_prompt.training.step import init_state, make_train_step
from jax_prompt.types import count_parameters
from tests.models.t5 import reference

CONFIG = reference.make_config('byt5')  # unequal depths, 5 + 2
MODEL = T5(CONFIG)
RNG = jax.random.key(0)


@functools.cache
def make_frozen(config=CONFIG):
    return jax.tree.map(jnp.asarray, reference.make_frozen(config))


def context(frozen=None, rows=0):
    frozen = frozen or make_frozen()
    return InitContext(frozen['token_embedder']['embedding'], rows, list, initializer=uniform(),
                       frozen=frozen, rules=T5.rules)


def named(tree):
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def changed(method, rows=0):
    """Name the frozen leaves that an update of everything that is trained changes, and where."""
    frozen = make_frozen()
    params, constants = method.init(RNG, context(rows=rows))
    tuned = method.apply(jax.tree.map(lambda leaf: leaf + 1.0, params), constants)
    after = named(in_place_of(frozen, tuned.weights))
    return {name: np.flatnonzero((np.asarray(leaf) != after[name]).any(
                tuple(range(1, leaf.ndim)))).tolist()
            for name, leaf in named(frozen).items() if (leaf != after[name]).any()}


@pytest.mark.parametrize('method', [
    model_tuning(), model_tuning(layers=2), model_tuning('norms')],
    ids=['all', 'last two layers', 'norms'])
def test_before_training_the_model_is_the_frozen_one_bit_for_bit(method):
    frozen = make_frozen()
    tuned = method.apply(*method.init(RNG, context(frozen)))
    assert tuned.prompt.rows.shape == (0, CONFIG.d_model)
    jax.tree.map(np.testing.assert_array_equal, in_place_of(frozen, tuned.weights), frozen)


def test_what_is_tuned_is_what_was_asked_for():
    frozen = named(make_frozen())
    everything = changed(model_tuning())
    assert everything == {name: list(range(len(leaf))) for name, leaf in frozen.items()}
    last = changed(model_tuning(layers=2))
    assert last == {name: [len(leaf) - 2, len(leaf) - 1] for name, leaf in frozen.items()
                    if '/layers/' in name}
    norms = changed(model_tuning('norms'))
    assert set(norms) == {name for name in frozen if 'norm' in name or 'relative_bias' in name}
    assert set(changed(model_tuning('norms', layers=1))) == {
        name for name in frozen if '/norm/' in name}


def test_all_weights_are_counted_once_and_a_prompt_is_trained_beside_them():
    frozen = make_frozen()
    params, _ = model_tuning().init(RNG, context())
    assert count_parameters(params) == count_parameters(frozen)
    params, constants = model_tuning('norms').init(RNG, context(rows=3))
    rows = model_tuning().apply(params, constants).prompt.rows
    assert rows.shape == (3, CONFIG.d_model) and rows is params['prompt']


def test_matrices_have_heads_joined_and_split_where_heads_do():
    params, _ = model_tuning().init(RNG, context())
    matrices = named(params['model'])
    assert matrices['encoder/layers/self_attention/query/kernel/4'].shape == (24, 20)
    assert matrices['encoder/layers/self_attention/out/kernel/4'].shape == (20, 24)
    assert matrices['decoder/layers/feed_forward/norm/scale/1'].shape == (24,)
    out = rule_for('decoder/layers/cross_attention/out/kernel', T5.rules)
    assert joined(out, [None, 'model', None, 'data']) == ('model', 'data')
    assert all(leaf.dtype == jnp.float32 for leaf in matrices.values())


def test_weights_are_trained_in_float32_and_used_in_the_models_dtype():
    frozen = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), make_frozen())
    method = model_tuning()
    tuned = method.apply(*method.init(RNG, context(frozen)))
    assert {leaf.dtype for leaf in jax.tree.leaves(tuned.weights)} == {jnp.dtype('float32')}
    jax.tree.map(np.testing.assert_array_equal, in_place_of(frozen, tuned.weights), frozen)


@pytest.mark.parametrize('make, message', [
    (lambda: model_tuning('biases'), "weights='biases'; expected one of all, norms"),
    (lambda: model_tuning(layers=0), 'layers=0; expected at least 1, or None for all'),
    (lambda: model_tuning(layers=3).init(RNG, context()),
     'layers=3 but decoder/layers/.* has 2; choose at most as many as the smaller'),
    (lambda: model_tuning('norms').init(RNG, context(quantise_tree(make_frozen()))),
     'is kept in int8, which takes no small steps; open the model without weights=int8')])
def test_what_cannot_be_tuned_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


OPTIMIZERS = {
    'adamw': (adamw(1e-2, weight_decay=0.1, clip_norm=None),
              lambda torch, transformers: functools.partial(
                  torch.optim.AdamW, lr=1e-2, weight_decay=0.1)),
    'adafactor': (adafactor(2e-3, weight_decay=0.0, parameter_scaling=True, factored_from=1),
                  lambda torch, transformers: functools.partial(
                      transformers.Adafactor, lr=2e-3, relative_step=False, warmup_init=False,
                      scale_parameter=True, clip_threshold=1.0)),
}


def torch_losses(optimizer, data, steps):
    """Return the losses of steps of a PyTorch T5 with all its weights trained."""
    torch = pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    model = reference.torch_model(CONFIG, reference.make_frozen(CONFIG))
    optimizer = OPTIMIZERS[optimizer][1](torch, transformers)(model.parameters())
    data = {name: torch.from_numpy(array) for name, array in data.items()}
    losses = []
    for _ in range(steps):
        logits = model(input_ids=data['ids'].long(), attention_mask=(data['ids'] != 0).long(),
                       decoder_input_ids=data['inputs'].long()).logits
        loss = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), data['targets'].long(), reduction='none')
        loss = (loss * data['weights']).sum() / data['weights'].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow  # compiles an update of every matrix
@pytest.mark.parametrize('name', OPTIMIZERS)
def test_ten_updates_of_all_weights_are_pytorchs(name):
    data, optimizer, method = reference.make_inputs(CONFIG), OPTIMIZERS[name][0], model_tuning()
    batch = reference.as_batch(data, CONFIG.vocab_size) | {'encoder_input_tokens': data['ids']}
    params, constants = method.init(RNG, context())
    state = init_state(params, optimizer)
    step = make_train_step(MODEL, method, optimizer, TrainSettings(z_loss=0.0, reduction='mean'))
    losses = []
    for _ in range(10):
        state, metrics = step(state, make_frozen(), batch, constants)
        losses.append(float(metrics['loss'] / metrics['tokens']))
    assert losses[-1] < 0.9 * losses[0]
    np.testing.assert_allclose(losses, torch_losses(name, data, 10), rtol=1e-4)
