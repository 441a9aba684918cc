"""What a benchmark tells besides its text: figures, a line of JSON each, for the table of them all.

`python -m benchmarks` names the file in the environment; without it nothing is written.
"""

import json
import os

VARIABLE = 'JAX_PROMPT_RESULTS'


def record(figure: str, unit: str, values: dict[str, float]) -> None:
    """Append a figure to the file of results.

    Args:
      figure: what was measured, the same words at every run: 'ranking, float32, batch 32'.
      unit: 'examples/s', in which more is better; or 's', in which less is.
      values: contender -> its median; 'jax_prompt' is ours, each other is a peer.
    """
    if path := os.environ.get(VARIABLE):
        with open(path, 'a', encoding='utf-8') as file:
            file.write(json.dumps({'figure': figure, 'unit': unit, 'values': values}) + '\n')
