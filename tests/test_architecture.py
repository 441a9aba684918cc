"""The rules of the design that a test can hold: who imports whom, sizes, no pickle, quick starts.

Each rule is a function from a module's name and source to the list of its breaches, so that it can
be shown a breach as well as the package.
"""

import ast
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'jax_prompt'

# What each part may import of the others: one way, as ARCHITECTURE says. `models.open` is a part of
# its own, above the weights and vocabularies that it opens a model with; `commands` is the part of
# `cli` that is too heavy to import for --help.
GROUND = {'types', 'files', 'progress', 'config'}
FIRST = GROUND | {'models', 'prompts', 'parallel'}
SECOND = FIRST | {'weights', 'exchange', 'data'}
OPENED = SECOND | {'models.open'}
MAY_IMPORT = {
    'types': set(),
    'files': set(),
    'progress': set(),
    'config': set(),
    'parallel': GROUND,
    'prompts': GROUND | {'parallel'},  # methods that train weights ask for their dimensions
    'models': FIRST,
    'data': FIRST,
    'weights': FIRST,
    'exchange': FIRST | {'weights', 'models.open'},
    'models.open': SECOND,
    'inference': OPENED,
    'evaluation': OPENED | {'inference'},
    'training': OPENED | {'inference', 'evaluation'},
    'predict': OPENED | {'inference'},
    'serving': OPENED | {'inference'},
    'monitoring': OPENED | {'inference', 'evaluation'},
    'sweep': OPENED | {'inference', 'evaluation', 'training'},
    'reading': OPENED | {'inference', 'evaluation'},
    'planning': OPENED | {'inference', 'training'},
    'search': OPENED | {'inference', 'evaluation'},
    'comparison': OPENED | {'inference', 'evaluation', 'training', 'search'},
    'flags': set(),
    'usage': set(),
    'commands': OPENED | {'inference', 'evaluation', 'training', 'predict', 'serving',
                          'monitoring', 'sweep', 'planning', 'comparison', 'reading',
                          'search'},
    'cli': {'files', 'flags', 'usage', 'commands', 'parallel'},
}

# Who may import these, by prefix of the module's name within the package.
RESERVED = {
    'seqio': ('data',),
    'tensorflow': ('data',),
    'tensorflow_text': ('data',),
    'tensorflow_datasets': ('data',),
    'orbax': ('training.state', 'parallel.hosts'),  # hosts take its barrier
    'tensorboardX': ('training.reporting',),
    'onnx': ('weights',),
    'pyarrow': ('data',),
    'rouge_score': ('evaluation',),
    'sacrebleu': ('evaluation',),
    'umap': ('reading.maps',),
    # The prompt file is a safetensors file.
    'safetensors': ('weights', 'exchange', 'prompts.container'),
    'fastapi': ('serving',),
    'starlette': ('serving',),
    'pydantic': ('serving',),
    'uvicorn': ('serving',),
    'prometheus_client': ('serving',),
    'optuna': ('sweep',),
    'gin': ('commands',),
    'typeguard': ('commands',),
    'argparse': ('cli',),
    'absl.flags': ('cli',),
    'absl.app': ('cli',),
}

UNPICKLING = {'pickle', '_pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal'}

MAX_FUNCTION_LINES = 80
SCREEN_LINES = 40
MAX_ARGUMENTS = 8
MAX_MODULE_LINES = 335  # "under about 300"

Rule = Callable[[str, str], list[str]]


