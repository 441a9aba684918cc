"""Soft prompts for frozen T5 models, in JAX and Flax.

Nothing is imported here, so that `import jax_prompt` and `jax-prompt --help` answer at once. Import
what you need from its module: `from jax_prompt.models.t5.model import T5`.
"""

__version__ = '0.1.0'
