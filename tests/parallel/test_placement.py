"""Global arrays, in one process and in two that meet over loopback."""

import jax
import numpy as np
import pytest

from jax_prompt.parallel.mesh import make_mesh
from jax_prompt.parallel.placement import global_batch, host_rows, place
from jax_prompt.parallel.rules import replicated
from tests.parallel import devices


@pytest.fixture(scope='module')
def seen():
    return devices.run_together('global_arrays.py', processes=2, devices=4)


@pytest.mark.parametrize('sizes', ['data:8,model:1', 'data:4,model:2', 'data:2,model:4'])
def test_each_process_reads_its_half(seen, sizes):
    assert [one[sizes]['rows'] for one in seen] == [list(range(8)), list(range(8, 16))]


def test_processes_that_share_a_place_read_the_same_rows(seen):
    assert [one['data:1,model:8']['rows'] for one in seen] == [list(range(16))] * 2


@pytest.mark.parametrize('what', ['batch', 'frozen', 'total'])
def test_every_device_has_its_part_of_the_whole(seen, what):
    assert all(result[what] is True for one in seen for result in one.values())


def test_every_process_has_a_copy_of_what_is_replicated(seen):
    assert {result['copy'] for one in seen for result in one.values()} == {7}


def test_one_process_reads_everything():
    mesh = make_mesh('data:1', jax.devices()[:1])
    whole = np.arange(12).reshape(4, 3)
    assert host_rows(mesh, 4).tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(global_batch({'x': whole}, mesh)['x'], whole)
    placed = place({'x': whole}, replicated(mesh))['x']
    assert placed.sharding == replicated(mesh)


def test_rows_that_do_not_divide_are_named():
    mesh = make_mesh('data:4,model:3', jax.devices()[:1] * 12)
    with pytest.raises(ValueError, match=r'batch_size=6 does not divide by data=4; choose a '
                                         r'multiple of 4, or with 12 devices data:1, 2, 3 or 6'):
        host_rows(mesh, 6)
