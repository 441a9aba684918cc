"""What is installed from a wheel is complete, without the repository beside it."""

import pathlib
import subprocess
import sys
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
