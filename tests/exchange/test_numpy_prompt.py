"""Numpy files of prompts: any float type, any name; and the words that rows are near."""

import json
import os

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jax_prompt.exchange.numpy_prompt import read_numpy_prompt
from jax_prompt.exchange.prompts_in_out import (
    export_prompt,
    import_prompt,
    inspect_prompt,
)
from jax_prompt.prompts.file import PromptFile, PromptMetadata, check_prompt, save_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.nearest import nearest_words
from jax_prompt.prompts.prompt import Prompt
from tests.exchange.opened import opened_model

ROWS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
MODEL = opened_model('tiny', 'w', 'v', 4)
METADATA = PromptMetadata(
    base_model='tiny', base_model_fingerprint='w', vocabulary_fingerprint='v', task={'name': 'x'},
    layout=Layout('after'), method='direct', step=1, metrics={'loss': 0.5}, seed=0)


def save(path, array):
    with open(path, 'wb') as file:  # numpy.save appends a suffix to names without
        np.save(file, array)
    return path


def written(path, rows, overwrite=False):
    return export_prompt(PromptFile(Prompt(rows), METADATA), path, 'numpy', overwrite=overwrite)


@pytest.mark.parametrize('name', ['prompt.npy', 'encoder.prompt.prompt.prompt', 'prompt'])
@pytest.mark.parametrize('dtype', ['<f4', '>f4', '<f8', '>f8', '<f2', ml_dtypes.bfloat16], ids=str)
def test_any_float_type_under_any_name_is_read(tmp_path, name, dtype):
    stored = ROWS.astype(dtype)
    prompt_PD = read_numpy_prompt(save(tmp_path / name, stored))
    assert prompt_PD.dtype == np.float32 and prompt_PD.flags.writeable
    np.testing.assert_array_equal(prompt_PD, stored.astype(np.float32))


@pytest.mark.parametrize('array', [ROWS, np.asfortranarray(ROWS), ROWS[:, ::2]])
def test_float32_is_read_to_the_last_bit_whatever_its_order(tmp_path, array):
    assert read_numpy_prompt(save(tmp_path / 'p', array)).tobytes() == array.tobytes()


def test_the_folder_of_a_training_checkpoint_means_the_file_in_it(tmp_path):
    folder = tmp_path / 'numpy_checkpoints' / 'checkpoint_3000'
    folder.mkdir(parents=True)
    save(folder / 'encoder.prompt.prompt.prompt', ROWS)
    (folder / 'notes.txt').write_text('beside it')
    imported = import_prompt(folder, MODEL, {})
    assert imported.prompt.rows.tobytes() == ROWS.tobytes()
    save(folder / 'other', ROWS)
    with pytest.raises(ValueError, match="2 numpy files .'encoder.prompt.*', 'other'.; gi"):
        import_prompt(folder, MODEL, {})


def test_an_import_says_what_the_caller_said_and_where_it_comes_from(tmp_path):
    task, layout = {'name': 'sst2', 'labels': {'0': 'negative'}}, Layout('around')
    imported = import_prompt(save(tmp_path / 'sst2.npy', ROWS), MODEL, task, layout)
    metadata = imported.metadata
    assert metadata.method == 'imported from the numpy file sst2.npy'
    assert metadata.task == task and metadata.layout == layout and metadata.metrics == {}
    check_prompt(imported, d_model=4, model_name='tiny', model_fingerprint='w',
                 vocabulary_fingerprint='v')


def test_out_and_in_again_changes_no_bit(tmp_path):
    odd = np.array([[-0.0, 1e-45, 3e7, 1 / 3]], np.float32)
    path = export_prompt(PromptFile(Prompt(odd), METADATA), tmp_path / 'odd', 'numpy')
    assert path == tmp_path / 'odd' and os.listdir(tmp_path) == ['odd']
    assert np.load(path).tobytes() == odd.tobytes()  # numpy itself
    assert import_prompt(path, MODEL, {}).prompt.rows.tobytes() == odd.tobytes()


def test_a_file_is_replaced_only_when_told(tmp_path):
    path = written(tmp_path / 'p.npy', ROWS)
    with pytest.raises(FileExistsError, match=r'file .*p\.npy exists already; choose another'):
        written(path, 2 * ROWS)
    assert (read_numpy_prompt(path) == ROWS).all()
    written(path, 2 * ROWS, overwrite=True)
    assert (read_numpy_prompt(path) == 2 * ROWS).all()
    (tmp_path / 'folder').mkdir()
    with pytest.raises(FileExistsError, match='is no file'):
        written(tmp_path / 'folder', ROWS, overwrite=True)


