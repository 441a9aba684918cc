"""pytorch_model.bin is read without PyTorch, and nothing in it is ever run."""

import collections
import io
import json
import pickle
import shutil
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

from jax_prompt.weights.load import load_weights
from jax_prompt.weights.tensors import RawFile
from jax_prompt.weights.torch_files import open_torch
from jax_prompt.weights.torch_pickle import interpret
from tests.models.t5.random_weights import to_hugging_face
from tests.weights import fuzzing, make_torch_golden
from tests.weights.model_files import assert_same_tree


def read_all(path) -> dict[str, np.ndarray]:
    with RawFile(path) as file:
        return {name: tensor.read(0, tensor.shape[0]) for name, tensor in open_torch(file).items()}


@pytest.fixture
def golden_folder(tmp_path, config_json):
    """A model folder with weights that a real torch.save wrote."""
    shutil.copyfile(make_torch_golden.PATH, tmp_path / 'pytorch_model.bin')
    (tmp_path / 'config.json').write_text(json.dumps(config_json(make_torch_golden.CONFIG)))
    return tmp_path


def test_a_file_of_torch_save_is_read_without_torch(golden_folder):
    torch_before = 'torch' in sys.modules
    model = load_weights(golden_folder)
    assert ('torch' in sys.modules) == torch_before
    got = to_hugging_face(model.frozen, model.config)
    expected = make_torch_golden.numbers()
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array)


def test_the_golden_file_is_what_torch_writes_today(tmp_path, monkeypatch):
    pytest.importorskip('torch')
    monkeypatch.setattr(make_torch_golden, 'PATH', tmp_path / 'new.bin')
    make_torch_golden.main()
    monkeypatch.undo()
    new, kept = (read_all(path) for path in (tmp_path / 'new.bin', make_torch_golden.PATH))
    assert new.keys() == kept.keys()
    assert all(np.array_equal(new[name], kept[name]) for name in new)


def test_safetensors_go_first(golden_folder, plain_config, random_tree, hugging_face_folder):
    frozen = random_tree(plain_config)
    folder = hugging_face_folder(frozen, plain_config)
    shutil.copyfile(golden_folder / 'pytorch_model.bin', folder / 'pytorch_model.bin')
    assert_same_tree(load_weights(folder).frozen, frozen)


@pytest.mark.parametrize('protocol', [2, 4, 5])
@pytest.mark.parametrize('checksums', [True, False])
def test_every_way_torch_saves(protocol, checksums, tmp_path):
    torch = pytest.importorskip('torch')
    table = torch.arange(24.0).reshape(4, 6)
    module = torch.nn.Linear(3, 4)
    tensors = module.state_dict()  # an OrderedDict with attributes
    tensors |= {'turned': table.T, 'part': table[1:3], 'inner': table[:, 2:4], 'same': table,
                'half': table.half(), 'bfloat16': table.bfloat16(), 'double': table.double(),
                'parameter': torch.nn.Parameter(table), 'vector': table[:, 1]}
    torch.serialization.set_crc32_options(checksums)
    try:
        torch.save(tensors, tmp_path / 'x.bin', pickle_protocol=protocol)
    finally:
        torch.serialization.set_crc32_options(True)
    got = read_all(tmp_path / 'x.bin')
    assert got.keys() == tensors.keys()
    for name, tensor in tensors.items():
        wanted = tensor.detach()
        assert got[name].dtype == {torch.bfloat16: ml_dtypes.bfloat16}.get(
            wanted.dtype, str(wanted.dtype).removeprefix('torch.'))
        np.testing.assert_array_equal(got[name].astype(np.float64), wanted.double().numpy())


def test_rows_are_read_by_themselves(golden_folder):
    whole = read_all(golden_folder / 'pytorch_model.bin')
    with RawFile(golden_folder / 'pytorch_model.bin') as file:
        for name, tensor in open_torch(file).items():
            rows = [tensor.read(row, row + 1) for row in range(tensor.shape[0])]
            np.testing.assert_array_equal(np.concatenate(rows), whole[name])


