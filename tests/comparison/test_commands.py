"""`jax-prompt compare` as a user calls it, and contenders as gin files tell them."""

import copy
import pathlib

import gin
import pytest

from jax_prompt import cli, commands
from jax_prompt.config import config_of

FOLDERS = [str(folder) for folder in cli.gin_folders()]
METHODS = sorted(path.stem for path in (cli.gin_folders()[0] / 'methods').glob('*.gin'))


def contenders(tmp_path, text, *bindings):
    """Return the contenders of a gin file by their names."""
    (tmp_path / 'compare.gin').write_text(text)
    commands.configure([cli.find_gin_file('base.gin'), str(tmp_path / 'compare.gin')],
                       list(bindings), FOLDERS)
    return {one.name: one for one in made_of('compare', 'contenders')}


def made_of(command, part):
    """Return what gin makes for one parameter of a command."""
    return copy.deepcopy(gin.get_bindings(command, resolve_references=False)[part])


@pytest.mark.parametrize('method', METHODS)
def test_each_file_of_methods_is_a_recipe(method, tmp_path):
    made = contenders(tmp_path, f'compare.contenders = [@a/tuning(), @b/tuning()]\n'
                                f"a/tuning.recipe = 'methods/{method}.gin'\n")
    commands.configure([cli.find_gin_file('base.gin'),
                        cli.find_gin_file(f'methods/{method}.gin')], [], FOLDERS)
    for part in ('prompt', 'optimizer', 'settings'):
        trained = made_of('train', part)
        assert config_of(getattr(made['a'], part)) == config_of(trained), part
    commands.configure([cli.find_gin_file('base.gin')], [])
    for part in ('optimizer', 'settings'):  # nothing of the recipe reaches another contender
        assert config_of(getattr(made['b'], part)) == config_of(made_of('train', part))


def test_lines_of_ones_own_win_over_a_recipe(tmp_path):
    made = contenders(tmp_path, '''
compare.contenders = [@low/tuning(), @plain()]
low/prompt.rows = 7
low/STEPS = 50
low/warmup_schedule.warmup_steps = 5
low/low_rank/warmup_schedule.peak = 0.5
low/tuning.recipe = 'methods/dept.gin'
''', 'low/dept.rank=3')
    low = made['low'].config()
    assert low['prompt']['rows'] == 7 and low['prompt']['method']['rank'] == 3
    assert low['settings']['steps'] == 50
    rates = low['optimizer']['groups']['left']['learning_rate'], low['optimizer']['default'][
        'learning_rate']
    assert [(rate['peak'], rate['total_steps']) for rate in rates] == [(0.5, 50), (0.3, 50)]
    assert 'plain template' in made


def fails(capsys, arguments, *parts):
    capsys.readouterr()
    assert cli.main(arguments) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and all(part in told[0] for part in parts), told


def test_what_cannot_be_compared_is_told_in_one_line(world, tmp_path, capsys):
    def ask(text, *more):
        (tmp_path / 'compare.gin').write_text(text + '''
file_task.inputs_template = 'review : {text}'
file_task.labels = {'0': 'negative', '1': 'positive'}
''')
        return ['compare', f'--gin_file={tmp_path / "compare.gin"}', f'--model={world / "model"}',
                f'--task={world / "reviews.csv"}', f'--output={tmp_path / "out"}', *more]

    one = 'compare.contenders = [@a/tuning()]\n'
    fails(capsys, ['compare', f'--model={world / "model"}', f'--task={world / "reviews.csv"}'],
          'no contenders given; name one with --gin_file=FILE, such as compare/reviews.gin')
    fails(capsys, ask('compare.contenders = [@a/tuning(), @a/tuning()]\n'),
          "two contenders of the comparison are called 'a'", '@NAME/tuning()')
    fails(capsys, ask(one + 'comparison.sizes = (1000,)\n'),
          'comparison.sizes has 1,000, but task reviews has 417 examples of training')
    fails(capsys, ask(one + "comparison.metric = 'f2'\n"), "comparison.metric is 'f2'", 'accuracy')
    fails(capsys, ask(one + "tuning.recipe = 'methods/dpt.gin'\n"), 'tuning.recipe is in no scope')
    fails(capsys, ask(one + "a/tuning.recipe = 'none.gin'\n"), "no gin file 'none.gin'")
    fails(capsys, ask('compare.contenders = [@adamw()]\n'), 'compare.contenders is',
          'expected a Sequence[Contender]')
    pathlib.Path(tmp_path / 'out').mkdir()
    pathlib.Path(tmp_path / 'out/mine.txt').write_text('mine')
    fails(capsys, ask(one), 'holds no comparison.json')
