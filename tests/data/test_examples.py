import subprocess
import sys

import numpy as np
import pytest
from tokenizers import normalizers

from jax_prompt.data.examples import encode_labels, load_examples
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.data.vocabularies import HuggingFaceVocabulary

ROWS = [{'text': f'the film {"good" * (i % 3)}', 'label': str(i % 2)} for i in range(10)]


def make(rows=ROWS, labels=(('0', 'negative'), ('1', 'positive'))):
    return TextTask('toy', {'train': lambda: rows}, 'review: {text}',
                    labels=labels and dict(labels))


def test_examples_keep_the_order_of_the_source(vocabulary):
    examples = load_examples(make(), 'train', vocabulary)
    assert len(examples) == 10
    assert [vocabulary.decode(examples.inputs[i]) for i in range(10)] == [
        f'review: {row["text"]}' for row in ROWS]
    assert examples.labels.tolist() == [0, 1] * 5
    assert vocabulary.decode(examples.targets[1]) == 'positive'
    assert examples.inputs.flat.dtype == examples.labels.dtype == np.int32


def test_no_end_token_in_examples(vocabulary):
    examples = load_examples(make(), 'train', vocabulary)
    assert vocabulary.eos_id not in examples.inputs.flat
    assert vocabulary.eos_id not in examples.targets.flat


def test_limit_spreads_over_a_sorted_split(vocabulary):
    rows = sorted(ROWS, key=lambda row: row['label'])
    examples = load_examples(make(rows), 'train', vocabulary, limit=4)
    assert examples.labels.tolist() == [0, 0, 1, 1]
    assert len(load_examples(make(), 'train', vocabulary, limit=99)) == 10
    with pytest.raises(ValueError, match='limit of examples is 0; expected at least 1'):
        load_examples(make(), 'train', vocabulary, limit=0)


def test_examples_keep_their_raw_rows(vocabulary):
    examples = load_examples(make(), 'train', vocabulary, limit=5)
    assert [row.columns for row in examples.rows] == ROWS[::2]
    assert examples.rows[1].where == 'row 3 of split train'
    assert make().target_text(examples.rows[0]) == 'negative'


def test_free_text_has_no_label_indices(vocabulary):
    examples = load_examples(make(labels=None), 'train', vocabulary)
    assert examples.labels is None
    assert vocabulary.decode(examples.targets[1]) == '1'


def test_what_the_vocabulary_cannot_write_is_told_with_its_count(build_tokenizer, caplog):
    tokenizer = build_tokenizer()
    tokenizer.normalizer = normalizers.Replace('\n', ' ')  # as T5's does
    vocabulary = HuggingFaceVocabulary(tokenizer)
    texts = ['a good film', 'a\nbad film', 'a film ☹', 'two  spaces']
    rows = [{'text': text, 'label': text} for text in texts]
    task = TextTask('toy', {'train': lambda: rows}, '{text}', 'label')
    load_examples(task, 'train', vocabulary)
    inputs, targets = caplog.messages
    assert inputs == (
        "2 of 4 inputs of toy train cannot be written by the vocabulary: 'a\\nbad film' at row 2 "
        "of split train becomes 'a bad film'. The model sees no more of them")
    assert targets.startswith('2 of 4 targets of toy train cannot') and 'No generated' in targets
    caplog.clear()
    load_examples(make(), 'train', vocabulary)
    assert not caplog.messages


def test_label_words_in_order(vocabulary):
    labels = encode_labels(make(), vocabulary)
    assert [vocabulary.decode(labels[i]) for i in range(len(labels))] == ['negative', 'positive']
    with pytest.raises(ValueError, match='task toy has no labels to rank; it is free text'):
        encode_labels(make(labels=None), vocabulary)


def test_label_words_that_the_vocabulary_cannot_tell_apart(vocabulary):
    task = make(labels=(('0', '☹'), ('1', '☺')))
    with pytest.raises(ValueError, match="labels '☹' and '☺' of task toy have the same tokens"):
        encode_labels(task, vocabulary)


def test_loading_needs_no_tensorflow(tmp_path, tokenizer, write):
    """Importing TensorFlow and seqio costs five seconds; only seqio's own tasks need them."""
    tokenizer.save(str(tmp_path / 'tokenizer.json'))
    path = write('a.csv', 'text,label\na film,x\nbad,y\n')
    code = f'''
import sys
from jax_prompt.data.batches import train_batches
from jax_prompt.data.examples import load_examples
from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.tasks.files import file_task
from jax_prompt.data.tasks.reviews import rotten_tomatoes
from jax_prompt.data.vocabularies import load_vocabulary
from jax_prompt.prompts.layout import Layout
examples = load_examples(file_task({path!r}, {path!r}), 'train', load_vocabulary({str(tmp_path)!r}))
features = FeatureConverter(layout=Layout(), num_rows=2, vocab_size=200).convert(examples)
next(train_batches(features, 2, 0))
assert not {{'tensorflow', 'seqio', 'transformers'}} & set(sys.modules)
'''
    subprocess.run([sys.executable, '-c', code], check=True)
