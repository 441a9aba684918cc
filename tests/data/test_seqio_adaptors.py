import subprocess
import sys

import numpy as np
import pytest

from jax_prompt.data import seqio_tasks
from jax_prompt.data.examples import load_examples
from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.quiet_tensorflow import seqio, tf
from jax_prompt.data.seqio_adaptors import PromptFeatureConverter
from jax_prompt.data.seqio_tasks import as_seqio
from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.data.vocabularies import encode_batch
from jax_prompt.prompts.layout import Layout

TEXTS = ['a good film', 'the plot is thin', '', 'slow </s> bad', 'qué']
V, P = 200, 3


@pytest.fixture
def task():
    rows = [{'text': text, 'label': str(i % 2)} for i, text in enumerate(TEXTS)]
    return TextTask('toy task', {'train': lambda: rows}, 'review: {text}',
                    labels={'0': 'negative', '1': 'positive'}, inputs_length=6, targets_length=4)


@pytest.fixture
def converter():
    return FeatureConverter(layout=Layout('around'), num_rows=P, vocab_size=V, inputs_length=6,
                            targets_length=4)


@pytest.fixture
def registered(task, vocabulary):
    """The task under its name in seqio's registry."""
    seqio_task = task.seqio_task(vocabulary)
    seqio.TaskRegistry.add_provider(seqio_task.name, seqio_task)
    yield seqio_task.name
    seqio.TaskRegistry.remove(seqio_task.name)


def test_vocabulary_is_seqios_and_gives_the_same_ids(vocabulary):
    adapted = as_seqio(vocabulary)
    assert isinstance(adapted, seqio.Vocabulary) and as_seqio(adapted) is adapted
    assert (adapted.eos_id, adapted.unk_id, adapted.pad_id, adapted.vocab_size) == (
        1, 2, 0, vocabulary.vocab_size)
    for text in TEXTS:
        ids = vocabulary.encode(text)
        assert adapted.encode(text) == adapted.encode_tf(tf.constant(text)).numpy().tolist() == ids
        assert adapted.decode([*ids, 1, 5]) == vocabulary.decode(ids)
    assert encode_batch(adapted, TEXTS) == vocabulary.encode_batch(TEXTS)
    assert adapted == seqio_tasks.SeqioVocabulary(vocabulary) != vocabulary
    assert hash(adapted) == hash(seqio_tasks.SeqioVocabulary(vocabulary))


def test_vocabulary_in_a_graph(vocabulary):
    adapted = as_seqio(vocabulary)
    dataset = tf.data.Dataset.from_tensor_slices(TEXTS).map(adapted.encode_tf)
    assert [ids.tolist() for ids in dataset.as_numpy_iterator()] == vocabulary.encode_batch(TEXTS)


def test_decoding_tensors(vocabulary):
    ids = [[*vocabulary.encode('a film'), 1, 7], [*vocabulary.encode('bad'), 1, 9, 9]]
    adapted = as_seqio(vocabulary)
    assert adapted.decode_tf(tf.constant(ids[0])).numpy() == b'a film'
    assert adapted.decode_tf(tf.constant(ids)).numpy().tolist() == [b'a film', b'bad']


def test_text_task_is_a_seqio_task_without_prompts(task, vocabulary):
    built = task.seqio_task(vocabulary)
    assert isinstance(built, seqio.Task) and list(built.splits) == ['train']
    examples = list(built.get_dataset(None, 'train', shuffle=False).as_numpy_iterator())
    assert examples[0]['inputs_pretokenized'] == b'review: a good film'
    assert examples[1]['targets_pretokenized'] == b'positive'
    assert examples[0]['inputs'].tolist() == [*vocabulary.encode('review: a good film'), 1]


def test_fast_loading_gives_the_seqio_tasks_examples(task, vocabulary, registered):
    fast = load_examples(task, 'train', vocabulary)
    slow = load_examples(RegisteredTask(registered, ('negative', 'positive')), 'train', vocabulary)
    assert fast.inputs.flat.tolist() == slow.inputs.flat.tolist()
    assert fast.inputs.offsets.tolist() == slow.inputs.offsets.tolist()
    assert fast.targets.flat.tolist() == slow.targets.flat.tolist()
    assert fast.labels.tolist() == slow.labels.tolist()


