"""Keep what AdapterHub's `adapters` computes with prefixes, to be compared without it.

It wants an older transformers than these tests (adapters 1.3.0 with transformers 4.57), so it runs
in an environment of its own:

    python -m tests.models.t5.make_adapters_golden

AdapterHub counts a prefix into the positions of keys, which moves the text's own relative positions
(see `positions.behind_prefix`); so its position bias tables are zeros here, and what is compared is
all else: which layer gets what, masks, widths, depths and the decoder's cached generation.
"""

import pathlib

import numpy as np

FILE = pathlib.Path(__file__).parent / 'golden' / 'adapters_prefix.npz'
LENGTH, TOKENS = 3, 6
CONFIG = dict(vocab_size=37, d_model=24, d_kv=5, d_ff=40, num_heads=4, num_layers=3,
              num_decoder_layers=2, relative_attention_num_buckets=12,
              relative_attention_max_distance=20)


def inputs() -> dict[str, np.ndarray]:
    """Return ids of unequal lengths and decoder inputs."""
    rng = np.random.default_rng(7)
    ids = rng.integers(2, 37, (3, 12))
    ids[1, 5:], ids[2, 9:] = 0, 0
    targets = np.concatenate([np.zeros((3, 1), int), rng.integers(2, 37, (3, 4))], axis=1)
    return {'ids': ids, 'decoder_ids': targets}


def main() -> None:
    import adapters
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(
        feed_forward_proj='gated-gelu', tie_word_embeddings=False, dropout_rate=0.0,
        decoder_start_token_id=0, **CONFIG)).eval()
    state = model.state_dict()
    for name, tensor in state.items():
        tensor.copy_(torch.randn_like(tensor) * (0.3 if tensor.ndim > 1 else 0.1) + (
            tensor.ndim == 1))
        if 'relative_attention_bias' in name:
            tensor.zero_()
    adapters.init(model)
    model.add_adapter('prefix', config=adapters.PrefixTuningConfig(
        prefix_length=LENGTH, flat=True, dropout=0.0))
    model.set_active_adapters('prefix')
    kept, names = {}, {'encoder_prefix': 'encoder', 'self_prefix': 'decoder',
                       'cross_prefix': 'cross'}
    group = next(pool for pool in model.modules()
                 if hasattr(pool, 'prefix_tunings')).prefix_tunings['prefix']
    for name, part in group.items():
        layers = [torch.stack([layer[index][0] for layer in part(1)]) for index in range(2)]
        kept |= {f'prefix/{names[name]}/{which}': one.detach().numpy()
                 for which, one in zip(('keys', 'values'), layers, strict=True)}
    data = {name: torch.tensor(array) for name, array in inputs().items()}
    with torch.no_grad():
        mask = (data['ids'] != 0).long()
        kept['logits'] = model(input_ids=data['ids'], attention_mask=mask,
                               decoder_input_ids=data['decoder_ids']).logits.numpy()
        kept['text'] = model.generate(input_ids=data['ids'], attention_mask=mask, num_beams=1,
                                      do_sample=False, max_new_tokens=TOKENS).numpy()
    weights = {f'weight/{name}': tensor.numpy() for name, tensor in state.items()
               if 'embed_tokens' not in name}
    np.savez_compressed(FILE, **kept, **weights)


if __name__ == '__main__':
    main()
