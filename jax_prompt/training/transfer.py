"""SPoT: start a prompt from that of another task, the one that it is most like."""

import dataclasses
import logging
import os
import pathlib

import optax

from jax_prompt.data.tasks.mixture import Mixture
from jax_prompt.models.open import OpenedModel
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.initializers import from_array
from jax_prompt.prompts.similarity import load_prompts, ranked
from jax_prompt.training.run import train
from jax_prompt.training.settings import PromptSettings, TrainSettings

_log = logging.getLogger(__name__)


def choose_source(model: OpenedModel, mixture: Mixture, output: str | os.PathLike,
                  prompt: PromptSettings, optimizer: optax.GradientTransformation | None = None,
                  settings: TrainSettings | None = None, quiet: bool = False) -> PromptSettings:
    """Choose what a prompt starts from by how alike the sources are to an early prompt of it.

    Args:
      model, mixture, output, prompt, optimizer, settings, quiet: of the run; the early prompt is
        trained as it would be, from its default start, in a folder beside the run's.

    Returns:
      The prompt's settings with the source that was chosen, where the initialiser is
      `from_similar`; else as they are.

    Raises:
      ValueError: no source is of the prompt's rows and width.
    """
    wanted = getattr(prompt.initializer, 'source_of', None)
    if wanted is None or len(mixture.tasks) > 1 or prompt.ensemble:
        return prompt
    (sources, steps, by), output = wanted, pathlib.Path(output)
    files = load_prompts(sources)
    expected = prompt.rows, model.model.d_model
    wrong = [file for file in files.values() if file.prompt.rows.shape != expected]
    if wrong:
        raise ValueError(f'source prompt {wrong[0].path} has shape {wrong[0].prompt.rows.shape} '
                         f'but the prompt to train has {expected} (rows, width of the model); '
                         'train with as many rows, or keep other sources elsewhere')
    settings = dataclasses.replace(settings or TrainSettings(), steps=steps, evaluate_every=steps,
                                   compare=False)
    early = train(model, mixture.tasks[0], output.with_name(f'{output.name}-early'),
                  dataclasses.replace(prompt, initializer=None), optimizer, settings, quiet)
    order = ranked(load_prompt(early.folder.prompt).prompt.virtual, files, by)
    told = ', '.join(f'{name} {measured[by]:.3f}' for name, measured in order[:5])
    _log.info('the source to start from is %s (cosines of %s: %s)', order[0][0], by, told)
    return dataclasses.replace(prompt, initializer=from_array(str(files[order[0][0]].path)))
