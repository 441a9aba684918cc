"""What the design promises of the compiled training step, on this machine's CPU."""

import jax
import pytest

from tests.models.t5.random_weights import param_shapes
from tests.planning import compiled_steps
from tests.planning.compiled_steps import D, P


@pytest.fixture(scope='module')
def prompt_step():
    return compiled_steps.report(compiled_steps.prompt_step(jax.devices('cpu')[0], scanned=False))


@pytest.fixture(scope='module')
def model_tuning():
    return compiled_steps.report(compiled_steps.model_tuning(jax.devices('cpu')[0], scanned=False))


def test_no_output_and_no_donated_buffer_has_the_shape_of_a_frozen_weight(prompt_step):
    frozen = set(compiled_steps.frozen_shapes())
    assert not frozen & {*prompt_step['outputs'], *prompt_step['donated']}
    assert (P, D) in prompt_step['outputs'] and (P, D) in prompt_step['donated']


def test_model_tuning_does_return_them(model_tuning):
    """The reader sees what the step must not have."""
    whole = {leaf.shape for leaf in
             jax.tree.leaves(param_shapes(compiled_steps.make_model(True)))}
    assert whole <= set(model_tuning['outputs'])


def test_the_step_costs_at_most_seven_tenths_of_model_tuning(prompt_step, model_tuning):
    """Without rematerialisation: no weight has a gradient. Layers are unrolled, since XLA counts a
    loop's body once."""
    assert prompt_step['flops'] <= 0.70 * model_tuning['flops']
    assert prompt_step['product_flops'] <= 0.70 * model_tuning['product_flops']
