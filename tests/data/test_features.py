import logging
import types

import numpy as np
import pytest

from jax_prompt.data.examples import Examples, load_examples
from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.ragged import Ragged
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.model import T5
from jax_prompt.prompts.layout import Layout

V, P = 200, 3
PROMPT = [V, V + 1, V + 2]


def converter(layout=None, **kwargs):
    return FeatureConverter(**{'layout': layout or Layout(), 'num_rows': P, 'vocab_size': V,
                               'inputs_length': 8, 'targets_length': 4, **kwargs})


def examples(inputs, targets=None, labels=None):
    targets = [[9]] * len(inputs) if targets is None else targets
    return Examples('toy train', Ragged.from_sequences(inputs), Ragged.from_sequences(targets),
                    labels)


def model(**kwargs):
    return T5(T5Config(**{'vocab_size': V, 'd_model': 8, 'd_kv': 4, 'd_ff': 8, 'num_heads': 2,
                       'num_layers': 1, 'num_decoder_layers': 1, 'activation': 'relu',
                       'gated': False, 'tied_head': True, 'scale_decoder_outputs': True,
                       'per_layer_relative_bias': False, 'name': 'tiny', **kwargs}))


@pytest.mark.parametrize('layout, expected', [
    (Layout(), [*PROMPT, 5, 6, 1]),
    (Layout('after'), [5, 6, *PROMPT, 1]),
    (Layout('after', after_end=True), [5, 6, 1, *PROMPT]),
    (Layout('around'), [V, 5, 6, V + 1, V + 2, 1]),
])
def test_virtual_tokens_stand_where_the_layout_says(layout, expected):
    features = converter(layout).convert(examples([[5, 6]]))
    assert features.encoder[0].tolist() == expected


def test_marker_is_looked_up_in_the_vocabulary(vocabulary):
    task = TextTask('toy', {}, 'a {text} <extra_id_1> film')
    layout = Layout('marker', marker='<extra_id_1>')
    fitted = FeatureConverter.for_model(task, vocabulary, model(), layout, P)
    features = fitted.convert(examples([vocabulary.encode(task.render({'text': 'good'}))]))
    ids = features.encoder[0]
    assert [i - V for i in ids if i >= V] == [0, 1, 2]
    assert vocabulary.decode([i for i in ids if i < V]).split() == ['a', 'good', 'film']
    with pytest.raises(ValueError, match="example 1 of toy train: marker '<extra_id_1>'"):
        fitted.convert(examples([vocabulary.encode('a film')]))


@pytest.mark.parametrize('layout, expected', [
    (Layout(), [*PROMPT, 5, 6]), (Layout('after', after_end=True), [5, 6, *PROMPT])])
def test_an_input_is_ended_as_its_tokenizer_ends_it(layout, expected):
    endless = converter(layout, ends_inputs=False)
    features = endless.convert(examples([[5, 6], [], list(range(5, 14))]))
    assert features.encoder[0].tolist() == expected
    assert [i for i in features.encoder[1] if i < V] == [1]  # attention needs something to read
    assert [i for i in features.encoder[2] if i < V] == list(range(5, 13))
    assert features.targets[0].tolist() == [9, 1]
    fitted = FeatureConverter.for_model(
        TextTask('toy', {}, '{text}'), types.SimpleNamespace(vocab_size=V, eos_id=1, pad_id=0,
                                                             ends_inputs=False),
        model(), layout, P)
    assert not fitted.ends_inputs


def test_no_rows_is_the_plain_input():
    features = converter(num_rows=0).convert(examples([[5, 6]]))
    assert features.encoder[0].tolist() == [5, 6, 1]


def test_too_long_texts_are_cut_and_counted_never_the_prompt(caplog):
    inputs = [list(range(10, 10 + n)) for n in (3, 7, 8, 20)]
    with caplog.at_level(logging.WARNING):
        features = converter().convert(examples(inputs, [[9], [9], [9, 9, 9], [9] * 4]))
    assert [features.encoder[i][:P].tolist() for i in range(4)] == [PROMPT] * 4
    assert [features.encoder[i][-1] for i in range(4)] == [1] * 4
    assert features.lengths.tolist() == [P + 4, P + 8, P + 8, P + 8]
    assert [features.targets[i].tolist() for i in range(4)] == [
        [9, 1], [9, 1], [9, 9, 9, 1], [9, 9, 9, 1]]
    assert [record.getMessage() for record in caplog.records] == [
        'toy train: 2 of 4 inputs were longer than 8 tokens and were cut; the prompt never is',
        'toy train: 1 of 4 targets were longer than 4 tokens and were cut; no answer can be as '
        'long: raise targets_length']


