"""Write golden/tiny_t5.bin, a state dict as torch.save writes it, for where PyTorch is not.

    python -m tests.weights.make_torch_golden

It has what real files have: tied tensors that share a storage, one that was saved transposed, and
bfloat16 and float16 besides float32.
"""

import pathlib
import zlib

import numpy as np

from jax_prompt.models.t5.config import T5Config

PATH = pathlib.Path(__file__).parent / 'golden' / 'tiny_t5.bin'
CONFIG = T5Config(vocab_size=6, d_model=4, d_kv=2, d_ff=3, num_heads=2, num_layers=1,
                  num_decoder_layers=1, activation='relu', gated=False, tied_head=True,
                  scale_decoder_outputs=True, relative_attention_num_buckets=4)
TRANSPOSED = 'encoder.block.0.layer.0.SelfAttention.q.weight'
BFLOAT16 = 'decoder.final_layer_norm.weight'
FLOAT16 = 'encoder.final_layer_norm.weight'


def numbers() -> dict[str, np.ndarray]:
    """Draw weights that every float type holds exactly."""
    return {name: np.random.default_rng(zlib.crc32(name.encode())).integers(
        -64, 64, slot.hugging_face_shape).astype(np.float32) / 64
        for name, slot in CONFIG.slots().items()}


def main() -> None:
    import torch
    tensors = {name: torch.from_numpy(array) for name, array in numbers().items()}
    tensors[TRANSPOSED] = tensors[TRANSPOSED].T.contiguous().T
    tensors[BFLOAT16] = tensors[BFLOAT16].bfloat16()
    tensors[FLOAT16] = tensors[FLOAT16].half()
    tensors |= dict.fromkeys(CONFIG.copies(), tensors['shared.weight'])
    PATH.parent.mkdir(exist_ok=True)
    torch.save(tensors, PATH)


if __name__ == '__main__':
    main()
