"""Writes the pages that say what the code says: commands and flags, gin's parameters, modules."""

import inspect
import pathlib
import re
import shutil
from collections.abc import Callable

from jax_prompt.flags import DISTRIBUTED, FLAGS, SUMMARIES
from jax_prompt.usage import EXAMPLES

#: What Python users import, by page; the rest of the package serves these.
MODULES = {
    'Train': ['training.run', 'training.settings', 'training.optimizers', 'training.step'],
    'Tasks and data': ['data.tasks.files', 'data.tasks.text_task', 'data.tasks.registered',
                       'data.tasks.reviews', 'data.tasks.benchmarks', 'data.tasks.suites',
                       'data.prepare', 'data.seqio_benchmarks', 'data.vocabularies',
                       'data.examples', 'data.features', 'data.batches', 'data.packing'],
    'Prompts': ['prompts.prompt', 'prompts.file', 'prompts.layout', 'prompts.initializers',
                'prompts.method', 'prompts.methods.direct', 'prompts.methods.residual',
                'prompts.methods.superpos', 'prompts.methods.dpt', 'prompts.methods.ulpt',
                'prompts.methods.dept', 'prompts.methods.wayward', 'prompts.virtual',
                'prompts.registry', 'prompts.standing', 'prompts.log', 'data.design',
                'inference.make_design'],
    'Models': ['models.open', 'models.base', 'models.forward', 'models.t5.config',
               'models.t5.model', 'weights.load', 'weights.convert'],
    'Answers': ['inference.predict', 'inference.engine', 'inference.generate', 'inference.beam',
                'inference.sampling', 'inference.rank', 'inference.calibration', 'predict.bulk'],
    'Evaluation': ['evaluation.evaluator', 'evaluation.metrics', 'evaluation.text_metrics',
                   'evaluation.registry', 'evaluation.statistics', 'evaluation.averages'],
    'Sweeps': ['sweep.run', 'sweep.study', 'sweep.space'],
    'Comparison': ['comparison.run', 'comparison.contender', 'comparison.tuning',
                   'comparison.designed', 'comparison.searching', 'comparison.table',
                   'comparison.advice'],
    'Search of words': ['search.run', 'search.settings', 'search.strategy', 'search.substitution',
                        'search.bdpl', 'search.label_words', 'search.filling'],
    'Reading prompts': ['reading.read', 'reading.report', 'reading.settings', 'reading.rows',
                        'reading.ablation', 'reading.attention', 'reading.discrete',
                        'prompts.nearest'],
    'Prompts in and out': ['exchange.prompts_in_out', 'exchange.peft', 'exchange.t5x_prompt',
                           'exchange.numpy_prompt', 'exchange.hub'],
    'Devices and plans': ['parallel.mesh', 'parallel.rules', 'parallel.hosts', 'planning.planner',
                          'planning.request'],
    'Monitoring': ['monitoring.monitor', 'monitoring.settings', 'monitoring.quality',
                   'monitoring.drift', 'monitoring.measuring'],
    'Serving': ['serving.settings', 'serving.batching', 'serving.service'],
}


def write(docs: pathlib.Path) -> None:
    """Write all pages into `reference/`, anew."""
    folder = docs / 'reference'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, text in pages().items():
        (folder / f'{name}.md').write_text(text, encoding='utf-8')


def pages() -> dict[str, str]:
    """Return the name and the text of each page."""
    return {'commands': commands(), 'gin': gin_parameters()} | {
        title.lower().replace(' ', '_'): modules(title, names) for title, names in MODULES.items()}


