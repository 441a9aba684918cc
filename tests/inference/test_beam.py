"""Beam search: transformers' answers token for token, whatever the neighbours' settings."""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.inference import beam
from jax_prompt.inference.beam import BeamSettings, stack_beam_settings
from jax_prompt.inference.decodings import beam_search
from jax_prompt.inference.generate import NOT_FINITE, make_generator
from jax_prompt.models.t5.model import T5
from jax_prompt.prompts.prompt import no_prompt
from tests.inference import beam_reference
from tests.inference.beam_reference import LENGTH, NUM_BEAMS, SETTINGS, SHAPES
from tests.inference.whole import make_beam_generator, make_beam_search

compiled = functools.cache(make_beam_search)
beam_case = functools.cache(beam_reference.make_beam_case)


@pytest.fixture(scope='module')
def one() -> beam_reference.Case:
    return beam_case('umt5')


def search(case, num_beams, settings, ids=None, length=LENGTH, model=None):
    """Search with one settings for all rows, or with a list of one a row."""
    ids = case.ids(True) if ids is None else ids
    settings = settings if isinstance(settings, list) else [settings] * len(ids)
    found = compiled(model or case.model, num_beams)(
        case.frozen, case.prompt, ids, stack_beam_settings(settings, length))
    return jax.tree.map(np.asarray, found)


def assert_equal(found, tokens, scores):
    np.testing.assert_array_equal(found.tokens_BGL, tokens)
    np.testing.assert_allclose(found.scores_BG, scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('shape, num_beams', list(itertools.product(SHAPES, NUM_BEAMS)))
def test_equals_the_kept_answers_of_pytorch(shape, num_beams):
    with np.load(beam_reference.KEPT) as kept:
        answers = [kept[f'{shape}/{num_beams}/{name}'] for name in ('tokens', 'scores')]
    assert len({tokens[:, 0].tobytes() for tokens in answers[0]}) > 2, 'settings must matter'
    for settings, tokens, scores in zip(SETTINGS, *answers, strict=True):
        assert_equal(search(beam_case(shape), num_beams, settings), tokens, scores)


def test_equals_them_with_layers_in_a_row(one):
    model = T5(one.model.config, scan_layers=False)
    with np.load(beam_reference.KEPT) as kept:
        assert_equal(search(one, 3, SETTINGS[4], model=model), kept['umt5/3/tokens'][4],
                     kept['umt5/3/scores'][4])


# That PyTorch still gives the kept answers.
@pytest.mark.slow
@pytest.mark.parametrize('shape', SHAPES)
def test_equals_pytorch_itself(shape):
    pytest.importorskip('torch', reason='PyTorch is not installed')
    case = beam_case(shape)
    reference = beam_reference.torch_reference(case)
    with np.load(beam_reference.KEPT) as kept:
        kept_tokens = kept[f'{shape}/3/tokens']
    for settings, unchanged in list(zip(SETTINGS, kept_tokens, strict=True))[::3]:
        tokens, scores = beam_reference.torch_beams(reference, case.ids(True), 3, settings)
        assert_equal(search(case, 3, settings), tokens, scores)
        np.testing.assert_array_equal(tokens, unchanged)


@pytest.mark.parametrize('penalty, alpha', [('power', 1.7), ('t5', 0.6)])
def test_scores_are_log_probabilities_over_the_penalty(one, teacher_forced, penalty, alpha):
    found = search(one, 3, BeamSettings(alpha, 'never', penalty))
    for way in range(3):
        tokens = found.tokens_BGL[:, way]
        inputs = np.concatenate([np.zeros((6, 1), np.int32), tokens[:, :-1]], axis=1)
        logits = teacher_forced(one, one.ids(True), one.prompt, inputs)
        chosen = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), tokens[..., None], -1)
        is_written = np.cumsum(inputs == 1, axis=1) == 0
        length = is_written.sum(axis=1)
        divisor = length**alpha if penalty == 'power' else ((5 + length) / 6)**alpha
        expected = (chosen[..., 0] * is_written).sum(axis=1) / divisor
        np.testing.assert_allclose(found.scores_BG[:, way], expected, rtol=1e-4)
    assert (np.diff(found.scores_BG) <= 0).all()


def test_the_forms_of_the_penalty_by_hand():
    rows = stack_beam_settings([BeamSettings(2.0), BeamSettings(0.6, penalty='t5'),
                                BeamSettings(2.0, 'never', max_tokens=2),
                                BeamSettings(-1.0, 'never'), BeamSettings(1.0, True)], 3)
    np.testing.assert_allclose(rows.penalty_BL[0], [1, 4, 9])
    np.testing.assert_allclose(rows.penalty_BL[1], [1, (7 / 6)**0.6, (8 / 6)**0.6])
    np.testing.assert_array_equal(rows.bound_BL[:2], rows.penalty_BL[:2])
    np.testing.assert_allclose(rows.bound_BL[2], [4, 4, 4])
    np.testing.assert_allclose(rows.bound_BL[3], [1, 1 / 2, 1 / 3])
    assert rows.stop_when_full_B.tolist() == [False, False, False, False, True]


