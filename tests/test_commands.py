"""The commands that carry weights and prompts in and out, plan and serve, as a user calls them."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from jax_prompt import cli
from jax_prompt.flags import EXAMPLES, FLAGS, GIN_NAMES, SUMMARIES
from jax_prompt.prompts.file import PromptFile, PromptMetadata, load_prompt, save_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.training.frozen_model import open_model
from tests.training.processes import finish, start, start_together

TASK = {'name': 'reviews', 'inputs_template': 'review : {text}', 'target': 'label',
        'labels': {'0': 'negative', '1': 'positive'}, 'inputs_length': 64, 'targets_length': 8}


@pytest.fixture(scope='module')
def prompt(world, tmp_path_factory):
    """A prompt file for the tiny world's model."""
    model = open_model(str(world / 'model'))
    path = tmp_path_factory.mktemp('prompts') / 'reviews.safetensors'
    metadata = PromptMetadata(model.name, model.fingerprint, model.vocabulary_fingerprint, TASK,
                              Layout(), 'direct', 7, {'accuracy': 0.5}, 0)
    rows_PD = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    save_prompt(path, PromptFile(rows_PD, metadata))
    return path


def task_flags(world):
    return [f'--task={world / "reviews.csv"}', '--gin.file_task.inputs_template=review : {text}',
            '--gin.file_task.labels={"0": "negative", "1": "positive"}']


def fails(capsys, arguments, *parts):
    """Assert that a command ends with exit code 2 and one line that holds these parts."""
    capsys.readouterr()
    assert cli.main(arguments) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and all(part in told[0] for part in parts), told


def test_every_command_has_a_summary_flags_and_an_example():
    from jax_prompt import commands

    assert set(SUMMARIES) == set(FLAGS) == set(EXAMPLES)
    assert {GIN_NAMES.get(name, name) for name in SUMMARIES} == set(commands.COMMANDS)


@pytest.mark.parametrize('command', sorted(SUMMARIES))
def test_help_names_every_flag(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, '--help'])
    told = capsys.readouterr().out
    assert end.value.code == 0 and all(f'--{flag.name}' in told for flag in FLAGS[command])


def test_a_converted_model_is_used_like_the_one_that_it_was(world, prompt, tmp_path, capsys):
    output = tmp_path / 'int8'
    arguments = ['convert', f'--model={world / "model"}', '--weights=int8', f'--output={output}']
    assert cli.main(arguments) == 0
    fails(capsys, arguments, str(output), 'allow overwriting')
    assert cli.main([*arguments, '--overwrite']) == 0
    small, wide = open_model(str(output)), open_model(str(world / 'model'))
    assert small.num_bytes < 0.5 * wide.num_bytes and small.fingerprint == wide.fingerprint
    (tmp_path / 'in.txt').write_text('the film was great\n')
    assert cli.main(['predict', f'--model={output}', f'--prompt={prompt}',
                     f'--inputs={tmp_path / "in.txt"}', f'--output={tmp_path / "out.txt"}']) == 0
    assert (tmp_path / 'out.txt').read_text() in ('negative\n', 'positive\n')


@pytest.mark.parametrize(('to', 'name'), [('peft', 'adapter'), ('numpy', 'rows.npy')])
def test_a_prompt_goes_out_and_comes_back(world, prompt, tmp_path, capsys, to, name):
    out, back = tmp_path / name, tmp_path / 'back.safetensors'
    export = ['export', f'--prompt={prompt}', f'--to={to}', f'--output={out}']
    assert cli.main(export) == 0
    fails(capsys, export, str(out))
    assert cli.main([*export, '--overwrite']) == 0
    assert cli.main(['import', f'--model={world / "model"}', *task_flags(world),
                     f'--source={out}', f'--output={back}']) == 0
    came, went = load_prompt(back), load_prompt(prompt)
    np.testing.assert_array_equal(came.prompt_PD, went.prompt_PD)
    assert came.metadata.base_model_fingerprint == went.metadata.base_model_fingerprint
    assert came.metadata.task['labels'] == TASK['labels']


