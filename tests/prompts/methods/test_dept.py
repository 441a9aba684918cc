"""DePT changes the text in the model as PyTorch's T5 does by hand, wherever a prompt can go."""

import dataclasses

import jax
import numpy as np
import pytest

from jax_prompt.data.features import FeatureConverter
from jax_prompt.exchange.prompts_in_out import export_prompt, inspect_prompt
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.predict import predict
from jax_prompt.models import forward
from jax_prompt.models.t5.model import T5
from jax_prompt.prompts import container
from jax_prompt.prompts.file import PromptFile, load_prompt, save_prompt
from jax_prompt.prompts.initializers import InitContext, from_array
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.methods.dept import dept
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.prompts.virtual import shifted, stride, with_rows_added
from jax_prompt.training.step import token_loss
from tests.inference.many_prompts import open_tiny, prompts
from tests.inference.test_predict import HOW, TEXTS, rows_of
from tests.models.t5.reference import make_config, make_frozen, torch_model

CONFIG = make_config('t5_1_1')
P, J, W, S, D = 2, 3, 5, 8, CONFIG.d_model
LENGTHS = [8, 3, 6]


def params():
    rng = np.random.default_rng(1)
    return {'prompt': rng.normal(size=(P, D)).astype(np.float32),
            'left': rng.normal(size=(W, J)).astype(np.float32),
            'right': rng.normal(size=(J, D)).astype(np.float32)}


def tokens():
    rng = np.random.default_rng(2)
    texts = [rng.integers(2, CONFIG.vocab_size, length).astype(np.int32) for length in LENGTHS]
    return texts, rng.integers(2, CONFIG.vocab_size, (3, 4)).astype(np.int32)


def converter(layout, **more):
    return FeatureConverter(layout=layout, num_rows=P, vocab_size=CONFIG.vocab_size, added=W,
                            ends_inputs=False, **more)


def batch(layout=Layout('before')):  # noqa: B008
    texts, targets = tokens()
    ids = np.zeros((3, P + S), np.int32)
    for row, text in enumerate(texts):
        found, _ = converter(layout).input_ids(text)
        ids[row, :len(found)] = found
    return {'encoder_input_tokens': ids, 'decoder_target_tokens': targets,
            'decoder_input_tokens': np.pad(targets[:, :-1], ((0, 0), (1, 0))),
            'decoder_loss_weights': np.ones(targets.shape, np.float32)}


def logits_and_loss(theirs, features):
    prompt = dept(rank=J, length=W).apply(theirs, {}).prompt
    logits = forward.score(T5(CONFIG), make_frozen(CONFIG), prompt, features)
    return token_loss(logits, features['decoder_target_tokens'],
                      features['decoder_loss_weights'], z_loss=0.0)[0], logits


