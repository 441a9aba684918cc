"""seqio's side: vocabularies, tasks and a feature converter for its pipelines."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_prompt.data.features import FeatureConverter, Features
from jax_prompt.data.quiet_tensorflow import seqio, tf
from jax_prompt.data.ragged import Ragged
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.data.vocabularies import HuggingFaceVocabulary


def as_seqio(vocabulary: Any) -> seqio.Vocabulary:
    """Return a vocabulary as a seqio.Vocabulary; seqio's own come back as they are."""
    if isinstance(vocabulary, seqio.Vocabulary):
        return vocabulary
    return SeqioVocabulary(vocabulary)


class SeqioVocabulary(seqio.Vocabulary):
    """Let a `HuggingFaceVocabulary` work inside seqio tasks and tf.data graphs."""

    def __init__(self, vocabulary: HuggingFaceVocabulary):
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
    def fingerprint(self) -> str:
        """Return the wrapped vocabulary's fingerprint."""
        return self._vocabulary.fingerprint

    @property
    def _base_vocab_size(self) -> int:
        return self._vocabulary.vocab_size

    def token_id(self, token: str) -> int | None:
        """Return the id of one vocabulary entry, or None."""
        return self._vocabulary.token_id(token)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize many texts."""
        return self._vocabulary.encode_batch(texts)

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
        return isinstance(other, SeqioVocabulary) and self._vocabulary == other._vocabulary

    def __hash__(self) -> int:
        return hash(self._vocabulary)

    def __str__(self) -> str:
        return f'SeqioVocabulary({self._vocabulary!r})'


def build_task(task: TextTask, vocabulary: Any) -> seqio.Task:
    """Build the seqio.Task of a `TextTask`; see `TextTask.seqio_task`."""
    feature = seqio.Feature(as_seqio(vocabulary), add_eos=True)

    def dataset_fn(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # everything is in memory; seqio's task shuffles
        inputs, targets = zip(*task.texts(split), strict=True)
        return tf.data.Dataset.from_tensor_slices(
            {'inputs': list(inputs), 'targets': list(targets)})

    return seqio.Task(
        re.sub(r'[^\w.:#]', '_', task.name),
        source=seqio.FunctionDataSource(dataset_fn, splits=tuple(task.splits)),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={'inputs': feature, 'targets': feature},
        metric_fns=[accuracy])


def accuracy(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Return the share of predictions that equal their target, for seqio's evaluator."""
    same = [a == b for a, b in zip(targets, predictions, strict=True)]
    return {'accuracy': float(np.mean(same))}


class PromptFeatureConverter(seqio.FeatureConverter):
    """Insert virtual tokens in `seqio.get_dataset` and `seqio.Evaluator` pipelines.

    The lengths given to seqio take the place of the converter's: `task_feature_lengths['inputs']`
    counts no virtual tokens, `encoder_input_tokens` is P longer. seqio trims before converters
    run: with layout 'marker' pass `trim_output_features=False` and `apply_length_check=False`, or a
    marker at the end of a long text is lost.
    """

    TASK_FEATURES = {
        'inputs': seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
        'targets': seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
    }
    MODEL_FEATURES = {
        'encoder_input_tokens': seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
        'decoder_target_tokens': seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
        'decoder_input_tokens': seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
        'decoder_loss_weights': seqio.FeatureConverter.FeatureSpec(dtype=tf.float32),
    }
    PACKING_FEATURE_DTYPES = None

    def __init__(self, converter: FeatureConverter, pack: bool = False,
                 apply_length_check: bool = True):
        """Wrap a converter.

        Raises:
            ValueError: pack is asked for.
        """
        if pack:
            raise ValueError('packing is not supported by PromptFeatureConverter; use pack=False')
        super().__init__(pack=False, apply_length_check=apply_length_check,
                         bos_id=converter.decoder_start_id)
        self._converter = converter

    def _convert_features(self, ds: tf.data.Dataset,
                          task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        converter = dataclasses.replace(
            self._converter, inputs_length=task_feature_lengths['inputs'],
            targets_length=task_feature_lengths['targets'])
        lengths = self.get_model_feature_lengths(task_feature_lengths)

        def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            arrays = tf.numpy_function(
                lambda inputs, targets: _convert_one(converter, inputs, targets),
                [example['inputs'], example['targets']],
                [spec.dtype for spec in self.MODEL_FEATURES.values()], stateful=False)
            features = dict(zip(self.MODEL_FEATURES, arrays, strict=True))
            for name, array in features.items():
                array.set_shape([lengths[name]])
            return features

        return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> dict[str, int]:
        """Return the length of each model feature."""
        decoder = task_feature_lengths['targets']
        return {name: decoder if name.startswith('decoder') else
                task_feature_lengths['inputs'] + self._converter.num_rows
                for name in self.MODEL_FEATURES}


def _convert_one(converter: FeatureConverter, inputs: np.ndarray,
                 targets: np.ndarray) -> list[np.ndarray]:
    """Convert and pad one tokenized example, by the same code as a whole split."""
    inputs, targets = (ids[:-1] if len(ids) and ids[-1] == converter.eos_id else ids
                       for ids in (inputs, targets))
    features = Features(
        'example', Ragged.from_sequences([converter.input_ids(inputs)[0]]),
        Ragged.from_sequences([converter.target_ids(targets)[0]]), None,
        converter.targets_length, converter.pad_id, converter.decoder_start_id)
    batch = features.batch([0], converter.inputs_length + converter.num_rows)
    return [batch[name][0] for name in PromptFeatureConverter.MODEL_FEATURES]
