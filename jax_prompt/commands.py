"""What the commands do, and the names by which gin knows the project's constructors."""

import contextlib
import functools
import logging
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

import gin
import jax

from jax_prompt.data.examples import load_examples
from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.tasks.files import file_task
from jax_prompt.data.tasks.registered import registered_task
from jax_prompt.data.tasks.reviews import imdb, rotten_tomatoes
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.data.vocabularies import encode_batch
from jax_prompt.inference.generate import make_generator
from jax_prompt.inference.inputs import read_texts
from jax_prompt.inference.predict import Predictor, by_generation, by_rank, predict
from jax_prompt.inference.rank import make_label_scorer
from jax_prompt.prompts import initializers
from jax_prompt.prompts.file import PromptFile, check_prompt, load_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.training import optimizers
from jax_prompt.training.card import size_line
from jax_prompt.training.evaluation import make_evaluator, make_features
from jax_prompt.training.frozen_model import FrozenModel, open_model
from jax_prompt.training.run import Outcome, train
from jax_prompt.training.settings import PromptSettings, TrainSettings

TASKS = {'rotten_tomatoes': rotten_tomatoes, 'imdb': imdb}

#: Constructors by their names in gin files.
CONFIGURABLES: dict[str, Callable] = TASKS | {
    'model': open_model,
    'prompt': PromptSettings,
    'settings': TrainSettings,
    'layout': Layout,
    'file_task': file_task,
    'registered_task': registered_task,
    'uniform': initializers.uniform,
    'sampled_vocabulary': initializers.sampled_vocabulary,
    'class_labels': initializers.class_labels,
    'from_string': initializers.from_string,
    'from_array': initializers.from_array,
    'adafactor': optimizers.adafactor,
    'adamw': optimizers.adamw,
    'warmup_schedule': optimizers.warmup_schedule,
}


def quieten_libraries() -> None:
    """Let the project speak on standard error, and its libraries only of what went wrong."""
    logging.basicConfig(level=logging.WARNING, format='%(message)s', stream=sys.stderr)
    logging.getLogger('jax_prompt').setLevel(logging.INFO)
    # A checkpoint of kilobytes needs no paragraph; jax warns of cached programs it recompiles.
    for name in ('absl', 'orbax', 'jax._src.compiler'):
        logging.getLogger(name).setLevel(logging.ERROR)


def use_compilation_cache() -> None:
    """Keep compiled programs between processes, unless the user has chosen otherwise."""
    if jax.config.jax_compilation_cache_dir is None:
        base = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
        jax.config.update('jax_compilation_cache_dir', os.path.join(base, 'jax_prompt', 'xla'))
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
        jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def run(command: str, files: list[str], bindings: list[str], folders: list[str]) -> int:
    """Configure with gin and run one command.

    Args:
      command: 'train', 'evaluate' or 'predict'.
      files: gin files; later ones win.
      bindings: 'NAME=VALUE', which win over all files.
      folders: where gin files may include others from.

    Returns:
      The exit code.
    """
    use_compilation_cache()
    for folder in folders:
        gin.add_config_file_search_path(folder)
    configure(files, bindings)
    return gin.get_configurable(command)()


def configure(files: list[str], bindings: list[str]) -> None:
    """Register the names, then parse files and bindings.

    Raises:
      ValueError: for what gin does not know, naming it.
    """
    register()
    gin.clear_config()
    # gin reports each folder that it looks for an included file in as an error of its own.
    logging.disable(logging.ERROR)
    try:
        for file in files:
            gin.parse_config_file(file)
        gin.parse_config([_quoted(binding) for binding in bindings])
    finally:
        logging.disable(logging.NOTSET)


@functools.cache
def register() -> None:
    """Make the constructors and commands known to gin, once a process."""
    for name, constructor in CONFIGURABLES.items():
        gin.external_configurable(constructor, name=name)
    for name, command in COMMANDS.items():
        gin.external_configurable(command, name=name)


def _quoted(binding: str) -> str:
    """Return a binding as gin reads it: a value that is no literal becomes text."""
    name, _, value = binding.partition('=')
    if not value.strip().startswith(('@', '%')):
        try:
            gin.config.parse_value(value)
        except (SyntaxError, ValueError):
            value = repr(value)
    return f'{name.strip()} = {value}'


def operative_configuration() -> dict[str, str]:
    """Return what gin has been asked for so far, name -> value, defaults included."""
    found: dict[str, str] = {}
    text = gin.operative_config_str(max_line_length=10_000).replace('\\\n', ' ')
    for line in text.splitlines():
        name, equals, value = line.partition(' = ')
        if equals and not line.startswith('#'):
            found[name.strip()] = ' '.join(value.split())
    return found


def train_command(model: FrozenModel | None = None, task: Any = None, output: str | None = None,
                  prompt: PromptSettings | None = None, optimizer: Any = None,
                  settings: TrainSettings | None = None, quiet: bool = False) -> int:
    """Train a prompt and print what it gained; see `training.run.train`."""
    _require(model, 'model', '--model=SOURCE')
    _require(task, 'task', '--task=NAME or --task=FILE.csv')
    _require(output, 'output folder', '--output=FOLDER')
    outcome = train(model, task, output, prompt, optimizer, settings, operative_configuration(),
                    quiet)
    _print_outcome(outcome, task)
    return 0


