"""Prediction over any number of texts, in bounded memory, in the order they came.

Texts are read in windows. Inside a window they are sorted by length, so that short texts do not
pay for long ones, batched at a few fixed shapes, so that little is compiled, and put back in order.
"""

import collections
import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jax_prompt.data.batches import choose_buckets
from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.vocabularies import encode_batch
from jax_prompt.inference.generate import Generator, before_end
from jax_prompt.inference.rank import LabelScorer, probabilities
from jax_prompt.t5.config import T5Config
from jax_prompt.types import Array, Params

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the model answers to one text.

    Attributes:
      text: the generated text, or the chosen label.
      scores: rank classification: label -> log-probability.
      probabilities: rank classification: label -> probability among the labels.
    """

    text: str
    scores: dict[str, float] | None = None
    probabilities: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what is there, ready for JSON: 'prediction', and 'scores', 'probabilities'."""
        extras = {'scores': self.scores, 'probabilities': self.probabilities}
        return {'prediction': self.text} | {k: v for k, v in extras.items() if v is not None}


@dataclasses.dataclass(frozen=True)
class Predictor:
    """How a batch of ids becomes predictions, in two steps so that device and host overlap.

    Attributes:
      run: int32[B, S] ids -> device array; returns before the device is done.
      read: that array on the host -> one prediction a row.
    """

    run: Callable[[np.ndarray], Array]
    read: Callable[[np.ndarray], list[Prediction]]


def by_generation(generate: Generator, frozen: Params, prompt_PD: Array,
                  decode: Callable[[Sequence[int]], str], config: T5Config) -> Predictor:
    """Predict by generating text.

    Args:
      generate: from `make_generator`.
      frozen: the frozen model's weights.
      prompt_PD: float32[P, D], the folded prompt.
      decode: the vocabulary's `decode`, ids -> text.
      config: of the model, for its end token.

    Returns:
      A predictor for `predict`.
    """

    def read(tokens_BL: np.ndarray) -> list[Prediction]:
        return [Prediction(decode(before_end(row, config.eos_token_id)).strip())
                for row in tokens_BL]

    return Predictor(lambda ids_BS: generate(frozen, prompt_PD, ids_BS), read)


def by_rank(score: LabelScorer, frozen: Params, prompt_PD: Array,
            labels: Sequence[str]) -> Predictor:
    """Predict by choosing the likeliest label.

    Args:
      score: from `make_label_scorer`.
      frozen: the frozen model's weights.
      prompt_PD: float32[P, D], the folded prompt.
      labels: the labels' words, in the scorer's order.

    Returns:
      A predictor for `predict`.
    """

    def read(scores_BC: np.ndarray) -> list[Prediction]:
        rows = zip(scores_BC.tolist(), probabilities(scores_BC).tolist(), strict=True)
        return [Prediction(labels[int(np.argmax(scores))],
                           dict(zip(labels, scores, strict=True)),
                           dict(zip(labels, odds, strict=True))) for scores, odds in rows]

    return Predictor(lambda ids_BS: score(frozen, prompt_PD, ids_BS), read)


def predict(texts: Iterable[str], vocabulary: Any, converter: FeatureConverter,
            predictor: Predictor, buckets: Sequence[int] | None = None, batch_size: int = 32,
            window: int = 4096) -> Iterator[Prediction]:
    """Yield a prediction for each text, in the order of the texts.

    How many texts were cut to the converter's `inputs_length` is said in one line of the log at
    the end.

    Args:
      texts: any number of them; read a window at a time.
      vocabulary: with `encode`, text -> ids without an end token.
      converter: inserts the virtual tokens and the end token.
      predictor: from `by_generation` or `by_rank`.
      buckets: lengths S at which batches run, virtual tokens included; one program is compiled for
        each that is used. None to choose them by the first window. Beyond the largest they double
        up to the greatest length that the converter allows.
      batch_size: B; the last batch of a window is filled up with rows of pads.
      window: texts held in memory at one time.

    Raises:
      ValueError: for a batch size, window or bucket below 1, or a text that the converter refuses.
    """
    _check_sizes(buckets or (), batch_size, window)
    return _predict(iter(texts), vocabulary, converter, predictor, buckets, batch_size, window)


def _predict(texts: Iterator[str], vocabulary: Any, converter: FeatureConverter,
             predictor: Predictor, buckets: Sequence[int] | None, batch_size: int,
             window: int) -> Iterator[Prediction]:
    """Run window after window; a generator of its own so that `predict` can refuse at once."""
    seen = cut = 0
    longest = converter.inputs_length + converter.num_rows
    try:
        while some := list(itertools.islice(texts, window)):
            ids, cut_here = _convert(some, vocabulary, converter, seen)
            seen, cut = seen + len(some), cut + cut_here
            buckets = buckets or choose_buckets([len(row) for row in ids])
            lengths = _lengths(buckets, longest)
            yield from _predict_window(ids, predictor, lengths, batch_size, converter.pad_id)
    finally:
        if cut:
            _log.warning('%d of %d inputs were longer than %d tokens and were cut; the prompt '
                         'never is', cut, seen, converter.inputs_length)


def _convert(texts: list[str], vocabulary: Any, converter: FeatureConverter,
             seen: int) -> tuple[list[np.ndarray], int]:
    """Return the ids of each text of a window, and how many texts were cut."""
    rows = []
    for number, tokens in enumerate(encode_batch(vocabulary, texts), start=seen + 1):
        try:
            rows.append(converter.input_ids(tokens))
        except ValueError as error:
            raise ValueError(f'input {number}: {error}') from None
    return [ids for ids, _ in rows], sum(was_cut for _, was_cut in rows)


def _predict_window(ids: list[np.ndarray], predictor: Predictor, lengths: list[int],
                    batch_size: int, pad_id: int) -> list[Prediction]:
    """Run one window, longest inputs first, and return its predictions in order."""
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    predictions = [None] * len(ids)
    under_way = collections.deque()

    def finish() -> None:
        numbers, result = under_way.popleft()
        answers = predictor.read(np.asarray(result)[:len(numbers)])
        for number, answer in zip(numbers, answers, strict=True):
            predictions[number] = answer

    for first in range(0, len(order), batch_size):
        numbers = order[first:first + batch_size]
        ids_BS = _pad([ids[i] for i in numbers], lengths, batch_size, pad_id)
        under_way.append((numbers, predictor.run(ids_BS)))
        # The device works on the newest batch while the host reads the one before it.
        if len(under_way) > 1:
            finish()
    while under_way:
        finish()
    return predictions


def _pad(rows: list[np.ndarray], lengths: list[int], batch_size: int, pad_id: int) -> np.ndarray:
    """Return int32[B, S] for the smallest S that fits; rows that are missing hold pads alone."""
    longest = max(map(len, rows))
    length = next(length for length in lengths if length >= longest)
    ids_BS = np.full((batch_size, length), pad_id, np.int32)
    for row, ids in enumerate(rows):
        ids_BS[row, :len(ids)] = ids
    return ids_BS


def _lengths(buckets: Sequence[int], longest: int) -> list[int]:
    """Return the buckets, ascending, completed by doubling so that the longest input fits."""
    lengths = sorted({min(bucket, longest) for bucket in buckets})
    while lengths[-1] < longest:
        lengths.append(min(2 * lengths[-1], longest))
    return lengths


def _check_sizes(buckets: Sequence[int], batch_size: int, window: int) -> None:
    for name, size in (('batch_size', batch_size), ('window', window),
                       *(('bucket', bucket) for bucket in buckets)):
        if size < 1:
            raise ValueError(f'{name}={size} for prediction; expected at least 1')
