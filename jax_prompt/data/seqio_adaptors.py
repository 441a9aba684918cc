"""A feature converter for seqio's own pipelines."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jax_prompt.data.features import FeatureConverter, Features
from jax_prompt.data.quiet_tensorflow import seqio, tf
from jax_prompt.data.ragged import Ragged


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
