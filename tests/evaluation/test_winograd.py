import pytest

from jax_prompt.data.tasks.rows import Row
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation.registry import metrics_of
from jax_prompt.evaluation.winograd import refers
from jax_prompt.inference.rows import Prediction


@pytest.mark.parametrize('prediction, referent, same', [
    ('the Cup', 'cup', True), ('fuzzy bunny', 'The bunny', True),
    ('bunny', 'her fuzzy bunny', True),
    ('Bob', "Bob's hat", False), ('Ann', 'Eve', False), ('', 'Ann', False), ('the', 'Ann', False),
    (' Ann ', 'ann', True)])
def test_a_noun_is_the_referent_as_t5_judges_it(prediction, referent, same):
    assert refers(prediction, referent) is same


def test_accuracy_is_of_whether_the_noun_is_written():
    task = TextTask('wsc', {}, '{text}', 'span1_text', metrics=('wsc',))
    rows = [Row({'text': 't', 'span1_text': 'Ann', 'label': label}, f'row {number}')
            for number, label in enumerate(('True', 'True', 'False', 'False'))]
    predictions = [Prediction(text) for text in ('Ann', 'Eve', 'Ann', 'Eve')]
    measure = metrics_of(task, 'greedy')[0]
    assert measure(predictions, rows) == {'accuracy': 0.5}
    assert measure([*predictions[::3], *predictions[::3]], rows) == {'accuracy': 0.5}
    perfect = [predictions[number] for number in (0, 0, 1, 1)]
    assert measure(perfect, rows) == {'accuracy': 1.0}