def _module_name(path: pathlib.Path) -> str:
    """Return the module's name within the package: 'models.t5.model', '' for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(part for part in parts if part != '__init__')


def _sources() -> dict[str, str]:
    """Return the source of every module of the package."""
    return {_module_name(path): path.read_text() for path in sorted(PACKAGE.rglob('*.py'))}


def _imports(module: str, source: str) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything that is imported, inside functions too.

    `from a import b` gives `a.b`, since b may be a module; a relative import is made absolute.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                package = ['jax_prompt', *module.split('.')][: -node.level]
                base = '.'.join([*package, base]).rstrip('.')
            for alias in node.names:
                yield node.lineno, f'{base}.{alias.name}'


def _within(name: str, prefixes) -> bool:
    """Tell whether a dotted name is one of these or stands below one."""
    return any(name == prefix or name.startswith(prefix + '.') for prefix in prefixes)


def part_of(module: str) -> str:
    """Return the part that a module belongs to: the longest name of `MAY_IMPORT` that fits."""
    return max((part for part in MAY_IMPORT if _within(module, [part])), key=len,
               default=module.split('.')[0])


def import_direction(module: str, source: str) -> list[str]:
    """Imports within the package go one way."""
    if module in ('', '__main__'):
        allowed, part = ({'cli'} if module else set()), module
    else:
        part = part_of(module)
        allowed = MAY_IMPORT.get(part, set()) | {part}
    wrong = []
    for line, name in _imports(module, source):
        if not _within(name, ['jax_prompt']) or name in ('jax_prompt', 'jax_prompt.__version__'):
            continue
        inner = name.removeprefix('jax_prompt.')
        if part_of(inner) not in allowed:
            wrong.append(f'{module}:{line} imports {inner}; {part or "the package"} may import '
                         f'{sorted(allowed)}')
    return wrong


def circles(sources: dict[str, str]) -> list[str]:
    """Return the modules that import each other in a circle, inside functions too."""
    edges = {module: {_module_named(name.removeprefix('jax_prompt.'), sources)
                      for _, name in _imports(module, source) if _within(name, ['jax_prompt'])}
             for module, source in sources.items()}
    found, done = [], set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            found.append(' -> '.join([*path[path.index(module):], module]))
        elif module not in done:
            for other in sorted(edges[module] - {module, ''}):
                visit(other, (*path, module))
            done.add(module)

    for module in sorted(sources):
        visit(module, ())
    return found


def _module_named(name: str, sources: dict[str, str]) -> str:
    """Return the module that an imported name is, or belongs to; '' for the package itself."""
    while name and name not in sources:
        name = name.rpartition('.')[0]
    return name


def reserved_packages(module: str, source: str) -> list[str]:
    """Heavy packages are known to one part each."""
    return [
        f'{module}:{line} imports {name}; only {", ".join(owners)} may'
        for line, name in _imports(module, source)
        for package, owners in RESERVED.items()
        if _within(name, [package]) and not _within(module, owners)
    ]


def no_pickle(module: str, source: str) -> list[str]:
    """Nothing that a file says is ever executed."""
    wrong = [
        f'{module}:{line} imports {name}'
        for line, name in _imports(module, source)
        if name.split('.')[0] in UNPICKLING
    ]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == 'allow_pickle':
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                wrong.append(f'{module}:{node.value.lineno} allows pickle')
        if isinstance(node, ast.Attribute) and node.attr in ('read_pickle', 'to_pickle'):
            wrong.append(f'{module}:{node.lineno} calls {node.attr}')
    return wrong


def _functions(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return function.end_lineno - function.lineno + 1


def function_size(module: str, source: str) -> list[str]:
    """Functions are short and have few arguments."""
    wrong = []
    for function in _functions(source):
        where = f'{module}:{function.lineno} {function.name}'
        arguments = function.args
        names = [a.arg for a in arguments.posonlyargs + arguments.args + arguments.kwonlyargs]
        names += [a.arg for a in (arguments.vararg, arguments.kwarg) if a is not None]
        count = len([name for name in names if name not in ('self', 'cls')])
        if _length(function) > MAX_FUNCTION_LINES:
            wrong.append(f'{where} has {_length(function)} lines')
        if count > MAX_ARGUMENTS:
            wrong.append(f'{where} has {count} arguments')
    return wrong


def module_size(module: str, source: str) -> list[str]:
    """Modules are short."""
    lines = len(source.splitlines())
    return [f'{module} has {lines} lines'] if lines > MAX_MODULE_LINES else []


def dimension_suffixes(module: str, source: str) -> list[str]:
    """Arrays' suffixes are of letters that the dimension key has."""
    letters = {letter for letter, _ in _dimension_key()}
    return [f'{module} has {name}: {sorted(set(suffix) - letters)} stand in no dimension key'
            for name, suffix in set(re.findall(r'\b([a-z]\w*?_([A-Z][A-Z0-9]*))\b', source))
            if set(re.sub('[0-9]', '', suffix)) - letters]


def _dimension_key() -> list[tuple[str, str]]:
    """Return (letter, meaning) of the dimension key of `types.py`."""
    return re.findall(r'^    ([A-Z])  (.+)$', (PACKAGE / 'types.py').read_text(), re.MULTILINE)


RULES = [import_direction, dimension_suffixes, reserved_packages, no_pickle, function_size,
         module_size]


