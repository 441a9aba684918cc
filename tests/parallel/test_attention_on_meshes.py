"""Fused attention on eight forced CPU devices: each device attends in its own rows and heads."""

import pytest

from tests.parallel import devices
from tests.parallel.attention_on_meshes import MESHES, B, H, K, S

pytestmark = pytest.mark.slow  # it compiles many programs


@pytest.fixture(scope='module')
def report():
    return devices.run('attention_on_meshes.py')


@pytest.mark.parametrize('rows', ['padded', 'packed'])
@pytest.mark.parametrize('mesh', MESHES)
def test_all_is_as_on_one_device(report, mesh, rows):
    assert max(report[f'{mesh} {rows}']['errors']) < 1e-5


@pytest.mark.parametrize('rows', ['padded', 'packed'])
@pytest.mark.parametrize('mesh', MESHES)
def test_cudnn_gets_the_devices_own_part(report, mesh, rows):
    data, model = (int(part.split(':')[1]) for part in mesh.split(','))
    heads, lengths = f'{B // data}x{S}x{H // model}x{K}xbf16', f'{B // data}xi32'
    bias = f'{B // data if rows == "packed" else 1}x{H // model}x{S}x{S}xbf16'
    forward, backward = report[f'{mesh} {rows}']['operands'].values()
    assert forward == [heads] * 3 + [bias, lengths, lengths]
    assert [kind for kind in backward if not kind.endswith('f32')] == (
        [heads] * 4 + [bias, heads, lengths, lengths])
