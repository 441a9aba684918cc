"""The commands that carry weights and prompts in and out, plan and serve, as a user calls them."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from jax_prompt import cli
from jax_prompt.commands import predict
from jax_prompt.flags import FLAGS, GIN_NAMES, SUMMARIES
from jax_prompt.inference.answering import AnswerSettings
from jax_prompt.models.open import open_model
from jax_prompt.prompts.file import PromptFile, PromptMetadata, load_prompt, save_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.usage import EXAMPLES
from tests.training.processes import finish, free_port, start

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
    save_prompt(path, PromptFile(Prompt(rows_PD), metadata))
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
    fails(capsys, arguments, str(output), 'may be overwritten')
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
    bring = ['import', f'--model={world / "model"}', *task_flags(world), f'--source={out}',
             f'--output={back}']
    assert cli.main(bring) == 0
    fails(capsys, bring, f'{back} exists already', '--overwrite')
    assert cli.main([*bring, '--overwrite']) == 0
    assert cli.main(['inspect', f'--prompt={out}']) == 0
    assert '  origin                   imported from ' in capsys.readouterr().out
    fails(capsys, ['inspect', f'--prompt={out}', '--parameter=1'], "'1' chooses", 'of several')
    came, went = load_prompt(back), load_prompt(prompt)
    np.testing.assert_array_equal(came.prompt.rows, went.prompt.rows)
    assert came.metadata.base_model_fingerprint == went.metadata.base_model_fingerprint
    assert came.metadata.task['labels'] == TASK['labels']


def test_lines_of_several_tasks_name_their_prompts(world, prompt, tmp_path, capsys):
    topics = tmp_path / 'prompts' / 'topics.safetensors'
    topics.parent.mkdir()
    file = load_prompt(prompt)
    task = TASK | {'name': 'topics', 'labels': {'f': 'film', 'p': 'plot', 'c': 'cast'}}
    save_prompt(topics, PromptFile(Prompt(file.prompt.rows[:3]),
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


def test_how_lines_are_answered_can_be_chosen(world, prompt, tmp_path, capsys, monkeypatch):
    file, free = load_prompt(prompt), tmp_path / 'free.safetensors'
    task = {name: value for name, value in TASK.items() if name != 'labels'} | {'targets_length': 6}
    save_prompt(free, PromptFile(file.prompt, dataclasses.replace(file.metadata, task=task)))
    inputs, output = tmp_path / 'in.jsonl', tmp_path / 'out.jsonl'
    inputs.write_text('{"text": "the film was great"}\n' * 6)

    def answer(prompt, *flags):
        assert cli.main(['predict', f'--model={world / "model"}', f'--inputs={inputs}',
                         f'--output={output}', f'--prompt={prompt}', *flags]) == 0

    answer(free, '--temperature=50', '--seed=3')
    assert len(set(output.read_text().splitlines())) > 3
    asked = []
    monkeypatch.setattr(predict, 'predict_file', lambda engine, inputs, output, settings, bar: (
        asked.append((settings.answers, max(engine.shapes.batch_sizes))), 0))
    for one, flags, expected in (
            (free, '--temperature=50 --top_k=3 --top_p=0.5 --seed=4 --batch_size=6',
             (AnswerSettings(temperature=50, top_k=3, top_p=0.5, seed=4), 6)),
            (free, '--num_beams=2 --max_tokens=4', (AnswerSettings(num_beams=2, max_tokens=4), 32)),
            (prompt, '--calibrate --label_temperature=2.5',
             (AnswerSettings(calibrate=True, label_temperature=2.5), 32))):
        answer(one, *flags.split())
        assert asked.pop() == expected
    for one, flags, why in ((free, '--num_beams=2 --temperature=1.0', 'a beam search draws noth'),
                            (prompt, '--num_beams=2', 'would do nothing: the task has labels'),
                            (free, '--calibrate', 'would do nothing: the task is free text')):
        fails(capsys, ['predict', f'--model={world / "model"}', f'--inputs={inputs}',
                       f'--prompt={one}', *flags.split()], why)


#: A host that is slow to load, and stops behind its first window until it is told to go on.
HELD = """
    import os, sys, time
    from jax_prompt import cli
    from jax_prompt.commands import predict

    go, seconds, *arguments = sys.argv[1:]
    load = predict.load_prompt
    predict.load_prompt = lambda path: (time.sleep(float(seconds)), load(path))[1]

    class Held(predict.ProgressBar):
        def update(self, step, examples=0, **numbers):
            while examples and not os.path.exists(go):
                time.sleep(0.05)

    predict.ProgressBar = Held
    sys.exit(cli.main(arguments))
