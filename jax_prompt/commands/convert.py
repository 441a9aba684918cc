"""`jax-prompt convert`."""

from jax_prompt.commands.shared import require
from jax_prompt.weights.convert import convert_model


def convert_command(source: str | None = None, output: str | None = None,
                    weights: str = 'bfloat16', dtype: str = 'bfloat16',
                    overwrite: bool = False) -> int:
    """Keep a model as it is used, so that its next start skips conversion."""
    require(source, 'model', '--model=SOURCE')
    require(output, 'output folder', '--output=FOLDER')
    folder = convert_model(source, output, weights, dtype, overwrite)
    print(f'{folder}: {source} with {weights} weights; use it as --model={folder}')
    return 0