def test_a_checksum_is_compared_once_whichever_thread_comes_first(tmp_path, monkeypatch):
    """Rows of a large tensor are read in several threads, each of which may be the first."""
    numbers = np.arange(2**23, dtype=np.float32)
    write_zip(tmp_path / 'x.bin', pickled({'a': tensor(count=2**23, shape=(2**10, 2**13),
                                                       strides=(2**13, 1))}),
              {'0': numbers.tobytes()})
    monkeypatch.setattr('jax_prompt.weights.tensors._PASSING_BYTES', 2**16)
    with RawFile(tmp_path / 'x.bin') as file, ThreadPoolExecutor(8) as pool:
        read = open_torch(file)['a'].read
        rows = list(pool.map(lambda row: read(row, row + 1), range(2**10)))
    np.testing.assert_array_equal(np.concatenate(rows).reshape(-1), numbers)


def test_the_format_of_before_1_6_is_refused(tmp_path):
    torch = pytest.importorskip('torch')
    torch.save({'a': torch.ones(2)}, tmp_path / 'x.bin', _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=(
            'x.bin is in the format of PyTorch before 1.6, which cannot be read without running '
            r'what it says; .*torch.save\(torch.load\(.*weights_only=True')):
        read_all(tmp_path / 'x.bin')


def write_zip(path, content, storages=(), **kinds):
    """Write what torch.save would, with any pickle."""
    with zipfile.ZipFile(path, 'w', kinds.get('compression', zipfile.ZIP_STORED)) as archive:
        archive.writestr('archive/data.pkl', content)
        for key, numbers in dict(storages).items():
            archive.writestr(f'archive/data/{key}', numbers)
        archive.writestr('archive/byteorder', kinds.get('byteorder', 'little'))
    return path


class _Named:
    """Pickled as a global of any name, as PyTorch's functions and types are."""

    def __init__(self, module, name):
        self.text = f'{module}\n{name}\n'


class _Storage:
    def __init__(self, kind, key, count):
        self.identity = ('storage', _Named('torch', kind), key, 'cpu', count)


class _Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class _Pickler(pickle._Pickler):
    """Pickles the stand-ins above as the names they stand for; Python's own pickler, in Python."""

    def persistent_id(self, value):
        return value.identity if isinstance(value, _Storage) else None

    def save(self, value, save_persistent_id=True):
        if isinstance(value, _Named):
            self.write(b'c' + value.text.encode())
        elif isinstance(value, _Call):
            self.save(value.function)
            self.save(value.arguments)
            self.write(pickle.REDUCE)
        else:
            super().save(value, save_persistent_id)


def pickled(value) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, 2).dump(value)
    return buffer.getvalue()


def tensor(key='0', count=4, offset=0, shape=(2, 2), strides=(2, 1), kind='FloatStorage'):
    return _Call(_Named('torch._utils', '_rebuild_tensor_v2'), _Storage(kind, key, count), offset,
                 shape, strides, False, _Call(_Named('collections', 'OrderedDict')))


FOUR = {'0': np.arange(4, dtype=np.float32).tobytes()}