def test_links_stay_links(tmp_path):
    target = written(tmp_path / 'target', ROWS)
    (tmp_path / 'link').symlink_to(target)
    written(tmp_path / 'link', 2 * ROWS, overwrite=True)
    assert (tmp_path / 'link').is_symlink() and (read_numpy_prompt(target) == 2 * ROWS).all()
    (tmp_path / 'dangling').symlink_to(tmp_path / 'nowhere')
    with pytest.raises(FileExistsError, match='link to nothing'):
        written(tmp_path / 'dangling', ROWS, overwrite=True)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError('disk full')

    path = written(tmp_path / 'p.npy', ROWS)
    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match='disk full'):
        written(path, 2 * ROWS, overwrite=True)
    assert (read_numpy_prompt(path) == ROWS).all() and os.listdir(tmp_path) == ['p.npy']


@pytest.mark.parametrize(('array', 'message'), [
    (ROWS.astype(np.int32), 'holds int32, not floats'),
    (ROWS.astype(np.complex64), 'holds complex64, not floats'),
    (ROWS[0], r'has shape \[4\]; expected \[rows, width'),
    (ROWS[None], r'has shape \[1, 3, 4\]; expected \[rows, width'),
    (ROWS[:0], r'has shape \[0, 4\]; expected \[rows, width'),
    (np.zeros((20000, 4), np.float16), '20000 rows; expected at most 16384: is it an embedding ta'),
    (np.where(np.eye(3, 4, -1), np.inf, ROWS), 'not finite in float32, first in row 1'),
    (1e200 * ROWS.astype(np.float64), 'not finite in float32, first in row 0'),
    (1e30 * ROWS, 'as large as .*e.30, which no prompt does'),
    (np.array([[{}]], object), 'no readable numpy array of numbers'),
])
def test_arrays_that_are_no_prompt_are_refused(tmp_path, array, message):
    with pytest.raises(ValueError, match=rf'prompt-file .*{message}'):
        read_numpy_prompt(save(tmp_path / 'prompt-file', array))


def test_a_wrong_byte_order_does_not_go_unseen(tmp_path):
    """One flipped bit of a numpy header turns '<f4' into '>f4', and no checksum tells."""
    content = save(tmp_path / 'p', ROWS).read_bytes()
    (tmp_path / 'p').write_bytes(content.replace(b"'<f4'", b"'>f4'"))
    with pytest.raises(ValueError, match='byte order|not finite'):
        read_numpy_prompt(tmp_path / 'p')


def test_another_width_and_missing_files_are_named(tmp_path):
    path = save(tmp_path / 'p.npy', ROWS)
    with pytest.raises(ValueError, match=r'p\.npy has D=4 but t5 has D=768; give the model'):
        import_prompt(path, opened_model('t5', 'w', 'v', 768), {})
    with pytest.raises(FileNotFoundError, match='no prompt at .*none.npy: no such file'):
        import_prompt(tmp_path / 'none.npy', MODEL, {})
    with pytest.raises(ValueError, match='cannot read numpy file .*none.npy: No such file'):
        read_numpy_prompt(tmp_path / 'none.npy')
    with pytest.raises(ValueError, match='Is no file'):
        read_numpy_prompt(tmp_path.parent)
    (tmp_path / 'text').write_text('1 2 3')
    with pytest.raises(ValueError, match='text cannot be imported: it is no numpy file'):
        import_prompt(tmp_path / 'text', MODEL, {})
    with pytest.raises(ValueError, match='text is no readable numpy array'):
        read_numpy_prompt(tmp_path / 'text')
    with pytest.raises(ValueError, match='chooses of several prompts, but .* is read as numpy'):
        import_prompt(path, MODEL, {}, parameter='encoder/prompt')


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(ValueError, match='pipe'):
        read_numpy_prompt(tmp_path / 'pipe')


# The nearest words

TABLE = np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32)


@pytest.mark.parametrize('table', [TABLE, jnp.asarray(TABLE), TABLE.astype(ml_dtypes.bfloat16)],
                         ids=['numpy', 'jax', 'bfloat16'])
