"""cuDNN's fused attention, as far as a machine without a GPU can tell.

What surrounds the kernel is run with JAX's plain attention in the kernel's place, and must give
what our own attention gives. That cuDNN is called, and with what, is read off the program lowered
for CUDA. That cuDNN computes what it says is for `benchmarks/attention.py`, on a GPU.
"""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from jax_prompt.models.open import LayerSettings, open_model
from jax_prompt.models.t5 import attention
from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.int8 import quantise_tree
from jax_prompt.models.t5.model import T5
from jax_prompt.models.t5.positions import bias_from_table, relative_buckets
from tests.models.t5.random_weights import init, param_shapes

B, S, D, H, K, N = 4, 14, 24, 3, 8, 2
CONFIG = T5Config(vocab_size=37, d_model=D, d_kv=K, d_ff=40, num_heads=H, num_layers=N,
                  num_decoder_layers=1, relative_attention_num_buckets=12,
                  relative_attention_max_distance=20)
OWN_BIAS = dataclasses.replace(CONFIG, per_layer_relative_bias=True)
FORWARD, BACKWARD = '__cudnn$fmhaScaleBiasSoftmax', '__cudnn$fmhaScaleBiasSoftmaxBackward'


@pytest.fixture
def stand_in(monkeypatch):
    """Put JAX's plain attention in the kernel's place, in any dtype."""
    def plain(query, key, value, bias, lengths):
        assert query.shape[1] % 2 == 0
        return jax.nn.dot_product_attention(query, key, value, bias=bias, scale=1.0,
                                            key_value_seq_lengths=lengths, implementation='xla')

    monkeypatch.setattr(attention, 'kernel', plain)
    monkeypatch.setattr(attention, '_CUDNN_DTYPES', ('bfloat16', 'float32'))


@pytest.fixture
def found_cudnn(monkeypatch):
    """Let JAX find cuDNN, so that programs can be lowered for it."""
    monkeypatch.setattr(fused_attention_stablehlo, 'check_cudnn_version', lambda: 91000)


@functools.cache
def make_frozen(config: T5Config, int8: bool = False):
    """Draw weights whose position bias matters."""
    if int8:
        return quantise_tree(make_frozen(config))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: 3 * leaf if 'relative_bias' in str(path) else leaf,
        jax.jit(lambda: init(T5(config), jax.random.key(0)))())


def make_rows(rows: str, length: int):
    """Return mask and segment ids of padded or packed rows; the last row has no token."""
    positions = np.arange(length)
    if rows == 'padded':
        return positions < np.array([[length], [length - 5], [1], [0]]), None
    starts = np.array([[0, 4, 9, length], [0, 1, 2, 3], [0, 7, length, length], [0, 0, 0, 0]])
    segments = (positions[None, :, None] >= starts[:, None]).sum(-1)
    segments[segments > 3] = 0  # what comes after the last segment is padding
    return segments > 0, segments.astype(np.int32)


@functools.cache
def make_gradient(model: T5, rows: str, length: int):
    """Compile what `encoded_and_gradient` runs, once for all weights."""
    mask_BS, segments_BS = make_rows(rows, length)
    token_BS1 = mask_BS[..., None]

    def loss(hidden_BSD, weight_BSD, frozen):
        encoded_BSD = model.encode(frozen, hidden_BSD.astype(model.dtype), mask_BS, segments_BS)
        encoded_BSD = jnp.where(token_BS1, encoded_BSD, 0)
        return jnp.sum(encoded_BSD * weight_BSD), encoded_BSD

    return jax.jit(jax.grad(loss, has_aux=True))


def encoded_and_gradient(model: T5, frozen, rows: str, length: int):
    """Return what the encoder makes of tokens, and the gradient of its inputs; pads are zeros."""
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((2, B, length, D)).astype(np.float32)
    gradient_BSD, encoded_BSD = make_gradient(model, rows, length)(*inputs, frozen)
    return np.asarray(encoded_BSD), np.asarray(gradient_BSD)


@functools.cache
def wanted(config: T5Config, rows: str, length: int, int8: bool):
    return encoded_and_gradient(T5(config), make_frozen(config, int8=int8), rows, length)


