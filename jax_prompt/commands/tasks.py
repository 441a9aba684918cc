"""`jax-prompt tasks`: which tasks there are, and what the data of one is like."""

import gin

from jax_prompt.commands.names import TASKS
from jax_prompt.commands.shared import Opener, require
from jax_prompt.data.description import (
    PERCENTILES,
    Lengths,
    SplitDescription,
    describe_split,
    render_examples,
)
from jax_prompt.data.tasks.benchmarks import BENCHMARK_TASKS
from jax_prompt.data.tasks.definition import LEADERBOARD
from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.sizes import PUBLISHED_SIZES
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.data.vocabularies import load_vocabulary
from jax_prompt.evaluation.registry import check_metrics
from jax_prompt.files import brief
from jax_prompt.training.settings import PromptSettings

#: Targets of free text that are named, and characters of a text that are shown.
_NAMED, _SHOWN = 5, 700
#: So many different targets may be labels that nobody has named.
_FEW = 100


def tasks_command(model: Opener | None = None, action: str = 'list',
                  task: TextTask | RegisteredTask | None = None,
                  prompt: PromptSettings | None = None, examples: int = 3) -> int:
    """List the tasks that come with jax_prompt, or show what one is like, also one's own file.

    A model's tokenizer counts lengths in tokens and shows where the virtual tokens stand; its
    weights are not read.

    Args:
      model: whose tokenizer counts; only where it comes from is looked at.
      action: 'list' or 'show'.
      task: to show.
      prompt: its rows and layout, to be marked in the examples.
      examples: how many to render.
    """
    if action == 'list':
        _list()
        return 0
    require(task, 'task', '--task=NAME or --task=FILE.csv')
    check_metrics(task)
    bound = gin.get_bindings('model', resolve_references=False) if model is not None else {}
    source = bound.get('vocabulary') or bound.get('source')
    vocabulary = None if source is None else load_vocabulary(source)
    splits = [split for split in task.splits if not split.startswith(LEADERBOARD)]
    described = {split: describe_split(task, split, vocabulary) for split in splits}
    _show_task(task)
    _show_balance(task, described)
    _show_lengths(described, 'words; --model=SOURCE counts tokens' if vocabulary is None
                  else 'tokens, end token included, virtual tokens not')
    prompt = prompt or PromptSettings()
    for one in render_examples(task, splits[0], examples, vocabulary, prompt.layout, prompt.rows):
        print(f'\n{one.where}{", cut" if one.cut else ""}\n  input:  {_cut(one.input)}\n'
              f'  target: {_cut(one.target)}')
    return 0


def _list() -> None:
    """Print the names of the tasks, with what is known of them without their data."""
    print(f'{"task":<26}{"answer":<12}{"judged by":<24}{"train":>9}{"validation":>12}{"test":>9}')
    for name, task in BENCHMARK_TASKS.items():
        answer = 'free text' if task.labels is None else f'{len(task.labels)} labels'
        sizes = PUBLISHED_SIZES.get(name)
        told = ('', '', '') if sizes is None else (
            f'{size:,}' if size else 'cut' if task.cuts_validation and number == 1 else '-'
            for number, size in enumerate(sizes))
        print('{:<26}{:<12}{:<24}{:>9}{:>12}{:>9}'.format(
            name, answer, ', '.join(task.metrics), *told).rstrip())
    print('\nSizes are those published; a split that is cut is a tenth of training. Their data is '
          f'below --data_dir.\nOthers: {", ".join(TASKS)}; --task=FILE for a file of rows; the '
          "names of seqio's registry.")


def _show_task(task: TextTask | RegisteredTask) -> None:
    """Print what is asked and answered."""
    told = task.to_dict()
    print(f'{task.name}\n  input     {told["inputs_template"]!r}\n  target    column '
          f'{told["target"]!r}')
    if task.label_words is not None:
        print(f'  labels    {", ".join(map(repr, task.label_words[:12]))}'
              + (f' and {len(task.label_words) - 12} more' if len(task.label_words) > 12 else ''))
    metrics = task.metrics or ('accuracy' if task.label_words else 'exact_match',)
    print(f'  metrics   {", ".join(getattr(one, "__name__", str(one)) for one in metrics)}')


def _show_balance(task: TextTask | RegisteredTask,
                  described: dict[str, SplitDescription]) -> None:
    """Print how often which answer is right; the most common one is what a prompt must surpass."""
    names = task.label_words
    if names is None:
        names = list(next(iter(described.values())).targets)[:_NAMED]
    width = min(40, max(len('examples'), *(len(name) for name in names)))
    print('\n' + ' ' * (width + 2) + ''.join(f'{split:>22}' for split in described))
    print(f'{"examples":<{width}}  ' + ''.join(f'{one.size:>22,}' for one in described.values()))
    if task.label_words is None:
        few = all(len(one.targets) <= min(_FEW, one.size // 10) for one in described.values())
        print(f'{"different":<{width}}  '
              + ''.join(f'{len(one.targets):>22,}' for one in described.values())
              + ('   so few may be labels, as by file_task.labels=auto' if few else ''))
    for name in names:
        counts = ((one.targets.get(name, 0), one.size) for one in described.values())
        print(f'{brief(name)[1:-1][:width]:<{width}}  ' + ''.join(
            f'{count:>14,} {100 * count / size:6.1f}%' for count, size in counts))


def _show_lengths(described: dict[str, SplitDescription], unit: str) -> None:
    """Print percentiles of lengths, and the share that is cut."""
    print(f'\n{"lengths":<22}' + ''.join(f'{f"{share} %":>8}' for share in PERCENTILES[:-1])
          + f'{"longest":>9}   ({unit})')
    for split, one in described.items():
        for what, lengths in (('inputs', one.inputs), ('targets', one.outputs)):
            print(f'{f"{split} {what}":<22}'
                  + ''.join(f'{length:>8,}' for length in lengths.percentiles[:-1])
                  + f'{lengths.percentiles[-1]:>9,}' + _told_cut(what, lengths))


def _told_cut(what: str, lengths: Lengths) -> str:
    if lengths.limit is None:
        return ''
    if not lengths.cut:
        return f'   none longer than {what}_length={lengths.limit}'
    return f'   {100 * lengths.cut:.1f}% longer than {what}_length={lengths.limit}: cut'


def _cut(text: str) -> str:
    """Return a text as much of which as a screen bears, on one line."""
    text = ' '.join(text.splitlines())
    if len(text) <= _SHOWN:
        return text
    return f'{text[:_SHOWN * 3 // 4]} ... {text[-_SHOWN // 4:]} ({len(text):,} characters)'