def evaluate_command(model: FrozenModel | None = None, task: Any = None, prompt: str | None = None,
                     split: str = 'test', settings: TrainSettings | None = None,
                     allow_other_model: bool = False) -> int:
    """Measure a prompt file, or without one the plain model, on a split of a task."""
    _require(model, 'model', '--model=SOURCE')
    _require(task, 'task', '--task=NAME or --task=FILE.csv')
    settings = settings or TrainSettings()
    layout, prompt_PD = Layout('before'), jax.numpy.zeros((0, model.model.config.d_model))
    if prompt is not None:
        loaded = _open_prompt(prompt, model, allow_other_model)
        layout, prompt_PD = loaded.metadata.layout, loaded.prompt_PD
    examples = load_examples(task, split, model.vocabulary)
    features = make_features(examples, task, model, layout, prompt_PD.shape[0])
    evaluator = make_evaluator(model, task, settings.evaluate_by, settings.evaluation_batch_size)
    name = 'no prompt' if prompt is None else prompt
    _print_table(f'{task.name}, {split} ({len(examples)} examples)',
                 {name: evaluator(prompt_PD, features)})
    return 0


def predict_command(model: FrozenModel | None = None, prompt: str | None = None, inputs: str = '-',
                    output: str = '-', format: str | None = None, batch_size: int = 32,
                    window: int = 1024, allow_other_model: bool = False) -> int:
    """Answer each text of a file or of standard input, in its order.

    Plain lines fill the only column of the prompt's template and are answered by lines of text;
    lines of JSON give all columns and are answered by JSON with scores and probabilities.
    """
    _require(model, 'model', '--model=SOURCE')
    _require(prompt, 'prompt file', '--prompt=FILE')
    loaded = _open_prompt(prompt, model, allow_other_model)
    if format is None:
        format = 'jsonl' if inputs.endswith('.jsonl') else 'lines'
    task = TextTask.from_dict(loaded.metadata.task)
    config, metadata = model.model.config, loaded.metadata
    converter = FeatureConverter.for_model(task, model.vocabulary, config, metadata.layout,
                                           len(loaded.prompt_PD))
    with _lines_of(inputs) as lines, _result_file(output) as out:
        texts = read_texts(lines, task, format, 'standard input' if inputs == '-' else inputs)
        answers = predict(texts, model.vocabulary, converter, _predictor(loaded, task, model),
                          batch_size=batch_size, window=window)
        for answer in answers:
            out.write(_json_line(answer.to_dict()) if format == 'jsonl'
                      else ' '.join(answer.text.splitlines()) + '\n')
    return 0


COMMANDS = {'train': train_command, 'evaluate': evaluate_command, 'predict': predict_command}


def _require(value: Any, what: str, how: str) -> None:
    if value is None:
        raise ValueError(f'no {what} given; name one with {how} or in a gin file')


def _open_prompt(path: str, model: FrozenModel, allow_other_model: bool) -> PromptFile:
    """Load a prompt file and check that it belongs to the model."""
    loaded = load_prompt(path)
    check_prompt(loaded, d_model=model.model.config.d_model, model_name=model.name,
                 model_fingerprint=model.fingerprint,
                 vocabulary_fingerprint=model.vocabulary_fingerprint,
                 allow_other_model=allow_other_model)
    return loaded


def _predictor(loaded: PromptFile, task: TextTask, model: FrozenModel) -> Predictor:
    """Rank where the task has labels, generate where it has none."""
    if task.label_words is None:
        generate = make_generator(model.model, task.targets_length)
        return by_generation(generate, model.frozen, loaded.prompt_PD, model.vocabulary.decode,
                             model.model.config)
    labels = encode_batch(model.vocabulary, task.label_words)
    score = make_label_scorer(model.model, labels)
    return by_rank(score, model.frozen, loaded.prompt_PD, task.label_words)


@contextlib.contextmanager
def _lines_of(inputs: str) -> Iterator[TextIO]:
    if inputs == '-':
        yield sys.stdin
        return
    with open(inputs, encoding='utf-8') as file:
        yield file


@contextlib.contextmanager
def _result_file(output: str) -> Iterator[TextIO]:
    """Open the output; a file appears under its name only when all of it is written."""
    if output == '-':
        yield sys.stdout
        sys.stdout.flush()
        return
    path = pathlib.Path(output)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    try:
        with open(handle, 'w', encoding='utf-8') as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def _json_line(record: Mapping[str, Any]) -> str:
    import json

    return json.dumps(record, ensure_ascii=False) + '\n'


def _print_outcome(outcome: Outcome, task: Any) -> None:
    """Print the table of results, the sizes and where things are."""
    _print_table(f'{task.name}, {outcome.split} split', outcome.results)
    print(f'\n{outcome.trained_numbers:,} trained numbers, best at step {outcome.best_step}')
    print(size_line(outcome.prompt_bytes, outcome.model_bytes))
    print(f'prompt {outcome.folder.prompt}, curves and card beside it')


def _print_table(title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Print metrics in percent, a row a heading."""
    names = list(dict.fromkeys(name for metrics in rows.values() for name in metrics))
    width = max(map(len, [*rows, title]))
    print(f'\n{title:<{width}}  ' + '  '.join(f'{name:>12}' for name in names))
    for heading, metrics in rows.items():
        print(f'{heading:<{width}}  '
              + '  '.join(f'{100 * metrics[name]:>11.2f}%' for name in names))
