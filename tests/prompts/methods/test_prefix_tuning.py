"""Prefix tuning: its formula, its starts, what it refuses, and what a run of it leaves."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt import cli
from jax_prompt.data.tasks.files import file_task
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.exchange.prompts_in_out import export_prompt
from jax_prompt.inference.engine import Engine
from jax_prompt.models.open import open_model
from jax_prompt.models.t5.model import T5
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.initializers import InitContext, uniform
from jax_prompt.prompts.methods.prefix_tuning import prefix_tuning
from jax_prompt.training.optimizers import adamw
from jax_prompt.training.run import BEFORE, train
from jax_prompt.training.settings import PromptSettings, TrainSettings
from tests.models.t5 import reference
from tests.models.t5.prefix_reference import STACKS

RNG = jax.random.key(3)
SHAPES = {'encoder': (5, 4, 5), 'decoder': (2, 4, 5), 'cross': (2, 4, 5)}


def context(rows=0, **more):
    return InitContext(jnp.ones((9, 24)), rows, lambda text: [5, 6, 7], initializer=uniform(),
                       prefix_shapes=SHAPES, **more)


@pytest.mark.parametrize('rows', [0, 3])
def test_what_is_trained_is_what_is_used_and_rows_beside_it(rows):
    method = prefix_tuning(length=4, cross=False)
    params, constants = method.init(RNG, context(rows))
    assert ('prompt' in params) == bool(rows)
    prompt = method.apply(params, constants).prompt
    assert prompt.rows.shape == (rows, 24) and set(prompt.prefix) == {'encoder', 'decoder'}
    for name, keys_values in prompt.prefix.items():
        layers, heads, width = SHAPES[name]
        for part, one in zip(('keys', 'values'), keys_values, strict=True):
            assert one.shape == (1, layers, heads, 4, width)
            np.testing.assert_array_equal(one[0], params[name][part])
    assert 0.8 < float(jnp.std(params['encoder']['keys'])) < 1.2


def test_the_network_is_the_papers_formula():
    method = prefix_tuning(length=4, width=7)
    params, constants = method.init(RNG, context())
    prefix = method.apply(params, constants).prompt.prefix
    for name, (layers, heads, width) in SHAPES.items():
        own = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params[name])
        hidden = np.tanh(own['embedding'] @ own['down']['kernel'] + own['down']['bias'])
        flat = hidden @ own['up']['kernel'].reshape(7, -1) + own['up']['bias'].reshape(-1)
        # [M, 2, N, H, K], each position's keys and values of every layer, as the paper's matrix.
        both = flat.reshape(4, 2, layers, heads, width).transpose(1, 2, 3, 0, 4)
        for ours, theirs in zip(prefix[name], both, strict=True):
            np.testing.assert_allclose(ours[0], theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('width', [None, 7])
def test_zeros_and_a_text_begin_as_they_say(width):
    text = {name: tuple(np.full((1, layers, heads, 5, head), 1.0 + part, np.float32)
                        for part in range(2)) for name, (layers, heads, head) in SHAPES.items()}
    seen = []
    told = context(activations=lambda ids: seen.append(ids) or text)
    for method, values in ((prefix_tuning(5, width, start='zeros'), (0.0, 0.0)),
                           (prefix_tuning(5, width, start='text', text='a b c'), (1.0, 2.0))):
        prefix = method.apply(*method.init(RNG, told)).prompt.prefix
        for keys, both in prefix.values():
            assert (keys == values[0]).all() and (both == values[1]).all()
    assert seen[0].tolist() == [5, 6, 7, 5, 6]


def test_activations_are_keys_and_values_that_the_model_computes():
    config = reference.make_config('byt5')
    model, frozen = T5(config), jax.tree.map(jnp.asarray, reference.make_frozen(config))
    found = jax.jit(model.activations)(frozen, jnp.array([4, 9, 2]))
    shapes = {name: (1, layers, heads, 3, width)
              for name, (layers, heads, width) in model.prefix_shapes.items()}
    assert {name: keys.shape for name, (keys, _) in found.items()} == shapes
    torch = pytest.importorskip('torch', reason='PyTorch is not installed')
    theirs = reference.torch_model(config, reference.make_frozen(config))
    ids, seen = torch.tensor([[4, 9, 2]]), {}

    def note(name):
        return lambda module, inputs, output: seen.setdefault(name, output)

    for name, block in (('encoder', theirs.encoder.block), ('decoder', theirs.decoder.block)):
        for number, one in enumerate(block):
            one.layer[0].SelfAttention.k.register_forward_hook(note((name, number, 0)))
            one.layer[0].SelfAttention.v.register_forward_hook(note((name, number, 1)))
            if name == 'decoder':
                one.layer[1].EncDecAttention.k.register_forward_hook(note(('cross', number, 0)))
                one.layer[1].EncDecAttention.v.register_forward_hook(note(('cross', number, 1)))
    with torch.no_grad():
        theirs(input_ids=ids, decoder_input_ids=ids)
    for (name, layer, part), projected in seen.items():
        wanted = projected.numpy().reshape(3, config.num_heads, -1).swapaxes(0, 1)
        np.testing.assert_allclose(found[name][part][0, layer], wanted, rtol=2e-4, atol=2e-4)
    assert len(seen) == 2 * (5 + 2 + 2)


@pytest.mark.parametrize('settings, message', [
    (dict(length=0), 'has length=0; expected a whole number of at least 1'),
    (dict(width=0), 'has width=0; expected'),
    (dict(encoder=False, decoder=False, cross=False), 'has no attention to put a prefix before'),
    (dict(start='words'), "has start='words'; expected one of random, zeros, text"),
    (dict(start='text'), "has start='text' and text=None; give a text"),
    (dict(text='a'), "has start='random' and text='a'; give a text"),
])
def test_what_cannot_be_trained_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        prefix_tuning(**settings)


def test_what_does_not_fit_the_model_is_refused():
    method = prefix_tuning(length=2, start='text', text='a b c')
    with pytest.raises(ValueError, match="has 3 tokens and the prefix length=2; lengthen"):
        method.init(RNG, context(activations=lambda ids: {}))
    none = InitContext(jnp.ones((9, 24)), 0, lambda text: [5])
    with pytest.raises(ValueError, match="asks for 'encoder' but the model takes a prefix for "
                                         'nothing'):
        prefix_tuning().init(RNG, none)


@pytest.fixture(scope='module')
def run(world, tmp_path_factory):
    """A run of prefixes alone, begun from a text, with its network."""
    opened = open_model(str(world / 'model'))
    task = file_task(str(world / 'reviews.csv'), inputs_template='review : {text}',
                     labels={'0': 'negative', '1': 'positive'})
    outcome = train(opened, task, tmp_path_factory.mktemp('prefix') / 'run',
                    PromptSettings(rows=0, method=prefix_tuning(
                        4, width=6, start='text', text='review')),
                    adamw(0.05), TrainSettings(steps=12, batch_size=16, evaluate_every=12,
                                               max_buckets=1, compare=True), quiet=True)
    return opened, outcome


@pytest.mark.slow
def test_a_run_learns_and_its_file_answers_as_training_did(run):
    opened, outcome = run
    file = load_prompt(outcome.folder.prompt)
    before, after = outcome.results[BEFORE], outcome.results['prompt after training']
    assert after['loss'] < 0.8 * before['loss']
    assert file.prompt.rows.shape == (0, 16) and set(file.prompt.prefix) == set(STACKS)
    engine, task = Engine(opened), TextTask.from_dict(file.metadata.task)
    engine.add('reviews', file)
    rows = list(task_rows(outcome, opened))
    found = engine.run(engine.rows([('reviews', row.columns) for row in rows]))
    right = np.mean([one.text == task.target_text(row) for one, row in zip(
        found, rows, strict=True)])
    assert right == pytest.approx(after['accuracy'], abs=1e-6)


def task_rows(outcome, opened):
    config = json.loads((outcome.folder.path / 'run.json').read_text())
    assert config['format']
    task = file_task(str(next(outcome.folder.path.parents[1].glob('world*/reviews.csv'))),
                     inputs_template='review : {text}',
                     labels={'0': 'negative', '1': 'positive'})
    return task.rows(outcome.split)


@pytest.mark.slow
def test_other_tools_get_no_prefix(run, tmp_path, capsys):
    file = load_prompt(run[1].folder.prompt)
    for form in ('peft', 'numpy'):
        with pytest.raises(ValueError, match='has a prefix of keys and values, which no other'):
            export_prompt(file, tmp_path / form, form)
    assert cli.main(['inspect', f'--prompt={run[1].folder.prompt}']) == 0
    assert 'prefix' in capsys.readouterr().out
