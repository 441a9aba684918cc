"""A second version of a prompt answers a share of the requests that name no version.

Which ones is decided by a hash of the version and the inputs: the same text gets the same version
as long as the canary stands, on every server and after every restart, so a request that is sent
again is answered alike. The share is one of different texts, so that a single text that is sent
again and again counts once. For another canary it is another share of them.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from jax_prompt.inference.engine import UnknownPrompt
from jax_prompt.prompts.versions import split_name
from jax_prompt.serving.prompt_folder import PromptFolder, Version


def version_for(folder: PromptFolder, name: str, inputs: str | Mapping[str, Any]) -> Version:
    """Return the version that answers a request.

    Args:
      folder: of prompts.
      name: 'name', of which a canary may get a share; or 'name@version', which means that one.
      inputs: of the request.

    Raises:
      BadName, UnknownPrompt: as `PromptFolder.find` does.
    """
    version = folder.find(name)
    canary = None if split_name(name)[1] else canary_of(folder, name)
    if canary is None or place_of(canary[0].full_name, inputs) >= canary[1]:
        return version
    return canary[0]


def canary_of(folder: PromptFolder, name: str) -> tuple[Version, float] | None:
    """Return the version of a prompt that is tried, and its share of the requests.

    None where there is none, or its file has not come yet or is gone.
    """
    canary = folder.standing(name).canary
    if canary is None:
        return None
    try:
        return folder.find(f'{name}@{canary[0]}'), canary[1]
    except UnknownPrompt:
        return None


def shares(folder: PromptFolder) -> dict[str, float]:
    """Return the full names of the canaries in use, with their shares."""
    found = (canary_of(folder, name) for name in folder.versions())
    return {version.full_name: share for version, share in filter(None, found)}


def place_of(full_name: str, inputs: str | Mapping[str, Any]) -> float:
    """Return a number from 0 to 1 that a version and inputs always give, any of them as often."""
    told = json.dumps([full_name, inputs], sort_keys=True).encode()
    return int.from_bytes(hashlib.blake2b(told, digest_size=7).digest(), 'big') / 2**56
