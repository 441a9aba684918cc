"""Generation and rank classification against PEFT on PyTorch: one model, one prompt, in turns.

    python -m benchmarks.generation [--batch_size=32] [--tokens=32] [--rounds=5] [--dtype=float32]

The prompt is exported to PEFT's format and loaded there, the texts are a batch of Rotten Tomatoes
sentences, tokenized beforehand, and both must write the same texts and choose the same labels.
PEFT's batch is padded to its longest sentence; the engine pads as it always does. Generation is
greedy; every row generates exactly as many tokens (the end token is not allowed before), so that
both do the same. PEFT ranks labels as its users write it: one forward pass of the batch a label. On
an NVIDIA GPU both run there.
"""

import argparse
import dataclasses
import pathlib
import statistics
import tempfile
import time

import numpy as np

from benchmarks.against_peft import DEMO_MODEL, write_hugging_face
from benchmarks.results import record
from jax_prompt.prompts.prompt import Prompt

LABELS = ('negative', 'positive')
ROWS = 20
#: Seconds before each turn: threads of the one library spin for a while when it is the other's.
_REST = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--batch_size', type=int, default=32)
    parser.add_argument('--tokens', type=int, default=32)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--dtype', default='float32', choices=('float32', 'bfloat16'))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = prepare(args, pathlib.Path(folder))
        for what, count in (('generate', args.batch_size * args.tokens),
                            ('rank', args.batch_size)):
            compare(what, count, ours[what], theirs[what], args)


def compare(what: str, count: int, ours, theirs, args: argparse.Namespace) -> None:
    """Run both in turns and print rates and their ratio."""
    same = np.mean(np.asarray(ours()) == np.asarray(theirs()))
    seconds = {'jax_prompt': [], 'peft': []}
    for _ in range(args.rounds):
        for name, run in (('jax_prompt', ours), ('peft', theirs)):
            time.sleep(_REST)
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    rate = {name: count / statistics.median(taken) for name, taken in seconds.items()}
    unit = 'tokens/s' if what == 'generate' else 'examples/s'
    print(f'{what}, {args.dtype}, batch {args.batch_size}: '
          + ', '.join(f'{name} {value:.1f} {unit}' for name, value in rate.items())
          + f', ratio {rate["jax_prompt"] / rate["peft"]:.2f}; {100 * same:.1f} % the same')
    record(f'{what}, {args.dtype}, batch {args.batch_size}', unit,
           {'jax_prompt': rate['jax_prompt'], 'PEFT': rate['peft']})


def prepare(args: argparse.Namespace, folder: pathlib.Path):
    """Return what each library runs, by name; every program is compiled."""
    from jax_prompt.data.examples import load_examples
    from jax_prompt.data.features import FeatureConverter
    from jax_prompt.data.tasks.reviews import rotten_tomatoes
    from jax_prompt.exchange.prompts_in_out import export_prompt
    from jax_prompt.models.open import open_model
    from jax_prompt.prompts.file import PromptFile, PromptMetadata
    from jax_prompt.prompts.layout import Layout
    opened = open_model(DEMO_MODEL, dtype=args.dtype)
    task = rotten_tomatoes(inputs_template='{text}')
    table_VD = np.asarray(opened.model.embedding_table(opened.frozen), np.float32)
    rows_PD = table_VD[100:100 + ROWS]
    metadata = PromptMetadata(opened.name, opened.fingerprint, opened.vocabulary_fingerprint,
                              task.to_dict(), Layout(), 'direct', 0, {}, 0)
    write_hugging_face(open_model(DEMO_MODEL, dtype='float32'), folder / 'model')
    adapter = export_prompt(PromptFile(Prompt(rows_PD), metadata), folder / 'adapter', 'peft',
                            str(folder / 'model'))
    examples = load_examples(task, 'test', opened.vocabulary, args.batch_size)
    features = FeatureConverter.for_model(task, opened.vocabulary, opened.model, Layout(),
                                          ROWS).convert(examples)
    ids_BS = features.batch(np.arange(args.batch_size), int(features.lengths.max())
                            )['encoder_input_tokens']
    labels = [opened.vocabulary.encode(label) for label in LABELS]
    prompt = PromptFile(Prompt(rows_PD), metadata)
    return (ours(args, opened, prompt, examples.inputs),
            theirs(args, folder / 'model', adapter, ids_BS[:, ROWS:], labels,
                   opened.vocabulary.decode))


def ours(args: argparse.Namespace, opened, prompt, inputs):
    """Return the runs of this project."""
    from jax_prompt.inference.engine import Engine
    from jax_prompt.inference.rank import LabelSet
    from jax_prompt.inference.sampling import SamplingSettings
    engine = Engine(opened)
    served = engine.add('prompt', prompt)

    def rows(like):
        return [dataclasses.replace(like, prompt=served, ids=served.ids(tokens, 'a sentence')[0])
                for tokens in inputs]

    written = rows(engine.row(None, '', max_tokens=args.tokens,
                              options=SamplingSettings(min_tokens=args.tokens)))
    ranked = rows(engine.row(None, '', labels=LabelSet.encode(
        LABELS, opened.vocabulary.encode, opened.model)))
    return {
        'generate': lambda: [answer.text for answer in engine.run(written)],
        'rank': lambda: [LABELS.index(answer.text) for answer in engine.run(ranked)],
    }


def theirs(args: argparse.Namespace, model: pathlib.Path, adapter: pathlib.Path,
           ids_BS: np.ndarray, labels, decode):
    """Return the runs of PEFT."""
    import torch
    from peft import PeftModel
    from transformers import T5ForConditionalGeneration
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    base = T5ForConditionalGeneration.from_pretrained(model, dtype=getattr(torch, args.dtype))
    peft = PeftModel.from_pretrained(base, adapter).to(device).eval()
    ids = torch.from_numpy(ids_BS).long().to(device)
    mask = (ids != 0).long()

    @torch.inference_mode()
    def generate() -> list[str]:
        tokens = peft.generate(input_ids=ids, attention_mask=mask, max_new_tokens=args.tokens,
                               min_new_tokens=args.tokens, do_sample=False, num_beams=1)
        return [decode(row).strip() for row in tokens[:, 1:].tolist()]

    @torch.inference_mode()
    def rank() -> np.ndarray:
        scores = []
        for label in labels:
            target = torch.tensor([[*label, 1]] * len(ids), device=device)
            logits = peft(input_ids=ids, attention_mask=mask, labels=target).logits.float()
            chosen = logits.log_softmax(-1).gather(-1, target[..., None])[..., 0]
            scores.append(chosen.sum(-1))
        return torch.stack(scores, 1).argmax(1).cpu().numpy()

    return {'generate': generate, 'rank': rank}


if __name__ == '__main__':
    main()
