"""Designs: how an input and its demonstrations are written, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest

from jax_prompt.data.demonstrations import Demonstration, Nearest
from jax_prompt.data.design import Design
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.prompts.file import PromptFile, PromptMetadata, load_prompt, save_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import no_prompt

TASK = TextTask('reviews', {}, 'review: {text}', 'label', {'0': 'bad', '1': 'good'})
WORDS = {'bad': ('awful', 'dull'), 'good': ('great',)}
SHOWN = (Demonstration({'text': 'A dull plot .'}, 'bad'),
         Demonstration({'text': 'A warm cast .'}, 'good'),
         Demonstration({'text': 'A weak hero .'}, 'bad'))
CLOZE = Design('{text} It was {answer} .', WORDS, instruction='Judge the films .',
               demonstrations=SHOWN)
ROW = {'text': 'A fine film .'}
#: What the model reads, to the letter.
GOLDEN = {
    'cloze': (CLOZE,
              'Judge the films . A dull plot . It was awful . A warm cast . It was great . '
              'A weak hero . It was awful . A fine film . It was <extra_id_0> .'),
    'reversed': (dataclasses.replace(CLOZE, order='reversed', instruction=''),
                 'A weak hero . It was awful . A warm cast . It was great . '
                 'A dull plot . It was awful . A fine film . It was <extra_id_0> .'),
    'by_label': (dataclasses.replace(CLOZE, order='by_label', separator=' | '),
                 'Judge the films . | A dull plot . It was awful . | A weak hero . It was awful . '
                 '| A warm cast . It was great . | A fine film . It was <extra_id_0> .'),
    'plain': (Design('Review: {text} Sentiment: {answer}', form='plain', separator='\n',
                     demonstrations=SHOWN[:2]),
              'Review: A dull plot . Sentiment: bad\nReview: A warm cast . Sentiment: good\n'
              'Review: A fine film . Sentiment:'),
    'plain without a place': (Design('review: {text}', WORDS, form='plain',
                                     demonstrations=SHOWN[:1]),
                              'review: A dull plot . awful review: A fine film .'),
    'around a soft prompt': (Design('{text} <extra_id_99> It was {answer} .', WORDS,
                                    demonstrations=SHOWN[:1]),
                             'A dull plot . It was awful . '
                             'A fine film . <extra_id_99> It was <extra_id_0> .'),
}


@pytest.mark.parametrize('name', GOLDEN)
def test_an_input_is_written_so(name: str):
    design, text = GOLDEN[name]
    assert design.render(ROW, design.demonstrations) == text


def a_file(design: Design) -> PromptFile:
    states = None if design.nearest is None else design.nearest.states_ND
    return PromptFile(no_prompt(4), PromptMetadata(
        'tiny', 'f' * 64, 'v' * 16, TASK.to_dict(), Layout(), 'design', 0, {}, 0,
        design=design.to_dict()), states_ND=states)


def a_nearest() -> Design:
    states = np.eye(3, 4, dtype=np.float32)
    return dataclasses.replace(CLOZE, demonstrations=(), nearest=Nearest(2, SHOWN, states),
                               calibration=(-0.25, -1.5), closed=True, combine='best')


@pytest.mark.parametrize('design', [CLOZE, a_nearest()], ids=['chosen', 'nearest'])
def test_a_file_gives_back_the_design(tmp_path, design: Design):
    save_prompt(tmp_path / 'a.safetensors', a_file(design))
    loaded = load_prompt(tmp_path / 'a.safetensors')
    found = Design.of(loaded)
    assert found.to_dict() == design.to_dict() and loaded.prompt.rows.shape == (0, 4)
    if design.nearest is not None:
        np.testing.assert_array_equal(found.nearest.states_ND, design.nearest.states_ND)


def test_only_a_file_with_a_design_is_of_the_format_that_others_refuse():
    file = a_file(CLOZE)
    plain = dataclasses.replace(file.metadata, design=None).to_strings()
    assert plain['format_version'] == '1' and 'design' not in plain
    assert file.metadata.to_strings()['format_version'] == '3'


@pytest.mark.parametrize(('change', 'message'), [
    ({'template': '{text} It was good .'}, "has {answer}, the answer's place, 0 times; put it"),
    ({'template': '{answer}'}, "names no column of the input; name one in braces, such as"),
    ({'template': 'It was {answer} .', 'form': 'plain'}, 'names no column of the input'),
    ({'form': 'plain'}, 'of a plain design has {answer} before its end; put it last'),
    ({'template': 'x' * 20_001}, 'template of a design is .* at most 20,000 characters'),
    ({'combine': 'product'}, "combine of a design is 'product'; expected one of sum, mean, best"),
    ({'order': ['chosen']}, r"order of a design is \['chosen'\]; expected one of chosen"),
    ({'closed': 1}, 'closed of a design is 1; expected true or false'),
    ({'words': {'bad': [], 'good': ['x']}}, "for label 'bad' are .*; expected at least one word"),
    ({'words': {'bad': [' '], 'good': ['x']}}, "for label 'bad' have ' '; expected text of at"),
    ({'words': {'bad': ['w'] * 1001}}, 'has 1,001 words; expected at most 1,000'),
    ({'calibration': [float('nan'), 0]}, 'calibration of a design is .*; expected a number for'),
    ({'calibration': [10**400, 0]}, 'calibration of a design is .*; expected a number for'),
    ({'demonstrations': [[{'text': 'a'}, 'bad']] * 257}, 'has 257 demonstrations; expected at'),
    ({'demonstrations': [[{'title': 'a'}, 'bad']]}, "columns 'title' and the answer"),
    ({'demonstrations': [{'text': 'a'}]}, 'expected pairs of columns and answer'),
    ({'nearest': {'shots': 1}}, 'expected shots and pool, and a tensor of their states'),
    ({'shots': 3},
     "design has the entries 'shots'; expected template and some of"),
])
def test_what_a_file_of_unknown_origin_may_not_say(change: dict, message: str):
    values = json.loads(json.dumps(CLOZE.to_dict())) | change
    with pytest.raises(ValueError, match=message):
        Design.from_dict(values)


@pytest.mark.parametrize(('change', 'message'), [
    ({'words': {'bad': 'x', 'fine': 'y'}}, 'has words for .* but the labels of task reviews are'),
    ({'calibration': (1.0, 2.0, 3.0)}, 'calibrated for 3 labels but task reviews has 2'),
    ({'demonstrations': (Demonstration({'text': 'a'}, 'fine'),), 'words': None},
     "a demonstration of the design is answered 'fine'; the labels of task reviews are"),
    ({'template': '{label} {text} {answer}', 'demonstrations': ()}, "shows the target column"),
])
def test_a_design_is_one_for_its_task(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CLOZE, **change).check(TASK)


def test_free_text_has_no_words_to_score():
    with pytest.raises(ValueError, match="task notes is free text, .*set form='plain'"):
        CLOZE.check(TextTask('notes', {}))
