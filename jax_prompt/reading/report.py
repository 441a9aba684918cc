"""The report on a prompt: a page that stands alone, and the same as JSON."""

import base64
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from jax_prompt.evaluation.metrics import LOSS
from jax_prompt.files import refuse_to_replace, write_file, writing
from jax_prompt.prompts.file import save_prompt
from jax_prompt.reading import pictures
from jax_prompt.reading.positions import Places
from jax_prompt.reading.read import Reading
from jax_prompt.reading.rows import READINGS

PAGE, NUMBERS, DISCRETE = 'report.html', 'report.json', 'discrete.safetensors'
_MOST_PAIRS = 20
#: What a way of telling near words is called in a heading.
_HEADINGS = {'cosine': 'cosine', 'distance': 'distance',
             'distance_without_norm': 'distance, at the length of words',
             'inner_product': 'inner product',
             'inner_product_without_norm': 'inner product, at the length of words'}


def check_folder(folder: str, overwrite: bool) -> None:
    """Check, before there is anything to write, that a report can be written into a folder.

    Raises:
      FileExistsError: a report is there and may not be replaced, or it is no folder.
    """
    refuse_to_replace(Path(folder), True, 'folder')
    if (Path(folder) / PAGE).exists() and not overwrite:
        raise FileExistsError(f'folder {folder} holds a report already; choose another name, or '
                              'say that it may be overwritten (--overwrite)')


def write_report(folder: str | os.PathLike, reading: Reading) -> Path:
    """Write a report; its page, which comes last, is whole or not there.

    Args:
      folder: where to; made if it is not there.
      reading: all that is told.

    Returns:
      The page.
    """
    folder = Path(folder)
    with writing(f'the report {folder}'):
        if reading.discrete is not None:
            save_prompt(folder / DISCRETE, reading.discrete)
        numbers = json.dumps(reading.told, ensure_ascii=False, indent=1, allow_nan=False)
        write_file(folder / NUMBERS, numbers.encode(), overwrite=True)
        return write_file(folder / PAGE, page_of(reading).encode(), overwrite=True)


def page_of(reading: Reading) -> str:
    """Return the page: pictures and style stand in it, nothing is fetched."""
    sections = list(_sections(reading))
    links = ''.join(f'<a href="#{name}">{escape(title)}</a>' for name, title, _ in sections)
    body = ''.join(f'<section id="{name}"><h2>{escape(title)}</h2>{text}</section>'
                   for name, title, text in sections)
    name = escape(str(reading.told['prompt']['path']))
    style = (Path(__file__).parent / 'report.css').read_text(encoding='utf-8')
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<link rel="icon" href="data:,"><style>{style}</style></head><body>'
            f'<header><h1>Reading {name}</h1><nav>{links}</nav></header><main>{body}</main>'
            '</body></html>\n')


def _sections(reading: Reading) -> Iterator[tuple[str, str, str]]:
    """Yield (name, title, HTML) of each section for which there is something to tell."""
    told, words = reading.told, reading.words
    yield 'prompt', 'The prompt', _about(told)
    if 'norms' in told:
        yield 'rows', 'Rows and the words near them', _rows(told)
    if 'labels' in told:
        yield 'labels', 'Which labels are still there', _labels(told)
    if 'norms' in told:
        yield 'norms', 'Lengths', _norms(
            told, None if words is None else words.lengths)
    if 'movement' in told:
        yield 'movement', 'How far each row moved', (
            f'<p>From <code>{escape(told["start"])}</code>.</p>'
            + _picture(pictures.movement(told['movement']),
                       'Distance and cosine of each row with its start'))
    if reading.maps:
        yield 'map', 'A map of rows among words', _maps(reading.maps)
    if 'similarity' in told:
        yield 'similarity', 'How alike rows are', _similarity(told)
    for name, title, write in (('comparison', 'Beside other prompts', _comparison),
                               ('ablation', 'What a row is worth', _ablation),
                               ('attention', 'What is attended to', _attention),
                               ('discrete', 'The prompt in words', _discrete)):
        if told.get(name):
            yield name, title, write(told[name])


def _about(told: Mapping[str, Any]) -> str:
    """Say what the file says of itself, and what the report leaves out."""
    rows = []
    for name, value in told['prompt'].items():
        if name == 'metadata':
            rows += list(value.items())
        elif name != 'row_norms':
            rows.append((name, value))
    rows = [(name, value) for name, value in rows if value not in (None, {})]
    text = _table(('', ''), [(name.replace('_', ' '), value if isinstance(value, str) else
                              json.dumps(value, ensure_ascii=False)) for name, value in rows])
    if told['not_shown']:
        items = ''.join(f'<li>{escape(one)}</li>' for one in told['not_shown'])
        text += f'<h3>What is not shown</h3><ul>{items}</ul>'
    return text


