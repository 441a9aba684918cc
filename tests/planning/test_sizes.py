"""Shapes of models by name."""

import json

import pytest

from jax_prompt.models.t5.model import T5
from jax_prompt.planning.sizes import NAMES, find_config
from jax_prompt.types import count_parameters
from tests.models.t5.random_weights import param_shapes


@pytest.mark.parametrize('name, count', [
    ('t5-1.1-small', 76_961_152), ('google/t5-v1_1-base', 247_577_856),
    ('t5-1.1-large', 783_150_080), ('flan-t5-xl', 2_849_757_184),
    ('t5-1.1-xxl', 11_135_332_352),
    # Counted by others: the released checkpoints' sizes.
    ('t5-small', 60_506_624), ('google-t5/t5-base', 222_903_552), ('t5-large', 737_668_096),
    ('t5-3b', 2_851_598_336), ('t5-11b', 11_307_321_344),
])
def test_parameters_are_counted_from_the_name_alone(name, count):
    assert count_parameters(param_shapes(T5(find_config(name)))) == count


def test_a_folder_is_read(tmp_path):
    fields = {'vocab_size': 64, 'd_model': 16, 'd_kv': 4, 'd_ff': 24, 'num_heads': 2,
              'num_layers': 3}
    path = tmp_path / 'model' / 'config.json'
    path.parent.mkdir()
    path.write_text(json.dumps({'model_type': 't5'} | fields))
    config = find_config(str(path.parent))
    assert config == find_config(str(path)) and config.name == 'model'
    assert {field: getattr(config, field) for field in fields} == fields


@pytest.mark.parametrize('text, message', [
    ('{', 'is not valid JSON'), ('[]', 'holds a JSON list; expected an object'),
    (json.dumps({'model_type': 'bert'}), "model_type='bert'"),
])
def test_a_folder_that_is_no_t5_is_refused(tmp_path, text, message):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(ValueError, match=message):
        find_config(str(tmp_path))


@pytest.mark.parametrize('name', ['t5-1.1-huge', 'nowhere/at/all', ''])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match='neither a folder with a config.json nor one of') as error:
        find_config(name)
    assert all(known in str(error.value) for known in NAMES)
