"""Every benchmark's task gives T5's text, whatever its examples are read from."""

import contextlib
import gzip
import json

import pytest

from jax_prompt.data.tasks import sources
from jax_prompt.data.tasks.benchmarks import BENCHMARK_TASKS, benchmark_task
from jax_prompt.data.tasks.rows import Row
from jax_prompt.data.tasks.squad import spaced
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
    source = 'hub' if kind == 'arrow' else 'auto'
    assert sorted(texts(name, tmp_path, golden, source=source)) == sorted(golden.pairs)


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


def test_punctuation_and_similarities_are_as_tensorflow_has_them():
    tf = pytest.importorskip('tensorflow', reason='TensorFlow is not installed')
    every = ''.join(map(chr, (*range(1, 0xD800), *range(0xE000, 0x11000))))
    padded = tf.strings.regex_replace(every, r'([[:punct:]])', r' \1 ')  # T5's `_pad_punctuation`
    assert spaced(every) == tf.strings.regex_replace(padded, r'\s+', ' ').numpy().decode()
    scores = [number / 1000 for number in range(5001)]
    rounded = tf.as_string(tf.round(tf.constant(scores) * 5) / 5, precision=1).numpy()  # `stsb`
    task = BENCHMARK_TASKS['glue_stsb']
    rows = task.rows((Row({'label': score}, 'x') for score in scores), 'train')
    assert [row.columns['similarity'] for row in rows] == [one.decode() for one in rounded]
    assert {*task.labels} == {one.decode() for one in rounded}


def test_every_task_has_golden_pairs():
    alike = {'mrqa_hotpot_qa': 'mrqa_', 'mrqa_duo_rc': 'mrqa_', 'anli_r2': 'anli_'}
    of_a_kind = tuple(alike.values())
    without = [name for name in BENCHMARK_TASKS if name not in GOLDEN
               and not name.startswith(of_a_kind)]
    # The two transfers and the diagnostics without labels have tests of their own.
    assert sorted(without) == ['glue_ax', 'glue_mrpc_from_qqp', 'glue_qqp_from_mrpc']
    assert len(GLUE) == 9 and len(SUPER_GLUE) == 11 and OTHERS


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_a_prompt_for_qqp_is_measured_on_mrpc_in_qqps_words(tmp_path):
    for name in ('glue_qqp', 'glue_mrpc'):
        write_official(tmp_path, GOLDEN[name])
    write(tmp_path, 'MRPC/dev.tsv', 'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n'
                                    '1\t1\t2\tA .\tB .\n0\t3\t4\tC .\tD .\n')
    task = benchmark_task('glue_mrpc_from_qqp', str(tmp_path))
    assert list(task.texts('train')) == GOLDEN['glue_qqp'].pairs
    assert list(task.texts('test')) == [('mrpc sentence1: A . sentence2: B .', 'duplicate'),
                                        ('mrpc sentence1: C . sentence2: D .', 'not_duplicate')]
    bare = benchmark_task('glue_mrpc_from_qqp', str(tmp_path), with_name=False)
    assert next(bare.texts('test'))[0] == 'sentence1: A . sentence2: B .'
    back = benchmark_task('glue_qqp_from_mrpc', str(tmp_path))
    assert list(back.texts('train')) == GOLDEN['glue_mrpc'].pairs
    assert back.label_words == ('not_equivalent', 'equivalent')


def test_a_leaderboards_split_has_inputs_and_no_answers(tmp_path):
    write(tmp_path, 'BoolQ/test.jsonl', '{"question": "q", "passage": "p", "idx": 7}\n')
    write(tmp_path, 'WSC/test.jsonl', json.dumps({
        'text': 'Ann said she won .', 'idx': 2, 'target': {
            'span1_text': 'Ann', 'span1_index': 0, 'span2_text': 'she', 'span2_index': 2}}) + '\n')
    write(tmp_path, 'AX/diagnostic.tsv', 'index\tsentence1\tsentence2\n0\tA.\tB.\n')
    boolq = benchmark_task('super_glue_boolq', str(tmp_path))
    row, = boolq.rows('leaderboard')
    assert boolq.render(row) == 'boolq passage: p question: q' and row.columns['idx'] == 7
    with pytest.raises(ValueError, match="column 'label' is not there at test.jsonl line 1"):
        boolq.target_text(row)
    wsc = benchmark_task('super_glue_wsc', str(tmp_path))
    assert [wsc.render(one) for one in wsc.rows('leaderboard')] == ['wsc: Ann said *she* won .']
    ax = benchmark_task('glue_ax', str(tmp_path))
    assert [ax.render(one) for one in ax.rows('leaderboard')] == ['mnli hypothesis: B. premise: A.']


