"""What is attended to: the weights of transformers' T5, and of the way that each layer goes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.models.forward import attend, score
from jax_prompt.models.t5.model import T5
from jax_prompt.prompts.prompt import Prompt
from tests.models.t5 import reference
from tests.models.t5.prefix_reference import make_prefix

NAMES = 'encoder', 'decoder', 'cross'
watched = jax.jit(attend, static_argnums=0)


@functools.cache
def case(shape, **options):
    config = reference.make_config(shape)
    data = reference.make_inputs(config)
    return (T5(config, **options), jax.tree.map(jnp.asarray, reference.make_frozen(config)), data,
            reference.as_batch(data, config.vocab_size))


@functools.cache
def weights(shape):
    model, frozen, data, batch = case(shape)
    return jax.device_get(watched(model, frozen, Prompt(data['prompt']), batch))


@pytest.mark.parametrize('shape', ['t5_1_1', *(pytest.param(shape, marks=pytest.mark.slow)
                                               for shape in ('umt5', 'byt5', 't5_1_0'))])
def test_they_are_those_of_transformers(shape):
    torch = pytest.importorskip('torch', reason='PyTorch is not installed')
    model, frozen, data, batch = case(shape)
    theirs = reference.torch_model(model.config, frozen)
    theirs.set_attn_implementation('eager')
    ids = torch.from_numpy(data['ids']).long()
    rows = torch.from_numpy(data['prompt']).expand(len(ids), -1, -1)
    mask = torch.from_numpy(batch['encoder_input_tokens'] != 0).long()
    with torch.no_grad():
        found = theirs(inputs_embeds=torch.cat([rows, theirs.shared(ids)], dim=1),
                       attention_mask=mask, output_attentions=True,
                       decoder_input_ids=torch.from_numpy(data['inputs']).long())
    for name, layers in zip(NAMES, (found.encoder_attentions, found.decoder_attentions,
                                    found.cross_attentions), strict=True):
        expected = np.stack([layer.numpy() for layer in layers], axis=1)
        ours = weights(shape)[name]
        assert ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, atol=2e-5)
        assert ours.std(axis=-1).min() > 1e-4


def test_each_sums_to_one_and_none_goes_to_pads_or_to_what_is_not_yet_written():
    found = weights('t5_1_1')
    for name in NAMES:
        np.testing.assert_allclose(found[name].sum(-1), 1, atol=1e-5)
    pads = case('t5_1_1')[3]['encoder_input_tokens'] == 0
    assert not (found['encoder'] * pads[:, None, None, None]).any()
    assert not (found['cross'] * pads[:, None, None, None]).any()
    assert not np.triu(found['decoder'], 1).any()


@pytest.mark.parametrize('options', [{'scan_layers': False}, {'factors': jnp.bfloat16}],
                         ids=['apart', 'rounded'])
def test_the_way_the_layers_run_changes_nothing(options):
    model, frozen, data, batch = case('t5_1_1')
    other = dataclasses.replace(model, **options)
    found = watched(other, other.for_scoring(frozen), Prompt(data['prompt']), batch)
    for name in NAMES:
        np.testing.assert_allclose(found[name], weights('t5_1_1')[name], atol=2e-6)


def test_a_prefix_comes_first_among_what_is_attended_to():
    model, frozen, data, batch = case('t5_1_1')
    prefix = make_prefix(model.config)
    found = watched(model, frozen, Prompt(data['prompt'], prefix=prefix), batch)
    for name in NAMES:
        more = found[name].shape[-1] - weights('t5_1_1')[name].shape[-1]
        assert more == prefix[name][0].shape[3]
        np.testing.assert_allclose(found[name].sum(-1), 1, atol=1e-5)
        assert (np.asarray(found[name])[..., :more] > 0).all()


def test_who_does_not_read_runs_the_program_that_ran_before():
    model, frozen, data, batch = case('t5_1_1')
    prompt = Prompt(data['prompt'])

    def program():
        return jax.jit(functools.partial(score, model)).lower(frozen, prompt, batch).as_text()

    before = program()
    jax.eval_shape(functools.partial(attend, model), frozen, prompt, batch)
    assert program() == before
