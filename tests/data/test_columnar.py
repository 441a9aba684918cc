"""Parquet, Arrow and the folders of Hugging Face's `datasets`, written here as specified."""

import json

import pytest

from jax_prompt.data.tasks.columnar import split_files
from jax_prompt.data.tasks.files import file_task
from jax_prompt.data.tasks.rows import read_rows

pyarrow = pytest.importorskip('pyarrow')
parquet = pytest.importorskip('pyarrow.parquet')

ROWS = [{'text': f'Übung {number}', 'label': number % 2, 'sure': number / 4,
         'answers': [str(number), 'x'], 'idx': {'paragraph': number}} for number in range(40)]


def columns(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def write_stream(path, rows=ROWS, batch=16):
    """Write what `datasets` writes: a stream of batches."""
    table = pyarrow.table(columns(rows))
    with pyarrow.OSFile(str(path), 'wb') as sink, pyarrow.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table, max_chunksize=batch)
    return str(path)


def write_saved(folder, rows=ROWS, shards=2):
    """Write the layout of `Dataset.save_to_disk`."""
    folder.mkdir(parents=True)
    names = [f'data-{number:05}-of-{shards:05}.arrow' for number in range(shards)]
    size = -(-len(rows) // shards)
    for number, name in enumerate(names):
        write_stream(folder / name, rows[number * size:(number + 1) * size])
    (folder / 'state.json').write_text(json.dumps(
        {'_data_files': [{'filename': name} for name in names], '_split': 'train'}))
    (folder / 'dataset_info.json').write_text('{}')
    return folder


def read(path):
    return [dict(row.columns) for row in read_rows(str(path))]


def test_all_layouts_give_the_same_rows(tmp_path):
    table = pyarrow.table(columns(ROWS))
    parquet.write_table(table, tmp_path / 'a.parquet', row_group_size=7)
    with pyarrow.OSFile(str(tmp_path / 'file.arrow'), 'wb') as sink, pyarrow.ipc.new_file(
            sink, table.schema) as out:
        out.write_table(table, max_chunksize=9)
    write_stream(tmp_path / 'stream.arrow')
    (tmp_path / 'a.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in ROWS))
    saved = write_saved(tmp_path / 'saved')
    for name in ('a.parquet', 'file.arrow', 'stream.arrow', 'a.jsonl', 'saved'):
        assert read(tmp_path / name) == ROWS, name
    assert [row.where for row in read_rows(str(tmp_path / 'a.parquet'))][19] == 'a.parquet row 20'
    assert [row.where for row in read_rows(f'{saved}/')][39] == 'saved row 40'


def test_columns_of_one_name_are_told_together_as_of_a_table(tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array(['a']), pyarrow.array([1]),
                                       pyarrow.array(['b'])], ['text', 'label', 'text'])
    with pyarrow.OSFile(str(tmp_path / 'a.arrow'), 'wb') as sink, pyarrow.ipc.new_stream(
            sink, table.schema) as out:
        out.write_table(table)
    assert read(tmp_path / 'a.arrow') == [{'text': ('a', 'b'), 'label': 1}]


@pytest.mark.parametrize('part', [0, 3, 0.3, 0.6, 0.9, -1, -8])
@pytest.mark.parametrize('kind', ['parquet', 'arrow'])
def test_what_is_cut_off_is_named_and_never_read_as_less(tmp_path, kind, part):
    path = tmp_path / f'a.{kind}'
    if kind == 'parquet':
        parquet.write_table(pyarrow.table(columns(ROWS)), path, row_group_size=7)
    else:
        write_stream(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:int(part * len(whole)) if 0 < part < 1 else part])
    with pytest.raises(ValueError, match=f'a.{kind} (cannot be read as|is no whole)'):
        read(path)


def test_a_broken_page_is_told_with_the_rows_before_it(tmp_path):
    path = tmp_path / 'a.parquet'
    rows = [{'text': f'{number} ' * 2000} for number in range(60)]
    parquet.write_table(pyarrow.table(columns(rows)), path, row_group_size=20, use_dictionary=False,
                        compression='gzip', write_page_checksum=True)
    start = parquet.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start + 60:start + 200] = bytes(140)
    path.write_bytes(content)
    with pytest.raises(ValueError, match='a.parquet cannot be read as Parquet'):
        read(path)


def test_another_kind_of_file_under_the_name_is_refused(write):
    for kind in ('parquet', 'arrow'):
        with pytest.raises(ValueError, match=f'a.{kind} (cannot be read as|is no whole)'):
            read(write(f'a.{kind}', 'text,label\nx,1\n' * 20))


