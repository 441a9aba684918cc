"""Plan small programs with the TPU compiler, and print what came of them. Run by test_on_tpu.py."""

import dataclasses
import json
import sys

from jax_prompt.models.t5.config import T5Config
from jax_prompt.parallel.mesh import make_mesh
from jax_prompt.planning import PlanRequest, plan
from jax_prompt.planning.chips import CHIPS
from jax_prompt.planning.program import make_program
from jax_prompt.planning.topology import capacity_of, devices_of
from tests.parallel.traffic import traffic
from tests.planning import compiled_steps

SMALL = PlanRequest(sys.argv[1], 'v5e:2x2', 'data:2,model:-1', batch_size=8, inputs_length=50,
                    targets_length=8, prompt_length=6, remat='none')


def made(**changes) -> dict:
    return dataclasses.asdict(plan(dataclasses.replace(SMALL, **changes)))


def refusal(**changes) -> str:
    try:
        made(**changes)
    except ValueError as error:
        return str(error)
    return ''


def sent(depth: int) -> dict:
    """Return what the step of a tiny T5 sends, so many layers deep."""
    mesh = make_mesh('data:4,model:2', devices_of('v5e:2x4'))
    config = T5Config(vocab_size=64, d_model=64, d_kv=8, d_ff=64, num_heads=8, num_layers=depth,
                      num_decoder_layers=depth)
    request = dataclasses.replace(SMALL, batch_size=16)
    return traffic(make_program(request, config, mesh).compile(), mesh)


one_chip = devices_of('v5e:1x1')[0]
print(json.dumps({
    'capacities': {name: capacity_of(chip) for name, chip in CHIPS.items()},
    'devices': {name: len(devices_of(name)) for name in
                ('v3:2x2', 'v4:2x2x1', 'v5e:1x1', 'v5p:2x2x2', 'v6e:2x4')},
    'training': made(),
    'generation': made(generate=True),
    'int8': made(weights='int8', mesh='data:1', topology='v5e:1x1', remat='full'),
    # A real size: the compiler dies of tiny models with millions of rows.
    'too much': made(model='t5-1.1-xxl', topology='v5e:1x1', mesh='data:1', remat=None),
    'sent': {depth: sent(depth) for depth in (2, 6)},
    'rows': refusal(batch_size=7),
    'heads': refusal(mesh='data:1,model:4'),
    'prompt step': compiled_steps.report(compiled_steps.prompt_step(one_chip)),
    'model tuning': compiled_steps.report(compiled_steps.model_tuning(one_chip)),
}))
