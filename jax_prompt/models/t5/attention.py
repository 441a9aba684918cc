"""The encoder's self-attention as one fused kernel of cuDNN, for NVIDIA GPUs.

XLA writes the logits of all heads to memory, [B, H, S, S] in float32, and keeps the weights for the
backward pass. A fused kernel computes both on the chip, block by block, forward and again backward
(FlashAttention: Dao et al. 2022, arXiv:2205.14135), and cuDNN's adds T5's position bias in between,
in float32. JAX's own kernels in Pallas take no bias (jax 0.12), so there is no other choice.

What cuDNN is given is chosen so that the result is T5's:

* The bias has the dtype of the activations, bfloat16. That is no rounding where the frozen table is
  bfloat16 too. (A float32 bias gave NaN gradients: jax issue 32242.)
* The bias is frozen. `jax.nn.dot_product_attention` always has its gradient computed, [1, H, S, S]
  summed over the batch, in every layer; here it is left out.
* Pads stand at the end of a row, so that a length a row says where they are, and one bias serves
  all rows. cuDNN needs that length even where nothing is padded: without it, a row whose logits are
  far below zero, as T5's unscaled ones may be, can get NaN gradients on Hopper (pytorch issue
  196678, cudnn-frontend issue 1072).
* Packed rows have a bias each, [B, H, S, S], with the other segments masked: more to read, but
  still a bfloat16 array for all layers instead of a float32 one for each.
* No query is ever without a key: differences of two huge negative numbers are not to be trusted.

The backward kernel sums with atomic additions: two runs differ in the last bits, unless
XLA_FLAGS=--xla_gpu_deterministic_ops=true.
"""

import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.positions import MASKED
from jax_prompt.types import Array

#: How the encoder may attend.
ATTENTIONS = ('xla', 'cudnn')

#: What cuDNN computes in, among the dtypes of activations.
_CUDNN_DTYPES = ('bfloat16',)
#: Head widths that cuDNN has on every GPU since Ampere.
_WIDTH_MULTIPLE, _LARGEST_WIDTH = 8, 128
_OLDEST_GPU = (8, 0)  # Ampere


class FusedBias(NamedTuple):
    """What the fused kernel is told of positions; stands where XLA's biases stand.

    Attributes:
      bias: dtype[1, H, S, S], or [B, H, S, S] for packed rows; None until a layer adds its own.
      lengths_B: int32[B], how many positions of a row are keys at all, from its start.
      segments_BS: int32[B, S] for packed rows, pads a segment of their own; None for others.
    """

    bias: Array | None
    lengths_B: Array
    segments_BS: Array | None

    def with_positions(self, bias_1HST: Array, dtype: jnp.dtype) -> 'FusedBias':
        """Take the position bias float32[1, H, S, S] in."""
        bias = bias_1HST.astype(dtype)
        if self.segments_BS is not None:
            same_B1ST = self.segments_BS[:, None, :, None] == self.segments_BS[:, None, None, :]
            bias = jnp.where(same_B1ST, bias, jnp.asarray(MASKED, dtype))
        return self._replace(bias=bias)


def check_attention(attention: str, config: T5Config, dtype: jnp.dtype,
                    dropout_rate: float) -> None:
    """Refuse what the chosen attention cannot compute, rather than compute it otherwise.

    Args:
      attention: one of `ATTENTIONS`.
      config: gives the width of a head.
      dtype: of activations.
      dropout_rate: of the frozen model while training.

    Raises:
      ValueError: no such attention, or what of the model cuDNN does not have.
    """
    if not _fused(attention):
        return
    if jnp.dtype(dtype).name not in _CUDNN_DTYPES:
        raise ValueError(f"attention='cudnn' computes in bfloat16, but activations are "
                         f"{jnp.dtype(dtype).name}; choose dtype='bfloat16' or attention='xla'")
    if dropout_rate > 0.0:
        raise ValueError(f"attention='cudnn' has no dropout of attention weights, but dropout_rate "
                         f"is {dropout_rate}; choose dropout_rate=0 or attention='xla'")
    if config.d_kv % _WIDTH_MULTIPLE or config.d_kv > _LARGEST_WIDTH:
        raise ValueError(f"attention='cudnn' has heads of {_WIDTH_MULTIPLE}, "
                         f'{2 * _WIDTH_MULTIPLE}, ... {_LARGEST_WIDTH} numbers, but {config.name} '
                         f"has d_kv={config.d_kv}; choose attention='xla'")


def check_device(attention: str) -> None:
    """Refuse an attention that the devices at hand do not have.

    Args:
      attention: one of `ATTENTIONS`.

    Raises:
      ValueError: no such attention, or another device, which it names.
    """
    if not _fused(attention):
        return
    device = jax.devices()[0]
    if device.platform != 'gpu' or 'cuda' not in device.client.platform_version.lower():
        raise ValueError(f"attention='cudnn' needs an NVIDIA GPU, but JAX runs on "
                         f"{device.device_kind} ({device.platform}); choose attention='xla'")
    if tuple(map(int, device.compute_capability.split('.'))) < _OLDEST_GPU:
        raise ValueError(f"attention='cudnn' needs an NVIDIA GPU of compute capability 8.0 or "
                         f'later, but {device.device_kind} has {device.compute_capability}; '
                         "choose attention='xla'")


def _fused(attention: str) -> bool:
    """Say whether an attention is the fused one."""
    if attention not in ATTENTIONS:
        raise ValueError(f'attention={attention!r} is no way to attend; '
                         f'choose one of {", ".join(ATTENTIONS)}')
    return attention == 'cudnn'


