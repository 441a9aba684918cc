"""Plans as text and as JSON."""

import dataclasses
import json

from jax_prompt.planning import Memory, Plan, PlanRequest, Speed, describe
from jax_prompt.planning.report import describe_try

GIB = 2**30
REQUEST = PlanRequest('t5-1.1-xxl', 'v5e:4x4', 'data:2,model:8', remat='full')
MEMORY = Memory(weights=int(2.6 * GIB), other_arguments=0, results=4096,
                temporaries=int(2.43 * GIB), program=GIB // 32, total=int(5.06 * GIB),
                capacity=int(15.75 * GIB))
SPEED = Speed(flops=35_850_000_000_000, hbm_bytes=168_000_000_000, sent_bytes=3_400_000_000,
              collectives={'model': {'all-reduce': 3_466_199_552},
                           'data': {'all-reduce': 1_638_416}},
              compute_seconds=0.182, hbm_seconds=0.2051, interconnect_seconds=0.017,
              seconds=0.2051, bound='HBM', chip_seconds_per_example=0.1025)
FITS = Plan(REQUEST, True, 16, 16, MEMORY, SPEED, 62.4)
REFUSED = Plan(dataclasses.replace(REQUEST, remat='none'), False, 16, 16, dataclasses.replace(
    MEMORY, total=int(22.72 * GIB), exceeded=int(6.97 * GIB)), None, 1.8)


def test_what_fits():
    text = describe(FITS)
    assert 'fits: 5.06 of 15.75 GiB a device' in text and 'does not' not in text
    assert 'weights 2.60' in text and 'temporaries 2.43' in text
    assert 'over data: all-reduce 1,638,416 bytes' in text
    assert 'at least 205.1 ms a step, bound by HBM (compute 182 ms, HBM 205.1 ms' in text
    assert 'at most 156 examples/s' in text and 'cloud.google.com/tpu/docs/v5e' in text


def test_what_does_not_fit_and_by_how_much():
    text = describe(REFUSED)
    assert ('does not fit: 6.97 GiB too much on every device (22.72 needed, 15.75 there)') in text
    assert 'at least' not in text
    assert describe_try(REFUSED) == ('v5e:4x4, mesh data:2,model:8, batch 32, bfloat16, '
                                     'remat none: 6.97 GiB too much')


def test_json_has_every_figure():
    read = json.loads(json.dumps(dataclasses.asdict(FITS)))
    assert read['fits'] and read['memory']['capacity'] == MEMORY.capacity
    assert read['request']['mesh'] == 'data:2,model:8' and read['speed']['bound'] == 'HBM'
    assert json.loads(json.dumps(dataclasses.asdict(REFUSED)))['speed'] is None
