"""Several tasks and ensembles as a user calls them: train, evaluate, predict and similarity."""

import json

import pytest

from jax_prompt import cli
from jax_prompt.prompts.file import load_prompt
from tests.test_cli import fails

TASKS = """
train.tasks = [@reviews/file_task(), @warmth/file_task()]
reviews/file_task.labels = {'0': 'negative', '1': 'positive'}
warmth/file_task.labels = {'0': 'cold', '1': 'warm'}
warmth/file_task.name = 'warmth'
"""
ONE = ['--gin.file_task.labels={"0": "negative", "1": "positive"}']
SHORT = ['--gin.prompt.rows=5', '--gin.settings.steps=4', '--gin.settings.evaluate_every=4',
         '--gin.settings.batch_size=8', '--gin.settings.max_buckets=1', '--gin.train.quiet=True']


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    monkeypatch.setattr('jax_prompt.training.run.draw_curves', lambda *_: None)


@pytest.fixture(scope='module')
def gin(world, tmp_path_factory):
    """A gin file of two tasks."""
    path = tmp_path_factory.mktemp('gin') / 'tasks.gin'
    files = ''.join(f"{name}/file_task.train_file = '{world}/reviews.csv'\n"
                    for name in ('reviews', 'warmth'))
    path.write_text(TASKS + files)
    return path


@pytest.fixture(scope='module')
def sources(world, gin, tmp_path_factory):
    """The folder of a run of two tasks."""
    folder = tmp_path_factory.mktemp('joint') / 'run'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('jax_prompt.training.run.draw_curves', lambda *_: None)
        assert cli.main(['train', f'--model={world / "model"}', f'--gin_file={gin}',
                         f'--output={folder}', *SHORT]) == 0
    return folder


def test_a_folder_of_several_tasks_answers_lines_of_each(world, sources, tmp_path, capsys):
    asked = [{'text': 'the film was great', 'prompt': name} for name in ('reviews', 'warmth')]
    (tmp_path / 'in.jsonl').write_text(''.join(json.dumps(one) + '\n' for one in asked))
    common = ['predict', f'--model={world / "model"}', f'--prompts={sources}',
              f'--inputs={tmp_path}/in.jsonl', f'--output={tmp_path}/out.jsonl']
    assert cli.main([*common, '--prompt_column=prompt']) == 0
    told = [json.loads(line) for line in (tmp_path / 'out.jsonl').read_text().splitlines()]
    assert [set(one['scores']) for one in told] == [{'negative', 'positive'}, {'cold', 'warm'}]
    fails(capsys, [*common, '--ensemble=vote'], 'prompts reviews and warmth are of different tasks')
    fails(capsys, [*common, '--prompt_column=prompt', '--ensemble=vote'],
          'an ensemble is of all prompts of a folder')


def test_an_ensemble_is_trained_measured_and_answers_together(world, tmp_path, capsys):
    data = [f'--model={world / "model"}', f'--task={world / "reviews.csv"}', *ONE]
    run = tmp_path / 'run'
    assert cli.main(['train', *data, f'--output={run}', '--ensemble=2', *SHORT]) == 0
    trained = capsys.readouterr().out
    assert cli.main(['evaluate', *data, f'--prompt={run}']) == 0
    for told in (trained, capsys.readouterr().out):
        for heading in ('reviews-1', 'reviews-2', 'mean of the members', 'best member',
                        'ensemble by vote', 'ensemble by mean'):
            assert heading in told, told
    (tmp_path / 'in.jsonl').write_text('{"text": "the film was great"}\n\n{"text": "a cast"}\n')
    common = ['predict', *data[:1], f'--inputs={tmp_path}/in.jsonl']
    answers = {}
    for name, more in (('both', [f'--prompts={run}', '--ensemble=mean']),
                       ('first', [f'--prompt={run}/reviews-1.safetensors']),
                       ('second', [f'--prompt={run}/reviews-2.safetensors'])):
        assert cli.main([*common, *more, f'--output={tmp_path}/{name}.jsonl']) == 0
        answers[name] = [json.loads(line)['probabilities'] for line in
                         (tmp_path / f'{name}.jsonl').read_text().splitlines()]
    for both, first, second in zip(*answers.values(), strict=True):
        assert both == pytest.approx({word: (first[word] + second[word]) / 2 for word in first},
                                     abs=1e-5)
    (run / 'reviews-2.safetensors').unlink()
    alone = 'an ensemble of 1 is none (got reviews-1); expected at least 2 different prompts'
    fails(capsys, [*common, f'--prompts={run}', '--ensemble=vote'], alone)
    fails(capsys, ['train', *data, f'--output={tmp_path}/one', '--ensemble=1', *SHORT],
          'an ensemble of 1 is none; expected at least 2 prompts')


@pytest.mark.slow
def test_prompts_are_compared_and_a_run_starts_from_the_likest(world, sources, tmp_path, capsys):
    rank = ['similarity', f'--prompts={sources}', f'--prompt={sources}/warmth.safetensors']
    assert cli.main([*rank, '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one['prompt'] for one in told] == ['warmth', 'reviews']
    assert told[0]['means'] == pytest.approx(1) and told[0]['pairs'] > told[1]['pairs']
    assert cli.main(rank[:2]) == 0
    assert 'reviews warmth' in capsys.readouterr().out
    data = [f'--model={world / "model"}', f'--task={world / "reviews.csv"}', *ONE]
    chosen = ['--gin.prompt.initializer=@from_similar()', f'--gin.from_similar.folder={sources}',
              '--gin.from_similar.steps=2', '--gin.adafactor.learning_rate=0.0',
              '--gin.adafactor.weight_decay=0.0']
    assert cli.main(['train', *data, f'--output={tmp_path}/run', *SHORT, *chosen]) == 0
    assert (tmp_path / 'run-early' / 'card.md').is_file()
    card = (tmp_path / 'run' / 'card.md').read_text()
    assert f"| started from | from_array(source='{sources}/reviews.safetensors') |" in card
    assert (load_prompt(tmp_path / 'run' / 'prompt.safetensors').prompt.rows ==
            load_prompt(sources / 'reviews.safetensors').prompt.rows).all()
    fails(capsys, ['train', *data, f'--output={tmp_path}/other', *SHORT, *chosen,
                   '--gin.prompt.rows=6'], 'has shape (5, 16) but the prompt to train has (6, 16)')


def test_bad_tasks_are_told_in_one_line(world, gin, tmp_path, capsys):
    common = ['train', f'--model={world / "model"}', f'--gin_file={gin}',
              f'--output={tmp_path}/run', *SHORT]
    fails(capsys, [*common, '--gin.warmth/file_task.name=reviews'],
          "2 tasks of the run are called 'reviews'")
    fails(capsys, [*common, '--gin.train.tasks=@mixture()',
                   '--gin.mixture.tasks=[@reviews/file_task()]', '--gin.mixture.mixing=fair'],
          "mixing is 'fair'; expected one of equal, proportional")
    fails(capsys, [*common, f'--task={world / "reviews.csv"}'], 'both TASK (reviews) and train.tas')
    assert not (tmp_path / 'run').exists()
