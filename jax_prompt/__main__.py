"""`python -m jax_prompt`, which is the command `jax-prompt`."""

import sys

from jax_prompt.cli import main

sys.exit(main())
