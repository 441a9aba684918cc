"""What the commands do, and the names by which gin knows the project's constructors."""

import collections
import contextlib
import functools
import json
import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

import gin
import jax
import optax

from jax_prompt import gin_setup
from jax_prompt.data.examples import load_examples
from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.tasks.files import file_task
from jax_prompt.data.tasks.registered import RegisteredTask, registered_task
from jax_prompt.data.tasks.reviews import imdb, rotten_tomatoes
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.data.vocabularies import encode_batch
from jax_prompt.inference.generate import make_generator
from jax_prompt.inference.inputs import open_lines, read_inputs
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
    effective = configure(files, bindings, folders)
    gin_setup.check_use(effective, command, COMMANDS)
    return gin.get_configurable(command)()


def configure(files: Sequence[str], bindings: Sequence[str],
              folders: Sequence[str] = ()) -> list[gin_setup.Binding]:
    """Register the names, then parse and check files and bindings; see `gin_setup.configure`."""
    register()
    return gin_setup.configure(CONFIGURABLES | COMMANDS, files, bindings, folders)


@functools.cache
def register() -> None:
    """Make the constructors and commands known to gin, once a process."""
    for name, constructor in CONFIGURABLES.items():
        gin.external_configurable(constructor, name=name)
    for name, command in COMMANDS.items():
        gin.external_configurable(command, name=name)


def train_command(model: FrozenModel | None = None, task: TextTask | RegisteredTask | None = None,
                  output: str | None = None, prompt: PromptSettings | None = None,
                  optimizer: optax.GradientTransformation | None = None,
                  settings: TrainSettings | None = None, quiet: bool = False) -> int:
    """Train a prompt and print what it gained; see `training.run.train`."""
    _check_types('train', locals())
    _require(model, 'model', '--model=SOURCE')
    _require(task, 'task', '--task=NAME or --task=FILE.csv')
    _require(output, 'output folder', '--output=FOLDER')
    outcome = train(model, task, output, prompt, optimizer, settings,
                    gin_setup.operative_configuration(), quiet)
    _print_outcome(outcome, task)
    return 0