def test_a_query_of_record_is_evaluated_once_with_all_its_answers(tmp_path):
    golden = GOLDEN['super_glue_record']
    write(tmp_path, 'ReCoRD/val.jsonl', next(golden.files())[1])
    task = benchmark_task('super_glue_record', str(tmp_path))
    rows = task.rows('validation')
    assert [task.right_answers(row) for row in rows] == [('Ann', 'Ann Ho'), ('Bob Ray',)]
    assert [row.columns['group'] for row in rows] == ['3-6', '3-7']


def test_answers_to_a_question_of_multirc_are_a_group(tmp_path):
    write_official(tmp_path, GOLDEN['super_glue_multirc'])
    rows = benchmark_task('super_glue_multirc', str(tmp_path)).rows('train')
    assert [row.columns['group'] for row in rows] == ['4-9', '4-9', '4-9', '4-10']


BOOLQ = '{"question": "q", "passage": "p", "idx": 0, "label": true}\n'


@pytest.mark.parametrize('name, file, text, told', [
    ('super_glue_boolq', 'BoolQ/train.jsonl', BOOLQ + '{"question": "q", "idx": 1, "label": true}',
     "column 'passage' is not there at train.jsonl line 2"),
    ('super_glue_boolq', 'BoolQ/train.jsonl', BOOLQ + BOOLQ.replace('true', '"perhaps"'),
     "train.jsonl line 2: label 'perhaps' is none of super_glue_boolq; expected one of 'False'"),
    ('super_glue_boolq', 'BoolQ/train.jsonl', BOOLQ + BOOLQ[:30], 'train.jsonl line 2 is not JSON'),
    ('super_glue_boolq', 'BoolQ/train.jsonl', BOOLQ.encode() + BOOLQ.replace(
        'q"', '\u00fc"', 1).encode('latin-1'), 'train.jsonl line 2 is not UTF-8'),
    ('super_glue_multirc', 'MultiRC/train.jsonl', BOOLQ,
     "train.jsonl line 1 is no record of super_glue_multirc: it has no 'paragraph'; its columns "
     "are 'question', 'passage', 'idx', 'label'; is it a file of another task"),
    ('super_glue_wsc', 'WSC/train.jsonl', json.dumps({
        'text': 'Ann said she won .', 'idx': 2, 'label': True, 'target': {
            'span1_text': 'Ann', 'span1_index': 0, 'span2_text': 'she', 'span2_index': 3}}),
     "train.jsonl line 1: word 3 of the text is not the pronoun 'she'"),
    ('super_glue_record', 'ReCoRD/train.jsonl', '{"qas": [], "passage": "p", "idx": 1}',
     'train.jsonl line 1 is no record of super_glue_record: it is built otherwise'),
    ('glue_cola', 'CoLA/train.tsv', b'a\t1\t\tGood.\na\t1\t\tna\xefve\n',
     'train.tsv line 2 is not UTF-8'),
    ('glue_stsb', 'STS-B/train.tsv', 'sentence1\tsentence2\tscore\na\tb\t7.0\n',
     'train.tsv line 2: the similarity is 7.0; expected a number from 0 to 5'),
    ('squad', 'SQuAD/train-v1.1.json', '{"data": [{"title": "x"',
     'train-v1.1.json is not whole JSON'),
    ('squad', 'SQuAD/train-v1.1.json', '{"train": []}', 'train-v1.1.json is no file of SQuAD 1.1'),
    ('mrqa_squad', 'MRQA/train/SQuAD.jsonl', '{"header": {"dataset": "NewsQA"}}',
     'SQuAD.jsonl line 1: the file is of NewsQA; expected SQuAD'),
    ('ag_news', 'ag_news_csv/train.csv', '"5","a","b"\n', 'train.csv line 1 is no record of ag_ne'),
    ('trec', 'TREC/train_5500.label', 'NUM:dist How far ?\nODD:x What ?\n',
     "train_5500.label line 2: label 'ODD' is none of trec"),
])
def test_a_wrong_file_is_named_with_its_line(name, file, text, told, tmp_path):
    write(tmp_path, file, text)
    with pytest.raises(ValueError) as error:
        list(benchmark_task(name, str(tmp_path)).texts('train'))
    assert told in str(error.value) and '\n' not in str(error.value)


