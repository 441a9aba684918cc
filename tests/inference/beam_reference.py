"""Tiny models whose beam searches differ from each other, and PyTorch's answers to them.

The weights depend on nothing but numpy, so that the answers of transformers can be kept and
compared where PyTorch is missing. To write golden/beams.npz (needs torch and transformers):

    python -m tests.inference.beam_reference
"""

import copy
import dataclasses
import itertools
import pathlib

import jax
import numpy as np

from jax_prompt.inference.beam import BeamSettings
from tests.inference.conftest import Case, PyTorch, make_case
from tests.models.t5.random_weights import to_hugging_face

KEPT = pathlib.Path(__file__).parent / 'golden' / 'beams.npz'
LENGTH = 12
SHAPES = ('t5-1.0', 't5-1.1', 'umt5')
NUM_BEAMS = (2, 3, 5)
SETTINGS = tuple(BeamSettings(length_penalty, early_stopping, min_tokens=min_tokens)
                 for length_penalty, early_stopping, min_tokens in [
                     *itertools.product((0.0, 1.0, 2.5, -1.0), (False, True, 'never'), (0,)),
                     (1.0, False, 4)])

TEXTS = (
    'TypeError: unsupported operand type(s) for +: int and str in billing.py when an invoice has '
    'no tax rate; happens since the last release for all customers in Norway',
    'The film is a slow but lovely portrait of a family that runs a lighthouse.',
    'When I log in with my phone the page stays white until I reload it twice.',
    'Please add dark mode to the settings page, and remember it for the next visit.',
)


def make_beam_case(shape: str) -> Case:
    """Return a case with flatter logits and a likelier end, so that beams are close and end."""
    case = make_case(shape)
    frozen = jax.tree.map(np.array, case.frozen)
    frozen['decoder']['final_norm']['scale'] *= 0.4
    if case.model.config.tied_head:
        frozen['decoder']['final_norm']['scale'] *= 3
        frozen['token_embedder']['embedding'][1] *= 1.6
    else:
        frozen['lm_head']['kernel'][:, 1] *= 1.6
    return dataclasses.replace(case, frozen=jax.tree.map(jax.numpy.asarray, frozen))


def torch_reference(case: Case) -> PyTorch:
    """Return transformers' model with this case's weights."""
    reference = PyTorch(case)
    reference.model = copy.deepcopy(reference.model)  # that of the unchanged case is shared
    weights = to_hugging_face(case.frozen, case.model.config)
    reference.model.load_state_dict({name: reference.torch.tensor(np.array(weight))
                                     for name, weight in weights.items()}, strict=False)
    return reference


def torch_beams(reference: PyTorch, ids: np.ndarray, num_beams: int,
                settings: BeamSettings, ends: tuple[int, ...] = (1,)
                ) -> tuple[np.ndarray, np.ndarray]:
    """Return transformers' int32[B, G, LENGTH] sequences, the best first, and float32[B, G]."""
    with reference.torch.no_grad():
        found = reference.model.generate(
            **reference.inputs(ids, reference.case.prompt), max_new_tokens=LENGTH, do_sample=False,
            num_beams=num_beams, num_return_sequences=num_beams,
            length_penalty=settings.length_penalty, early_stopping=settings.early_stopping,
            min_new_tokens=settings.min_tokens or None, return_dict_in_generate=True,
            output_scores=True, eos_token_id=list(ends))
    tokens = found.sequences[:, 1:].numpy()
    tokens = np.pad(tokens, ((0, 0), (0, LENGTH - tokens.shape[1])))
    # transformers fills up with end tokens where the pad token is 0.
    is_end = np.isin(tokens, ends)
    after_end = np.cumsum(is_end, axis=1) - is_end > 0
    tokens = np.where(after_end, 0, tokens).astype(np.int32)
    return (tokens.reshape(len(ids), num_beams, LENGTH),
            found.sequences_scores.numpy().reshape(len(ids), num_beams))


def main():
    kept = {}
    for shape, num_beams in itertools.product(SHAPES, NUM_BEAMS):
        case = make_beam_case(shape)
        reference = torch_reference(case)
        answers = [torch_beams(reference, case.ids(True), num_beams, settings)
                   for settings in SETTINGS]
        kept[f'{shape}/{num_beams}/tokens'] = np.stack([tokens for tokens, _ in answers]
                                                       ).astype(np.int8)
        kept[f'{shape}/{num_beams}/scores'] = np.stack([scores for _, scores in answers])
    KEPT.parent.mkdir(exist_ok=True)
    np.savez_compressed(KEPT, **kept)


if __name__ == '__main__':
    main()
