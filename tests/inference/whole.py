"""Programs that encode and answer in one, as tests ask for them; the package has them apart."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.inference.beam import BeamSettings, search_beams, stack_beam_settings
from jax_prompt.inference.rank import label_arrays, score_row_labels
from jax_prompt.inference.sampling import sample_tokens
from jax_prompt.models.forward import encode
from jax_prompt.prompts.prompt import Prompt
from tests.models.t5.random_weights import param_shapes


def make_label_scorer(model, label_ids):
    """Return score(frozen, prompt, ids_BS) -> float32[B, C], of the same labels for every row."""
    arrays = label_arrays(label_ids, model)

    @jax.jit
    def score(frozen, prompt, ids_BS):
        every = [jnp.broadcast_to(array, (len(ids_BS), *array.shape)) for array in arrays]
        return score_row_labels(model, frozen, *encode(model, frozen, prompt, ids_BS), *every)

    return score


def make_sampler(model, max_length):
    """Return sample(frozen, prompt, ids_BS, rows) -> int32[B, L]."""
    return jax.jit(lambda frozen, prompt, ids_BS, rows: sample_tokens(
        model, frozen, *encode(model, frozen, prompt, ids_BS), max_length, rows))


def make_beam_search(model, num_beams=4):
    """Return search(frozen, prompt, ids_BS, rows) -> Beams."""
    return jax.jit(lambda frozen, prompt, ids_BS, rows: search_beams(
        model, frozen, *encode(model, frozen, prompt, ids_BS), num_beams, rows))


def make_beam_generator(model, max_length, num_beams=4, settings=None):
    """Return generate(frozen, prompt, ids_BS) -> int32[B, L], each row's best sequence."""
    search = make_beam_search(model, num_beams)
    row = stack_beam_settings([settings or BeamSettings()], max_length)

    def generate(frozen, prompt, ids_BS):
        rows = jax.tree.map(lambda leaf: np.repeat(leaf, len(ids_BS), axis=0), row)
        return search(frozen, prompt, ids_BS, rows).tokens_BGL[:, 0]

    return generate


def assert_compiled_once(make, case, compilations):
    """Call what `make` jits with other prompts and weights, and lower it without any."""
    function = make()
    others = Prompt(case.prompt.rows + 1), jax.tree.map(lambda leaf: leaf * 2, case.frozen)
    function(case.frozen, case.prompt, case.ids(True))
    compilations.clear()
    function(case.frozen, others[0], case.ids(True))
    function(others[1], case.prompt, case.ids(True))
    assert not compilations
    # Lowered from shapes alone: no weight can be a constant of the program.
    shapes = (param_shapes(case.model), Prompt(jax.ShapeDtypeStruct((4, 16), jnp.float32)),
              jax.ShapeDtypeStruct((6, 16), jnp.int32))
    make().lower(*shapes)
