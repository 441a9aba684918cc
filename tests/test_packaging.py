"""What is installed is complete: the wheel without its repository, the core without its extras."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import textwrap
import tomllib
import zipfile

import pytest

import jax_prompt

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_an_installed_wheel_finds_its_gin_files(tmp_path):
    for builder in ('build', 'hatchling'):
        pytest.importorskip(builder)
    subprocess.run(
        [sys.executable, '-m', 'build', '--wheel', '--no-isolation', '--outdir', tmp_path, ROOT],
        check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
    )
    (wheel,) = tmp_path.glob('*.whl')
    assert wheel.name == f'jax_prompt-{jax_prompt.__version__}-py3-none-any.whl'
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / 'site')
    for folder, inside in (('jax_prompt', 'jax_prompt'), ('gin', 'jax_prompt/gin')):
        for path in (ROOT / folder).rglob('*'):
            if path.suffix in ('.py', '.gin'):
                assert f'{inside}/{path.relative_to(ROOT / folder)}' in names
    # Nothing but the package, or an installation would scatter files over site-packages.
    assert {name.split('/')[0] for name in names} == {
        'jax_prompt', f'jax_prompt-{jax_prompt.__version__}.dist-info'
    }
    code = 'from jax_prompt.cli import find_gin_file; print(find_gin_file("demo.gin"))'
    found = subprocess.run(
        [sys.executable, '-I', '-c', f'import sys; sys.path.insert(0, "site"); {code}'],
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )
    assert pathlib.Path(tmp_path, found.stdout.strip()) == (
        tmp_path / 'site/jax_prompt/gin/demo.gin'
    )


#: What the extras bring, as it is imported. The core must do without.
EXTRAS = ('seqio', 'tensorflow', 'tensorflow_text', 'tensorflow_datasets', 'tensorboard', 'clu',
          'torch', 'onnx', 'fastapi', 'uvicorn', 'prometheus_client', 'umap')


@pytest.mark.slow
def test_the_core_trains_and_answers_without_the_extras(world, tmp_path):
    code = f"""
        import sys
        sys.modules.update(dict.fromkeys({EXTRAS}))  # as if they were not there
        from jax_prompt.cli import main
        model = '--model={world / 'model'}'
        codes = [main(['train', model, '--task={world / 'reviews.csv'}', '--output=run',
                       '--gin.file_task.inputs_template=review : {{text}}',
                       '--gin.file_task.labels={{"0": "negative", "1": "positive"}}',
                       '--gin.prompt.rows=2', '--gin.settings.steps=1',
                       '--gin.settings.evaluate_every=1', '--gin.settings.max_buckets=1',
                       '--gin.train.quiet=True']),
                 main(['predict', model, '--prompt=run/prompt.safetensors', '--inputs=in.txt']),
                 main(['train', model, '--task=glue_v002', '--output=other']),
                 main(['serve', model, '--prompts=.'])]
        print(codes)
    """
    (tmp_path / 'in.txt').write_text('the film was great\n')
    done = subprocess.run([sys.executable, '-c', textwrap.dedent(code)], cwd=tmp_path, text=True,
                          env={**os.environ, 'PYTHONPATH': str(ROOT)}, capture_output=True)
    assert done.returncode == 0, done.stderr
    answer, codes = done.stdout.splitlines()[-2:]
    assert answer in ('negative', 'positive') and json.loads(codes) == [0, 0, 2, 2], done.stderr
    for package, extra in (('seqio', 'seqio'), ('uvicorn', 'serve')):
        assert re.search(f"the Python package '{package}', which is not installed: pip install "
                         rf"'jax-prompt\[{extra}\]'$", done.stderr, re.MULTILINE), done.stderr


@pytest.mark.slow
def test_the_sdist_is_the_checkout(tmp_path):
    pytest.importorskip('hatchling')
    subprocess.run([sys.executable, '-m', 'build', '--sdist', '--no-isolation', '--outdir',
                    tmp_path, ROOT], check=True, stdout=subprocess.DEVNULL)
    (sdist,) = tmp_path.glob('*.tar.gz')
    with tarfile.open(sdist) as archive:
        inside = {name.partition('/')[2] for name in archive.getnames()}
    tracked = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True,
                             check=True).stdout.splitlines()
    assert not set(tracked) - inside


def test_the_extras_that_messages_name_are_there():
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    extras = project['optional-dependencies'].keys()
    for path in [*(ROOT / 'jax_prompt').rglob('*.py'), ROOT / 'README.md']:
        for name, chosen in re.findall(r"pip install '(jax.prompt|\.)\[([\w,]+)\]'",
                                       path.read_text()):
            assert name in ('.', project['name']) and set(chosen.split(',')) <= extras, path
