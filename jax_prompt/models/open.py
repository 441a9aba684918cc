"""Open a frozen model with its vocabulary, on the devices at hand."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jax_prompt.data.vocabularies import load_vocabulary
from jax_prompt.models.base import Model
from jax_prompt.models.families import FAMILIES
from jax_prompt.models.t5.attention import check_device
from jax_prompt.models.t5.products import bfloat16_is_faster
from jax_prompt.parallel.hosts import from_first
from jax_prompt.parallel.mesh import make_mesh
from jax_prompt.parallel.rules import batch_sharding, frozen_shardings
from jax_prompt.types import Params, count_parameters
from jax_prompt.weights.load import load_weights

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """How the devices share the work.

    Attributes:
      shape: 'data:4,model:2': examples of a batch are spread over `data`, weights over `model`; -1
        for what the other leaves. The default spreads the batch over all devices.
      shard_weights_over_data: spread the weights over `data` too (fully sharded), for models that
        do not fit otherwise; every layer's weights then travel at every step.
      each_host: every host has a mesh of its own, of its own devices, and the whole model.
    """

    shape: str = 'data:-1'
    shard_weights_over_data: bool = False
    each_host: bool = False


@dataclasses.dataclass(frozen=True)
class LayerSettings:
    """How the layers are computed: the same results, up to rounding, at another speed.

    Attributes:
      scan: one compiled layer in a loop; None for a loop on accelerators and unrolled layers on
        CPU, where they are a tenth faster.
      attention: how the encoder attends: 'xla', or 'cudnn', a fused kernel of NVIDIA GPUs for
        bfloat16 activations without dropout.
    """

    scan: bool | None = None
    attention: str = 'xla'


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedModel:
    """A frozen model that is ready to run, and who it is.

    Attributes:
      model: what computes, see `models.base.Model`.
      frozen: the weights, on the devices of the mesh.
      mesh: the devices.
      vocabulary: encodes and decodes text for it.
      source: where it was loaded from.
      name: what prompt files and messages call it.
      fingerprint: tells its weights from any others.
      vocabulary_fingerprint: tells its vocabulary from any other.
      vocabulary_source: where its vocabulary was loaded from; None for the model's own folder.
      reopen: opens it in a given dtype, where its own was chosen by measuring: a run that is
        resumed keeps the one that it was begun in.
    """

    model: Model
    frozen: Params
    mesh: Mesh
    vocabulary: Any
    source: str
    name: str
    fingerprint: str
    vocabulary_fingerprint: str
    vocabulary_source: str | None = None
    reopen: Callable[[str], 'OpenedModel'] | None = None

    @property
    def num_parameters(self) -> int:
        """Count the frozen numbers."""
        return count_parameters(self.frozen)

    @functools.cached_property
    def for_scoring(self) -> Params:
        """The weights as ranking reads them."""
        return self.model.for_scoring(self.frozen)

    @functools.cached_property
    def for_generation(self) -> Params:
        """The weights as generation reads them.

        Made when it is first asked for, so that a model that only ranks does not hold copies.
        """
        return self.model.for_generation(self.frozen)

    def as_begun(self, numerics: Mapping[str, Any] | None) -> 'OpenedModel':
        """Return it in the dtype that something was begun in, where its own was measured.

        Args:
          numerics: `model.numerics` as they were recorded then; None where nothing was begun.
        """
        if self.reopen is None or numerics is None:
            return self
        begun, ours = ({told.get('dtype'), told.get('factors')} - {None}
                       for told in (numerics, self.model.numerics))
        return self if begun == ours else self.reopen(
            'bfloat16' if 'bfloat16' in begun else 'float32')

    @property
    def num_bytes(self) -> int:
        """Count the bytes of the frozen weights as they are held."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.frozen))


def open_model(source: str | None = None, vocabulary: str | None = None, dtype: str | None = None,
               remat: str = 'none', name: str | None = None, mesh: MeshSettings | None = None,
               weights: str | None = None, layers: LayerSettings | None = None) -> OpenedModel:
    """Load a model and its vocabulary.

    Args:
      source: a Hugging Face folder or repository id, a folder of ONNX files, or
        `package:NAME/folder`; see `weights.load.load_weights`.
      vocabulary: the tokenizer's source where the model's folder has none.
      dtype: 'float32'; 'bfloat16' for weights and activations, on CPU for weights and the factors
        of products, see `models.t5.products`; 'auto' for the faster one of both, which on CPU is
        measured; None for float32 on CPU and bfloat16 elsewhere. (Not float16: T5 overflows in it.)
      remat: 'none', 'dots' or 'full': what to recompute in the backward pass to save memory.
      name: what to call it; None for its folder's or repository's name.
      mesh: how the devices share the work; None for the batch spread over all of them.
      weights: 'int8' keeps the kernels as 8-bit numbers, half of bfloat16's memory; None for
        `dtype`.
      layers: how the layers are computed; None for a way that every device has.

    Returns:
      The model.

    Raises:
      ValueError, FileNotFoundError: when model or vocabulary cannot be had, in one line.
    """
    if source is None:
        raise ValueError('no model given; name one with --model=SOURCE or as model.source in gin')
    layers = layers or LayerSettings()
    check_device(layers.attention)
    on_cpu = jax.default_backend() == 'cpu'
    asked, dtype = dtype, _chosen(dtype, on_cpu)
    mesh = mesh or MeshSettings()
    devices = make_mesh(mesh.shape, jax.local_devices() if mesh.each_host else None)
    shardings = functools.partial(frozen_shardings, devices,
                                  shard_weights_over_data=mesh.shard_weights_over_data)
    loaded = load_weights(source, dtype, shardings, weights)
    if vocabulary is None and loaded.folder is None:
        raise ValueError(f'model {loaded.name} comes without tokenizer files; name its vocabulary: '
                         "a folder, a tokenizer.json, a SentencePiece .model or 'byt5'")
    words = load_vocabulary(vocabulary or str(loaded.folder))
    model = FAMILIES[loaded.config.family].model(
        loaded.config, remat=remat, attention=layers.attention,
        dtype=jnp.dtype('float32' if on_cpu else dtype),
        factors=jnp.dtype(dtype) if on_cpu and dtype == 'bfloat16' else None,
        scan_layers=not on_cpu if layers.scan is None else layers.scan,
        activation_sharding=batch_sharding(devices) if devices.size > 1 else None)
    return OpenedModel(model, loaded.frozen, devices, words, source,
                       name or loaded.name, loaded.fingerprint, words.fingerprint,
                       vocabulary, None if asked != 'auto' else lambda other: open_model(
                           source, vocabulary, other, remat, name, mesh, weights, layers))


def _chosen(dtype: str | None, on_cpu: bool) -> str:
    """Return the dtype that is asked for; of 'auto' the faster one, the same on all hosts."""
    if dtype is None or (dtype == 'auto' and not on_cpu):
        return 'float32' if on_cpu else 'bfloat16'
    if dtype != 'auto':
        return dtype
    faster = from_first(bfloat16_is_faster)
    _log.info('model.dtype=auto: %s', 'bfloat16, whose products are faster here' if faster else
              'float32, since products of bfloat16 are no faster here')
    return 'bfloat16' if faster else 'float32'
