"""What a prompt learns on two whole tasks: SST-2 and TREC, the demo's model, several seeds.

    python -m benchmarks.tasks --data=FOLDER [--seeds=3] [--steps=240] [--tasks=sst2,trec]
        [--output=runs/tasks] [--dtype=auto] [--model=SOURCE]

FOLDER/sst2 holds train.tsv and validation.tsv (sentence, label 0 or 1), of which the validation is
tested on, as everyone does whom the leaderboard gives no labels; FOLDER/trec holds train.tsv and
test.tsv (question, label). One training text in ten is cut for validation, which chooses the
prompt. The recipe is the demo's: 20 rows, Adafactor from 0.3 down, batches of 32.

Each run is kept in its folder below --output with what it gave: the same command, given again after
a kill, goes on in the middle of the run that it was at and repeats none that is done. In the end
it prints a table: of each seed the figure and its 95 % interval by bootstrap over the test's
examples, and over the seeds mean and standard deviation.
"""

import argparse
import json
import pathlib
from typing import Any

from jax_prompt.data.examples import load_examples
from jax_prompt.data.tasks.files import file_task
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation.evaluator import Evaluator
from jax_prompt.evaluation.statistics import over_runs
from jax_prompt.files import write_file
from jax_prompt.models.open import OpenedModel, open_model
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.prompt import no_prompt
from jax_prompt.training import optimizers
from jax_prompt.training.run import train
from jax_prompt.training.settings import PromptSettings, TrainSettings

MODEL = 'package:traceforge_title_model/data/span'
NAME = 'FLAN-T5-small fine-tuned on titles, from int8 (traceforge-title-model)'


def sst2(folder: pathlib.Path) -> TextTask:
    """Make the task of sentences of film reviews."""
    return file_task(folder / 'sst2/train.tsv', test_file=folder / 'sst2/validation.tsv',
                     inputs_template='{sentence}', labels={'0': 'negative', '1': 'positive'},
                     targets_length=8, name='sst2', metrics=('accuracy',))


def trec(folder: pathlib.Path) -> TextTask:
    """Make the task of questions and what they ask for."""
    words = {'ABBR': 'abbreviation', 'DESC': 'description', 'ENTY': 'entity', 'HUM': 'human',
             'LOC': 'location', 'NUM': 'number'}
    return file_task(folder / 'trec/train.tsv', test_file=folder / 'trec/test.tsv',
                     inputs_template='{question}', labels=words, targets_length=8, name='trec',
                     metrics=('accuracy', 'macro_f1'))


TASKS = {'sst2': sst2, 'trec': trec}


def settings_of(steps: int, seed: int) -> TrainSettings:
    """Return the demo's settings, with a validation at each quarter."""
    return TrainSettings(steps=steps, evaluate_every=max(1, steps // 4), evaluation_limit=500,
                         max_buckets=8, bucket_multiple=4, seed=seed)


def measured(opened: OpenedModel, task: TextTask, folder: pathlib.Path, steps: int,
             seed: int) -> dict[str, Any]:
    """Train and test a prompt, or read what that gave before; see `result.json`."""
    asked = {'task': task.to_dict(), 'steps': steps, 'seed': seed, 'model': opened.fingerprint}
    path = folder / 'result.json'
    if path.exists() and (told := json.loads(path.read_text()))['asked'] == asked:
        print(f'{folder}: done before')
        return told
    rate = optimizers.warmup_schedule(peak=0.3, warmup_steps=0, total_steps=steps, decay='linear')
    outcome = train(opened, task, folder, PromptSettings(rows=20), optimizers.adafactor(rate),
                    settings_of(steps, seed))
    loaded = load_prompt(outcome.folder.prompt)
    told = {'asked': asked, 'best_step': outcome.best_step} | tested(
        opened, task, loaded.metadata.layout, loaded.prompt)
    write_file(path, json.dumps(told, indent=1).encode(), overwrite=True)
    return told


def tested(opened: OpenedModel, task: TextTask, layout: Any, prompt: Any) -> dict[str, Any]:
    """Return what a prompt gives on the test, with intervals, and the most common answer's."""
    evaluator = Evaluator(opened, task, layout)
    examples = load_examples(task, 'test', opened.vocabulary)
    metrics, predictions = evaluator.measure(prompt, examples)
    return {'metrics': metrics, 'intervals': evaluator.intervals(predictions, examples),
            'most_common': evaluator.most_common(examples)[1], 'examples': len(examples)}


def plain(opened: OpenedModel, task: TextTask, folder: pathlib.Path) -> dict[str, Any]:
    """Measure the model without a prompt, once."""
    path = folder / 'no_prompt.json'
    if not path.exists():
        told = tested(opened, task, PromptSettings().layout, no_prompt(opened.model.d_model))
        write_file(path, json.dumps(told, indent=1).encode())
    return json.loads(path.read_text())


def table(name: str, without: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """Return rows of a table, one a figure."""
    spread, lines = over_runs([run['metrics'] for run in runs]), []
    for metric in runs[0]['intervals']:
        cells = []
        for run in runs:
            low, high = (100 * end for end in run['intervals'][metric])
            cells.append(f'{100 * run["metrics"][metric]:.1f} ({low:.1f} to {high:.1f})')
        lines.append(' | '.join([
            f'| {name}, {metric}', f'{100 * runs[0]["most_common"][metric]:.1f}',
            f'{100 * without["metrics"][metric]:.1f}', *cells,
            f'{100 * spread[metric].mean:.1f} ± {100 * spread[metric].deviation:.1f} |']))
    return '\n'.join(lines)


def main() -> None:
    """Measure what is not measured yet, and print all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', required=True, type=pathlib.Path)
    parser.add_argument('--output', type=pathlib.Path, default=pathlib.Path('runs/tasks'))
    parser.add_argument('--tasks', default=','.join(TASKS))
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--steps', type=int, default=240)
    parser.add_argument('--dtype', default=None, help='float32, bfloat16 or auto')
    parser.add_argument('--model', default=MODEL, help="instead of the demo's")
    args = parser.parse_args()
    for name in args.tasks.split(','):
        if not (args.data / name).is_dir():
            raise SystemExit(f'{args.data / name} is not there; expected train.tsv and the test')
    opened = open_model(args.model, dtype=args.dtype, name=NAME if args.model == MODEL else None)
    rows = []
    for name in args.tasks.split(','):
        task, folder = TASKS[name](args.data), args.output / name
        runs = [measured(opened, task, folder / f'seed{seed}', args.steps, seed)
                for seed in range(args.seeds)]
        rows.append(table(f'{name} ({runs[0]["examples"]} examples)',
                          plain(opened, task, folder), runs))
    heads = ['task', 'most common answer', 'no prompt', *(f'seed {one}' for one in
                                                          range(args.seeds)), 'mean ± deviation']
    print('\n| ' + ' | '.join(heads) + ' |\n' + '| --- ' * len(heads) + '|')
    print('\n'.join(rows))


if __name__ == '__main__':
    main()
