"""The pages of docs/, README and the notebooks in a real browser."""

import contextlib
import functools
import http.server
import pathlib
import shutil
import subprocess
import sys
import threading

import pytest

ROOT = pathlib.Path(__file__).parents[1]
#: Whether all pictures of a page are there; those further down are loaded when they are looked at.
PICTURES = """async () => {
    const all = [...document.images];
    await Promise.all(all.map(one => { one.loading = 'eager'; return one.decode(); }));
    return all.map(one => one.naturalWidth);
}"""

pytestmark = pytest.mark.slow
pytest.importorskip('playwright.sync_api', reason='could not import playwright: pip '
                    'install jax-prompt[test]')
markdown_it = pytest.importorskip('markdown_it')


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """A folder with the built pages and README, and its address."""
    pytest.importorskip('myst_nb', reason='could not import myst_nb: make docs')
    folder = tmp_path_factory.mktemp('site')
    subprocess.run([sys.executable, '-m', 'sphinx', '--quiet', '--fail-on-warning', ROOT / 'docs',
                    folder], check=True, cwd=ROOT)
    text = markdown_it.MarkdownIt().enable('table').render((ROOT / 'README.md').read_text())
    (folder / 'README.html').write_text(
        f'<meta charset="utf-8"><link rel="icon" href="data:,">{text}')
    shutil.copytree(ROOT / 'docs/pictures', folder / 'docs/pictures')

    class Quiet(http.server.SimpleHTTPRequestHandler):
        log_message = staticmethod(lambda *_: None)

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0),
                                             functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def opened(browser, address):
    """Open a page on which nothing may go wrong and nothing be fetched from elsewhere."""
    page, problems = browser.new_page(), []
    page.on('request', lambda request: problems.append(f'asks {request.url}') if not
            request.url.startswith((address.rsplit(':', 1)[0], 'data:')) else None)
    page.on('pageerror', lambda error: problems.append(str(error)))
    page.on('console', lambda message: problems.append(message.text)
            if message.type == 'error' else None)
    page.goto(address)
    yield page
    page.close()
    assert not problems, f'{address}: {problems}'


def test_all_pages_and_their_pictures_show(browser, site):
    folder, address = site
    pages = [path.relative_to(folder) for path in folder.rglob('*.html')
             if not {'_static', '_modules'} & set(path.relative_to(folder).parts)]
    pictures = {}
    for path in pages:
        with opened(browser, f'{address}/{path}') as page:
            pictures[str(path)] = page.evaluate(PICTURES)
    assert all(all(widths) for widths in pictures.values()), pictures
    for notebook in (ROOT / 'notebooks').glob('*.ipynb'):
        assert pictures[f'notebooks/{notebook.stem}.html'], notebook
    assert pictures['README.html']


def test_the_search_finds(browser, site):
    with opened(browser, f'{site[1]}/search.html?q=out+of+memory') as page:
        page.wait_for_selector('#search-results li a')
        found = page.locator('#search-results li a').all_text_contents()
    assert any('Out of memory' in title for title in found), found
