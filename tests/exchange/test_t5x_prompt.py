"""Prompts out of T5X checkpoints, written here by the libraries that T5X writes them with."""

import gzip
import json
import shutil

import ml_dtypes
import numpy as np
import pytest

from jax_prompt.exchange import t5x_prompt
from jax_prompt.exchange.prompts_in_out import import_prompt, inspect_prompt
from jax_prompt.exchange.t5x_prompt import read_t5x_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.weights.array_folder import Folder
from jax_prompt.weights.t5x_arrays import Model
from tests.exchange.opened import opened_model
from tests.weights.model_files import write_later_orbax, write_t5x
from tests.weights.t5x_files import NAME, write_native, write_orbax, write_zarr

ROWS = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
MODEL = opened_model('tiny', 'w', 'v', 6)


@pytest.fixture
def folder(tmp_path):
    return write_native(tmp_path / 'checkpoint_7', ROWS)


def edit_zarray(folder, **changes):
    path = folder / NAME / '.zarray'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_prompt_is_read_to_the_last_bit_wherever_it_stands(tmp_path):
    for place, folder in enumerate([
            write_native(tmp_path / 'a', ROWS), write_native(tmp_path / 'b', ROWS, inline=True),
            write_orbax(tmp_path / 'c', ROWS), tmp_path / 'a' / NAME]):
        assert read_t5x_prompt(folder).tobytes() == ROWS.tobytes(), place


def test_an_import_tells_where_it_comes_from(folder):
    imported = import_prompt(folder, MODEL, {'name': 'x'}, Layout('after'))
    assert imported.prompt.rows.tobytes() == ROWS.tobytes()
    assert imported.metadata.method == 'imported from the T5X checkpoint checkpoint_7'
    assert imported.metadata.layout == Layout('after')
    assert inspect_prompt(folder)['form'] == 't5x'


