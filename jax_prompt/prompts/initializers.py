"""Initialisers: what the rows of a prompt are before training.

An initialiser is a function `(rng, context) -> float32[P, D]`; the functions here construct them.
Lester et al. 2021 (arXiv:2104.08691, section 3.2) compare uniform noise, frequent vocabulary and
class labels: the smaller the model, the more the start matters.
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.config import configured
from jax_prompt.files import brief
from jax_prompt.parallel.rules import Rule
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.numpy_file import as_float32, is_numpy_file, read_array
from jax_prompt.types import Array, Params

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class InitContext:
    """What initialisers may look at.

    Attributes:
        table_VD: float[V, D], the frozen embedding table, numpy or JAX.
        num_rows: P.
        encode: text to token ids, without an end token.
        num_special_ids: ids below this are no words (T5: pad, end and unknown token).
        initializer: gives the rows that a method starts from.
        frozen: the model's weights, for methods that start from them; {} where nobody asks.
        rules: the model's, which tell the dimensions of each weight.
        name: of the task.
        labels: the words of the task's labels; None for free text.
        inputs_length: tokens of the longest text that is trained on, end token included.
        prefix_shapes, activations: the model's (`models.base.Model`), of its weights.
        loss: float32[P, D] -> the mean loss of a prompt of these rows on examples of training; None
            where there is nothing to measure on.
    """

    table_VD: Array | np.ndarray
    num_rows: int
    encode: Callable[[str], Sequence[int]]
    num_special_ids: int = 3
    initializer: 'Initializer | None' = None
    frozen: Params = dataclasses.field(default_factory=dict)
    rules: Sequence[Rule] = ()
    name: str = ''
    labels: Sequence[str] | None = None
    inputs_length: int = 512
    prefix_shapes: Mapping[str, tuple[int, int, int]] = dataclasses.field(default_factory=dict)
    activations: Callable[[np.ndarray], Mapping[str, tuple[Array, Array]]] | None = None
    loss: Callable[[Array], float] | None = None

    @property
    def d_model(self) -> int:
        """Return D, the width of the model."""
        return self.table_VD.shape[1]

    def start(self, rng: Array) -> Array:
        """Return the rows to start from, float32[P, D]."""
        return (self.initializer or sampled_vocabulary())(rng, self)


Initializer = Callable[[Array, InitContext], Array]


@configured
def uniform(scale: float = 0.5) -> Initializer:
    """Draw every number uniformly from [-scale, scale).

    Args:
        scale: half the width of the interval; the paper's is 0.5.

    Raises:
        ValueError: the scale is not a positive number.
    """
    if not 0 < scale < float('inf'):
        raise ValueError(f'uniform initialiser has scale={scale}; expected a positive number')

    def initialize(rng: Array, context: InitContext) -> Array:
        shape = (context.num_rows, context.d_model)
        return jax.random.uniform(rng, shape, jnp.float32, -scale, scale)

    return initialize


@configured
def sampled_vocabulary(most_frequent: int = 5000) -> Initializer:
    """Copy the embeddings of frequent vocabulary entries, drawn without replacement.

    SentencePiece orders its entries by frequency, so the most frequent ones are those with the
    lowest ids, after the special tokens.

    Args:
        most_frequent: how many entries to draw from; 5,000 in the paper. Smaller vocabularies are
            used whole.

    Raises:
        ValueError: the number is not positive; on use, the prompt has more rows than that.
    """
    if most_frequent < 1:
        raise ValueError(
            f'sampled_vocabulary has most_frequent={most_frequent}; expected 1 or more')

    def initialize(rng: Array, context: InitContext) -> Array:
        first = context.num_special_ids
        num_entries = min(most_frequent, context.table_VD.shape[0] - first)
        if context.num_rows > num_entries:
            raise ValueError(
                f'cannot draw {context.num_rows} prompt rows from {num_entries} vocabulary '
                'entries without replacement; raise most_frequent, shorten the prompt or use the '
                'uniform initialiser')
        ids = first + jax.random.choice(rng, num_entries, (context.num_rows,), replace=False)
        return _vocabulary_rows(context, np.asarray(ids))

    return initialize


@configured
def class_labels(labels: Sequence[str] | None = None,
                 fallback: Initializer | None = None) -> Initializer:
    """Start one row from each label's words, the rest from another initialiser.

    A label's row is the mean of the embeddings of its subwords.

    Args:
        labels: the words that the model answers with; repeated ones count once. None for the
            task's.
        fallback: fills the rows after the labels'; `sampled_vocabulary()` by default.

    Raises:
        ValueError: no labels; on use, more labels than rows, a label without tokens, or a task
            without labels.
    """
    if isinstance(labels, str) or (labels is not None and not labels):
        raise ValueError(f'class_labels has labels={labels!r}; expected a list of words')

    def initialize(rng: Array, context: InitContext) -> Array:
        if labels is None and not context.labels:
            raise ValueError('class_labels has no labels and the task is of free text; name words '
                             'with labels=[...] or use another initialiser')
        words = list(dict.fromkeys(labels or context.labels))
        means = [jnp.mean(text_rows(context, word), axis=0) for word in words]
        what = f'the {len(words)} class labels need {len(words)}'
        return _fill(rng, context, jnp.stack(means), fallback, what)

    return initialize


@configured
def from_string(text: str, fallback: Initializer | None = None) -> Initializer:
    """Start one row from each token of a text, the rest from another initialiser.

    Args:
        text: an instruction in words, for example.
        fallback: fills the rows after the text's; `sampled_vocabulary()` by default.

    Raises:
        ValueError: on use, the text has no tokens or more tokens than the prompt has rows.
    """

    def initialize(rng: Array, context: InitContext) -> Array:
        rows = text_rows(context, text)
        what = f'the text {brief(text)} needs {len(rows)}'
        return _fill(rng, context, rows, fallback, what)

    return initialize


@configured
def best_of(texts: Sequence[str] = (), starts: Sequence[Initializer] = (), draws: int = 1,
            ) -> Initializer:
    """Start from the best of several starts, by the loss on examples of training.

    Of few examples a prompt learns little more than it begins with; a start costs one evaluation
    and no training.

    Args:
        texts: instructions in words, of which each is a start as `from_string` makes it.
        starts: other initialisers.
        draws: how often each is drawn, each time with another randomness; of starts without any
            that changes nothing.

    Raises:
        ValueError: no start, or no draw; on use, nothing to measure the loss on, or no start with a
            finite loss.
    """
    if isinstance(texts, str) or not (texts or starts) or draws < 1:
        raise ValueError(f'best_of has {len(starts)} starts, texts={brief(texts)} and draws={draws}'
                         '; expected a list of texts or starts, and at least one draw')
    candidates = [*map(from_string, texts), *starts]

    def initialize(rng: Array, context: InitContext) -> Array:
        if context.loss is None:
            raise ValueError('best_of needs examples to choose by; use it to train a prompt for a '
                             'task, or choose a start yourself')
        found = [one(key, context) for key in jax.random.split(rng, draws) for one in candidates]
        losses = [context.loss(rows_PD) for rows_PD in found]
        if not np.isfinite(losses).any():
            raise ValueError(f'none of the {len(found)} starts of best_of has a finite loss; see '
                             'that the weights are float32 or bfloat16')
        best = int(np.nanargmin(losses))
        _log.info('the best of %d starts is number %d, with a loss of %.4f; the others have %s',
                  len(found), best + 1, losses[best],
                  ', '.join(f'{loss:.4f}' for loss in losses[:20]))
        return found[best]

    return initialize


@configured
def from_array(source: Array | np.ndarray | str | os.PathLike) -> Initializer:
    """Start from given numbers, such as a prompt trained on another task (SPoT).

    Args:
        source: float[P, D] as an array, or the path of a prompt file or of a numpy array of any
            float type. What a file holds is told by its content, not by its name.

    Raises:
        ValueError: on use, an unreadable file, another shape than the prompt's, numbers that are
            not floats, or numbers that are not finite.
    """

    def initialize(rng: Array, context: InitContext) -> Array:
        del rng
        if isinstance(source, str | os.PathLike):
            where, array = f'file {os.fspath(source)}', _read(Path(source))
        else:
            where, array = 'the array', np.asarray(source)
        return jnp.asarray(_check_array(array, where, context))

    return initialize


@configured
def from_similar(folder: str, steps: int = 100, by: str = 'pairs') -> Initializer:
    """Start from that prompt of a folder which is most like the task's own after a few steps.

    `jax-prompt train`, or `training.transfer.choose_source`, first trains a prompt for so many
    steps, in a folder of its own beside the run's (`FOLDER-early`), compares it with the prompts of
    the folder and begins anew from the one that is most like it, as `from_array` would.

    Args:
        folder: of the source tasks' prompt files, as a run of several tasks leaves it.
        steps: of the early prompt; SPoT found a few of the run's enough.
        by: 'pairs' or 'means', see `prompts.similarity`.

    Raises:
        ValueError: fewer than one step; on use, by anything but a run of a single task.

    Source: Vu et al. 2022 (arXiv:2110.07904), section 5.2.
    """
    if steps < 1:
        raise ValueError(f'from_similar has steps={steps}; expected at least 1, by which the '
                         'task shows what it is like')

    def initialize(rng: Array, context: InitContext) -> Array:
        raise ValueError(f'from_similar of {folder} is for a run of a single prompt, for which '
                         '`jax-prompt train` chooses one; use from_array with one of the files')

    initialize.source_of = (folder, steps, by)
    return initialize


def _fill(rng, context, rows_PD, fallback, what) -> Array:
    """Put the fallback's rows after the given ones; refuse to drop any."""
    missing = context.num_rows - len(rows_PD)
    if missing < 0:
        raise ValueError(
            f'{what} prompt rows but the prompt has {context.num_rows}; lengthen the prompt or '
            'use another initialiser')
    rest = dataclasses.replace(context, num_rows=missing)
    return jnp.concatenate([rows_PD, (fallback or sampled_vocabulary())(rng, rest)])