def test_a_row_depends_on_neither_neighbours_nor_their_settings(one):
    ids = one.ids(True)
    settings = [SETTINGS[number] for number in (1, 3, 5, 8, 10, 12)]
    mixed = search(one, 3, settings)
    for row, of_row in enumerate(settings):
        alone = search(one, 3, of_row, ids=np.where(np.arange(6)[:, None] == 2, ids[row], 0))
        np.testing.assert_array_equal(alone.tokens_BGL[2], mixed.tokens_BGL[row])
        np.testing.assert_allclose(alone.scores_BG[2], mixed.scores_BG[row], rtol=1e-5)


def test_pads_change_nothing(one):
    settings = BeamSettings()
    wide = search(one, 3, settings, one.ids(True, width=40))
    np.testing.assert_array_equal(wide.tokens_BGL, search(one, 3, settings).tokens_BGL)


@pytest.mark.parametrize('early_stopping', [True, False, 'never'])
def test_a_rows_own_limit_is_like_a_shorter_search(one, early_stopping):
    limits = [3, 5, 12, 5, 3, 5]
    settings = [BeamSettings(1.5, early_stopping, max_tokens=limit) for limit in limits]
    found = search(one, 3, settings)
    for length in set(limits):
        shorter = search(one, 3, BeamSettings(1.5, early_stopping), length=length)
        for row in [row for row, limit in enumerate(limits) if limit == length]:
            np.testing.assert_array_equal(found.tokens_BGL[row, :, :length],
                                          shorter.tokens_BGL[row])
            assert (found.tokens_BGL[row, :, length:] == 0).all()
            np.testing.assert_allclose(found.scores_BG[row], shorter.scores_BG[row], rtol=1e-5)


@pytest.mark.parametrize('min_tokens', [1, 2, 3])
def test_no_end_before_so_many_tokens_stand(one, min_tokens):
    found = search(one, 5, BeamSettings(0.0, min_tokens=min_tokens))
    ends = [row.tolist().index(1) for row in found.tokens_BGL.reshape(-1, LENGTH) if 1 in row]
    assert min(ends) == min_tokens


def test_settings_compile_nothing_new(one, compilations):
    searched = make_beam_search(one.model, 2)
    for number, settings in enumerate(SETTINGS[::3]):
        searched(one.frozen, one.prompt, one.ids(True), stack_beam_settings([settings] * 6, 5))
        if number == 0:
            compilations.clear()
    assert not compilations


def test_it_stops_when_no_answer_can_change(one, monkeypatch):
    asked = []
    read = beam._read

    def counted(model, frozen, now):
        jax.debug.callback(lambda position: asked.append(int(position)), now.position)
        return read(model, frozen, now)

    monkeypatch.setattr(beam, '_read', counted)
    searched = make_beam_search(one.model, 2)

    def steps(ids, settings):
        asked.clear()
        rows = stack_beam_settings([settings] * 6, LENGTH)
        jax.block_until_ready(searched(one.frozen, one.prompt, ids, rows))
        jax.effects_barrier()
        return len(asked)

    ids = one.ids(True)
    one_row = np.where(np.arange(6)[:, None] == 0, ids, 0)  # the others are fillers
    assert steps(np.zeros_like(ids), BeamSettings()) == 0
    assert 0 < steps(one_row, BeamSettings(0.0, True)) < LENGTH
    assert steps(one_row, BeamSettings(max_tokens=4)) <= 4
    assert steps(one_row, BeamSettings(2.5, True)) < steps(one_row, BeamSettings(2.5, 'never'))


def test_fillers_have_pads_and_no_score(one):
    ids = one.ids(True)
    ids[3] = 0
    found = search(one, 2, BeamSettings(), ids)
    assert (found.tokens_BGL[3] == 0).all()
    assert (found.scores_BG[3] <= -1e9).all()


def test_a_row_whose_logits_are_not_finite_has_no_answer(one):
    """One word of the head is no number; fillers, and what was found before, are let be."""
    frozen = jax.tree.map(np.array, one.frozen)
    frozen['lm_head']['kernel'][3, 17] = np.inf
    ids = one.ids(True)
    ids[3] = 0
    found = compiled(one.model, 2)(frozen, one.prompt, ids,
                                   stack_beam_settings([BeamSettings()] * 6, LENGTH))
    assert (np.delete(found.tokens_BGL, 3, axis=0) == NOT_FINITE).all()
    assert (found.tokens_BGL[3] == 0).all()


