"""Packed rows against length buckets: examples per second of the demo's training.

    python -m benchmarks.packing [--steps=30] [--gin.NAME=VALUE ...]

All train the same prompt on the same reviews in one process, in turns, so that a machine's moods
meet all alike. Programs are compiled before they are timed; how many there are, and how long their
first calls take, is told beside. Processor time, of all cores together, is what a busy machine
disturbs least. Floating-point operations are the compiler's count, pads included.
"""

import argparse
import dataclasses
import itertools
import statistics
import time

import gin
import jax
import numpy as np

from benchmarks.results import record
from jax_prompt import cli
from jax_prompt.commands import configure
from jax_prompt.data.batches import choose_buckets, train_batches
from jax_prompt.data.examples import load_examples
from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.packing import choose_packing, packed_train_batches
from jax_prompt.prompts.initializers import InitContext, sampled_vocabulary
from jax_prompt.prompts.methods.direct import direct
from jax_prompt.training import optimizers
from jax_prompt.training.step import init_state, make_train_step


@dataclasses.dataclass
class Way:
    """One way of batching, and what was seen of it."""

    batches: list[dict]
    state: object = None
    compiling: float = 0.0
    seconds: list[float] = dataclasses.field(default_factory=list)
    processor: list[float] = dataclasses.field(default_factory=list)
    operations: dict[tuple, float] = dataclasses.field(default_factory=dict)

    def compile(self, step, frozen, make_state):
        """Compile every shape among the batches, and count its operations."""
        shapes = {batch['encoder_input_tokens'].shape: batch for batch in self.batches}
        for shape, batch in shapes.items():
            lowered = step.lower(make_state(), frozen, batch)
            self.operations[shape] = lowered.cost_analysis()['flops']
            start = time.perf_counter()
            jax.block_until_ready(step(make_state(), frozen, batch))
            self.compiling += time.perf_counter() - start
        self.state = make_state()

    def run(self, step, frozen, number):
        """Time one step."""
        start, used = time.perf_counter(), time.process_time()
        self.state, _ = jax.block_until_ready(step(self.state, frozen, self.batches[number]))
        self.seconds.append(time.perf_counter() - start)
        self.processor.append(time.process_time() - used)

    def tell(self, name, batch_size):
        """Print one line; examples per second by the median step and by all of them."""
        examples = len(self.batches) * batch_size
        shapes = [batch['encoder_input_tokens'].shape for batch in self.batches]
        positions = sum(rows * length for rows, length in shapes)
        used = sum(np.count_nonzero(batch['encoder_input_tokens']) for batch in self.batches)
        pairs = sum(rows * length**2 for rows, length in shapes)
        operations = sum(self.operations[shape] for shape in shapes)
        print(f'{name:8} {examples / sum(self.seconds):6.1f} examples/s, median step '
              f'{statistics.median(self.seconds):.3f} s, processor '
              f'{statistics.mean(self.processor):.3f} s a step; an example has '
              f'{positions / examples:.1f} positions, {1 - used / positions:.1%} of them pads, '
              f'{pairs / examples:.0f} attention pairs, {operations / examples / 1e9:.2f} GFLOP; '
              f'{len(self.operations)} programs, first calls {self.compiling:.0f} s')

    @property
    def undisturbed(self):
        """Sum the processor time as if every step were the quickest one of its shape."""
        shapes = [batch['encoder_input_tokens'].shape for batch in self.batches]
        quickest = {shape: min(taken for taken, other in zip(self.processor, shapes, strict=True)
                               if other == shape) for shape in shapes}
        return sum(quickest[shape] for shape in shapes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--steps', type=int, default=30)
    args, rest = parser.parse_known_args()
    configure([cli.find_gin_file(name) for name in ('base.gin', 'demo.gin')],
              [binding.removeprefix('--gin.') for binding in rest])
    model, prompt, settings = (gin.get_configurable(name)()
                               for name in ('model', 'prompt', 'settings'))
    task = gin.get_configurable('rotten_tomatoes')()
    features = FeatureConverter.for_model(
        task, model.vocabulary, model.model, prompt.layout, prompt.rows).convert(
            load_examples(task, 'train', model.vocabulary))
    size = settings.batch_size
    buckets = choose_buckets(features.lengths, settings.max_buckets, settings.bucket_multiple, size)
    packing = choose_packing(features, size, multiple=settings.bucket_multiple)
    print(f'{prompt.rows} rows, batches of {size}, buckets {buckets}, {packing}')
    streams = {'buckets': train_batches(features, size, 0, buckets),
               'packed': packed_train_batches(features, size, 0, packing)}
    method, optimizer = direct(), optimizers.adafactor()
    context = InitContext(model.model.embedding_table(model.frozen), prompt.rows,
                          model.vocabulary.encode, initializer=sampled_vocabulary())
    initial, _ = method.init(jax.random.key(0), context)
    step = make_train_step(model.model, method, optimizer)

    def make_state():
        return init_state(jax.tree.map(jax.numpy.copy, initial), optimizer)

    ways = {name: Way(list(itertools.islice(stream, args.steps)))
            for name, stream in streams.items()}
    for way in ways.values():
        way.compile(step, model.frozen, make_state)
    for number, way in itertools.product(range(args.steps), ways.values()):
        way.run(step, model.frozen, number)
    for name, way in ways.items():
        way.tell(name, size)
    rates = {name: 1 / sum(way.seconds) for name, way in ways.items()}
    processor = sum(ways['buckets'].processor) / sum(ways['packed'].processor)
    undisturbed = ways['buckets'].undisturbed / ways['packed'].undisturbed
    print(f'ratio    {rates["packed"] / rates["buckets"]:6.2f} by the clock, '
          f'{processor:.2f} by processor time, {undisturbed:.2f} by that of the quickest step of '
          'each shape')
    record('training on packed rows', 'examples/s',
           {name: size * args.steps * rates[way] for name, way in (
               ('jax_prompt', 'packed'), ('length buckets', 'buckets'))})


if __name__ == '__main__':
    main()
