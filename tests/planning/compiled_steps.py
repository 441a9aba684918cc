"""The training step and a gradient step of model tuning, compiled; and what is said of them."""

import re

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from jax_prompt.models.forward import score
from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.model import T5
from jax_prompt.planning.hlo import read_module
from jax_prompt.planning.work import product_flops
from jax_prompt.prompts.methods.direct import direct
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.training.optimizers import adafactor
from jax_prompt.training.step import init_state, make_train_step, token_loss
from tests.models.t5.random_weights import param_shapes

B, S, L, P, D = 4, 72, 8, 5, 256
METHOD = direct()


def make_model(scanned: bool) -> T5:
    """Return a model whose weights have shapes that nothing else in the step has."""
    config = T5Config(vocab_size=384, d_model=D, d_kv=64, d_ff=640, num_heads=4, num_layers=2,
                      num_decoder_layers=2)
    return T5(config, scan_layers=scanned)


def frozen_shapes() -> list[tuple[int, ...]]:
    """List the shapes of the frozen weights, of a whole stack and of one layer."""
    shapes = [leaf.shape for leaf in jax.tree.leaves(param_shapes(make_model(True)))]
    return shapes + [shape[1:] for shape in shapes if len(shape) > 2]


def prompt_step(device, scanned: bool = True):
    """Trace the training step of `jax-prompt train`."""
    model, optimizer = make_model(scanned), adafactor()
    state = jax.eval_shape(lambda: init_state({'prompt': jnp.zeros((P, D))}, optimizer))
    step = make_train_step(model, METHOD, optimizer)
    return step.trace(*_on(device, (state, param_shapes(model), _batch())))


def model_tuning(device, scanned: bool = True):
    """Trace the gradient of every weight, for the same batch; what is updated is left out."""
    model = make_model(scanned)

    def loss(frozen, prompt_PD, batch):
        logits_BLV = score(model, frozen, Prompt(prompt_PD), batch)
        return token_loss(logits_BLV, batch['decoder_target_tokens'],
                          batch['decoder_loss_weights'], 1e-4)[0]

    prompt = jax.ShapeDtypeStruct((P, D), jnp.float32)
    arguments = _on(device, (param_shapes(model), prompt, _batch()))
    return jax.jit(jax.grad(loss)).trace(*arguments)


def report(traced) -> dict:
    """Compile a program and say what it computes, returns and writes over its arguments."""
    compiled = traced.lower().compile()
    text = compiled.as_text()
    entry = read_module(text)
    instructions = entry.computations[entry.entry].values()
    root = next(one for one in instructions if one.root)
    parameters = {int(one.arguments): one.arrays[0].shape for one in instructions
                  if one.opcode == 'parameter'}
    aliases = re.search(r'input_output_alias=\{(.*?)\}, entry', text.splitlines()[0])
    donated = re.findall(r'\((\d+), \{\}', aliases[1]) if aliases else []
    return {'outputs': [array.shape for array in root.arrays],
            'donated': [parameters[int(number)] for number in donated],
            'product_flops': product_flops(traced.jaxpr),
            'flops': compiled.cost_analysis()['flops']}


def _batch() -> dict:
    integers = {'encoder_input_tokens': S, 'decoder_input_tokens': L, 'decoder_target_tokens': L}
    return {name: jax.ShapeDtypeStruct((B, length), jnp.int32)
            for name, length in integers.items()} | {
                'decoder_loss_weights': jax.ShapeDtypeStruct((B, L), jnp.float32)}


def _on(device, tree):
    sharding = SingleDeviceSharding(device)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype,
                                                          sharding=sharding), tree)
