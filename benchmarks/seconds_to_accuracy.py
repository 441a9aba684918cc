"""Seconds from a command's start to an accuracy on Rotten Tomatoes, beside PEFT.

    python -m benchmarks.seconds_to_accuracy [--target=0.84] [--steps=160] [--rounds=1]
                                             [--peft=text:1.0,text:0.3,vocabulary:0.3]

The demo's model and data, 20 virtual tokens, batches of 32, a rate that falls to 0 in a straight
line, 500 sentences of the validation every 20 steps. A contender is a process of its own, one at a
time: imports, weights, tokens, compilation and evaluations count. Here it is `jax-prompt train
--gin_file=demo.gin` with nothing cached. PEFT takes its own prompt tuning on transformers' T5, in
the dtype that is given, padded to the longest of each batch, with AdamW, from each of the starts
and rates: text and 1.0 are those of its own example of prompt tuning for such models
(examples/conditional_generation/peft_prompt_tuning_seq2seq.ipynb). It ranks the labels by one
forward pass, by their first tokens, and gets its texts and its model from files.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.against_peft import DEMO_MODEL, write_hugging_face
from benchmarks.results import record

ROWS, BATCH, EVERY, VALIDATED = 20, 32, 20, 500
#: Of PEFT's example.
TEXT = 'What is the sentiment of this article?\n'
_STEP = re.compile(r'^step (\d+): validation accuracy ([\d.]+)')


def main() -> None:
    args = parse()
    if args.worker:
        peft(args)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prepare(folder)
        seen = {contender: [] for contender in ['jax_prompt', *args.peft.split(',')]}
        for number in range(args.rounds):
            for contender, runs in seen.items():
                runs.append(run(contender, folder, number, args))
                print(f'{contender}, seed {number}: ' + ', '.join(
                    f'{100 * accuracy:.1f} % at step {step} ({seconds:.0f} s)'
                    for step, accuracy, seconds in runs[-1]), flush=True)
    report(args, seen)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--target', type=float, default=0.84)
    parser.add_argument('--steps', type=int, default=160)
    parser.add_argument('--rounds', type=int, default=1, help='seeds')
    parser.add_argument('--peft', default='text:1.0,text:0.3,vocabulary:0.3',
                        help='its starts and rates')
    parser.add_argument('--dtype', default='bfloat16', help="PEFT's; here it is model.dtype=auto")
    parser.add_argument('--folder')
    parser.add_argument('--worker')
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args()


def prepare(folder: pathlib.Path) -> None:
    """Write for PEFT what the command reads by itself: the model, the texts and their labels."""
    from jax_prompt.data.tasks.reviews import rotten_tomatoes
    from jax_prompt.models.open import open_model
    from jax_prompt.weights.load import locate
    write_hugging_face(open_model(DEMO_MODEL), folder / 'model')
    (folder / 'model' / 'tokenizer.json').write_bytes(
        (locate(DEMO_MODEL)[0] / 'tokenizer.json').read_bytes())
    task = rotten_tomatoes(inputs_template='{text}')
    (folder / 'data.json').write_text(json.dumps({
        split: [(task.render(row), task.target_text(row)) for row in task.rows(split)]
        for split in ('train', 'validation')}))


def run(contender: str, folder: pathlib.Path, seed: int,
        args: argparse.Namespace) -> list[tuple[int, float, float]]:
    """Return (step, accuracy, seconds since the start) of each evaluation."""
    environment = os.environ | {'JAX_COMPILATION_CACHE_DIR': str(folder / f'cache{seed}'),
                                'HF_HUB_OFFLINE': '1', 'JAX_PLATFORMS': 'cpu'}
    if contender == 'jax_prompt':
        words = ['-m', 'jax_prompt', 'train', '--gin_file=demo.gin', '--gin.model.dtype=auto',
                 f'--gin.STEPS={args.steps}', f'--gin.settings.evaluate_every={EVERY}',
                 f'--gin.settings.seed={seed}', '--gin.settings.compare=False',
                 '--gin.settings.measure=False', f'--output={folder / f"run{seed}"}']
    else:
        words = ['-m', 'benchmarks.seconds_to_accuracy', f'--worker={contender}',
                 f'--folder={folder}', f'--steps={args.steps}', f'--dtype={args.dtype}',
                 f'--seed={seed}']
    start, found = time.perf_counter(), []
    with subprocess.Popen([sys.executable, *words], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        told = []
        for line in process.stdout:
            told.append(line)
            if match := _STEP.match(line):
                found.append((int(match[1]), float(match[2]), time.perf_counter() - start))
    if process.returncode:
        raise SystemExit(f'{contender} failed: {"".join(told[-20:])}')
    return found


def peft(args: argparse.Namespace) -> None:
    """Train as PEFT's users do."""
    import numpy as np
    import torch
    from peft import PromptTuningConfig, PromptTuningInit, get_peft_model
    from transformers import (
        PreTrainedTokenizerFast,
        T5ForConditionalGeneration,
        get_linear_schedule_with_warmup,
    )
    folder, (start, rate) = pathlib.Path(args.folder), args.worker.split(':')
    torch.manual_seed(args.seed)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / 'model' / 'tokenizer.json'), pad_token='<pad>',
        eos_token='</s>')
    tokenizer.save_pretrained(folder / 'tokenizer')
    model = get_peft_model(
        T5ForConditionalGeneration.from_pretrained(folder / 'model',
                                                   dtype=getattr(torch, args.dtype)),
        PromptTuningConfig(
            task_type='SEQ_2_SEQ_LM', num_virtual_tokens=ROWS, num_transformer_submodules=1,
            prompt_tuning_init=PromptTuningInit.TEXT if start == 'text'
            else PromptTuningInit.SAMPLE_VOCAB,
            prompt_tuning_init_text=TEXT if start == 'text' else None,
            tokenizer_name_or_path=str(folder / 'tokenizer')))
    trained = [one for one in model.parameters() if one.requires_grad]
    for one in trained:  # of a bfloat16 model they would be rounded at each update
        one.data = one.data.float()
    optimizer = torch.optim.AdamW(trained, lr=float(rate))
    schedule = get_linear_schedule_with_warmup(optimizer, 0, args.steps)
    data = json.loads((folder / 'data.json').read_text())
    words = sorted({label for _, label in data['train']})
    targets = {word: tokenizer(word).input_ids for word in words}
    texts, labels = {}, {}
    for split, pairs in data.items():
        texts[split] = tokenizer([text for text, _ in pairs], truncation=True,
                                 max_length=512).input_ids
        labels[split] = [label for _, label in pairs]
    chosen = np.linspace(0, len(texts['validation']) - 1, VALIDATED).astype(int)

    def forward(split, numbers):
        rows = [torch.tensor(texts[split][number]) for number in numbers]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return model(input_ids=ids, attention_mask=(ids != 0).long(), labels=torch.tensor(
            [targets[labels[split][number]] for number in numbers]))

    def evaluate(step):
        model.eval()
        first = torch.tensor([targets[word][0] for word in words])
        right, by_length = 0, sorted(chosen, key=lambda n: len(texts['validation'][n]))
        with torch.no_grad():
            for number in range(0, VALIDATED, 64):
                some = by_length[number:number + 64]
                best = forward('validation', some).logits[:, 0, first].argmax(-1)
                right += sum(words[one] == labels['validation'][row]
                             for one, row in zip(best, some, strict=True))
        print(f'step {step}: validation accuracy {right / VALIDATED:.4f}', flush=True)
        model.train()

    evaluate(0)
    order, model_rng = [], np.random.default_rng(args.seed)
    for step in range(1, args.steps + 1):
        if len(order) < BATCH:
            order = list(model_rng.permutation(len(texts['train'])))
        batch, order = order[:BATCH], order[BATCH:]
        optimizer.zero_grad()
        forward('train', batch).loss.backward()
        optimizer.step()
        schedule.step()
        if step % EVERY == 0:
            evaluate(step)


def report(args: argparse.Namespace, seen: dict) -> None:
    """Print when each reached the target, and what it reached at all."""
    reached = {}
    for contender, runs in seen.items():
        first = [next(((step, seconds) for step, accuracy, seconds in one
                       if accuracy >= args.target), None) for one in runs]
        best = statistics.mean(max(accuracy for _, accuracy, _ in one) for one in runs)
        whole = statistics.median(one[-1][2] for one in runs)
        print(f'{contender:16} best {100 * best:.1f} %, all steps in {whole:.0f} s; '
              f'{100 * args.target:g} %: ' + ', '.join(
                  f'step {one[0]}, {one[1]:.0f} s' if one else 'never' for one in first))
        if all(first):
            reached[contender] = statistics.median(seconds for _, seconds in first)
    if 'jax_prompt' in reached:
        record(f'seconds to {100 * args.target:g} % on Rotten Tomatoes', 's', reached)


if __name__ == '__main__':
    main()
