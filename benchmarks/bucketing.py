"""Examples per second of the demo's training step: length buckets against one fixed length.

    python -m benchmarks.bucketing [--steps=40] [--fixed_length=64] [--gin.NAME=VALUE ...]

Both train the same prompt on the same reviews in one process, in turns, so that a machine's moods
meet both alike. The fixed length counts text tokens; the prompt's rows come on top in both.
"""

import argparse
import dataclasses
import itertools
import statistics
import time

import gin
import jax

from benchmarks.results import record
from jax_prompt import cli, commands
from jax_prompt.data.batches import choose_buckets, train_batches
from jax_prompt.data.examples import load_examples
from jax_prompt.data.features import FeatureConverter
from jax_prompt.prompts.initializers import InitContext, sampled_vocabulary
from jax_prompt.prompts.methods.direct import direct
from jax_prompt.training import optimizers
from jax_prompt.training.step import init_state, make_train_step


def timed_steps(step, frozen, batches, make_state):
    """Yield seconds and positions of each step; every shape is compiled before it is timed."""
    batches = list(batches)
    shapes = {batch['encoder_input_tokens'].shape: batch for batch in batches}
    for batch in shapes.values():
        jax.block_until_ready(step(make_state(), frozen, batch))
    state = make_state()
    for batch in batches:
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, frozen, batch))
        yield time.perf_counter() - start, batch['encoder_input_tokens'].size


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--steps', type=int, default=40)
    parser.add_argument('--fixed_length', type=int, default=64)
    args, rest = parser.parse_known_args()
    commands.configure([cli.find_gin_file(name) for name in ('base.gin', 'demo.gin')],
                       [binding.removeprefix('--gin.') for binding in rest])
    model, prompt, settings = (gin.get_configurable(name)()
                               for name in ('model', 'prompt', 'settings'))
    task = gin.get_configurable('rotten_tomatoes')()
    examples = load_examples(task, 'train', model.vocabulary)

    def features_of(task):
        return FeatureConverter.for_model(task, model.vocabulary, model.model, prompt.layout,
                                          prompt.rows).convert(examples)

    bucketed = features_of(task)
    short = dataclasses.replace(task, inputs_length=args.fixed_length)
    fixed = features_of(short)
    buckets = choose_buckets(bucketed.lengths, settings.max_buckets, settings.bucket_multiple,
                             settings.batch_size)
    method, optimizer = direct(), optimizers.adafactor()
    context = InitContext(model.model.embedding_table(model.frozen), prompt.rows,
                          model.vocabulary.encode, initializer=sampled_vocabulary())
    step = make_train_step(model.model, method, optimizer)

    def make_state():
        return init_state(method.init(jax.random.key(0), context)[0], optimizer)

    streams = {
        'buckets': (bucketed, buckets),
        'fixed': (fixed, (args.fixed_length + prompt.rows,)),
    }
    seconds = {name: [] for name in streams}
    runs = {name: timed_steps(step, model.frozen, itertools.islice(
        train_batches(features, settings.batch_size, 0, lengths), args.steps), make_state)
        for name, (features, lengths) in streams.items()}
    for _ in range(args.steps):
        for name, run in runs.items():
            seconds[name].append(next(run))
    positions = {name: sum(size for _, size in rows) for name, rows in seconds.items()}
    seconds = {name: [taken for taken, _ in rows] for name, rows in seconds.items()}
    rate = {name: settings.batch_size * args.steps / sum(taken) for name, taken in seconds.items()}
    print(f'{prompt.rows} rows, buckets {buckets}, fixed {args.fixed_length + prompt.rows}; '
          f'{args.steps} steps of {settings.batch_size} examples each, in turns')
    for name in streams:
        print(f'{name:8} {rate[name]:6.1f} examples/s, median step '
              f'{statistics.median(seconds[name]):.3f} s, '
              f'{positions[name] / args.steps / settings.batch_size:.1f} positions an example')
    print(f'ratio    {rate["buckets"] / rate["fixed"]:6.2f}')
    record('training in length buckets', 'examples/s',
           {'jax_prompt': rate['buckets'], 'one fixed length': rate['fixed']})


if __name__ == '__main__':
    main()
