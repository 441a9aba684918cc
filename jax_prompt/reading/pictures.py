"""Pictures of a report, each an SVG that stands by itself."""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

_WORDS, _ROWS, _START = 'tab:gray', 'tab:blue', 'tab:orange'
#: Of more rows not each is numbered.
_MOST_NUMBERS = 60
_MOST_COMPARED = 6


def norms(rows: Sequence[float], words: np.ndarray | None) -> bytes:
    """Draw the lengths of rows, and how long the vocabulary's words are."""
    def draw(left: 'Axes', right: 'Axes') -> None:
        left.bar(range(len(rows)), rows, color=_ROWS)
        left.set(xlabel='row', ylabel='length', title='rows')
        _whole(left.xaxis)
        lengths = np.asarray(rows)
        every = lengths if words is None else np.concatenate([words, lengths])
        every = every[every > 0]
        low, high = (every.min(), every.max()) if len(every) else (0.5, 2.0)
        edges = np.geomspace(low / 1.05, high * 1.05, 60)
        if words is not None:
            right.hist(words, edges, color=_WORDS, alpha=0.6, label='words')
        right.hist(lengths, edges, color=_ROWS, label='rows')
        right.set(xscale='log', yscale='log', xlabel='length', ylabel='how many',
                  title='rows among words')
        right.set_xticks(ticks := np.geomspace(edges[0], edges[-1], 5),
                         [f'{one:.3g}' for one in ticks])
        right.minorticks_off()
        right.legend(frameon=False)

    return _drawn(draw, 2)


def similarity(cosine_PP: np.ndarray) -> bytes:
    """Draw the cosine of each row with each."""
    return _drawn(lambda axes: _heat(axes, cosine_PP, 'row', 'row', 'cosine', limits=(-1, 1)),
                  width=5.4, height=4.6)


def comparison(told: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the cosine of each row with each row of other prompts."""
    told = told[:_MOST_COMPARED]

    def draw(*panels: 'Axes') -> None:
        for axes, one in zip(panels, told, strict=True):
            _heat(axes, np.array(one['cosines']), f"row of {one['prompt'][-40:]}", 'row', 'cosine',
                  limits=(-1, 1))

    return _drawn(draw, len(told), width=5 * len(told), height=4.4)


def movement(told: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw how far each row is from its start."""
    def draw(left: 'Axes', right: 'Axes') -> None:
        for axes, key, what in ((left, 'distance', 'distance from the start'),
                                (right, 'cosine', 'cosine with the start')):
            axes.plot([one[key] for one in told], 'o', color=_ROWS)
            axes.set(xlabel='row', ylabel=what)
            axes.grid(alpha=0.3)
            axes.ticklabel_format(useOffset=False)
            _whole(axes.xaxis)
        left.set_ylim(bottom=0)

    return _drawn(draw, 2)


def row_map(places: Mapping[str, np.ndarray], named: Mapping[int, str], title: str) -> bytes:
    """Draw rows among words.

    Args:
      places: float[R, 2] of 'words', 'rows', and of what they started from, 'start', where known.
      named: number of a word among 'words' -> its text, for those that are named.
      title: says what the plane is.
    """
    def draw(axes: 'Axes') -> None:
        words = places['words']
        axes.scatter(*words.T, s=2, color=_WORDS, alpha=0.35, linewidths=0, label='words')
        for number, text in named.items():
            axes.annotate(text, words[number], fontsize=6, color='0.35', parse_math=False)
        if 'start' in places:
            for begun, row in zip(places['start'], places['rows'], strict=True):
                axes.plot(*np.stack([begun, row]).T, color=_START, linewidth=0.6, alpha=0.6)
            axes.scatter(*places['start'].T, s=10, color=_START, label='start')
        axes.scatter(*places['rows'].T, s=18, color=_ROWS, label='rows')
        if len(places['rows']) <= _MOST_NUMBERS:
            for number, place in enumerate(places['rows']):
                axes.annotate(str(number), place, xytext=(3, 3), textcoords='offset points',
                              color=_ROWS, weight='bold')
        axes.set(title=title, xticks=[], yticks=[])
        axes.legend(frameon=False, loc='best')

    return _drawn(draw, height=6.5)


def ablation(told: Mapping[str, Any]) -> bytes:
    """Draw by how much the loss rises without each row, with two standard errors each way."""
    rows = told['rows']

    def draw(axes: 'Axes') -> None:
        axes.bar(range(len(rows)), [one['loss_rise'] for one in rows], color=_ROWS,
                 yerr=[2 * one['standard_error'] for one in rows],
                 error_kw={'linewidth': 0.8, 'ecolor': '0.4'})
        axes.axhline(0, color='0.3', linewidth=0.8)
        axes.set(xlabel='row that is taken out', ylabel='rise of the loss')
        _whole(axes.xaxis)

    return _drawn(draw)


def attention(told: Mapping[str, Any]) -> bytes:
    """Draw the weight of each row in each layer, for encoder and decoder, averaged over heads."""
    def draw(left: 'Axes', right: 'Axes') -> None:
        for axes, name, who in ((left, 'encoder', 'the text, in the encoder'),
                                (right, 'cross', 'the answer, in the decoder')):
            weights_NP = np.array(told[name]).mean(axis=1)
            _heat(axes, weights_NP, 'row', 'layer', 'weight')
            axes.set_title(f'attention of {who}')

    return _drawn(draw, 2)


def heads(told: Mapping[str, Any]) -> bytes:
    """Draw the weight that all rows together have, in each head of each layer."""
    def draw(left: 'Axes', right: 'Axes') -> None:
        for axes, name, who in ((left, 'encoder', 'the text, in the encoder'),
                                (right, 'cross', 'the answer, in the decoder')):
            shares_NH = np.array(told[name]).sum(axis=2)
            _heat(axes, shares_NH, 'head', 'layer', 'share of all rows', limits=(0, 1))
            axes.set_title(f'attention of {who}')

    return _drawn(draw, 2)


def _drawn(draw: Callable[..., None], columns: int = 1, width: float = 9,
           height: float = 3.4) -> bytes:
    """Draw on axes side by side and return SVG; text stays text."""
    # Matplotlib takes longer to import than all the rest of a command that draws nothing.
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # With a fixed salt and no date, the same prompt has the same bytes.
    settings = {'svg.fonttype': 'none', 'svg.hashsalt': 'jax_prompt', 'font.size': 9,
                'font.family': 'sans-serif'}
    into = io.BytesIO()
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # A browser has letters that the font by which text is measured here has not.
        warnings.simplefilter('ignore', UserWarning)
        figure = Figure(figsize=(width, height), layout='constrained')
        FigureCanvasSVG(figure)
        draw(*figure.subplots(1, columns, squeeze=False)[0])
        figure.savefig(into, format='svg', metadata={'Date': None})
    return into.getvalue()


def _whole(axis: 'Axis') -> None:
    """Let an axis count: rows, layers and heads have no halves."""
    axis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def _heat(axes: 'Axes', values: np.ndarray, across: str, down: str, what: str,
          limits: tuple[float, float] | None = None) -> None:
    """Draw a matrix as colours, dark for what is large; red and blue where there are signs."""
    low, high = limits or (0.0, max(float(values.max(initial=0)), 1e-9))
    image = axes.imshow(values, vmin=low, vmax=high, aspect='auto', interpolation='nearest',
                        cmap='RdBu_r' if low < 0 else 'Blues')
    axes.set_xlabel(across, parse_math=False)
    axes.set_ylabel(down)
    _whole(axes.xaxis)
    _whole(axes.yaxis)
    axes.figure.colorbar(image, ax=axes, label=what)
