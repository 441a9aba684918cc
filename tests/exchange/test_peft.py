"""PEFT is met as it is: its own models, adapters that it trained, and adapters that it loads."""

import dataclasses
import functools
import json
import os
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jax_prompt.exchange import peft
from jax_prompt.exchange.prompts_in_out import export_prompt, import_prompt, inspect_prompt
from jax_prompt.inference.generate import make_generator
from jax_prompt.models.forward import score
from jax_prompt.models.t5.model import T5
from jax_prompt.prompts.file import PromptFile, PromptMetadata
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt
from tests.exchange.opened import opened_model
from tests.models.t5 import reference

CONFIG = reference.make_config('t5_1_1')
MODEL = opened_model('tiny', 'w1', 'v1', CONFIG.d_model)
TASK = {'name': 'sst2', 'inputs_template': 'sst2 sentence: {text}', 'labels': {'0': 'negative'}}
ROWS = np.random.default_rng(3).normal(size=(5, CONFIG.d_model)).astype(np.float32)
METADATA = PromptMetadata(
    base_model='google/t5-tiny', base_model_fingerprint='w1', vocabulary_fingerprint='v1',
    task=TASK, layout=Layout(), method='direct', step=300, metrics={'accuracy': 0.75}, seed=5)
PROMPT = PromptFile(Prompt(ROWS), METADATA)
TOKENS = 8


@pytest.fixture
def folder(tmp_path):
    return export_prompt(PROMPT, tmp_path / 'adapter', 'peft')


# Against the real PEFT


@pytest.fixture
def pytorch():
    """The tiny model in PyTorch, for each shape."""
    pytest.importorskip('torch', reason='PyTorch is not installed')
    pytest.importorskip('peft', reason='PEFT is not installed')

    def make(shape='t5_1_1'):
        config = reference.make_config(shape)
        model = reference.torch_model(config, reference.make_frozen(config))
        # Hub repositories of T5 say so in their config.json.
        model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = 0
        return model

    return make


def peft_answers(model) -> tuple[np.ndarray, np.ndarray]:
    """Return PEFT's logits and greedy tokens, without the start token."""
    import torch
    data = {name: torch.from_numpy(array) for name, array in
            reference.make_inputs(CONFIG).items()}
    inputs = {'input_ids': data['ids'].long(), 'attention_mask': (data['ids'] != 0).long()}
    model.eval()
    with torch.no_grad():
        logits = model(**inputs, decoder_input_ids=data['inputs'].long()).logits
        tokens = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, num_beams=1)
    return logits.numpy(), tokens[:, 1:].numpy()


@functools.cache
def our_model(shape: str):
    """Compile our logits and greedy tokens, as functions of prompt and batch."""
    config = reference.make_config(shape)
    model, frozen = T5(config), jax.tree.map(jnp.asarray, reference.make_frozen(config))
    logits = jax.jit(lambda prompt_PD, batch: score(model, frozen, Prompt(prompt_PD), batch))
    return logits, functools.partial(make_generator(model, TOKENS), frozen)


