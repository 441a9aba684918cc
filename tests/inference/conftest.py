"""Tiny random models of every T5 shape, and the same weights in transformers' PyTorch T5."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.inference.generate import next_logits
from jax_prompt.models.forward import encode
from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.model import T5
from jax_prompt.prompts.prompt import Prompt
from tests.models.t5.random_weights import param_shapes, to_hugging_face

_TINY = dict(vocab_size=29, d_model=16, d_kv=6, d_ff=24, num_heads=3, num_layers=2,
             num_decoder_layers=2, relative_attention_num_buckets=8,
             relative_attention_max_distance=12)

SHAPES = {
    't5-1.0': dict(activation='relu', gated=False, tied_head=True, scale_decoder_outputs=True),
    't5-1.1': dict(activation='gelu'),
    'umt5': dict(activation='gelu', per_layer_relative_bias=True),
    'byt5': dict(activation='gelu', num_layers=3, num_decoder_layers=1),
    'ul2': dict(activation='silu'),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A tiny model with its weights, a prompt, and a batch of inputs of unequal lengths."""

    model: T5
    frozen: dict
    prompt: Prompt
    texts: list[list[int]]

    def ids(self, prompted: bool, width: int = 16) -> np.ndarray:
        """Return int32[B, width], the prompt's rows before each text where asked for."""
        vocab_size = self.model.config.vocab_size
        rows = list(range(vocab_size, vocab_size + len(self.prompt.rows))) if prompted else []
        ids = np.zeros((len(self.texts), width), np.int32)
        for row, text in enumerate(self.texts):
            ids[row, :len(rows + text)] = rows + text
        return ids


@functools.cache
def make_case(shape: str) -> Case:
    """Build the case of one shape; weights are drawn large, so that outputs differ and vary."""
    model = T5(T5Config(**_TINY | SHAPES[shape], name=shape))
    draw = np.random.default_rng(6)

    def weight(path, leaf):
        names = [key.key for key in path]
        if 'scale' in names:
            return draw.uniform(0.6, 1.8, leaf.shape).astype(np.float32)
        scale = 1.0 if 'embedding' in names else 0.45
        # Soft attention, so that rounding errors do not grow from layer to layer.
        scale = 0.15 if 'query' in names else scale
        return (scale * draw.normal(size=leaf.shape)).astype(np.float32)

    frozen = jax.tree.map(jnp.asarray,
                          jax.tree_util.tree_map_with_path(weight, param_shapes(model)))
    draw = np.random.default_rng(2)
    prompt = Prompt(jnp.asarray(3 * draw.normal(size=(4, 16)), jnp.float32))
    lengths = (1, 3, 9, 5, 11, 2)
    texts = [[*draw.integers(2, 29, length - 1).tolist(), 1] for length in lengths]
    return Case(model, frozen, prompt, texts)


@pytest.fixture(params=SHAPES, scope='module')
def case(request) -> Case:
    return make_case(request.param)


@pytest.fixture(scope='module')
def one_case() -> Case:
    return make_case('t5-1.1')


@pytest.fixture(params=[False, True], ids=['plain', 'prompted'])
def prompted(request) -> bool:
    return request.param


@functools.cache
def _torch_model(shape: str):
    torch = pytest.importorskip('torch')
    import transformers
    case = make_case(shape)
    config = case.model.config
    family = 'UMT5' if config.per_layer_relative_bias else 'T5'
    fields = {name: getattr(config, name) for name in _TINY}
    activation = {'gelu': 'gelu_new'}.get(config.activation, config.activation)
    theirs = getattr(transformers, f'{family}Config')(
        feed_forward_proj='gated-gelu' if config.gated and config.activation == 'gelu' else
        f'gated-{activation}' if config.gated else activation,
        tie_word_embeddings=config.tied_head, decoder_start_token_id=0, **fields)
    model = getattr(transformers, f'{family}ForConditionalGeneration')(theirs).eval()
    if not config.tied_head:
        # transformers 5 ties every head, and scales umT5's outputs by what this flag says.
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
    weights = to_hugging_face(case.frozen, config)
    found = model.load_state_dict({name: torch.tensor(w) for name, w in weights.items()},
                                  strict=False)
    assert not found.unexpected_keys
    left = {'encoder.embed_tokens.weight', 'decoder.embed_tokens.weight'}
    assert set(found.missing_keys) <= left | ({'lm_head.weight'} if config.tied_head else set())
    return model


class PyTorch:
    """transformers' T5 with the case's weights, given embeddings with the prompt put in."""

    def __init__(self, case: Case):
        import torch
        self.case, self.model, self.torch = case, _torch_model(case.model.config.name), torch

    def inputs(self, ids: np.ndarray, prompt: Prompt) -> dict:
        torch = self.torch
        table = torch.cat([self.model.shared.weight, torch.tensor(np.asarray(prompt.rows))])
        ids = torch.tensor(ids, dtype=torch.long)
        return {'inputs_embeds': table[ids].detach(), 'attention_mask': (ids != 0).long()}

    def generate(self, ids: np.ndarray, prompt: Prompt, length: int) -> np.ndarray:
        with self.torch.no_grad():
            tokens = self.model.generate(**self.inputs(ids, prompt), max_new_tokens=length,
                                         do_sample=False, num_beams=1)[:, 1:]
        return np.pad(tokens.numpy(), ((0, 0), (0, length - tokens.shape[1])))

    def label_score(self, ids: np.ndarray, prompt: Prompt, label: list[int]) -> np.ndarray:
        torch = self.torch
        target = torch.tensor([[*label, 1]] * len(ids))
        start = torch.zeros_like(target[:, :1])
        with torch.no_grad():
            logits = self.model(**self.inputs(ids, prompt),
                                decoder_input_ids=torch.cat([start, target[:, :-1]], 1)).logits
        chosen = logits.log_softmax(-1).gather(-1, target[..., None])
        return chosen[..., 0].sum(-1).numpy()


@pytest.fixture
def pytorch(case) -> PyTorch:
    pytest.importorskip('torch')
    return PyTorch(case)


@pytest.fixture(scope='session')
def teacher_forced():
    """Return logits as training computes them: one whole decode, nothing shared or cached."""

    @functools.partial(jax.jit, static_argnums=0)
    def logits(model: T5, frozen: dict, prompt: Prompt, ids: np.ndarray, inputs: np.ndarray):
        encoded, mask = encode(model, frozen, prompt, ids)
        hidden = model.decode(frozen, model.embed(frozen, inputs), encoded, mask)
        return model.logits(frozen, hidden)

    return lambda case, ids, prompt, inputs: logits(case.model, case.frozen, prompt, ids, inputs)


@pytest.fixture(scope='session')
def cached():
    """Return logits as generation computes them, position by position from a cache."""

    @functools.partial(jax.jit, static_argnums=0)
    def logits(model: T5, frozen: dict, prompt: Prompt, ids: np.ndarray, inputs: np.ndarray):
        encoded, mask = encode(model, frozen, prompt, ids)

        def step(cache, last):
            logits, cache = next_logits(model, frozen, last, cache)
            return cache, logits

        cache = model.init_cache(frozen, encoded, mask, inputs.shape[1])
        return jax.lax.scan(step, cache, inputs.T)[1].transpose(2, 0, 1)

    return lambda case, ids, prompt, inputs: logits(case.model, case.frozen, prompt, ids, inputs)