def test_lines_of_several_tasks_name_their_prompts(world, prompt, tmp_path, capsys):
    topics = tmp_path / 'prompts' / 'topics.safetensors'
    topics.parent.mkdir()
    file = load_prompt(prompt)
    task = TASK | {'name': 'topics', 'labels': {'f': 'film', 'p': 'plot', 'c': 'cast'}}
    save_prompt(topics, PromptFile(file.prompt_PD[:3],
                                   dataclasses.replace(file.metadata, task=task)))
    save_prompt(topics.parent / 'reviews.safetensors', file)
    asked = [{'task': name, 'text': f'the {word} was great'} for word in ('film', 'plot', 'hero')
             for name in ('topics', 'reviews')]
    inputs, output = tmp_path / 'in.jsonl', tmp_path / 'out.jsonl'
    inputs.write_text(''.join(json.dumps(one) + '\n' for one in asked))
    common = ['predict', f'--model={world / "model"}', f'--inputs={inputs}', f'--output={output}']
    fails(capsys, [*common, f'--prompts={topics.parent}'], '--prompt_column=NAME')
    assert cli.main([*common, f'--prompts={topics.parent}', '--prompt_column=task']) == 0
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    for one, answer in zip(asked, answers, strict=True):
        labels = task['labels'] if one['task'] == 'topics' else TASK['labels']
        assert answer['text'] == one['text'] and set(answer['scores']) == set(labels.values())
    # One prompt for all gives those lines the very same answers.
    alone = tmp_path / 'alone.jsonl'
    assert cli.main([*common[:3], f'--output={alone}', f'--prompt={topics}']) == 0
    for line, answer in zip(alone.read_text().splitlines()[::2], answers[::2], strict=True):
        assert json.loads(line)['scores'] == pytest.approx(answer['scores'], abs=1e-5)
    inputs.write_text('{"task": "other", "text": "x"}\n')
    fails(capsys, [*common, f'--prompts={topics.parent}', '--prompt_column=task'],
          "line 1 of", "no prompt 'other' in use")


def test_how_lines_are_answered_can_be_chosen(world, prompt, tmp_path, capsys):
    file, free = load_prompt(prompt), tmp_path / 'free.safetensors'
    task = {name: value for name, value in TASK.items() if name != 'labels'} | {'targets_length': 6}
    save_prompt(free, PromptFile(file.prompt_PD, dataclasses.replace(file.metadata, task=task)))
    inputs, output = tmp_path / 'in.jsonl', tmp_path / 'out.jsonl'
    inputs.write_text('{"text": "the film was great"}\n' * 6)

    def answer(prompt, *flags):
        assert cli.main(['predict', f'--model={world / "model"}', f'--inputs={inputs}',
                         f'--output={output}', f'--prompt={prompt}', *flags]) == 0
        found = [json.loads(line) for line in output.read_text().splitlines()]
        output.unlink()
        return found

    drawn = answer(free, '--temperature=50', '--seed=3')
    assert len({one['prediction'] for one in drawn}) > 3
    assert drawn == answer(free, '--temperature=50', '--seed=3', '--batch_size=6')
    assert drawn != answer(free, '--temperature=50', '--seed=4')
    greedy = answer(free)
    assert greedy == answer(free, '--temperature=50', '--top_k=1')
    assert greedy == answer(free, '--temperature=50', '--top_p=0.0')
    assert len({one['prediction'] for one in answer(free, '--num_beams=2', '--max_tokens=4')}) == 1
    plain, calibrated = answer(prompt)[0], answer(prompt, '--calibrate')[0]
    assert plain['scores'] == pytest.approx(calibrated['scores'], abs=1e-5)
    assert plain['probabilities'] != pytest.approx(calibrated['probabilities'], abs=1e-4)
    fails(capsys, ['predict', f'--model={world / "model"}', f'--prompt={free}',
                   '--num_beams=2', '--temperature=1.0'], 'a beam search draws nothing')


