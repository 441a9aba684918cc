"""What rows do in use, against computations by hand: ablation, attention, words in their place."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.data.design import Design
from jax_prompt.data.examples import load_examples
from jax_prompt.evaluation.evaluator import Evaluator
from jax_prompt.inference.engine import Engine
from jax_prompt.models.forward import attend, score
from jax_prompt.prompts.file import load_prompt, save_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.reading import discrete
from jax_prompt.reading.read import read_prompt
from jax_prompt.reading.use import Use
from tests.reading.conftest import ROWS, SETTINGS

LABELS = 'warm', 'cold'
scored, attended = jax.jit(score, static_argnums=0), jax.jit(attend, static_argnums=0)


def ids_by_hand(opened, text, rows):
    """Return the ids of an input, with these of four rows around the text, two before it."""
    first = opened.model.vocab_size
    before, behind = ([first + row for row in rows if (row < 2) == early]
                      for early in (True, False))
    return [*before, *opened.vocabulary.encode(f'review : {text}'), *behind, 1]


def losses_by_hand(opened, prompt, rows):
    """Return the loss of each example's target tokens, computed one example at a time."""
    found = []
    for number, row in enumerate(ROWS):
        ids = ids_by_hand(opened, row['text'], rows)
        ids += [0] * (16 - len(ids))
        target = [*opened.vocabulary.encode(LABELS[number % 2]), 1]
        logits = scored(opened.model, opened.frozen, prompt, {
            'encoder_input_tokens': jnp.array([ids]),
            'decoder_input_tokens': jnp.array([[0, *target[:-1]]])})
        log_odds = jax.nn.log_softmax(logits[0], axis=-1)
        found.append([-float(log_odds[place, one]) for place, one in enumerate(target)])
    return np.array(found)


def test_taking_a_row_out_costs_what_it_costs_by_hand(reading, opened, file):
    told = reading.told['ablation']
    assert (told['examples'], told['task'], told['split']) == (6, 'reviews', 'test')
    whole = losses_by_hand(opened, file.prompt, range(4))
    assert told['whole']['loss'] == pytest.approx(whole.mean(), rel=1e-5)
    for row, one in enumerate(told['rows']):
        without = losses_by_hand(opened, file.prompt, [left for left in range(4) if left != row])
        assert one['metrics']['loss'] == pytest.approx(without.mean(), rel=1e-5)
        assert one['loss_rise'] == pytest.approx(without.mean() - whole.mean(), abs=1e-5)
        rises = (without - whole).mean(axis=1)
        assert one['standard_error'] == pytest.approx(np.std(rises) / np.sqrt(6), abs=1e-5)
    assert len({round(one['loss_rise'], 4) for one in told['rows']}) == 4
    assert told['no_rows']['loss'] == pytest.approx(
        losses_by_hand(opened, file.prompt, []).mean(), rel=1e-5)


def test_all_rows_are_taken_out_by_the_programs_of_one(opened, file, task, compilations):
    evaluator = Evaluator(opened, task, file.metadata.layout, batch_size=8)
    use = Use(opened, file, None, task, SETTINGS)
    evaluator(file.prompt, use._examples)
    compilations.clear()
    use.ablation()
    assert not compilations


def test_attention_is_that_of_each_text_by_hand(reading, opened, file):
    told = reading.told['attention']
    assert [one['answer'] for one in told['texts']] == ['warm', 'cold'] * 3
    encoder, cross = [], []
    for row, one in zip(ROWS, told['texts'], strict=True):
        assert one['text'] == f'review : {row["text"]}'
        ids = ids_by_hand(opened, row['text'], range(4))
        target = [*opened.vocabulary.encode(one['answer']), 1]
        found = attended(opened.model, opened.frozen, file.prompt, {
            'encoder_input_tokens': jnp.array([ids]),
            'decoder_input_tokens': jnp.array([[0, *target[:-1]]])})
        rows = [ids.index(opened.model.vocab_size + number) for number in range(4)]
        text = [place for place, one in enumerate(ids) if one < opened.model.vocab_size]
        weights = np.asarray(found['encoder'])[0][:, :, text][..., rows]
        encoder.append(weights.mean(axis=2))
        cross.append(np.asarray(found['cross'])[0][..., rows].mean(axis=2))
        np.testing.assert_allclose(one['encoder'], encoder[-1].mean((0, 1)), atol=2e-5)
        np.testing.assert_allclose(one['cross'], cross[-1].mean((0, 1)), atol=2e-5)
        shares = [token['share'] for token in one['tokens'] if 'share' in token]
        np.testing.assert_allclose(shares, weights.sum(-1).mean((0, 1)), atol=2e-5)
        assert [token['row'] for token in one['tokens'] if 'row' in token] == [0, 1, 2, 3]
    np.testing.assert_allclose(told['encoder'], np.mean(encoder, axis=0), atol=2e-5)
    np.testing.assert_allclose(told['cross'], np.mean(cross, axis=0), atol=2e-5)
    assert told['even'] == pytest.approx(1 / len(ids))