def assert_same(config: T5Config, rows: str, length: int, int8: bool = False, **options):
    model = T5(config, attention='cudnn', **options)
    ours = encoded_and_gradient(model, make_frozen(config, int8=int8), rows, length)
    for one, other in zip(ours, wanted(config, rows, length, int8), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


QUICK = [(OWN_BIAS, 'packed', S + 1)]


@pytest.mark.parametrize('config, rows, length', [*QUICK, *(
    pytest.param(*case, marks=pytest.mark.slow) for case in itertools.product(
        (CONFIG, OWN_BIAS), ('padded', 'packed'), (S, S + 1)) if case not in QUICK)])
def test_around_the_kernel_all_is_as_in_our_own_attention(stand_in, config, rows, length):
    assert_same(config, rows, length)


@pytest.mark.parametrize('options', [
    dict(scan_layers=False), dict(remat='full'),
    pytest.param(dict(remat='dots'), marks=pytest.mark.slow)], ids=str)
def test_however_the_layers_are_run(stand_in, options):
    assert_same(OWN_BIAS, 'packed', S + 1, **options)


def test_with_eight_bit_kernels(stand_in):
    assert_same(CONFIG, 'padded', S, int8=True)


def test_the_comparison_sees_the_bias(stand_in):
    """Otherwise those above would show nothing of it."""
    frozen = make_frozen(CONFIG)
    encoder = frozen['encoder']
    bias = {'embedding': 1.1 * encoder['relative_bias']['embedding']}
    other = {**frozen, 'encoder': {**encoder, 'relative_bias': bias}}
    model = T5(CONFIG, attention='cudnn')
    one, two = (encoded_and_gradient(model, tree, 'padded', S) for tree in (frozen, other))
    assert np.abs(one[0] - two[0]).max() > 1e-2 * np.abs(one[0]).max()


@pytest.mark.parametrize('rows', ['padded', 'packed'])
def test_every_query_has_a_key(rows):
    """Also pads and rows without a token, whose results nothing reads: they must stay finite."""
    mask_BS, segments_BS = make_rows(rows, S)
    bias_1HSS = jnp.ones((1, H, S, S))
    fused = attention.fused_bias((bias_1HSS,), jnp.asarray(mask_BS), segments_BS, jnp.float32)
    keys_BS = np.arange(S) < np.asarray(fused.lengths_B)[:, None]
    seen = (np.asarray(fused.bias) == 1) & keys_BS[:, None, None]
    assert seen.any(-1).all()


def test_a_pad_before_a_token_is_no_silent_error(stand_in):
    model, frozen = T5(CONFIG, attention='cudnn'), make_frozen(CONFIG)
    mask_BS = np.ones((B, S), bool)
    mask_BS[1, 3] = False
    hidden_BSD = np.random.default_rng(1).standard_normal((B, S, D)).astype(np.float32)
    encoded_BSD = np.asarray(jax.jit(model.encode)(frozen, hidden_BSD, mask_BS))
    np.testing.assert_array_equal(np.isnan(encoded_BSD).all((1, 2)), [False, True, False, False])
    assert np.isfinite(encoded_BSD[[0, 2, 3]]).all()
    # Where segments say who sees whom, pads may stand anywhere, also within them.
    segments_BS = np.ones((B, S), np.int32)
    encoded_BSD = np.asarray(jax.jit(model.encode)(frozen, hidden_BSD, mask_BS, segments_BS))
    wanted_BSD = np.asarray(jax.jit(T5(CONFIG).encode)(frozen, hidden_BSD, mask_BS))
    np.testing.assert_allclose(encoded_BSD[mask_BS], wanted_BSD[mask_BS], rtol=0,
                               atol=1e-5 * np.abs(wanted_BSD).max())


def test_a_bfloat16_table_loses_nothing():
    table = jax.random.normal(jax.random.key(0), (12, H), jnp.bfloat16)
    positions = jnp.arange(S)
    buckets_SS = relative_buckets(positions - positions[:, None], True, CONFIG)
    bias_1HSS = bias_from_table(table, buckets_SS)
    for segments_BS in (None, jnp.ones((B, S), jnp.int32)):
        fused = attention.fused_bias((bias_1HSS,), jnp.ones((B, S), bool), segments_BS,
                                     jnp.bfloat16)
        assert fused.bias.dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.asarray(fused.bias, np.float32),
                                      np.broadcast_to(bias_1HSS, fused.bias.shape))


# What is lowered for CUDA.


@dataclasses.dataclass
class Call:
    """One custom call of a program: its configuration, and the types of what goes in and out."""

    target: str
    config: str
    operands: list[str]
    results: list[str]


def lower(function, *shapes) -> str:
    return jax.jit(function).trace(*shapes).lower(lowering_platforms=('cuda',)).as_text()


def calls(program: str) -> list[Call]:
    pattern = (r'custom_call @(__cudnn\$\w+)\(.*?backend_config = ("[^"]*").*?'
               r' : \((tensor.*?)\) -> \((tensor.*?)\)\n')
    return [Call(target, config, *(re.findall(r'tensor<(\S+)>', part) for part in parts))
            for target, config, *parts in re.findall(pattern, program)]