def test_a_row_along_an_embedding_is_nearest_to_it_however_long(table):
    prompt_PD = np.float32([[700], [0.01], [-1]]) * TABLE[[7, 39, 12]]
    ids, cosines = nearest_words(prompt_PD, table, count=2)
    assert ids.dtype == np.int32 and ids.shape == cosines.shape == (3, 2)
    assert ids[:2, 0].tolist() == [7, 39] and ids[2, 0] != 12
    np.testing.assert_allclose(cosines[:2, 0], 1, atol=1e-2)
    assert (cosines[:, 0] >= cosines[:, 1]).all()


def test_the_blocks_of_the_table_give_what_the_whole_gives(monkeypatch):
    from jax_prompt.prompts import nearest
    whole = nearest_words(ROWS, TABLE, count=6)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (ROWS, TABLE)]
    cosines = unit[0] @ unit[1].T
    np.testing.assert_array_equal(whole[0], 3 + np.argsort(-cosines[:, 3:], axis=1)[:, :6])
    np.testing.assert_allclose(whole[1], -np.sort(-cosines[:, 3:], axis=1)[:, :6], rtol=1e-5)
    monkeypatch.setattr(nearest, '_BLOCK_ROWS', 5)
    np.testing.assert_array_equal(nearest_words(ROWS, TABLE, count=6)[0], whole[0])


def test_special_and_padding_ids_are_no_words_and_the_lowest_of_equals_comes_first():
    table = np.ones((300, 2), np.float32)
    table[::7] = -1
    ids, cosines = nearest_words(np.ones((1, 2), np.float32), table, count=200, num_words=290)
    assert ids[0].tolist() == [i for i in range(3, 290) if i % 7][:200]
    assert nearest_words(table[1:2], table, num_words=5)[0].tolist() == [[3, 4]]
    np.testing.assert_allclose(cosines, 1, rtol=1e-6)


def test_rows_of_zeros_are_near_nothing():
    huge = np.full((1, 4), np.finfo(np.float32).max)
    np.testing.assert_allclose(nearest_words(huge, huge, num_special_ids=0)[1], [[1]], rtol=1e-6)
    _, cosines = nearest_words(np.zeros((1, 4), np.float32), TABLE)
    assert not cosines.any()


def test_nearest_words_of_what_does_not_fit_are_refused():
    with pytest.raises(ValueError, match=r'shape \[3, 4\] but the embedding table \[40, 3\]'):
        nearest_words(ROWS, TABLE[:, :3])
    with pytest.raises(ValueError, match='count=0'):
        nearest_words(ROWS, TABLE, count=0)


def test_an_inspection_tells_everything_as_json(tmp_path):
    save_prompt(tmp_path / 'p.safetensors', PromptFile(Prompt(100 * TABLE[5:7]), METADATA))
    told = inspect_prompt(tmp_path / 'p.safetensors', TABLE, word=lambda i: f'word{i}', count=2)
    told = json.loads(json.dumps(told))
    assert told['form'] == 'prompt file' and (told['rows'], told['width']) == (2, 4)
    assert told['metadata']['task'] == {'name': 'x'} and told['metadata']['metrics'] == {
        'loss': 0.5}
    assert told['metadata']['layout']['placement'] == 'after'
    np.testing.assert_allclose(told['row_norms'], 100 * np.linalg.norm(TABLE[5:7], axis=1),
                               rtol=1e-6)
    assert [len(row) for row in told['nearest']] == [2, 2]
    assert told['nearest'][0][0] == {'id': 5, 'cosine': 1.0, 'word': 'word5'}


def test_files_of_others_can_be_inspected_too(tmp_path):
    told = inspect_prompt(save(tmp_path / 'p', ROWS), TABLE)
    assert told['form'] == 'numpy' and 'metadata' not in told
    assert told['origin'] == 'imported from the numpy file p'
    assert set(told['nearest'][0][0]) == {'id', 'cosine'}
    adapter = export_prompt(PromptFile(Prompt(ROWS), PromptMetadata(**{
        **METADATA.__dict__, 'layout': Layout()})), tmp_path / 'a', 'peft')
    assert inspect_prompt(adapter)['form'] == 'peft'
    assert 'nearest' not in inspect_prompt(adapter)