def text_rows(context: InitContext, text: str) -> Array:
    """Return the embeddings of a text's tokens.

    Args:
        context: the table and the tokenizer.
        text: the words.

    Returns:
        float32[P, D], a row a token.

    Raises:
        ValueError: it has no tokens.
    """
    ids = np.asarray(list(context.encode(text)), np.int32)
    if not len(ids):
        raise ValueError(
            f'the tokenizer gives no tokens for {brief(text)}; initialise the prompt from '
            'other words')
    return _vocabulary_rows(context, ids)


def _vocabulary_rows(context: InitContext, ids: np.ndarray) -> Array:
    """Copy rows out of the table before casting: the whole table may be gigabytes."""
    assert jnp.issubdtype(context.table_VD.dtype, jnp.floating), 'dequantise the table first'
    return jnp.asarray(context.table_VD[ids]).astype(jnp.float32)


def _read(path: Path) -> np.ndarray:
    """Read a numpy array without unpickling, or the tensor of a prompt file."""
    try:
        if not is_numpy_file(path):
            prompt = load_prompt(path).prompt
            if prompt.added:
                raise ValueError(f'prompt file {path} adds {prompt.added} rows to the text, so '
                                 'that its virtual tokens alone are no start; start from a prompt '
                                 'of another method')
            return prompt.rows
    except OSError as error:
        raise ValueError(
            f'cannot read {path} to initialise the prompt: {error.strerror}; check the path'
        ) from error
    return read_array(path)


def _check_array(array: np.ndarray, where: str, context: InitContext) -> np.ndarray:
    """Cast to float32 what has the prompt's shape."""
    expected = (context.num_rows, context.d_model)
    if array.shape != expected:
        raise ValueError(
            f'{where} has shape {array.shape} but the prompt has shape {expected} (rows, width of '
            'the model); set the prompt length to its rows and use a model of its width')
    return as_float32(array, where)
