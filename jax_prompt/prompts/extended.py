"""Start a prompt from a shorter one, as a sweep over lengths can."""

import jax.numpy as jnp

from jax_prompt.config import configured
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.initializers import InitContext, Initializer, sampled_vocabulary
from jax_prompt.types import Array


@configured
def extended(source: str, fallback: Initializer | None = None) -> Initializer:
    """Start the first rows from a prompt file's, the rest from another initialiser.

    Args:
        source: the file of a prompt with at most as many rows.
        fallback: fills the rows after the file's, with those that it gives there for a whole
            prompt; `sampled_vocabulary()` by default.

    Raises:
        ValueError: on use, a file that is none, more rows than the prompt has, another width, or
            rows that are added to the text.
        FileNotFoundError: on use, no file.
    """

    def initialize(rng: Array, context: InitContext) -> Array:
        found = load_prompt(source).prompt
        rows, width = found.rows.shape
        if found.added or width != context.d_model or rows > context.num_rows:
            added = f', {found.added} of them added to the text,' if found.added else ''
            raise ValueError(
                f'prompt file {source} has {rows} rows of width {width}{added} but the prompt has '
                f'{context.num_rows} of width {context.d_model}; expected at most as many, of the '
                'same width, none of them added to the text')
        whole_PD = (fallback or sampled_vocabulary())(rng, context)
        return jnp.concatenate([jnp.asarray(found.rows, jnp.float32), whole_PD[rows:]])

    return initialize