def commands() -> str:
    """Return the page of commands and their flags."""
    parts = ['# Commands\n\nEvery command takes `--gin_file=FILE` (repeatable; names such as '
             '`demo.gin` are found inside the package), `--gin.NAME=VALUE` for any of the '
             '[settings](gin.md), `--debug` for the traceback of an error, and `--help`. A flag is '
             'a short spelling of the setting beside it.\n']
    for name, summary in SUMMARIES.items():
        rows = [(f'`--{flag.name}{"=" + flag.metavar if flag.metavar else ""}`',
                 flag.help + (f': {_codes(flag.choices)}' if flag.choices else ''),
                 f'`{flag.binding}`') for flag in FLAGS[name]]
        if name in DISTRIBUTED:
            rows += [('`--distributed`', 'one program on several hosts, which the cluster tells of '
                      'each other', ''),
                     ('`--coordinator=HOST:PORT` `--num_processes=N` `--process_id=I`',
                      'the same where no cluster tells', '')]
        told, _, example = EXAMPLES[name].rpartition('example:\n' if 'example:' in EXAMPLES[name]
                                                     else 'examples:\n')
        parts.append(f'## {name}\n\n{summary[0].upper() + summary[1:]}. {told.strip()}\n\n'
                     + _table(('flag', 'meaning', 'setting'), rows)
                     + f'\n```text\n{inspect.cleandoc(" " * 2 + example.lstrip())}\n```\n')
    return '\n'.join(parts)


def gin_parameters() -> str:
    """Return the page of all that gin can set."""
    from jax_prompt.commands import COMMANDS
    from jax_prompt.commands.names import CONFIGURABLES

    parts = ['# Settings\n\nWhat `--gin.NAME.PARAMETER=VALUE` and gin files can set. `@NAME()` '
             'as a value stands for what the constructor makes, as in '
             '`--gin.prompt.method=@residual()`.\n']
    for title, names in (('Constructors', CONFIGURABLES), ('Commands', COMMANDS)):
        parts.append(f'## {title}\n')
        parts += [_constructor(name, made) for name, made in names.items()]
    return '\n'.join(parts)


def _constructor(name: str, made: Callable) -> str:
    """Return the section of one constructor: its parameters, their defaults and meanings."""
    settings = getattr(made, '__wrapped__', made)  # file_task takes what FileSettings has
    text = inspect.cleandoc(made.__doc__ or settings.__doc__ or '')
    told = meanings(text) | meanings(inspect.cleandoc(settings.__doc__ or ''))
    by_flags = {flag.binding: flag.help for some in FLAGS.values() for flag in some}
    rows = [(f'`{name}.{one.name}`', _default(one),
             told.get(one.name) or by_flags.get(f'{name}.{one.name}', ''))
            for one in inspect.signature(settings).parameters.values()
            if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    summary = text.split('\n\n')[0].replace('\n', ' ')
    table = _table(('parameter', 'default', 'meaning'), rows) if rows else ''
    return f'### {name}\n\n{summary}\n\n{table}'


def meanings(docstring: str) -> dict[str, str]:
    """Return what a docstring says of each argument or attribute."""
    found = {}
    for section in re.findall(r'^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)+)', docstring + '\n',
                              re.MULTILINE):
        section = inspect.cleandoc(section)
        for names, text in re.findall(r'^(\w+(?:, \w+)*): ((?:.|\n(?=[ ]))*)', section,
                                      re.MULTILINE):
            found |= dict.fromkeys(names.split(', '), ' '.join(text.split()))
    return found


def modules(title: str, names: list[str]) -> str:
    """Return the page of some modules, which autodoc fills."""
    parts = [f'# {title}\n']
    for name in names:
        parts.append(f'## `jax_prompt.{name}`\n\n```{{eval-rst}}\n.. automodule:: jax_prompt.{name}'
                     '\n```\n')
    return '\n'.join(parts)


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return 'must be given'
    text = repr(parameter.default)
    return '' if '<' in text or len(text) > 60 else f'`{text}`'


def _codes(words) -> str:
    return ', '.join(f'`{word}`' for word in words)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, tuple('---' for _ in head), *rows]
    return ''.join('| ' + ' | '.join(cell.replace('|', '\\|') for cell in line) + ' |\n'
                   for line in lines)
