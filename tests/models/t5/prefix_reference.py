"""Prefixes for the tiny models, and PyTorch's T5 with keys and values concatenated by hand."""

import functools
import types
import zlib

import numpy as np

from jax_prompt.models.t5.model import T5
from tests.models.t5 import reference

STACKS = ('encoder', 'decoder', 'cross')


def make_prefix(config, stacks=STACKS, prompts: int = 1, positions: int = 3) -> dict:
    """Draw keys and values large enough that every position shows in the logits."""
    def draw(name, layers, heads, width):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        # Soft attention, so that rounding errors do not grow from layer to layer.
        return 0.5 * rng.standard_normal((prompts, layers, heads, positions, width), np.float32)

    shapes = T5(config).prefix_shapes
    return {stack: tuple(draw(f'{stack}/{part}', *shapes[stack]) for part in ('keys', 'values'))
            for stack in stacks}


def _attend(attention, keys_values, hidden_states, mask=None, key_value_states=None,
            position_bias=None, encoder_hidden_states=None, attention_mask=None, **_):
    """Attend as T5Attention and UMT5Attention do, with a prefix [1, H, M, K] in front."""
    import torch

    mask = attention_mask if mask is None else mask
    source = key_value_states if encoder_hidden_states is None else encoder_hidden_states
    source = hidden_states if source is None else source

    def heads(projected):
        return projected.view(*projected.shape[:2], attention.n_heads, -1).transpose(1, 2)

    query, own = heads(attention.q(hidden_states)), [heads(attention.k(source)),
                                                     heads(attention.v(source))]
    key, value = [torch.cat([front.expand(len(query), -1, -1, -1), one], dim=2)
                  for front, one in zip(keys_values, own, strict=True)]
    queries, keys, front = query.shape[2], own[0].shape[2], keys_values[0].shape[2]
    if position_bias is None:
        position_bias = torch.zeros(1, attention.n_heads, queries, keys)
        if attention.has_relative_attention_bias:
            position_bias = attention.compute_bias(queries, keys)
    logits = query @ key.transpose(2, 3)
    logits[..., front:] += position_bias
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    if mask is not None:
        logits[..., front:] += mask
    mixed = (logits.softmax(-1) @ value).transpose(1, 2).reshape(*hidden_states.shape[:2], -1)
    out = attention.o(mixed)
    return (out, None) if encoder_hidden_states is not None or 'UM' in type(
        attention).__name__ else (out, position_bias, None)


def put_in_front(model, prefix: dict) -> None:
    """Give each attention of transformers' model its layer of a prefix of torch tensors."""
    for stack, (keys, values) in prefix.items():
        blocks = (model.encoder if stack == 'encoder' else model.decoder).block
        for number, block in enumerate(blocks):
            attention = (block.layer[1].EncDecAttention if stack == 'cross' else
                         block.layer[0].SelfAttention)
            attention.forward = types.MethodType(functools.partial(
                lambda own, *args, front, **more: _attend(own, front, *args, **more),
                front=(keys[:, number], values[:, number])), attention)


def torch_answers(config, prefix: dict, data: dict) -> dict:
    """Return PyTorch's logits, loss, and the gradients of the rows and of the prefix."""
    import torch

    data = {name: torch.from_numpy(array) for name, array in data.items()}
    model = reference.torch_model(config, reference.make_frozen(config))
    prefix = {stack: tuple(torch.from_numpy(one).requires_grad_() for one in keys_values)
              for stack, keys_values in prefix.items()}
    model.set_attn_implementation('eager')  # whose masks are numbers, the causal one too
    put_in_front(model, prefix)
    rows, ids = data['prompt'].clone().requires_grad_(), data['ids'].long()
    embedded = torch.cat([rows.expand(len(ids), -1, -1), model.shared(ids)], dim=1)
    mask = torch.cat([torch.ones(len(ids), len(rows), dtype=torch.long), (ids != 0).long()], dim=1)
    logits = model(inputs_embeds=embedded, attention_mask=mask, use_cache=False,
                   decoder_input_ids=data['inputs'].long()).logits
    log_z = torch.logsumexp(logits, dim=-1)
    chosen = torch.gather(logits, -1, data['targets'].long()[..., None])[..., 0]
    loss = ((log_z - chosen + reference.Z_LOSS * log_z**2) * data['weights']).sum()
    loss.backward()
    return {'logits': logits.detach().numpy(), 'loss': loss.detach().numpy(),
            'gradient': rows.grad.numpy()} | {
        f'{stack}/{part}': one.grad.numpy() for stack, keys_values in prefix.items()
        for part, one in zip(('keys', 'values'), keys_values, strict=True)}


def our_answers(config, prefix: dict, data: dict, **options) -> dict:
    """Return the same of this project's model."""
    import jax
    import jax.numpy as jnp

    from jax_prompt.models.forward import score
    from jax_prompt.prompts.prompt import Prompt
    from jax_prompt.training.step import token_loss

    model, frozen = T5(config, **options), jax.tree.map(jnp.asarray, reference.make_frozen(config))
    batch = reference.as_batch(data, config.vocab_size)

    def loss_fn(prompt):
        logits_BLV = score(model, frozen, prompt, batch)
        return token_loss(logits_BLV, batch['decoder_target_tokens'],
                          batch['decoder_loss_weights'], reference.Z_LOSS)[0], logits_BLV

    (loss, logits), gradient = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(
        Prompt(data['prompt'], prefix=prefix))
    return {'logits': logits, 'loss': loss, 'gradient': gradient.rows} | {
        f'{stack}/{part}': one for stack, keys_values in gradient.prefix.items()
        for part, one in zip(('keys', 'values'), keys_values, strict=True)}