def test_a_folder_of_several_splits_is_one_task(tmp_path):
    for split, rows in (('train', ROWS), ('validation', ROWS[:3]), ('test', ROWS[3:5])):
        write_saved(tmp_path / 'mine' / split, rows, shards=1)
    (tmp_path / 'mine' / 'dataset_dict.json').write_text(
        json.dumps({'splits': ['train', 'validation', 'test']}))
    task = file_task(tmp_path / 'mine', labels={0: 'even', 1: 'odd'})
    assert {split: len(task.rows(split)) for split in task.splits} == {
        'train': 40, 'validation': 3, 'test': 2}
    assert (task.name, task.label_words) == ('mine', ('even', 'odd'))


def test_files_named_by_their_split_are_one_task(tmp_path):
    data = tmp_path / 'hub' / 'data'
    data.mkdir(parents=True)
    for number in range(2):
        parquet.write_table(pyarrow.table(columns(ROWS[number * 20:][:20])),
                            data / f'train-0000{number}-of-00002.parquet')
    (data / 'dev.jsonl').write_text(json.dumps(ROWS[0]) + '\n')
    (data / 'notes.txt').write_text('')
    assert {split: len(paths) for split, paths in split_files(str(tmp_path / 'hub')).items()} == {
        'validation': 1, 'train': 2}
    task = file_task(tmp_path / 'hub', labels='auto')
    assert [row.columns for row in task.rows('train')] == ROWS
    assert len(task.rows('validation')) == 1 and 'test' not in task.splits


def test_a_saved_folder_without_splits_is_cut(tmp_path):
    task = file_task(write_saved(tmp_path / 'saved', ROWS * 2), labels='auto')
    assert sum(len(task.rows(split)) for split in task.splits) == len(ROWS)
    assert list(task.splits) == ['train', 'validation', 'test']


@pytest.mark.parametrize('kind', ['parquet', 'arrow', 'folder'])
@pytest.mark.parametrize('feature, words', [
    ({'_type': 'ClassLabel', 'names': ['ham', 'spam', 'other']}, ('ham', 'spam', 'other')),
    ({'_type': 'Value', 'dtype': 'int64'}, ('0', '1')), (None, ('0', '1')),
])
def test_labels_are_called_as_datasets_calls_them(tmp_path, kind, feature, words):
    features = {} if feature is None else {'label': feature}
    table = pyarrow.table(columns(ROWS * 3)).replace_schema_metadata(
        {'huggingface': json.dumps({'info': {'features': features}})})
    path = tmp_path / f'a.{kind}'
    if kind == 'parquet':
        parquet.write_table(table, path)
    else:
        if kind == 'folder':
            path = write_saved(tmp_path / 'saved', ROWS, shards=1)
        inside = path / 'data-00000-of-00001.arrow' if kind == 'folder' else path
        with pyarrow.OSFile(str(inside), 'wb') as sink, pyarrow.ipc.new_stream(
                sink, table.schema) as out:
            out.write_table(table)
    task = file_task(path, labels='auto')
    assert task.label_words == words
    assert {target for _, target in task.texts('train')} == set(words[:2])


@pytest.mark.parametrize('break_it, message', [
    (lambda saved: (saved / 'state.json').write_text('{"_data'), 'state.json is not JSON: Unterm'),
    (lambda saved: (saved / 'state.json').write_text('[]'), 'state.json is a JSON list; expected'),
    (lambda saved: (saved / 'state.json').write_text('{}'), 'state.json names no data files'),
    (lambda saved: (saved / 'data-00001-of-00002.arrow').unlink(),
     "saved lacks 'data-00001-of-00002.arrow' that its state.json names; copy the folder as a wh"),
    (lambda saved: (saved / 'state.json').write_text('{"_indices_data_files": ["a"]}'),
     'saved holds a selection of rows'),
])
def test_what_is_wrong_with_a_saved_folder_is_named(tmp_path, break_it, message):
    saved = write_saved(tmp_path / 'saved')
    break_it(saved)
    with pytest.raises(ValueError, match=message):
        read(saved)


def test_folders_that_lack_a_split_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no training data; expected .*; it holds 'a.txt'"):
        (tmp_path / 'a.txt').write_text('')
        file_task(tmp_path)
    (tmp_path / 'dataset_dict.json').write_text('{"splits": ["train"]}')
    with pytest.raises(ValueError, match="lacks the split 'train' that its dataset_dict.json name"):
        file_task(tmp_path)