@pytest.mark.parametrize('inline', [False, True])
@pytest.mark.parametrize('dtype', [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_any_float_type_is_read(tmp_path, dtype, inline):
    stored = ROWS.astype(dtype)
    found = read_t5x_prompt(write_native(tmp_path / 'c', stored, inline))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, stored.astype(np.float32))


def test_of_all_arrays_the_prompt_alone_is_needed(tmp_path):
    tree = {'encoder': {'prompt': ROWS, 'kernel': 2 * ROWS}, 'decoder': {'kernel': 3 * ROWS}}
    write_t5x(tmp_path / 'checkpoint_7', tree)
    for other in ('target.encoder.kernel', 'target.decoder.kernel'):
        shutil.rmtree(tmp_path / 'checkpoint_7' / other)
    assert read_t5x_prompt(tmp_path / 'checkpoint_7').tobytes() == ROWS.tobytes()


def rename(new, also=None):
    """Edit a state: give the prompt another name, or put another beside it."""
    def edit(state):
        prompts = state['optimizer']['target']['encoder']['prompt']['prompt']
        prompts[new] = prompts['prompt']
        if also is None:
            del prompts['prompt']

    return edit


def test_another_name_can_be_given(tmp_path):
    folder = write_native(tmp_path / 'c', ROWS, inline=True, edit=rename('shared'))
    with pytest.raises(ValueError, match='no parameter named prompt among its 3: it is no prompt-'):
        read_t5x_prompt(folder)
    for name in ('encoder/prompt/prompt/shared', '/target/encoder/prompt/prompt/shared'):
        assert read_t5x_prompt(folder, name).tobytes() == ROWS.tobytes()
    with pytest.raises(ValueError, match="no parameter 'encoder/x'; found 'decoder/decoder_norm"):
        read_t5x_prompt(folder, 'encoder/x')


def test_of_several_prompts_none_is_chosen(tmp_path):
    def second(state):
        state['optimizer']['target']['decoder']['prompt'] = 2 * ROWS

    folder = write_native(tmp_path / 'c', ROWS, inline=True, edit=second)
    with pytest.raises(ValueError, match='2 prompts .*decoder/prompt.*; name .* --parameter'):
        read_t5x_prompt(folder)
    found = import_prompt(folder, MODEL, {}, parameter='decoder/prompt').prompt.rows
    assert (found == 2 * ROWS).all()


@pytest.mark.parametrize(('array', 'message'), [
    (ROWS[None], r'prompt of .* has shape \[1, 5, 6\]; expected \[rows, width'),
    (np.where(np.eye(5, 6), np.nan, ROWS), 'not finite'),
    (1e30 * ROWS, 'which no prompt does'),
])
@pytest.mark.parametrize('inline', [False, True])
def test_what_is_no_prompt_is_refused(tmp_path, inline, array, message):
    with pytest.raises(ValueError, match=message):
        read_t5x_prompt(write_native(tmp_path / 'c', array, inline))


@pytest.mark.parametrize('leaf', [3, 'a text', None, [1, 2], np.arange(6)])
def test_leaves_that_are_no_arrays_of_floats_are_refused(tmp_path, leaf):
    def edit(state):
        state['optimizer']['target']['encoder']['prompt']['prompt']['prompt'] = leaf

    folder = write_native(tmp_path / 'c', ROWS, inline=True, edit=edit)
    with pytest.raises(ValueError, match='encoder/prompt/prompt/prompt.* expected an array'):
        read_t5x_prompt(folder)


@pytest.mark.parametrize('orbax', [False, True])
def test_references_out_of_the_folder_are_refused(tmp_path, orbax):
    write_zarr(tmp_path, 'secret', ROWS)
    for place, path in enumerate(['../secret', '/etc', 'a/../../b', '..', '.', '', 'a\\b', 'a\0b',
                                  3, None, ['x']]):
        def edit(state, path=path):
            leaf = {'driver': 'zarr', 'kvstore': {'driver': 'file', 'path': path}}
            if orbax:
                leaf = f'PLACEHOLDER://{path}'
            state['optimizer']['target']['encoder']['prompt']['prompt']['prompt'] = leaf

        folder = write_native(tmp_path / f'c{place}', ROWS, edit=edit)
        with pytest.raises(ValueError, match='the name of a folder beside it|NOT_FOUND'):
            read_t5x_prompt(folder)


def test_the_two_statements_of_the_shape_must_agree(folder):
    edit_zarray(folder, shape=[4, 6], chunks=[4, 6])
    with pytest.raises(ValueError, match=r'<f4\[4, 6\], but its list of arrays says \[5, 6\]'):
        read_t5x_prompt(folder)


@pytest.mark.parametrize('changes', [
    dict(dtype='<i4'), dict(dtype='>f4'), dict(zarr_format=3), dict(compressor={'id': 'gzip'}),
    dict(shape=[5, -6]), dict(chunks=[5]), dict(chunks=[10**15, 6]),
    dict(shape=[10**15, 6], chunks=[10**15, 6])], ids=str)
def test_other_zarr_is_refused(tmp_path, changes):
    write_zarr(tmp_path, NAME, ROWS, compressor='zlib')
    edit_zarray(tmp_path, **changes)
    with pytest.raises(ValueError, match=f'{NAME}.*copy the checkpoint again|floating-point'):
        read_t5x_prompt(tmp_path / NAME)


def test_huge_sizes_are_refused_before_memory_is_asked_for(folder):
    edit_zarray(folder, shape=[10**9, 6])
    with pytest.raises(ValueError, match='over 256 MiB: no prompt is so large'):
        read_t5x_prompt(folder / NAME)


def test_a_chunk_that_is_not_there_is_no_chunk_of_zeros(tmp_path):
    write_zarr(tmp_path, NAME, ROWS, chunks=(2, 6))
    (tmp_path / NAME / '1.0').unlink()
    with pytest.raises(ValueError, match='cannot read the array .* is missing; copy the checkpoi'):
        read_t5x_prompt(tmp_path / NAME)


def test_damaged_chunks_are_refused(folder):
    for content in (b'', b'text', gzip.compress(b'\0' * 119),
                    gzip.compress(ROWS.tobytes())[:-9]):
        (folder / NAME / '0.0').write_bytes(content)
        with pytest.raises(ValueError, match="cannot read the array 'encoder/prompt/"):
            read_t5x_prompt(folder)


def test_missing_parts_are_named(folder):
    (folder / NAME / '.zarray').unlink()
    with pytest.raises(ValueError, match='cannot read the array .*.zarray" does not exist'):
        read_t5x_prompt(folder)
    (folder / 'checkpoint').unlink()
    with pytest.raises(FileNotFoundError, match=r'no T5X checkpoint at .*checkpoint_7: there is'):
        read_t5x_prompt(folder)
    with pytest.raises(FileNotFoundError, match='give one checkpoint, such as .*checkpoint_7$'):
        import_prompt(folder.parent, MODEL, {})


@pytest.mark.parametrize('options', [{}, dict(use_zarr3=True), dict(use_ocdbt=False)], ids=str)
def test_prompts_of_later_orbax_are_read(tmp_path, monkeypatch, options):
    tree = {'encoder': {'norm': {'scale': ROWS[0]}, 'prompt': {'prompt': {'prompt': ROWS}}}}
    write_later_orbax(tmp_path / 'checkpoint_9', tree, **options)
    imported = import_prompt(tmp_path / 'checkpoint_9', MODEL, {})
    assert imported.prompt.rows.tobytes() == ROWS.tobytes()
    monkeypatch.setattr(t5x_prompt, 'MOST_BYTES', ROWS.nbytes - 1)
    with pytest.raises(ValueError, match='no prompt is so large'):
        read_t5x_prompt(tmp_path / 'checkpoint_9')


def test_an_address_in_a_bucket_is_read_as_one(monkeypatch):
    asked = []

    def find_model(address):
        asked.append(address)
        return Model(Folder(address), {'encoder/prompt': ROWS})

    monkeypatch.setattr(t5x_prompt, 'find_model', find_model)
    monkeypatch.setattr(Folder, 'file', lambda *_: None)
    imported = import_prompt('gs://bucket/run/checkpoint_3000/', MODEL, {})
    assert asked == ['gs://bucket/run/checkpoint_3000/']
    assert imported.prompt.rows.tobytes() == ROWS.tobytes()
    assert imported.metadata.method == 'imported from the T5X checkpoint checkpoint_3000'


@pytest.mark.parametrize('version', [2, '3', None])
def test_other_versions_are_refused(tmp_path, version):
    folder = write_native(tmp_path / 'c', ROWS, edit=lambda state: state.update(version=version))
    with pytest.raises(ValueError, match=f'version {version!r} of T5X checkpoints; expected 3'):
        read_t5x_prompt(folder)


def test_what_is_no_t5x_checkpoint_is_named(tmp_path):
    for content, message in (
            (b'model_checkpoint_path: "model.ckpt-0"\n', 'checkpoint is no T5X checkpoint'),
            (b'\x81\xa6target' + b'\x81\xa1a' * 900 + b'\xc0', 'expected an array|is no T5X')):
        (tmp_path / 'checkpoint').write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_t5x_prompt(tmp_path)
