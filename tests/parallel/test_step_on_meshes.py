"""The training step on eight forced CPU devices: the numbers of one device, and what is sent."""

import numpy as np
import pytest

from tests.parallel import devices
from tests.parallel.traffic import axis_bytes

pytestmark = pytest.mark.slow

B, S, L, P, D = 16, 24, 4, 5, 64
MESHES = ('data:8,model:1', 'data:4,model:2', 'data:1,model:8')

#: float32 sums in another order: seen up to 2e-7 of a loss, 1e-6 of the largest gradient.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 2e-6, 1e-5


@pytest.fixture(scope='module')
def report():
    return devices.run('steps_on_meshes.py')


FULLY_SHARDED = ('fully sharded', 'fully sharded, deep', 'int8, fully sharded')


def data_bytes(result: dict) -> int:
    return axis_bytes(result['traffic'], 'data')


def over_data(result: dict, *operations: str) -> int:
    """Return the bytes of some operations over data."""
    chosen = {axis: {name: size for name, size in by_operation.items() if name in operations}
              for axis, by_operation in result['traffic'].items()}
    return axis_bytes(chosen, 'data')


@pytest.mark.parametrize('mesh', [*MESHES, 'microbatches', 'fully sharded',
                                  'int8, fully sharded'])
def test_losses_and_gradient_are_those_of_one_device(report, mesh):
    one = report['int8, one device' if 'int8' in mesh else 'one device']
    many = report[mesh]
    np.testing.assert_allclose(many['losses'], one['losses'], rtol=LOSS_TOLERANCE)
    scale = np.abs(one['gradient']).max()
    np.testing.assert_allclose(many['gradient'], one['gradient'], rtol=0,
                               atol=GRADIENT_TOLERANCE * scale)


def test_the_steps_learn_something(report):
    losses = report['one device']['losses']
    assert losses[2] < losses[1] < losses[0]


def test_one_device_sends_nothing(report):
    assert report['one device']['traffic'] == {}


@pytest.mark.parametrize('mesh', [*MESHES, 'microbatches'])
def test_over_data_goes_the_prompts_gradient_and_no_more(report, mesh):
    assert data_bytes(report[mesh]) <= P * D * 4 + 4096
    if not mesh.startswith('data:1,'):
        assert data_bytes(report[mesh]) >= P * D * 4


@pytest.mark.parametrize('mesh', FULLY_SHARDED)
def test_fully_sharded_weights_are_gathered_and_nothing_else_is_summed(report, mesh):
    """The activations' sharding holds D together; else every layer's sums would go over data."""
    assert P * D * 4 <= over_data(report[mesh], 'all-reduce', 'reduce-scatter') <= P * D * 4 + 4096


def test_fully_sharded_activations_cross_data_when_they_are_embedded_alone(report):
    """The embedding table's D is split; in the layers it is the weights that move."""
    moves = ('all-to-all', 'collective-permute')
    shallow, deep = (over_data(report[mesh], *moves) for mesh in FULLY_SHARDED[:2])
    assert shallow == deep <= B * (S + L) * D * 4


def test_int8_logits_are_those_of_one_device(report):
    """Quantised on their devices, too: a channel that is split over them has one scale."""
    wanted = report['int8 logits, one device']
    np.testing.assert_allclose(report['int8 logits'], wanted, rtol=0,
                               atol=1e-5 * np.abs(wanted).max())


def test_int8_is_another_model_but_a_close_one(report):
    wide, int8 = report['one device']['losses'], report['int8, one device']['losses']
    assert wide != int8
    np.testing.assert_allclose(int8, wide, rtol=0.01)


def test_depth_does_not_change_what_goes_over_data(report):
    assert data_bytes(report['deep']) == data_bytes(report['data:4,model:2'])


def test_depth_multiplies_what_goes_over_model(report):
    """That is, loop bodies count as often as they run."""
    shallow, deep = (axis_bytes(report[name]['traffic'], 'model')
                     for name in ('data:4,model:2', 'deep'))
    assert 2.5 < deep / shallow < 3.1


def test_the_encoders_outputs_have_one_gradient_however_many_layers_read_them(report):
    """A layer sends activations twice and gradients as often as kernels read the same inputs.

    That is, in the encoder, those of attention (1 + 3) and of the feed-forward block (1 + 2), and
    in the decoder those of its attention to the encoder (1 + 1) besides. (On a TPU the gradients of
    kernels that read the same inputs are added up first.)
    """
    shallow, deep = (axis_bytes(report[name]['traffic'], 'model')
                     for name in ('data:4,model:2', 'deep'))
    assert (deep - shallow) / 4 == B // 4 * (7 * S + 9 * L) * D * 4


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
    # The embedding table stays wide, and rows of 64 share a scale of four bytes.
    assert report['int8, one device']['weight_bytes'] < whole / 4 * 1.4
    int8 = report['int8, one device']['weight_bytes']
    assert report['int8, fully sharded']['weight_bytes'] < int8 / 8 * 1.6
