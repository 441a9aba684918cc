"""Arrays in a state that JSON holds, to the last bit."""

import base64
from typing import Any

import numpy as np


def to_text(array: np.ndarray) -> dict[str, Any]:
    """Write a float32 array."""
    content = np.ascontiguousarray(array, '<f4').tobytes()
    return {'shape': list(array.shape), 'float32': base64.b64encode(content).decode()}


def from_text(value: dict[str, Any]) -> np.ndarray:
    """Read what `to_text` gave."""
    content = base64.b64decode(value['float32'])
    return np.frombuffer(content, '<f4').reshape(value['shape']).astype(np.float32)