def our_answers(shape: str, prompt_PD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return our logits and greedy tokens, the layout being the one that PEFT has."""
    logits, generate = our_model(shape)
    data = reference.make_inputs(CONFIG)
    rows = [Layout().insert(ids[ids != 0], len(prompt_PD), CONFIG.vocab_size, 1, None)[0][:-1]
            for ids in data['ids']]  # without the end token, which these inputs lack
    ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, found in zip(ids, rows, strict=True):
        row[:len(found)] = found
    batch = {'encoder_input_tokens': ids, 'decoder_input_tokens': data['inputs'],
             'decoder_target_tokens': data['targets'], 'decoder_loss_weights': data['weights']}
    prompt_PD = jnp.asarray(prompt_PD)
    return np.asarray(logits(prompt_PD, batch)), np.asarray(generate(Prompt(prompt_PD), ids))


def assert_same_answers(theirs, ours):
    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-4)
    width = theirs[1].shape[1]
    np.testing.assert_array_equal(ours[1][:, :width], theirs[1])
    assert not ours[1][:, width:].any()  # theirs stops when every row has ended


@pytest.mark.parametrize('shape', [
    't5_1_1', *(pytest.param(shape, marks=pytest.mark.slow) for shape in ('t5_1_0', 'umt5'))])
def test_an_exported_prompt_gives_the_same_logits_and_text_in_peft(pytorch, tmp_path, shape):
    from peft import PeftModel
    model = pytorch(shape)
    without = peft_answers(model)
    export_prompt(PROMPT, tmp_path / 'adapter', 'peft')
    theirs = peft_answers(PeftModel.from_pretrained(model, tmp_path / 'adapter'))
    assert_same_answers(theirs, our_answers(shape, ROWS))
    assert np.abs(theirs[0] - without[0]).max() > 0.1  # the prompt acts


def train_in_peft(model, config, steps=3):
    """Train a few steps on random targets, so that no row is what it was."""
    import torch
    from peft import get_peft_model
    torch.manual_seed(0)
    model = get_peft_model(model, config)
    data = reference.make_inputs(CONFIG)
    ids, labels = (torch.from_numpy(data[name]).long() for name in ('ids', 'targets'))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss.backward()
        optimizer.step()
    return model


def peft_config(kind: str):
    from peft import PromptEncoderConfig, PromptTuningConfig
    common = dict(task_type='SEQ_2_SEQ_LM', num_virtual_tokens=5)
    return {'prompt tuning': lambda: PromptTuningConfig(**common),
            'one submodule': lambda: PromptTuningConfig(**common, num_transformer_submodules=1),
            'P-tuning': lambda: PromptEncoderConfig(**common, encoder_hidden_size=8),
            'P-tuning by LSTM': lambda: PromptEncoderConfig(
                **common, encoder_hidden_size=8, encoder_reparameterization_type='LSTM'),
            }[kind]()


@pytest.mark.parametrize('kind', [
    'prompt tuning', 'P-tuning', pytest.param('one submodule', marks=pytest.mark.slow),
    pytest.param('P-tuning by LSTM', marks=pytest.mark.slow)])
def test_a_prompt_trained_in_peft_gives_the_same_logits_and_text_here(pytorch, tmp_path, kind):
    model = train_in_peft(pytorch(), peft_config(kind))
    model.save_pretrained(tmp_path / 'adapter')
    imported = import_prompt(tmp_path / 'adapter', MODEL, TASK)
    assert imported.prompt.rows.shape == (5, CONFIG.d_model)
    assert imported.metadata.method == f'imported from PEFT {kind.split(" by")[0]}'.replace(
        'one submodule', 'prompt tuning')
    assert_same_answers(peft_answers(model), our_answers('t5_1_1', imported.prompt.rows))


def test_of_rows_for_both_stacks_those_for_the_encoder_are_imported_exactly(pytorch, tmp_path):
    model = train_in_peft(pytorch(), peft_config('prompt tuning'))
    model.save_pretrained(tmp_path)
    stored = model.prompt_encoder['default'].embedding.weight.detach().numpy()
    assert stored.shape == (10, CONFIG.d_model)
    assert import_prompt(tmp_path, MODEL, TASK).prompt.rows.tobytes() == stored[:5].tobytes()


@pytest.mark.parametrize('submodules', [1, None])
def test_each_task_of_multitask_prompt_tuning_gives_the_same_text_here(
        pytorch, tmp_path, submodules):
    """With rows for the decoder too (PEFT's default) PEFT's own generation leaves those out."""
    import torch
    from peft import MultitaskPromptTuningConfig, get_peft_model
    torch.manual_seed(0)
    model = get_peft_model(pytorch(), MultitaskPromptTuningConfig(
        task_type='SEQ_2_SEQ_LM', num_virtual_tokens=5, num_tasks=2, num_ranks=2,
        num_transformer_submodules=submodules)).eval()
    for factor in ('prefix_task_cols', 'prefix_task_rows'):
        torch.nn.init.normal_(getattr(model.prompt_encoder['default'], factor))
    model.save_pretrained(tmp_path / 'adapter')
    data = reference.make_inputs(CONFIG)
    ids = torch.from_numpy(data['ids']).long()
    given = {'input_ids': ids, 'attention_mask': (ids != 0).long()}
    with pytest.raises(ValueError, match='2 tasks, and none is chosen; .* --parameter=N'):
        import_prompt(tmp_path / 'adapter', MODEL, TASK)
    with pytest.raises(ValueError, match='2 is chosen; give the number of one, 0 to 1'):
        import_prompt(tmp_path / 'adapter', MODEL, TASK, parameter='2')
    for task in (0, 1):
        imported = import_prompt(tmp_path / 'adapter', MODEL, TASK, parameter=str(task))
        assert imported.metadata.method.endswith(f'PEFT multitask prompt tuning, task {task}')
        logits, tokens = our_answers('t5_1_1', imported.prompt.rows)
        chosen = torch.full((len(ids),), task)
        with torch.no_grad():
            theirs = model.generate(**given, task_ids=chosen, max_new_tokens=TOKENS)[:, 1:]
            np.testing.assert_array_equal(tokens[:, :theirs.shape[1]], theirs)
            if submodules == 1:  # PEFT puts the decoder's rows in front of the logits otherwise
                scores = model(**given, task_ids=chosen,
                               labels=torch.from_numpy(data['targets']).long()).logits
                real = data['weights'] > 0
                np.testing.assert_allclose(logits[real], scores[real], rtol=0, atol=2e-4)


def test_weights_of_older_releases_are_read_without_unpickling(pytorch, tmp_path):
    model = train_in_peft(pytorch(), peft_config('prompt tuning'), steps=1)
    model.save_pretrained(tmp_path, safe_serialization=False)
    assert (tmp_path / peft.PICKLED).is_file() and not (tmp_path / peft.WEIGHTS).exists()
    stored = model.prompt_encoder['default'].embedding.weight.detach().numpy()
    assert import_prompt(tmp_path, MODEL, TASK).prompt.rows.tobytes() == stored[:5].tobytes()


@pytest.mark.parametrize(('kind', 'reason'), [
    ('PREFIX_TUNING', "decoder's self-attention.*no rows before the input"),
    ('CARTRIDGE', "decoder's self-attention.*no rows before the input"),
    ('LORA', 'changes the model itself'),
])
def test_what_peft_saves_of_other_methods_is_refused_with_the_reason(
        pytorch, tmp_path, kind, reason):
    import peft as theirs
    config = {'PREFIX_TUNING': lambda: theirs.PrefixTuningConfig(
                  task_type='SEQ_2_SEQ_LM', num_virtual_tokens=4),
              'CARTRIDGE': lambda: theirs.CartridgeConfig(
                  task_type='SEQ_2_SEQ_LM', num_virtual_tokens=4),
              'LORA': lambda: theirs.LoraConfig(task_type='SEQ_2_SEQ_LM', target_modules=['q']),
              }[kind]()
    theirs.get_peft_model(pytorch(), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"peft_type '{kind}', which cannot be imported.*{reason}"):
        import_prompt(tmp_path, MODEL, TASK)


def test_peft_reads_our_configuration_without_a_word(pytorch, folder, recwarn):
    from peft import PeftConfig
    config = PeftConfig.from_pretrained(folder)
    assert type(config).__name__ == 'PromptTuningConfig' and config.num_virtual_tokens == 5
    assert config.base_model_name_or_path == 'google/t5-tiny' and config.inference_mode
    assert not [w for w in recwarn if 'peft' in str(w.filename)]


# Without PEFT


def test_out_and_in_again_changes_no_bit(tmp_path):
    odd = np.array([[-0.0, 1e-45, 3e7], [1 / 3, -1e-20, 748.7309]], np.float32)
    export_prompt(PromptFile(Prompt(odd), METADATA), tmp_path / 'a', 'peft')
    model = opened_model('tiny', 'w1', 'v1', 3)
    back = import_prompt(tmp_path / 'a', model, TASK)
    assert back.prompt.rows.tobytes() == odd.tobytes() and back.metadata.task == TASK
    assert back.metadata.method == 'imported from PEFT prompt tuning (trained for google/t5-tiny)'
    export_prompt(back, tmp_path / 'b', 'peft', base_model='google/t5-tiny')
    assert ((tmp_path / 'b' / peft.WEIGHTS).read_bytes()
            == (tmp_path / 'a' / peft.WEIGHTS).read_bytes())


def test_the_folder_holds_three_files_with_usual_rights(folder):
    assert sorted(os.listdir(folder)) == ['README.md', 'adapter_config.json',
                                          'adapter_model.safetensors']
    assert os.listdir(folder.parent) == ['adapter']
    umask = os.umask(0)
    os.umask(umask)
    assert (folder / peft.CONFIG).stat().st_mode & 0o777 == 0o666 & ~umask
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask


def test_the_card_tells_the_hub_and_the_reader(folder):
    huggingface_hub = pytest.importorskip('huggingface_hub')
    card = huggingface_hub.ModelCard.load(folder / 'README.md')
    assert card.data.library_name == 'peft' and card.data.base_model == 'google/t5-tiny'
    assert 'prompt-tuning' in card.data.tags
    for told in ('sst2 sentence: {text}', '{"0": "negative"}', '`w1`', '0.75', '300, 5',
                 '5 virtual tokens of width 24'):
        assert told in card.text, told


@pytest.mark.parametrize('base_model', ['/home/someone/t5', 'package:a/b/c', 'ev\nil: [', '`x`'])
def test_a_base_model_off_the_hub_stays_out_of_the_front_matter(tmp_path, base_model):
    huggingface_hub = pytest.importorskip('huggingface_hub')
    export_prompt(PROMPT, tmp_path / 'a', 'peft', base_model=base_model)
    card = huggingface_hub.ModelCard.load(tmp_path / 'a' / 'README.md')
    assert card.data.base_model is None and card.data.library_name == 'peft'
    example = re.search('```python\n(.*?)\n```', card.text, re.DOTALL)[1]
    compile(example, 'example', 'exec')
    config = json.loads((tmp_path / 'a' / peft.CONFIG).read_text())
    assert config['base_model_name_or_path'] == base_model


@pytest.mark.parametrize('layout', [
    Layout('after'), Layout('around'), Layout('marker'), Layout('after', after_end=True)])
def test_layouts_that_peft_cannot_express_are_not_exported(tmp_path, layout):
    prompt = PromptFile(Prompt(ROWS), dataclasses.replace(METADATA, layout=layout))
    with pytest.raises(ValueError, match=f"stands '{layout.placement}'.*before the text alone"):
        export_prompt(prompt, tmp_path / 'a', 'peft')
    assert not os.listdir(tmp_path)


def test_a_prompt_without_rows_is_not_exported(tmp_path):
    with pytest.raises(ValueError, match='no rows'):
        export_prompt(PromptFile(Prompt(ROWS[:0]), METADATA), tmp_path / 'a', 'peft')
    assert not os.listdir(tmp_path)


def test_a_folder_is_replaced_only_when_told(folder):
    other = PromptFile(Prompt(2 * ROWS), METADATA)
    (folder / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='adapter exists already.*overwritten'):
        export_prompt(other, folder, 'peft')
    assert (import_prompt(folder, MODEL, TASK).prompt.rows == ROWS).all()
    export_prompt(other, folder, 'peft', overwrite=True)
    assert (import_prompt(folder, MODEL, TASK).prompt.rows == 2 * ROWS).all()
    assert (folder / 'notes.txt').read_text() == 'mine'
    file = folder / 'notes.txt'
    with pytest.raises(FileExistsError, match='is no folder'):
        export_prompt(other, file, 'peft', overwrite=True)


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / 'a').mkdir()
    export_prompt(PROMPT, tmp_path / 'a', 'peft')
    assert (import_prompt(tmp_path / 'a', MODEL, TASK).prompt.rows == ROWS).all()


@pytest.mark.parametrize('existing', [False, True])
@pytest.mark.parametrize('failing', [1, 2, 3])
def test_a_write_that_breaks_off_leaves_no_adapter_of_two_halves(
        tmp_path, monkeypatch, existing, failing):
    if existing:
        export_prompt(PROMPT, tmp_path / 'a', 'peft')
    fsync, calls = os.fsync, []

    def fail(descriptor):
        # Files only: a folder that cannot be synchronised is no failure.
        if pathlib.Path(os.readlink(f'/proc/self/fd/{descriptor}')).is_file():
            calls.append(descriptor)
            if len(calls) == failing:
                raise OSError('disk full')
        return fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match='disk full'):
        export_prompt(PromptFile(Prompt(2 * ROWS), METADATA), tmp_path / 'a', 'peft',
                      overwrite=True)
    monkeypatch.undo()
    assert not list(tmp_path.rglob('.*'))
    if existing:
        with pytest.raises(FileNotFoundError, match='adapter_config.json does not exist'):
            import_prompt(tmp_path / 'a', MODEL, TASK)
    else:
        assert not os.listdir(tmp_path)


def rewrite(folder, **changes):
    """Change entries of the configuration; None as a value is JSON's null."""
    config = json.loads((folder / peft.CONFIG).read_text()) | changes
    (folder / peft.CONFIG).write_text(json.dumps(config))


def store(folder, **tensors):
    safetensors.numpy.save_file(tensors, folder / peft.WEIGHTS)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'peft_type': 'PREFIX_TUNING'}, 'on T5 it trains keys and values'),
    ({'peft_type': 'MULTITASK_PROMPT_TUNING'}, 'num_tasks None; expected a whole number'),
    ({'peft_type': 'MULTITASK_PROMPT_TUNING', 'num_tasks': 1, 'num_ranks': 1},
     'expected prompt_embeddings, prefix_task_cols, prefix_task_rows alone'),
    ({'peft_type': 'ADAPTION_PROMPT'}, 'decoder-only'),
    ({'peft_type': 'CPT'}, 'decoder-only'),
    ({'peft_type': 'IA3'}, 'changes the model itself, or is not known here; expected one'),
    ({'peft_type': None}, 'peft_type None.*names no method'),
    ({'peft_type': ['LORA']}, 'names no method'),
    ({'task_type': 'CAUSAL_LM'}, "task_type 'CAUSAL_LM'; expected 'SEQ_2_SEQ_LM'"),
    ({'task_type': None}, 'task_type None; expected'),
    ({'num_virtual_tokens': 4}, r'shape \[5, 24\] but adapter_config.json says \[4, 24\]'),
    ({'num_virtual_tokens': 10**15}, r'says \[1000000000000000, 24\]'),
    ({'num_virtual_tokens': 0}, 'num_virtual_tokens 0; expected a whole number'),
    ({'num_virtual_tokens': 5.0}, 'num_virtual_tokens 5.0; expected a whole number'),
    ({'num_virtual_tokens': True}, 'num_virtual_tokens True; expected a whole number'),
    ({'token_dim': 23}, r'says \[5, 23\]; the files are damaged or belong to two adapters'),
    ({'num_transformer_submodules': 2}, r'says \[10, 24\]'),
    ({'num_transformer_submodules': None}, r'says \[10, 24\]'),
])
def test_configurations_that_do_not_fit_are_refused(folder, changes, message):
    rewrite(folder, **changes)
    with pytest.raises(ValueError, match=message):
        import_prompt(folder, MODEL, TASK)


