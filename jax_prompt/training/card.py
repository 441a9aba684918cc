"""The card of a run: what was trained on what, for whoever finds the prompt file later."""

import dataclasses
import importlib.metadata
import math
import os
import platform
import shlex
from collections.abc import Mapping, Sequence

import jax_prompt
from jax_prompt.config import config_of, described
from jax_prompt.files import write_file
from jax_prompt.models.open import OpenedModel
from jax_prompt.training.folder import Outcome
from jax_prompt.training.loop import Run
from jax_prompt.training.problem import Problem
from jax_prompt.training.progress import Progress
from jax_prompt.training.settings import PromptSettings


def write_card(path: str | os.PathLike, run: Run, prompt: PromptSettings,
               outcomes: Sequence[Outcome], progress: Progress) -> None:
    """Write the card of a run as Markdown, whole or not at all.

    Args:
        path: the file, by custom `card.md` in the run's folder.
        run: what was trained, on what and how.
        prompt: how it began, the initialiser chosen.
        outcomes: what it ended with, for each of its problems.
        progress: of the run, at its end.
    """
    tasks = list({problem.task.name: problem for problem in run.problems}.values())
    notes = [note for outcome in outcomes for note in outcome.remarks]
    notes += [note for problem in tasks for note in getattr(problem.task, 'notes', ())]
    title = ', '.join(problem.task.name for problem in tasks)
    sections = [
        f'# {_kind(outcomes)} for {title}\n\n'
        f'{_summary(run, prompt, outcomes)}',
        '## Results\n\n' + results_table(_measured(run.problems, outcomes, progress)),
        '## Use\n\n' + fenced('\n'.join(_command(run.opened, one)
                                         for one in outcomes)),
        '## Data\n\n' + '\n\n'.join(_data(problem) for problem in tasks),
        '## Training\n\n' + table(('what', 'value'), _training(run, prompt, outcomes, progress)),
    ]
    if notes:
        sections.append('## Notes\n\n' + '\n'.join(f'- {note}' for note in notes))
    write_file(path, ('\n\n'.join(sections) + '\n').encode(), overwrite=True)


def _measured(problems: Sequence[Problem], outcomes: Sequence[Outcome],
              progress: Progress) -> dict[str, Mapping[str, float]]:
    """Return what was measured on what -> its metrics, those of each problem under its name."""
    found = {}
    for outcome, kept in zip(outcomes, progress.tasks, strict=True):
        of = f'{outcome.folder.name}: ' if outcome.folder.name else ''
        best = {name: value for name, value in kept.best.items() if math.isfinite(value)}
        found |= {f'{of}validation': best} | {
            f'{of}{outcome.split}, {heading}': values
            for heading, values in outcome.results.items()}
    for outcome, problem in zip(outcomes, problems, strict=True):
        found |= {f'{problem.task.name}: {outcome.split}, {heading}': values
                  for heading, values in outcome.ensemble.items()}
    return found


def format_bytes(count: int) -> str:
    """Format a size for people: '41.2 kB', '308 MB'."""
    size, units = float(count), ['bytes', 'kB', 'MB', 'GB', 'TB']
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f'{count} bytes' if units[0] == 'bytes' else f'{size:.3g} {units[0]}'


def size_line(prompt_bytes: int, model_bytes: int, saved: str = 'prompt file') -> str:
    """Compare what was saved with the model, in one line."""
    line = (f'{saved} {prompt_bytes:,} bytes ({format_bytes(prompt_bytes)}), '
            f'model {model_bytes:,} bytes ({format_bytes(model_bytes)})')
    ratio = model_bytes / max(prompt_bytes, 1)
    return f'{line}: {ratio:,.0f} times as much' if ratio >= 2 else line


def _kind(outcomes: Sequence[Outcome]) -> str:
    """Tell what came of a run."""
    if outcomes[0].tuned_model is not None:
        return 'Tuned model'
    return 'Soft prompts' if len(outcomes) > 1 else 'Soft prompt'


def _summary(run: Run, prompt: PromptSettings, outcomes: Sequence[Outcome]) -> str:
    """Tell in two sentences what this is."""
    first, count = outcomes[0], len(outcomes)
    if first.tuned_model is not None:
        return (f'{run.opened.name} with {first.trained_numbers:,} trained numbers, '
                + (f'{prompt.rows} virtual tokens among them, ' if prompt.rows else '')
                + f'beside {run.opened.num_parameters:,} parameters that it had. Sizes: '
                + f'{size_line(first.prompt_bytes, first.model_bytes, "tuned model")}.')
    each = f'{prompt.rows} virtual tokens' if count == 1 else (
        f'{count} prompts of {prompt.rows} virtual tokens')
    return (f'{each} ({first.trained_numbers:,} trained numbers) for the '
            f'frozen model {run.opened.name}, whose {run.opened.num_parameters:,} parameters are '
            f'unchanged. Sizes: {size_line(first.prompt_bytes, first.model_bytes)}.')


