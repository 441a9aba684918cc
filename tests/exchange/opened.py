"""What exchanging prompts needs to know of a model that is open."""

from jax_prompt.models.open import OpenedModel
from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.model import T5


def opened_model(name: str, fingerprint: str, vocabulary_fingerprint: str,
                 d_model: int) -> OpenedModel:
    """Return a model of a width that has no weights."""
    config = T5Config(vocab_size=8, d_model=d_model, d_kv=2, d_ff=4, num_heads=1, num_layers=1,
                      num_decoder_layers=1, name=name)
    return OpenedModel(T5(config), {}, None, None, name, name, fingerprint, vocabulary_fingerprint)
