"""Plans and compiled steps by the TPU's own compiler, where it is installed (libtpu)."""

import json
import pathlib

import pytest

from tests.parallel import devices
from tests.parallel.traffic import axis_bytes
from tests.planning import compiled_steps
from tests.planning.compiled_steps import D, P

pytestmark = pytest.mark.slow
GIB = 2**30
CONFIG = {'model_type': 't5', 'vocab_size': 512, 'd_model': 128, 'd_kv': 32, 'd_ff': 256,
          'num_heads': 2, 'num_layers': 2, 'num_decoder_layers': 2,
          'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False}


@pytest.fixture(scope='module')
def seen(tmp_path_factory):
    pytest.importorskip('libtpu')
    folder = tmp_path_factory.mktemp('small')
    (folder / 'config.json').write_text(json.dumps(CONFIG))
    script = pathlib.Path(__file__).with_name('plans_on_tpu.py')
    return devices.run(str(script), devices=1, arguments=(str(folder),))


def test_capacity_is_less_than_the_chip_has(seen):
    published = {'v3': 16, 'v4': 32, 'v5e': 16, 'v5p': 96, 'v6e': 32}  # a device, in GiB
    for name, size in published.items():
        assert 0.93 * size * GIB < seen['capacities'][name] < size * GIB


def test_devices_of_every_generation(seen):
    assert seen['devices'] == {'v3:2x2': 8, 'v4:2x2x1': 4, 'v5e:1x1': 1, 'v5p:2x2x2': 8,
                               'v6e:2x4': 8}


@pytest.mark.parametrize('name', ['training', 'generation', 'int8'])
def test_what_is_small_fits_and_is_counted(seen, name):
    made = seen[name]
    memory, speed = made['memory'], made['speed']
    assert made['fits'] and memory['exceeded'] == 0 and memory['total'] < memory['capacity']
    parts = ('weights', 'other_arguments', 'results', 'temporaries', 'program')
    assert memory['total'] == sum(memory[part] for part in parts)
    assert speed['flops'] > 1e7 and speed['hbm_bytes'] > memory['weights'] / 2
    times = {'compute': speed['compute_seconds'], 'HBM': speed['hbm_seconds'],
             'interconnect': speed['interconnect_seconds']}
    assert speed['seconds'] == max(times.values()) == times[speed['bound']]


def test_over_data_goes_the_prompts_gradient_and_no_more(seen):
    assert seen['training']['request']['mesh'] == 'data:2,model:2'
    traffic = seen['training']['speed']['collectives']
    assert 6 * 128 * 4 <= axis_bytes(traffic, 'data') <= 6 * 128 * 4 + 4096
    for traffic in seen['sent'].values():
        assert 6 * 64 * 4 <= axis_bytes(traffic, 'data') <= 6 * 64 * 4 + 4096


def test_depth_multiplies_what_goes_over_model(seen):
    """The TPU compiler does not say how often loops run: it is read from their counters."""
    shallow, deep = (axis_bytes(traffic, 'model') for traffic in seen['sent'].values())
    assert 2.5 < deep / shallow < 3.1


def test_what_does_not_fit_is_rejected_by_the_compilers_figure(seen):
    made = seen['too much']
    memory = made['memory']
    assert not made['fits'] and made['speed'] is None
    assert memory['exceeded'] == pytest.approx(memory['total'] - memory['capacity'], rel=1e-6)
    assert memory['capacity'] == seen['capacities']['v5e']
    assert made['request']['remat'] == 'full'  # the last that was tried


def test_sizes_that_do_not_divide_are_refused(seen):
    assert 'batch_size=7 does not divide by data=2; choose a multiple of 2' in seen['rows']
    assert 'num_heads=2 does not divide by model=4' in seen['heads']


def test_no_output_and_no_donated_buffer_has_the_shape_of_a_frozen_weight(seen):
    step = seen['prompt step']
    frozen = set(compiled_steps.frozen_shapes())
    assert not frozen & {tuple(shape) for shape in step['outputs'] + step['donated']}
    assert [P, D] in step['outputs'] and [P, D] in step['donated']
    returned = {tuple(shape) for shape in seen['model tuning']['outputs']}
    assert len(frozen & returned) > 6


def test_the_step_costs_at_most_seven_tenths_of_model_tuning(seen):
    """The TPU compiler counts a loop's body once; all loops here are of two rounds."""
    step, tuning = seen['prompt step'], seen['model tuning']
    assert 0.5 < step['product_flops'] / tuning['product_flops'] <= 0.70
    assert 0.5 < step['flops'] / tuning['flops'] <= 0.70
