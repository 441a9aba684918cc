"""What meets the frozen model: the rows of prompts, and weights that stand in for frozen ones."""

from collections.abc import Mapping, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.types import Array, Params


@flax.struct.dataclass
class Prompt:
    """The prompts that a batch may use; which of them a row uses is said by its ids.

    Attributes:
      rows: float32[R, D], the rows of all prompts one after the other; id V + i is row i. R = 0 for
        the plain model.
      added: how many of the rows, the last ones, are no virtual tokens but are added to tokens of
        the text, the first of them to its first token and so on (see `virtual`). Not 0 where any of
        the prompts has some.
      prefix: trained keys and values, which ids cannot say: 'encoder', 'decoder' (their
        self-attention) or 'cross' -> (keys, values), each float32[T, N, H, M, K] for T prompts of M
        positions; {} for none.
    """

    rows: Array | np.ndarray
    added: int = flax.struct.field(pytree_node=False, default=0)
    prefix: Mapping[str, tuple[Array | np.ndarray, Array | np.ndarray]] = flax.struct.field(
        default_factory=dict)

    @property
    def num_virtual(self) -> int:
        """Return P, the virtual tokens of a single prompt."""
        return len(self.rows) - self.added

    @property
    def virtual(self) -> Array | np.ndarray:
        """Return float32[P, D], the rows of a single prompt's virtual tokens."""
        return self.rows[:self.num_virtual]


@flax.struct.dataclass
class Tuned:
    """What a method makes of its parameters: all that differs from the plain model.

    Attributes:
      prompt: the prompt.
      weights: what stands in for frozen leaves, in the frozen tree's own nesting, as `in_place_of`
        takes it; {} for none.
    """

    prompt: Prompt
    weights: Params = flax.struct.field(default_factory=dict)


def no_prompt(d_model: int) -> Prompt:
    """Return the prompt without rows: the plain model, to the last bit."""
    return Prompt(jnp.zeros((0, d_model), jnp.float32))


def split_prompt(prompt: Prompt, count: int) -> list[Prompt]:
    """Take prompts of one size apart that stand one after the other.

    Args:
      prompt: of rows [count * P, D].
      count: how many there are; for one it is the prompt itself.
    """
    if count == 1:
        return [prompt]
    return [jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:])[number], prompt)  # noqa: B023
            for number in range(count)]


def join_prompts(prompts: Sequence[Prompt]) -> Prompt:
    """Put prompts one after the other, as a batch of rows of all of them reads them.

    Returns:
      A prompt whose leading dimension is that of all together; the prompt itself where it is alone.
    """
    if len(prompts) == 1:
        return prompts[0]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *prompts)


def in_place_of(frozen: Params, weights: Params) -> Params:
    """Return the frozen tree with some leaves replaced; without any, the tree itself.

    Args:
      frozen: the parameter tree.
      weights: what stands in for leaves of it, in its nesting, brought to their dtype. Dimensions
        after the first may be joined. What is shorter along the first one stands in for the leaf's
        end: the last layers of a stack.

    Raises:
      ValueError: a leaf that the tree has not.
    """
    merged = dict(frozen)
    for name, leaf in weights.items():
        if name not in frozen:
            raise ValueError(f'the frozen model has no weights {name!r} to stand in for; it has '
                             f'{", ".join(sorted(frozen)[:8])}')
        merge = in_place_of if isinstance(leaf, dict) else _stand_in
        merged[name] = merge(frozen[name], leaf)
    return merged if weights else frozen


def _stand_in(frozen: Array, leaf: Array) -> Array:
    """Return a frozen leaf with its end, or all of it, replaced."""
    leaf = leaf.reshape(-1, *frozen.shape[1:]).astype(frozen.dtype)
    kept = len(frozen) - len(leaf)
    return leaf if kept == 0 else jnp.concatenate([jax.lax.slice_in_dim(frozen, 0, kept), leaf])
