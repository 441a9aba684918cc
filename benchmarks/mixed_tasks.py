"""A batch of eight tasks against a batch of one, and how long a prompt takes to be there.

    python -m benchmarks.mixed_tasks [--model=SOURCE] [--batch_size=32] [--length=64] [--repeats=20]

Both batches have the same shape and run in one process, in turns, so that a machine's moods meet
both alike. Prompts are random: nothing here depends on what they hold. The single task is run as
the engine runs it and, for comparison, as `jax-prompt evaluate` does, with one set of labels
closed over. Ratios are of medians; the quickest times are printed beside them.
"""

import argparse
import dataclasses
import statistics
import time

import jax
import numpy as np

from benchmarks.results import record
from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.sampling import SamplingSettings
from jax_prompt.models.open import open_model
from jax_prompt.prompts.file import PromptFile, PromptMetadata
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt

DEMO_MODEL = 'package:traceforge_title_model/data/span'
LABELS = [('negative', 'positive'), ('no', 'yes'), ('bad', 'good'), ('false', 'true'),
          ('wrong', 'right'), ('old', 'new'), ('small', 'large'), ('down', 'up')]
LAYOUTS = [Layout('before'), Layout('after'), Layout('around'), Layout('after', after_end=True)]


def random_prompt(opened, rows, number, labels):
    """Draw a prompt of the scale of the embedding table."""
    table = opened.frozen['token_embedder']['embedding']
    drawn = np.random.default_rng(number).normal(size=(rows, table.shape[1]))
    task = {'name': f'task {number}', 'inputs_length': 512, 'targets_length': 16, 'labels': labels}
    metadata = PromptMetadata(opened.name, opened.fingerprint, opened.vocabulary_fingerprint, task,
                              LAYOUTS[number % len(LAYOUTS)], 'direct', 0, {}, number)
    rows_PD = (np.asarray(table, np.float32).std() * drawn).astype(np.float32)
    return PromptFile(Prompt(rows_PD), metadata)


def in_turns(runs, repeats):
    """Return the seconds of each run, taken in turns after one that does not count."""
    seconds = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(seconds, against):
    base = statistics.median(seconds[against])
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        print(f'  {name:26} median {1000 * middle:8.2f} ms, quickest {1000 * min(taken):8.2f} ms, '
              f'ratio {middle / base:.3f}')


def measure_batches(engine, args):
    """Time mixed and single-task batches of one shape."""
    text = 'a film that one remembers for long ' * args.length  # cut to the length wanted below

    def rows(names, suffix):
        # No row may end early, so that all batches take the same steps.
        made = [engine.row(f'{name}{suffix}', text, options=SamplingSettings(min_tokens=16))
                for name in names]
        return [with_length(row, args.length) for row in made]

    mixed = [number % 8 for number in range(args.batch_size)]
    for suffix, what in (('', 'rank classification'), ('-text', 'generation, 16 tokens')):
        batches = {'one task': rows([0] * args.batch_size, suffix),
                   'eight tasks': rows(mixed, suffix)}
        runs = {name: lambda batch=batch: [wait() for _, wait in engine.start(batch).parts]
                for name, batch in batches.items()}
        print(f'{what}, batch {args.batch_size} of {args.length} positions')
        seconds = in_turns(runs, args.repeats)
        report(seconds, 'one task')
        record(f'{what}, eight tasks in a batch', 's', {
            'jax_prompt': statistics.median(seconds['eight tasks']),
            'one task': statistics.median(seconds['one task'])})


def with_length(row, length):
    """Return a row cut to exactly so many positions: all batches have one shape."""
    return dataclasses.replace(row, ids=np.resize(row.ids, length))


def measure_changes(engine, repeats):
    """Time adding, switching and removing prompts, and count what is compiled meanwhile."""
    compiled, events = engine.compilations, []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: events.append(event) if 'backend_compile' in event else None)
    seconds = {'add a prompt of 100 rows': [], 'remove it': [], 'make a row of another': []}
    for number in range(repeats):
        file = random_prompt(engine.opened, 100, 1000 + number, LABELS[0])
        for name, change in (
                ('add a prompt of 100 rows', lambda file=file: (
                    engine.add('new', file), engine.table.rows_RD.block_until_ready())),
                ('make a row of another', lambda: engine.row('new', 'a film')),
                ('remove it', lambda: engine.remove('new'))):
            start = time.perf_counter()
            change()
            seconds[name].append(time.perf_counter() - start)
    jax.monitoring.clear_event_listeners()
    print(f'changes, {repeats} times; {len(events)} compilations by jax, '
          f'{engine.compilations - compiled} by the engine')
    for name, taken in seconds.items():
        print(f'  {name:26} median {1000 * statistics.median(taken):8.2f} ms, '
              f'slowest {1000 * max(taken):8.2f} ms')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default=DEMO_MODEL)
    parser.add_argument('--batch_size', type=int, default=32)
    parser.add_argument('--length', type=int, default=64)
    parser.add_argument('--repeats', type=int, default=20)
    args = parser.parse_args()
    opened = open_model(args.model)
    shapes = Shapes(batch_sizes=(args.batch_size,), lengths=(args.length,), targets=(16,))
    engine = Engine(opened, shapes)
    for number, labels in enumerate(LABELS):
        rows = 5 + 5 * number
        engine.add(f'{number}', random_prompt(opened, rows, number, labels))
        engine.add(f'{number}-text', random_prompt(opened, rows, number, None))
    engine.table.warm_up()
    print(f'{opened.name} on {jax.devices()[0].device_kind}, {jax.device_count()} device(s)')
    measure_batches(engine, args)
    measure_changes(engine, args.repeats)


if __name__ == '__main__':
    main()
