"""What the training step sends on TPUs, where their compiler is installed (libtpu)."""

import pytest

from jax_prompt.planning.collectives import axis_bytes
from tests.parallel import devices

P, D = 5, 64


@pytest.fixture(scope='module')
def shallow_and_deep():
    pytest.importorskip('libtpu')
    return devices.run('traffic_on_tpu.py')


def test_over_data_goes_the_prompts_gradient_and_no_more(shallow_and_deep):
    for totals in shallow_and_deep:
        assert P * D * 4 <= axis_bytes(totals, 'data') <= P * D * 4 + 4096


def test_depth_multiplies_what_goes_over_model(shallow_and_deep):
    """The TPU compiler does not say how often loops run: it is read from their counters."""
    shallow, deep = (axis_bytes(totals, 'model') for totals in shallow_and_deep)
    assert 2.5 < deep / shallow < 3.1
