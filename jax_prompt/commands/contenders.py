"""Contenders of a comparison as gin makes them: called by the scope that they are configured in."""

import gin
import optax

from jax_prompt.comparison.contender import Plain
from jax_prompt.comparison.designed import Designed
from jax_prompt.comparison.searching import Searched
from jax_prompt.comparison.tuning import Tuning
from jax_prompt.inference.make_design import DesignSettings
from jax_prompt.search.settings import SearchSettings
from jax_prompt.search.strategy import Strategy
from jax_prompt.training.settings import PromptSettings, TrainSettings


def plain(name: str | None = None) -> Plain:
    """Make the contender that does nothing: the frozen model with the task's own template.

    Args:
      name: what it is called; None for the scope, as in `@NAME/plain()`.
    """
    return Plain(name or gin.current_scope_str() or Plain.name)


def designed(name: str | None = None, settings: DesignSettings | None = None) -> Designed:
    """Make a contender of words alone: a template, zero or more shots, calibrated or not.

    Args:
      name: what it is called; None for the scope, as in `@few_shot/designed()`.
      settings: template, words, shots and calibration, such as `few_shot/design.shots = 4`; the
        comparison sets the seed.
    """
    return Designed(name or gin.current_scope_str() or 'design', settings or DesignSettings())


def searched(strategy: str | Strategy, name: str | None = None,
             settings: SearchSettings | None = None) -> Searched:
    """Make a contender of words that a search finds on the training data.

    Args:
      strategy: 'templates', 'label_words', 'hotflip', 'gcg', 'pez', 'bdpl' or 'instructions'; or
        one with settings of its own, such as `@gcg()`.
      name: what it is called; None for the scope, as in `@gcg/searched()`.
      settings: budget, examples and template, such as `gcg/search_settings.budget = 2000`; the
        comparison sets the seed.
    """
    return Searched(name or gin.current_scope_str() or 'search', strategy,
                    settings or SearchSettings())


def tuning(name: str | None = None, recipe: str | None = None,
           prompt: PromptSettings | None = None,
           optimizer: optax.GradientTransformation | None = None,
           settings: TrainSettings | None = None) -> Tuning:
    """Make a contender that trains: a soft prompt by any method, an ensemble, or the model itself.

    Args:
      name: what it is called; None for the scope, as in `@residual/tuning()`.
      recipe: a gin file written for `train`, such as 'methods/residual.gin', whose lines count for
        this contender alone; lines of its scope, such as `residual/prompt.rows = 5`, win over it.
      prompt: its rows, layout, method and start.
      optimizer: an optax transformation; None for Adafactor.
      settings: how to train; the comparison sets the seed.
    """
    del recipe  # read with the configuration, see `recipes.expanded`
    return Tuning(name or gin.current_scope_str() or 'tuning', prompt or PromptSettings(),
                  optimizer, settings or TrainSettings())
