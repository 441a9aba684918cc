"""Rows of prefixed and plain prompts in one batch, and the files that prefixes come from."""

import dataclasses

import jax
import numpy as np
import pytest

from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.decodings import beam_search
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.prefix_table import PrefixTable
from jax_prompt.prompts import container
from jax_prompt.prompts.file import load_prompt, save_prompt
from tests.inference.many_prompts import open_tiny, prefixed, prompt_file


@pytest.fixture(scope='module')
def opened(world):
    return open_tiny(world / 'model')


@pytest.fixture(scope='module')
def files(opened):
    labels = dict(labels=['great', 'dull'])
    return {'all': prefixed(opened, 1, ('encoder', 'decoder', 'cross'), 3, **labels),
            'both': prefixed(opened, 2, ('encoder',), 5, rows=4, **labels),
            'cross': prefixed(opened, 3, ('cross',), 2, **labels),
            'rows': prompt_file(opened, 6, seed=4, **labels)}


SHAPES = Shapes(batch_sizes=(8,), lengths=(32,), targets=(4,))
TEXTS = ['the film was great', 'the plot', 'a cold script was dull']


def test_a_mixed_batch_answers_as_each_prompt_alone(opened, files):
    together = Engine(opened, SHAPES, capacity=64, decodings={'beam': beam_search(2)})
    for name, file in files.items():
        together.add(name, file)
    assert {name: keys.shape[0] for name, (keys, _) in together.prefixes.arrays.items()} == {
        'encoder': 4, 'decoder': 4, 'cross': 4}

    def rows(engine, name, **options):
        return engine.rows_of(engine.prompt(name), TEXTS[:2], **options)

    for options in (dict(rank=True), dict(rank=False, max_tokens=4),
                    dict(rank=False, max_tokens=4, decoding='beam')):
        asked = [row for name in (*files, None) for row in rows(
            together, name, **options | ({'labels': together.label_set(['great', 'dull'])}
                                         if options['rank'] else {}))]
        mixed = together.run(asked)
        for number, (name, file) in enumerate(files.items()):
            alone = Engine(opened, SHAPES, capacity=64, decodings={'beam': beam_search(2)})
            alone.add(name, file)
            for ours, theirs in zip(mixed[2 * number:], alone.run(rows(alone, name, **options)),
                                    strict=False):
                assert ours.text == theirs.text
                if options['rank']:
                    np.testing.assert_allclose(list(ours.scores.values()),
                                               list(theirs.scores.values()), rtol=2e-5, atol=2e-5)
    plain = together.run(rows(together, None, rank=False, max_tokens=4))
    assert [one.text for one in plain] != [one.text for one in mixed[:2]]


def test_what_grows_is_told_and_what_is_freed_is_used_again(files, caplog):
    table = PrefixTable()
    assert table.arrays == {}
    first = table.put(files['cross'].prompt.prefix)
    assert first.number == 1 and table.arrays['cross'][0].shape[0::3] == (2, 2)
    wanted = jax.tree.map(np.shape, table.empty_for(files['both'].prompt.prefix))
    second = table.put(files['both'].prompt.prefix)
    assert jax.tree.map(np.shape, table.arrays) == wanted and 'prefixes grows' in caplog.text
    np.testing.assert_array_equal(table.arrays['encoder'][1][second.number, ..., :5, :],
                                  files['both'].prompt.prefix['encoder'][1][0])
    assert not np.asarray(table.arrays['encoder'][0][second.number, ..., 5:, :]).any()
    number = first.number
    del first
    assert table.put(files['cross'].prompt.prefix).number in (number, 3)
    assert not any(np.asarray(leaf[0]).any() for leaf in jax.tree.leaves(table.arrays))


def test_a_file_keeps_a_prefix_and_what_is_damaged_is_refused(files, tmp_path):
    path = tmp_path / 'prompt.safetensors'
    save_prompt(path, files['both'])
    loaded = load_prompt(path)
    for ours, theirs in zip(jax.tree.leaves(loaded.prompt), jax.tree.leaves(files['both'].prompt),
                            strict=True):
        np.testing.assert_array_equal(ours, theirs)
    _, strings, more = container.read(path, [f'prefix/encoder/{part}'
                                             for part in ('keys', 'values')])
    assert strings['format_version'] == '2' and loaded.prefix_length == 5
    del more['prefix/encoder/keys']
    path.write_bytes(container.pack(loaded.prompt.rows, strings, more))
    with pytest.raises(ValueError, match="has no tensor 'prefix/encoder/keys', but others of a"):
        load_prompt(path)
    path.write_bytes(container.pack(loaded.prompt.rows, strings, {
        'prefix/cross/keys': np.zeros((2, 3), np.float32),
        'prefix/cross/values': np.zeros((2, 3), np.float32)}))
    with pytest.raises(ValueError, match="prefix 'cross' has keys of shape .* expected both"):
        load_prompt(path)


def test_a_prefix_for_another_model_is_refused(opened, files):
    keys, values = files['cross'].prompt.prefix['cross']
    other = dataclasses.replace(files['cross'], prompt=files['cross'].prompt.replace(
        prefix={'cross': (np.repeat(keys, 2, 1), np.repeat(values, 2, 1))}))
    with pytest.raises(ValueError, match="a prefix of 2 layers, 2 heads of width 8 for 'cross' but "
                                         'tiny has 1 layers'):
        Engine(opened, SHAPES).add('other', other)


def test_the_digest_heeds_the_prefix(opened, files):
    engine = Engine(opened, SHAPES)
    one = engine.add('one', files['all']).digest
    changed = jax.tree.map(lambda leaf: leaf + 1, files['all'].prompt.prefix)
    other = dataclasses.replace(files['all'], prompt=files['all'].prompt.replace(prefix=changed))
    assert engine.add('other', other).digest != one
