"""The notebooks: run to their end with fewer steps, and committed whole, with what came out."""

import ast
import base64
import importlib
import importlib.util
import json
import pathlib
import re

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / 'notebooks'
PATHS = sorted(FOLDER.glob('*.ipynb'))
#: What each is run with: the least that has something to draw.
PARAMETERS = {
    'quickstart': {'steps': 2, 'evaluate_every': 1, 'examples': 60},
    'your_own_data': {'steps': 3, 'short_steps': 2},
    'one_model_many_tasks': {'steps': 1, 'examples': 400},
    'from_and_to_peft_and_t5x': {'peft_steps': 2, 'steps': 2},
    'planning_for_a_tpu': {'inputs_length': 64, 'batch_size': 8,
                           'plans': [('t5-1.1-small', 'v5e:1x1', 'data:1', 'bfloat16', 1)]},
    'every_way_of_tuning': {'steps': 1, 'examples': 16, 'only': ['prefixes']},
    'prompt_design_prompt_tuning_model_tuning': {'steps': 1, 'examples': 16, 'budget': 700},
    'reading_a_prompt': {'steps': 1, 'examples': 16},
    'what_the_model_sees': {'steps': 3},
}
#: What some need besides the tests' own packages.
NEEDS = {'from_and_to_peft_and_t5x': ('torch', 'peft'), 'planning_for_a_tpu': ('libtpu',)}
#: An absolute path of some machine; not the path of a URL.
_PATH = re.compile(r'(?<![\w.:/~$}<-])/[\w.-]+/[\w.-]+/[\w./-]+')

notebooks = pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)


@pytest.mark.slow
@notebooks
def test_a_notebook_runs(path, monkeypatch):
    for package in ('nbclient', 'ipykernel', *NEEDS.get(path.stem, ())):
        pytest.importorskip(package, reason=f'could not import {package}: pip install '
                                            'jax-prompt[test], and make setup-reference')
    spec = importlib.util.spec_from_file_location('run', FOLDER / 'run.py')
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    monkeypatch.delenv('XLA_FLAGS')  # of the other tests' tiny models
    monkeypatch.setenv('PYTHONPATH', str(FOLDER.parent))
    run.executed(path, timeout=900, **PARAMETERS[path.stem])
    with pytest.raises(ValueError, match=f'{path.name} has no parameter nothing in its cell'):
        run.executed(path, nothing=1)


def cells(path, kind):
    """Return the cells of a kind."""
    return [cell for cell in json.loads(path.read_text())['cells'] if cell['cell_type'] == kind]


def test_all_notebooks_are_tested():
    assert PARAMETERS.keys() == {path.stem for path in PATHS}


@notebooks
def test_a_notebook_is_committed_with_all_its_outputs(path):
    code = cells(path, 'code')
    assert [cell['execution_count'] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell['outputs']]
    assert not [output for output in outputs if output['output_type'] == 'error']
    pictures = [output['data']['image/png'] for output in outputs if 'image/png' in
                output.get('data', {})]
    assert pictures and all(base64.b64decode(one)[1:4] == b'PNG' for one in pictures)
    assert path.stat().st_size < 1e6


@notebooks
def test_a_notebook_tells_nothing_of_the_machine_that_ran_it(path):
    for cell in cells(path, 'code'):
        for output in cell['outputs']:
            data = {kind: text for kind, text in output.get('data', {}).items()
                    if not kind.startswith('image/')}
            told = ''.join([*output.get('text', ()), json.dumps(data)])
            assert not (found := _PATH.findall(told)), found


@notebooks
def test_what_a_notebook_imports_is_there(path):
    for cell in cells(path, 'code'):
        source = re.sub(r'^(\s*)[%!].*', r'\1pass', ''.join(cell['source']), flags=re.MULTILINE)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith('jax_prompt'):
                module = importlib.import_module(node.module)
                for name in node.names:
                    assert hasattr(module, name.name), f'{node.module} has no {name.name}'


def test_all_begin_by_installing_and_saying_what_device_they_found():
    beginnings = {''.join(cells(path, 'code')[0]['source']).split('\nimport jax\n')[0]
                  for path in PATHS}
    assert len({re.sub("'demo.*'", '', one) for one in beginnings}) == 1
    assert '%pip install' in beginnings.pop()
    for path in PATHS:
        assert ' x ' in ''.join(cells(path, 'code')[0]['outputs'][0]['text'])
