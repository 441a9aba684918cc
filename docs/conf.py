"""Sphinx's configuration. `make docs` builds the site, offline, with warnings as errors."""

import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'docs')]

import links  # noqa: E402
import reference  # noqa: E402

import jax_prompt  # noqa: E402

project = 'jax_prompt'
author = 'the jax_prompt authors'
copyright = author
version = release = jax_prompt.__version__

extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
html_favicon = 'pictures/icon.svg'
html_theme = 'sphinx_book_theme'
html_title = 'jax_prompt'
html_theme_options = {'show_toc_level': 2, 'use_download_button': False}
html_context = {'default_mode': 'auto'}  # unset, the theme's script calls it an error
exclude_patterns = ['_build']
nb_execution_mode = 'off'  # the tests run the blocks, and the notebooks hold their outputs
nb_merge_streams = True
myst_heading_anchors = 3
myst_enable_extensions = ['colon_fence', 'deflist']

# Docstrings are plain text with code in single backticks.
default_role = 'code'
autodoc_default_options = {'members': True, 'member-order': 'bysource'}
autodoc_typehints = 'none'  # they stand in the signatures' text and in Args
autodoc_preserve_defaults = True
# What only some commands need, and what would take seconds to import.
autodoc_mock_imports = ['seqio', 'tensorflow', 'tensorflow_datasets', 'fastapi', 'starlette',
                        'uvicorn', 'prometheus_client', 'pydantic', 'pydantic_core']
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
suppress_warnings = ['ref.python']  # attributes of one name in two classes
napoleon_custom_sections = ['Source']


def bring_notebooks(app):
    """Copy the notebooks, which stand beside docs/, to where Sphinx reads."""
    folder = pathlib.Path(app.srcdir) / 'notebooks'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in (ROOT / 'notebooks').glob('*.ipynb'):
        text = path.read_text(encoding='utf-8').replace('(../docs/', '(../')
        (folder / path.name).write_text(text, encoding='utf-8')


def setup(app):
    """Write the reference from the code before Sphinx reads, and look at every link behind it."""
    app.connect('builder-inited', lambda app: reference.write(pathlib.Path(app.srcdir)))
    app.connect('builder-inited', bring_notebooks)
    app.connect('build-finished', links.check)