@pytest.mark.slow
def test_two_hosts_answer_a_file_and_join_their_shares(world, prompt, tmp_path):
    inputs = tmp_path / 'in.txt'
    inputs.write_text(''.join(f'the film was {word}\n' for word in ('great', 'dull') * 20))
    outputs = [tmp_path / 'alone.txt', tmp_path / 'together.txt']
    alone, together = ([sys.executable, '-m', 'jax_prompt.cli', 'predict', f'--inputs={inputs}',
                        f'--model={world / "model"}', f'--prompt={prompt}', f'--output={output}']
                       for output in outputs)
    (code, errors), = finish(start(alone, tmp_path))
    assert code == 0, errors
    for code, errors in finish(*start_together(together, tmp_path, devices=1)):
        assert code == 0, errors
    assert outputs[0].read_text() == outputs[1].read_text() and len(os.listdir(tmp_path)) >= 3
    assert not list(tmp_path.glob('*.part-*'))


def test_inspect_tells_the_words_nearest_to_each_row(world, prompt, capsys):
    assert cli.main(['inspect', f'--prompt={prompt}', '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert told['rows'] == 5 and told['metadata']['step'] == 7 and 'nearest' not in told
    assert cli.main(['inspect', f'--prompt={prompt}', f'--model={world / "model"}']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(bool(re.match(r"  row    \d  norm +\d", line)) for line in lines) == 5
    assert all(line.count("'") == 10 for line in lines if line.startswith('  row'))


def test_what_is_missing_is_named(capsys, prompt, tmp_path):
    fails(capsys, ['convert', '--output=x'], 'no model given')
    fails(capsys, ['export', f'--prompt={prompt}'], 'no output given')
    fails(capsys, ['export', f'--prompt={prompt}', f'--output={tmp_path / "r.npy"}', '--to=numpy',
                   '--push=me/mine'], 'the hub takes --to=peft')
    fails(capsys, ['inspect'], 'no prompt file given')
    fails(capsys, ['inspect', f'--prompt={tmp_path / "none"}'], 'none')


@pytest.mark.parametrize(('flags', 'parts'), [
    ([], ['no model to plan for']),
    (['--model=t5-1.1-small'], ['no topology to plan for']),
    (['--model=t5-1.1-small', '--topology=v99:1x1'], ['v99']),
    (['--model=t5-9', '--topology=v5e:1x1'], ['t5-9']),
    (['--model=t5-1.1-small', '--topology=v5e:1x1', '--batch_size=0'], ['batch_size=0']),
])
def test_a_plan_that_cannot_be_is_refused_in_one_line(flags, parts):
    # A plan chooses JAX's platform, so it needs a process of its own.
    done = subprocess.run([sys.executable, '-m', 'jax_prompt.cli', 'plan', *flags],
                          capture_output=True, text=True, timeout=120)
    told = [line for line in done.stderr.splitlines() if not line.startswith('compiling for')]
    assert done.returncode == 2 and all(part in told[-1] for part in parts), done.stderr
    assert 'Traceback' not in done.stderr


def is_ready(address):
    try:
        with urllib.request.urlopen(f'{address}/readyz', timeout=60) as answer:
            return answer.status == 200
    except urllib.error.HTTPError:
        return False


@pytest.mark.slow
def test_serve_answers_until_it_is_told_to_stop(world, prompt):
    process = subprocess.Popen(
        [sys.executable, '-m', 'jax_prompt.cli', 'serve', f'--model={world / "model"}',
         f'--prompts={prompt.parent}', '--port=0', '--gin.server.warm_up_length=8',
         '--gin.server.batch_size=2'], stderr=subprocess.PIPE, text=True,
        env=os.environ | {'JAX_PLATFORMS': 'cpu'})
    try:
        address = next(found[0] for line in process.stderr
                       if (found := re.findall(r'http://\S+', line)))
        with urllib.request.urlopen(f'{address}/healthz', timeout=60) as answer:
            assert answer.status == 200
        deadline = time.monotonic() + 120
        while not is_ready(address):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.2)
        with urllib.request.urlopen(f'{address}/v1/prompts', timeout=60) as answer:
            assert 'reviews' in answer.read().decode()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
