"""The prompt file: round trips, damage, kills, and the check against the model in use."""

import dataclasses
import itertools
import json
import os
import signal
import struct
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from jax_prompt.prompts import container, initializers
from jax_prompt.prompts.file import (
    PromptFile,
    PromptMetadata,
    check_prompt,
    load_prompt,
    same_model,
    save_prompt,
)
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt

ROWS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
METADATA = PromptMetadata(
    base_model='t5-tiny', base_model_fingerprint='w1', vocabulary_fingerprint='v1',
    task={'name': 'sst2', 'inputs_template': 'sst2 sentence: {text} – "quoted"\n',
          'labels': {'0': 'negative', '1': 'positive'}, 'inputs_length': 64, 'targets_length': 8},
    layout=Layout('around', after_end=True, rows_before=1), method='direct', step=300,
    metrics={'accuracy': 0.1 + 0.2}, seed=5, jax_prompt_version='0.1.0', dtype='bfloat16',
)
PROMPT = PromptFile(Prompt(ROWS), METADATA)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'prompt.safetensors'
    save_prompt(path, PROMPT)
    return path


def rewrite(path, header):
    """Write a safetensors file with any header."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack('<Q', len(text)) + text + ROWS.tobytes())


def header_of(path):
    content = path.read_bytes()
    return json.loads(content[8: 8 + struct.unpack('<Q', content[:8])[0]])


def reseal(path, strings=None, rows=ROWS):
    """Write a file with a right checksum over the metadata given."""
    path.write_bytes(container.pack(rows, METADATA.to_strings() | (strings or {})))


def test_a_round_trip_changes_nothing(path):
    loaded = load_prompt(path)
    assert loaded.prompt.rows.tobytes() == ROWS.tobytes()
    assert loaded.prompt.rows.dtype == np.float32 and loaded.prompt.rows.flags.writeable
    assert loaded.metadata == METADATA and loaded.path == path
    second = path.with_name('second.safetensors')
    save_prompt(second, loaded)
    assert second.read_bytes() == path.read_bytes()


def test_odd_floats_and_shapes_survive(path):
    tiny = np.array([[-0.0, 1e-45, np.finfo(np.float32).max]], np.float32)
    for rows in (tiny, np.zeros((0, 7), np.float32), np.asfortranarray(ROWS), ROWS[:, ::2]):
        save_prompt(path, PromptFile(Prompt(rows), dataclasses.replace(METADATA, layout=Layout())))
        loaded = load_prompt(path).prompt.rows
        assert loaded.shape == rows.shape and loaded.tobytes() == rows.tobytes()


def test_any_safetensors_reader_opens_it(path):
    with safetensors.safe_open(path, 'numpy') as file:
        assert file.get_tensor('prompt').tobytes() == ROWS.tobytes()
        metadata = file.metadata()
    assert metadata.keys() == METADATA.to_strings().keys() | {'sha256'}
    assert json.loads(metadata['task']) == METADATA.task
    assert metadata['format_version'] == '1' and metadata['step'] == '300'
    assert (8 + struct.unpack('<Q', path.read_bytes()[:8])[0]) % 8 == 0


def test_what_the_safetensors_package_writes_is_read(path):
    """The same numbers and metadata, laid out by another writer."""
    metadata = header_of(path)['__metadata__']
    other = path.with_name('other.safetensors')
    safetensors.numpy.save_file({'prompt': ROWS}, other, metadata)
    assert load_prompt(other).metadata == METADATA


def test_a_prompt_of_t5_small_takes_its_numbers_and_little_more(path):
    save_prompt(path, PromptFile(Prompt(np.ones((20, 512), np.float32)), METADATA))
    assert 40_960 < path.stat().st_size < 45_000


def test_a_jax_prompt_can_be_saved(path):
    save_prompt(path, PromptFile(Prompt(jax.numpy.asarray(ROWS)), METADATA))
    assert load_prompt(path).prompt.rows.tobytes() == ROWS.tobytes()


def test_it_initialises_another_prompt(path):
    context = initializers.InitContext(np.zeros((9, 4), np.float32), 3, list)
    first = initializers.from_array(path)(jax.random.key(0), context)
    np.testing.assert_array_equal(first, ROWS)
    with pytest.raises(ValueError, match=r'prompt\.safetensors has shape \(3, 4\).*\(5, 4\)'):
        longer = dataclasses.replace(context, num_rows=5)
        initializers.from_array(path)(jax.random.key(0), longer)


def test_every_truncation_is_found(path):
    whole = path.read_bytes()
    for length in (*range(0, len(whole), 7), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r'cannot use prompt file .*prompt\.safetensors'):
            load_prompt(path)


@pytest.mark.parametrize('step', [
    pytest.param(11, id='sampled'), pytest.param(1, id='all', marks=pytest.mark.slow)])
def test_every_flipped_bit_is_found_or_harmless(path, step):
    whole, harmless = path.read_bytes(), 0
    for position in range(0, len(whole), step):
        for mask in (0x01, 0x20, 0xFF):
            damaged = bytearray(whole)
            damaged[position] ^= mask
            path.write_bytes(damaged)
            try:
                loaded = load_prompt(path)
            except ValueError as error:
                assert str(path) in str(error) and '\n' not in str(error)
            else:
                harmless += 1
                assert loaded.prompt.rows.tobytes() == ROWS.tobytes()
                assert loaded.metadata == METADATA
    assert harmless < 100 / step  # hexadecimal letters of escapes, white space of the padding


def test_bytes_at_the_end_are_found(path):
    path.write_bytes(path.read_bytes() + b'\0')
    with pytest.raises(ValueError, match='it is truncated, damaged or no safetensors file'):
        load_prompt(path)


TRUNCATED = r'prompt\.safetensors: it is truncated, damaged or no safetensors file \(.*\); give an'


@pytest.mark.parametrize(('change', 'message'), [
    ({'prompt': {'dtype': 'F16', 'shape': [3, 8], 'data_offsets': [0, 48]}}, "is 'F16' of shape"),
    ({'prompt': {'dtype': 'F32', 'shape': [12], 'data_offsets': [0, 48]}}, r'of shape \[12\]; exp'),
    ({'prompt': {'dtype': 'F32', 'shape': [3, 5], 'data_offsets': [0, 60]}}, TRUNCATED),
    ({'prompt': {'dtype': 'F32', 'shape': [3, 4], 'data_offsets': [4, 52]}}, TRUNCATED),
    ({'prompt': {'dtype': 'F32', 'shape': [2**40, 2**40], 'data_offsets': [0, 2**82]}}, TRUNCATED),
    ({'prompt': {'dtype': 'F32', 'shape': [-3, -4], 'data_offsets': [0, 48]}}, TRUNCATED),
    ({'prompt': {'dtype': 'F32', 'shape': [3.0, 4], 'data_offsets': [0, 48]}}, TRUNCATED),
    ({'prompt': {'dtype': 'F32', 'shape': [4, 3], 'data_offsets': [0, 48]}}, 'its checksum'),
    ({'prompt': 3}, TRUNCATED),
    ({'prefix_keys': {'dtype': 'F32', 'shape': [0], 'data_offsets': [48, 48]}},
     "expected the one tensor 'prompt', found 'prefix_keys', 'prompt'"),
    ({'__metadata__': None}, 'hold no checksum'),
    ({'__metadata__': {'step': 3}}, TRUNCATED),
    ({'__metadata__': {'step': '3'}}, 'hold no checksum'),
])
def test_wrong_headers_are_refused(path, change, message):
    rewrite(path, header_of(path) | change)
    with pytest.raises(ValueError, match=message):
        load_prompt(path)


@pytest.mark.parametrize('content', [
    b'', b'\0' * 8, b'\xff' * 64, b'PK\x03\x04' * 8, b'\x80\x04N.' * 4,
    struct.pack('<Q', 2**63) + b'{}', struct.pack('<Q', 10) + b'[' * 10,
    struct.pack('<Q', 100_000) + b'[' * 100_000, struct.pack('<Q', 2) + b'[]',
    struct.pack('<Q', 2) + b'{}',
])
def test_other_files_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'cannot use prompt file .*prompt\.safetensors: it'):
        load_prompt(path)


def test_a_model_is_no_prompt(path):
    names = [f'layer{i}' for i in range(5)]
    safetensors.numpy.save_file({name: ROWS for name in names}, path)
    with pytest.raises(ValueError, match=r"found 'layer0', 'layer1', 'layer2' and 2 more;"):
        load_prompt(path)


@pytest.mark.parametrize(('strings', 'message'), [
    ({'format_version': '4'}, "format version '4' and this jax_prompt reads '1' and '2' and '3'"),
    ({'design': '{"template": "a\\u001b"}'}, "design holds .*text without control characters"),
    ({'step': 'many'}, r'metadata are unreadable \(Expecting value'),
    ({'task': '{'}, 'metadata are unreadable'),
    ({'task': '[' * 100_000}, 'metadata are unreadable'),
    ({'task': '3'}, 'metadata are unreadable'),
    ({'metrics': '[]'}, 'metadata are unreadable'),
    ({'layout': '{"placement": "nowhere"}'}, "unknown prompt placement 'nowhere'"),
    ({'layout': '{"placement": "around", "rows_before": 4}'}, 'puts 4 rows before.*prompt has 3;'),
    ({'layout': '{"placement": "marker", "marker": "' + 'x' * 101 + '"}'}, 'layout marker is'),
    ({'metrics': '{"accuracy": ' + '9' * 4000 + '}'}, 'metadata are unreadable'),
    ({'metrics': '{"a\\nb": 1}'}, 'metadata the name of a metric is'),
    ({'step': '9' * 40}, 'metadata step is 9+; expected a number of 64 bits'),
    ({'dtype': 'a\n'}, r"metadata dtype is 'a\\n'; expected text of one line"),
    ({'method': 'a\x1b[2J'}, r"metadata method is 'a\\x1b\[2J'; expected text of one line"),
    ({'base_model': 'x' * 501}, 'metadata base_model is .*501|503'),
    ({'format_version': 'v' * 10**5}, r'format version .*\.\.\. \(100,002 characters\)'),
    ({'task': '{"name": "a\\nb"}'}, 'metadata name of the task is'),
    ({'task': '{"name": ["a"]}'}, 'metadata name of the task is'),
    ({'task': '{"name": "a", "labels": ["\\ud800", "b"]}'}, r"task holds '\\ud800'; expected text"),
    ({'task': '{"name": "a", "inputs_template": "{t}\\u001b"}'}, 'task holds'),
])
def test_well_sealed_nonsense_is_refused(path, strings, message):
    reseal(path, strings)
    with pytest.raises(ValueError, match=message) as error:
        load_prompt(path)
    assert str(error.value).isprintable() and len(str(error.value)) < 700


def test_lines_of_a_template_are_no_control_characters(path):
    task = METADATA.task | {'inputs_template': 'text:\t{text}\r\nanswer:'}
    reseal(path, {'task': json.dumps(task)})
    assert load_prompt(path).metadata.task == task


def test_what_is_too_large_to_be_a_prompt_is_refused_unread(path):
    with pytest.raises(ValueError, match='take 1,.* bytes; expected at most 1,048,576: shorten'):
        reseal(path, {'task': json.dumps({'name': 'a', 'inputs_template': 'x' * 2**20})})
    header = header_of(path)
    rewrite(path, header | {'__metadata__': {'x': 'x' * 2**20}})
    with pytest.raises(ValueError, match='its metadata take 1,.* bytes; expected at most 1,048,5'):
        load_prompt(path)
    path.write_bytes(container.pack(np.zeros((10_001, 1), np.float32), METADATA.to_strings()))
    with pytest.raises(ValueError, match='it has 10,001 rows; expected at most 10,000'):
        load_prompt(path)


def test_what_could_be_waited_for_is_refused(tmp_path):
    os.mkfifo(tmp_path / 'prompt.safetensors')
    for path in (tmp_path / 'prompt.safetensors', '/dev/zero'):
        with pytest.raises(ValueError, match='is a pipe, a device or a socket; expected a regular'):
            load_prompt(path)


def test_missing_metadata_are_named(path):
    strings = METADATA.to_strings()
    del strings['seed'], strings['task']
    path.write_bytes(container.pack(ROWS, strings))
    with pytest.raises(ValueError, match='metadata lack task, seed'):
        load_prompt(path)


def test_numbers_that_are_not_finite_are_refused(path):
    rows = np.where(np.eye(3, 4), np.nan, ROWS).astype(np.float32)
    with pytest.raises(ValueError, match='not finite'):
        PromptFile(Prompt(rows), METADATA)
    reseal(path, rows=rows)
    with pytest.raises(ValueError, match=r'prompt\.safetensors.*not finite'):
        load_prompt(path)


@pytest.mark.parametrize('rows', [ROWS.astype(np.float64), ROWS[0], ROWS.astype(np.int32)])
def test_other_arrays_are_refused(rows):
    with pytest.raises(ValueError, match=r'expected float32\[P, D\]'):
        PromptFile(Prompt(rows), METADATA)


@pytest.mark.parametrize(('change', 'message'), [
    ({'task': {'when': object()}}, 'task cannot be written as JSON'),
    ({'metrics': {'loss': float('nan')}}, 'metrics cannot be written as JSON'),
    ({'base_model_fingerprint': None}, 'base_model_fingerprint is None; expected text'),
])
def test_metadata_that_a_file_cannot_hold_are_refused_before_writing(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(METADATA, **change)


def test_numbers_from_arrays_become_plain_ones():
    metadata = dataclasses.replace(
        METADATA, step=np.int32(4), metrics={'accuracy': np.float32(0.5)}, task={'labels': ('a',)}
    )
    assert metadata.step == 4 and type(metadata.step) is int
    assert metadata.metrics == {'accuracy': 0.5} and metadata.task == {'labels': ['a']}


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match=r'cannot read prompt file .*none\.safetensors: No such'):
        load_prompt(tmp_path / 'none.safetensors')
    with pytest.raises(ValueError, match='cannot read prompt file .*: Is a directory'):
        load_prompt(tmp_path)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    def fail(*_):
        raise OSError('disk full')

    old = path.read_bytes()
    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match='disk full'):
        save_prompt(path, PromptFile(Prompt(2 * ROWS), METADATA))
    assert path.read_bytes() == old and os.listdir(path.parent) == [path.name]


def test_saving_makes_the_folder_and_leaves_one_file(tmp_path):
    path = tmp_path / 'new' / 'folder' / 'prompt.safetensors'
    save_prompt(path, PROMPT)
    save_prompt(path, PROMPT)
    assert os.listdir(path.parent) == [path.name]


SAVE_FOREVER = '''
import sys, numpy as np
from jax_prompt.prompts.file import PromptFile, load_prompt, save_prompt
from jax_prompt.prompts.prompt import Prompt
path = sys.argv[1]
metadata = load_prompt(path).metadata
print('ready', flush=True)
for i in range(10**9):
    save_prompt(path, PromptFile(Prompt(np.full((300, 400), i, np.float32)), metadata))
'''


def test_a_kill_while_saving_leaves_a_whole_file(path):
    seen = set()
    for delay in (0.01, 0.03):
        process = subprocess.Popen(
            [sys.executable, '-c', SAVE_FOREVER, str(path)], stdout=subprocess.PIPE,
            env=os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)},
        )
        assert process.stdout.readline() == b'ready\n'
        deadline = time.monotonic() + 20
        while load_prompt(path).prompt.rows.shape != (300, 400) and time.monotonic() < deadline:
            pass  # readers see whole files only, while it is being replaced
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        rows = load_prompt(path).prompt.rows
        assert (rows == rows[0, 0]).all()
        seen.add(float(rows[0, 0]))
        save_prompt(path, PROMPT)
    assert max(seen) > 0  # it was overwritten at least once


def check(prompt=PROMPT, d_model=4, model='w1', vocabulary='v1', **options):
    check_prompt(
        prompt, d_model=d_model, model_name='t5-large', model_fingerprint=model,
        vocabulary_fingerprint=vocabulary, **options,
    )


def test_a_prompt_fits_its_own_model():
    check()
    check(vocabulary=None)


def test_former_fingerprints_are_known():
    whole, former = 'a1' * 32, 'b2' * 32
    now = f'{whole}-{former[:16]}'
    for one, other in itertools.permutations((now, former)):
        assert same_model(one, other) and same_model(one, one)
        assert not same_model(now, 'c3' * 32) and not same_model(former, 'c3' * 32)
    # Where both heed all, their ends do not make them one.
    assert not same_model(now, now.replace('a1', 'c3')) and not same_model(former, whole)


@pytest.mark.parametrize('allow_other_model', [False, True])
def test_another_width_is_always_refused(path, allow_other_model):
    message = r'prompt\.safetensors has D=4 but t5-large has D=1024; train or choose a prompt'
    with pytest.raises(ValueError, match=message):
        check(load_prompt(path), d_model=1024, allow_other_model=allow_other_model)
    with pytest.raises(ValueError, match='^the prompt has D=4'):
        check(d_model=1024, allow_other_model=allow_other_model)


@pytest.mark.parametrize(('fingerprints', 'message'), [
    ({'model': 'w2'}, r'for t5-tiny \(weights w1\).*t5-large \(weights w2\).*allow_other_mo'),
    ({'vocabulary': 'v2'}, 'vocabulary v1 but t5-large is used with v2.*allow_other_model=True'),
])
def test_another_model_or_vocabulary_is_refused_unless_allowed(fingerprints, message):
    with pytest.raises(ValueError, match=message):
        check(**fingerprints)
    check(**fingerprints, allow_other_model=True)
