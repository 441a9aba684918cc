"""Tiny models of every T5 shape, with weights drawn by numpy, and PyTorch's answers to them.

The weights depend on nothing but this file, so that answers of transformers' T5 can be kept
(`make_golden.py`) and compared where PyTorch is not installed.
"""

import zlib

import numpy as np

from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.model import T5
from tests.models.t5.random_weights import param_shapes, to_hugging_face

_TINY = dict(vocab_size=37, d_model=24, d_kv=5, d_ff=40, num_heads=4, num_layers=3,
             num_decoder_layers=3, relative_attention_num_buckets=12,
             relative_attention_max_distance=20)

SHAPES = {
    't5_1_0': dict(activation='relu', gated=False, tied_head=True, scale_decoder_outputs=True),
    't5_1_1': dict(),
    'ul2': dict(activation='silu'),
    'byt5': dict(num_layers=5, num_decoder_layers=2),
    'umt5': dict(per_layer_relative_bias=True, scale_decoder_outputs=True),
    'umt5_tied': dict(per_layer_relative_bias=True, scale_decoder_outputs=True, tied_head=True),
}
NUM_ROWS = 4
Z_LOSS = 1e-4


def make_config(shape: str) -> T5Config:
    return T5Config(**_TINY | SHAPES[shape], name=shape)


def make_frozen(config: T5Config) -> dict:
    """Draw weights large enough that every part of the model shows in the logits."""
    def draw(path, leaf):
        rng = np.random.default_rng(zlib.crc32(path.encode()))
        values = rng.standard_normal(leaf.shape)
        if path.endswith('norm/scale'):
            return (1 + 0.3 * values).astype(np.float32)
        if path.endswith('embedding'):
            return values.astype(np.float32)
        inputs = config.d_model if 'wo' not in path else config.d_ff
        return (1.2 * values * inputs**-0.5).astype(np.float32)

    def walk(tree, path=''):
        if isinstance(tree, dict):
            return {name: walk(tree[name], f'{path}/{name}') for name in sorted(tree)}
        return draw(path, tree)

    return walk(param_shapes(T5(config)))


def make_inputs(config: T5Config) -> dict[str, np.ndarray]:
    """Return a batch whose rows have unequal lengths, and a prompt."""
    rng = np.random.default_rng(7)
    ids = rng.integers(2, config.vocab_size, (3, 26)).astype(np.int32)
    targets = rng.integers(2, config.vocab_size, (3, 5)).astype(np.int32)
    weights = np.ones((3, 5), np.float32)
    ids[1, 9:], ids[2, 17:] = 0, 0
    targets[1, 2:], weights[1, 2:] = 0, 0
    prompt = (1.5 * rng.standard_normal((NUM_ROWS, config.d_model))).astype(np.float32)
    inputs = np.concatenate([np.zeros((3, 1), np.int32), targets[:, :-1]], axis=1)
    return {'ids': ids, 'targets': targets, 'weights': weights, 'inputs': inputs,
            'prompt': prompt}


def as_batch(data: dict[str, np.ndarray], vocab_size: int) -> dict[str, np.ndarray]:
    """Return seqio's keys, the prompt's rows before each input."""
    rows = np.arange(vocab_size, vocab_size + NUM_ROWS, dtype=np.int32)
    before = np.broadcast_to(rows, (len(data['ids']), NUM_ROWS))
    return {
        'encoder_input_tokens': np.concatenate([before, data['ids']], axis=1),
        'decoder_input_tokens': data['inputs'],
        'decoder_target_tokens': data['targets'],
        'decoder_loss_weights': data['weights'],
    }


def torch_model(config: T5Config, frozen: dict):
    """Build transformers' PyTorch model with the same weights."""
    import torch
    import transformers

    kind = 'UMT5' if config.per_layer_relative_bias else 'T5'
    activation = {'relu': 'relu', 'gelu': 'gelu_new', 'silu': 'silu'}[config.activation]
    theirs = getattr(transformers, f'{kind}Config')(
        vocab_size=config.vocab_size, d_model=config.d_model, d_kv=config.d_kv, d_ff=config.d_ff,
        num_heads=config.num_heads, num_layers=config.num_layers,
        num_decoder_layers=config.num_decoder_layers, dropout_rate=0.0,
        relative_attention_num_buckets=config.relative_attention_num_buckets,
        relative_attention_max_distance=config.relative_attention_max_distance,
        feed_forward_proj=('gated-' if config.gated else '') + activation,
        tie_word_embeddings=config.scale_decoder_outputs)
    model = getattr(transformers, f'{kind}ForConditionalGeneration')(theirs).eval()
    if not config.tied_head:
        # transformers 5 always ties; a head of its own replaces the tied one.
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    state = {name: torch.from_numpy(np.array(array))
             for name, array in to_hugging_face(frozen, config).items()}
    missing, extra = model.load_state_dict(state, strict=False)
    assert not extra and all('embed_tokens' in name or name == 'lm_head.weight'
                             for name in missing), (missing, extra)
    return model


def torch_answers(config: T5Config, frozen: dict | None = None, data: dict | None = None,
                  held=None, dtype=None) -> dict[str, np.ndarray]:
    """Return PyTorch's logits, loss and gradient of the prompt.

    By a model of weights that are rounded to the dtype `held`, computing in another.
    """
    import torch

    data = {name: torch.from_numpy(array) for name, array in (data or make_inputs(config)).items()}
    model = torch_model(config, frozen or make_frozen(config))
    model = model.to(held or torch.float32).to(dtype or torch.float32)
    prompt = data['prompt'].clone().requires_grad_(True)
    ids = data['ids'].long()
    rows = prompt.to(model.dtype).expand(len(ids), -1, -1)
    embedded = torch.cat([rows, model.shared(ids)], dim=1)
    mask = torch.cat([torch.ones(len(ids), NUM_ROWS, dtype=torch.long), (ids != 0).long()], dim=1)
    logits = model(inputs_embeds=embedded, attention_mask=mask,
                   decoder_input_ids=data['inputs'].long()).logits.float()
    log_z = torch.logsumexp(logits, dim=-1)
    chosen = torch.gather(logits, -1, data['targets'].long()[..., None])[..., 0]
    loss = ((log_z - chosen + Z_LOSS * log_z**2) * data['weights']).sum()
    loss.backward()
    return {'logits': logits.detach().numpy(), 'loss': loss.detach().numpy(),
            'gradient': prompt.grad.numpy()}
