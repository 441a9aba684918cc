"""Evaluate a prompt on a split: rank classification, greedy decoding, or both."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jax_prompt.data.batches import choose_buckets, eval_batches
from jax_prompt.data.examples import Examples, encode_labels
from jax_prompt.data.features import FeatureConverter, Features
from jax_prompt.data.packing import Packing, choose_packing, packed_eval_batches
from jax_prompt.evaluation.metrics import accuracy, exact_match
from jax_prompt.inference.encode import encode_examples
from jax_prompt.inference.generate import before_end, decode_tokens
from jax_prompt.inference.rank import make_label_scorer
from jax_prompt.models.base import Model
from jax_prompt.models.open import OpenedModel
from jax_prompt.parallel.hosts import fetch
from jax_prompt.parallel.mesh import DATA
from jax_prompt.parallel.placement import place
from jax_prompt.parallel.rules import batch_sharding
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.types import Array, Batch, Params

#: What each way of evaluating reports.
METRIC_OF = {'rank': 'accuracy', 'greedy': 'exact_match'}
#: run(frozen, prompt, ids, segment_ids, room) -> one row an example; see `encode_examples`
_Run = Callable[..., Array]
#: The keys of a batch that decide its results.
_INPUTS = ('encoder_input_tokens', 'encoder_segment_ids')


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator:
    """Evaluate prompts for one task with one model; programs are compiled once.

    Attributes:
      frozen_model: the model.
      ways: 'rank', 'greedy' or both, the one that chooses the best prompt first.
      batch_size: examples a batch; raised to a multiple of the mesh's data axis.
      buckets: padded lengths, virtual tokens included; None to choose them for each split.
      packed: put several examples in a row instead of padding to `buckets`; None where that is
        estimated to be quicker, in ranking (cached decoding needs one row an example anyway).
      score: ranks labels; None where no way needs it.
    """

    frozen_model: OpenedModel
    ways: tuple[str, ...]
    batch_size: int
    buckets: Sequence[int] | None = None
    packed: bool | None = None
    score: _Run | None = None
    # One compiled generator for each decoder length that a split asks for.
    generators: dict[int, _Run] = dataclasses.field(default_factory=dict)
    # How the splits seen so far are packed; None for those that are not.
    packings: dict[Features, Packing | None] = dataclasses.field(default_factory=dict)

    @property
    def main_metric(self) -> str:
        """The metric by which prompts are chosen; higher is better."""
        return METRIC_OF[self.ways[0]]

    def __call__(self, prompt: Prompt, features: Features,
                 scores_BC: np.ndarray | None = None) -> dict[str, float]:
        """Evaluate one prompt.

        Args:
          prompt: of as many rows as the features were made for.
          features: of a split.
          scores_BC: what `scores` gives for them, where that is there already.

        Returns:
          metric name -> value from 0 to 1.
        """
        metrics = {}
        for way in self.ways:
            if way == 'rank':
                found_BC = self.scores(prompt, features) if scores_BC is None else scores_BC
                value = accuracy(found_BC.argmax(axis=1).tolist(), features.labels.tolist())
            else:
                value = self._greedy(prompt, features)
            metrics[METRIC_OF[way]] = value
        return metrics

    def scores(self, prompt: Prompt, features: Features) -> np.ndarray:
        """Score every label against every example; only of an evaluator that ranks.

        Args:
          prompt: of as many rows as the features were made for.
          features: of a split.

        Returns:
          float32[B, C], log-probabilities, B being all examples of the split.
        """
        if features not in self.packings:
            self.packings[features] = self._quicker_packing(features)
        return np.stack(self._collect(self.score, prompt, features, self.packings[features]))

    def _greedy(self, prompt: Prompt, features: Features) -> float:
        length = features.decoder_length
        generate = self.generators.setdefault(length, _greedy(self.frozen_model.model, length))
        decode = self.frozen_model.vocabulary.decode
        packing = self._packing(features) if self.packed else None
        rows = self._collect(generate, prompt, features, packing)
        predicted = [decode(before_end(row, self._end_id)).strip() for row in rows]
        wanted = [decode(before_end(features.targets[row], self._end_id)).strip()
                  for row in range(len(features))]
        return exact_match(predicted, wanted)

    @property
    def _end_id(self) -> int:
        return self.frozen_model.model.tokens.eos

    @property
    def _share(self) -> int:
        """The devices that share a batch."""
        return self.frozen_model.mesh.shape[DATA]

    @property
    def _batch_size(self) -> int:
        return -(-self.batch_size // self._share) * self._share

    def _packing(self, features: Features) -> Packing:
        return choose_packing(features, self._batch_size, self._share)

    def _quicker_packing(self, features: Features) -> Packing | None:
        """Choose how to pack a split for ranking; None not to."""
        if self.packed is False:
            return None
        packing = self._packing(features)
        num_batches = -(-len(features) // self._batch_size)
        length = features.decoder_length
        bucketed = sum(Packing(*batch['encoder_input_tokens'].shape, length, 1).cost
                       for batch, _, _ in self._bucketed(features))
        return packing if self.packed or packing.cost * num_batches < bucketed else None

    def _bucketed(self, features: Features) -> Iterator[tuple[Batch, np.ndarray, int]]:
        buckets = self.buckets or choose_buckets(features.lengths)
        return eval_batches(features, self._batch_size, buckets)

    def _collect(self, run: _Run, prompt: Prompt, features: Features,
                 packing: Packing | None) -> list[np.ndarray]:
        """Run all examples; return a row of results for each, in the order of the features."""
        sharding, switches = batch_sharding(self.frozen_model.mesh), {}
        batches: Iterator = self._bucketed(features)
        if packing is not None:
            switches = {'room': (packing.segments, int(features.lengths.max()))}
            batches = packed_eval_batches(features, self._batch_size, packing)
        pending, opened = [], self.frozen_model
        frozen = opened.frozen if run is self.score else opened.for_generation
        for batch, places, *_ in batches:
            inputs = [place(batch[key], sharding) for key in _INPUTS if key in batch]
            output = run(frozen, prompt, *inputs, **switches)
            pending.append((output, places))
        results: list[Any] = [None] * len(features)
        for output, places in pending:
            for at, result in zip(places.ravel(), fetch(output), strict=False):
                if at >= 0:
                    results[at] = result
        return results


def _greedy(model: Model, length: int) -> _Run:
    """Compile greedy decoding of so many tokens, from inputs packed or not."""

    @functools.partial(jax.jit, static_argnames='room')
    def generate(frozen: Params, prompt: Prompt, ids: Array, segment_ids: Array | None = None,
                 room: tuple[int, int] | None = None) -> Array:
        encoded_BSD, mask_BS = encode_examples(model, frozen, prompt, ids, segment_ids, room)
        return decode_tokens(model, frozen, encoded_BSD, mask_BS, length)

    return generate


def make_evaluator(frozen_model: OpenedModel, task: Any, ways: Sequence[str] | None = None,
                   batch_size: int = 64, buckets: Sequence[int] | None = None,
                   packed: bool | None = None) -> Evaluator:
    """Build the evaluator of a task.

    Args:
      frozen_model: the model.
      task: the task; its labels are what is ranked.
      ways: 'rank', 'greedy' or both; None for rank where the task has labels, else greedy.
      batch_size: examples a batch.
      buckets: padded lengths, virtual tokens included; None to choose them for each split.
      packed: put several examples in a row instead of padding to `buckets`; None where that is
        estimated to be quicker.

    Returns:
      The evaluator.

    Raises:
      ValueError: ranking is asked for but the task has no labels.
    """
    if ways is None:
        ways = ('greedy',) if task.label_words is None else ('rank',)
    score = None
    if 'rank' in ways:
        labels = encode_labels(task, frozen_model.vocabulary)
        score = make_label_scorer(frozen_model.model, [list(labels[i]) for i in range(len(labels))])
    return Evaluator(frozen_model, tuple(ways), batch_size, buckets, packed, score)


def make_features(examples: Examples, task: Any, frozen_model: OpenedModel, layout: Layout,
                  num_rows: int) -> Features:
    """Return features of a split for a prompt of so many rows; 0 for the plain model's."""
    converter = FeatureConverter.for_model(task, frozen_model.vocabulary,
                                           frozen_model.model, layout, num_rows)
    return converter.convert(examples)

