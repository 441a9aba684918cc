"""What every foreign prompt must be once it is read: rows of plausible finite floats."""

import numpy as np

from jax_prompt.prompts.numpy_file import as_float32

#: No embedding or prompt comes near it (the released prompts' largest number is below 1e4), while
#: a flipped exponent bit or a wrong byte order soon exceeds it. These formats have no checksum.
LARGEST = 1e12
#: T5's attention over more rows than this would not fit anywhere: it is no prompt but a table.
MOST_ROWS = 16384


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
    if array.ndim != 2 or not array.size:
        raise ValueError(
            f'{where} has shape {list(array.shape)}; expected [rows, width of the model]: '
            'a prompt for the encoder input alone, of one task')
    if len(array) > MOST_ROWS:
        raise ValueError(f'{where} has {len(array)} rows; expected at most {MOST_ROWS}: '
                         'is it an embedding table?')
    prompt_PD = as_float32(array, where)
    largest = np.abs(prompt_PD).max()
    if largest > LARGEST:
        raise ValueError(
            f'{where} holds numbers as large as {largest:.1e}, which no prompt does: it is '
            'damaged, or its byte order is not what its header says; copy it again')
    return prompt_PD
