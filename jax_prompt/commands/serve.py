"""`jax-prompt serve`."""

import sys

from jax_prompt.commands.shared import require
from jax_prompt.models.open import OpenedModel
from jax_prompt.serving.settings import ServerSettings


def serve_command(model: OpenedModel | None = None, prompts: str | None = None,
                  server: ServerSettings | None = None) -> int:
    """Answer requests over HTTP with the prompts of a folder, until SIGTERM."""
    require(model, 'model', '--model=SOURCE')
    require(prompts, 'folder of prompts', '--prompts=FOLDER')
    try:
        from jax_prompt.serving.server import serve
    except ModuleNotFoundError as error:
        raise ValueError(f'the server needs the Python package {error.name!r}, which is not '
                         "installed: pip install 'jax-prompt[serve]'") from error
    serve(model, prompts, server, announce=lambda address: print(
        f'serving {model.name} with the prompts of {prompts} at {address}', file=sys.stderr))
    return 0