def test_logits_and_gradients_are_those_of_pytorch_with_the_change_by_hand():
    torch = pytest.importorskip('torch')
    model, (texts, targets) = torch_model(CONFIG, make_frozen(CONFIG)), tokens()
    theirs = {name: torch.tensor(leaf, requires_grad=True) for name, leaf in params().items()}
    change = theirs['left'] @ theirs['right']
    embedded, mask = torch.zeros(3, P + S, D), torch.zeros(3, P + S, dtype=torch.long)
    for row, text in enumerate(texts):
        words = model.shared(torch.tensor(text, dtype=torch.long))
        some = min(len(text), W)
        words = torch.cat([words[:some] + change[:some], words[some:]])
        embedded[row, :P + len(text)] = torch.cat([theirs['prompt'], words])
        mask[row, :P + len(text)] = 1
    logits = model(inputs_embeds=embedded, attention_mask=mask, decoder_input_ids=torch.tensor(
        batch()['decoder_input_tokens'], dtype=torch.long)).logits
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(targets.ravel(), dtype=torch.long), reduction='sum')
    loss.backward()

    (own_loss, own), gradient = jax.jit(jax.value_and_grad(logits_and_loss, has_aux=True))(
        params(), batch())
    np.testing.assert_allclose(own, logits.detach().numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(own_loss, loss.item(), rtol=1e-5)
    for name, leaf in theirs.items():
        expected = leaf.grad.numpy()
        np.testing.assert_allclose(gradient[name], expected, rtol=1e-4,
                                   atol=3e-5 * np.abs(expected).max())


@pytest.mark.parametrize('layout', [Layout('before'), Layout('after'), Layout('around'),
                                    Layout('after', after_end=True)], ids=str)
def test_the_first_tokens_of_the_text_are_changed_wherever_the_prompt_stands(layout):
    text = tokens()[0][0]
    plain, _ = dataclasses.replace(converter(layout), added=0).input_ids(text)
    ids, _ = converter(layout, first_row=7).input_ids(text)
    step, vocabulary = stride(CONFIG.vocab_size), CONFIG.vocab_size
    is_text = plain < vocabulary
    np.testing.assert_array_equal(ids % step, np.where(is_text, plain, plain + 7))
    added = ids // step - 1
    assert added[is_text].tolist() == [*range(7 + P, 7 + P + W), *[-1] * (S - W)]
    assert (added[~is_text] == -1).all()
    first, _ = converter(layout).input_ids(text)
    np.testing.assert_array_equal(shifted(first, 7, CONFIG.vocab_size), ids)
    np.testing.assert_array_equal(shifted(first, 0, CONFIG.vocab_size), first)


def test_ids_that_ask_for_nothing_leave_the_embeddings_bit_for_bit():
    frozen, prompt = make_frozen(CONFIG), dept(rank=J, length=W).apply(params(), {}).prompt
    ids = batch()['encoder_input_tokens'] % stride(CONFIG.vocab_size)
    found, expected = (forward.embed_inputs(T5(CONFIG), frozen, one, ids)
                       for one in (prompt, Prompt(prompt.rows)))
    np.testing.assert_array_equal(found, expected)


def test_a_row_that_no_id_can_name_is_refused():
    assert with_rows_added(np.array([5]), np.array([16_382]), 32_128) == 16_383 * 2**17 + 5
    with pytest.raises(ValueError, match='row 16383 cannot be added .* only the first 16,383 rows'):
        with_rows_added(np.array([5]), np.array([16_383]), 32_128)


@pytest.fixture(scope='module')
def opened(world):
    return open_tiny(world / 'model')


def with_change(file, rows=4):
    """Return a prompt file that also adds rows to the text."""
    added = 2 * np.random.default_rng(3).normal(size=(rows, file.prompt.rows.shape[1]))
    return dataclasses.replace(file, prompt=Prompt(
        np.concatenate([file.prompt.rows, added]).astype(np.float32), rows))


def test_a_file_keeps_what_is_added_and_tells_it(opened, tmp_path):
    file, path = with_change(prompts(opened)['mood']), tmp_path / 'p.safetensors'
    save_prompt(path, file)
    loaded = load_prompt(path)
    np.testing.assert_array_equal(loaded.prompt.rows, file.prompt.rows)
    assert (loaded.prompt.added, loaded.prompt.num_virtual) == (4, 5)
    told = inspect_prompt(path)
    assert told['rows'] == 5 and told['added_rows'] == 4
    strings = container.read(path, ('added',))[1]
    assert strings['format_version'] == '2'
    with pytest.raises(ValueError, match="the one tensor 'prompt', found 'added', 'prompt'"):
        container.read(path)
    path.write_bytes(path.read_bytes()[:-4] + b'1234')
    with pytest.raises(ValueError, match='does not match its checksum'):
        load_prompt(path)
    path.write_bytes(container.pack(np.ones((2, 4), np.float32), strings,
                                    {'added': np.ones((2, 5), np.float32)}))
    with pytest.raises(ValueError, match="its tensor 'added' has shape .* of its prompt, 4"):
        load_prompt(path)


def test_it_is_refused_where_rows_alone_can_go(opened, tmp_path):
    file, path = with_change(prompts(opened)['mood']), tmp_path / 'p.safetensors'
    save_prompt(path, file)
    for form in ('peft', 'numpy'):
        with pytest.raises(ValueError, match=f'adds 4 rows to the text .* which {form} cannot say'):
            export_prompt(file, tmp_path / 'out', form)
    context = InitContext(np.ones((9, 16), np.float32), 5, list)
    with pytest.raises(ValueError, match='adds 4 rows to the text, so that its virtual tokens'):
        from_array(path)(jax.random.key(0), context)


@pytest.mark.parametrize('name', ['mood', 'title'])
def test_the_engine_mixes_it_with_others(opened, name):
    plain = prompts(opened)[name]
    file, engine = with_change(plain), Engine(opened, HOW.shapes, capacity=64)
    engine.add('other', prompts(opened)['words'])
    engine.add('plain', plain)
    before = engine.run(engine.rows([('plain', text) for text in TEXTS]))
    engine.make_room(file.prompt)
    engine.add(name, file)
    compiled = engine.compilations
    mixed = engine.run(engine.rows([(one, text) for text in TEXTS for one in (name, 'plain')]))
    assert engine.compilations == compiled  # what had run was prepared for
    alone = predict(opened, file.prompt, [dataclasses.replace(row, ids=adding(opened, file, text))
                                          for row, text in zip(rows_of(opened, plain), TEXTS,
                                                               strict=True)], HOW)
    for found, expected in zip([*mixed[::2], *mixed[1::2]], [*alone, *before], strict=True):
        assert found.text == expected.text
        if found.scores:
            np.testing.assert_allclose(list(found.scores.values()),
                                       list(expected.scores.values()), rtol=1e-4, atol=1e-5)
    if name == 'mood':  # the change acts
        assert np.abs(np.subtract(*(list(one.scores.values()) for one in mixed[:2]))).max() > 1e-3


def adding(opened, file, text):
    """Return the ids of a text with a prompt that stands alone."""
    from jax_prompt.data.tasks.text_task import TextTask
    task = TextTask.from_dict(file.metadata.task)
    ids = FeatureConverter.for_model(
        task, opened.vocabulary, opened.model, file.metadata.layout, file.prompt.num_virtual,
        file.prompt.added).input_ids(opened.vocabulary.encode(task.render({'text': text})))[0]
    return ids


def test_a_prompt_that_stands_too_far_behind_is_refused(opened, monkeypatch):
    monkeypatch.setattr('jax_prompt.prompts.virtual.stride', lambda vocab_size: 2**28)
    engine = Engine(opened, HOW.shapes, capacity=64)
    with pytest.raises(ValueError, match='cannot be added to tokens: .* have fewer prompts in use'):
        engine.add('mood', with_change(prompts(opened)['mood']))


def test_a_prompt_file_refuses_a_layout_that_its_virtual_tokens_do_not_fill(opened):
    file = with_change(prompts(opened)['mood'])
    layout = Layout('around', rows_before=6)
    with pytest.raises(ValueError, match='puts 6 rows before the text but the prompt has 5'):
        PromptFile(file.prompt, dataclasses.replace(file.metadata, layout=layout))
