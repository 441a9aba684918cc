"""Splits cut by a hash of the text, so that no text is ever in two of them."""

import hashlib
import logging
from collections.abc import Callable, Sequence

from jax_prompt.data.tasks.rows import Row

_log = logging.getLogger(__name__)


def normalized(text: str) -> str:
    """Return a text without differences in case and white space."""
    return ' '.join(text.split()).casefold()


def split_of(text: str) -> str:
    """Return the split of a text: one in ten is 'test', one in ten 'validation', the rest 'train'.

    The hash depends on nothing but the normalized text: the split stays when rows come and go.
    """
    digest = hashlib.blake2b(normalized(text).encode(), digest_size=8).digest()
    return {0: 'test', 1: 'validation'}.get(int.from_bytes(digest, 'big') % 10, 'train')


def without_duplicates(
    rows: Sequence[Row], text_of: Callable[[Row], str], target_of: Callable[[Row], str],
    name: str, drop_conflicts: bool = True,
) -> list[Row]:
    """Keep the first of the rows with the same text and target, in order.

    Args:
        rows: what a source gives.
        text_of: the text by which rows are the same, whatever their case and white space.
        target_of: the answer.
        name: of the source, for the log.
        drop_conflicts: whether all rows of a text with different targets are dropped, as one of
            them must be wrong; else (free text) each target of a text is kept.

    Returns:
        The rows kept.
    """
    targets: dict[str, set[str]] = {}
    unique = []
    for row in rows:
        text, target = normalized(text_of(row)), target_of(row)
        seen = targets.setdefault(text, set())
        if target not in seen:
            seen.add(target)
            unique.append((text, row))
    kept = [row for text, row in unique if not drop_conflicts or len(targets[text]) == 1]
    if len(kept) < len(rows):
        conflicts = sum(len(seen) > 1 for seen in targets.values()) if drop_conflicts else 0
        _log.info('%s: %d of %d rows dropped as duplicates, among them all rows of %d texts with '
                  'conflicting targets', name, len(rows) - len(kept), len(rows), conflicts)
    return kept