@pytest.mark.parametrize(('tensors', 'message'), [
    ({'prompt_embeddings': ROWS, 'lm_head.weight': ROWS}, 'what else was trained would be lost'),
    ({'embedding.weight': ROWS}, 'expected prompt_embeddings alone'),
    ({'prompt_embeddings': ROWS.astype(np.int32)}, 'as I32; expected'),
    ({'prompt_embeddings': ROWS[None]}, r'shape \[1, 5, 24\] but'),
    ({'prompt_embeddings': np.where(ROWS > 1, np.nan, ROWS)}, 'not finite'),
    ({'prompt_embeddings': 1e30 * ROWS}, 'which no prompt does'),
    ({'prompt_embeddings': 1e300 * ROWS.astype(np.float64)}, 'not finite in float32'),
])
def test_weights_that_do_not_fit_are_refused(folder, tensors, message):
    store(folder, **tensors)
    with pytest.raises(ValueError, match=message):
        import_prompt(folder, MODEL, TASK)


@pytest.mark.parametrize('dtype', ['float16', 'float64', 'bfloat16'])
def test_adapters_of_any_float_type_are_read(folder, dtype):
    rows = np.asarray(jnp.asarray(ROWS, dtype)) if dtype == 'bfloat16' else ROWS.astype(dtype)
    store(folder, prompt_embeddings=rows)
    imported = import_prompt(folder, MODEL, TASK).prompt.rows
    np.testing.assert_array_equal(imported, rows.astype(np.float32))


