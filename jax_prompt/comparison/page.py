"""What a comparison leaves for people: tables, pictures, and a page that stands alone."""

import base64
import html
from collections.abc import Sequence

from jax_prompt.comparison.advice import RULES, advise
from jax_prompt.comparison.plots import SIZES, draw
from jax_prompt.comparison.records import ComparisonFolder
from jax_prompt.comparison.run import Comparison
from jax_prompt.comparison.table import (
    COLUMNS,
    Group,
    as_csv,
    as_json,
    groups_of,
    heading,
    markdown,
)
from jax_prompt.files import write_file

_PICTURES = {'trained_numbers': 'The figure against the numbers that were trained',
             'seconds': 'The figure against the seconds to the best',
             'examples': 'The figure against the examples that were learned from',
             SIZES: 'The figure against the size of the training data'}
#: What the columns mean, for the page.
NOTES = (
    'test: mean over the seeds, and their standard deviation where there are several: what other '
    'seeds would have given.',
    '95 % interval: of that mean, by bootstrap over the examples of the test, the same for all '
    'seeds: what other examples would have given.',
    'p against the best: an exact paired test on the examples of the test: in how many of its runs '
    'a contender answered each one rightly, against the best by validation. It is of examples and '
    'not of seeds, since three seeds cannot give less than 0.25; so it tells these trained prompts '
    'apart, and the deviation tells how far seeds move them. With one seed it is McNemar\'s.',
    'seconds to the best: of training with its evaluations, up to what is kept; compiling, which '
    'whoever comes first pays for all, is left out. Seconds an answer: on the whole test, in '
    'batches. No two runs have the same seconds; all else in the table is the same in each.',
    'examples to the best: examples that were learned from, repeated ones too.',
)
_STYLE = '''body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem;
  padding: 0 1rem; color: #222; background: #fff }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
tr.best { background: #eef6ee } img { max-width: 100% } .advice { background: #f4f4f8;
  padding: .6rem 1rem; border-left: 4px solid #668 }'''


def write_report(comparison: Comparison, folder: ComparisonFolder) -> list[Group]:
    """Write what is known so far: the table three times, the pictures and `comparison.html`.

    Args:
      comparison: what is compared.
      folder: with its records; the files are written into it, each as a whole.

    Returns:
      The table.
    """
    groups = groups_of(comparison, folder)
    if not groups:
        return groups
    pictures, advice = draw(groups), advise(groups)
    texts = {'table.md': markdown(groups) + '\n' + '\n\n'.join(advice) + '\n',
             'table.csv': as_csv(groups), 'table.json': as_json(groups),
             'comparison.html': page(groups, pictures, advice),
             **{f'{name}.svg': text for name, text in pictures.items()}}
    for name, text in texts.items():
        write_file(folder.path / name, text.encode(), overwrite=True)
    return groups


def page(groups: Sequence[Group], pictures: dict[str, str], advice: Sequence[str]) -> str:
    """Return the page, which asks nothing of any other file."""
    parts = ['<h1>Comparison</h1>', '<h2>Advice</h2>',
             *(f'<p class="advice">{html.escape(one)}</p>' for one in advice)]
    for group in groups:
        parts += [f'<h2>{html.escape(group.title)}</h2>', f'<p>{html.escape(heading(group))}</p>',
                  _table(group)]
    parts.append('<h2>What the columns say</h2>' + _list(NOTES))
    for name, text in pictures.items():
        data = base64.b64encode(text.encode()).decode()
        parts.append(f'<h2>{_PICTURES[name]}</h2><p>Dots are means on the test, bars their 95 % '
                     f'intervals.</p><img alt="{_PICTURES[name]}" '
                     f'src="data:image/svg+xml;base64,{data}">')
    parts.append('<h2>The rules of the advice</h2><p>No model writes it.</p>' + _list(RULES, 'ol'))
    return ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<title>Comparison</title><link rel="icon" href="data:,">'
            f'<style>{_STYLE}</style></head><body>\n' + '\n'.join(parts) + '\n</body></html>\n')


def _table(group: Group) -> str:
    lines = ['<tr>' + ''.join(f'<th>{html.escape(name)}</th>' for name in COLUMNS) + '</tr>']
    for one in group.lines:
        cells = ''.join(f'<td>{html.escape(text(one))}</td>' for text in COLUMNS.values())
        lines.append(f'<tr{" class=best" if one.best else ""}>{cells}</tr>')
    return f'<table>{"".join(lines)}</table>'


def _list(texts: Sequence[str], kind: str = 'ul') -> str:
    return f'<{kind}>' + ''.join(f'<li>{html.escape(one)}</li>' for one in texts) + f'</{kind}>'
