"""The direct method gives the rows that it is given."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.prompts.initializers import InitContext, uniform
from jax_prompt.prompts.methods.direct import direct

RNG = jax.random.key(3)
CONTEXT = InitContext(jnp.ones((9, 4)), 3, lambda text: [5], initializer=uniform())


def test_what_is_trained_are_the_rows_of_the_start():
    method = direct()
    params, constants = method.init(RNG, CONTEXT)
    assert method.name == 'direct' and list(params) == ['prompt'] and constants == {}
    tuned = method.apply(params, constants)
    np.testing.assert_array_equal(tuned.prompt.rows, uniform()(RNG, CONTEXT))
    assert tuned.weights == {}
    grads = jax.grad(lambda params: jnp.sum(3 * method.apply(params, {}).prompt.rows))(params)
    np.testing.assert_array_equal(grads['prompt'], np.full((3, 4), 3))
