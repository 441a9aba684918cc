"""`jax-prompt serve`."""

import os
import sys

from jax_prompt.commands.shared import Opener, require
from jax_prompt.serving.settings import ServerSettings


def serve_command(model: Opener | None = None, prompts: str | None = None,
                  server: ServerSettings | None = None) -> int:
    """Answer requests over HTTP with the prompts of a folder, until SIGTERM."""
    require(model, 'model', '--model=SOURCE')
    require(prompts, 'folder of prompts', '--prompts=FOLDER')
    if not os.path.isdir(prompts):
        raise FileNotFoundError(f'the folder of prompts {prompts} does not exist; make it, and put '
                                'prompt files into it')
    try:
        from jax_prompt.serving.server import serve
    except ModuleNotFoundError as error:
        raise ValueError(f'the server needs the Python package {error.name!r}, which is not '
                         "installed: pip install 'jax-prompt[serve]'") from error
    opened = model()
    serve(opened, prompts, server, announce=lambda address: print(
        f'serving {opened.name} with the prompts of {prompts} at {address}', file=sys.stderr))
    return 0
