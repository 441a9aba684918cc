"""The benchmarks' tasks as seqio knows them: by name, with the same texts."""

import pytest

from jax_prompt.data.tasks.benchmarks import BENCHMARK_TASKS
from tests.data.benchmark_records import GOLDEN

seqio = pytest.importorskip('seqio', reason='seqio is not installed')


@pytest.fixture
def registered(vocabulary, tmp_path):
    """Register all tasks over golden records; take them out again afterwards."""
    from jax_prompt.data.seqio_benchmarks import register

    for name in ('super_glue_boolq', 'super_glue_wsc', 'super_glue_record'):
        for file, content in GOLDEN[name].files():
            path = tmp_path / file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
    (tmp_path / 'BoolQ/test.jsonl').write_text('{"question": "q", "passage": "p", "idx": 0}\n')
    names = register(vocabulary, str(tmp_path))
    yield names
    for name in names:
        of = seqio.MixtureRegistry if name in ('glue', 'super_glue', 'mrqa') else seqio.TaskRegistry
        of.remove(name)


def test_tasks_and_mixtures_are_known_by_name(registered):
    assert registered == [*BENCHMARK_TASKS, 'glue', 'super_glue', 'mrqa']
    for name in ('super_glue_boolq', 'super_glue_wsc', 'super_glue_record'):
        dataset = seqio.get_mixture_or_task(name).get_dataset(None, 'train', shuffle=False)
        found = [(example['inputs_pretokenized'].decode(), example['targets_pretokenized'].decode())
                 for example in dataset.as_numpy_iterator()]
        assert found == GOLDEN[name].pairs
    mixture = seqio.get_mixture_or_task('super_glue')
    assert {task.name for task in mixture.tasks} == {
        f'super_glue_{name}' for name in
        ('boolq', 'cb', 'copa', 'multirc', 'record', 'rte', 'wic', 'wsc')}
    assert mixture.get_rate(seqio.get_mixture_or_task('super_glue_cb')) == 250


def test_a_test_without_labels_has_t5s_target(registered):
    task = seqio.TaskRegistry.get('super_glue_boolq')
    example, = task.get_dataset(None, 'leaderboard', shuffle=False).as_numpy_iterator()
    assert example['targets_pretokenized'] == b'<unk>'
