"""Every benchmark's task gives T5's text, whatever its examples are read from."""

import contextlib
import json

import pytest

from jax_prompt.data.tasks.benchmarks import BENCHMARK_TASKS, benchmark_task
from tests.data.benchmark_records import GLUE, GOLDEN, OTHERS, SUPER_GLUE


def write_official(folder, golden):
    for name, content in golden.files():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def texts(name, folder, golden, **how):
    """Return the (input, target) pairs of all splits that the golden one is cut into."""
    task = benchmark_task(name, None if folder is None else str(folder), **how)
    found = list(task.texts(golden.split)) if not BENCHMARK_TASKS[name].cuts_validation else []
    for split in ('train', 'validation') if BENCHMARK_TASKS[name].cuts_validation else ():
        with contextlib.suppress(ValueError):  # of two texts all may be in one split
            found += task.texts(split)
    return found


@pytest.mark.parametrize('name', GOLDEN)
def test_official_files_give_t5s_text(name, tmp_path):
    write_official(tmp_path, GOLDEN[name])
    assert sorted(texts(name, tmp_path, GOLDEN[name])) == sorted(GOLDEN[name].pairs)


@pytest.mark.parametrize('name', GOLDEN)
def test_without_the_name_the_first_word_is_gone(name, tmp_path):
    golden = GOLDEN[name]
    write_official(tmp_path, golden)
    bare = [(text.split(' ', 1)[1] if BENCHMARK_TASKS[name].prefix else text, target)
            for text, target in golden.pairs]
    assert sorted(texts(name, tmp_path, golden, with_name=False)) == sorted(bare)


@pytest.mark.parametrize('kind', ['parquet', 'arrow', 'cache', 'saved'])
@pytest.mark.parametrize('name', GOLDEN)
def test_files_of_the_hub_give_the_same(name, kind, tmp_path):
    arrow = pytest.importorskip('pyarrow', reason='pyarrow is not installed')
    golden, task = GOLDEN[name], BENCHMARK_TASKS[name]
    folder = tmp_path / (f'owner___{task.folders[-1]}/0.0.0/abc' if kind == 'cache' else
                         task.folders[-1])
    table = arrow.Table.from_pylist(golden.hub or golden.tfds)
    split = task.hub_splits.get(golden.split, task.splits[golden.split])
    write_columns(table, folder, split, kind)
    assert sorted(texts(name, tmp_path, golden, source='hub')) == sorted(golden.pairs)


def write_columns(table, folder, split, kind):
    """Write a table as the hub, its cache or `save_to_disk` do."""
    import pyarrow
    import pyarrow.parquet

    folder = folder / split if kind == 'saved' else folder
    folder.mkdir(parents=True)
    if kind == 'parquet':
        half = -(-len(table) // 2)
        for number, part in enumerate((table[:half], table[half:])):
            pyarrow.parquet.write_table(part, folder / f'{split}-0000{number}-of-00002.parquet')
        return
    file = {'arrow': f'x-{split}.arrow', 'cache': f'x-{split}.arrow',
            'saved': 'data-00000-of-00001.arrow'}[kind]
    with pyarrow.ipc.new_stream(str(folder / file), table.schema) as stream:
        stream.write_table(table)
    if kind == 'saved':
        (folder / 'state.json').write_text(json.dumps({'_data_files': [{'filename': file}]}))


@pytest.mark.parametrize('name', [name for name in GOLDEN if BENCHMARK_TASKS[name].tfds])
def test_tfds_gives_the_same(name):
    tfds = pytest.importorskip('tensorflow_datasets', reason='TFDS is not installed')
    golden, asked = GOLDEN[name], []

    def as_dataset(builder, split, **_):
        asked.append((builder.name, builder.builder_config and builder.builder_config.name, split))
        return dataset_of(golden.tfds)

    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        found = texts(name, None, golden, source='tfds')
    assert sorted(found) == sorted(golden.pairs)
    told, _, config = BENCHMARK_TASKS[name].tfds.partition('/')
    assert all(one[0] == told and one[1] in (config, None, one[1] if not config else config)
               for one in asked) and asked[-1][2] == BENCHMARK_TASKS[name].splits[golden.split]


def dataset_of(examples):
    """Return a tf.data.Dataset of nested examples."""
    import tensorflow as tf

    def spec(value):
        if isinstance(value, dict):
            return {name: spec(one) for name, one in value.items()}
        one, shape = (value[0], [None]) if isinstance(value, list) else (value, [])
        kind = {str: tf.string, int: tf.int64, float: tf.float32}[type(one)]
        return tf.TensorSpec(shape, kind)

    return tf.data.Dataset.from_generator(lambda: iter(examples),
                                          output_signature=spec(examples[0]))


def test_every_task_has_golden_pairs():
    alike = {'mrqa_hotpot_qa': 'mrqa_', 'mrqa_duo_rc': 'mrqa_', 'anli_r2': 'anli_'}
    of_a_kind = tuple(alike.values())
    without = [name for name in BENCHMARK_TASKS if name not in GOLDEN
               and not name.startswith(of_a_kind)]
    # The two transfers and the diagnostics without labels have tests of their own.
    assert sorted(without) == ['glue_ax', 'glue_mrpc_from_qqp', 'glue_qqp_from_mrpc']
    assert len(GLUE) == 9 and len(SUPER_GLUE) == 11 and OTHERS
