"""The ways of tuning, one file each, by the names that gin files and prompt files know them by."""

from jax_prompt.prompts.methods.dept import dept
from jax_prompt.prompts.methods.direct import direct
from jax_prompt.prompts.methods.dpt import dpt
from jax_prompt.prompts.methods.model_tuning import model_tuning
from jax_prompt.prompts.methods.mpt import mpt
from jax_prompt.prompts.methods.prefix_tuning import prefix_tuning
from jax_prompt.prompts.methods.residual import residual
from jax_prompt.prompts.methods.superpos import superpos
from jax_prompt.prompts.methods.ulpt import ulpt
from jax_prompt.prompts.methods.wayward import wayward

METHODS = {
    'direct': direct,
    'residual': residual,
    'model_tuning': model_tuning,
    'ulpt': ulpt,
    'dpt': dpt,
    'superpos': superpos,
    'dept': dept,
    'wayward': wayward,
    'mpt': mpt,
    'prefix_tuning': prefix_tuning,
}
