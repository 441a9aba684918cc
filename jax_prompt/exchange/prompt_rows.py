"""What every foreign prompt must be once it is read: rows of plausible finite floats."""

import ml_dtypes
import numpy as np

#: No embedding or prompt comes near it (the released prompts' largest number is below 1e4), while
#: a flipped exponent bit or a wrong byte order soon exceeds it. These formats have no checksum.
LARGEST = 1e12
#: T5's attention over more rows than this would not fit anywhere: it is no prompt but a table.
MOST_ROWS = 16384

_FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64),
           np.dtype(ml_dtypes.bfloat16))


def as_prompt(array: np.ndarray, where: str) -> np.ndarray:
    """Check an array that is to be a prompt and make it float32.

    Args:
        array: of any float type and byte order; float32 is returned to the last bit.
        where: what it was read from, for messages.

    Returns:
        float32[P, D] in memory of its own.

    Raises:
        ValueError: not two-dimensional, empty, not floats, or numbers that no prompt has.
    """
    array = np.asarray(array)
    if array.dtype.newbyteorder('=') not in _FLOATS:
        raise ValueError(f'{where} holds {array.dtype}, not floats; save the prompt as float32')
    if array.ndim != 2 or not array.size:
        raise ValueError(
            f'{where} has shape {list(array.shape)}; expected [rows, width of the model]: '
            'a prompt for the encoder input alone, of one task')
    if len(array) > MOST_ROWS:
        raise ValueError(f'{where} has {len(array)} rows; expected at most {MOST_ROWS}: '
                         'is it an embedding table?')
    # A float64 past float32's range becomes infinite here, which the check below reports.
    with np.errstate(over='ignore'):
        prompt_PD = np.array(array, np.float32, order='C')
    wrong = ~np.isfinite(prompt_PD)
    if wrong.any():
        raise ValueError(
            f'{where} holds numbers that are not finite in float32, first in row '
            f'{np.argwhere(wrong)[0, 0]}; use a prompt from a run that did not diverge')
    largest = np.abs(prompt_PD).max()
    if largest > LARGEST:
        raise ValueError(
            f'{where} holds numbers as large as {largest:.1e}, which no prompt does: it is '
            'damaged, or its byte order is not what its header says; copy it again')
    return prompt_PD
