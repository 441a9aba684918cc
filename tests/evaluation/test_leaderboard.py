"""Files for SuperGLUE's leaderboard: as its description says, and refused where they are not."""

import json

import pytest

from jax_prompt.data.tasks.rows import Row
from jax_prompt.evaluation.leaderboard import check_submission, submission_file, write_submission
from jax_prompt.inference.rows import Prediction


def rows_of(*idxs, **columns):
    return [Row({'idx': idx, **columns}, f'row {number}') for number, idx in enumerate(idxs)]


def written(folder, task, texts, rows):
    write_submission(folder, task, [Prediction(text) for text in texts], rows)
    check_submission(folder, task, rows)
    with open(submission_file(folder, task)) as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize('task, file, texts, labels', [
    ('super_glue_boolq', 'BoolQ', ('True', 'False'), ('true', 'false')),
    ('super_glue_wic', 'WiC', ('False', 'True'), ('false', 'true')),
    ('super_glue_wsc_ranking', 'WSC', ('True', 'False'), ('True', 'False')),
    ('super_glue_copa', 'COPA', ('choice1', 'choice2'), (0, 1)),
    ('super_glue_cb', 'CB', ('neutral', 'entailment'), ('neutral', 'entailment')),
    ('super_glue_rte', 'RTE', ('entailment', 'not_entailment'), ('entailment', 'not_entailment')),
    ('super_glue_axb', 'AX-b', ('entailment', 'entailment'), ('entailment', 'entailment')),
    ('super_glue_axg', 'AX-g', ('entailment', 'entailment'), ('entailment', 'entailment')),
])
def test_a_line_has_the_number_and_the_label(task, file, texts, labels, tmp_path):
    assert submission_file(tmp_path, task) == str(tmp_path / f'{file}.jsonl')
    found = written(tmp_path, task, texts[::-1], rows_of(7, 3))
    assert found == [{'idx': 3, 'label': labels[0]}, {'idx': 7, 'label': labels[1]}]


def test_a_written_noun_is_true_where_it_is_the_referent(tmp_path):
    found = written(tmp_path, 'super_glue_wsc', ['the cup', 'Ann'],
                    rows_of(0, 1, span1_text='The red cup'))
    assert [one['label'] for one in found] == ['True', 'False']


def test_queries_of_record_are_known_by_their_own_number(tmp_path):
    rows = rows_of({'passage': 9, 'query': 4}, {'passage': 1, 'query': 2})
    assert written(tmp_path, 'super_glue_record', ['Ann', 'B "x"'], rows) == [
        {'idx': 2, 'label': 'B "x"'}, {'idx': 4, 'label': 'Ann'}]


def test_answers_of_multirc_stand_below_their_questions(tmp_path):
    rows = rows_of(*({'paragraph': 0, 'question': question, 'answer': answer}
                     for question, answer in ((1, 4), (0, 2), (0, 1))),
                   {'paragraph': 5, 'question': 8, 'answer': 30})
    assert written(tmp_path, 'super_glue_multirc', ['True', 'False', 'True', 'False'], rows) == [
        {'idx': 0, 'passage': {'questions': [
            {'idx': 0, 'answers': [{'idx': 1, 'label': 1}, {'idx': 2, 'label': 0}]},
            {'idx': 1, 'answers': [{'idx': 4, 'label': 1}]}]}},
        {'idx': 5, 'passage': {'questions': [
            {'idx': 8, 'answers': [{'idx': 30, 'label': 0}]}]}}]


@pytest.mark.parametrize('task, lines, told', [
    ('boolq', ['{"idx": 0, "label": "True"}'], "line 1 has the label 'True'; expected one of 'tru"),
    ('boolq', ['{"idx": 0, "answer": "true"}'], "line 1 has the keys 'idx', 'answer'"),
    ('boolq', ['{"idx": "0", "label": "true"}'], 'line 1 has the keys .* and a number for idx'),
    ('boolq', ['{"idx": 0, "label": "true"}'], 'no answer to 1 of 2 examples, 1 first'),
    ('boolq', ['{"idx": 1, "label": "true"}', '{"idx": 0, "label": "true"}'],
     'line 2 answers 0 behind 1; expected each example once, sorted'),
    ('boolq', ['{"idx": 0, "label": "true"}', '{"idx": 0, "label": "true"}'], 'line 2 answers 0'),
    ('boolq', ['{"idx": 2, "label": "true"}'], 'line 1 answers 2, which the leaderboard does not'),
    ('boolq', ['{"idx": 0, "label"'], 'line 1 is not JSON'),
    ('copa', ['{"idx": 0, "label": true}'], 'line 1 has the label True; expected one of 0, 1'),
    ('record', ['{"idx": 0, "label": 3}'], 'line 1 has the label 3; expected text'),
    ('multirc', ['{"idx": 0, "passage": {"questions": [{"idx": 1}]}}'], "line 1 has no 'answers'"),
])
def test_what_the_leaderboard_would_not_take_is_named(task, lines, told, tmp_path):
    task = f'super_glue_{task}'
    with open(submission_file(tmp_path, task), 'w') as file:
        file.write('\n'.join(lines) + '\n')
    with pytest.raises(ValueError, match=told):
        check_submission(tmp_path, task, rows_of(0, 1))
