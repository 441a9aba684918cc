"""What a run is asked to do, as plain values with their defaults."""

import dataclasses
import math
import numbers

from jax_prompt.data.design import Design
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.initializers import Initializer
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.method import Method

#: A step differentiates the sum over the batch's target tokens, or their mean.
REDUCTIONS = ('sum', 'mean')
#: For a setting that is decided when a run begins, and kept when it is resumed.
AUTO = 'auto'
EVALUATORS = ('rank', 'greedy', 'loss')

#: What the fields of `TrainSettings` must be at least.
_LEAST = {1: ('steps', 'batch_size', 'evaluate_every', 'evaluation_batch_size', 'log_every', 'keep',
              'bucket_multiple', 'microbatches', 'evaluation_limit', 'train_limit', 'patience'),
          0: ('seed', 'average_from', 'noise', 'adversarial', 'max_buckets')}
_REAL = ('noise', 'adversarial')
_MAY_BE_NONE = ('evaluation_limit', 'train_limit', 'patience')
_MAY_BE_AUTO = ('steps', 'evaluate_every', 'patience', 'max_buckets')

#: How long `steps='auto'` trains: passes as most later papers have them (ATTEMPT, residual prompt
#: tuning), between these steps, and no longer than so many evaluations find nothing better.
_PASSES, _LEAST_STEPS, _MOST_STEPS, _EVALUATIONS, _PATIENCE = 20, 500, 30_000, 40, 8


