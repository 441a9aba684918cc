"""LM adaptation: plain text files as a task, whose every piece is an input and its continuation.

T5 1.1 was trained to fill gaps, and has never written a text from its beginning. Lester et al. 2021
train it on for up to 100,000 steps to continue texts before they freeze it, without which prompts
for the smaller models hardly work (section 3.2 and figure 3d). All weights are trained: this is a
task for `model_tuning`.
"""

import gzip
import hashlib
import os
from collections.abc import Iterator, Sequence

from jax_prompt.data.tasks.rows import Row, decode
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.files import check_regular

_PREFIX, _CONTINUATION = 'prefix', 'continuation'


def prefix_lm(files: Sequence[str] | str, validation_files: Sequence[str] | str = (),
              words: int = 256, inputs_length: int = 512, targets_length: int = 512,
              name: str = 'prefix_lm') -> TextTask:
    """Make the task of continuing texts.

    The words of each file, one after the other whatever line they stand in, are cut into pieces. A
    piece is divided at a place drawn for it (by a hash of its words, so that the task is the same
    in every run): what is before is the input, what is behind the target.

    Args:
        files: .txt files in UTF-8, plain or .gz; one, or a list.
        validation_files: others to validate on; without any, one piece in ten, chosen by its hash.
        words: of a piece; English has about 1.3 tokens of T5's vocabulary a word. What is left at
            a file's end is a piece of its own, if it has two words.
        inputs_length: the most tokens of an input, end token included, virtual tokens not.
        targets_length: the most tokens of a target, end token included.
        name: of the task.

    Returns:
        The task, with splits train and validation, of free text.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: no file, fewer than two words a piece, or a file that is no text in UTF-8.

    Source: the prefix language model of Raffel et al. 2020 (arXiv:1910.10683), section 3.2.
    """
    files, validation_files = ([one] if isinstance(one, str) else list(one)
                               for one in (files, validation_files))
    if not files:
        raise ValueError('prefix_lm has no files; name text files, as in '
                         '--gin.prefix_lm.files=corpus.txt')
    if words < 2:
        raise ValueError(f'prefix_lm has words={words}; expected at least 2 a piece, one to read '
                         'and one to write')
    for path in (*files, *validation_files):
        check_regular(path)
        if not os.path.isfile(path):
            raise FileNotFoundError(f'text file {path} does not exist')

    def split(wanted: str) -> list[Row]:
        if validation_files:
            chosen = files if wanted == 'train' else validation_files
            return [row for path in chosen for row, _ in _pieces(path, words)]
        return [row for path in files for row, is_held_out in _pieces(path, words)
                if is_held_out == (wanted == 'validation')]

    splits = {'train': lambda: split('train'), 'validation': lambda: split('validation')}
    return TextTask(name, splits, f'{{{_PREFIX}}}', _CONTINUATION, None, inputs_length,
                    targets_length)


def _pieces(path: str, words: int) -> Iterator[tuple[Row, bool]]:
    """Yield the pieces of a file, and whether each is one in ten that are held out."""
    piece: list[str] = []
    first = 1
    for line, found in _words(path):
        if not piece:
            first = line
        piece.append(found)
        if len(piece) == words:
            yield _divided(piece, f'{os.path.basename(path)} line {first}')
            piece = []
    if len(piece) > 1:
        yield _divided(piece, f'{os.path.basename(path)} line {first}')


def _words(path: str) -> Iterator[tuple[int, str]]:
    """Yield the words of a file, each with its line."""
    opener = gzip.open if path.lower().endswith('.gz') else open
    try:
        with opener(path, 'rb') as file:
            for number, line in enumerate(file, 1):
                where = f'{os.path.basename(path)} line {number}'
                yield from ((number, word) for word in decode(line, where, number == 1).split())
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f'{path} is not a whole gzip file: {error}') from None


def _divided(piece: list[str], where: str) -> tuple[Row, bool]:
    """Divide a piece behind its first word or any other but the last."""
    digest = hashlib.blake2b(' '.join(piece).encode(), digest_size=16).digest()
    place = 1 + int.from_bytes(digest[:8], 'big') % (len(piece) - 1)
    row = Row({_PREFIX: ' '.join(piece[:place]), _CONTINUATION: ' '.join(piece[place:])}, where)
    return row, digest[8] % 10 == 0
