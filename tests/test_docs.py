"""README, docs and notebooks: blocks run, links lead somewhere, names are those of the code, and
figures have the command that made them."""

import ast
import contextlib
import functools
import importlib.util
import inspect
import io
import json
import pathlib
import re
import shlex

import gin
import pytest

from jax_prompt import cli, commands
from jax_prompt.commands.names import CONFIGURABLES
from jax_prompt.flags import FLAGS

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [*(ROOT / f'{name}.md' for name in ('README', 'CONTRIBUTING', 'SECURITY')),
         *sorted((ROOT / 'docs').rglob('*.md'))]
PAGES = [page for page in PAGES
         if not {'reference', '_build'} & set(page.relative_to(ROOT).parts)]  # from the code
PAGES += sorted((ROOT / 'notebooks').glob('*.ipynb'))  # whose code tests/test_notebooks.py runs
RESULTS = ROOT / 'benchmarks/RESULTS.md'
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
#: A mark above a block says why it is not run; 'read' blocks must still be ones that the command
#: takes.
_BLOCK = re.compile(r'(?:^ *<!-- (?P<how>not run|read, not run): (?P<why>[^>]+) -->\n)?'
                    r'^(?P<indent> *)```(?P<kind>\w*)\n(?P<text>.*?)^(?P=indent)```$',
                    re.MULTILINE | re.DOTALL)
_RUN = ('bash', 'python')
#: A span of text that names a file or a folder of the project.
_PATH = re.compile(r'[\w./-]+/[\w.-]+\.(py|sh|gin|md|yaml|conf|txt)|'
                   r'(tpu_scripts|gin|docs|deploy|jax_prompt|tests|benchmarks)/[\w./-]*')
#: A number that was measured, and a command that measures.
_FIGURE = re.compile(r'(?<![\w.,/-])\d(?:[\d,.]*\d)?'
                     r'(?: ?%| ?(?:kB|MB|GB|MiB|GiB|ms|examples/s|tokens/s)\b)')
_COMMAND = re.compile(r'`[^`\n]*(?:python -m (benchmarks\.\w+)|jax-prompt (\w+)|make ([\w-]+)|'
                      r'pip install)[^`\n]*`')
#: What is smaller here than in the text: the model has 33 words.
_SMALLER = {r'\b(steps|evaluate_every|total_steps)=\d+': r'\1=2', r'\brows=\d+': 'rows=5',
            r'\bjax-prompt train ': 'jax-prompt train --gin.prompt.rows=5 --gin.settings.steps=2 '}


def text_of(page):
    """Return the text of a page; of a notebook that of its cells of Markdown."""
    if page.suffix != '.ipynb':
        return page.read_text()
    return '\n\n'.join(''.join(cell['source']) for cell in json.loads(page.read_text())['cells']
                       if cell['cell_type'] == 'markdown')


def blocks(page):
    """Return (kind, text, how, why) of the fenced blocks of a page."""
    return [(found['kind'], inspect.cleandoc(found['text']), found['how'], found['why'])
            for found in _BLOCK.finditer(text_of(page))]


def smaller(text):
    """Return a block as it is tried here."""
    for pattern, instead in _SMALLER.items():
        text = re.sub(pattern, instead, text)
    return text


