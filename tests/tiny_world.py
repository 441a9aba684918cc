"""A world small enough to train in: a random T5 folder with a tokenizer, and reviews to learn."""

import itertools
import json
import pathlib

import jax
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.model import T5
from tests.models.t5.random_weights import init, to_hugging_face

SUBJECTS = 'film plot cast score script ending scene hero'.split()
GOOD, BAD = 'great lovely warm clever'.split(), 'dull weak cold clumsy'.split()
WORDS = [*SUBJECTS, *GOOD, *BAD, 'the', 'was', 'and', 'review', ':', 'negative', 'positive',
         *(f'filler{i}' for i in range(8))]


def write_model(folder: pathlib.Path, seed: int = 0, d_model: int = 16,
                bytes_only: bool = False, blanks: int = 0) -> pathlib.Path:
    """Write a random T5 1.1 in Hugging Face's format, with its tokenizer, or one of bytes.

    With blanks the tokenizer has T5's first sentinels, which clozes need.
    """
    tokenizer = _tokenizer(blanks)
    size = 384 if bytes_only else tokenizer.get_vocab_size()
    config = T5Config(vocab_size=size, d_model=d_model, d_kv=8, d_ff=32, num_heads=2, num_layers=2,
                      num_decoder_layers=1, name='tiny')
    frozen = init(T5(config), jax.random.key(seed))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(to_hugging_face(frozen, config), folder / 'model.safetensors')
    (folder / 'config.json').write_text(json.dumps({
        'model_type': 't5', 'vocab_size': size, 'd_model': d_model, 'd_kv': 8, 'd_ff': 32,
        'num_heads': 2, 'num_layers': 2, 'num_decoder_layers': 1,
        'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False}))
    tokenizer.save(str(folder / 'tokenizer.json'))
    return folder


def write_reviews(path: pathlib.Path) -> pathlib.Path:
    """Write reviews of varied length whose label is in their words."""
    rows = ['text,label']
    for first, second, (label, words) in itertools.product(
            SUBJECTS, SUBJECTS, (('0', BAD), ('1', GOOD))):
        for i, word in enumerate(words):
            more = f' and the {second} was {words[i - 1]}' if (len(first) + i) % 2 else ''
            rows.append(f'the {first} was {word} {second}{more},{label}')
    path.write_text('\n'.join(rows) + '\n')
    return path


def _tokenizer(blanks: int = 0) -> Tokenizer:
    pieces = [('<pad>', 0.0), ('</s>', 0.0), ('<unk>', 0.0), ('▁', -9.0)]
    pieces += [('▁' + word, -3.0) for word in WORDS]
    pieces += [('<extra_id_99>', 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(token, special=True)
                                  for token in ('<pad>', '</s>', '<unk>', '<extra_id_99>',
                                                *(f'<extra_id_{i}>' for i in range(blanks)))])
    tokenizer.post_processor = processors.TemplateProcessing(
        single='$A </s>', special_tokens=[('</s>', 1)])
    return tokenizer
