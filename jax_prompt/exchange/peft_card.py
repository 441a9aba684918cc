"""The model card of an exported adapter: what the hub shows, and what its reader must know."""

import json
import re
from collections.abc import Iterator

from jax_prompt import __version__
from jax_prompt.prompts.file import PromptFile

#: What the hub accepts as a base model; a folder of somebody's machine is none.
_HUB_ID = re.compile(r'[A-Za-z0-9][\w.-]*/[\w.-]+|t5-(small|base|large|3b|11b)')


def model_card(prompt_file: PromptFile, base_model: str) -> str:
    """Write the card of a prompt exported to PEFT.

    Args:
        prompt_file: the prompt.
        base_model: what the adapter's configuration calls the model.

    Returns:
        Markdown with front matter.
    """
    metadata = prompt_file.metadata
    rows, width = prompt_file.prompt.rows.shape
    task = metadata.task.get('name')
    title = f'Soft prompt for {_plain(task)}' if task else 'Soft prompt'
    return '\n'.join([
        *_front_matter(prompt_file, base_model), '',
        f'# {title}', '',
        f'{rows} virtual tokens of width {width} that stand before the text in the encoder of '
        f'`{_plain(metadata.base_model)}`, whose weights stay as they are. '
        f'Exported by jax_prompt {__version__}.', '',
        '## Use', '',
        '```python', *_example(base_model), '```', '',
        'The text must be put to the model as in training: see the inputs template below, the end '
        'token included.', '',
        '## Facts', '',
        '| | |', '| --- | --- |',
        *(f'| {name} | {value} |' for name, value in _facts(prompt_file)), ''])


def _front_matter(prompt_file: PromptFile, base_model: str) -> Iterator[str]:
    """Yield what the hub reads; JSON's strings are YAML's."""
    yield '---'
    yield 'library_name: peft'
    if _HUB_ID.fullmatch(base_model):
        yield f'base_model: {json.dumps(base_model)}'
    yield 'tags:'
    for tag in ('prompt-tuning', 'soft-prompt', 't5', 'jax_prompt'):
        yield f'- {tag}'
    yield '---'


def _example(base_model: str) -> Iterator[str]:
    """Yield the lines of a program that uses the adapter."""
    yield 'from peft import PeftModel'
    yield 'from transformers import AutoModelForSeq2SeqLM, AutoTokenizer'
    yield ''
    yield f'tokenizer = AutoTokenizer.from_pretrained({base_model!r})'
    yield f'model = AutoModelForSeq2SeqLM.from_pretrained({base_model!r})'
    yield "model = PeftModel.from_pretrained(model, 'this-folder-or-repository').eval()"
    yield "inputs = tokenizer('...', return_tensors='pt')"
    yield 'print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))'


def _facts(prompt_file: PromptFile) -> Iterator[tuple[str, str]]:
    """Yield the rows of the table."""
    metadata = prompt_file.metadata
    yield 'base model', _code(metadata.base_model)
    yield 'fingerprint of its weights', _code(metadata.base_model_fingerprint)
    yield 'fingerprint of its vocabulary', _code(metadata.vocabulary_fingerprint)
    for name, value in metadata.task.items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f'task: {_plain(name)}', _code(text)
    yield 'method', _code(metadata.method)
    if metadata.step:  # an imported prompt does not know
        yield 'steps, seed', f'{metadata.step}, {metadata.seed}'
    for name, value in metadata.metrics.items():
        yield f'validation: {_plain(name)}', f'{value:.6g}'


def _code(text: str) -> str:
    """Set any text as code within a cell of a table."""
    text = json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"').replace('|', '\\|')
    fence = '`' * (1 + max(map(len, re.findall('`+', text)), default=0))
    space = ' ' if text.startswith('`') or text.endswith('`') else ''
    return f'{fence}{space}{text}{space}{fence}' if text else ''


def _plain(text) -> str:
    """Take from a name what would mean something in Markdown."""
    return re.sub(r'[^\w.:/@ +-]+', ' ', str(text)).strip()
