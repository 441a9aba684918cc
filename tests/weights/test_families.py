"""Every family of T5 on the Hugging Face layout gives PyTorch's logits, from every kind of file.

float32 agrees within 1e-4 of the largest logit. bfloat16 has eight bits: a weight is off by up to
2**-9 of itself, and a sum of n such products of random sign by about as much of its own size; each
of some ten sums on the way from token to logit adds its share, 2**-9 * sqrt(10) = 0.6 % on average
and some four times that at the worst of a few hundred logits. Hence 3 % of the largest logit.
"""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.models.t5.model import T5
from jax_prompt.weights.convert import convert_model
from jax_prompt.weights.load import load_weights
from tests.weights.model_files import t5x_tree, write_t5x

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

_TINY = dict(d_model=16, d_kv=4, d_ff=24, num_heads=4, num_layers=2,
             relative_attention_num_buckets=8, relative_attention_max_distance=20)

#: Family -> (class, fields of its config.json that differ, whether its head is its own). The
#: fields are those of the released models, the sizes are not.
FAMILIES = {
    'T5': ('T5', dict(vocab_size=40, feed_forward_proj='relu'), False),
    'T5 1.1, LM-adapted, T0': ('T5', dict(vocab_size=40, feed_forward_proj='gated-gelu'), True),
    'FLAN-T5': ('T5', dict(vocab_size=40, feed_forward_proj='gated-gelu', n_positions=512,
                           output_past=True), True),
    'UL2, FLAN-UL2': ('T5', dict(vocab_size=44, feed_forward_proj='gated-silu'), True),
    'mT5': ('MT5', dict(vocab_size=60, feed_forward_proj='gated-gelu',
                        tokenizer_class='T5Tokenizer'), True),
    'umT5': ('UMT5', dict(vocab_size=60, feed_forward_proj='gated-gelu'), True),
    'ByT5': ('T5', dict(vocab_size=384, feed_forward_proj='gated-gelu', num_layers=4,
                        num_decoder_layers=2), True),
    'CodeT5': ('T5', dict(vocab_size=33, feed_forward_proj='relu', bos_token_id=1,
                          eos_token_id=2, gradient_checkpointing=False), False),
    'CodeT5 gated': ('T5', dict(vocab_size=33, feed_forward_proj='gated-relu'), False),
    'CodeT5+ 220M': ('T5', dict(vocab_size=33, feed_forward_proj='relu', is_gated_act=False,
                                dense_act_fn='relu'), False),
}


#: The two that have nothing in common; the others are mixtures of them.
QUICK = ('T5', 'umT5')


@pytest.fixture(scope='module', params=[
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES])
def family(request):
    """A module of transformers with random weights, and its logits on a padded batch."""
    kind, fields, own_head = FAMILIES[request.param]
    torch.manual_seed(0)
    config = getattr(transformers, f'{kind}Config')(
        **_TINY | fields, dropout_rate=0.0, tie_word_embeddings=not own_head)
    module = getattr(transformers, f'{kind}ForConditionalGeneration')(config).eval()
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if 'norm' in name:
                weight.copy_(1 + 0.3 * torch.randn_like(weight))
            elif 'relative' in name or 'shared' in name:
                weight.copy_(torch.randn_like(weight))
            else:
                weight.copy_(torch.randn_like(weight) * weight.shape[1] ** -0.5)
        if own_head:
            module.lm_head.weight = torch.nn.Parameter(torch.randn_like(module.lm_head.weight))
        ids, targets, mask = batch(config.vocab_size)
        logits = module(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask),
                        decoder_input_ids=torch.from_numpy(targets)).logits.numpy()
    return module, logits


def batch(vocab_size):
    rng = np.random.default_rng(3)
    ids, targets = rng.integers(2, vocab_size, (2, 11)), rng.integers(2, vocab_size, (2, 5))
    mask = np.ones_like(ids)
    mask[1, 7:] = 0
    return ids, targets, mask