def test_registered_task_reads_with_the_models_vocabulary(vocabulary, registered, build_tokenizer,
                                                          words):
    other = type(vocabulary)(build_tokenizer(words[::-1]))
    examples = load_examples(RegisteredTask(registered), 'train', other, limit=2)
    assert len(examples) == 2 and examples.labels is None
    assert other.decode(examples.inputs[0]) == 'review: a good film'


def test_registered_free_text_is_judged_by_its_raw_target(vocabulary, caplog):
    """A target that was tokenized and put together again would be equal to an unknown token."""
    rows = [{'text': 'a film', 'label': 'great ☺'}, {'text': 'a ☹ film', 'label': 'great fun'}]
    seqio_task = TextTask('raw', {'train': lambda: rows}).seqio_task(vocabulary)
    seqio.TaskRegistry.add_provider('raw', seqio_task)
    try:
        task = RegisteredTask('raw')
        examples = load_examples(task, 'train', vocabulary)
    finally:
        seqio.TaskRegistry.remove('raw')
    assert [task.target_text(row) for row in examples.rows] == ['great ☺', 'great fun']
    assert '1 of 2 inputs of raw train cannot be written by the vocabulary' in caplog.text
    assert '1 of 2 targets of raw train cannot be written by the vocabulary' in caplog.text


def test_registered_task_metadata(registered):
    values = RegisteredTask(registered, ('negative', 'positive')).to_dict()
    again = TextTask.from_dict(values)
    assert again.render({'inputs': 'ready'}) == 'ready'
    assert again.label_words == ('negative', 'positive')


def test_registered_task_mistakes(registered, vocabulary):
    with pytest.raises(ValueError, match="no task 'toy_tusk' is registered with seqio .*did you "
                                         'mean toy_task?'):
        RegisteredTask('toy_tusk')
    with pytest.raises(ValueError, match="seqio task toy_task has no split 'dev'; it has train"):
        load_examples(RegisteredTask(registered), 'dev', vocabulary)
    with pytest.raises(ValueError, match="target 'positive' of example 2 of seqio task toy_task is "
                                         "not one of its labels: 'negative', 'neutral'"):
        load_examples(RegisteredTask(registered, ('negative', 'neutral')), 'train', vocabulary)


def test_get_dataset_equals_our_own_batches(task, vocabulary, converter):
    """seqio trims the end token away with the text; the converter puts it back."""
    features = converter.convert(load_examples(task, 'train', vocabulary))
    expected = features.batch(range(len(TEXTS)), 6 + P)
    dataset = seqio.get_dataset(
        task.seqio_task(vocabulary), {'inputs': 6, 'targets': features.decoder_length},
        PromptFeatureConverter(converter), 'train', batch_size=len(TEXTS))
    batch = next(dataset.as_numpy_iterator())
    assert set(batch) == set(expected)
    for name, array in expected.items():
        assert batch[name].dtype == array.dtype
        np.testing.assert_array_equal(batch[name], array)


def test_evaluator_scores_predictions(registered, vocabulary, converter):
    evaluator = seqio.Evaluator(
        registered, PromptFeatureConverter(converter), eval_split='train',
        sequence_length={'inputs': 6, 'targets': 4})

    def predict(dataset):
        return [(i, example['decoder_target_tokens'].tolist() if i else [5] * 4)
                for i, example in dataset.as_numpy_iterator()]

    metrics, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict,
                                    score_fn=lambda dataset: [])
    assert metrics.result()['toy_task'] == {'accuracy': 0.8}


def test_packing_is_refused(converter):
    with pytest.raises(ValueError, match='packing is not supported by PromptFeatureConverter'):
        PromptFeatureConverter(converter, pack=True)


@pytest.mark.slow
def test_importing_tensorflow_says_nothing():
    done = subprocess.run(
        [sys.executable, '-c', 'import jax_prompt.data.quiet_tensorflow as quiet;'
                               'assert not quiet.tf.config.get_visible_devices("GPU")'],
        capture_output=True, text=True, check=True)
    assert done.stderr == done.stdout == ''
