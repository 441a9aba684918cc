"""The card of a run: what was trained on what, for whoever finds the prompt file later."""

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from typing import Any

import jax_prompt
from jax_prompt.files import write_file


@dataclasses.dataclass(frozen=True)
class Card:
    """What a run's card tells.

    Attributes:
        model_name: the frozen model, named for what it is.
        model_fingerprint: digest of its weights.
        model_bytes: size of its weights in memory.
        model_parameters: how many numbers are frozen.
        prompt_bytes: size of the prompt file.
        trained_numbers: how many numbers were trained.
        rows: virtual tokens in the prompt, P.
        layout: in words, where they stand.
        method: how the prompt was parameterised while it was trained.
        initializer: in words, what it started from.
        optimizer: in words, with its learning rate.
        task: the task's name.
        inputs_template: the text with which an example is put to the model.
        verbalizer: raw label -> word that the model writes for it; None for free text.
        examples: split -> number of examples.
        seed: of initialisation, order and dropout.
        steps: steps trained.
        best_step: the step of the prompt that was kept.
        metrics: heading such as 'validation' or 'test, no prompt' -> name -> value.
        command: how to use the prompt.
        settings: other settings worth telling, name -> value.
        notes: sentences of caution, such as where the data came from.
    """

    model_name: str
    model_fingerprint: str
    model_bytes: int
    model_parameters: int
    prompt_bytes: int
    trained_numbers: int
    rows: int
    layout: str
    method: str
    initializer: str
    optimizer: str
    task: str
    inputs_template: str
    verbalizer: Mapping[str, str] | None
    examples: Mapping[str, int]
    seed: int
    steps: int
    best_step: int
    metrics: Mapping[str, Mapping[str, float]]
    command: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def write_card(path: str | os.PathLike, card: Card) -> None:
    """Write the card as Markdown, whole or not at all.

    Args:
        path: the file, by custom `card.md` in the run's folder.
        card: what it tells.
    """
    write_file(path, render_card(card).encode(), overwrite=True)


def render_card(card: Card) -> str:
    """Return the card as Markdown."""
    sections = [
        f'# Soft prompt for {card.task}\n\n{_summary(card)}',
        '## Results\n\n' + _results(card),
        '## Use\n\n' + _block(card.command),
        '## Data\n\n' + _data(card),
        '## Training\n\n' + _table(('what', 'value'), _training(card)),
    ]
    if card.notes:
        sections.append('## Notes\n\n' + '\n'.join(f'- {note}' for note in card.notes))
    return '\n\n'.join(sections) + '\n'


def format_bytes(count: int) -> str:
    """Format a size for people: '41.2 kB', '308 MB'."""
    size, units = float(count), ['bytes', 'kB', 'MB', 'GB', 'TB']
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f'{count} bytes' if units[0] == 'bytes' else f'{size:.3g} {units[0]}'


def size_line(prompt_bytes: int, model_bytes: int) -> str:
    """Compare the prompt file with the model, in one line."""
    ratio = model_bytes / max(prompt_bytes, 1)
    return (
        f'prompt file {prompt_bytes:,} bytes ({format_bytes(prompt_bytes)}), '
        f'model {model_bytes:,} bytes ({format_bytes(model_bytes)}): {ratio:,.0f} times as much'
    )


def _summary(card: Card) -> str:
    """Tell in two sentences what this is."""
    return (
        f'{card.rows} virtual tokens ({card.trained_numbers:,} trained numbers) for the frozen '
        f'model {card.model_name}, whose {card.model_parameters:,} parameters are unchanged. '
        f'Sizes: {size_line(card.prompt_bytes, card.model_bytes)}.'
    )


def _results(card: Card) -> str:
    """Tabulate the metrics, one row a heading."""
    names = list(dict.fromkeys(name for values in card.metrics.values() for name in values))
    if not names:
        return 'Nothing was measured.'
    rows = [
        (heading, *(_number(values[name]) if name in values else '' for name in names))
        for heading, values in card.metrics.items()
    ]
    return _table(('measured on', *names), rows)


def _data(card: Card) -> str:
    """Tell the task, its template, its words and how many examples it has."""
    counts = ', '.join(f'{count:,} {split}' for split, count in card.examples.items())
    parts = [f'Task `{card.task}`: {counts} examples.', 'Inputs:', _block(card.inputs_template)]
    if card.verbalizer is None:
        parts.append('Targets are free text.')
    else:
        words = [(f'`{raw}`', f'`{word}`') for raw, word in card.verbalizer.items()]
        parts += ['Labels and the words for them:', _table(('label', 'word'), words)]
    return '\n\n'.join(parts)


def _training(card: Card) -> list[tuple[str, str]]:
    """List how the prompt came about."""
    rows = [
        ('frozen model', card.model_name),
        ('model fingerprint', f'`{card.model_fingerprint}`'),
        ('layout', card.layout),
        ('method', card.method),
        ('rows', f'{card.rows}'),
        ('trained numbers', f'{card.trained_numbers:,}'),
        ('started from', card.initializer),
        ('optimizer', card.optimizer),
        ('steps', f'{card.steps:,}'),
        ('best step (kept)', f'{card.best_step:,}'),
        ('seed', f'{card.seed}'),
        *((name, str(value)) for name, value in card.settings.items()),
        ('versions', _versions()),
    ]
    return rows


def _versions() -> str:
    """Name the versions that numbers may depend on."""
    names = ('jax', 'jaxlib', 'flax', 'optax')
    others = ', '.join(f'{name} {importlib.metadata.version(name)}' for name in names)
    return f'jax_prompt {jax_prompt.__version__}, {others}, Python {platform.python_version()}'


def _number(value: float) -> str:
    return f'{value}' if isinstance(value, int) else f'{float(value):.4g}'


def _block(text: str) -> str:
    """Show text as it is; the fence is longer than any run of backticks in the text."""
    fence = '```'
    while fence in text:
        fence += '`'
    return f'{fence}\n{text}\n{fence}'


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Format a Markdown table."""
    lines = [head, ('---',) * len(head), *rows]
    cells = [[cell.replace('|', '\\|').replace('\n', ' ') for cell in line] for line in lines]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in cells)
