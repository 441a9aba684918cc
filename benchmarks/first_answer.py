"""How long one line takes from the start of the process to its answer, and a server's first answer.

    python -m benchmarks.first_answer [--model=SOURCE] [--repeats=3]

`jax-prompt predict` with nothing cached, with its program cached, and of a model that
`jax-prompt convert` wrote; PEFT on PyTorch, which loads the same model and prompt and ranks the
same two labels, one forward pass each, as its users write it. `jax-prompt serve` from its start to
the first answer over HTTP, without and with cached programs. Wall seconds, and processor seconds
(user and system), which other work on the machine disturbs least.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from benchmarks.generation import LABELS, ROWS
from benchmarks.results import record

DEMO_MODEL = 'package:traceforge_title_model/data/span'
TEXT = 'a film to remember'

_PEFT = """
import sys, torch
from peft import PeftModel
from transformers import T5ForConditionalGeneration
from tokenizers import Tokenizer
folder, adapter, tokenizer, text, *labels = sys.argv[1:]
model = PeftModel.from_pretrained(T5ForConditionalGeneration.from_pretrained(folder), adapter)
words = Tokenizer.from_file(tokenizer)
ids = torch.tensor([words.encode(text).ids])
with torch.inference_mode():
    losses = [model(input_ids=ids, labels=torch.tensor([words.encode(one).ids])).loss
              for one in labels]
print(labels[int(torch.stack(losses).argmin())])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default=DEMO_MODEL)
    parser.add_argument('--repeats', type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        files = prepare(args.model, folder)
        commands = {
            'predict, its program cached': predict(args.model, folder),
            'predict, cached, a converted model': predict(str(folder / 'converted'), folder),
        }
        cold = timed(commands['predict, its program cached'], folder)
        tell('predict, nothing cached', {'jax_prompt': cold})
        theirs = [sys.executable, '-c', _PEFT, *files, TEXT, *LABELS]
        for command in (*commands.values(), theirs):
            timed(command, folder)  # what is cached is there, and files are in memory
        taken = [{name: timed(command, folder) for name, command in
                  {**commands, 'PEFT': theirs}.items()} for _ in range(args.repeats)]
        median = {name: tuple(map(statistics.median, zip(*[one[name] for one in taken],
                                                         strict=True))) for name in taken[0]}
        for name in commands:
            tell(name, {'jax_prompt': median[name], 'PEFT': median['PEFT']})
        for what in ('nothing cached', 'cached'):  # by the start before it
            record(f'serve, first answer, {what}', 's',
                   {'jax_prompt': first_answer(args.model, folder, folder / 'served')})


def tell(name: str, seconds: dict[str, tuple[float, float]]) -> None:
    """Print and record (wall, processor) seconds of each contender."""
    for number, clock in enumerate(('wall', 'processor')):
        values = {who: both[number] for who, both in seconds.items()}
        print(f'{name}, {clock}: ' + ', '.join(f'{who} {one:.2f} s' for who, one in values.items()))
        record(f'{name}, {clock}', 's', values)


def prepare(model: str, folder: pathlib.Path) -> list[str]:
    """Write a prompt, the text, a converted model; return the files that PEFT reads."""
    import numpy as np

    from benchmarks.against_peft import write_hugging_face
    from jax_prompt.data.tasks.reviews import rotten_tomatoes
    from jax_prompt.exchange.prompts_in_out import export_prompt
    from jax_prompt.models.open import open_model
    from jax_prompt.prompts.file import PromptFile, PromptMetadata, save_prompt
    from jax_prompt.prompts.layout import Layout
    from jax_prompt.prompts.prompt import Prompt
    from jax_prompt.weights.convert import convert_model
    from jax_prompt.weights.load import locate
    opened = open_model(model, dtype='float32')
    task = rotten_tomatoes(inputs_template='{text}')
    rows_PD = np.asarray(opened.model.embedding_table(opened.frozen), np.float32)[100:100 + ROWS]
    prompt = PromptFile(Prompt(rows_PD), PromptMetadata(
        opened.name, opened.fingerprint, opened.vocabulary_fingerprint, task.to_dict(), Layout(),
        'direct', 0, {}, 0))
    (folder / 'prompts').mkdir()
    save_prompt(folder / 'prompts' / 'reviews.safetensors', prompt)
    (folder / 'text').write_text(TEXT + '\n')
    convert_model(model, folder / 'converted', 'float32')
    write_hugging_face(opened, folder / 'model')
    adapter = export_prompt(prompt, folder / 'adapter', 'peft', str(folder / 'model'))
    return [str(folder / 'model'), str(adapter), str(locate(model)[0] / 'tokenizer.json')]


def predict(model: str, folder: pathlib.Path) -> list[str]:
    """Return the command that answers the text."""
    return [sys.executable, '-m', 'jax_prompt', 'predict', f'--model={model}',
            f'--prompt={folder / "prompts" / "reviews.safetensors"}', f'--inputs={folder / "text"}']


def timed(command: list[str], cache: pathlib.Path) -> tuple[float, float]:
    """Run a command; return its wall and its processor seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment(cache), check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def first_answer(model: str, folder: pathlib.Path, cache: pathlib.Path) -> float:
    """Return the seconds from a server's start to its first answer."""
    command = [sys.executable, '-m', 'jax_prompt', 'serve', f'--model={model}',
               f'--prompts={folder / "prompts"}', '--gin.server.port=0']
    start, deadline = time.perf_counter(), 300
    process = subprocess.Popen(command, env=environment(cache), stderr=subprocess.PIPE, text=True)
    try:
        address = next(line for line in process.stderr if 'serving' in line).split()[-1]
        body = json.dumps({'prompt': 'reviews', 'inputs': TEXT}).encode()
        while time.perf_counter() - start < deadline:
            request = urllib.request.Request(f'{address}/v1/classify', body,
                                             {'content-type': 'application/json'})
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    answer.read()
                    seconds = time.perf_counter() - start
                    print(f'serve, first answer after {seconds:.2f} s')
                    return seconds
            except urllib.error.HTTPError:  # it starts
                time.sleep(0.05)
        raise TimeoutError(f'no answer within {deadline} s')
    finally:
        process.terminate()
        process.communicate()


def environment(cache: pathlib.Path) -> dict[str, str]:
    """Return the environment of a process whose compiled programs are kept there."""
    return os.environ | {'XDG_CACHE_HOME': str(cache), 'TF_CPP_MIN_LOG_LEVEL': '3',
                         'HF_HUB_OFFLINE': '1'}


if __name__ == '__main__':
    main()