def test_given_texts_are_watched_with_the_answers_that_the_prompt_gives(opened, file, words,
                                                                        tmp_path):
    lines, rows = tmp_path / 'lines.txt', tmp_path / 'rows.jsonl'
    lines.write_text(f'{ROWS[0]["text"]}\n\n{ROWS[1]["text"]}\n')
    rows.write_text(''.join(f'{{"text": "{row["text"]}"}}\n' for row in ROWS))
    engine = Engine(opened)
    engine.add('it', file)
    answers = [one.text for one in engine.run(engine.rows([('it', row['text'])
                                                           for row in ROWS[:3]]))]
    for path, count in ((lines, 2), (rows, 3)):
        settings = dataclasses.replace(SETTINGS, texts=str(path), most_texts=3)
        told = Use(opened, file, words, None, settings).attention()
        assert [one['text'] for one in told['texts']] == [f'review : {row["text"]}'
                                                          for row in ROWS[:count]]
        assert [one['answer'] for one in told['texts']] == answers[:count]
    lines.write_text(' \n')
    with pytest.raises(ValueError, match=r'lines.txt holds no text; give a file of lines, or of'):
        Use(opened, file, words, None, dataclasses.replace(SETTINGS, texts=str(lines))).attention()
    rows.write_text('{"body": "x"}\n')
    with pytest.raises(ValueError, match=r"column 'text' is not there at text 1 of .*rows.jsonl"):
        Use(opened, file, words, None, dataclasses.replace(SETTINGS, texts=str(rows))).attention()


def test_words_in_place_of_rows_cost_what_their_embeddings_lose(reading, opened, file, words,
                                                                 task):
    told = reading.told['discrete']
    whole = losses_by_hand(opened, file.prompt, range(4)).mean()
    assert set(told['projections']) == set(reading.told['nearest'][0])
    for by, one in told['projections'].items():
        assert one['ids'] == [row[by][0]['id'] for row in reading.told['nearest']]
        vectors = words.table_VD[one['ids']]
        loss = losses_by_hand(opened, Prompt(vectors), range(4)).mean()
        assert one['metrics']['loss'] == pytest.approx(loss, rel=1e-5)
        assert one['cost']['loss'] == pytest.approx(loss - whole, abs=1e-5)
        assert one['squared_distance'] == pytest.approx(
            np.mean(np.sum((file.prompt.rows - vectors)**2, axis=1)), rel=1e-5)
    start = reading.told['movement']
    assert told['target'].split()[:2] == [one['started_at'] for one in start[:2]]


def test_the_words_are_a_prompt_file_without_rows_that_gives_the_same(reading, opened, task,
                                                                      tmp_path):
    save_prompt(tmp_path / 'words.safetensors', reading.discrete)
    file, told = load_prompt(tmp_path / 'words.safetensors'), reading.told['discrete']
    best = told['projections'][told['written']]['as_text']
    assert file.prompt.rows.shape == (0, opened.model.d_model)
    assert file.metadata.metrics == pytest.approx(best['metrics'])
    assert best['metrics']['loss'] == min(one['as_text']['metrics']['loss']
                                          for one in told['projections'].values())
    design = Design.of(file)
    measured = Evaluator(opened, task, file.metadata.layout, batch_size=8, design=design)(
        file.prompt, load_examples(task, 'test', opened.vocabulary))
    assert measured == pytest.approx(best['metrics'], rel=1e-5)
    first, behind = best['said']
    assert design.query({'text': 'a film'}) == f'{first} review : a film {behind}'
    if best['same_tokens']:
        assert best['metrics']['loss'] == pytest.approx(
            told['projections'][told['written']]['metrics']['loss'], abs=1e-4)


