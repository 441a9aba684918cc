"""Vocabularies and tasks as seqio has them."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jax_prompt.data.quiet_tensorflow import seqio, tf


def as_seqio(vocabulary: Any) -> seqio.Vocabulary:
    """Return a vocabulary as a seqio.Vocabulary; seqio's own come back as they are."""
    if isinstance(vocabulary, seqio.Vocabulary):
        return vocabulary
    return SeqioVocabulary(vocabulary)


class SeqioVocabulary(seqio.Vocabulary):
    """Let a vocabulary of ours work inside seqio tasks and tf.data graphs."""

    def __init__(self, vocabulary: Any):
        """Wrap a vocabulary."""
        super().__init__()
        self._vocabulary = vocabulary

    @property
    def eos_id(self) -> int:
        """Return the end token's id."""
        return self._vocabulary.eos_id

    @property
    def unk_id(self) -> int:
        """Return the unknown token's id."""
        return self._vocabulary.unk_id

    @property
    def _base_vocab_size(self) -> int:
        return self._vocabulary.vocab_size

    def _encode(self, s: str | bytes) -> list[int]:
        return self._vocabulary.encode(s.decode() if isinstance(s, bytes) else s)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._vocabulary.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        ids = tf.numpy_function(
            # TensorFlow gives bytes in graphs and an array around them outside.
            lambda text: np.asarray(self._encode(np.asarray(text).item()), np.int32),
            [s], tf.int32, stateful=False)
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(array):
            texts = [self.decode(row).encode() for row in np.atleast_2d(array)]
            return np.array(texts if array.ndim == 2 else texts[0], object)

        text = tf.numpy_function(decode, [ids], tf.string, stateful=False)
        text.set_shape(ids.shape[:-1])
        return text

    def __eq__(self, other: Any) -> bool:
        return (isinstance(other, SeqioVocabulary)
                and self._vocabulary.fingerprint == other._vocabulary.fingerprint)

    def __hash__(self) -> int:
        return hash(self._vocabulary.fingerprint)

    def __str__(self) -> str:
        return f'SeqioVocabulary({self._vocabulary!r})'


def build_task(name: str, texts: Callable[[str], Iterable[tuple[str, str]]],
               splits: Sequence[str], vocabulary: Any) -> seqio.Task:
    """Build a seqio.Task that is in no registry.

    Args:
        name: of the task; what seqio does not allow in it becomes an underscore.
        texts: split -> (input, target) of each example.
        splits: their names.
        vocabulary: any that `load_vocabulary` gives, or a seqio.Vocabulary.
    """
    feature = seqio.Feature(as_seqio(vocabulary), add_eos=True)

    def dataset_fn(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # everything is in memory; seqio's task shuffles
        inputs, targets = zip(*texts(split), strict=True)
        return tf.data.Dataset.from_tensor_slices(
            {'inputs': list(inputs), 'targets': list(targets)})

    return seqio.Task(
        re.sub(r'[^\w.:#]', '_', name),
        source=seqio.FunctionDataSource(dataset_fn, splits=tuple(splits)),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={'inputs': feature, 'targets': feature},
        metric_fns=[accuracy])


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Return the share of predictions that equal their target, for seqio's evaluator."""
    same = [a == b for a, b in zip(targets, predictions, strict=True)]
    return {'accuracy': float(np.mean(same))}
