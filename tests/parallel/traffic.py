"""What a compiled program sends, for the tests of meshes."""

from jax_prompt.planning.collectives import read_collectives, sum_bytes
from jax_prompt.planning.hlo import read_module


def traffic(compiled, mesh) -> dict[str, dict[str, int]]:
    """Return axis -> operation -> bytes of a compiled program or its text."""
    text = compiled if isinstance(compiled, str) else compiled.as_text()
    return sum_bytes(read_collectives(read_module(text), mesh))


def axis_bytes(totals: dict[str, dict[str, int]], axis: str) -> int:
    """Sum all bytes that cross an axis, alone or together with others."""
    return sum(sum(by_operation.values()) for axes, by_operation in totals.items()
               if axis in axes.split('+'))
