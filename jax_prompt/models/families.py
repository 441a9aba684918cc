"""The families of models whose files can be read: another one is a module and a line here."""

from typing import Any

from jax_prompt.models.architecture import Family
from jax_prompt.models.t5 import family as t5

#: `model_type` in a Hugging Face configuration -> the family that reads it.
FAMILIES: dict[str, Family] = {'t5': t5, 'mt5': t5, 'umt5': t5}


def family_of(said: dict[str, Any], where: str) -> Family:
    """Return the family of a parsed `config.json`; the first T5s said nothing of it.

    Raises:
      ValueError: for a family that is not known.
    """
    model_type = said.get('model_type') or 't5'
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(f'{where} has model_type={model_type!r:.60}; expected one of '
                         f'{", ".join(FAMILIES)}: other models cannot be loaded')
    return FAMILIES[model_type]
