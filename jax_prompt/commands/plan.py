"""`jax-prompt plan`."""

import dataclasses
import json
import sys

from jax_prompt.planning import PlanRequest, describe, describe_suggestion, plan, suggest
from jax_prompt.planning.report import describe_try


def plan_command(request: PlanRequest | None = None, suggest_one: bool = False,
                 json_only: bool = False) -> int:
    """Say whether a program fits on a TPU, and how fast at most; exit code 1 where it does not."""
    request = request or PlanRequest()  # which says what is missing
    print('compiling for a TPU that need not be here; large models take a minute or two',
          file=sys.stderr)
    if suggest_one:
        found = suggest(request, tell=lambda tried: print(describe_try(tried), file=sys.stderr))
        print(json.dumps(dataclasses.asdict(found)) if json_only else describe_suggestion(found))
        return 0 if found.best is not None else 1
    made = plan(request)
    print(json.dumps(dataclasses.asdict(made)) if json_only else describe(made))
    return 0 if made.fits else 1
