"""WSC as T5 casts it: the noun is written, and counts as the one that is asked for or not."""

from jax_prompt.data.tasks.rows import Row
from jax_prompt.evaluation.metrics import Judge, StagedMetric
from jax_prompt.inference.rows import Prediction

_DETERMINERS = frozenset(
    'a an few her his each every many much my our some that the their these this those which whose '
    'your'.split())


def refers(prediction: str, referent: str) -> bool:
    """Say whether a predicted noun is the referent.

    Case and determiners do not count; one may have words that the other has not ("fuzzy bunny",
    "bunny"), but for an apostrophe ("Bob", "Bob's hat").

    Source: `wsc_simple` of t5/data/postprocessors.py (Raffel et al. 2020).
    """
    one, other = (' '.join(word for word in text.strip().lower().split(' ')
                           if word not in _DETERMINERS) for text in (prediction, referent))
    if ("'" in one) != ("'" in other):
        return False
    words, others = set(one.split(' ')), set(other.split(' '))
    return words <= others or others <= words


def wsc(task: Judge) -> StagedMetric:
    """Return the metric 'accuracy' of pronouns: whether the written noun is the referent or not.

    A row's target is the noun in question, its column 'label' tells whether the pronoun stands for
    it.
    """

    def is_right(one: Prediction, row: Row) -> bool:
        if 'label' not in row.columns:
            raise ValueError("metric wsc needs a column 'label' that is True or False; "
                             f'{row.where} has none')
        return refers(one.text, task.right_answers(row)[0]) == (row.columns['label'] == 'True')

    return StagedMetric(lambda predictions, rows: [*map(is_right, predictions, rows)],
                        lambda right: {'accuracy': sum(right) / len(right)})