def test_nothing_is_said_where_nothing_is_cut(caplog):
    converter().convert(examples([[5]]))
    assert not caplog.records


def test_a_cut_label_word_is_an_error():
    with pytest.raises(ValueError, match='a label word of toy train has 5 tokens, end token inclu'):
        converter().convert(examples([[5]], [[9] * 4], np.array([0])))


def test_ids_beyond_the_model_would_pass_for_virtual_tokens():
    with pytest.raises(ValueError, match='example 2 of toy train: token id 200 is outside'):
        converter().convert(examples([[5], [V]]))


def test_batch_is_padded_shifted_and_weighted():
    features = converter().convert(examples([[5], [6, 7]], [[8], [9, 9]]))
    batch = features.batch([1, 0], 8)
    assert batch['encoder_input_tokens'].tolist() == [
        [*PROMPT, 6, 7, 1, 0, 0], [*PROMPT, 5, 1, 0, 0, 0]]
    assert batch['decoder_target_tokens'].tolist() == [[9, 9, 1, 0], [8, 1, 0, 0]]
    assert batch['decoder_input_tokens'].tolist() == [[0, 9, 9, 1], [0, 8, 1, 0]]
    assert batch['decoder_loss_weights'].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    assert {array.dtype for array in batch.values()} == {np.dtype('int32'), np.dtype('float32')}


def test_rows_of_a_table_begin_where_the_prompt_stands_in_it():
    ids, _ = converter(first_row=40).input_ids([5])
    plain, _ = converter().input_ids([5])
    assert ids.tolist() == [*(row + 40 for row in plain[:len(PROMPT)]), 5, 1]


def test_decoder_length_fits_the_longest_target():
    assert converter(targets_length=64).convert(examples([[5]], [[9] * 4])).decoder_length == 6
    assert converter(targets_length=6).convert(examples([[5]], [[9] * 4])).decoder_length == 6
    assert converter(targets_length=64).convert(examples([[5]], [[]])).decoder_length == 2


def test_other_padding_and_start_ids():
    features = converter(pad_id=3, decoder_start_id=4, eos_id=2).convert(
        examples([[5]], [[9, 8]]))
    batch = features.batch([0], 6)
    assert batch['encoder_input_tokens'][0].tolist() == [*PROMPT, 5, 2, 3]
    assert batch['decoder_target_tokens'][0].tolist() == [9, 8, 2, 3]
    assert batch['decoder_input_tokens'][0].tolist() == [4, 9, 8, 2]


def test_fits_task_and_model(vocabulary):
    task = TextTask('toy', {'train': lambda: [{'text': 'a film', 'label': 'x'}]},
                    inputs_length=9, targets_length=5)
    fitted = FeatureConverter.for_model(task, vocabulary, model(), Layout(), P)
    assert (fitted.inputs_length, fitted.targets_length, fitted.vocab_size) == (9, 5, V)
    features = fitted.convert(load_examples(task, 'train', vocabulary))
    assert features.encoder[0][:P].tolist() == PROMPT


@pytest.mark.parametrize('kwargs, message', [
    ({'vocab_size': 50}, 'ids but the embedding table of tiny has 50 rows; ids beyond them would'),
    ({'eos_token_id': 2}, 'the end token is id 1 in the vocabulary but 2 in tiny'),
    ({'pad_token_id': 5}, 'the padding token is id 0 in the vocabulary but 5 in tiny'),
])
def test_vocabulary_of_another_model(vocabulary, kwargs, message):
    with pytest.raises(ValueError, match=message):
        FeatureConverter.for_model(TextTask('toy', {}), vocabulary, model(**kwargs), Layout(), P)