@pytest.mark.parametrize(('layout', 'said', 'expected'), [
    (Layout('before'), ['a {b}'], 'a {{b}} x: {text}'), (Layout('after'), ['a b'], 'x: {text} a b'),
    (Layout('around'), ['a', 'b'], 'a x: {text} b'), (Layout('around'), ['', 'b'], 'x: {text} b')],
    ids=['before', 'after', 'around', 'behind alone'])
def test_words_stand_where_the_rows_stood(layout, said, expected):
    assert discrete.as_design(said, 'x: {text}', layout).template == expected


def test_words_stand_in_place_of_the_marker():
    layout = Layout('marker')
    made = discrete.as_design(['a b'], 'x <extra_id_99>: {text}', layout)
    assert made.query({'text': 'y'}) == 'x a b: y'
    assert discrete.texts_of(np.arange(5), Layout('around', rows_before=2), list) == [
        [0, 1], [2, 3, 4]]


@pytest.mark.parametrize(('found', 'target', 'expected'), [
    ('Write a title!', 'write the titles', 0.5), ('the a', 'an', 0), ('x y', 'x y', 1),
    ('x x y', 'x', 0.5)])
def test_f1_is_that_of_the_paper(found, target, expected):
    assert discrete.prompt_f1(found, target) == pytest.approx(expected)


def test_a_drop_is_told_relative_to_the_prompt_itself():
    told = discrete.cost({'accuracy': 0.8, 'loss': 1.0}, {'accuracy': 0.6, 'loss': 1.5})
    assert told == pytest.approx({'loss': 0.5, 'accuracy_drop': 0.25})


@pytest.mark.slow
def test_a_design_stays_in_place(opened, file, task, tmp_path):
    design = Design('the {text}', form='plain', words={'warm': ('great',), 'cold': ('dull',)})
    path = tmp_path / 'designed.safetensors'
    save_prompt(path, dataclasses.replace(file, metadata=dataclasses.replace(
        file.metadata, design=design.to_dict())))
    reading = read_prompt(path, opened, task, SETTINGS)
    measured = Evaluator(opened, task, file.metadata.layout, batch_size=8, design=design)(
        file.prompt, load_examples(task, 'test', opened.vocabulary))
    assert reading.told['ablation']['whole'] == pytest.approx(measured, rel=1e-5)
    texts = reading.told['attention']['texts']
    assert [one['answer'] for one in texts] == ['great', 'dull'] * 3
    assert texts[0]['text'] == f'the {ROWS[0]["text"]}'
    assert 'by a design, which stays' in reading.told['not_shown'][-1]
    assert reading.discrete is None and 'as_text' not in str(reading.told['discrete'])


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['prefix', 'added'])
def test_what_is_no_row_stays_in_place_and_is_said_not_to_be_shown(opened, file, task, tmp_path,
                                                                   kind):
    draw = np.random.default_rng(5)
    layers, heads, width = opened.model.prefix_shapes['cross']
    keys = draw.normal(size=(1, layers, heads, 2, width)).astype(np.float32)
    prompt = file.prompt.replace(prefix={'cross': (keys, 5 * keys)}) if kind == 'prefix' else (
        Prompt(np.concatenate([file.prompt.rows, file.prompt.rows[:2]]), 2))
    path = tmp_path / 'prompt.safetensors'
    save_prompt(path, dataclasses.replace(file, prompt=prompt))
    told = read_prompt(path, opened, task, dataclasses.replace(SETTINGS, examples=2)).told
    said = {'prefix': 'has a prefix of keys and values (cross)',
            'added': 'adds 2 rows to the first 2 tokens'}[kind]
    assert any(said in one for one in told['not_shown'])
    assert len(told['nearest']) == len(told['ablation']['rows']) == 4
    plain = Use(opened, file, None, task, dataclasses.replace(SETTINGS, examples=2)).ablation()
    assert abs(plain['whole']['loss'] - told['ablation']['whole']['loss']) > 1e-3
    assert abs(plain['no_rows']['loss'] - told['ablation']['no_rows']['loss']) > 1e-3
    if kind == 'prefix':  # which takes a part of what rows are given otherwise
        sums = np.array(told['attention']['cross']).sum(-1)
        assert (sums < 1).all()
