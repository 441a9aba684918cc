"""Every method: chosen in gin, trained by the command, used by `predict` and by PEFT."""

import numpy as np
import pytest

from jax_prompt import cli
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.models.forward import score
from jax_prompt.models.open import open_model
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.methods import METHODS
from jax_prompt.prompts.prompt import no_prompt
from tests.models.t5.reference import torch_model

SETTINGS = {'residual': ['residual.width=6'], 'dpt': ['dpt.rank=3'],
            'superpos': ['superpos.entries=9'], 'wayward': ['wayward.text=film'],
            'dept': ['dept.rank=2']}


#: What does not fold into rows of a prompt, and has tests of its own.
NOT_FOLDED = {'dept', 'model_tuning', 'prefix_tuning'}


def train(method, world, tmp_path):
    """Return the folder of a run of one method."""
    chosen = [f'prompt.method=@{method}()', *SETTINGS.get(method, []),
              'file_task.inputs_template=review : {text}',
              'file_task.labels={"0": "negative", "1": "positive"}', 'prompt.rows=5',
              'settings.steps=3', 'settings.batch_size=8', 'settings.max_buckets=1',
              'settings.evaluate_every=3', 'train.quiet=True']
    assert cli.main(['train', f'--model={world / "model"}', f'--task={world / "reviews.csv"}',
                     f'--output={tmp_path / "run"}', *(f'--gin.{line}' for line in chosen)]) == 0
    return tmp_path / 'run'


@pytest.fixture(params=sorted(METHODS.keys() - NOT_FOLDED))
def run(request, world, tmp_path):
    return train(request.param, world, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('method, why', [
    ('dept', 'rows to the text (method dept), which peft cannot say'),
    ('prefix_tuning', 'has a prefix of keys and values, which no other tool reads')])
def test_what_does_not_fold_is_predicted_with_and_its_export_refused(method, why, world, tmp_path,
                                                                     capsys):
    folder, texts = train(method, world, tmp_path), tmp_path / 'in.txt'
    prompt = f'--prompt={folder / "prompt.safetensors"}'
    texts.write_text('the film was great\nthe plot was dull\n' * 20)
    assert cli.main(['predict', f'--model={world / "model"}', prompt, f'--inputs={texts}',
                     f'--output={tmp_path / "out.txt"}']) == 0
    assert set((tmp_path / 'out.txt').read_text().split()) <= {'negative', 'positive'}
    capsys.readouterr()
    assert cli.main(['export', prompt, '--to=peft', f'--output={tmp_path / "adapter"}']) == 2
    told = capsys.readouterr().err
    assert why in told
    assert told.count('\n') == 1 and not (tmp_path / 'adapter').exists()


@pytest.mark.slow
def test_what_a_method_saves_is_used_by_predict_and_by_peft(run, world, tmp_path):
    torch, peft = pytest.importorskip('torch'), pytest.importorskip('peft')
    prompt, texts = run / 'prompt.safetensors', tmp_path / 'in.txt'
    texts.write_text('the film was great\nthe plot was dull\n')
    assert cli.main(['predict', f'--model={world / "model"}', f'--prompt={prompt}',
                     f'--inputs={texts}', f'--output={tmp_path / "out.txt"}']) == 0
    assert set((tmp_path / 'out.txt').read_text().split()) <= {'negative', 'positive'}
    assert cli.main(['export', f'--prompt={prompt}', '--to=peft',
                     f'--output={tmp_path / "adapter"}']) == 0

    opened, file = open_model(str(world / 'model')), load_prompt(prompt)
    text = TextTask.from_dict(file.metadata.task).render({'text': 'the film was great'})
    words = [*opened.vocabulary.encode(text), opened.model.tokens.eos]
    targets = np.array([[5, 6, 1]], np.int32)
    theirs = torch_model(opened.model.config, opened.frozen)
    theirs.config.decoder_start_token_id = theirs.generation_config.decoder_start_token_id = 0
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / 'adapter').eval()
    with torch.no_grad():
        logits = adapted(input_ids=torch.tensor([words]), attention_mask=torch.ones(
            1, len(words), dtype=torch.long), decoder_input_ids=torch.tensor([[0, 5, 6]])).logits
    ids = np.array([[*range(opened.model.vocab_size, opened.model.vocab_size + 5), *words]])
    batch = {'encoder_input_tokens': ids, 'decoder_input_tokens': np.pad(
        targets[:, :-1], ((0, 0), (1, 0)))}
    ours = score(opened.model, opened.frozen, file.prompt, batch)
    np.testing.assert_allclose(ours, logits.numpy(), atol=1e-4)
    plain = {**batch, 'encoder_input_tokens': ids[:, 5:]}
    without = score(opened.model, opened.frozen, no_prompt(opened.model.d_model), plain)
    assert np.abs(ours - without).max() > 1e-2  # the prompt acts