@pytest.mark.parametrize('rule', RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps(rule: Rule):
    breaches = [breach for item in _sources().items() for breach in rule(*item)]
    assert not breaches, '\n'.join(breaches)


@pytest.mark.parametrize(
    'rule, module, source',
    [
        (import_direction, 'prompts.virtual', 'from jax_prompt.models.t5 import model'),
        (import_direction, 'models.t5.model', 'import jax_prompt.training.loop'),
        (import_direction, 'models.t5.model', 'from ...training import loop'),
        (import_direction, 'models.t5.model', 'from jax_prompt.models.open import open_model'),
        (import_direction, 'models.t5.model', 'from jax_prompt import cli'),
        (import_direction, 'types', 'from jax_prompt.models.t5.config import T5Config'),
        (import_direction, 'data.features', 'from jax_prompt.weights import load'),
        (import_direction, 'inference.rank', 'from jax_prompt.training import step'),
        (import_direction, 'training.loop', 'def f():\n    from jax_prompt.cli import main'),
        (import_direction, '', 'from jax_prompt.types import Array'),
        (import_direction, 'new_part.x', 'from jax_prompt.types import Array'),
        (dimension_suffixes, 'inference.rank', 'scores_BO = 1'),
        (reserved_packages, 'training.loop', 'import tensorflow as tf'),
        (reserved_packages, 'prompts.virtual', 'from safetensors.numpy import load'),
        (reserved_packages, 'training.loop', 'def f():\n    import orbax.checkpoint as ocp'),
        (reserved_packages, 'data.examples', 'import gin'),
        (reserved_packages, 'training.loop', 'from absl import flags'),
        (no_pickle, 'data.examples', 'import pickle'),
        (no_pickle, 'data.examples', 'from pickle import loads'),
        (no_pickle, 'data.examples', 'np.load(path, allow_pickle=True)'),
        (no_pickle, 'data.examples', 'np.load(path, allow_pickle=flag)'),
        (no_pickle, 'data.examples', 'pd.read_pickle(path)'),
        (function_size, 'models.t5.model', 'def f():\n' + '    x = 1\n' * 80),
        (function_size, 'models.t5.model', 'def f(a, b, c, d, *e, f, g, h, **i): pass'),
        (module_size, 'models.t5.model', 'x = 1\n' * 336),
    ],
)
def test_a_breach_is_seen(rule: Rule, module: str, source: str):
    assert rule(module, source)


@pytest.mark.parametrize(
    'rule, module, source',
    [
        (import_direction, 'models.t5.model', 'from jax_prompt.models.t5.config import T5Config'),
        (import_direction, 'models.open', 'from jax_prompt.weights.load import load_weights'),
        (import_direction, 'data.features', 'from jax_prompt.models import base'),
        (import_direction, 'training.card', 'import jax_prompt'),
        (import_direction, '__main__', 'from jax_prompt.cli import main'),
        (import_direction, 'cli', 'from jax_prompt.commands import run'),
        (reserved_packages, 'data.tasks.reviews', 'import tensorflow_datasets as tfds'),
        (reserved_packages, 'prompts.container', 'import safetensors'),
        (reserved_packages, 'weights.onnx', 'import onnx'),
        (no_pickle, 'data.examples', 'np.load(path, allow_pickle=False)'),
        (function_size, 'models.t5.model', 'def f():\n' + '    x = 1\n' * 79),
        (function_size, 'models.t5.model', 'class A:\n def f(self, a, b, c, d, e, f, g, h): pass'),
    ],
)
def test_what_is_right_passes(rule: Rule, module: str, source: str):
    assert not rule(module, source)


def test_the_dimension_key_has_every_letter_once():
    letters = [letter for letter, _ in _dimension_key()]
    assert len(letters) == len(set(letters)) > 15


def test_no_module_imports_itself_by_way_of_others():
    assert not circles(_sources())


def test_a_circle_is_seen_even_inside_a_function():
    sources = {'a': 'from jax_prompt.b.c import x', 'b.c': 'def f():\n    from jax_prompt import a'}
    assert circles(sources) == ['a -> b.c -> a']


def test_nine_of_ten_functions_fit_a_screen():
    lengths = [_length(f) for source in _sources().values() for f in _functions(source)]
    assert sum(length <= SCREEN_LINES for length in lengths) >= 0.9 * len(lengths)


def _run(code: str) -> tuple[float, str]:
    """Run Python code in a new process; return the quickest of three times and what it printed.

    The quickest, since other work on the machine can only add to the time.
    """
    seconds = []
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    for _ in range(3):
        start = time.monotonic()
        process = subprocess.run(
            [sys.executable, '-c', textwrap.dedent(code)],
            env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )
        seconds.append(time.monotonic() - start)
        assert process.returncode == 0, process.stderr[-2000:]
    return min(seconds), process.stdout


HEAVY = ('jax', 'tensorflow', 'torch', 'transformers', 'seqio', 'orbax', 'flax', 'matplotlib')

_REPORT_HEAVY = f"""
    import atexit, sys
    atexit.register(lambda: print('HEAVY', [name for name in {HEAVY} if name in sys.modules]))
"""


def test_importing_the_package_takes_less_than_a_second():
    seconds, output = _run(_REPORT_HEAVY + '    import jax_prompt')
    assert output.split('HEAVY ')[-1].strip() == '[]'
    assert seconds < 1.0


@pytest.mark.parametrize('arguments', [['--help'], ['train', '--help']], ids=' '.join)
def test_help_takes_less_than_a_second(arguments: list[str]):
    seconds, output = _run(
        _REPORT_HEAVY
        + f"""
    sys.argv = ['jax-prompt', *{arguments}]
    from jax_prompt.cli import main
    sys.exit(main())
    """
    )
    assert 'train' in output
    assert output.split('HEAVY ')[-1].strip() == '[]'
    assert seconds < 1.0


def test_a_command_imports_nothing_heavy_that_it_may_not_need():
    """Each of these would keep the first answer of `predict` waiting."""
    code = 'import sys, jax_prompt.commands; print(*sys.modules)'
    process = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                             check=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    heavy = {*HEAVY, 'fastapi', 'pydantic', 'onnx', 'tensorboard', 'huggingface_hub'}
    assert heavy & {*process.stdout.split()} == {'jax', 'flax'}
