"""Make a design: demonstrations and calibration from a task's train split alone."""

import dataclasses
import itertools
import json
import logging
import re
from collections.abc import Mapping, Sequence

import numpy as np

from jax_prompt.data.demonstrations import (
    LONGEST_TEXT,
    MOST_DEMONSTRATIONS,
    MOST_POOLED,
    Demonstration,
    Nearest,
)
from jax_prompt.data.design import CLOZE, PLAIN_FORM, Design
from jax_prompt.data.tasks.rows import Row
from jax_prompt.data.tasks.text_task import TextTask, column_text
from jax_prompt.data.vocabularies import encode_batch
from jax_prompt.files import brief, shown
from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.calibration import CONTENT_FREE, content_free_scores
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.states import mean_states
from jax_prompt.models.open import OpenedModel
from jax_prompt.prompts.file import PromptFile, PromptMetadata
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt

RANDOM, BALANCED, NEAREST = 'random', 'balanced', 'nearest'
CHOICES = (RANDOM, BALANCED, NEAREST)
#: What a design is calibrated by: inputs without content, or the mean over unlabelled inputs.
BY_CONTENT_FREE, BY_UNLABELLED = 'content_free', 'unlabelled'
CALIBRATIONS = (BY_CONTENT_FREE, BY_UNLABELLED)

#: Characters of a pool, so that a prompt file's metadata hold it.
_POOL_CHARACTERS = 700_000
#: Inputs by which it is told for how many demonstrations there is room.
_SOME = 256

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class DesignSettings:
    """What a design shall be; the first eight as `data.design.Design` has them.

    Attributes:
      template: with `{answer}` where the answer stands; None for the task's own, in the plain form.
      words: label word -> words, such as {'negative': ['bad', 'awful'], 'positive': ['good']}.
      combine, form, closed, instruction, order, separator: see `Design`.
      shots: demonstrations; 0 for none.
      choice: 'random', 'balanced' (as many of each label) or 'nearest' to each input.
      pool: of how many training examples the nearest are chosen; the file holds them.
      calibrate: 'content_free' takes away what the labels score without an input, 'unlabelled'
        their mean over training inputs, without a look at the labels; None for neither.
      unlabelled: so many of those inputs.
      seed: of what is drawn.

    Raises:
      ValueError: a setting outside its range.

    Sources: Zhao et al. 2021 (arXiv:2102.09690), content-free inputs; Zhou et al. 2024
    (arXiv:2309.17249), the mean over inputs; Liu et al. 2022 (arXiv:2101.06804), the nearest.
    """

    template: str | None = None
    words: Mapping[str, Sequence[str] | str] | None = None
    combine: str = 'sum'
    form: str = CLOZE
    closed: bool = False
    instruction: str = ''
    order: str = 'chosen'
    separator: str = ' '
    shots: int = 0
    choice: str = BALANCED
    pool: int = 1000
    calibrate: str | None = None
    unlabelled: int = 128
    seed: int = 0

    def __post_init__(self):
        for name, least, most in (('shots', 0, MOST_DEMONSTRATIONS), ('pool', 1, MOST_POOLED),
                                  ('unlabelled', 1, 2**20), ('seed', 0, 2**63 - 1)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f'design {name} is {brief(getattr(self, name))}; expected from '
                                 f'{least:,} to {most:,}')
        for name, choices in (('choice', CHOICES), ('calibrate', (None, *CALIBRATIONS))):
            if getattr(self, name) not in choices:
                raise ValueError(f'design {name} is {brief(getattr(self, name))}; expected one of '
                                 f'{", ".join(map(str, choices))}')

    def design(self, task: TextTask) -> Design:
        """Return the design without demonstrations and calibration."""
        own = self.template is None
        design = Design(task.inputs_template if own else self.template, self.words, self.combine,
                        PLAIN_FORM if own else self.form, self.closed, self.instruction,
                        order=self.order, separator=self.separator)
        design.check(task)
        return design


def make_design(opened: OpenedModel, task: TextTask, settings: DesignSettings,
                prompt: PromptFile | None = None) -> Design:
    """Make a design for a task; of its splits only train is read.

    Says in the log for how many demonstrations inputs have room.

    Args:
      opened: the frozen model.
      task: with the split train, where examples are asked for.
      settings: what to make.
      prompt: whose rows stand around the words too; None for words alone.

    Returns:
      The design, which can be used without the task's data.

    Raises:
      ValueError: settings that do not fit the task or the model, or too few examples.
      FileNotFoundError: the train split's file does not exist.
    """
    if not isinstance(task, TextTask):
        raise ValueError(f'task {task.name} is registered with seqio and gives ready inputs, which '
                         'a design cannot word; give a task of text columns')
    design = settings.design(task)
    if prompt is not None:
        design = dataclasses.replace(design, marker=prompt.metadata.layout.marker)
    if settings.calibrate is not None and task.label_words is None:
        raise ValueError(f'calibrate={settings.calibrate!r} is of labels, but task {task.name} is '
                         'free text; leave it out')
    # Whoever needs no example need not have any.
    rows = task.rows('train') if settings.shots or settings.calibrate == BY_UNLABELLED else []
    draw = np.random.default_rng(settings.seed)
    if settings.shots:
        design = _with_demonstrations(opened, task, design, rows, settings, draw)
    if settings.calibrate is not None:
        inputs: Sequence = [dict.fromkeys(design.columns, text) for text in CONTENT_FREE]
        if settings.calibrate == BY_UNLABELLED:
            some = draw.permutation(len(rows))[:settings.unlabelled]
            inputs = [{name: column_text(rows[number], name) for name in design.columns}
                      for number in some]
        answers = _answers(opened, design_file(opened, task, design, prompt), inputs)
        design = dataclasses.replace(design, calibration=tuple(content_free_scores(answers)))
    _tell_room(opened, task, design, rows[:_SOME], prompt)
    return design


