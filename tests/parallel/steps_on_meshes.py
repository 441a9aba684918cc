"""Train a tiny T5 for three steps on meshes of eight devices, and print what came of each.

Run by test_step_on_meshes.py, which says what has to come of them.
"""

import dataclasses
import functools
import json

import jax
import numpy as np
import optax

from jax_prompt.models import forward
from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.int8 import quantise_tree
from jax_prompt.models.t5.model import T5
from jax_prompt.parallel.mesh import make_mesh
from jax_prompt.parallel.placement import global_batch, place
from jax_prompt.parallel.rules import batch_sharding, frozen_shardings, replicated
from jax_prompt.prompts.methods.direct import direct
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.training.settings import TrainSettings
from jax_prompt.training.step import init_state, make_train_step
from tests.models.t5.random_weights import init
from tests.parallel.traffic import traffic

B, S, L, P, D, V = 16, 24, 4, 5, 64, 64
METHOD = direct()
# After its first step the trace is the gradient itself.
OPTIMIZER = optax.chain(optax.trace(decay=0.9), optax.scale(-0.01))


def tiny(depth: int) -> T5:
    return T5(T5Config(vocab_size=V, d_model=D, d_kv=8, d_ff=64, num_heads=8, num_layers=depth,
                       num_decoder_layers=depth))


def host_batch() -> dict[str, np.ndarray]:
    """Make a batch with prompts in front, pads at the end, and targets of varied length."""
    random = np.random.default_rng(0)
    ids = random.integers(2, V, (B, S), dtype=np.int32)
    ids[:, :P] = V + np.arange(P)
    ids[np.arange(S) >= random.integers(P + 3, S + 1, (B, 1))] = 0
    targets = random.integers(2, V, (B, L), dtype=np.int32)
    weights = (np.arange(L) < random.integers(1, L + 1, (B, 1))).astype(np.float32)
    return {'encoder_input_tokens': ids, 'decoder_target_tokens': targets,
            'decoder_input_tokens': np.pad(targets[:, :-1], ((0, 0), (1, 0))),
            'decoder_loss_weights': weights}


def host_prompt() -> np.ndarray:
    return np.random.default_rng(1).uniform(-0.5, 0.5, (P, D)).astype(np.float32)


def train(mesh: jax.sharding.Mesh, depth: int = 2, fully_sharded: bool = False,
          int8: bool = False, microbatches: int = 1) -> dict:
    """Take three steps; report losses, the first gradient, traffic, and where things live."""
    model = dataclasses.replace(tiny(depth), activation_sharding=batch_sharding(mesh))
    frozen = init(model, jax.random.key(0))
    frozen = quantise_tree(frozen) if int8 else frozen
    frozen = place(frozen, frozen_shardings(mesh, frozen, T5.rules, fully_sharded))
    state = init_state({'prompt': jax.numpy.asarray(host_prompt())}, OPTIMIZER)
    state = place(state, replicated(mesh))
    batch = global_batch(host_batch(), mesh)
    settings = TrainSettings(batch_size=B, microbatches=microbatches)
    step = make_train_step(model, METHOD, OPTIMIZER, settings, mesh)
    compiled = step.lower(state, frozen, batch).compile()
    losses, gradient = [], None
    for _ in range(3):
        state, metrics = compiled(state, frozen, batch)
        losses.append(float(metrics['loss']))
        gradient = np.asarray(state.opt_state[0].trace['prompt']) if gradient is None else gradient
    moved = jax.tree.map(lambda leaf: not leaf.sharding.is_equivalent_to(
        replicated(mesh), leaf.ndim), state)
    return {'losses': losses, 'gradient': gradient.tolist(), 'moved': any(jax.tree.leaves(moved)),
            'traffic': traffic(compiled, mesh),
            'weight_bytes': sum(leaf.addressable_shards[0].data.nbytes
                                for leaf in jax.tree.leaves(frozen))}


def int8_logits(mesh: jax.sharding.Mesh) -> list:
    """Quantise weights where they stand, on their devices, and score a batch with them."""
    model = dataclasses.replace(tiny(depth=2), activation_sharding=batch_sharding(mesh))
    frozen = init(model, jax.random.key(0))
    frozen = quantise_tree(place(frozen, frozen_shardings(mesh, frozen, T5.rules)))
    frozen = place(frozen, frozen_shardings(mesh, frozen, T5.rules))
    score = jax.jit(functools.partial(forward.score, model))
    logits_BLV = score(frozen, Prompt(host_prompt()), global_batch(host_batch(), mesh))
    return np.asarray(logits_BLV).ravel()[::61].tolist()


def main() -> None:
    one = make_mesh('data:1', jax.devices()[:1])
    report = {'one device': train(one), 'int8, one device': train(one, int8=True),
              'int8 logits, one device': int8_logits(one)}
    for sizes in ('data:8,model:1', 'data:4,model:2', 'data:1,model:8'):
        report[sizes] = train(make_mesh(sizes))
    mesh = make_mesh('data:4,model:2')
    report['deep'] = train(mesh, depth=6)
    report['microbatches'] = train(mesh, microbatches=2)
    report['fully sharded'] = train(mesh, fully_sharded=True)
    report['fully sharded, deep'] = train(mesh, depth=6, fully_sharded=True)
    report['int8, fully sharded'] = train(mesh, fully_sharded=True, int8=True)
    report['int8 logits'] = int8_logits(mesh)
    print(json.dumps(report))


if __name__ == '__main__':
    main()