def evaluate_command(model: FrozenModel | None = None,
                     task: TextTask | RegisteredTask | None = None, prompt: str | None = None,
                     split: str = 'test', settings: TrainSettings | None = None,
                     allow_other_model: bool = False, allow_other_task: bool = False) -> int:
    """Measure a prompt file, or without one the plain model, on a split of a task."""
    _check_types('evaluate', locals())
    _require(model, 'model', '--model=SOURCE')
    _require(task, 'task', '--task=NAME or --task=FILE.csv')
    settings = settings or TrainSettings()
    layout, prompt_PD = Layout('before'), jax.numpy.zeros((0, model.model.config.d_model))
    if prompt is not None:
        loaded = _open_prompt('evaluate', prompt, model, allow_other_model)
        if not allow_other_task:
            _check_task(loaded, task)
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
    lines of JSON give all columns and are answered by the same object with `prediction`, `scores`
    and `probabilities` put in (in place of what it may have held by these names).
    """
    _check_types('predict', locals())
    _require(model, 'model', '--model=SOURCE')
    _require(prompt, 'prompt file', '--prompt=FILE')
    loaded = _open_prompt('predict', prompt, model, allow_other_model)
    if format is None:
        format = 'jsonl' if inputs.lower().endswith('.jsonl') else 'lines'
    task = TextTask.from_dict(loaded.metadata.task)
    config, metadata = model.model.config, loaded.metadata
    converter = FeatureConverter.for_model(task, model.vocabulary, config, metadata.layout,
                                           len(loaded.prompt_PD))
    fields = collections.deque()  # of the inputs that are not answered yet, a window at most

    def texts(lines: Iterator[str]) -> Iterator[str]:
        source = 'standard input' if inputs == '-' else inputs
        for text, record in read_inputs(lines, task, format, source):
            fields.append(record)
            yield text

    with open_lines(inputs) as lines, _result_file(output) as out:
        answers = predict(texts(lines), model.vocabulary, converter,
                          _predictor(loaded, task, model), batch_size=batch_size, window=window)
        for answer in answers:
            record = fields.popleft()
            out.write(_json_line({**record, **answer.to_dict()}) if format == 'jsonl'
                      else ' '.join(answer.text.splitlines()) + '\n')
    return 0


COMMANDS = {'train': train_command, 'evaluate': evaluate_command, 'predict': predict_command}


def _require(value: Any, what: str, how: str) -> None:
    if value is None:
        raise ValueError(f'no {what} given; name one with {how} or in a gin file')


def _check_types(command: str, values: Mapping[str, Any]) -> None:
    """Check what gin has evaluated for a command, as its signature says."""
    gin_setup.check_arguments(command, COMMANDS[command], values, CONFIGURABLES)


def _open_prompt(command: str, path: str, model: FrozenModel,
                 allow_other_model: bool) -> PromptFile:
    """Load a prompt file and check that it belongs to the model."""
    loaded = load_prompt(path)
    try:
        check_prompt(loaded, d_model=model.model.config.d_model, model_name=model.name,
                     model_fingerprint=model.fingerprint,
                     vocabulary_fingerprint=model.vocabulary_fingerprint,
                     allow_other_model=allow_other_model)
    except ValueError as error:
        # The library speaks of its argument; here that has another spelling.
        flag = f'give --gin.{command}.allow_other_model=True'
        raise ValueError(str(error).replace('set allow_other_model=True', flag)) from error
    return loaded


def _check_task(loaded: PromptFile, task: TextTask | RegisteredTask) -> None:
    """Check that a prompt is measured on inputs and answers such as it was trained on."""
    theirs = TextTask.from_dict(loaded.metadata.task)
    ours = TextTask.from_dict(task.to_dict())
    for name in ('inputs_template', 'label_words', 'inputs_length'):
        if getattr(theirs, name) != getattr(ours, name):
            raise ValueError(
                f'prompt file {loaded.path} was trained on task {theirs.name} with {name} '
                f'{getattr(theirs, name)!r} but task {ours.name} in use has '
                f'{getattr(ours, name)!r}; set the task as it was, or give '
                '--gin.evaluate.allow_other_task=True')


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
def _result_file(output: str) -> Iterator[TextIO]:
    """Open the output; a file appears under its name only when all of it is written."""
    if output in ('-', '/dev/stdout'):
        if hasattr(sys.stdout, 'reconfigure'):
            sys.stdout.reconfigure(encoding='utf-8')
        yield sys.stdout
        sys.stdout.flush()
        return
    if os.path.isdir(output):
        raise ValueError(f'output {output} is a folder; expected the name of a file')
    if _is_device(output):
        with open(output, 'a', encoding='utf-8') as file:
            yield file
        return
    target = os.path.realpath(output)  # where a link leads, so that the link stays
    if not os.path.isdir(os.path.dirname(target)):
        raise FileNotFoundError(f'the folder of output {output} does not exist; make it first')
    temporary = f'{os.path.dirname(target)}/.jax_prompt.{secrets.token_hex(8)}.tmp'
    try:
        file = open(temporary, 'x', encoding='utf-8')
    except OSError as error:
        raise OSError(f'cannot write output {output}: {error.strerror}') from error
    try:
        with file:
            yield file
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _is_device(path: str) -> bool:
    """Say whether a path leads to what must be written in place: a pipe, a device, a descriptor."""
    where = os.path.abspath(path)
    return where.startswith(('/dev/fd/', '/dev/std', '/proc/')) or (
        os.path.exists(path) and not os.path.isfile(path))


def _json_line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + '\n'


def _print_outcome(outcome: Outcome, task: TextTask | RegisteredTask) -> None:
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
