"""The training step on eight forced CPU devices: the numbers of one device, and what is sent."""

import numpy as np
import pytest

from jax_prompt.parallel.collectives import axis_bytes
from tests.parallel import devices

P, D = 5, 64
MESHES = ('data:8,model:1', 'data:4,model:2', 'data:2,model:4', 'data:1,model:8')

#: float32 sums in another order: seen up to 2e-7 of a loss, 1e-6 of the largest gradient.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 2e-6, 1e-5


@pytest.fixture(scope='module')
def report():
    return devices.run('steps_on_meshes.py')


def data_bytes(result: dict) -> int:
    return axis_bytes(result['traffic'], 'data')


@pytest.mark.parametrize('mesh', [*MESHES, 'fully sharded'])
def test_losses_and_gradient_are_those_of_one_device(report, mesh):
    one, many = report['one device'], report[mesh]
    np.testing.assert_allclose(many['losses'], one['losses'], rtol=LOSS_TOLERANCE)
    scale = np.abs(one['gradient']).max()
    np.testing.assert_allclose(many['gradient'], one['gradient'], rtol=0,
                               atol=GRADIENT_TOLERANCE * scale)


def test_the_steps_learn_something(report):
    losses = report['one device']['losses']
    assert losses[2] < losses[1] < losses[0]


def test_one_device_sends_nothing(report):
    assert report['one device']['traffic'] == {}


@pytest.mark.parametrize('mesh', MESHES)
def test_over_data_goes_the_prompts_gradient_and_no_more(report, mesh):
    assert data_bytes(report[mesh]) <= P * D * 4 + 4096
    if not mesh.startswith('data:1,'):
        assert data_bytes(report[mesh]) >= P * D * 4


def test_depth_does_not_change_what_goes_over_data(report):
    assert data_bytes(report['deep']) == data_bytes(report['data:4,model:2'])


def test_depth_multiplies_what_goes_over_model(report):
    """That is, loop bodies count as often as they run."""
    shallow, deep = (axis_bytes(report[name]['traffic'], 'model')
                     for name in ('data:4,model:2', 'deep'))
    assert 2.5 < deep / shallow < 3.1


def test_fully_sharded_weights_cost_more_over_data(report):
    assert data_bytes(report['fully sharded']) > 10 * (P * D * 4 + 4096)


@pytest.mark.parametrize('mesh', [*MESHES, 'fully sharded'])
def test_the_state_comes_back_where_it_was(report, mesh):
    assert not report[mesh]['moved']


def test_weights_are_divided_by_the_axes_that_split_them(report):
    whole = report['one device']['weight_bytes']
    assert report['data:8,model:1']['weight_bytes'] == whole
    # Norms and bias tables are whole everywhere: a twentieth of this tiny model.
    assert report['data:1,model:8']['weight_bytes'] < whole / 8 * 1.25
    assert report['fully sharded']['weight_bytes'] < whole / 8 * 1.25
