"""Features: examples with virtual tokens inserted, as ids that the model reads."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_prompt.data.examples import Examples
from jax_prompt.data.ragged import Ragged
from jax_prompt.models.base import Model
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.virtual import stride, with_rows_added
from jax_prompt.types import Batch

_log = logging.getLogger(__name__)

# Decoder lengths are multiples of this, so that tasks with alike targets share compiled programs.
_TARGET_MULTIPLE = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Hold what the model reads for a split, not yet padded.

    Attributes:
        name: task and split, for messages.
        encoder: N encoder inputs, virtual tokens and end token included.
        targets: N targets, end token included.
        labels: int32[N], the index of each target among the label words; None for free text.
        decoder_length: L, the same for all batches of these features.
        pad_id, decoder_start_id: of the model.
    """

    name: str
    encoder: Ragged
    targets: Ragged
    labels: np.ndarray | None
    decoder_length: int
    pad_id: int = 0
    decoder_start_id: int = 0

    def __len__(self) -> int:
        return len(self.encoder)

    @property
    def lengths(self) -> np.ndarray:
        """Return int64[N], encoder positions of each example, virtual tokens included."""
        return self.encoder.lengths

    def batch(self, rows: Sequence[int], length: int) -> Batch:
        """Gather examples into a batch.

        Args:
            rows: int[B], which examples.
            length: S, encoder positions, at least the longest of these examples.

        Returns:
            seqio's keys: encoder_input_tokens int32[B, S], decoder_target_tokens and
            decoder_input_tokens int32[B, L], decoder_loss_weights float32[B, L]. The decoder's
            inputs are its targets shifted right behind the start token, as seqio shifts them.
        """
        rows = np.asarray(rows)
        targets = self.targets.padded(rows, self.decoder_length, self.pad_id)
        inputs = np.concatenate(
            [np.full((len(rows), 1), self.decoder_start_id, np.int32), targets[:, :-1]], axis=1)
        weights = np.arange(self.decoder_length) < self.targets.lengths[rows][:, None]
        return {
            'encoder_input_tokens': self.encoder.padded(rows, length, self.pad_id),
            'decoder_target_tokens': targets,
            'decoder_input_tokens': inputs,
            'decoder_loss_weights': weights.astype(np.float32),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureConverter:
    """Insert virtual tokens and end tokens, and cut what is too long.

    Attributes:
        layout: where the virtual tokens stand.
        num_rows: P, virtual tokens of the prompt; 0 for no prompt.
        vocab_size: V, rows of the frozen embedding table; virtual ids begin there.
        inputs_length: the most tokens of an input, end token included, virtual tokens not.
        targets_length: the most tokens of a target, end token included.
        eos_id, pad_id, decoder_start_id: of the model.
        marker_id: the id of the layout's marker, where it has one.
        first_row: where the prompt's rows begin among those of all prompts; its first virtual
            token is id V + first_row.
        added: rows after those that are added to the first tokens of an input, one to each.
        ends_inputs: whether an input is ended, as its tokenizer does; without text it always is.
    """

    layout: Layout
    num_rows: int
    vocab_size: int
    inputs_length: int = 512
    targets_length: int = 64
    eos_id: int = 1
    pad_id: int = 0
    decoder_start_id: int = 0
    marker_id: int | None = None
    first_row: int = 0
    added: int = 0
    ends_inputs: bool = True

    @classmethod
    def for_model(cls, task: Any, vocabulary: Any, model: Model, layout: Layout,
                  num_rows: int, added: int = 0) -> 'FeatureConverter':
        """Fit a converter to a task and a model.

        Raises:
            ValueError: vocabulary and model do not belong together.
        """
        if vocabulary.vocab_size > model.vocab_size:
            raise ValueError(
                f'the vocabulary has {vocabulary.vocab_size} ids but the embedding table of '
                f'{model.name or "the model"} has {model.vocab_size} rows; ids beyond them would '
                'pass for virtual tokens; use the tokenizer that belongs to the model')
        for name, ours, theirs in (('end', vocabulary.eos_id, model.tokens.eos),
                                   ('padding', vocabulary.pad_id, model.tokens.pad)):
            if ours != theirs:
                raise ValueError(
                    f'the {name} token is id {ours} in the vocabulary but {theirs} in '
                    f'{model.name or "the model"}; use the tokenizer that belongs to the model')
        return cls(
            layout=layout, num_rows=num_rows, added=added, vocab_size=model.vocab_size,
            inputs_length=task.inputs_length, targets_length=task.targets_length,
            eos_id=model.tokens.eos, pad_id=model.tokens.pad,
            decoder_start_id=model.tokens.start,
            ends_inputs=getattr(vocabulary, 'ends_inputs', True),
            marker_id=vocabulary.token_id(layout.marker) if layout.placement == 'marker' else None)

    @property
    def tokens_wanted(self) -> int | None:
        """Return how many tokens of an input tell its ids and whether it is cut; None for all."""
        return None if self.layout.placement == 'marker' else self.inputs_length + 1

    def input_ids(self, tokens: Sequence[int]) -> tuple[np.ndarray, bool]:
        """Return an input's ids with virtual and end tokens, and whether text was cut."""
        end = self.eos_id if self.ends_inputs or not len(tokens) else None
        ids, cut = self.layout.insert(tokens, self.num_rows, self.vocab_size, end,
                                      self.inputs_length, self.marker_id)
        ids[ids >= self.vocab_size] += self.first_row
        return self.adding(ids), cut

    def adding(self, ids: np.ndarray) -> np.ndarray:
        """Return ids that also say which rows are added to the text; see `prompts.virtual`."""
        if not self.added:
            return ids
        ids, first = ids.copy(), np.flatnonzero(ids < self.vocab_size)[:self.added]
        rows = self.first_row + self.num_rows + np.arange(len(first))
        ids[first] = with_rows_added(ids[first], rows, self.vocab_size)
        return ids

    def text_ids(self, ids: np.ndarray) -> np.ndarray:
        """Return an input's ids of the vocabulary alone: int32[S''], the end token included."""
        if self.added:
            ids = ids % stride(self.vocab_size)
        return ids[ids < self.vocab_size]

    def check_added(self) -> None:
        """Check that ids can say the last of the rows that are added.

        Raises:
            ValueError: the prompt stands too far behind in the table of all prompts.
        """
        with_rows_added(np.zeros(1, np.int32), self.first_row + self.num_rows + self.added - 1,
                        self.vocab_size)

    def target_ids(self, tokens: Sequence[int]) -> tuple[np.ndarray, bool]:
        """Return a target's ids with the end token, and whether text was cut."""
        kept = np.asarray(tokens, np.int32)[:self.targets_length - 1]
        return np.append(kept, np.int32(self.eos_id)), len(kept) < len(tokens)

    def convert(self, examples: Examples) -> Features:
        """Convert a split; says in the log, once, how many texts were cut.

        Raises:
            ValueError: a label word is longer than `targets_length`, a token is outside the model's
                vocabulary, or an input lacks the layout's marker.
        """
        inputs, inputs_cut = self._convert_all(self.input_ids, examples.inputs, examples.name)
        targets, targets_cut = self._convert_all(self.target_ids, examples.targets, examples.name)
        if targets_cut and examples.labels is not None:
            raise ValueError(
                f'a label word of {examples.name} has {examples.targets.lengths.max() + 1} tokens, '
                f'end token included, but targets_length is {self.targets_length}; raise it')
        for what, cut, length, so in (
                ('inputs', inputs_cut, self.inputs_length, 'the prompt never is'),
                ('targets', targets_cut, self.targets_length,
                 'no answer can be as long: raise targets_length')):
            if cut:
                _log.warning('%s: %d of %d %s were longer than %d tokens and were cut; %s',
                             examples.name, cut, len(examples), what, length, so)
        longest = int(targets.lengths.max(initial=1))
        length = min(-(-longest // _TARGET_MULTIPLE) * _TARGET_MULTIPLE, self.targets_length)
        return Features(examples.name, inputs, targets, examples.labels, length, self.pad_id,
                        self.decoder_start_id)

    def _convert_all(self, convert: Any, sequences: Ragged, name: str) -> tuple[Ragged, int]:
        """Convert each sequence and count those cut."""
        converted, cut = [], 0
        for row in range(len(sequences)):
            try:
                ids, truncated = convert(sequences[row])
            except ValueError as error:
                raise ValueError(f'example {row + 1} of {name}: {error}') from None
            converted.append(ids)
            cut += truncated
        return Ragged.from_sequences(converted), cut
