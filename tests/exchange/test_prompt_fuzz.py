"""Every loader of prompts against damaged and hostile files.

Refused in one clear line, or loaded with just what was saved: never a crash, a hang, code that is
run, memory that a header asks for, or other numbers without a word. One thing cannot be seen in
formats that have no checksum (numpy, safetensors, arrays inside msgpack): damage to the numbers
themselves. There the loader may give the same prompt with the damaged numbers, and nothing else.
"""

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable

import numpy as np
import pytest

from jax_prompt.exchange import peft
from jax_prompt.exchange.prompts_in_out import (
    export_prompt,
    import_prompt,
    inspect_prompt,
)
from jax_prompt.prompts.file import PromptFile, PromptMetadata, load_prompt, save_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt
from tests.exchange.opened import opened_model
from tests.weights import fuzzing
from tests.weights.t5x_files import NAME, write_native, write_orbax

ROWS = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
MODEL = opened_model('tiny', 'w', 'v', 6)
PROMPT = PromptFile(Prompt(ROWS), PromptMetadata(
    base_model='google/t5-tiny', base_model_fingerprint='w', vocabulary_fingerprint='v',
    task={'name': 'x'}, layout=Layout(), method='direct', step=1, metrics={}, seed=0))
#: A mutation overwrites eight bytes at most in place: parts of three numbers.
MOST_DAMAGED = 3


def imported(path) -> np.ndarray:
    return import_prompt(path, MODEL, {}).prompt.rows


def ours(path):
    loaded = load_prompt(path)
    return loaded.prompt.rows, loaded.metadata.to_strings()


def numpy_file(folder):
    np.save(folder / 'p.npy', ROWS)
    return folder / 'p.npy', folder / 'p.npy'


def numpy_folder(folder):
    np.save(folder / 'p.npy', ROWS)
    os.rename(folder / 'p.npy', folder / 'encoder.prompt.prompt.prompt')
    return folder, folder / 'encoder.prompt.prompt.prompt'


def t5x(folder, inline=False, name='checkpoint', write=write_native):
    options = {'inline': True} if inline else {}
    return write(folder / 'checkpoint_7', ROWS, **options), folder / 'checkpoint_7' / name


def adapter(folder, name):
    return export_prompt(PROMPT, folder / 'adapter', 'peft'), folder / 'adapter' / name


def torch_adapter(folder):
    root, _ = adapter(folder, peft.CONFIG)
    (root / peft.WEIGHTS).unlink()
    (root / peft.PICKLED).write_bytes(torch_file(torch_pickle()))
    return root, root / peft.PICKLED


def torch_pickle() -> bytes:
    """Return the pickle of {'prompt_embeddings': ROWS} as torch.save writes it, by hand."""
    def text(value):
        return b'X' + len(value).to_bytes(4, 'little') + value.encode()

    storage = (b'(' + text('storage') + b'ctorch\nFloatStorage\n' + text('0') + text('cpu')
               + b'K' + bytes([ROWS.size]) + b'tQ')
    return (b'\x80\x02}(' + text('prompt_embeddings') + b'ctorch._utils\n_rebuild_tensor_v2\n('
            + storage + b'K\x00K\x05K\x06\x86K\x06K\x01\x86\x89ccollections\nOrderedDict\n)RtRu.')