def test_a_cut_off_parquet_file_is_named(tmp_path):
    parquet = pytest.importorskip('pyarrow.parquet', reason='pyarrow is not installed')
    import pyarrow

    path = tmp_path / 'boolq' / 'train-00000-of-00001.parquet'
    path.parent.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(GOLDEN['super_glue_boolq'].tfds), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match='boolq/train-00000-of-00001.parquet cannot be read as P'):
        benchmark_task('super_glue_boolq', str(tmp_path)).rows('train')


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(ValueError, match='did you mean super_glue_boolq'):
        benchmark_task('super_glue_bolq')
    with pytest.raises(ValueError, match="source of task squad is 'web'; expected auto"):
        benchmark_task('squad', source='web')
    with pytest.raises(ValueError, match='task squad has no data: name the folder .*--data_dir'):
        benchmark_task('squad').rows('train')
    with pytest.raises(FileNotFoundError, match='data_dir .*nowhere is no folder'):
        benchmark_task('squad', str(tmp_path / 'nowhere')).rows('train')
    with pytest.raises(FileNotFoundError, match='has no split train of squad; expected SQuAD/train-'
                                                'v1.1.json, Parquet or Arrow'):
        benchmark_task('squad', str(tmp_path)).rows('train')


def test_a_folder_for_one_task_may_have_any_name_and_files_may_be_packed(tmp_path):
    write(tmp_path, 'mine/train.jsonl.gz', gzip.compress(BOOLQ.encode()))
    task = benchmark_task('super_glue_boolq', str(tmp_path / 'mine'))
    assert list(task.texts('train')) == [('boolq passage: p question: q', 'True')]


def test_validation_that_is_not_published_is_cut_from_training(tmp_path):
    lines = [f'NUM:dist How far is {number} ?\n' for number in range(200)]
    write(tmp_path, 'TREC/train_5500.label', ''.join(lines))
    task = benchmark_task('trec', str(tmp_path))
    train, validation = (dict(task.texts(split)) for split in ('train', 'validation'))
    assert len(train) + len(validation) == 200 and 8 <= len(validation) <= 35
    assert not train.keys() & validation.keys()
    assert task.splits.keys() == {'train', 'validation', 'test'}


def test_what_tfds_has_prepared_is_found(tmp_path):
    tfds = pytest.importorskip('tensorflow_datasets', reason='TFDS is not installed')
    golden, asked = GOLDEN['trec'], []
    write(tmp_path, 'trec/1.0.0/dataset_info.json', '{}')

    def read(name, split, data_dir):
        asked.append((name, split, data_dir))
        return iter([Row(columns, 'x') for columns in golden.tfds])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sources, 'read_tfds', read)
        assert sorted(texts('trec', tmp_path, golden)) == sorted(golden.pairs)
    assert set(asked) == {('trec:1.0.0', 'train', str(tmp_path))} and tfds
    with pytest.raises(ValueError, match='glue/cola cannot be read by TFDS from .*; prepare it by: '
                                         'python -m tensorflow_datasets build glue/cola'):
        benchmark_task('glue_cola', str(tmp_path), source='tfds').rows('train')
