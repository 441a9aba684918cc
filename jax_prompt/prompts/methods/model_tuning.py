"""Model tuning: the weights of the model are trained, all or some, as prompts are compared with.

What is trained are the matrices that the model is made of, one a layer, heads joined: optimizers
that look at a tensor as a whole (Adafactor's factored moments, its clipping and scaling) then do
what they do in PyTorch and in T5X, however the frozen tree stacks layers.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jax_prompt.config import configured
from jax_prompt.parallel.rules import Rule, path_name, rule_for
from jax_prompt.prompts.initializers import InitContext
from jax_prompt.prompts.method import Method
from jax_prompt.prompts.prompt import Prompt, Tuned
from jax_prompt.types import Array, Params

#: What may be tuned -> paths of the frozen tree. T5's layers have no biases: what BitFit tunes of
#: it are the scales of its norms and the biases that relative positions have.
_KINDS = {
    'all': '.*',
    'norms': r'.*(norm/scale|relative_bias/embedding)',
}
#: The key of the trained parameters that are weights.
MODEL = 'model'


@configured
def model_tuning(weights: str = 'all', layers: int | None = None) -> Method:
    """Train weights of the model itself, and the rows of a prompt where there are some.

    Args:
        weights: 'all', or 'norms' for the scales of norms and the relative position biases.
        layers: of these, only those in the last so many layers of encoder and decoder; None for
            whatever stands where.

    Returns:
        A method whose parameters are `model`, float32, in the frozen tree's nesting: matrices
        with heads joined, of stacked layers a tuple; and `prompt` float32[P, D] if P > 0.

    Raises:
        ValueError: another kind of weights, fewer than one layer; on use, weights in int8 or more
            layers than a stack has.

    Source: Raffel et al. 2020 (arXiv:1910.10683), section 2 and 3.5.1; Ben Zaken et al. 2022
    (arXiv:2106.10199) for biases alone.
    """
    if weights not in _KINDS:
        raise ValueError(f'model_tuning has weights={weights!r}; expected one of '
                         f'{", ".join(_KINDS)}')
    if layers is not None and layers < 1:
        raise ValueError(f'model_tuning has layers={layers}; expected at least 1, or None for all')

    def init(rng: Array, context: InitContext) -> tuple[Params, Params]:
        chosen: Params = {}
        for path, leaf in jax.tree_util.tree_flatten_with_path(context.frozen)[0]:
            name = path_name(path)
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise ValueError(f'model tuning changes weights, but {name} is kept in {leaf.dtype}'
                                 ', which takes no small steps; open the model without '
                                 'weights=int8')
            rule = rule_for(name, context.rules)
            if re.fullmatch(_KINDS[weights], name) and (layers is None or _is_stacked(rule)):
                _put(chosen, name.split('/'), _matrices(name, leaf, rule, layers))
        rows = {'prompt': context.start(rng)} if context.num_rows else {}
        return {MODEL: chosen, **rows}, {'prompt': jnp.zeros((0, context.d_model))}

    def apply(params: Params, constants: Params) -> Tuned:
        stacked = jax.tree.map(lambda leaf: jnp.stack(leaf) if isinstance(leaf, tuple) else leaf,
                               params[MODEL], is_leaf=lambda leaf: isinstance(leaf, tuple))
        return Tuned(Prompt(params.get('prompt', constants['prompt'])), stacked)

    return Method('model_tuning', init, apply, trains_weights=True)


def matrix_shape(rule: Rule, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a weight's matrix, or vector: of one layer, its heads joined.

    Args:
        rule: of the weight.
        shape: of the weight in the frozen tree.

    Example:
        >>> matrix_shape(Rule('query/kernel', 'NDHK'), (24, 1024, 16, 64))
        (1024, 1024)
    """
    sizes = dict(zip(rule.dimensions, shape, strict=True))
    if 'HK' in rule.dimensions:
        sizes['H'] *= sizes['K']
    return joined(rule, [sizes[letter] for letter in rule.dimensions])


def joined(rule: Rule, dimensions: Sequence[Any]) -> tuple[Any, ...]:
    """Return what is said of the dimensions of a weight for those of its matrix.

    The layers' dimension is left out, and of the two of heads, which are one in the matrix, what is
    said of the first stands. With shardings, that splits the matrix where it splits heads.

    Args:
        rule: of the weight.
        dimensions: something for each letter of the rule.

    Example:
        >>> joined(Rule('query/kernel', 'NDHK'), [None, 'data', 'model', None])
        ('data', 'model')
    """
    return tuple(one for number, (letter, one) in enumerate(zip(rule.dimensions, dimensions,
                                                                strict=True))
                 if letter != 'N' and rule.dimensions[number - 1:number + 1] != 'HK')


def _is_stacked(rule: Rule) -> bool:
    return rule.dimensions.startswith('N')


def _matrices(name: str, leaf: Array, rule: Rule, layers: int | None) -> Any:
    """Return a weight as matrices of float32: a tuple of the last layers' where it is stacked."""
    stacked = leaf if _is_stacked(rule) else leaf[None]
    count = len(stacked) if layers is None else layers
    if count > len(stacked):
        raise ValueError(f'model_tuning has layers={layers} but {name} has {len(stacked)}; choose '
                         'at most as many as the smaller of encoder and decoder')
    shape = matrix_shape(rule, leaf.shape)
    matrices = tuple(jnp.asarray(stacked[number], jnp.float32).reshape(shape)
                     for number in range(len(stacked) - count, len(stacked)))
    return matrices if _is_stacked(rule) else matrices[0]


def _put(tree: Params, keys: list[str], leaf: Any) -> None:
    """Put a leaf into a nested dict, making the dicts on the way."""
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    tree[keys[-1]] = leaf
