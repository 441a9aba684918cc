"""Every method, and all that regularises, on eight forced CPU devices: the numbers of one."""

import numpy as np
import pytest

from tests.parallel import devices

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def report():
    return devices.run('methods_on_meshes.py')


@pytest.mark.parametrize('how', ['eight', 'microbatches'])
@pytest.mark.parametrize('name', ['residual', 'ulpt', 'dpt', 'superpos', 'dept', 'regularised'])
def test_losses_and_parameters_are_those_of_one_device(report, name, how):
    one, many = report[name]['one'], report[name][how]
    np.testing.assert_allclose(many['losses'], one['losses'], rtol=1e-5)
    np.testing.assert_allclose(many['params'], one['params'], rtol=1e-4,
                               atol=1e-5 * np.abs(one['params']).max())
    assert one['losses'][2] < one['losses'][0] or name == 'regularised'
