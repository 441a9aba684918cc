"""A random model with three hundred words and T5's sentinels, and reviews to search words for."""

import jax
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.data.vocabularies import HuggingFaceVocabulary
from jax_prompt.models.open import OpenedModel
from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.model import T5
from tests.models.t5.random_weights import init

_LETTERS = 'abcdefghijklmnopqrstuvwxyz'
WORDS = ['film', 'plot', 'great', 'dull', 'was', 'the', 'no', 'yes', 'review', ':', '.',
         *(f'{first}{second}x' for first in _LETTERS[:12] for second in _LETTERS)]
SPECIAL = ['<pad>', '</s>', '<unk>', '<extra_id_99>', '<extra_id_0>', '<extra_id_1>',
           '<extra_id_2>']


def vocabulary() -> HuggingFaceVocabulary:
    """Return a vocabulary of whole words."""
    pieces = [(word, 0.0) for word in SPECIAL[:3]] + [('▁', -9.0)]
    pieces += [(f'▁{word}', -3.0) for word in WORDS] + [(word, 0.0) for word in SPECIAL[3:]]
    pieces += [(letter, -20.0) for letter in _LETTERS]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single='$A </s>', special_tokens=[('</s>', 1)])
    return HuggingFaceVocabulary(tokenizer, name='words')


def open_words(seed: int = 0) -> OpenedModel:
    """Draw a model for it, whose words are near each other: else a gradient says little of them."""
    words = vocabulary()
    config = T5Config(vocab_size=words.vocab_size, d_model=16, d_kv=8, d_ff=32, num_heads=2,
                      num_layers=1, num_decoder_layers=1, name='tiny')
    model = T5(config)
    frozen = init(model, jax.random.key(seed))
    table = frozen['token_embedder']['embedding']
    shared = np.random.default_rng(1).normal(size=(1, 16)).astype(np.float32)
    frozen['token_embedder'] = {'embedding': shared + 0.15 * table}
    return OpenedModel(model, frozen, None, words, 'here', 'tiny', f'weights {seed}',
                       words.fingerprint)


def reviews(count: int, seed: int) -> list[dict[str, str]]:
    """Draw reviews."""
    draw = np.random.default_rng(seed)
    return [{'text': ' '.join(['the film was', ('dull', 'great')[number % 2],
                               *draw.choice(WORDS[11:], 4).tolist()]), 'label': str(number % 2)}
            for number in range(count)]


def make_task(**fields) -> TextTask:
    """Return the task; nobody may read the other splits before the end, see `test_leaks`."""
    splits = {'train': lambda: reviews(48, 0), 'validation': lambda: reviews(12, 1),
              'test': lambda: reviews(12, 2)}
    return TextTask('toy', fields.pop('splits', splits), **{
        'inputs_template': 'review : {text}', 'labels': {'0': 'no', '1': 'yes'},
        'inputs_length': 40} | fields)