def test_blocks_are_found_and_marked_ones_say_why(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('<!-- not run: needs a TPU -->\n```bash\na\n```\n1. x\n\n   ```python\n   b\n'
                    '   ```\n```text\nc\n```\n')
    assert blocks(page) == [('bash', 'a', 'not run', 'needs a TPU'), ('python', 'b', None, None),
                            ('text', 'c', None, None)]


# Running


@pytest.fixture(scope='module')
def place(world, tmp_path_factory):
    """A folder with what the pages take for granted: data, models under the names used, a run."""
    folder = tmp_path_factory.mktemp('docs')
    for name in ('google/flan-t5-small', 'models/my-t5', 'google/flan-t5-base',
                 'google/flan-t5-xl', 'google/t5-large-lm-adapt', 'google/t5-xxl-lm-adapt'):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(world / 'model')
    rows = (world / 'reviews.csv').read_text().splitlines()[1:]
    (folder / 'tickets.csv').write_text('subject,body,team\n' + ''.join(
        f'film,{text},{("negative", "positive")[int(label)]}\n'
        for text, label in (row.rsplit(',', 1) for row in rows)))
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr('jax_prompt.training.run.draw_curves', lambda *_: None)
        (train,), = [commands_of(text) for kind, text, _, _ in blocks(
            ROOT / 'docs/howto/own_data.md') if kind == 'bash' and ' train ' in text]
        assert run_line(smaller(train)) == 0
        assert cli.main(['export', '--prompt=runs/tickets/prompt.safetensors', '--to=peft',
                         '--base_model=google/flan-t5-small', '--output=adapter']) == 0
    (folder / 'new.jsonl').write_text('{"subject": "a", "body": "the film was great"}\n')
    (configuration,) = re.findall(r'```\n(model.source .*?)```',
                                  (ROOT / 'docs/howto/own_data.md').read_text(), re.DOTALL)
    (folder / 'tickets.gin').write_text(configuration)
    (configuration,) = re.findall(r'```\n(compare.contenders .*?)```',
                                  (ROOT / 'docs/howto/compare.md').read_text(), re.DOTALL)
    (folder / 'compare.gin').write_text(configuration)
    (folder / 'prompts').symlink_to('runs/tickets')
    return folder


def commands_of(text):
    """Return the commands of a shell block, continued lines joined and comments taken off."""
    return [' '.join(shlex.split(line, comments=True, posix=False))
            for line in text.replace('\\\n', ' ').splitlines() if line.split('#')[0].strip()]


def run_line(line):
    """Run `[echo TEXT | ] jax-prompt ARGUMENTS`, or `echo TEXT > FILE`; return the exit code."""
    words, text = shlex.split(line), ''
    if words[0] == 'echo':
        text, operator, words = words[1] + '\n', words[2], words[3:]
        if operator == '>':
            pathlib.Path(words[0]).write_text(text)
            return 0
    assert pathlib.Path(words[0]).name == 'jax-prompt', f'cannot run {line!r}; mark its block'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('sys.stdin', io.StringIO(text))
        return cli.main(words[1:])


@pytest.fixture
def read_line(monkeypatch):
    """Return what configures a command as if to run it, and stops there."""
    def read(line):
        with monkeypatch.context() as patch:
            patch.setattr(gin, 'get_configurable', lambda _: lambda *_: 0)
            return run_line(line)
    return read


@pytest.mark.slow
@pytest.mark.parametrize('page', PAGES, ids=NAMES)
def test_blocks_run(page, request, monkeypatch, capsys, read_line):
    todo = [block for block in blocks(page) if block[0] in _RUN and block[2] != 'not run']
    if not todo:
        return
    monkeypatch.chdir(request.getfixturevalue('place'))
    monkeypatch.setattr('jax_prompt.training.run.draw_curves', lambda *_: None)
    monkeypatch.setattr('jax_prompt.reading.maps.has_umap', lambda: False)  # which takes seconds
    names = {}
    for kind, text, how, _ in todo:
        text = smaller(text)
        if kind == 'python':
            exec(compile(text, f'{page.name}: {text[:40]}', 'exec'), names)  # noqa: S102
            continue
        for line in commands_of(text):
            code = read_line(line) if how else run_line(line)
            assert code == 0, f'{line}\n{capsys.readouterr().err}'


# Names


def flags():
    """Return all flags that anything here takes: the command, scripts, benchmarks, and tools."""
    of_commands = {flag.name for some in FLAGS.values() for flag in some}
    told = {'gin_file', 'debug', 'help', 'distributed', 'coordinator', 'num_processes',
            'process_id', 'constraint', 'build-arg', 'gpus'}
    sources = [*(ROOT / 'tpu_scripts').glob('*.sh'), *(ROOT / 'benchmarks').glob('*.py')]
    scripts = {word for source in sources for word in re.findall(r'\w+', source.read_text())}
    return of_commands | told | scripts


@pytest.mark.parametrize('page', PAGES, ids=NAMES)
def test_names_in_the_text_are_in_the_code(page):
    known = flags()
    text = _BLOCK.sub('', text_of(page))
    for span in re.findall(r'(?<!`)`([^`\n]+)`(?!`)', text):
        for flag in re.findall(r'(?<![\w-])--([a-z][\w-]*)', span):
            assert flag in known or flag == 'gin', f'{page.name}: no flag --{flag} in `{span}`'
        for owner, name in re.findall(r'(?<![\w./-])(?:--gin\.)?(\w+)\.(\w+)(?![\w(/])', span):
            made = (CONFIGURABLES | commands.COMMANDS).get(owner)
            if made is not None and not re.fullmatch(
                    'py|gin|md|csv|safetensors|txt|json|html', name):
                inside = inspect.signature(getattr(made, '__wrapped__', made)).parameters
                assert name in inside, f'{page.name}: {owner} has no parameter {name}: `{span}`'
        if _PATH.fullmatch(span) and 'NAME' not in span:
            places = (ROOT, ROOT / 'jax_prompt', ROOT / 'gin', page.parent)
            assert any((place / span).exists() for place in places), f'{page.name}: no {span}'


@functools.cache
def definitions():
    """Return name -> what it holds, for each class and function of the package."""
    found = {}
    for path in (ROOT / 'jax_prompt').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                inside = {getattr(one, 'name', None) or getattr(getattr(one, 'target', None), 'id',
                                                                None) for one in node.body}
                found[node.name] = found.get(node.name, set()) | inside
    return found


@pytest.mark.parametrize('page', PAGES, ids=NAMES)
def test_python_names_in_the_text_are_in_the_code(page):
    for span in re.findall(r'(?<!`)`([^`\n]+)`(?!`)', _BLOCK.sub('', text_of(page))):
        found = re.match(r'(?:[a-z_]+\.)*(?P<name>[A-Z][a-z]+[A-Z]\w*|\w+(?=\())(?:\.(?P<of>\w+))?',
                         span.lstrip('@'))
        known = {'ValueError', 'CudaDevice', *CONFIGURABLES}
        if found and found['name'] not in known and '/' not in span:
            inside = definitions().get(found['name'])
            assert inside is not None, f'{page.name}: nothing is called {found["name"]}: `{span}`'
            assert not found['of'] or found['of'] in inside, f'{page.name}: `{span}` is not there'


@pytest.mark.parametrize('page', PAGES, ids=NAMES)
def test_make_targets_in_the_text_exist(page):
    targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    assert set(re.findall(r'(?:`|^)make ([a-z-]+)', text_of(page), re.MULTILINE)) <= targets


@pytest.mark.parametrize('page', [page for page in PAGES if page.stem != 'benchmarks'])
def test_figures_in_the_text_are_measured_ones(page):
    measured = set(_FIGURE.findall(RESULTS.read_text()))
    unknown = set(_FIGURE.findall(_BLOCK.sub('', text_of(page)))) - measured
    assert not unknown, (f'{page.name}: {unknown} stand nowhere in benchmarks/RESULTS.md, which '
                         'has each figure with the command that makes it')


def test_each_measurement_has_the_command_that_makes_it():
    _, *sections = re.split('^## ', RESULTS.read_text(), flags=re.MULTILINE)
    targets = re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    for section in sections:
        title, commands_in = section.split('\n')[0], list(_COMMAND.finditer(section))
        assert commands_in, f'benchmarks/RESULTS.md: no command in "{title}"'
        for benchmark, command, target in (found.groups() for found in commands_in):
            assert not benchmark or importlib.util.find_spec(benchmark), benchmark
            assert not command or command in FLAGS, f'{title}: jax-prompt {command}'
            assert not target or target in targets, f'{title}: make {target}'


def test_error_messages_of_the_page_are_those_of_the_code():
    said = []
    for path in (ROOT / 'jax_prompt').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                said.append(''.join(part.value if isinstance(part, ast.Constant) else '\0'
                                    for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(node.value)
    entries = re.findall(r'^`([^`]+)`\n: ', (ROOT / 'docs/errors.md').read_text(), re.MULTILINE)
    assert len(entries) > 20
    for entry in entries:
        pattern = re.compile('.*?'.join(map(re.escape, entry.split('…'))), re.DOTALL)
        assert any(map(pattern.search, said)), f'no message says {entry!r}'


def reference():
    """Return the module that writes the reference."""
    found = importlib.util.spec_from_file_location('reference', ROOT / 'docs/reference.py')
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_reference_has_every_flag_and_setting_with_its_meaning():
    pages = reference().pages()
    for command, some in FLAGS.items():
        assert f'## {command}\n' in pages['commands']
        assert all(f'| `--{flag.name}' in pages['commands'] for flag in some)
    for name in CONFIGURABLES:
        assert f'### {name}\n' in pages['gin']
    constructors, _ = pages['gin'].split('## Commands')
    unsaid = re.findall(r'^\| `(\w+)\.\w+` \| .* \|  \|$', constructors, re.MULTILINE)
    assert set(unsaid) <= {'imdb'}, unsaid  # which says that it takes what rotten_tomatoes does
    for name in re.findall(r'automodule:: (\S+)', ''.join(pages.values())):
        assert importlib.util.find_spec(name), f'docs/reference.py names {name}'


# Links


def slug(heading):
    """Return the anchor that GitHub and MyST give a heading."""
    return re.sub(r'[^\w\- ]', '', heading.strip().lower()).replace(' ', '-')


@pytest.mark.parametrize('page', PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    text = _BLOCK.sub('', text_of(page))
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if re.match(r'https?:', target):
            continue
        path, _, anchor = target.partition('#')
        other = (page.parent / path).resolve() if path else page
        if 'reference' in other.parts:
            assert other.stem in reference().pages(), f'{page.name}: no page {target}'
            continue
        if other.parent == ROOT / 'docs/notebooks':  # where docs/conf.py copies them
            other = ROOT / 'notebooks' / other.name
        assert other.is_file(), f'{page.name}: {target} leads nowhere'
        if anchor:
            headings = map(slug, re.findall(r'^#+ (.+)$', text_of(other), re.MULTILINE))
            assert anchor in headings, f'{page.name}: {target} leads nowhere'