def test_the_stand_ins_write_what_is_read(tmp_path):
    write_zip(tmp_path / 'x.bin', pickled({'a': tensor(), 'b': tensor(offset=1, shape=(3,),
                                                                      strides=(1,))}), FOUR)
    got = read_all(tmp_path / 'x.bin')
    np.testing.assert_array_equal(got['a'], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(got['b'], [1, 2, 3])


@pytest.mark.parametrize('function', ['os system', 'builtins eval', 'builtins __import__',
                                      'posix system', 'torch load', 'torch._utils _rebuild_tensor',
                                      'torch.jit._pickle restore_type_tag', 'numpy.core.multiarray '
                                      '_reconstruct', 'collections OrderedDict.fromkeys'])
def test_no_other_name_is_followed(function, tmp_path):
    content = pickled({'a': _Call(_Named(*function.split()), 'touch ran')})
    path = write_zip(tmp_path / 'x.bin', content, FOUR)
    with pytest.raises(ValueError, match=r"its pickle names '.*', which no state dict needs \(a "
                                         'pickle can run code'):
        read_all(path)


@pytest.mark.parametrize('protocol', range(6))
def test_a_pickle_that_would_run_code_is_not_run(protocol, tmp_path):
    mark = tmp_path / 'ran'
    content = fuzzing.marked_pickle(mark, protocol)
    pickle.loads(content)  # it does run code
    assert mark.exists()
    mark.unlink()
    path = write_zip(tmp_path / 'x.bin', content, FOUR)
    assert 'x.bin is not read: its pickle' in fuzzing.assert_refused(read_all, path, mark=mark)
    path.write_bytes(content)
    message = fuzzing.assert_refused(read_all, path, mark=mark)
    assert 'bare pickle' in message or 'not a zip' in message


def test_no_instruction_but_those_of_state_dicts_is_followed():
    """Of Python's 68 pickle instructions, those that make or change objects are unknown here."""
    for name, content in {
            'INST': b'(ios\nsystem\n.', 'OBJ': b'(cos\nsystem\no.', 'EXT1': b'\x82\x01.',
            'NEWOBJ': b'ccollections\nOrderedDict\n)\x81.', 'PERSID': b'Pabc\n.',
            'NEXT_BUFFER': b'\x97.', 'BYTEARRAY8': b'\x96' + bytes(8) + b'.'}.items():
        with pytest.raises(ValueError, match='has the instruction|names'):
            interpret(content)
            pytest.fail(name)


@pytest.mark.parametrize('before, after', [(b'}', b'K\x01s.'), (b'', b'\x93.'),
                                           (b'', b'X\1\0\0\0a\x93.')])
def test_tuples_that_nest_are_neither_hashed_nor_written_out(before, after):
    """Of two times itself, 64 times: to hash it, or to make a text of it, would never end."""
    with fuzzing.at_most(seconds=5), pytest.raises(ValueError, match='as a key|out of place'):
        interpret(before + b')' + b'q\0h\0\x86' * 64 + after)


@pytest.mark.parametrize('value, message', [
    ({'a': 3}, "it has an int as 'a'; expected a state dict"),
    ({'a': {'b': tensor()}}, r"a dict as 'a'; .* save model.state_dict\(\) alone"),
    ({1: tensor()}, "it has an int as a key; expected a state dict"),
    ([tensor()], 'its pickle has the instruction EMPTY_LIST, which no state dict needs'),
    ({}, 'it holds a dict; expected a state dict'),
    (collections.OrderedDict, "its pickle names|holds collections.OrderedDict"),
    ({'a': tensor(kind='LongStorage')}, "'a' is of type Long; expected floating-point"),
    ({'a': tensor(kind='QInt8Storage')}, 'names .torch.QInt8Storage.'),
    ({'a': tensor(count=5)}, "'a' has 5 numbers in data/0, which has 16 bytes"),
    ({'a': tensor(key='../0')}, "has 4 numbers in data/../0, which has none"),
    ({'a': tensor(offset=1)}, r"'a' of shape \[2, 2\] does not lie within its storage"),
    ({'a': tensor(offset=-1)}, 'does not lie within its storage'),
    ({'a': tensor(shape=(10**15, 4), strides=(0, 1))}, 'does not lie within its storage'),
    ({'a': tensor(strides=(-2, 1))}, 'does not lie within its storage'),
    ({'a': tensor(shape=(0, 2))}, 'does not lie within its storage'),
    ({'a': tensor(shape=(2, 2), strides=(1,))}, 'corrupt or truncated'),
    ({'a': tensor(shape=('2', 2))}, 'its pickle has a str out of place'),
    ({'a': tensor(shape={})}, 'its pickle has a dict out of place'),
])
def test_what_is_no_state_dict_is_named(value, message, tmp_path):
    path = write_zip(tmp_path / 'x.bin', pickled(value), FOUR)
    with pytest.raises(ValueError, match=message):
        read_all(path)


def test_damage_is_named(tmp_path):
    content = pickled({'a': tensor()})
    path = write_zip(tmp_path / 'x.bin', content, FOUR, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match='within it is compressed'):
        read_all(path)
    write_zip(path, content, FOUR, byteorder='big')
    with pytest.raises(ValueError, match='numbers are not little-endian'):
        read_all(path)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/code/__torch__.py', 'pass')
    with pytest.raises(ValueError, match='it has no data.pkl in one folder'):
        read_all(path)
    write_zip(path, content, FOUR)
    damaged = path.read_bytes().replace(FOUR['0'], np.arange(1, 5, dtype=np.float32).tobytes())
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="x.bin is corrupt: 'archive/data/0' within it does not "
                                         'match its checksum'):
        read_all(path)