"""


def wait_until(is_so, process):
    deadline = time.monotonic() + 240
    while not is_so():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def answer(world, prompt, tmp_path):
    """Arguments of `predict` that answer a file in windows of five lines."""
    inputs = tmp_path / 'in.txt'
    inputs.write_text(''.join(f'the film was {word}\n' for word in ('great', 'dull') * 20))
    return ['predict', f'--inputs={inputs}', f'--model={world / "model"}', f'--prompt={prompt}',
            '--gin.lines.window=5']


@pytest.mark.slow
def test_two_hosts_answer_a_file_however_far_apart_and_go_on_behind_a_kill(answer, tmp_path):
    run = [sys.executable, '-m', 'jax_prompt.cli', *answer]
    folder, output = tmp_path / 'out', tmp_path / 'out' / 'out.txt'
    folder.mkdir()
    (code, errors), = finish(start([*run, f'--output={tmp_path / "alone.txt"}'], tmp_path))
    assert code == 0, errors

    def start_both(seconds):
        held = [sys.executable, '-c', textwrap.dedent(HELD), str(tmp_path / 'go'), str(seconds)]
        port = free_port()
        return [start([*command, f'--output={output}'], tmp_path, 1, (port, 2, index))
                for index, command in enumerate((run, [*held, *answer]))]

    processes = start_both(31)  # JAX's first collective on CPU waits for half a minute
    windows = {'00000000.part', '00000002.part', '00000004.part', '00000006.part'}  # of the first
    wait_until(lambda: {path.name for path in folder.glob('*/*.part')} == {
        *windows, '00000001.part'}, processes[0])
    for process in processes:
        process.kill()
    finish(*processes)
    processes = start_both(0)
    told = []
    for line in processes[0].stderr:
        told.append(line)
        if 'waits for the others' in line:
            break
    assert any('an earlier run answered 5 windows of 5 lines; going on' in line
               for line in told) and not any('lines/s' in line for line in told), told
    (tmp_path / 'go').touch()
    (first, _), (second, errors) = finish(*processes)
    assert (first, second) == (0, 0), errors
    assert 'an earlier run answered 5 windows of 5 lines; going on' in errors
    assert os.listdir(folder) == ['out.txt']
    assert output.read_text() == (tmp_path / 'alone.txt').read_text()


@pytest.mark.slow
def test_hosts_that_share_no_disk_are_told_before_they_answer(answer, tmp_path):
    port, folders = free_port(), [tmp_path / name for name in ('one', 'other')]
    for folder in folders:
        folder.mkdir()
    (code, _), (other_code, errors) = finish(*(
        start([sys.executable, '-m', 'jax_prompt.cli', *answer, f'--output={folder}/out.txt'],
              tmp_path, 1, (port, 2, index)) for index, folder in enumerate(folders)))
    assert (code, other_code) == (2, 2)
    assert 'is not the one that the first host joins' in errors and 'lines/s' not in errors
    assert not any(os.listdir(folder) for folder in folders)


def test_inspect_tells_the_words_nearest_to_each_row(world, prompt, capsys):
    assert cli.main(['inspect', f'--prompt={prompt}', '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert told['rows'] == 5 and told['metadata']['step'] == 7 and 'nearest' not in told
    assert cli.main(['inspect', f'--prompt={prompt}', f'--model={world / "model"}']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(bool(re.match(r"  row    \d  norm +\d", line)) for line in lines) == 5
    assert all(line.count("'") == 10 for line in lines if line.startswith('  row'))


def test_a_design_is_made_measured_and_used_like_a_prompt(world, prompt, tmp_path, capsys):
    model, output = f'--model={world / "model"}', tmp_path / 'design.safetensors'
    make = ['design', model, *task_flags(world), f'--output={output}',
            '--template=review : {text} was {answer}', '--gin.design.form=plain',
            '--gin.design.words={"negative": ["dull", "weak"], "positive": "great"}']
    assert cli.main([*make, '--shots=2', '--choice=nearest', '--calibrate=unlabelled']) == 0
    told = capsys.readouterr().out
    assert 'plain design for reviews' in told and '  negative: dull, weak\n' in told
    assert '  the 2 nearest of ' in told and '  review : [text] was\n' in told
    assert cli.main(['evaluate', model, *task_flags(world), f'--prompt={output}',
                     '--split=validation', '--calibration']) == 0
    assert str(output) in capsys.readouterr().out
    lines = tmp_path / 'lines.jsonl'
    lines.write_text('{"text": "the film was warm", "by": "design"}\n'
                     '{"text": "the film was warm", "by": "reviews"}\n')
    (tmp_path / 'prompts').mkdir()
    for file in (output, prompt):
        shutil.copy(file, tmp_path / 'prompts')
    assert cli.main(['predict', model, f'--prompts={tmp_path / "prompts"}', '--prompt_column=by',
                     f'--inputs={lines}']) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(answer['scores']) for answer in answers] == [{'negative', 'positive'}] * 2
    assert cli.main(['inspect', f'--prompt={output}']) == 0
    told = capsys.readouterr().out
    assert '0 rows of 16 numbers' in told and '"nearest": "2 of ' in told
    fails(capsys, make, str(output), 'overwrite')
    fails(capsys, [*make, '--overwrite', '--gin.design.form=cloze', '--template=review : {text}'],
          "has {answer}, the answer's place, 0 times", "set form='plain'")
    fails(capsys, ['export', f'--prompt={output}', '--to=numpy', f'--output={tmp_path / "a.npy"}'],
          'the prompt has a design, words around its inputs, which numpy cannot say')


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
def test_a_plan_that_cannot_be_is_refused_in_one_line(flags, parts, capsys, monkeypatch):
    monkeypatch.setenv('JAX_PLATFORMS', 'cpu')  # which the command sets for its own process
    assert cli.main(['plan', *flags]) == 2
    told = [line for line in capsys.readouterr().err.strip().splitlines()
            if not line.startswith('compiling for')]
    assert len(told) == 1 and all(part in told[0] for part in parts), told


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
