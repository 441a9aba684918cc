"""What a comparison costs beside its parts: the same trainings one by one, their programs compiled.

    python -m benchmarks.comparison [--steps=40] [--seeds=2] [--limit=500]

The demo's model on Rotten Tomatoes, direct rows and residual ones. The comparison comes first, from
the opened model to the last picture, compiling in it. Its parts are `train` with the same settings,
of which seconds of compiling are left out and those of measuring the test are not.
"""

import argparse
import dataclasses
import pathlib
import tempfile

from benchmarks.results import record
from jax_prompt import commands
from jax_prompt.comparison.clock import Clock
from jax_prompt.comparison.data import for_contenders
from jax_prompt.comparison.page import write_report
from jax_prompt.comparison.records import ComparisonFolder
from jax_prompt.comparison.run import Comparison, ComparisonSettings, run_comparison
from jax_prompt.comparison.tuning import Tuning
from jax_prompt.data.tasks.reviews import rotten_tomatoes
from jax_prompt.models.open import open_model
from jax_prompt.prompts.methods.residual import residual
from jax_prompt.training.run import train
from jax_prompt.training.settings import PromptSettings, TrainSettings

DEMO_MODEL = 'package:traceforge_title_model/data/span'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--steps', type=int, default=40)
    parser.add_argument('--seeds', type=int, default=2)
    parser.add_argument('--limit', type=int, default=500, help='examples to validate on')
    args = parser.parse_args()
    commands.quieten_libraries()
    opened, task = open_model(DEMO_MODEL), rotten_tomatoes('{text}')
    settings = TrainSettings(steps=args.steps, evaluate_every=args.steps // 2, max_buckets=2)
    contenders = (Tuning('direct', PromptSettings(rows=20), settings=settings),
                  Tuning('residual', PromptSettings(rows=20, method=residual(width=800)),
                         settings=settings))
    comparison = Comparison((task,), contenders, ComparisonSettings(
        tuple(range(args.seeds)), validation=args.limit)).with_rows_read()
    with tempfile.TemporaryDirectory() as name, Clock() as clock:
        folder = ComparisonFolder(pathlib.Path(name) / 'comparison')
        run_comparison(opened, comparison, folder)
        write_report(comparison, folder)
        whole, without = clock.wall, clock.seconds
        began = clock.seconds
        for seed in range(args.seeds):
            for one in contenders:
                seen = for_contenders(comparison.tasks[0], None, 0, args.limit)
                seen = dataclasses.replace(
                    seen, splits={**seen.splits, 'test': task.splits['test']})
                train(opened, seen, pathlib.Path(name) / f'{one.name}{seed}', one.prompt, None,
                      dataclasses.replace(settings, seed=seed), quiet=True)
        parts = clock.seconds - began
    print(f'comparison {whole:.1f} s, {whole - without:.1f} of them compiling; its parts one by '
          f'one {parts:.1f} s: {whole / parts:.3f} times, {without / parts:.3f} without compiling')
    record(f'a comparison of {len(contenders) * args.seeds} runs of {args.steps} steps', 's',
           {'jax_prompt': whole, 'its parts one by one': parts})


if __name__ == '__main__':
    main()
