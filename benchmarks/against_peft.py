"""Training speed against PEFT on PyTorch: the same model, the same data, in turns.

    python -m benchmarks.against_peft fixed [--dtypes=float32,bfloat16] [--steps=5] [--rounds=4]
    python -m benchmarks.against_peft reviews [--batch_size=32] [--rows=20]
    python -m benchmarks.against_peft fixed --model=t5-1.1-xl --dtypes=bfloat16 --batch_size=32 \
        --inputs_length=512 --remat=none,dots,full --attention=xla,cudnn     (an NVIDIA GPU)

`fixed` gives both the same batches of equal length. `reviews` gives both the same Rotten Tomatoes
sentences with a prompt in front: here in the project's own batches (8 length buckets, 16, and
packed), in PEFT in random order, padded to the longest of each batch, or all to 128 tokens as
PEFT's own example of prompt tuning for such models does.

Each contender is a process of its own, which compiles, warms up and then waits; the processes are
asked for some steps in turns, so that a machine's moods meet all alike. PEFT runs as its users run
it, eagerly, with AdamW; the update of the prompt costs nothing beside the model on either side.
"""

import argparse
import itertools
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks.results import record

DEMO_MODEL = 'package:traceforge_title_model/data/span'
#: `max_length` in PEFT's examples/conditional_generation/peft_prompt_tuning_seq2seq.ipynb.
PEFT_EXAMPLE_LENGTH = 128
#: Dense bfloat16 operations a second of the chips that this may run on, by their makers' sheets.
PEAK = {'NVIDIA H200': 989e12, 'NVIDIA H100': 989e12, 'NVIDIA A100': 312e12}