def encoder_program(config: T5Config, rows: str, gradient: bool, length: int = S, **options) -> str:
    """Lower the encoder, or its gradient to its inputs, in bfloat16."""
    model = T5(config, jnp.bfloat16, attention='cudnn', **options)
    packed = rows == 'packed'

    def encode(hidden_BSD, frozen, mask_BS, segments_BS):
        encoded_BSD = model.encode(frozen, hidden_BSD, mask_BS, segments_BS if packed else None)
        return jnp.sum(encoded_BSD.astype(jnp.float32))

    shape = functools.partial(jax.ShapeDtypeStruct, (B, length))
    return lower(jax.grad(encode) if gradient else encode,
                 jax.ShapeDtypeStruct((B, length, D), jnp.bfloat16),
                 param_shapes(model, jnp.bfloat16), shape(bool), shape(jnp.int32))


HEADS, LENGTHS = f'{B}x{S}x{H}x{K}xbf16', f'{B}xi32'
BIAS = {'padded': f'1x{H}x{S}x{S}xbf16', 'packed': f'{B}x{H}x{S}x{S}xbf16'}


@pytest.mark.parametrize('rows', BIAS)
@pytest.mark.parametrize('config', [CONFIG, OWN_BIAS], ids=['t5', 'umt5'])
def test_the_encoder_calls_cudnn_with_a_length_a_row(found_cudnn, config, rows):
    program = encoder_program(config, rows, gradient=False)
    forward, = calls(program)  # one: the layers are a loop
    assert forward.target == FORWARD
    assert forward.operands == [HEADS] * 3 + [BIAS[rows], LENGTHS, LENGTHS]
    assert r'mask_type\22: \22PADDING' in forward.config
    assert r'fmha_scale\22: 1.0' in forward.config
    assert r'dropout_rate\22: 0.0' in forward.config


@pytest.mark.parametrize('rows', BIAS)
@pytest.mark.parametrize('options', [{}, dict(remat='full')], ids=str)
@pytest.mark.parametrize('config', [CONFIG, OWN_BIAS], ids=['t5', 'umt5'])
def test_the_gradient_calls_cudnn_and_asks_for_none_of_the_bias(found_cudnn, config, rows, options):
    program = encoder_program(config, rows, gradient=True, **options)
    found = calls(program)
    assert {call.target for call in found} == {FORWARD, BACKWARD}
    backward, = (call for call in found if call.target == BACKWARD)
    statistics = f'{B}x{H}x{S}xf32'
    assert backward.operands == [HEADS] * 3 + [statistics, HEADS, BIAS[rows], HEADS, LENGTHS,
                                               LENGTHS]
    assert backward.results == [f'{B}x{H}x{S}x{K}xbf16'] * 3 + ['0xui8']  # the last: work space


def test_padded_rows_share_one_bias_and_so_do_the_layers(found_cudnn):
    program = encoder_program(CONFIG, 'padded', gradient=True)
    squares = set(re.findall(rf'tensor<((?:\d+x)*{S}x{S}x\w+)>', program))
    assert squares and all(size.startswith((f'{S}x', f'1x{H}x', f'{H}x')) for size in squares)
    packed = encoder_program(CONFIG, 'packed', gradient=True)
    assert f'tensor<{B}x{H}x{S}x{S}xbf16>' in packed
    assert not re.search(rf'tensor<{N}x\d+x{H}x{S}x{S}x', packed)
    assert not re.search(rf'tensor<{B}x{H}x{S}x{S}xf32>', packed)


def test_an_odd_length_gets_one_more_position(found_cudnn):
    backward, = (call for call in calls(encoder_program(CONFIG, 'padded', True, length=S - 1))
                 if call.target == BACKWARD)
    assert backward.operands[0] == HEADS


def test_the_decoder_has_no_fused_kernel(found_cudnn):
    model = T5(CONFIG, jnp.bfloat16, attention='cudnn')

    def decode(frozen, hidden_BLD, encoded_BSD, mask_BS):
        return model.decode(frozen, hidden_BLD, encoded_BSD, mask_BS)

    hidden = jax.ShapeDtypeStruct((B, S, D), jnp.bfloat16)
    assert not calls(lower(decode, param_shapes(model, jnp.bfloat16), hidden, hidden,
                           jax.ShapeDtypeStruct((B, S), bool)))


