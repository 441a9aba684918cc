"""The engine on forced CPU devices: whatever the mesh, each row's answer is that of one device."""

import numpy as np
import pytest

from tests.parallel import devices
from tests.parallel.engine_on_meshes import COUNTS, WAYS

pytestmark = pytest.mark.slow  # it compiles many programs

MESHES = {8: ('data:8', 'data:4,model:2'), 2: ('data:1,model:2',)}


@pytest.fixture(scope='module')
def wanted(world):
    return devices.run('engine_on_meshes.py', 1, (str(world / 'model'), 'data:1'))['data:1']


@pytest.mark.parametrize('number', MESHES)
def test_all_is_as_on_one_device(world, wanted, number):
    assert set(wanted) == {f'{way} {count}' for way in WAYS for count in COUNTS}
    assert len(set(wanted['greedy 16'])) > 8
    found = devices.run('engine_on_meshes.py', number, (str(world / 'model'), *MESHES[number]))
    for mesh, answers in found.items():
        for case, ours in answers.items():
            if case.startswith('rank'):
                for one, other in zip(ours, wanted[case], strict=True):
                    np.testing.assert_allclose(one, other, atol=1e-5, err_msg=f'{mesh} {case}')
            else:
                assert ours == wanted[case], (mesh, case)