def _rows(told: Mapping[str, Any]) -> str:
    """Tell of each row its length, its move and the words near to it."""
    moved, near = told.get('movement'), told.get('nearest')
    headings = ['row', 'length', *(['cosine with start', 'started at'] if moved else []),
                *(_HEADINGS[by] for by in READINGS if near)]
    rows = []
    for number, length in enumerate(told['norms']['rows']):
        row: list[Any] = [number, f'{length:.4g}']
        if moved:
            row += [f'{moved[number]["cosine"]:.3f}', moved[number].get('started_at', '')]
        if near:
            row += [_words(near[number][by]) for by in READINGS]
        rows.append(row)
    said = ('<p>The nearest words first, with their cosine, distance or inner product. A row '
            'may be many times as long as any word: by distance and inner product long words are '
            'then near to everything, so the row is also read at the mean length of words. The '
            'order by inner product knows no length of the row.</p>') if near else ''
    return said + _table(headings, rows)


def _words(found: Sequence[Mapping[str, Any]]) -> '_Html':
    return _Html(', '.join(f'<b>{escape(one["word"])}</b> <small>{one["value"]:.3g}</small>'
                           for one in found))


def _labels(told: Mapping[str, Any]) -> str:
    """Tell of each label whether its words are among those nearest to a row."""
    rows = [(one['label'], 'yes' if one['kept'] else 'no', one['row'], f'{one["cosine"]:.3f}',
             one['rank'], *((one.get('started_in', ''), one.get('rank_there', ''))
                            if 'movement' in told else ())) for one in told['labels']]
    return ('<p>A label is kept where it is among the nearest words of a row, by cosine.</p>'
            + _table(('label', 'kept', 'nearest row', 'cosine', 'rank there',
                      *(('started in row', 'rank in that row') if 'movement' in told else ())),
                     rows))


def _norms(told: Mapping[str, Any], word_norms: np.ndarray | None) -> str:
    text = _picture(pictures.norms(told['norms']['rows'], word_norms), 'Lengths of rows and words')
    if 'words' in told['norms']:
        of_words = told['norms']['words']
        text += _table(('words: mean', *(f'{share} %' for share in of_words['percentiles'])),
                       [(f'{of_words["mean"]:.4g}',
                         *(f'{value:.4g}' for value in of_words['percentiles'].values()))])
    return text


def _maps(drawn: Mapping[str, Places]) -> str:
    return ''.join(_picture(pictures.row_map(one.groups, one.named, one.title), one.title)
                   for one in drawn.values()) + (
        '<p>Only directions count here, not lengths; words that are named are nearest to a row. '
        'A plane shows little of so many dimensions: what lies together may be far apart.</p>')


def _similarity(told: Mapping[str, Any]) -> str:
    pairs = told['duplicates']
    text = _picture(pictures.similarity(np.array(told['similarity'])),
                    'Cosine of each row with each')
    if not pairs:
        return text + '<p>No two rows are duplicates.</p>'
    more = f', and {len(pairs) - _MOST_PAIRS} more' if len(pairs) > _MOST_PAIRS else ''
    return text + '<p>Duplicates: ' + ', '.join(
        f'{one["rows"][0]} and {one["rows"][1]} ({one["cosine"]:.3f})'
        for one in pairs[:_MOST_PAIRS]) + f'{more}.</p>'


def _comparison(told: Sequence[Mapping[str, Any]]) -> str:
    rows = [(one['prompt'], f'{one["pairs"]:.4f}', f'{one["means"]:.4f}',
             f'{np.mean([best["cosine"] for best in one["best"]]):.4f}',
             f'{one["in_place"]:.4f}' if 'in_place' in one else '',
             f'{100 * one["shared_words"]:.1f} %' if 'shared_words' in one else '')
            for one in told]
    return _table(('prompt', 'pairs of rows', 'mean rows', 'best match of a row',
                   'rows of one number', 'words shared'), rows) + _picture(
        pictures.comparison(told), 'Cosine of each row with each of the others')


def _ablation(told: Mapping[str, Any]) -> str:
    names = list(told['whole'])
    rows = [('all rows', *(f'{told["whole"][name]:.4f}' for name in names), ''),
            ('no rows', *(f'{told["no_rows"][name]:.4f}' for name in names), '')]
    rows += [(f'without row {number}', *(f'{one["metrics"][name]:.4f}' for name in names),
              f'{one["loss_rise"]:+.4f} ± {one["standard_error"]:.4f}')
             for number, one in enumerate(told['rows'])]
    return (f'<p>Measured on {told["examples"]} examples of {escape(told["task"])}, '
            f'{escape(told["split"])}. A bar reaches two standard errors of the difference each '
            'way; rows that do the same work can each be taken out for little.</p>'
            + _picture(pictures.ablation(told), 'Rise of the loss without each row')
            + _table(('', *names, 'loss rises by'), rows))


