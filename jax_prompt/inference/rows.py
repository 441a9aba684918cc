"""What is asked and what is answered: prompts in use, rows of a batch, predictions."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.tasks.rows import Row as TaskRow
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.data.vocabularies import encode_batch
from jax_prompt.inference.designs import DesignInUse
from jax_prompt.inference.generate import NOT_FINITE, before_end, check_limits
from jax_prompt.inference.prefix_table import PrefixSlot, PrefixUse
from jax_prompt.inference.prompt_table import Block
from jax_prompt.inference.rank import LabelSet, probabilities
from jax_prompt.models.open import OpenedModel
from jax_prompt.prompts.file import PromptFile

#: What the plain model reads and writes where a request does not say: T5's own lengths.
PLAIN = TextTask('plain', {}, '{text}', inputs_length=512, targets_length=64)


class UnknownPrompt(ValueError):
    """A request names a prompt that is not in use."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the model answers to one text.

    Attributes:
      text: the generated text, or the chosen label.
      scores: rank classification: label -> log-probability.
      probabilities: rank classification: label -> probability among the labels.
      target_score: of a row with a `target`: its log-probability.
    """

    text: str
    scores: dict[str, float] | None = None
    probabilities: dict[str, float] | None = None
    target_score: float | None = None

    @property
    def likeliest(self) -> tuple[str, float]:
        """Return the label with the best score and its probability, before any calibration.

        Only of rank classification.
        """
        odds = probabilities(np.array([[*self.scores.values()]]))[0]
        best = int(odds.argmax())
        return [*self.scores][best], float(odds[best])

    def to_dict(self) -> dict[str, Any]:
        """Return what is there, ready for JSON: 'prediction', and 'scores', 'probabilities'."""
        extras = {'scores': self.scores, 'probabilities': self.probabilities}
        return {'prediction': self.text} | {k: v for k, v in extras.items() if v is not None}


@dataclasses.dataclass(frozen=True, eq=False)
class ServedPrompt:
    """A prompt in use, or the plain model.

    Attributes:
      name: by which requests name it; '' for the plain model.
      task: how texts are rendered, which labels there are, how long inputs and targets are.
      converter: inserts the end token, and virtual tokens as the table has them.
      labels: of the task, as tokens; None for free text.
      block: where its rows stand; None where it has none.
      file: what it was loaded from; None for the plain model.
      prefix: where its prefix stands; None where it has none.
      design: words its inputs; None where the task's template does.
    """

    name: str
    task: TextTask
    converter: FeatureConverter
    labels: LabelSet | None
    block: Block | None
    file: PromptFile | None = None
    prefix: PrefixSlot | None = None
    design: DesignInUse | None = None

    @property
    def prefix_use(self) -> PrefixUse | None:
        """Return what its rows see of the engine's prefixes."""
        return self.prefix and PrefixUse(self.prefix.number, PrefixUse.of(self.file.prompt).lengths)

    @property
    def longest(self) -> int:
        """Return the most encoder positions that an input of it takes."""
        return self.converter.inputs_length + self.converter.num_rows

    @functools.cached_property
    def digest(self) -> str:
        """Return 16 hexadecimal digits that tell its numbers and metadata from any others."""
        if self.file is None:
            return ''
        metadata = json.dumps(self.file.metadata.to_strings(), sort_keys=True)
        content = hashlib.sha256(self.file.prompt.rows.tobytes())
        states = [] if self.file.states_ND is None else [self.file.states_ND]
        for array in [*self.file.prefix_tensors.values(), *states]:
            content.update(np.ascontiguousarray(array))
        content.update(metadata.encode())
        return content.hexdigest()[:16]

    def ids(self, tokens: Sequence[int], where: str) -> tuple[np.ndarray, bool]:
        """Make the ids of an input.

        Args:
          tokens: of the rendered text, without an end token.
          where: it stands, for messages.

        Returns:
          int32[S'], with virtual and end tokens, and whether text was cut.

        Raises:
          ValueError: it lacks the layout's marker, or has it more than once.
        """
        try:
            return self.converter.input_ids(tokens)
        except ValueError as error:  # it lacks the layout's marker
            raise ValueError(f'{where}: {error}') from None

    def columns_of(self, inputs: str | Mapping[str, Any],
                   where: str = 'the request') -> Mapping[str, Any]:
        """Return an input by its columns.

        Args:
          inputs: columns of the task's template, or the text of its only column.
          where: where they stand, for messages.

        Raises:
          ValueError: it is one text, but several columns are read.
        """
        columns = self.task.columns
        if isinstance(inputs, str):
            if len(columns) != 1:
                raise ValueError(f'task {self.task.name} of {self} reads {len(columns)} columns '
                                 f'({", ".join(columns)}) but {where} gives one text; give an '
                                 'object with these keys')
            return {columns[0]: inputs}
        return inputs

    def texts_tokens(self, inputs: Sequence[str | Mapping[str, Any]], vocabulary: Any,
                     where: Callable[[int], str]) -> list[tuple[Sequence[int], bool]]:
        """Return for each input its tokens without an end token, and whether text was left out.

        Raises:
          ValueError: a column is missing, or the text is none that could be written.
        """
        rows = [TaskRow(self.columns_of(one, where(number)), where(number))
                for number, one in enumerate(inputs)]
        if self.design is not None:
            return [(one.tokens, one.cut) for one in self.design.word(rows)]
        texts = [self.task.render(row) for row in rows]
        return [(tokens, False)
                for tokens in encode_batch(vocabulary, texts, self.converter.tokens_wanted)]

    def __str__(self) -> str:
        return f'prompt {self.name!r}' if self.name else 'the plain model'


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One row of a batch, complete: what it gives depends on nothing beside it.

    Attributes:
      prompt: what messages call the prompt, by its `str`; referring to a `ServedPrompt` also keeps
        its rows in the table.
      ids: int32[S'], virtual and end tokens included, not padded.
      cut: whether text was cut to the task's length.
      labels: to be ranked; None to generate.
      max_tokens: to generate at most, the end token included.
      decoding: how to generate, a name of `How.decodings`.
      options: for that decoding; of 'sample' a `SamplingSettings`, greedy where there is none. Of a
        row that is ranked a `Calibration`, or None for the plain softmax.
      group: only rows of one group share a batch.
      target: int32[L], what would be right to generate, its end token and pads included, as long as
        others of its group; None where nobody asks for its probability.
      prefix: what it sees of the prompts' prefixes; None for nothing.

    Raises:
      ValueError: the options and `max_tokens` contradict each other; in a batch that would be its
        neighbours' failure too.
    """

    prompt: Any
    ids: np.ndarray
    cut: bool
    labels: LabelSet | None
    max_tokens: int
    decoding: str
    options: Any
    group: tuple
    target: np.ndarray | None = None
    prefix: PrefixUse | None = None

    def __post_init__(self):
        if self.labels is None and self.options is not None:
            check_limits(self.options.min_tokens, self.max_tokens)

    @property
    def passes(self) -> int:
        """Return how often its batch reads the weights: a further time for each token."""
        return 1 if self.labels is not None else 1 + self.max_tokens


@dataclasses.dataclass(frozen=True, eq=False)
class Running:
    """A batch that the device may still be working on.

    Attributes:
      rows: in their order.
      parts: the numbers of the rows of each, and what waits for its results: float32[B, C] scores,
        or int32[B, L] tokens and, of rows with targets, their float32[B] scores.
      opened: the model, to read the results with.
    """

    rows: tuple[Row, ...]
    parts: tuple[tuple[Sequence[int], Callable[[], tuple[np.ndarray, ...]]], ...]
    opened: OpenedModel

    def answers(self, where: Callable[[int], str]) -> list[Prediction]:
        """Wait for the device and return an answer for each row.

        Args:
          where: number of a row -> its place, for messages.

        Raises:
          ValueError: a row has no answer, and which; see `outcomes`.
        """
        outcomes = self.outcomes()
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, ValueError):
                raise ValueError(f'{where(number)}: {outcome}') from outcome
            if isinstance(outcome, Exception):
                raise outcome
        return outcomes

    def outcomes(self) -> list[Prediction | Exception]:
        """Wait for the device and return for each row its answer, or why it has none.

        What is wrong with one row, such as a prompt whose numbers are too large for the model, is
        so no failure of its neighbours. A failure of the device is raised: it is all rows'.
        """
        read = self._tokens if self.rows[0].labels is None else self._scores
        outcomes: list[Any] = [None] * len(self.rows)
        for numbers, wait in self.parts:
            for number, *values in zip(numbers, *wait(), strict=False):
                try:
                    outcomes[number] = read(self.rows[number], *values)
                except Exception as error:
                    outcomes[number] = error
        return outcomes

    def _scores(self, row: Row, scores_C: np.ndarray) -> Prediction:
        words, labels = row.labels.words, row.labels
        scores_C = labels.combined(scores_C[:labels.shape[0]])
        if not np.isfinite(scores_C).all():
            raise _not_finite(row)
        shifted_C = scores_C
        if labels.calibration_C is not None and (
                row.options is None or row.options.content_free_C is None):
            shifted_C = scores_C - labels.calibration_C
        best, odds_C = np.argmax(shifted_C), probabilities(shifted_C[None])[0]
        if row.options is not None:
            odds_C = row.options.probabilities(shifted_C)
            best = np.argmax(odds_C)
        return Prediction(words[int(best)],
                          dict(zip(words, scores_C.tolist(), strict=True)),
                          dict(zip(words, odds_C.tolist(), strict=True)))

    def _tokens(self, row: Row, tokens_L: np.ndarray,
                target_score: np.ndarray | None = None) -> Prediction:
        if (tokens_L == NOT_FINITE).any() or not np.isfinite(target_score or 0.0):
            raise _not_finite(row)
        kept = before_end(tokens_L[:row.max_tokens], self.opened.model.tokens.ends)
        return Prediction(self.opened.vocabulary.decode(kept).strip(),
                          target_score=None if target_score is None else float(target_score))


def _not_finite(row: Row) -> ValueError:
    return ValueError(f'{row.prompt} gives scores that are not finite; expected log-probabilities: '
                      'use a prompt from before its training diverged, weights in float32, or a '
                      'model whose own weights are finite')
