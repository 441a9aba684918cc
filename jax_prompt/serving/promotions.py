"""What is promoted and tagged among a folder's prompts, as a server follows it."""

import logging
import os
import threading
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from jax_prompt.prompts.registry import Registry
from jax_prompt.prompts.standing import Standing

_log = logging.getLogger(__name__)


class _Versioned(Protocol):
    version: str


V = TypeVar('V', bound=_Versioned)


class Promotions:
    """Remember what the logs of a folder of prompts say.

    A log that cannot be read now leaves what it said before; both that and a damaged entry, which
    is passed over, are told once.
    """

    def __init__(self, folder: str | os.PathLike):
        """Name the folder, which is there."""
        self._registry = Registry(folder)
        self._standings: dict[str, Standing] = {}
        self._told: dict[str, str | None] = {}
        self._lock = threading.Lock()  # of the logs' reader

    def of(self, name: str) -> Standing:
        """Return what held for a prompt at the last look."""
        return self._standings.get(name, Standing())

    def look(self, names: Iterable[str]) -> bool:
        """Read what is new in the logs of prompts; tell whether anything is."""
        changed = False
        with self._lock:
            for name in names:
                problem = None
                try:
                    standing = self._registry.standing(name)
                    problem = next(iter(self._registry.log(name).problems()), None)
                    before = self.of(name)
                    if standing != before:
                        self._standings, changed = {**self._standings, name: standing}, True
                    if standing.promoted != before.promoted:
                        _log.info('prompt %s@%s is promoted', name, standing.promoted)
                except (OSError, ValueError) as error:
                    problem = str(error)
                if problem is not None and self._told.get(name) != problem:
                    _log.warning('the log of prompt %s is not whole: %s', name, problem)
                self._told[name] = problem
        return changed

    def arranged(self, versions: Mapping[str, list[V]]) -> dict[str, list[V]]:
        """Put the version that a bare name means first.

        Args:
          versions: by name, the one that it means where nothing is promoted first.

        Returns:
          The same with the promoted version first; with the one promoted before it where that is
          not there.
        """
        found = {}
        for name, there in versions.items():
            known = {one.version: one for one in there}
            first = known.get(self.of(name).meant(known), there[0])
            found[name] = [first, *(one for one in there if one is not first)]
        return found
