"""How often `jax-prompt monitor` sounds an alarm, and how seldom in vain, with the demo's prompt.

    python -m benchmarks.monitoring --prompt=runs/demo/prompt.safetensors

The prompt answers Rotten Tomatoes' validation split, its reference, and the test split, from which
samples of fresh data are drawn with replacement: as they are, and with a fifth of the labels
flipped. Drift is looked for in IMDB's reviews, and in halves of Rotten Tomatoes' sentences that are
drawn anew each time.
"""

import argparse
import dataclasses

import numpy as np

from jax_prompt.data.tasks.reviews import imdb, rotten_tomatoes
from jax_prompt.evaluation.statistics import holm
from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.engine import Engine
from jax_prompt.models.open import open_model
from jax_prompt.monitoring.drift import Sample, differences
from jax_prompt.monitoring.measuring import measure
from jax_prompt.monitoring.quality import Figure, compare
from jax_prompt.monitoring.settings import MonitorSettings
from jax_prompt.prompts.file import load_prompt

MODEL = 'package:traceforge_title_model/data/span'
NAME = 'FLAN-T5-small fine-tuned on titles, from int8 (traceforge-title-model)'


def falls(right, reference, flipped, samples, size, settings):
    """Count the alarms about samples of answers, with a fraction of their labels flipped."""
    draw, alarms = np.random.default_rng(1), 0
    for _ in range(samples):
        drawn = right[draw.integers(len(right), size=size)]
        flip = draw.permutation(size) < round(flipped * size)
        fresh = Figure(float((drawn ^ flip).mean()), size)
        alarms += compare('accuracy', fresh, reference, settings.margin,
                          settings.alpha).p <= settings.alpha
    return alarms


def part(sample, numbers):
    """Return some of a sample."""
    return Sample(sample.tokens[numbers], sample.unknown[numbers], sample.states[numbers],
                  [sample.answers[number] for number in numbers], sample.confidences[numbers])


def drifts(reference, fresh, settings, seed=0):
    """Return the results of the tests and those that are alarms."""
    found = differences(reference, fresh, seed)
    adjusted = dict(zip(found, holm([one.p for one in found.values()]), strict=True))
    return found, adjusted, [name for name in found if adjusted[name] <= settings.alpha]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--prompt', required=True)
    parser.add_argument('--samples', type=int, default=100)
    parser.add_argument('--size', type=int, default=400)
    args = parser.parse_args()
    settings = MonitorSettings()
    opened = open_model(MODEL, name=NAME)
    engine = Engine(opened, Shapes.for_batches_of(settings.batch_size))
    prompt = engine.add('demo', load_prompt(args.prompt), allow_other_model=True)
    sources = rotten_tomatoes(), imdb()
    reference, fresh = (measure(engine, prompt, sources[0].rows(split), split, most=1000)
                        for split in ('validation', 'test'))
    own = reference.figures['accuracy']
    # The sample holds all of the test split, in its order.
    gold = [prompt.task.target_text(row) for row in sources[0].rows('test')]
    right = np.array([one == other for one, other in zip(fresh.sample.answers, gold, strict=True)])
    print(f'accuracy {own.value:.4f} on {own.size} of validation, {right.mean():.4f} on '
          f'{len(right)} of test; margin {settings.margin}, alpha {settings.alpha}')
    for flipped in (0.0, 0.2):
        alarms = falls(right, own, flipped, args.samples, args.size, settings)
        print(f'{flipped:.0%} of labels flipped: {alarms} alarms of {args.samples} samples of '
              f'{args.size}')
    reviews = measure(engine, prompt, [dataclasses.replace(row, columns={'text': row.columns[
        'text']}) for row in sources[1].rows('test')], 'imdb', most=settings.sample)
    known = part(reference.sample, np.arange(settings.sample))
    found, adjusted, alarms = drifts(known, reviews.sample, settings)
    print(f'IMDB: {len(reviews.sample)} reviews against {len(known)} sentences: {alarms}')
    for name, one in found.items():
        print(f'  {name}: {one.then} -> {one.now}, size {one.size:.3f}, adjusted p '
              f'{adjusted[name]:.2g} ({one.test})')
    draw, quiet, size = np.random.default_rng(2), 0, len(right) // 2
    for seed in range(args.samples):
        drawn = draw.permutation(len(right))
        halves = part(fresh.sample, drawn[:size]), part(fresh.sample, drawn[size:])
        quiet += not drifts(*halves, settings, seed)[2]
    print(f'two halves of {len(right)} sentences: no alarm in {quiet} of {args.samples} cuts')


if __name__ == '__main__':
    main()
