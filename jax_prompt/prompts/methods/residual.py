"""Residual prompt tuning: each row is what it was plus what a small network makes of it."""

import jax
import jax.numpy as jnp

from jax_prompt.config import configured
from jax_prompt.prompts.initializers import InitContext
from jax_prompt.prompts.method import Method
from jax_prompt.prompts.prompt import Prompt, Tuned
from jax_prompt.types import Array, Params

#: Of the paper's layer normalisation (PyTorch's default).
_EPSILON = 1e-5


@configured
def residual(width: int = 800, shared: bool = True, layer_norm: bool = True) -> Method:
    """Train rows and a network with a skip connection over them; folded after training.

        row = e + LayerNorm(relu(e W_down + b_down) W_up + b_up)

    The network lets rows that start alike help each other and makes training tolerant of the
    learning rate. What is saved are the rows that it gives, so the network costs nothing in use.

    Args:
        width: E, of the network's hidden layer; the paper's is 800 for T5 Base.
        shared: one network for all rows, or one of its own for each.
        layer_norm: normalise what the network gives, as the paper does.

    Returns:
        A method whose parameters are `prompt` float32[P, D] and those of the network: `down`
        (kernel [D, E], bias [E]), `up` (kernel [E, D], bias [D]) and `norm` (scale, bias [D]), each
        with a leading P where it is a row's own.

    Raises:
        ValueError: a width below 1.

    Source: Razdaibiedina et al. 2023 (arXiv:2305.03937), section 3.
    """
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise ValueError(f'residual has width={width!r}; expected a whole number of at least 1')

    def init(rng: Array, context: InitContext) -> tuple[Params, Params]:
        own = () if shared else (context.num_rows,)
        down, up = jax.random.split(jax.random.fold_in(rng, 1))
        params = {'prompt': context.start(rng),
                  'down': _linear(down, own, context.d_model, width),
                  'up': _linear(up, own, width, context.d_model)}
        if layer_norm:
            params['norm'] = {'scale': jnp.ones((*own, context.d_model)),
                              'bias': jnp.zeros((*own, context.d_model))}
        return params, {}

    def apply(params: Params, constants: Params) -> Tuned:
        del constants
        start_PD = params['prompt']
        hidden_PE = jax.nn.relu(_apply_linear(params['down'], start_PD))
        change_PD = _apply_linear(params['up'], hidden_PE)
        if layer_norm:
            change_PD = _normalise(params['norm'], change_PD)
        return Tuned(Prompt(start_PD + change_PD))

    return Method('residual', init, apply)


def _linear(rng: Array, own: tuple[int, ...], inputs: int, outputs: int) -> Params:
    """Draw a linear layer as PyTorch does: uniformly within 1 / sqrt(inputs)."""
    kernel, bias = jax.random.split(rng)
    bound = inputs**-0.5
    return {'kernel': jax.random.uniform(kernel, (*own, inputs, outputs), jnp.float32,
                                         -bound, bound),
            'bias': jax.random.uniform(bias, (*own, outputs), jnp.float32, -bound, bound)}


def _apply_linear(layer: Params, rows: Array) -> Array:
    """Multiply each row by the layer's kernel, or by its own one."""
    equation = 'pi,io->po' if layer['kernel'].ndim == 2 else 'pi,pio->po'
    return jnp.einsum(equation, rows, layer['kernel'],
                      precision=jax.lax.Precision.HIGHEST) + layer['bias']


def _normalise(norm: Params, rows_PD: Array) -> Array:
    """Normalise each row to mean 0 and variance 1, then scale and shift it."""
    centred_PD = rows_PD - rows_PD.mean(axis=-1, keepdims=True)
    variance_P1 = jnp.mean(centred_PD**2, axis=-1, keepdims=True)
    return centred_PD * jax.lax.rsqrt(variance_P1 + _EPSILON) * norm['scale'] + norm['bias']
