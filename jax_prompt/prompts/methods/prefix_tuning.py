"""Prefix tuning and P-tuning v2: keys and values of every layer in front of those of the text."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.config import configured
from jax_prompt.files import brief
from jax_prompt.prompts.initializers import InitContext
from jax_prompt.prompts.method import Method
from jax_prompt.prompts.prompt import Prompt, Tuned
from jax_prompt.types import Array, Params

STARTS = ('random', 'zeros', 'text')


@configured
def prefix_tuning(length: int = 20, width: int | None = None, encoder: bool = True,
                  decoder: bool = True, cross: bool = True, start: str = 'random',
                  text: str | None = None) -> Method:
    """Train keys and values that attention finds in front of its own, in every layer.

        without a network (P-tuning v2):  keys, values = what is trained
        with one (prefix tuning):         keys, values = start + tanh(e W_down + b_down) W_up + b_up

    The network, one for each kind of attention with an embedding e of each position, makes training
    steadier; it is folded after training. Where the prefix starts from zeros or a text, these are
    added to what the network gives, which begins with zeros. (The paper's code fits the network to
    a text's activations by gradient descent instead.) With rows (`prompt.rows` above 0) a soft
    prompt is trained as well.

    Args:
        length: M, positions of the prefix. They take nothing of the input's length.
        width: E, of the network's hidden layer, 512 or 800 in the paper; None for no network.
        encoder, decoder: put a prefix before keys and values of its self-attention.
        cross: put one before what the decoder sees of the encoder.
        start: 'random' for numbers of variance 1, as T5's own keys have, or for the network
            PyTorch's start of linear layers; 'zeros'; 'text' for the keys and values that the
            frozen model computes of a text.
        text: for 'text'; a shorter one than `length` is repeated.

    Returns:
        A method whose parameters are, of each kind of attention, `keys` and `values`
        float32[N, H, M, K], or the network's; and `prompt` float32[P, D] if P > 0.

    Raises:
        ValueError: nothing to train, sizes below 1, an unknown start, or a start without its text;
            on use, a longer text than the prefix, or a model without such attention.

    Source: Li and Liang 2021 (arXiv:2101.00190), sections 4.2, 4.3 and 7.4 (starts); Liu et al.
    2022 (arXiv:2110.07602), section 3, has no network and self-attention alone.
    """
    stacks = [name for name, wanted in (('encoder', encoder), ('decoder', decoder),
                                        ('cross', cross)) if wanted]
    _check(length, width, stacks, start, text)

    def init(rng: Array, context: InitContext) -> tuple[Params, Params]:
        shapes = {name: _shape(name, length, context) for name in stacks}
        params, constants = {}, {}
        if start == 'text':
            found = context.activations(_tokens(context, text, length))
            constants = {name: dict(zip(('keys', 'values'), (one[0] for one in found[name]),
                                        strict=True)) for name in stacks}
        for number, (name, shape) in enumerate(shapes.items()):
            key = jax.random.fold_in(rng, number + 1)
            if width is not None:
                params[name] = _network(key, shape, context.d_model, width, start == 'random')
            elif start == 'random':
                params[name] = {part: jax.random.normal(one, shape) for part, one in zip(
                    ('keys', 'values'), jax.random.split(key), strict=True)}
            else:
                params[name] = constants.get(name) or {part: jnp.zeros(shape)
                                                       for part in ('keys', 'values')}
        constants = {'start': constants} if constants and width is not None else {}
        if context.num_rows:
            return params | {'prompt': context.start(rng)}, constants
        return params, constants | {'prompt': jnp.zeros((0, context.d_model))}

    def apply(params: Params, constants: Params) -> Tuned:
        prefix = {}
        for name in stacks:
            parts = params[name] if width is None else _unfold(params[name])
            if 'start' in constants:
                parts = jax.tree.map(jnp.add, parts, constants['start'][name])
            prefix[name] = parts['keys'][None], parts['values'][None]
        return Tuned(Prompt((params | constants)['prompt'], prefix=prefix))

    return Method('prefix_tuning', init, apply)


def _check(length: int, width: int | None, stacks: list[str], start: str,
           text: str | None) -> None:
    """Refuse what cannot be trained, or would change nothing."""
    for name, value in (('length', length), ('width', width)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f'prefix_tuning has {name}={value!r}; expected a whole number of at '
                             'least 1')
    if not stacks:
        raise ValueError('prefix_tuning has no attention to put a prefix before; set encoder, '
                         'decoder or cross to True')
    if start not in STARTS:
        raise ValueError(f'prefix_tuning has start={start!r}; expected one of {", ".join(STARTS)}')
    if (start == 'text') != (text is not None):
        raise ValueError(f'prefix_tuning has start={start!r} and text={brief(text)}; give a text '
                         "with start='text', and with no other")


def _shape(name: str, length: int, context: InitContext) -> tuple[int, int, int, int]:
    """Return [N, H, M, K] of one kind of attention."""
    if name not in context.prefix_shapes:
        raise ValueError(f'prefix_tuning asks for {name!r} but the model takes a prefix for '
                         f'{", ".join(context.prefix_shapes) or "nothing"}; choose another method')
    layers, heads, width = context.prefix_shapes[name]
    return layers, heads, length, width


def _tokens(context: InitContext, text: str, length: int) -> np.ndarray:
    """Return so many tokens of a text, which is repeated where it is shorter."""
    ids = np.asarray(list(context.encode(text)), np.int32)
    if not 0 < len(ids) <= length:
        raise ValueError(f'the text {brief(text)} has {len(ids)} tokens and the prefix length='
                         f'{length}; lengthen the prefix or give other words')
    return np.resize(ids, length)


def _network(rng: Array, shape: tuple[int, ...], inputs: int, width: int, random: bool) -> Params:
    """Draw a network as PyTorch does; one that gives zeros, unless it shall begin at random."""
    embedding, down, up = jax.random.split(rng, 3)
    layers, heads, length, head = shape
    outputs = (2, layers, heads, head)

    def uniform(key: Array, size: tuple[int, ...], fan_in: int) -> Array:
        return jax.random.uniform(key, size, jnp.float32, -fan_in**-0.5, fan_in**-0.5)

    down, down_bias = jax.random.split(down)
    up, up_bias = jax.random.split(up)
    scale = float(random)
    return {'embedding': jax.random.normal(embedding, (length, inputs)),
            'down': {'kernel': uniform(down, (inputs, width), inputs),
                     'bias': uniform(down_bias, (width,), inputs)},
            'up': {'kernel': scale * uniform(up, (width, *outputs), width),
                   'bias': scale * uniform(up_bias, outputs, width)}}


def _unfold(network: Params) -> Mapping[str, Array]:
    """Compute keys and values [N, H, M, K] by the network."""
    exact = jax.lax.Precision.HIGHEST
    hidden_ME = jnp.tanh(jnp.matmul(network['embedding'], network['down']['kernel'],
                                    precision=exact) + network['down']['bias'])
    both = jnp.einsum('me,epnhk->pnhmk', hidden_ME, network['up']['kernel'], precision=exact)
    both += network['up']['bias'][:, :, :, None]
    return {'keys': both[0], 'values': both[1]}
