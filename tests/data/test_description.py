"""What `jax-prompt tasks` tells of a task, against numbers counted by hand."""

import numpy as np
import pytest

from jax_prompt import cli
from jax_prompt.data.description import PERCENTILES, describe_split, render_examples
from jax_prompt.data.tasks.benchmarks import BENCHMARK_TASKS
from jax_prompt.data.tasks.sizes import PUBLISHED_SIZES
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.prompts.layout import Layout

LENGTHS = [number % 10 + 1 for number in range(200)]
ROWS = [{'text': ' '.join(['film'] * length), 'label': '01'[number % 4 == 0]}
        for number, length in enumerate(LENGTHS)]
TASK = TextTask('toy', {'train': lambda: ROWS}, 'review {text}', 'label',
                {'0': 'negative', '1': 'positive', '2': 'neutral'}, 8, 4)


def test_a_split_is_described_in_tokens(vocabulary):
    told = describe_split(TASK, 'train', vocabulary)
    assert told.size == 200 and told.targets == {'negative': 150, 'positive': 50}
    assert list(told.targets) == ['negative', 'positive']
    tokens = np.array(LENGTHS) + 2  # with 'review' and the end token
    assert told.inputs.percentiles == tuple(
        sorted(tokens)[int(np.ceil(share / 100 * 199))] for share in PERCENTILES)
    assert told.inputs.percentiles[-1] == 12
    assert (told.inputs.limit, told.inputs.cut) == (8, np.mean(tokens > 8))
    assert (told.outputs.percentiles[-1], told.outputs.cut) == (2, 0.0)


def test_without_a_tokenizer_words_are_counted():
    told = describe_split(TASK, 'train')
    assert told.inputs.percentiles == (7, 11, 11, 11) and told.inputs.limit is None
    assert told.outputs.percentiles == (1, 1, 1, 1)


@pytest.mark.parametrize('layout, expected', [
    (Layout(), '[virtual 1-5] review film [end]'),
    (Layout('around', rows_before=1), '[virtual 1] review film [virtual 2-5] [end]'),
    (Layout('after', after_end=True), 'review film [end] [virtual 1-5]'),
])
def test_examples_are_rendered_as_the_model_reads_them(vocabulary, layout, expected):
    one, longer = render_examples(TASK, 'train', 2, vocabulary, layout, 5)
    assert (one.input, one.target, one.cut) == (expected, 'positive [end]', False)
    assert one.where == 'row 1 of split train'
    cut = render_examples(TASK, 'train', 200, vocabulary, layout, 5)[9]
    assert cut.cut and cut.input.count('film') == 6 and '[virtual' in cut.input


def test_an_example_without_the_layouts_marker_is_named(vocabulary):
    with pytest.raises(ValueError, match='row 1 of split train: marker .* is missing in an input'):
        render_examples(TASK, 'train', 1, vocabulary, Layout('marker', marker='<extra_id_1>'), 5)


def test_published_sizes_are_of_tasks_that_there_are():
    assert set(PUBLISHED_SIZES) <= set(BENCHMARK_TASKS)
    for name, (train, validation, test) in PUBLISHED_SIZES.items():
        task = BENCHMARK_TASKS[name]
        assert bool(train) == ('train' in task.splits), name
        assert bool(validation) == ('validation' in task.splits and not task.cuts_validation), name
        assert bool(test) == bool({'test', 'leaderboard'} & set(task.splits)), name


def test_the_command_lists_tasks(capsys):
    assert cli.main(['tasks', 'list']) == 0
    told = capsys.readouterr().out
    assert 'super_glue_boolq          2 labels    accuracy' in told and '9,427' in told
    assert all(name in told for name in BENCHMARK_TASKS)


def test_the_command_shows_ones_own_file(write, world, capsys):
    path = write('mine.jsonl', ''.join(
        f'{{"Text (en)": "the film was great {number}", "answers": ["good", "fine"]}}\n'
        for number in range(60)))
    arguments = ['tasks', 'show', f'--task={path}', '--gin.file_task.inputs_template={Text (en)}',
                 '--gin.file_task.target_column=answers', '--examples=1']
    assert cli.main(arguments) == 0
    told = capsys.readouterr().out
    assert '(words; --model=SOURCE counts tokens)' in told and 'metrics   exact_match' in told
    assert 'input:  the film was great 0\n  target: good' in told
    assert cli.main([*arguments, f'--model={world / "model"}', '--gin.prompt.rows=7',
                     "--gin.file_task.metrics=('squad', 'accuracy')"]) == 0
    told = capsys.readouterr().out
    assert 'input:  [virtual 1-7] the film was great' in told and 'target: ' in told
    assert 'metrics   squad, accuracy' in told and 'none longer than inputs_length=512' in told


@pytest.mark.parametrize('arguments, message', [
    (['show'], 'no task given'),
    (['show', '--task=trec'], 'task trec has no data: name the folder that holds it with --data_d'),
    (['show', '--task=none.csv'], 'data file none.csv does not exist'),
    (['show', '--task=FILE', "--gin.file_task.metrics=('acc',)"], "name 'acc'; expected some of"),
    (['show', '--task=FILE', '--gin.file_task.metrics=acc'], "file_task.metrics is 'acc'; expect"),
    (['show', '--task=FILE', "--gin.file_task.metrics=('f1',)"], 'metric f1 is of one of two lab'),
])
def test_what_cannot_be_shown_is_told_in_a_line(write, arguments, message, capsys):
    path = write('a.csv', 'text,label\n' + ''.join(f'film {n},{n}\n' for n in range(90)))
    assert cli.main(['tasks', *(one.replace('FILE', path) for one in arguments)]) == 2
    assert message in capsys.readouterr().err