def test_beams_share_the_cross_keys_and_move_no_cache(one):
    """In the loop no array has beams and encoder positions and heads' widths, nor is one moved."""
    ids = jnp.asarray(one.ids(True, width=37))
    rows = stack_beam_settings([BeamSettings()] * 6, 11)
    program = jax.make_jaxpr(make_beam_search(one.model, 5))(
        one.frozen, one.prompt, ids, rows)
    inner = [eqn for eqn in program.eqns if eqn.primitive.name in ('pjit', 'jit')]
    loop, = [eqn for eqn in inner[-1].params['jaxpr'].eqns if eqn.primitive.name == 'while']
    text = str(loop.params['body_jaxpr'])
    width = str(one.model.config.d_kv)
    shapes = [shape.split(',') for shape in re.findall(r'[a-z]+\d+\[([\d,]+)\]', text)]
    assert ['6', '3', '37', width] in shapes, 'the loop reads the cached cross keys'
    assert not [shape for shape in shapes if shape[-1] == width and '37' in shape and (
        '5' in shape or '30' in shape)]
    # Gathers are of tokens and places, which have no heads' width.
    gathered = re.findall(r':\w+\[([\d,]+)\] = gather', text)
    assert gathered and not [shape for shape in gathered if width in shape.split(',')[2:]]


@pytest.mark.parametrize('make, message', [
    (lambda: beam_search(1).make(beam_case('umt5').model, 5),
     'num_beams=1; expected from 2 to 14 for this vocabulary; one beam is greedy'),
    (lambda: beam_search(15).make(beam_case('umt5').model, 5), 'num_beams=15; expected from 2'),
    (lambda: BeamSettings(float('nan')), 'length_penalty=nan; expected -10 to 10'),
    (lambda: BeamSettings(early_stopping='always'), "early_stopping='always'; expected True"),
    (lambda: BeamSettings(penalty='gnmt'), "penalty='gnmt' is no form .* choose one of power, t5"),
    (lambda: BeamSettings(min_tokens=3, max_tokens=2), 'min_tokens=3; expected .* max_tokens=2'),
    (lambda: stack_beam_settings([BeamSettings(max_tokens=9)], 8),
     'row 0 asks for 9 tokens; expected at most max_length=8'),
])
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_several_end_tokens_end_what_pytorch_ends_with_them(one):
    pytest.importorskip('torch', reason='PyTorch is not installed')
    ends = (1, 18, 5)
    model = T5(dataclasses.replace(one.model.config, other_eos_token_ids=ends[1:]))
    reference = beam_reference.torch_reference(one)
    for settings in (SETTINGS[0], SETTINGS[-1]):  # the last wants four tokens before an end
        tokens, scores = beam_reference.torch_beams(reference, one.ids(True), 3, settings, ends)
        assert len(np.intersect1d(ends, tokens[:, 0])) > 1, 'more than one of them must end a row'
        assert_equal(search(one, 3, settings, model=model), tokens, scores)
    greedy = reference.model.generate(
        **reference.inputs(one.ids(True), one.prompt), max_new_tokens=LENGTH, do_sample=False,
        eos_token_id=list(ends), pad_token_id=0)[:, 1:].numpy()
    ours = np.asarray(make_generator(model, LENGTH)(one.frozen, one.prompt, one.ids(True)))
    np.testing.assert_array_equal(ours[:, :greedy.shape[1]], greedy)
    assert len(np.intersect1d(ends, greedy)) > 1 and not ours[:, greedy.shape[1]:].any()


@pytest.mark.slow
def test_the_demos_model_writes_what_pytorch_writes():
    torch = pytest.importorskip('torch', reason='PyTorch is not installed')
    from jax_prompt.data.vocabularies import load_vocabulary
    from jax_prompt.weights.load import load_weights
    from tests.models.t5.reference import torch_model

    loaded = load_weights('package:traceforge_title_model/data/span')
    vocabulary = load_vocabulary(str(loaded.folder))
    texts = beam_reference.TEXTS
    rows = [[*vocabulary.encode(text), 1] for text in texts]
    ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, tokens in enumerate(rows):
        ids[row, :len(tokens)] = tokens
    theirs = torch_model(loaded.config, loaded.frozen)
    model, prompt = T5(loaded.config, scan_layers=False), no_prompt(loaded.config.d_model)
    given = dict(input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(ids != 0).long(),
                 max_new_tokens=16, do_sample=False, eos_token_id=1, pad_token_id=0,
                 decoder_start_token_id=0)

    def expected(**options):
        tokens = theirs.generate(**given, **options)[:, 1:].numpy()
        tokens = np.pad(tokens, ((0, 0), (0, 16 - tokens.shape[1])))
        return np.where(np.cumsum(tokens == 1, axis=1) - (tokens == 1) > 0, 0, tokens)

    greedy = np.asarray(make_generator(model, 16)(loaded.frozen, prompt, ids))
    np.testing.assert_array_equal(greedy, expected(num_beams=1))
    for length_penalty, early_stopping in [(1.0, False), (0.6, 'never'), (2.0, True)]:
        generate = make_beam_generator(model, 16, 4, BeamSettings(length_penalty, early_stopping))
        np.testing.assert_array_equal(
            np.asarray(generate(loaded.frozen, prompt, ids)),
            expected(num_beams=4, length_penalty=length_penalty, early_stopping=early_stopping))
    assert len(np.unique(greedy)) > 20, 'a model that repeats itself tests nothing'
