"""Learning from few examples: 16 and 64 a class of SST-2 and TREC, three samples of each.

    python -m benchmarks.few_shot --data=FOLDER [--output=FOLDER] [--shots=16,64] [--samples=3]
        [--ways=direct,few_shot] [--tasks=sst2,trec] [--limit=N]

As many examples a class are validated on, and each test set is used whole: SST-2's 872 sentences,
TREC's 500 questions. The ways: `direct` with today's defaults, which is measured without training
too; gin/methods/few_shot.gin; residual; `spot`, a prompt that starts from one trained on all of the
other task; model tuning; and whatever else has a file in gin/methods. --data has trec/train.tsv,
trec/test.tsv (question, label), sst2/train.tsv and sst2/validation.tsv (sentence, label),
tab-separated. Each run is a JSON file in the output, and is not run again; --limit ends after so
many new ones and prints the table of those there are.
"""

import argparse
import collections
import dataclasses
import functools
import itertools
import pathlib
import random
from collections.abc import Iterator

from benchmarks.method_runs import (
    DEMO_MODEL,
    DIRECT,
    Runs,
    methods,
    print_table,
    settings_of,
    spread,
    sst2,
    trec,
)
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.training.run import NO_PROMPT

TASKS = {'sst2': sst2, 'trec': trec}
OTHER = {'sst2': 'trec', 'trec': 'sst2'}
SPOT, FEW_SHOT, NOTHING = 'spot', 'few_shot', 'no training'
WAYS = [DIRECT, FEW_SHOT, 'residual', SPOT, 'model_tuning']
#: Where a method's file says nothing else.
DEFAULTS = 'prompt.rows = 20\n'
#: Of the prompts that SPoT starts from.
SOURCE_STEPS, SOURCE_BATCH = 200, 32


def main() -> None:
    args = parse()
    runs, data, left = Runs(args.output, args.model), pathlib.Path(args.data), args.limit
    tasks = {name: TASKS[name](data) for name in TASKS}
    for name, task, shots, sample, way in plan(args):
        if not runs.has(name):
            if left == 0:
                break
            left -= 1
            one_run(runs, args, tasks, (name, task, shots, sample, way))
    table(runs, args)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', required=True, help='folder with trec/ and sst2/')
    parser.add_argument('--model', default=DEMO_MODEL)
    parser.add_argument('--output', type=pathlib.Path, default=pathlib.Path('runs/few_shot'))
    parser.add_argument('--shots', default='16,64', help='examples a class')
    parser.add_argument('--samples', type=int, default=3)
    parser.add_argument('--ways', default=','.join(WAYS))
    parser.add_argument('--tasks', default=','.join(TASKS))
    parser.add_argument('--steps', type=int, default=100)
    parser.add_argument('--batch_size', type=int, default=32)
    parser.add_argument('--evaluations', type=int, default=10, help='on validation, in a run')
    parser.add_argument('--limit', type=int, default=-1, help='new runs at most')
    args = parser.parse_args()
    known = {*methods(), *WAYS}
    unknown = {*args.ways.split(',')} - known | {*args.tasks.split(',')} - TASKS.keys()
    if unknown:
        parser.error(f'unknown {", ".join(sorted(unknown))}; ways are {", ".join(sorted(known))}, '
                     f'tasks {", ".join(TASKS)}')
    return args


def plan(args: argparse.Namespace) -> Iterator[tuple[str, str, int, int, str]]:
    """Yield (name, task, examples a class, number of the sample, way) of each run."""
    for sample, shots, task, way in itertools.product(
            range(args.samples), map(int, args.shots.split(',')), args.tasks.split(','),
            args.ways.split(',')):
        yield f'{task}-{shots}-{way}-{args.steps}-{sample}', task, shots, sample, way


def one_run(runs: Runs, args: argparse.Namespace, tasks: dict[str, TextTask],
            what: tuple[str, str, int, int, str]) -> None:
    """Train in one way on one sample."""
    name, task, shots, sample, way = what
    bindings = settings_of(args.steps, args.batch_size, args.evaluations, sample,
                           compare=way == DIRECT)
    if way == SPOT:
        other = OTHER[task]
        source = runs.run(f'{other}-source', tasks[other], DIRECT, settings_of(
            SOURCE_STEPS, SOURCE_BATCH, 5, 0, evaluation_limit=500), DEFAULTS)
        bindings += ['prompt.initializer=@from_array()', f'from_array.source={source["prompt"]}']
    method = DIRECT if way == SPOT else way
    runs.run(name, sampled(tasks[task], shots, sample), method, bindings, DEFAULTS)


def sampled(task: TextTask, shots: int, sample: int) -> TextTask:
    """Return a task with so many examples of each class to train on, and others to validate on."""
    by_label = collections.defaultdict(list)
    for row in task.rows('train'):
        by_label[task.target_text(row)].append(row)
    splits = {'train': [], 'validation': [], 'test': task.rows('test')}
    for label in sorted(by_label):
        rows = by_label[label]
        random.Random(f'{sample} {label}').shuffle(rows)
        for number, split in enumerate(('train', 'validation')):
            splits[split] += rows[number * shots:(number + 1) * shots]
    return dataclasses.replace(task, splits={
        split: functools.partial(splits.__getitem__, split) for split in splits})


def table(runs: Runs, args: argparse.Namespace) -> None:
    """Print a line a way, of the runs that are done."""
    found = collections.defaultdict(list)
    for name, task, shots, _, way in plan(args):
        if runs.has(name):
            one = runs.known(name)
            found[way, task, shots].append(one['after']['accuracy'])
            if NO_PROMPT in one['results']:
                found[NOTHING, task, shots].append(one['results'][NO_PROMPT]['accuracy'])
    columns = list(itertools.product(args.tasks.split(','), map(int, args.shots.split(','))))
    rows = [(way, *(f'{spread(found[way, *column], 100)} ({len(found[way, *column])})'
                    if found[way, *column] else '' for column in columns))
            for way in (NOTHING, *args.ways.split(','))]
    print(f'\ntest accuracy in %, mean ± standard deviation (samples); {args.steps} steps of '
          f'{args.batch_size} examples\n')
    print_table(('way', *(f'{task}, {shots} a class' for task, shots in columns)), rows)


if __name__ == '__main__':
    main()
