"""How well designs do on examples, and what the model writes, by the one way to answers.

All candidates' rows run through `inference.predict`, whose programs are compiled for sizes, of
which there are few; so nothing is compiled for a candidate.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from jax_prompt.data.design import Design
from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.tasks.rows import Row as TextRow
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.data.vocabularies import encode_batch
from jax_prompt.inference.batching import How, Shapes
from jax_prompt.inference.designs import DesignInUse
from jax_prompt.inference.predict import predict
from jax_prompt.inference.rank import LabelSet
from jax_prompt.inference.rows import Row
from jax_prompt.inference.sampling import SamplingSettings
from jax_prompt.models.open import OpenedModel
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import no_prompt
from jax_prompt.search.wording import form_of

#: Targets are padded to a multiple of this, so that few programs score them.
_TARGET_MULTIPLE = 16


class Scorer:
    """Score designs for one task with one model; counts no calls, see `problem.TaskProblem`."""

    def __init__(self, opened: OpenedModel, task: TextTask, batch_size: int):
        """Take a task into use.

        Args:
          opened: the frozen model.
          task: with labels or of free text.
          batch_size: rows a batch.
        """
        self.opened, self.task = opened, task
        self.how = How(Shapes(batch_sizes=(batch_size,), targets=(1, 32, 128)))
        self._converter = FeatureConverter.for_model(task, opened.vocabulary, opened.model,
                                                     Layout(), 0)
        self._none = no_prompt(opened.model.d_model)

    def make_design(self, template: str, words: Mapping[str, str | Sequence[str]] | None,
                    combine: str) -> Design:
        """Return a design without demonstrations; a cloze is closed where a word needs that.

        Raises:
          ValueError: a template or words that cannot be used.
        """
        if words is not None:
            words = {label: (some,) if isinstance(some, str) else tuple(some)
                     for label, some in words.items()}
        every = [word for some in words.values() for word in some] if words else (
            self.task.label_words or ())
        closed = form_of(template) == 'cloze' and any(
            len(self.opened.vocabulary.encode_words(word)) > 1 for word in every)
        return Design(template, words, combine, form_of(template), closed)

    def in_use(self, design: Design) -> DesignInUse:
        """Return a design as this model reads it.

        Raises:
          ValueError: it is none for the task or the model.
        """
        return DesignInUse(self.opened, self.task, design, _no_states)

    def losses(self, designs: Sequence[Design], rows: Sequence[TextRow]) -> np.ndarray:
        """Score every design on every row.

        Args:
          designs: to compare.
          rows: of the task.

        Returns:
          float64[C, B], nats: of a task with labels the cross-entropy of the right one among them;
          else the mean cross-entropy of the target's tokens.

        Raises:
          ValueError: a row cannot be rendered, or scores are not finite.
        """
        used = [self.in_use(design) for design in designs]
        inputs = [ids for one in used for ids in self.inputs(one, rows)]
        shape = len(designs), len(rows)
        if self.task.label_words is None:
            targets = [self.task.target_text(row) for row in rows] * len(designs)
            return self._target_losses(inputs, targets).reshape(shape)
        asked = [self._row(ids, labels=used[number // len(rows)].labels)
                 for number, ids in enumerate(inputs)]
        found = predict(self.opened, self._none, asked, self.how)
        scores = np.array([[*one.scores.values()] for one in found], np.float64)
        right = np.tile(self.right(rows), len(designs))
        return cross_entropy(scores, right).reshape(shape)

    def target_losses(self, texts: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        """Return the mean cross-entropy of the tokens of each text's target: float64[B], nats."""
        return self._target_losses(self.ids(texts), targets)

    def write(self, texts: Sequence[str], length: int, temperature: float,
              seed: int) -> list[str]:
        """Let the model answer texts, each by a seed of its own."""
        asked = [self._row(ids, length, SamplingSettings(temperature, seed=(seed + number) % 2**32))
                 for number, ids in enumerate(self.ids(texts))]
        return [one.text for one in predict(self.opened, self._none, asked, self.how)]

    def inputs(self, used: DesignInUse, rows: Sequence[TextRow]) -> list[np.ndarray]:
        """Return int32[S'] of each row as a design words it, its end token included."""
        return [self._converter.input_ids(one.tokens)[0] for one in used.word(rows)]

    def ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return int32[S'] of each text, its end token included."""
        return [self._converter.input_ids(tokens)[0]
                for tokens in encode_batch(self.opened.vocabulary, texts)]

    def right(self, rows: Sequence[TextRow]) -> np.ndarray:
        """Return int32[B], which label is right for each row."""
        index = {word: number for number, word in enumerate(self.task.label_words)}
        return np.array([index[self.task.target_text(row)] for row in rows], np.int32)

    def targets(self, texts: Sequence[str]) -> np.ndarray:
        """Return int32[B, L], targets with their end tokens, then pads."""
        tokens = self.opened.model.tokens
        ids = [[*one, tokens.eos] for one in encode_batch(self.opened.vocabulary, texts)]
        length = -(-max(map(len, ids)) // _TARGET_MULTIPLE) * _TARGET_MULTIPLE
        return np.array([one + [tokens.pad] * (length - len(one)) for one in ids], np.int32)

    def _target_losses(self, inputs: Sequence[np.ndarray], targets: Sequence[str]) -> np.ndarray:
        targets_BL = self.targets(targets)
        asked = [self._row(ids, target=target_L)
                 for ids, target_L in zip(inputs, targets_BL, strict=True)]
        found = predict(self.opened, self._none, asked, self.how)
        counts_B = (targets_BL != self.opened.model.tokens.pad).sum(axis=1)
        return -np.array([one.target_score for one in found]) / counts_B

    def _row(self, ids: np.ndarray, length: int = 1, options: SamplingSettings | None = None,
             labels: LabelSet | None = None, target: np.ndarray | None = None) -> Row:
        """Return a row that is ranked, scored or answered."""
        group = (self.how.generation_group(length, 'sample') if labels is None
                 else self.how.rank_group(labels))
        return Row('the candidate', ids, False, labels, length, 'sample', options, group, target)


def cross_entropy(scores_BC: np.ndarray, right_B: np.ndarray) -> np.ndarray:
    """Return the cross-entropy of the right label among the labels: float64[B], nats."""
    total_B = np.logaddexp.reduce(scores_BC, axis=1)
    return total_B - scores_BC[np.arange(len(right_B)), right_B]


def _no_states(texts: Sequence[Sequence[int]]) -> np.ndarray:
    raise AssertionError('a searched design has no nearest demonstrations')
