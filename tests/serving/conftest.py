"""A server that most tests share; those that change or stop one start their own."""

import os
import shutil

import pytest

pytest.importorskip('fastapi', reason='could not import fastapi: pip install jax-prompt[serve]')
pytest.importorskip('uvicorn', reason='could not import uvicorn: pip install jax-prompt[serve]')

from jax_prompt.prompts.file import save_prompt  # noqa: E402
from tests.inference.many_prompts import open_tiny, prompts  # noqa: E402
from tests.serving.process import running  # noqa: E402


@pytest.fixture(scope='session')
def model(world):
    return world / 'model'


@pytest.fixture(scope='session')
def opened(model):
    """The same model as the servers have, to compare with."""
    return open_tiny(model)


@pytest.fixture(scope='session')
def all_prompts(opened, tmp_path_factory):
    """A folder with every prompt; not to be changed."""
    folder = tmp_path_factory.mktemp('prompts')
    for name, file in prompts(opened).items():
        save_prompt(folder / f'{name}@1.safetensors', file)
    (folder / 'mood.examples.csv').write_text(
        'text,label\n"the film, a great one",1\nthe plot was weak' + ' and cold' * 20 + ',0\n')
    (folder / 'words.examples.csv').write_text('wrong\nthe plot was weak\n')
    return folder


@pytest.fixture
def folder(all_prompts, tmp_path):
    """A folder of one's own with two of the prompts."""
    (tmp_path / 'prompts').mkdir()
    for name in ('mood', 'title'):
        shutil.copy(all_prompts / f'{name}@1.safetensors', tmp_path / 'prompts')
    return tmp_path / 'prompts'


@pytest.fixture(scope='session', autouse=True)
def shared_programs(compile_once):
    """Let the servers, and the tests themselves, compile each program once."""
    import jax

    os.environ['JAX_COMPILATION_CACHE_DIR'] = jax.config.jax_compilation_cache_dir
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    yield
    del os.environ['JAX_COMPILATION_CACHE_DIR']
    del os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS']


@pytest.fixture(scope='session')
def server(model, all_prompts, shared_programs):
    """A server with all prompts and small limits."""
    with running(model, all_prompts, max_body=20_000, max_text=5_000, max_tokens=16,
                 read_limit=2.0, num_beams=2) as server:
        yield server
