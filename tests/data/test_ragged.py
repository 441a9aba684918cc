import numpy as np
import pytest

from jax_prompt.data.ragged import Ragged


def test_sequences_come_back_whole():
    sequences = [[1, 2, 3], [], [4]]
    ragged = Ragged.from_sequences(sequences)
    assert [ragged[i].tolist() for i in range(len(ragged))] == sequences
    assert ragged.lengths.tolist() == [3, 0, 1]
    assert ragged.flat.dtype == np.int32


def test_padded_gathers_any_rows_in_any_order():
    ragged = Ragged.from_sequences([[1, 2, 3], [], [4]])
    assert ragged.padded([2, 1, 0, 2], 4, fill=9).tolist() == [
        [4, 9, 9, 9], [9, 9, 9, 9], [1, 2, 3, 9], [4, 9, 9, 9]]


def test_no_sequences_at_all():
    ragged = Ragged.from_sequences([])
    assert len(ragged) == 0
    with pytest.raises(IndexError, match='sequence 0 of 0'):
        ragged[0]
