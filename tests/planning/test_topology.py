"""Topologies by name, and what the compiler says of memory; without the compiler itself."""

import importlib.util

import pytest

from jax_prompt.planning import topology
from jax_prompt.planning.chips import CHIPS

EARLY = ('RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory '
         'required for HLO temporaries (22.72G) exceeds available HBM (15.75G). HLO module: '
         'jit_step.\nSee https://openxla.org/xla/errors/error_1000 for more details.')
LATE = ('RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: XLA:TPU compile permanent error. Ran out of '
        'memory in memory space hbm. Used 16.50G of 15.75G hbm. Exceeded hbm capacity by 768.00M. '
        'HLO module: jit_step. Memory usage report: ...')


def test_the_early_refusal_is_read():
    assert topology.read_refusal(EARLY) == (round(22.72 * 2**30), round(15.75 * 2**30))


def test_the_late_refusal_is_read():
    assert topology.read_refusal(LATE) == (round(16.5 * 2**30), round(15.75 * 2**30))


@pytest.mark.parametrize('size, number', [('1.56T', round(1.56 * 2**40)), ('512.0K', 512 * 2**10),
                                          ('96B', 96), ('12', 12)])
def test_units(size, number):
    assert topology.read_refusal(EARLY.replace('22.72G', size))[0] == number


@pytest.mark.parametrize('message', [
    'RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 20.0M of 16.0M vmem.',
    'INVALID_ARGUMENT: shapes do not match', ''])
def test_other_errors_are_no_refusal(message):
    assert topology.read_refusal(message) is None


@pytest.mark.parametrize('name, message', [
    ('v5e', "topology 'v5e' cannot be read; write generation:shape, such as 'v5e:4x4'"),
    ('v5e:4by4', 'cannot be read'), ('', 'cannot be read'), ('v5e:2x2x2x2', 'cannot be read'),
    ('v5e:3x3', "there is no topology 'v5e:3x3': expected at most 2 sizes of 1, 2 or a multiple"),
    ('v5e:2x2x2', 'at most 2 sizes'), ('v5e:0x0', 'such as v5e:1x1, v5e:2x2'),
    ('v5e:32x32', 'at most 256 chips'),
    ('v9:4x4', "TPU 'v9' is not known here; choose one of v3, v4, v5e, v5p, v6e"),
])
def test_a_bad_name_is_refused(name, message):
    with pytest.raises(ValueError, match=message) as error:
        topology.parse_topology(name)
    assert '\n' not in str(error.value)


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r"not installed; pip install 'jax-prompt\[tpu\]'"):
        topology.devices_of('v5e:2x2')


@pytest.mark.parametrize('chip', CHIPS.values(), ids=lambda chip: chip.name)
def test_every_chip_has_figures_with_a_source(chip):
    assert chip.source.startswith('https://cloud.google.com/tpu/docs/')
    assert 1e14 < chip.peak_flops < 1e15 and 8e11 < chip.hbm_bandwidth < 3e12
    assert chip.interconnect_bandwidth < chip.hbm_bandwidth
    assert all(len(shape.split('x')) == chip.dimensions for shape in chip.shapes)