def _attention(told: Mapping[str, Any]) -> str:
    """Draw layers and heads, and each text with what each of its tokens gives to the rows."""
    text = (f'<p>Averaged over the positions of {len(told["texts"])} texts, and of the answers. '
            f'Were all positions attended to alike, a row would have {told["even"]:.4f}. The '
            'weights tell where a layer looks, not what it does with what it sees.</p>'
            + _picture(pictures.attention(told), 'Weight of each row in each layer')
            + _picture(pictures.heads(told), 'Share of all rows in each head'))
    for one in told['texts']:
        strongest = np.argsort(one['cross'])[::-1][:5]
        text += (f'<h3>{escape(one["text"][:200])}</h3><p>{_shares(one["tokens"])}</p>'
                 f'<p>answer: {_shares(one["answer_tokens"])}; it looks most at rows '
                 + ', '.join(f'{row} ({one["cross"][row]:.3f})' for row in strongest) + '</p>')
    return text + '<p>The darker a token, the more of its attention goes to the rows.</p>'


def _shares(tokens: Sequence[Mapping[str, Any]]) -> str:
    """Write tokens, each as dark as it looks at the prompt; rows as one mark."""
    parts, in_rows = [], False
    for one in tokens:
        if 'token' in one:
            parts.append(f'<span class="token" style="background:rgba(31,119,180,'
                         f'{0.85 * one["share"]:.3f})" title="{one["share"]:.4f}">'
                         f'{escape(one["token"])}</span>')
        elif not in_rows:
            parts.append('<span class="rows">rows</span>')
        in_rows = 'row' in one
    return ' '.join(parts)


def _discrete(told: Mapping[str, Any]) -> str:
    """Tell what words in place of the rows cost."""
    names = [name for name in told['whole'] if name != LOSS]
    rows: list[tuple] = [('the prompt itself', '', f'{told["whole"][LOSS]:.4f}',
                          *(f'{told["whole"][name]:.4f}' for name in names), '', '', '', '')]
    ways: dict[str, list[str]] = {}
    for by, one in told['projections'].items():
        ways.setdefault(json.dumps(one), []).append(_HEADINGS[by])
    for found, headings in ways.items():
        one = json.loads(found)
        as_text = one.get('as_text')
        rows.append(('; '.join(headings), one['text'], f'{one["metrics"][LOSS]:.4f}',
                     *(f'{one["metrics"][name]:.4f}' for name in names),
                     f'{one["cost"][LOSS]:+.4f}', f'{one["squared_distance"]:.4g}',
                     f'{one["f1"]:.3f}' if 'f1' in one else '',
                     '' if as_text is None else f'{as_text["metrics"][LOSS]:.4f}'
                     + ('' if as_text['same_tokens'] else ' (other tokens)')))
    target = f' The F1 is with <q>{escape(told["target"])}</q>.' if told['target'] else ''
    written = (f' <code>{DISCRETE}</code> beside this page holds the text by '
               f'{_HEADINGS[told["written"]]}, the cheapest on these very examples.'
               if 'written' in told else '')
    return ('<p>Each row is replaced by the embedding of the word nearest to it, and the loss '
            'measured again. Where it is far from the prompt\'s own, these words do not say what '
            'the prompt does: it is wayward (Khashabi et al. 2022, who project by distance). As '
            'text, the words stand in the template, and a tokenizer may read them as other '
            f'tokens.{target}{written}</p>'
            + _table(('nearest by', 'words', 'loss', *names, 'costs', 'distance²', 'F1',
                      'loss as text'), rows))


class _Html(str):
    """Text that is HTML already."""


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Write a table; what is no `_Html` is escaped."""
    def cell(value: Any) -> str:
        return value if isinstance(value, _Html) else escape(str(value))

    head = ''.join(f'<th scope="col">{cell(one)}</th>' for one in headings) if any(headings) else ''
    body = ''.join('<tr>' + ''.join(f'<td>{cell(one)}</td>' for one in row) + '</tr>'
                   for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>' \
           '</div>'


def _picture(svg: bytes, what: str) -> str:
    """Put a picture into the page: as a document of its own, its names meet no others."""
    data = base64.b64encode(svg).decode()
    return (f'<figure><img alt="{escape(what)}" src="data:image/svg+xml;base64,{data}">'
            f'</figure>')
