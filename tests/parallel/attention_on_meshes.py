"""Run the encoder with fused attention on meshes of eight devices, and print what came of it.

Run by test_attention_on_meshes.py, which says what has to come of it. JAX's plain attention stands
in for cuDNN's kernel where numbers are computed; for CUDA the program is lowered, no more.
"""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.cudnn import fused_attention_stablehlo

from jax_prompt.models.t5 import attention
from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.model import T5
from jax_prompt.parallel.mesh import make_mesh
from jax_prompt.parallel.placement import place
from jax_prompt.parallel.rules import batch_sharding, frozen_shardings
from tests.models.t5.random_weights import init

B, S, D, H, K = 16, 10, 32, 8, 8
MESHES = ('data:8,model:1', 'data:2,model:4', 'data:1,model:8')


def plain(query, key, value, bias, lengths):
    return jax.nn.dot_product_attention(query, key, value, bias=bias, scale=1.0,
                                        key_value_seq_lengths=lengths, implementation='xla')


def config(own_bias: bool) -> T5Config:
    return T5Config(vocab_size=64, d_model=D, d_kv=K, d_ff=32, num_heads=H, num_layers=2,
                    num_decoder_layers=1, per_layer_relative_bias=own_bias)


def make_rows(packed: bool):
    """Return mask and segment ids; rows differ, so that a row with another's is seen."""
    lengths = 1 + np.arange(B) * 5 % S
    if not packed:
        return np.arange(S) < lengths[:, None], None
    return np.ones((B, S), bool), 1 + (np.arange(S) >= lengths[:, None]).astype(np.int32)


def compute(model: T5, mesh, packed: bool):
    """Return the encoder's outputs and the gradient of its inputs."""
    frozen = init(model, jax.random.key(0), model.dtype)
    rng = np.random.default_rng(1)
    hidden_BSD, weight_BSD = rng.standard_normal((2, B, S, D)).astype(np.float32)
    mask_BS, segments_BS = make_rows(packed)
    rows = (hidden_BSD, weight_BSD, mask_BS, segments_BS)
    if mesh is not None:
        frozen = place(frozen, frozen_shardings(mesh, frozen, T5.rules))
        rows = jax.device_put(rows, batch_sharding(mesh))

    def loss(hidden_BSD, frozen, weight_BSD, mask_BS, segments_BS):
        encoded_BSD = model.encode(frozen, hidden_BSD.astype(model.dtype), mask_BS, segments_BS)
        return jnp.sum(jnp.where(mask_BS[..., None], encoded_BSD * weight_BSD, 0)), encoded_BSD

    function = jax.jit(jax.grad(loss, has_aux=True))
    return function, (rows[0], frozen, *rows[1:])


def largest_error(ours, wanted) -> float:
    return max(float(np.abs(one - other).max() / np.abs(other).max())
               for one, other in zip(ours, wanted, strict=True))


@functools.cache
def result(packed: bool, own_bias: bool, mesh=None) -> list[np.ndarray]:
    sharding = None if mesh is None else batch_sharding(mesh)
    model = T5(config(own_bias), attention='xla' if mesh is None else 'cudnn',
               activation_sharding=sharding)
    function, operands = compute(model, mesh, packed)
    return [np.asarray(array) for array in function(*operands)]


def lowered(mesh, packed: bool) -> list[list[str]]:
    """Return the operands' types of the kernels, forward and backward, as each device has them."""
    model = T5(config(False), jnp.bfloat16, attention='cudnn',
               activation_sharding=batch_sharding(mesh))
    function, operands = compute(model, mesh, packed)
    program = function.trace(*operands).lower(lowering_platforms=('cuda',)).as_text()
    found = re.findall(r'custom_call @(__cudnn\$\w+)\(.*? : \((tensor.*?)\) -> ', program)
    return {name: re.findall(r'tensor<(\S+)>', types) for name, types in found}


def main() -> None:
    report = {}
    attention._CUDNN_DTYPES = ('bfloat16', 'float32')
    for spec in MESHES:
        mesh = make_mesh(spec)
        for packed in (False, True):
            attention.kernel = plain
            errors = [largest_error(result(packed, own, mesh), result(packed, own))
                      for own in (False, True)]
            attention.kernel = attention.cudnn_attention
            fused_attention_stablehlo.check_cudnn_version = lambda: 91000
            report[f'{spec} {"packed" if packed else "padded"}'] = {
                'errors': errors, 'operands': lowered(mesh, packed)}
    print(json.dumps(report))


if __name__ == '__main__':
    main()