def test_a_prompt_for_another_width_is_refused(folder):
    with pytest.raises(ValueError, match=r'has D=24 but tiny has D=512'):
        import_prompt(folder, opened_model('tiny', 'w1', 'v1', 512), TASK)


def test_a_layout_that_peft_does_not_have_is_refused(folder):
    with pytest.raises(ValueError, match="placement 'after'; use 'before'"):
        import_prompt(folder, MODEL, TASK, Layout('after'))


def test_missing_files_are_named(folder):
    (folder / peft.WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match='adapter_model.safetensors does not exist'):
        import_prompt(folder, MODEL, TASK)
    (folder / peft.CONFIG).unlink()
    (folder / peft.CARD).unlink()
    with pytest.raises(FileNotFoundError, match='no prompt in the folder'):
        import_prompt(folder, MODEL, TASK)
    with pytest.raises(FileNotFoundError, match='adapter_config.json does not exist'):
        import_prompt(folder, MODEL, TASK, form='peft')


def test_an_adapter_of_the_hub_is_had_at_a_revision(monkeypatch, folder):
    asked = []

    def snapshot_download(repository, revision, allow_patterns):
        asked.append((repository, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr('huggingface_hub.snapshot_download', snapshot_download)
    np.testing.assert_array_equal(import_prompt('me/mine@v1', MODEL, TASK).prompt.rows, ROWS)
    assert inspect_prompt('me/mine@v1')['path'] == 'me/mine@v1'
    assert asked == 2 * [('me/mine', 'v1', [peft.CONFIG, peft.WEIGHTS, peft.PICKLED])]
    with pytest.raises(FileNotFoundError, match='no prompt at me/mine: .* as OWNER/NAME@main'):
        import_prompt('me/mine', MODEL, TASK)  # a mistyped path asks for nothing


@pytest.mark.parametrize('name', ['\x1b[2J', 'a\nb', '\ud800', 10_000 * 'x', 7])
def test_a_name_that_cannot_be_shown_is_left_out(folder, name):
    rewrite(folder, base_model_name_or_path=name)
    assert import_prompt(folder, MODEL, TASK).metadata.method == 'imported from PEFT prompt tuning'


def test_an_adapter_with_a_name_of_its_own_is_told(folder):
    folder.rename(folder.with_name('mine'))
    with pytest.raises(FileNotFoundError, match='no prompt in the folder .*; there is .*/mine$'):
        import_prompt(folder.parent, MODEL, TASK)


def test_an_unknown_form_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="cannot import from 'onnx'; choose one of peft, t5x, nu"):
        import_prompt(folder, MODEL, TASK, form='onnx')
    with pytest.raises(ValueError, match="cannot export to 't5x'; choose one of peft, numpy"):
        export_prompt(PROMPT, tmp_path / 'x', 't5x')