def test_cudnn_is_called_as_jax_calls_it_but_for_the_gradient_of_the_bias(found_cudnn):
    def theirs(query, key, value, bias, lengths):
        return jax.nn.dot_product_attention(query, key, value, bias=bias, scale=1.0,
                                            key_value_seq_lengths=lengths, implementation='cudnn')

    heads = jax.ShapeDtypeStruct((B, S, H, K), jnp.bfloat16)
    shapes = (heads,) * 3 + (jax.ShapeDtypeStruct((1, H, S, S), jnp.bfloat16),
                             jax.ShapeDtypeStruct((B,), jnp.int32))
    ours, wanted = (calls(lower(function, *shapes))
                    for function in (attention.cudnn_attention, theirs))
    assert ours == wanted and len(ours) == 1

    def gradient(function):
        return jax.grad(lambda *operands: jnp.sum(function(*operands).astype(jnp.float32)),
                        argnums=(0, 1, 2))

    ours, wanted = (calls(lower(gradient(function), *shapes))
                    for function in (attention.cudnn_attention, theirs))
    assert ours[0] == wanted[0]
    assert wanted[1].results[3] == BIAS['padded'], 'JAX leaves it out by now: call it as all do'
    del wanted[1].results[3]
    assert ours[1] == wanted[1]


# What is refused.


@pytest.mark.parametrize('options, message', [
    (dict(attention='flash'), "attention='flash' is no way to attend; choose one of xla, cudnn"),
    (dict(attention='cudnn'),
     "attention='cudnn' computes in bfloat16, but activations are float32; choose dtype="),
    (dict(attention='cudnn', dtype=jnp.bfloat16, dropout_rate=0.1),
     "attention='cudnn' has no dropout of attention weights, but dropout_rate is 0.1; choose"),
])
def test_what_cannot_be_had_is_refused(options, message):
    with pytest.raises(ValueError, match=f'^{message}'):
        T5(CONFIG, **options)


@pytest.mark.parametrize('width', [12, 136])
def test_heads_of_another_width_are_refused(width):
    config = dataclasses.replace(CONFIG, d_kv=width, name='odd')
    with pytest.raises(ValueError, match=f'of 8, 16, ... 128 numbers, but odd has d_kv={width}'):
        T5(config, jnp.bfloat16, attention='cudnn')


def test_dropout_is_refused_when_training_asks_for_it():
    model = T5(CONFIG, jnp.bfloat16, attention='cudnn')
    with pytest.raises(ValueError, match='no dropout of attention weights'):
        dataclasses.replace(model, dropout_rate=0.1)


@dataclasses.dataclass
class Device:
    platform: str
    device_kind: str
    compute_capability: str
    platform_version: str

    @property
    def client(self):
        return self


CPU = Device('cpu', 'cpu', '', 'cpu')
ROCM = Device('gpu', 'MI300', 'gfx942', 'PJRT C API\nrocm 60300')
TURING = Device('gpu', 'Tesla T4', '7.5', 'PJRT C API\ncuda 12080')


@pytest.mark.parametrize('device, message', [
    (CPU, r"^attention='cudnn' needs an NVIDIA GPU, but JAX runs on cpu \(cpu\); choose"),
    (ROCM, 'needs an NVIDIA GPU, but JAX runs on MI300'),
    (TURING, 'compute capability 8.0 or later, but Tesla T4 has 7.5; choose'),
])
def test_other_devices_are_refused(monkeypatch, device, message):
    monkeypatch.setattr(jax, 'devices', lambda: [device])
    with pytest.raises(ValueError, match=message):
        attention.check_device('cudnn')
    attention.check_device('xla')


@pytest.mark.parametrize('capability', ['8.0', '9.0', '12.0'])
def test_nvidias_gpus_since_ampere_are_not_refused(monkeypatch, capability):
    device = dataclasses.replace(TURING, compute_capability=capability)
    monkeypatch.setattr(jax, 'devices', lambda: [device])
    attention.check_device('cudnn')


def test_opening_refuses_before_it_loads():
    with pytest.raises(ValueError, match='needs an NVIDIA GPU, but JAX runs on cpu'):
        open_model('no/such/model', layers=LayerSettings(attention='cudnn'))


def test_opening_gives_the_choice_on(stand_in, monkeypatch, world):
    monkeypatch.setattr('jax_prompt.models.open.check_device', lambda attention: None)
    source = str(world / 'model')
    opened = open_model(source, layers=LayerSettings(scan=True, attention='cudnn'))
    assert (opened.model.attention, opened.model.scan_layers) == ('cudnn', True)
    opened = open_model(source)
    assert (opened.model.attention, opened.model.scan_layers) == ('xla', False)