def main() -> None:
    args = parse()
    if args.worker:
        work(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        args.folder = folder
        prepare(args)
        workers = {name: Worker(name, args) for name in contenders(args)}
        for _ in range(args.rounds):
            for worker in workers.values():
                worker.run(args.steps)
        report(args, workers)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', choices=('fixed', 'reviews'))
    parser.add_argument('--model', default='demo', help='demo, or t5-1.1-SIZE with random weights')
    parser.add_argument('--dtypes', default='float32,bfloat16')
    parser.add_argument('--remat', default='none', help='policies to try here, separated by commas')
    parser.add_argument('--attention', default='xla', help='ways to try here; xla, cudnn or both')
    parser.add_argument('--batch_size', type=int)
    parser.add_argument('--inputs_length', type=int, default=128, help='text tokens, for `fixed`')
    parser.add_argument('--targets_length', type=int, default=8, help='for `fixed`')
    parser.add_argument('--rows', type=int)
    parser.add_argument('--steps', type=int, default=5, help='in each turn')
    parser.add_argument('--rounds', type=int, default=4)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--folder')
    parser.add_argument('--worker')
    args = parser.parse_args()
    args.batch_size = args.batch_size or (16 if args.data == 'fixed' else 32)
    args.rows = args.rows or (100 if args.data == 'fixed' else 20)
    return args


def contenders(args: argparse.Namespace) -> list[str]:
    """Name the processes: library, dtype, and how it batches, rematerialises and attends."""
    names = []
    for dtype in args.dtypes.split(','):
        ways = ['bucketed', 'finely', 'packed'] if args.data == 'reviews' else ['fixed']
        names += ['/'.join(('jax_prompt', dtype, *choice)) for choice in itertools.product(
            ways, args.remat.split(','), args.attention.split(','))]
        ways = ['longest', 'padded'] if args.data == 'reviews' else ['fixed']
        names += [f'peft/{dtype}/{way}/none/own' for way in ways]
    return names


class Worker:
    """A contender's process and what it has told."""

    def __init__(self, name: str, args: argparse.Namespace):
        self.name = name
        words = [f'--{key}={value}' for key, value in vars(args).items()
                 if key not in ('data', 'worker') and value is not None]
        environment = os.environ | {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
                                    'TF_CPP_MIN_LOG_LEVEL': '3', 'HF_HUB_OFFLINE': '1'}
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'benchmarks.against_peft', args.data, f'--worker={name}',
             *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.ready = self._answer()
        self.turns: list[dict] = []

    def run(self, steps: int) -> None:
        """Ask for some steps."""
        if 'error' not in self.ready:
            self.turns.append(self._ask(str(steps)))

    def _ask(self, words: str) -> dict:
        self._process.stdin.write(words + '\n')
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        for line in self._process.stdout:
            if line.startswith('{'):  # libraries may print there too
                return json.loads(line)
        return {'error': 'it ended without a word'}

    def rate(self, what: str) -> float:
        """Return examples or tokens a second, the median of the turns."""
        return statistics.median(turn[what] / turn['seconds'] for turn in self.turns)


def report(args: argparse.Namespace, workers: dict[str, Worker]) -> None:
    """Print a line a contender, and the ratios."""
    print(f'{args.model}, {args.data}: batches of {args.batch_size}, {args.rows} rows, '
          f'{args.rounds} turns of {args.steps} steps')
    for worker in workers.values():
        if 'error' in worker.ready:
            print(f'{worker.name:36} {worker.ready["error"]}')
            continue
        last, line = worker.turns[-1], ''
        if worker.ready.get('flops'):
            done = worker.ready['flops'] / args.batch_size * worker.rate('examples')
            line = f', {done / 1e12:7.2f} TFLOP/s'
            peak = PEAK.get(worker.ready['device'].split(' SXM')[0])
            line += f' = {100 * done / peak:.0f} % of peak' if peak else ''
        print(f'{worker.name:36} {worker.rate("examples"):8.2f} examples/s '
              f'{worker.rate("tokens"):9.0f} tokens/s, peak {last["peak"] / 2**30:.2f} GiB{line}')
    ours, theirs = ({name: worker.rate('examples') for name, worker in workers.items()
                     if name.startswith(library) and worker.turns}
                    for library in ('jax_prompt', 'peft'))
    if ours and theirs:
        best = max(ours, key=ours.get)
        for way in dict.fromkeys(name.split('/')[2] for name in theirs):
            peer = max((name for name in theirs if name.split('/')[2] == way), key=theirs.get)
            print(f'ratio {best} : {peer} = {ours[best] / theirs[peer]:.2f}')
        record(f'training, {args.model}, {args.data}, batch {args.batch_size}', 'examples/s',
               {'jax_prompt': ours[best]} | {f'PEFT {name.split("/", 1)[1]}': rate
                                             for name, rate in theirs.items()})


def prepare(args: argparse.Namespace) -> None:
    """Write the data, and the demo's model as a Hugging Face folder for PyTorch."""
    from jax_prompt.data.batches import choose_buckets, train_batches
    from jax_prompt.data.examples import load_examples
    from jax_prompt.data.features import FeatureConverter
    from jax_prompt.data.packing import choose_packing, packed_train_batches
    from jax_prompt.data.tasks.reviews import rotten_tomatoes
    from jax_prompt.models.open import open_model
    from jax_prompt.prompts.layout import Layout
    folder = pathlib.Path(args.folder)
    opened = open_model(DEMO_MODEL) if args.model == 'demo' else None
    if opened:
        write_hugging_face(opened, folder / 'model')
    count = args.steps * args.rounds
    if args.data == 'fixed':
        save_batches(folder / 'fixed', [random_batch(args)] * count)
        return
    task = rotten_tomatoes(inputs_template='{text}')
    examples = load_examples(task, 'train', opened.vocabulary)
    features = FeatureConverter.for_model(task, opened.vocabulary, opened.model, Layout('before'),
                                          args.rows).convert(examples)
    take = lambda stream: list(itertools.islice(stream, count))  # noqa: E731
    for name, most in (('bucketed', 8), ('finely', 16)):
        buckets = choose_buckets(features.lengths, most, 4, args.batch_size)
        save_batches(folder / name, take(train_batches(features, args.batch_size, 0, buckets)))
    packing = choose_packing(features, args.batch_size)
    save_batches(folder / 'packed', take(packed_train_batches(
        features, args.batch_size, 0, packing)))
    order = np.random.default_rng(0).permutation(len(features))[:count * args.batch_size]
    batches = order.reshape(count, args.batch_size)
    save_batches(folder / 'longest', [
        features.batch(rows, int(features.lengths[rows].max())) for rows in batches])
    save_batches(folder / 'padded', [
        features.batch(rows, args.rows + PEFT_EXAMPLE_LENGTH) for rows in batches])


def random_batch(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Draw a batch without pads."""
    rng, vocab = np.random.default_rng(args.seed), 32128
    ids = rng.integers(3, 32000, (args.batch_size, args.inputs_length)).astype(np.int32)
    rows = np.broadcast_to(np.arange(vocab, vocab + args.rows, dtype=np.int32),
                           (args.batch_size, args.rows))
    targets = rng.integers(3, 32000, (args.batch_size, args.targets_length)).astype(np.int32)
    return {'encoder_input_tokens': np.concatenate([rows, ids], 1),
            'decoder_target_tokens': targets,
            'decoder_input_tokens': np.pad(targets[:, :-1], ((0, 0), (1, 0))),
            'decoder_loss_weights': np.ones(targets.shape, np.float32)}


def save_batches(folder: pathlib.Path, batches: list[dict[str, np.ndarray]]) -> None:
    folder.mkdir()
    for number, batch in enumerate(batches):
        np.savez(folder / f'{number}.npz', **batch)


def load_batches(folder: pathlib.Path) -> list[dict[str, np.ndarray]]:
    files = sorted(folder.iterdir(), key=lambda path: int(path.stem))
    return [dict(np.load(path)) for path in files]


def write_hugging_face(opened, folder: pathlib.Path) -> None:
    """Write the model for transformers."""
    import jax
    from safetensors.numpy import save_file
    from transformers import T5Config

    from tests.models.t5.random_weights import to_hugging_face
    config = opened.model.config
    folder.mkdir()
    save_file({name: np.ascontiguousarray(array) for name, array in to_hugging_face(
        jax.tree.map(np.asarray, opened.frozen), config).items()}, folder / 'model.safetensors',
        metadata={'format': 'pt'})
    hugging_face_config(config, T5Config).save_pretrained(folder)


def hugging_face_config(config, make):
    """Write a T5 1.1's configuration as transformers has it."""
    return make(
        vocab_size=config.vocab_size, d_model=config.d_model, d_kv=config.d_kv, d_ff=config.d_ff,
        num_heads=config.num_heads, num_layers=config.num_layers,
        num_decoder_layers=config.num_decoder_layers, feed_forward_proj='gated-gelu',
        tie_word_embeddings=False, decoder_start_token_id=0, dropout_rate=0.0,
        architectures=['T5ForConditionalGeneration'])


def work(args: argparse.Namespace) -> None:
    """Be one contender: get ready, then run as many steps as each line of standard input asks."""
    library, dtype, way, remat, attention = args.worker.split('/')
    batches = load_batches(pathlib.Path(args.folder) / way)
    try:
        if library == 'jax_prompt':
            step, facts = jax_steps(args, dtype, remat, attention, batches)
        else:
            step, facts = peft_steps(args, dtype, remat, batches)
    except Exception as error:  # out of memory is a result here, not a failure
        print(json.dumps({'error': str(error).splitlines()[0][:120]}), flush=True)
        return
    print(json.dumps(facts), flush=True)
    turns = iter(batches)
    for line in sys.stdin:
        some = list(itertools.islice(turns, int(line)))
        start = time.perf_counter()
        for batch in some:
            step(batch)
        peak = step(None)
        seconds = time.perf_counter() - start
        print(json.dumps({
            'seconds': seconds, 'examples': args.batch_size * len(some), 'peak': peak,
            'tokens': sum(np.count_nonzero(batch['encoder_input_tokens']).item() for batch in some),
        }), flush=True)


def jax_steps(args, dtype: str, remat: str, attention: str, batches):
    """Return step(batch), whose call with None waits and returns the peak of memory; and facts."""
    import jax
    import jax.numpy as jnp

    from jax_prompt.commands import use_compilation_cache
    from jax_prompt.models.open import LayerSettings, open_model
    from jax_prompt.models.t5.config import t5_1_1
    from jax_prompt.models.t5.model import T5
    from jax_prompt.prompts.initializers import InitContext, sampled_vocabulary
    from jax_prompt.prompts.methods.direct import direct
    from jax_prompt.training import optimizers
    from jax_prompt.training.step import init_state, make_train_step
    from tests.models.t5.random_weights import init
    use_compilation_cache()
    on_cpu = jax.default_backend() == 'cpu'
    if args.model == 'demo':
        opened = open_model(DEMO_MODEL, dtype=dtype, remat=remat,
                            layers=LayerSettings(attention=attention))
        model, frozen = opened.model, opened.frozen
    else:
        config = t5_1_1(args.model.rsplit('-', 1)[1])
        factors = jnp.dtype(dtype) if on_cpu and dtype == 'bfloat16' else None
        model = T5(config, jnp.float32 if on_cpu else jnp.dtype(dtype), factors=factors,
                   scan_layers=not on_cpu, remat=remat,
                   attention=attention)
        frozen = jax.jit(lambda: init(model, jax.random.key(0), jnp.dtype(dtype)))()
    method, optimizer = direct(), optimizers.adafactor()
    context = InitContext(model.embedding_table(frozen), args.rows, None,
                          initializer=sampled_vocabulary())
    train_step = make_train_step(model, method, optimizer)

    def fresh():
        # Where the updates leave it: a state that was nowhere yet would be compiled for once more.
        return jax.device_put(init_state(method.init(jax.random.key(0), context)[0], optimizer),
                              jax.devices()[0])

    for batch in {str(sorted((k, v.shape) for k, v in b.items())): b for b in batches}.values():
        jax.block_until_ready(train_step(fresh(), frozen, batch))
    state = fresh()

    def step(batch):
        nonlocal state
        if batch is not None:
            state, _ = train_step(state, frozen, batch)
            return None
        jax.block_until_ready(state)
        device = jax.devices()[0].memory_stats()
        return device['peak_bytes_in_use'] if device else peak_of_process()

    # Rematerialisation's extra work does not count: the fraction is of what a step must do.
    plain = make_train_step(T5(model.config, model.dtype, factors=model.factors), method, optimizer)
    shapes = jax.eval_shape(lambda: init(model, jax.random.key(0), jnp.dtype(dtype)))
    traced = plain.trace(fresh(), shapes, batches[0])
    flops = products(traced.jaxpr.jaxpr) if args.data == 'fixed' else None
    return step, {'device': jax.devices()[0].device_kind, 'flops': flops}


def products(jaxpr, times: int = 1) -> float:
    """Count the floating-point operations of all products, loops unrolled."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == 'dot_general':
            contracted = equation.params['dimension_numbers'][0][0]
            left = equation.invars[0].aval.shape
            total += 2.0 * times * equation.outvars[0].aval.size * np.prod(
                [left[axis] for axis in contracted], initial=1.0)
        inner = times * equation.params.get('length', 1)
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                if hasattr(part, 'jaxpr'):
                    total += products(part.jaxpr, inner)
                elif hasattr(part, 'eqns'):
                    total += products(part, inner)
    return total


def peft_steps(args, dtype: str, remat: str, batches):
    """Return step(batch), whose call with None waits and returns the peak of memory; and facts."""
    import torch
    from peft import PromptTuningConfig, get_peft_model
    from transformers import T5Config, T5ForConditionalGeneration

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    wide = getattr(torch, dtype)
    if args.model == 'demo':
        base = T5ForConditionalGeneration.from_pretrained(
            pathlib.Path(args.folder) / 'model', dtype=wide).to(device)
    else:
        from jax_prompt.models.t5.config import t5_1_1
        config = hugging_face_config(t5_1_1(args.model.rsplit('-', 1)[1]), T5Config)
        torch.set_default_dtype(wide)
        with torch.device(device):
            base = T5ForConditionalGeneration(config)
        torch.set_default_dtype(torch.float32)
    model = get_peft_model(base, PromptTuningConfig(
        task_type='SEQ_2_SEQ_LM', num_virtual_tokens=args.rows, num_transformer_submodules=1))
    if remat == 'full':
        model.gradient_checkpointing_enable()
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def step(batch):
        if batch is None:
            if device == 'cuda':
                torch.cuda.synchronize()
                return torch.cuda.max_memory_allocated()
            return peak_of_process()
        ids = torch.from_numpy(batch['encoder_input_tokens'][:, args.rows:]).long().to(device)
        labels = torch.from_numpy(np.where(batch['decoder_loss_weights'] > 0,
                                           batch['decoder_target_tokens'], -100)).long().to(device)
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return None

    step(batches[0])
    step(None)
    name = torch.cuda.get_device_name() if device == 'cuda' else 'cpu'
    return step, {'device': name, 'flops': None}


def peak_of_process() -> int:
    """Return the most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == '__main__':
    main()
