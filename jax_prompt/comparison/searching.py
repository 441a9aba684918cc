"""Words that a search finds, as a contender."""

import dataclasses
from typing import Any

from jax_prompt.comparison.contender import Fitted, Trial
from jax_prompt.comparison.designed import keep_design
from jax_prompt.config import config_of
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.prompts.prompt import no_prompt
from jax_prompt.search.run import Found, chosen_strategy, examples_of, search
from jax_prompt.search.settings import SearchSettings
from jax_prompt.search.strategy import Strategy


@dataclasses.dataclass(frozen=True, eq=False)
class Searched:
    """Words that a search finds on the training data.

    Attributes:
      name: what it is called.
      strategy: a name of `search.STRATEGIES`, or one with settings of its own.
      settings: budget, examples, template; the comparison sets the seed.
    """

    name: str
    strategy: str | Strategy
    settings: SearchSettings = SearchSettings()
    seeded: bool = dataclasses.field(default=True, init=False)
    sized: bool = dataclasses.field(default=True, init=False)

    def config(self) -> dict[str, Any]:
        """Return all that decides its results."""
        told, strategy = config_of(self.settings), chosen_strategy(self.strategy)
        return {'kind': 'search', 'strategy': {'name': strategy.name, **config_of(strategy)},
                **{name: told[name] for name in told if name not in ('seed', 'measured')}}

    def check(self, task: TextTask) -> None:
        """Refuse a task that has no words to search for, and a strategy that is none."""
        chosen_strategy(self.strategy)
        examples_of(task, self.settings)

    def fit(self, trial: Trial) -> Fitted:
        """Search, or go on with the search that the trial's folder holds."""
        began = trial.clock.wall, trial.clock.seconds
        settings = dataclasses.replace(self.settings, seed=trial.seed)
        found = search(trial.opened, trial.task, self.strategy, settings, trial.folder / 'search',
                       quiet=True)
        # A search counts its seconds over kills, and knows nothing of compiling.
        own = (trial.clock.seconds - began[1]) / (trial.clock.wall - began[0])
        return Fitted(
            (no_prompt(trial.opened.model.d_model),), design=found.design,
            stored_bytes=keep_design(trial, found.design),
            examples=found.calls, seconds=own * found.seconds,
            curve=_curve(found), validation=dict(found.metrics_of('validation')))


def _curve(found: Found) -> list[dict[str, Any]]:
    """Return examples scored and loss of each candidate that was better than all before."""
    return [{'examples': one['calls'], 'metrics': {'loss': one['loss']}} for one in found.history]