def fit_to_kernel(hidden_BSD: Array, mask_BS: Array,
                  segment_ids_BS: Array | None) -> tuple[Array, Array, Array | None]:
    """Bring a batch into a form that the fused kernel takes.

    Its lengths are even: one more pad makes an odd one so. A row with a pad before a token, which a
    length cannot tell, becomes NaN: no feature converter makes one, and a wrong answer would go
    unseen. Packed rows may have pads anywhere.

    Args:
      hidden_BSD: the encoder's inputs.
      mask_BS: bool[B, S], True where there is a token.
      segment_ids_BS: int32[B, S] for packed rows.

    Returns:
      The same three, of even length.
    """
    length = mask_BS.shape[1]
    if segment_ids_BS is None:
        whole_B = jnp.all(mask_BS == (jnp.arange(length) < jnp.sum(mask_BS, 1)[:, None]), axis=1)
        hidden_BSD = jnp.where(whole_B[:, None, None], hidden_BSD, jnp.nan)
    if length % 2:
        mask_BS = jnp.pad(mask_BS, ((0, 0), (0, 1)))
        hidden_BSD = jnp.pad(hidden_BSD, ((0, 0), (0, 1), (0, 0)))
        if segment_ids_BS is not None:
            segment_ids_BS = jnp.pad(segment_ids_BS, ((0, 0), (0, 1)))
    return hidden_BSD, mask_BS, segment_ids_BS


def fused_bias(positions: tuple[Array, ...], mask_BS: Array, segment_ids_BS: Array | None,
               dtype: jnp.dtype) -> FusedBias:
    """Say who may look where, for the fused kernel.

    Args:
      positions: the shared position bias float32[1, H, S, S]; empty where layers own theirs.
      mask_BS: bool[B, S], True where there is a token.
      segment_ids_BS: int32[B, S] for packed rows.
      dtype: of activations.

    Returns:
      The bias. Pads see tokens, or in packed rows each other; nothing reads what they give.
    """
    lengths_B = jnp.sum(mask_BS, axis=1, dtype=jnp.int32)
    segments_BS = None
    if segment_ids_BS is not None:
        segments_BS = jnp.where(mask_BS, segment_ids_BS, -1)
        lengths_B = jnp.full_like(lengths_B, mask_BS.shape[1])
    fused = FusedBias(None, jnp.maximum(lengths_B, 1), segments_BS)
    return fused.with_positions(positions[0], dtype) if positions else fused


def fused_attention(query_BSHK: Array, key_BTHK: Array, value_BTHK: Array, fused: FusedBias,
                    activation_sharding: NamedSharding | None = None) -> Array:
    """Attend with the fused kernel.

    On several devices each runs it on its own rows and heads: left to the partitioner of JAX's
    kernel, lengths and bias may be split in another way than the queries are.

    Args:
      query_BSHK, key_BTHK, value_BTHK: of one dtype; heads after positions, as projections leave
        them.
      fused: from `fused_bias`, with a bias.
      activation_sharding: where rows live; the mesh's other axes split heads. None for one device.

    Returns:
      dtype[B, S, H, K].
    """
    operands = (query_BSHK, key_BTHK, value_BTHK, fused.bias, fused.lengths_B)
    if activation_sharding is None:
        return kernel(*operands)
    mesh, rows = activation_sharding.mesh, activation_sharding.spec[0]
    heads = tuple(axis for axis in mesh.axis_names if axis != rows)
    split = PartitionSpec(rows, None, heads)
    bias_split = PartitionSpec(None if fused.bias.shape[0] == 1 else rows, heads)
    return jax.shard_map(kernel, mesh=mesh, out_specs=split, check_vma=False, in_specs=(
        split, split, split, bias_split, PartitionSpec(rows)))(*operands)


def cudnn_attention(query_BSHK: Array, key_BTHK: Array, value_BTHK: Array, bias_GHST: Array,
                    lengths_B: Array) -> Array:
    """Call cuDNN as `jax.nn.dot_product_attention` does, but for the bias's gradient.

    Whether that is computed is an argument of what `jax.nn` calls, a private function (jax 0.10 to
    0.12); a version that calls it otherwise raises TypeError here.

    Args:
      query_BSHK, key_BTHK, value_BTHK: bfloat16; S and T are even.
      bias_GHST: bfloat16; G is B or 1.
      lengths_B: int32, the keys of each row, at least 1.

    Returns:
      bfloat16[B, S, H, K].
    """
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    unused = jnp.zeros(0, query_BSHK.dtype)
    arguments = {
        'query': query_BSHK, 'key': key_BTHK, 'value': value_BTHK,
        'bias': jax.lax.stop_gradient(bias_GHST),
        'variadic_args': (True, False),  # there is a bias; it needs no gradient
        'q_seqlen': jnp.full(query_BSHK.shape[:1], query_BSHK.shape[1], jnp.int32),
        'kv_seqlen': lengths_B, 'mask_type': cudnn.MaskType.PADDING,
        'q_offsets': unused, 'kv_offsets': unused, 'page_table_k': unused, 'page_table_v': unused,
        'scale': 1.0, 'seed': 42, 'dropout_rate': 0.0,
        'layout': cudnn.AttentionLayout.BTNH.value, 'sliding_window_length': None,
        'cudnn_version': cudnn.check_cudnn_version(), 'return_residual': False,
        'score_mod_args': (), 'score_mod': None,  # since 0.12
    }
    known = inspect.signature(cudnn._dot_product_attention).parameters
    return cudnn._dot_product_attention(
        **{name: value for name, value in arguments.items() if name in known})


#: The fused kernel, of `cudnn_attention`'s arguments; tests put another in its place.
kernel = cudnn_attention