def design_file(opened: OpenedModel, task: TextTask, design: Design,
                prompt: PromptFile | None = None, seed: int = 0) -> PromptFile:
    """Return the prompt file of a design, which holds no rows, or of a prompt with a design.

    Args:
      opened: the model that it is for.
      task: that it is for.
      design: the words.
      prompt: whose rows stand around them; None for none.
      seed: that it was made with.
    """
    states_ND = None if design.nearest is None else design.nearest.states_ND
    if prompt is not None:
        metadata = dataclasses.replace(prompt.metadata, task=task.to_dict(),
                                       design=design.to_dict())
        return dataclasses.replace(prompt, metadata=metadata, path=None, states_ND=states_ND)
    return PromptFile(
        Prompt(np.zeros((0, opened.model.d_model), np.float32)),
        PromptMetadata(opened.name, opened.fingerprint, opened.vocabulary_fingerprint,
                       task.to_dict(), Layout(), 'design', 0, {}, seed, design=design.to_dict()),
        states_ND=states_ND)


def balanced(answers: Sequence[str], draw: np.random.Generator) -> list[int]:
    """Return the numbers of examples, shuffled, so that any first of them are of all labels alike.

    Args:
      answers: of each example.
      draw: random numbers.
    """
    of_label: dict[str, list[int]] = {}
    for number in draw.permutation(len(answers)):
        of_label.setdefault(answers[number], []).append(int(number))
    rounds = itertools.zip_longest(*(of_label[label] for label in sorted(of_label)))
    return [number for one in rounds
            for number in draw.permutation([number for number in one if number is not None])]


def _with_demonstrations(opened: OpenedModel, task: TextTask, design: Design,
                         rows: Sequence[Row], settings: DesignSettings,
                         draw: np.random.Generator) -> Design:
    """Return a design with demonstrations, or with a pool to choose them from."""
    found = _different(task, design, rows)
    if len(found) < settings.shots:
        raise ValueError(f'design shots is {settings.shots} but the train split of task '
                         f'{task.name} has {len(found)} different examples; ask for fewer')
    if settings.choice == RANDOM or task.label_words is None:
        order = [int(number) for number in draw.permutation(len(found))]
    else:
        order = balanced([one.answer for one in found], draw)
    if settings.choice != NEAREST:
        return dataclasses.replace(
            design, demonstrations=tuple(found[number] for number in order[:settings.shots]))
    pool, characters = [], 0
    for number in order[:settings.pool]:
        one = found[number]
        characters += len(json.dumps([dict(one.columns), one.answer])) + 2
        if characters > _POOL_CHARACTERS:
            _log.warning('the pool of the design has room for %d of %d examples; their texts are '
                         'long', len(pool), min(settings.pool, len(order)))
            break
        pool.append(one)
    shapes = Shapes()
    tokens = encode_batch(opened.vocabulary, [design.compared(Row(one.columns, 'the pool'))
                                              for one in pool])
    states_ND = mean_states(opened, [some[:task.inputs_length - 1] for some in tokens], shapes)
    return dataclasses.replace(design, nearest=Nearest(settings.shots, tuple(pool), states_ND))


def _different(task: TextTask, design: Design, rows: Sequence[Row]) -> list[Demonstration]:
    """Return the different examples of a split that can be shown."""
    found = {}
    for row in rows:
        columns = {name: column_text(row, name) for name in design.columns}
        one = Demonstration(columns, task.target_text(row))
        texts = [*columns.values(), one.answer]
        # A prompt file holds no control characters, such as the stray bytes of old web pages.
        lines = [re.sub('[\t\r\n]', ' ', text) for text in texts]
        if max(map(len, texts)) <= LONGEST_TEXT and lines == [*map(shown, lines)]:
            found.setdefault(tuple(columns.values()), one)
    return list(found.values())


def _answers(opened: OpenedModel, file: PromptFile, inputs: Sequence[Mapping[str, str]]) -> list:
    """Rank inputs with a design, as whoever uses its file will."""
    engine = Engine(opened, Shapes(batch_sizes=(8, 32)))
    return engine.run(engine.rows_of(engine.add('design', file), inputs, rank=True))


def _tell_room(opened: OpenedModel, task: TextTask, design: Design, rows: Sequence[Row],
               prompt: PromptFile | None) -> None:
    """Say in the log where training inputs lack room; refuse what no input can be worded by."""
    engine = Engine(opened)
    used = engine.add('design', design_file(opened, task, design, prompt)).design
    used.word(rows)
    if line := used.told():
        _log.warning('of the first training inputs, %s', line)
