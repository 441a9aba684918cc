"""Automatic search of the words of a prompt: one strategy a file, and a line that registers it."""

from jax_prompt.search.bdpl import BDPL
from jax_prompt.search.gcg import GCG
from jax_prompt.search.hotflip import HotFlip
from jax_prompt.search.instructions import Instructions
from jax_prompt.search.label_words import LabelWords
from jax_prompt.search.pez import PEZ
from jax_prompt.search.templates import Templates

#: Strategies by the names that users choose them by.
STRATEGIES = {'templates': Templates, 'label_words': LabelWords, 'hotflip': HotFlip, 'gcg': GCG,
              'pez': PEZ, 'bdpl': BDPL, 'instructions': Instructions}