@dataclasses.dataclass(frozen=True)
class PromptSettings:
    """The prompt to train.

    Attributes:
      rows: P, virtual tokens. The paper finds a large gain up to 20 and little after 100. 0 for a
        method that trains weights or a prefix alone.
      layout: where they stand in the input.
      initializer: gives the rows to start from; None for the paper's best: the class labels'
        words, then frequent vocabulary (frequent vocabulary alone where the task has no labels).
      method: how what is trained is parameterised; None for `direct()`, the rows themselves.
      ensemble: so many prompts of each task are trained at once, each with a seed, and so with a
        start and an order of examples, of its own; None for one.
      design: words around the rows, and for the labels: a `Design`, or a design file; None for the
        task's template and label words.
    """

    rows: int = 100
    layout: Layout = Layout('before')
    initializer: Initializer | None = None
    method: Method | None = None
    ensemble: int | None = None
    design: Design | str | None = None

    def __post_init__(self):
        if self.rows < 0 or (self.rows == 0 and self.method is None):
            raise ValueError(f'prompt rows is {self.rows}; expected at least 1 to train')
        if self.ensemble is not None and self.ensemble < 2:
            raise ValueError(f'an ensemble of {self.ensemble} is none; expected at least 2 '
                             'prompts, or no prompt.ensemble to train a single one')

    @property
    def words(self) -> Design | None:
        """Return the design, read from its file where one is named, with the layout's marker.

        Raises:
          ValueError: the file cannot be read, or has no design.
        """
        design = self.design
        if isinstance(design, str):
            design = Design.of(load_prompt(design))
            if design is None:
                raise ValueError(f'prompt file {self.design} has no design; make one with '
                                 '`jax-prompt design`')
        return design and dataclasses.replace(design, marker=self.layout.marker)


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How to train; what follows from no data is as the first system has it (Lester et al. 2021).

    Attributes:
      steps: optimizer updates. 'auto': as many as show each training example 20 times, 500 at least
        and 30,000, the first system's, at most.
      batch_size: examples an update.
      evaluate_every: updates between evaluations on the validation split; a checkpoint follows
        each. 'auto': a fortieth of the steps, from 10 to 1,000.
      evaluate_by: 'rank' (which label is likeliest), 'greedy' (exact match of generated text), or
        both as a tuple; 'loss' for the loss alone, which the others report too. None: rank for
        tasks with labels, else greedy.
      choose_by: the validation's figure that the best prompt is chosen by, 'loss' or the name of a
        metric; equal metrics are told apart by the loss. None: the first metric for tasks with
        labels or metrics of their own; the loss for other free text, which is seldom right as a
        whole.
      evaluation_batch_size: examples a batch of evaluation.
      evaluation_limit: validate on so many examples at most, evenly spread; None for all.
      train_limit: train on so many examples at most, evenly spread; None for all.
      patience: evaluations without a better one before the run stops early, an equal metric with a
        lower loss being better; None for never. 'auto': 8 where `steps` is, else never.
      log_every: updates between lines of the log.
      keep: checkpoints to keep.
      seed: of initialisation, order of examples and dropout.
      z_loss: weight of the squared log-normaliser in the loss.
      reduction: 'sum' (the paper's) or 'mean' over target tokens.
      dropout_rate: in the frozen model while training. The first system had 0.1; prompts train
        better without (SuperPos, 2024), so that is the default.
      prompt_dropout: chance of each number of the prompt to be dropped in an update.
      noise: standard deviation of Gaussian noise on the prompt in an update, relative to the root
        mean square of its numbers.
      adversarial: size of a step along the gradient, relative to the prompt's norm, at the end of
        which the gradient is taken: the loss falls around the prompt, not at it alone. An update
        then costs two.
      average: evaluate and keep an average of the prompts so far, each with this weight against the
        next: 0.99 averages about the last 100, 1 all alike. None: the prompt as it is.
      average_from: the step after which prompts are averaged.
      max_buckets: padded lengths at most, each one compiled program; 0 pads all to the longest.
        'auto' weighs what compiling a program takes here against the pads that it saves in so many
        steps; a resumed run keeps what it chose.
      bucket_multiple: of which these lengths are multiples.
      packing: put several examples in a row, each on its own, instead of padding rows to the
        lengths of `max_buckets`; the update is the same. 'auto' times both on the run's first
        batches, before it begins, and takes the faster one; a resumed run keeps it.
      microbatches: the batch goes through the model in so many parts, one after the other, so that
        it needs less memory; the update is the same.
      compare: at the end also measure the model without a prompt, and the prompt before training.
      measure: measure what is best on the test split at the end; False leaves that to the caller,
        and the test split is not even read.
    """

    steps: int | str = AUTO
    batch_size: int = 32
    evaluate_every: int | str = AUTO
    evaluate_by: tuple[str, ...] | str | None = None
    choose_by: str | None = None
    evaluation_batch_size: int = 64
    evaluation_limit: int | None = None
    train_limit: int | None = None
    patience: int | str | None = AUTO
    log_every: int = 20
    keep: int = 3
    seed: int = 0
    z_loss: float = 1e-4
    reduction: str = 'sum'
    dropout_rate: float = 0.0
    prompt_dropout: float = 0.0
    noise: float = 0.0
    adversarial: float = 0.0
    average: float | None = None
    average_from: int = 0
    max_buckets: int | str = 6
    bucket_multiple: int = 8
    packing: bool | str = False
    microbatches: int = 1
    compare: bool = False
    measure: bool = True

    def __post_init__(self):
        if isinstance(self.evaluate_by, str | list):
            ways = self.evaluate_by
            object.__setattr__(self, 'evaluate_by', (ways,) if isinstance(ways, str)
                               else tuple(ways))
        for least, fields in _LEAST.items():
            for field in fields:
                self._check_number(field, least)
        if self.packing not in (True, False, AUTO):
            raise ValueError(f'training setting packing is {self.packing!r}; expected True, False '
                             f'or {AUTO!r}')
        if self.batch_size % self.microbatches:
            raise ValueError(f'batch_size={self.batch_size} does not divide into '
                             f'{self.microbatches} microbatches; choose a multiple of them')
        for field in ('dropout_rate', 'prompt_dropout'):
            if not 0.0 <= getattr(self, field) < 1.0:
                raise ValueError(f'{field} is {getattr(self, field)}; expected from 0 to below 1')
        if self.average is not None and not 0.0 < self.average <= 1.0:
            raise ValueError(f'average is {self.average}; expected above 0, at most 1 (all prompts '
                             'alike), or None to keep the prompt as it is')
        if self.reduction not in REDUCTIONS:
            raise ValueError(f'reduction is {self.reduction!r}; '
                             f'expected one of {", ".join(REDUCTIONS)}')
        unknown = set(self.evaluate_by or ()) - set(EVALUATORS)
        if unknown or self.evaluate_by == ():
            raise ValueError(f'evaluate_by is {self.evaluate_by!r}; '
                             f'expected some of {", ".join(EVALUATORS)}')

    def _check_number(self, field: str, least: int) -> None:
        value, kind = getattr(self, field), numbers.Real if field in _REAL else numbers.Integral
        expected = f'{"" if field in _REAL else "a whole number of "}at least {least}'
        if field in _MAY_BE_NONE:
            expected += ', or None for no limit'
        if field in _MAY_BE_AUTO:
            expected += f', or {AUTO!r}'
        fits = (value is None and field in _MAY_BE_NONE or value == AUTO and field in _MAY_BE_AUTO
                or isinstance(value, kind) and least <= value < math.inf)
        if not fits:
            raise ValueError(f'training setting {field} is {value!r}; expected {expected}')

    def for_updates(self, a_pass: float) -> 'TrainSettings':
        """Return them with numbers for how long to train, instead of 'auto'.

        Args:
          a_pass: updates that show each training example once.
        """
        steps = self.steps
        if steps == AUTO:
            steps = min(max(math.ceil(_PASSES * a_pass), _LEAST_STEPS), _MOST_STEPS)
        every, patience = self.evaluate_every, self.patience
        if every == AUTO:
            every = min(max(steps // _EVALUATIONS, 10), 1000)
        if patience == AUTO:
            patience = _PATIENCE if self.steps == AUTO else None
        return dataclasses.replace(self, steps=steps, evaluate_every=every, patience=patience)
