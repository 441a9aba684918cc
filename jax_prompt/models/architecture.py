"""What a family of models says so that its files can be read, whatever format they are in.

A family is a module below this one, registered in `families.py`; `t5/family.py` is one. Its
configurations know the table between the tensors' names in Hugging Face's files, which every other
format is led back to, and the frozen tree. Hugging Face stores a tensor a layer, and a projection
as `[outputs, inputs]`, as PyTorch does; the tree stacks layers on a leading axis and keeps inputs
first, heads apart:

    encoder.block.3.layer.0.SelfAttention.q.weight  [H*K, D]
    -> encoder/layers/self_attention/query/kernel   [N, D, H, K] at index 3
"""

import dataclasses
import math
from collections.abc import Callable, Container, Sequence
from typing import Any, Protocol

from jax_prompt.models.base import Model
from jax_prompt.parallel.rules import Rule


@dataclasses.dataclass(frozen=True)
class Slot:
    """Say where one Hugging Face tensor stands in the frozen tree.

    Attributes:
      path: keys from the root of the tree to the leaf.
      layer: index on the leaf's leading axis, or None where the leaf is not stacked.
      depth: length of that axis, or None.
      shape: of this tensor in the tree, without the leading axis.
      inputs: how many leading axes of `shape` are a projection's inputs; 0 for tables and vectors,
        which are stored as they are.
    """

    path: tuple[str, ...]
    layer: int | None
    depth: int | None
    shape: tuple[int, ...]
    inputs: int

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """The shape with the inputs joined and the outputs joined: what a MatMul multiplies by."""
        if not self.inputs:
            return self.shape
        return math.prod(self.shape[:self.inputs]), math.prod(self.shape[self.inputs:])

    @property
    def hugging_face_shape(self) -> tuple[int, ...]:
        """The shape of the tensor in a Hugging Face file."""
        return self.matrix_shape[::-1] if self.inputs else self.shape

    @property
    def leaf_shape(self) -> tuple[int, ...]:
        """The shape of the whole leaf, its leading axis included."""
        return self.shape if self.depth is None else (self.depth, *self.shape)


class ModelConfig(Protocol):
    """The shape of one model, as far as reading and writing its weights needs it.

    Attributes:
      family: the key of its family in `families.FAMILIES`.
      name: what prompt files and messages call the model.
      rules: where its weights live on a mesh, see `parallel.rules`.
    """

    family: str
    name: str
    rules: Sequence[Rule]

    def slots(self) -> dict[str, Slot]:
        """Hugging Face tensor name -> place in the frozen tree, each tensor of the model once."""

    def copies(self) -> dict[str, tuple[str, str]]:
        """Tensors that files may repeat -> the one each must equal, and why."""

    def unread(self) -> tuple[str, ...]:
        """Tensors that some files have and no implementation ever read."""

    def describe(self) -> str:
        """Say the shape in a few words."""

    def identity(self) -> dict[str, Any]:
        """The fields that tell the model from any other; they enter its fingerprint."""

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON; `Family.from_dict` is the way back."""


class Family(Protocol):
    """A module that makes configurations, and models of them."""

    def from_hugging_face(self, said: dict[str, Any], where: str, name: str) -> ModelConfig:
        """Check a parsed `config.json`, which messages call `where`, and read it."""

    def settle(self, config: ModelConfig, said: dict[str, Any], tensors: Container[str],
               equal: Callable[[str, str], bool]) -> ModelConfig:
        """Decide by the tensors that are there, and equal, what `config.json` leaves open."""

    def with_generation(self, config: ModelConfig, said: dict[str, Any],
                        where: str) -> ModelConfig:
        """Heed a parsed `generation_config.json`: where to start and end."""

    def from_dict(self, fields: dict[str, Any]) -> ModelConfig:
        """Read what `ModelConfig.to_dict` gave."""

    def model(self, config: ModelConfig, **how) -> Model:
        """Make the model; `how` it computes is `open_model`'s to say."""


def leaf_shapes(config: ModelConfig) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Return path -> shape for each leaf of the frozen tree."""
    return {slot.path: slot.leaf_shape for slot in config.slots().values()}