def torch_file(content: bytes) -> bytes:
    """Return the zip that torch.save makes around a pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('adapter_model/data.pkl', content)
        archive.writestr('adapter_model/byteorder', 'little')
        archive.writestr('adapter_model/data/0', ROWS.tobytes())
        archive.writestr('adapter_model/version', '3\n')
    return buffer.getvalue()


#: name -> (make in a folder -> (what to load, the file to damage), has it a checksum of all)
KINDS: dict[str, tuple[Callable, bool]] = {
    'numpy file': (numpy_file, False),
    'numpy folder': (numpy_folder, False),
    'T5X inline': (lambda folder: t5x(folder, inline=True), False),
    'T5X references': (t5x, True),
    'T5X Orbax references': (lambda folder: t5x(folder, write=write_orbax), True),
    'T5X .zarray': (lambda folder: t5x(folder, name=f'{NAME}/.zarray'), True),
    'T5X chunk': (lambda folder: t5x(folder, name=f'{NAME}/0.0'), True),
    'PEFT configuration': (lambda folder: adapter(folder, peft.CONFIG), True),
    'PEFT safetensors': (lambda folder: adapter(folder, peft.WEIGHTS), False),
    'PEFT torch file': (torch_adapter, True),
}


def assert_bounded(path, original, name, checksum):
    """Check one damaged file; without a checksum, a few numbers may differ and no shape."""
    if checksum:
        return fuzzing.assert_refused_or_equal(imported, path, original, name)
    kept = []

    def load(path):
        prompt_PD = imported(path)
        if prompt_PD.shape == original.shape:
            wrong = prompt_PD.view(np.uint32) != original.view(np.uint32)
            if wrong.sum() <= MOST_DAMAGED:
                kept.append(int(wrong.sum()))
                return original
        return prompt_PD

    return fuzzing.assert_refused_or_equal(load, path, original, name)


#: Random damages of each sort: a few in every run, many in the long campaign.
campaigns = pytest.mark.parametrize('samples', [
    pytest.param(6, id='few'), pytest.param(60, id='many', marks=pytest.mark.slow)])


@campaigns
@pytest.mark.parametrize('kind', KINDS)
def test_damage_is_refused_or_harmless(tmp_path, kind, samples):
    make, checksum = KINDS[kind]
    source, damaged = make(tmp_path)
    assert imported(source).tobytes() == ROWS.tobytes()
    content = damaged.read_bytes()
    damages = list(fuzzing.mutations(content, samples=samples))
    refusals = 0
    with fuzzing.little_memory():
        for name, mutated in damages:
            damaged.write_bytes(mutated)
            refusals += assert_bounded(source, ROWS, name, checksum) is not None
    assert refusals > len(damages) // 2
    damaged.write_bytes(content)
    assert imported(source).tobytes() == ROWS.tobytes()


@campaigns
def test_damage_to_our_own_file_is_always_seen(tmp_path, samples):
    path = tmp_path / 'p.safetensors'
    save_prompt(path, PROMPT)
    original, content = ours(path), path.read_bytes()
    with fuzzing.little_memory():
        for name, mutated in fuzzing.mutations(content, samples=samples):
            path.write_bytes(mutated)
            fuzzing.assert_refused_or_equal(ours, path, original, name)
            with pytest.raises(fuzzing.REFUSALS):
                imported(path)
            fuzzing.assert_refused_or_equal(lambda path: inspect_prompt(path)['row_norms'], path,
                                            np.linalg.norm(ROWS, axis=1).tolist(), name)


@pytest.mark.parametrize('kind', KINDS)
def test_a_damaged_file_is_named_in_the_refusal(tmp_path, kind):
    source, damaged = KINDS[kind][0](tmp_path)
    damaged.write_bytes(damaged.read_bytes()[:-9])
    message = fuzzing.assert_refused(imported, source)
    assert str(damaged) in message or str(source) in message


@pytest.mark.parametrize('kind', KINDS)
def test_what_is_no_file_is_neither_read_nor_waited_for(tmp_path, kind):
    source, damaged = KINDS[kind][0](tmp_path)
    damaged.unlink()
    damaged.mkdir()
    fuzzing.assert_refused(imported, source, 'a folder')
    damaged.rmdir()
    fuzzing.assert_refused(imported, source, 'nothing')
    if damaged.parent.name == NAME:
        return  # TensorStore waits for a pipe
    os.mkfifo(damaged)
    fuzzing.assert_refused(imported, source, 'a pipe')
    for target in (damaged, '/dev/zero'):
        damaged.unlink()
        damaged.symlink_to(target)
        fuzzing.assert_refused(imported, source, f'a link to {target}')


# Hostile files


def object_array(mark) -> bytes:
    array = np.empty((5, 6), object)
    array[:] = fuzzing.Writes(mark)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz(mark) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('arr_0.npy', object_array(mark))
    return buffer.getvalue()


HOSTILE = {
    'a pickle': fuzzing.marked_pickle,
    'a pickle of protocol 5': lambda mark: fuzzing.marked_pickle(mark, 5),
    'a numpy array of objects': object_array,
    'a zip of a numpy array of objects': npz,
    'a torch file that is a program': lambda mark: torch_file(fuzzing.marked_pickle(mark)),
    'a torch file with a program inside': lambda mark: torch_file(
        torch_pickle()[:-2] + b'X\x01\x00\x00\x00a'
        + fuzzing.marked_pickle(mark)[2:-1] + b'su.'),
}


@pytest.mark.parametrize('kind', KINDS)
def test_no_code_in_a_file_is_run(tmp_path, kind):
    source, damaged = KINDS[kind][0](tmp_path)
    mark = tmp_path.with_name('code was run')
    for hostile, content in HOSTILE.items():
        damaged.write_bytes(content(mark))
        fuzzing.assert_refused(imported, source, hostile, mark)
        fuzzing.assert_refused(inspect_prompt, source, hostile, mark)


def test_the_hostile_files_would_do_harm_where_they_are_unpickled(tmp_path):
    mark = tmp_path / 'mark'
    pickle.loads(fuzzing.marked_pickle(mark))
    assert mark.exists()
    mark.unlink()
    np.load(io.BytesIO(object_array(mark)), allow_pickle=True)
    assert mark.exists()


@pytest.mark.parametrize('shape', [
    '(1000000000000000, 6)', '(1000000000000000, 1000000000000000)', '(-5, 6)', '(5, 7)', '(6, 6)',
    '(4, 6)', '(5, 5)', '(0, 6)', '(30,)', '(5, 6, 1)', '()', '(5, 6.0)', '(5, None)',
    '5', '[5, 6]', '(5, 6)' + ')' * 50])
def test_shapes_that_a_numpy_header_declares_are_not_believed(tmp_path, shape):
    header = fuzzing.npy_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}")
    (tmp_path / 'p.npy').write_bytes(header + ROWS.tobytes())
    with fuzzing.little_memory():
        fuzzing.assert_refused(imported, tmp_path / 'p.npy', shape)


@pytest.mark.parametrize('dtype', ['<i4', '|O', '<U1', '|S4', '<c8', '>u4', '|b1', '|V4', '<M8[s]',
                                   '[("a", "<f4")]', '<f16', 'f4,f4', '<f4' * 30])
def test_other_dtypes_in_a_numpy_header_are_refused(tmp_path, dtype):
    header = fuzzing.npy_header(f"{{'descr': '{dtype}', 'fortran_order': False, "
                                "'shape': (5, 6)}")
    (tmp_path / 'p.npy').write_bytes(header + ROWS.tobytes())
    fuzzing.assert_refused(imported, tmp_path / 'p.npy', dtype)


@pytest.mark.parametrize('entry', [
    {'dtype': 'F32', 'shape': [5, 6], 'data_offsets': [0, 2**62]},
    {'dtype': 'F32', 'shape': [10**15, 6], 'data_offsets': [0, 24 * 10**15]},
    {'dtype': 'F32', 'shape': [2**62, 2**62], 'data_offsets': [0, 120]},
    {'dtype': 'F32', 'shape': [5, -6], 'data_offsets': [0, 120]},
    {'dtype': 'F32', 'shape': [6, 5], 'data_offsets': [0, 120]},
    {'dtype': 'F32', 'shape': [30], 'data_offsets': [0, 120]},
    {'dtype': 'F32', 'shape': [5, 6, 1], 'data_offsets': [0, 120]},
    {'dtype': 'F16', 'shape': [5, 6], 'data_offsets': [0, 120]},
    {'dtype': 'I32', 'shape': [5, 6], 'data_offsets': [0, 120]},
    {'dtype': 'F8_E4M3', 'shape': [5, 24], 'data_offsets': [0, 120]},
    {'dtype': 'X', 'shape': [5, 6], 'data_offsets': [0, 120]},
    {'dtype': 'F32', 'shape': [5, 6], 'data_offsets': [-120, 0]},
    {'dtype': 'F32', 'shape': [5, 6], 'data_offsets': [8, 128]},
    {}, 3, None], ids=str)
def test_headers_of_safetensors_that_do_not_hold_are_refused(tmp_path, entry):
    source, damaged = adapter(tmp_path, peft.WEIGHTS)
    header = json.dumps({'prompt_embeddings': entry}).encode()
    damaged.write_bytes(fuzzing.safetensors_header(header) + ROWS.tobytes())
    with fuzzing.little_memory():
        fuzzing.assert_refused(imported, source, str(entry))


@pytest.mark.parametrize('length', [0, 1, 2**31, 2**62, 2**64 - 1])
def test_the_length_of_a_safetensors_header_is_not_believed(tmp_path, length):
    source, damaged = adapter(tmp_path, peft.WEIGHTS)
    content = damaged.read_bytes()
    damaged.write_bytes(length.to_bytes(8, 'little') + content[8:])
    with fuzzing.little_memory():
        fuzzing.assert_refused(imported, source, str(length))


def test_a_link_within_an_adapter_is_followed_as_caches_have_them(tmp_path):
    source, weights = adapter(tmp_path, peft.WEIGHTS)
    shutil.move(weights, tmp_path / 'blob')
    weights.symlink_to(tmp_path / 'blob')
    assert imported(source).tobytes() == ROWS.tobytes()