def our_logits(model, dtype=jnp.float32):
    ids, targets, mask = batch(model.config.vocab_size)
    return np.asarray(_logits(T5(model.config, dtype), model.frozen, ids, targets, mask > 0))


@functools.partial(jax.jit, static_argnums=0)
def _logits(model, frozen, ids, targets, mask):
    encoded = model.encode(frozen, model.embed(frozen, ids), mask)
    return model.logits(frozen, model.decode(frozen, model.embed(frozen, targets), encoded, mask))


def save_whole(module, folder):
    module.save_pretrained(folder)


def save_shards(module, folder):
    module.save_pretrained(folder, max_shard_size='4KB')
    assert len(list(folder.glob('model-*.safetensors'))) > 2


def save_torch(module, folder):
    """As transformers wrote before 4.34; transformers 5 writes safetensors alone."""
    module.config.save_pretrained(folder)
    torch.save(module.state_dict(), folder / 'pytorch_model.bin')


def save_torch_shards(module, folder):
    """With the index that transformers wrote."""
    module.config.save_pretrained(folder)
    names = list(module.state_dict())
    weight_map = {}
    for part, chosen in enumerate((names[::2], names[1::2]), 1):
        file = f'pytorch_model-0000{part}-of-00002.bin'
        torch.save({name: module.state_dict()[name] for name in chosen}, folder / file)
        weight_map |= dict.fromkeys(chosen, file)
    (folder / 'pytorch_model.bin.index.json').write_text(
        json.dumps({'metadata': {'total_size': 1}, 'weight_map': weight_map}))


SAVERS = (save_whole, save_shards, save_torch, save_torch_shards)


def assert_former_files_are_read_as_transformers_does(folder):
    """Before 5.24 transformers wrote the configuration of a umT5 so, whatever its head."""
    path = folder / 'config.json'
    content = path.read_text()
    said = json.loads(content) | dict(tie_word_embeddings=True, transformers_version='5.23.0')
    said.pop('scale_decoder_outputs', None)
    path.write_text(json.dumps(said))
    module = transformers.UMT5ForConditionalGeneration.from_pretrained(folder).eval()
    model = load_weights(folder)
    assert not model.config.tied_head and model.config.scale_decoder_outputs
    ids, targets, mask = map(torch.from_numpy, batch(model.config.vocab_size))
    with torch.no_grad():
        expected = module(input_ids=ids, attention_mask=mask, decoder_input_ids=targets).logits
    np.testing.assert_allclose(our_logits(model), expected.numpy(), rtol=1e-4, atol=1e-4)
    path.write_text(content)


def test_logits_are_pytorchs(family, tmp_path):
    """From safetensors and pytorch_model.bin, whole and in shards; from T5X; converted."""
    module, expected = family
    models = {}
    for save in SAVERS:
        folder = tmp_path / save.__name__
        folder.mkdir()
        save(module, folder)
        models[save.__name__] = load_weights(folder)
    whole = models['save_whole']
    convert_model(tmp_path / 'save_whole', tmp_path / 'converted', 'float32')
    models['converted'] = load_weights(tmp_path / 'converted')
    write_t5x(tmp_path / 't5x', t5x_tree(whole.frozen, scanned=True))
    shutil.copyfile(tmp_path / 'save_whole' / 'config.json', tmp_path / 't5x' / 'config.json')
    models['t5x'] = load_weights(tmp_path / 't5x')
    if 'umt5' in module.config.model_type:
        assert_former_files_are_read_as_transformers_does(tmp_path / 'save_whole')
    for kind, model in models.items():
        assert model.fingerprint == whole.fingerprint, kind
        assert jax.tree.all(jax.tree.map(np.array_equal, model.frozen, whole.frozen)), kind
    scale = np.abs(expected).max()
    assert np.abs(our_logits(whole) - expected).max() <= 1e-4 * scale
    rounded = our_logits(load_weights(tmp_path / 'save_whole', 'bfloat16'), jnp.bfloat16)
    # Eight bits are not twenty-four: it is not the float32 model under another name either.
    assert 1e-4 * scale < np.abs(rounded - expected).max() <= 0.03 * scale
