"""Meshes: what is read, what is refused and in which words."""

import jax
import pytest

from jax_prompt.parallel.mesh import describe, make_mesh


@pytest.fixture
def eight():
    """Eight times the one device of this process: enough to count devices."""
    return jax.devices()[:1] * 8


@pytest.mark.parametrize('spec, sizes', [
    ('data:-1,model:1', (8, 1)),
    ('data:-1', (8, 1)),
    ('model:4,data:-1', (2, 4)),
    ('data:2,model:-1', (2, 4)),
    (' data : 4 , model : 2 ', (4, 2)),
    ('model:8', (1, 8)),
])
def test_sizes(eight, spec, sizes):
    mesh = make_mesh(spec, eight)
    assert tuple(mesh.shape.items()) == (('data', sizes[0]), ('model', sizes[1]))
    assert make_mesh(describe(mesh.shape), eight).shape == mesh.shape


def test_all_devices_and_data_are_the_default():
    assert dict(make_mesh().shape) == {'data': jax.device_count(), 'model': 1}


@pytest.mark.parametrize('spec, message', [
    ('data:4,heads:2', "mesh 'data:4,heads:2' names the axis 'heads'; .* data and model"),
    ('data:4,data:2', "names the axis 'data' twice"),
    ('data=4,model=2', "cannot be read at 'data=4'; write axis:size pairs, .* 'data:4,model:2'"),
    ('data:4,model:two', "cannot be read at 'model:two'"),
    ('', "mesh '' cannot be read at ''"),
    ('data:4,model:0', 'gives model the size 0; expected a positive whole number, or -1'),
    ('data:-2', 'gives data the size -2'),
    ('data:-1,model:-1', 'leaves both sizes open'),
    ('data:2,model:2', r'mesh data:2,model:2 has 4 places for 8 devices; choose sizes .* is 8'),
    ('data:4,model:4', 'has 16 places for 8 devices'),
    ('data:4', 'mesh data:4,model:1 has 4 places for 8 devices'),
    ('data:-1,model:3', 'data:-1,model:3 cannot be made of 8 devices; choose model:1, 2, 4 or 8'),
    ('data:5,model:-1', 'choose data:1, 2, 4 or 8'),
])
def test_what_is_refused(eight, spec, message):
    with pytest.raises(ValueError, match=message) as error:
        make_mesh(spec, eight)
    assert '\n' not in str(error.value)
