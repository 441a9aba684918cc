"""Prefixes on eight forced CPU devices: the losses and gradients of one device."""

import numpy as np
import pytest

from tests.parallel import devices

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def report():
    return devices.run('prefixes_on_meshes.py')


@pytest.mark.parametrize('mesh', ['mesh', 'microbatches', 'int8'])
def test_losses_and_gradients_are_those_of_one_device(report, mesh):
    one = report['int8, one device' if mesh == 'int8' else 'one device']
    np.testing.assert_allclose(report[mesh]['losses'], one['losses'], rtol=2e-6)
    for ours, theirs in zip(report[mesh]['gradient'], one['gradient'], strict=True):
        assert np.abs(theirs).max() > 1e-3
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())
