"""Which contender to take, in words, by rules that the page states. No model writes them."""

from collections.abc import Callable, Sequence

from jax_prompt.comparison.table import Group, Line
from jax_prompt.evaluation.metrics import LOWER_IS_BETTER
from jax_prompt.training.card import format_bytes

#: How much more than the least still counts as the same.
_ALIKE_BYTES, _ALIKE_SECONDS = 2.0, 1.25
#: A p-value below which a difference is called one.
LEVEL = 0.05

RULES = (
    'The best is the contender with the best mean on the validation. The test chooses nothing: it '
    'tells what the choice is worth.',
    'As good as the best is whoever is at most one standard error of the best\'s mean on the '
    'validation below it (the one-standard-error rule of Breiman et al. 1984). The error is the '
    'larger one of two: of the seeds, deviation / sqrt(runs), and of the examples, '
    'sqrt(p (1 - p) / examples) for a figure that is a fraction, one right and one wrong answer '
    'added.',
    f'Of those the cheapest is taken: first those that store at most {_ALIKE_BYTES:g} times the '
    f'least bytes, of these those that need at most {_ALIKE_SECONDS:g} times the least seconds an '
    'answer, of these the one with the fewest trained numbers, and then the one that was named '
    'first.',
    'Training is called worth its while where the best without trained numbers is more than that '
    'standard error below.',
    'More examples are called worth labelling where the best\'s validation mean at the largest '
    'size is more than that standard error above the best\'s at the size before.',
    f'A difference on the test is called one where the exact paired test gives p < {LEVEL:g}. It '
    'compares in how many runs each example of the test was answered rightly; after Holm\'s '
    'correction for the number of contenders.',
)


def advise(groups: Sequence[Group]) -> list[str]:
    """Return a paragraph for each task: on its largest size, and on what more examples gave.

    Args:
      groups: of the table, by task and then by size.
    """
    paragraphs = []
    for task in dict.fromkeys(group.task for group in groups):
        own = sorted((group for group in groups if group.task == task),
                     key=lambda group: float('inf') if group.size is None else group.size)
        sentences = _choice(own[-1]) + (_more_data(own[-2], own[-1]) if len(own) > 1 else [])
        paragraphs.append(f'{task}: ' + ' '.join(sentences))
    return paragraphs


def worse_by(group: Group, one: Line, than: Line) -> float:
    """Return how far a contender's validation mean is below another's; negative where above."""
    difference = than.validation - one.validation
    return -difference if group.metric in LOWER_IS_BETTER else difference


def chosen(group: Group) -> Line:
    """Return the contender that the rules take."""
    best = group.best
    left = [one for one in group.lines if worse_by(group, one, best) <= best.error]
    left = _least(left, lambda one: one.stored_bytes, _ALIKE_BYTES)
    left = _least(left, lambda one: one.seconds_an_answer, _ALIKE_SECONDS)
    return min(left, key=lambda one: one.trained_numbers)


def _least(lines: list[Line], cost: Callable[[Line], float], alike: float) -> list[Line]:
    """Return those that cost about the least."""
    least = min(map(cost, lines))
    return [one for one in lines if cost(one) <= alike * least]


def _choice(group: Group) -> list[str]:
    best, taken = group.best, chosen(group)
    count = '' if group.size is None else f' with {group.size:,} examples'
    said = [f'Take "{taken.contender}"{count}: {_costs(taken)}.',
            f'On the test it has {_percent(taken)} {group.metric}.']
    if taken is not best:
        said.append(f'"{best.contender}" is the best on the validation, by '
                    f'{100 * worse_by(group, taken, best):.1f} points, which is within one '
                    f'standard error ({100 * best.error:.1f}); on the test it has '
                    f'{_percent(best)}, a difference that {_tells(taken)}, and it costs more: '
                    f'{_costs(best)}.')
    untrained = [one for one in group.lines if not one.trained_numbers]
    if untrained and len(untrained) < len(group.lines):
        top = min(untrained, key=lambda one: worse_by(group, one, best))
        gap = worse_by(group, top, best)
        if gap > best.error:
            said.append(f'Training is worth its while: the best without it, "{top.contender}", is '
                        f'{100 * gap:.1f} points below on the validation and has {_percent(top)} '
                        'on the test.')
        else:
            said.append(f'Training gives nothing that can be told: "{top.contender}" needs none.')
    return said


def _more_data(smaller: Group, larger: Group) -> list[str]:
    """Say whether more examples gave something."""
    one, other = smaller.best, larger.best
    gained = worse_by(larger, one, other)
    sizes = f'{smaller.size:,} to ' + ('all' if larger.size is None else f'{larger.size:,}')
    if gained > other.error:
        return [f'From {sizes} examples the best gained {100 * gained:.1f} points: label more if '
                'you can.']
    return [f'From {sizes} examples the best gained no more than chance does '
            f'({100 * gained:.1f} points): more labels are not worth much.']


def _costs(one: Line) -> str:
    trained = f'{one.trained_numbers:,} trained numbers' if one.trained_numbers else 'no training'
    more = f', {one.seconds:,.0f} s to get there' if one.seconds else ''
    return (f'{trained}, {format_bytes(one.stored_bytes)} to store, {one.seconds_an_answer:.2g} s '
            f'an answer{more}')


def _percent(one: Line) -> str:
    return f'{100 * one.mean:.1f} % ({100 * one.low:.1f} to {100 * one.high:.1f})'


def _tells(one: Line) -> str:
    told = 'is one' if one.p_value is not None and one.p_value < LEVEL else 'chance explains'
    return f'{told} (p = {one.p_value:.2g})' if one.p_value is not None else told