def results_table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Tabulate heading -> metric -> value, one row a heading."""
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    return table(('measured on', *names), [
        (heading, *(f'{values[name]:.4g}' if name in values else '' for name in names))
        for heading, values in metrics.items()])


def _data(problem: Problem) -> str:
    """Tell the task, its template, its words and how many examples it has."""
    counts = ', '.join(f'{len(found):,} {split}' for split, found in problem.examples.items())
    task, told = problem.task, problem.task.to_dict()
    template = told.get('inputs_template', 'as the seqio task makes them')
    parts = [f'Task `{task.name}`: {counts} examples.', 'Inputs:', fenced(template)]
    if problem.design:
        words = ', '.join(f'{label}: {" or ".join(some)}' for label, some
                          in (problem.design.words or {}).items())
        parts += ['Put to the model by a design, in which the prompt stands'
                  + (f'; words for its labels are {words}:' if words else ':'),
                  fenced(problem.design.template)]
    labels = told.get('labels')
    if labels is None:
        return '\n\n'.join([*parts, 'Targets are free text.'])
    pairs = labels.items() if isinstance(labels, Mapping) else ((word, word) for word in labels)
    words = [(f'`{raw}`', f'`{word}`') for raw, word in pairs]
    return '\n\n'.join([*parts, 'Labels and the words for them:', table(('label', 'word'), words)])


def _training(run: Run, prompt: PromptSettings, outcomes: Sequence[Outcome],
              progress: Progress) -> list[tuple[str, str]]:
    """List how the prompts came about."""
    settings = {name: value for name, value in dataclasses.asdict(run.settings).items()
                if name not in ('seed', 'steps', 'compare', 'measure', 'choose_by')}
    started = "each task's labels, then frequent vocabulary" if prompt.initializer is None else (
        described(config_of(prompt.initializer)))

    def each(values: Sequence[str]) -> str:
        return values[0] if len(values) == 1 else ', '.join(
            f'{problem.name} {value}' for problem, value in zip(run.problems, values, strict=True))

    return [
        ('frozen model', run.opened.name),
        ('model fingerprint', f'`{run.opened.fingerprint}`'),
        ('computed with', ', '.join(f'{name}={value}' for name, value
                                    in run.opened.model.numerics.items())),
        ('layout', prompt.layout.describe(prompt.rows)),
        ('method', described(config_of(run.method))),
        ('rows', f'{prompt.rows}'),
        ('trained numbers', f'{outcomes[0].trained_numbers:,}'),
        ('started from', started),
        ('optimizer', described(getattr(run.optimizer, 'config', 'as given in Python'))),
        ('steps', f'{progress.finished_at:,}'),
        ('best step (kept)', each([f'{one.best_step:,}' for one in outcomes])),
        ('chosen by', each([f'{one.choose_by} on validation' for one in run.problems])),
        ('seed', each([f'{one.seed}' for one in run.problems])),
        *([('examples a batch', each([f'{one.batch_size}' for one in run.problems]))]
          if len(outcomes) > 1 else []),
        *((name, str(value)) for name, value in settings.items()),
        ('versions', _versions()),
    ]


def _command(model: OpenedModel, outcome: Outcome) -> str:
    """Return the command that uses what was trained, as a shell reads it."""
    words = ['jax-prompt', 'predict', f'--model={outcome.tuned_model or model.source}',
             f'--prompt={outcome.folder.prompt}']
    if model.vocabulary_source is not None:
        words.insert(3, f'--gin.model.vocabulary={model.vocabulary_source}')
    return f'{shlex.join(words)} < texts.txt'


def _versions() -> str:
    """Name the versions that numbers may depend on."""
    names = ('jax', 'jaxlib', 'flax', 'optax')
    others = ', '.join(f'{name} {importlib.metadata.version(name)}' for name in names)
    return f'jax_prompt {jax_prompt.__version__}, {others}, Python {platform.python_version()}'


def fenced(text: str) -> str:
    """Show text as it is; the fence is longer than any run of backticks in the text."""
    fence = '```'
    while fence in text:
        fence += '`'
    return f'{fence}\n{text}\n{fence}'


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Format a Markdown table."""
    lines = [head, ('---',) * len(head), *rows]
    cells = [[cell.replace('|', '\\|').replace('\n', ' ') for cell in line] for line in lines]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in cells)
