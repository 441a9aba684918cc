"""Runs of `train` for the benchmarks of methods: each once, kept as a JSON file, told in a table.

A run whose file is there is not run again; one that was killed is begun anew, so that its seconds
are those of one process.
"""

import copy
import json
import pathlib
import re
import shutil
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gin
import jax

from jax_prompt import commands
from jax_prompt.cli import find_gin_file, gin_folders
from jax_prompt.data.tasks.files import file_task
from jax_prompt.data.tasks.reviews import rotten_tomatoes
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.files import write_file
from jax_prompt.models.open import OpenedModel, open_model
from jax_prompt.training.run import AFTER, BEFORE, NO_PROMPT, train
from jax_prompt.training.settings import TrainSettings

DEMO_MODEL = 'package:traceforge_title_model/data/span'
#: Files of gin/methods that are recipes for something else than the quality of one run.
NO_METHODS = ('few_shot', 'spot')
#: By the name of no file: the rows themselves, with the defaults of everything.
DIRECT = 'direct'
#: What a run reports: of its gain in validation, the part that is called learned.
LEARNED = 0.95
_TREC = {'ABBR': 'abbreviation', 'DESC': 'description', 'ENTY': 'entity', 'HUM': 'human',
         'LOC': 'location', 'NUM': 'number'}


def trec(data: pathlib.Path) -> TextTask:
    """Make the task of TREC's questions: six kinds of answers, 500 questions to test on."""
    folder = data / 'trec'
    return file_task(_there(folder / 'train.tsv'), None, _there(folder / 'test.tsv'),
                     inputs_template='{question}', labels=_TREC, targets_length=8, name='trec')


def sst2(data: pathlib.Path) -> TextTask:
    """Make the task of SST-2's phrases, tested on the 872 sentences of its validation set."""
    folder = data / 'sst2'
    return file_task(_there(folder / 'train.tsv'), None, _there(folder / 'validation.tsv'),
                     inputs_template='{sentence}', labels={'0': 'negative', '1': 'positive'},
                     targets_length=8, name='sst2')


def reviews(data: pathlib.Path) -> TextTask:
    """Make the task of the demo, which comes in a package."""
    del data
    return rotten_tomatoes(inputs_template='{text}')


def _there(path: pathlib.Path) -> str:
    if not path.is_file():
        raise SystemExit(f'{path} is missing; --data names the folder with trec/ and sst2/ in it')
    return str(path)


def methods() -> list[str]:
    """Name the methods that have a file in gin/methods, the plain one first."""
    found = {path.stem for folder in gin_folders() for path in (folder / 'methods').glob('*.gin')}
    return [DIRECT, *sorted(found - {DIRECT, *NO_METHODS})]


class Runs:
    """Runs with one model, in one folder."""

    def __init__(self, folder: pathlib.Path, source: str):
        self.folder, self._source, self._opened = folder, source, None
        folder.mkdir(parents=True, exist_ok=True)
        commands.quieten_libraries()
        commands.use_compilation_cache()
        self._compiled = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, seconds: float, **_: Any) -> None:
        if event.startswith('/jax/core/compile/'):  # tracing, lowering and compiling
            self._compiled += seconds

    @property
    def opened(self) -> OpenedModel:
        """The model, opened when the first run needs it."""
        if self._opened is None:
            self._opened = open_model(self._source)
        return self._opened

    def has(self, name: str) -> bool:
        """Say whether a run is done."""
        return (self.folder / f'{name}.json').is_file()

    def known(self, name: str) -> dict[str, Any]:
        """Return what a run that is done has left."""
        return json.loads((self.folder / f'{name}.json').read_text())

    def run(self, name: str, task: TextTask, method: str, bindings: Sequence[str],
            defaults: str = '') -> dict[str, Any]:
        """Train once, or tell what came of it before.

        Args:
          name: of the run, which is that of its file.
          task: what is learned.
          method: a name of `methods()`, or of another file of gin/methods.
          bindings: 'NAME=VALUE', which win over the method's file; its warm-up and decay are
            fitted to `settings.steps`.
          defaults: text of a gin file, over which the method's file wins.

        Returns:
          What the file holds.
        """
        if self.has(name):
            return self.known(name)
        print(f'--- {name}', flush=True)
        chosen = self._configured(method, bindings, defaults)
        output = self.folder / f'{name}.run'
        shutil.rmtree(output, ignore_errors=True)
        curve, start, compiled = [], time.perf_counter(), self._compiled

        def note(step: int, metrics: Mapping[str, float]) -> bool:
            seconds = time.perf_counter() - start - (self._compiled - compiled)
            curve.append({'step': step, 'seconds': seconds, **metrics})
            return True

        outcome = train(self.opened, task, output, **chosen, quiet=True, on_evaluation=note)
        kept = {'name': name, 'task': task.name, 'method': method, 'curve': curve,
                'best_step': outcome.best_step, 'results': outcome.results,
                'after': _after(outcome.results), 'trained': outcome.trained_numbers,
                'bytes': outcome.prompt_bytes, 'prompt': str(outcome.folder.prompt),
                'bindings': list(bindings)}
        write_file(self.folder / f'{name}.json', json.dumps(kept, indent=1).encode())
        for large in (output / 'checkpoints', output / 'model'):
            shutil.rmtree(large, ignore_errors=True)
        return kept

    def _configured(self, method: str, bindings: Sequence[str], defaults: str) -> dict[str, Any]:
        """Return what `train` takes, by the method's file."""
        first = self.folder / 'defaults.gin'
        first.write_text(defaults)
        files = [find_gin_file('base.gin'), str(first)]
        if method != DIRECT:
            files.append(find_gin_file(f'methods/{method}.gin'))
        bindings = [*bindings, *_schedule(pathlib.Path(files[-1]).read_text(), bindings)]
        commands.configure(files, bindings, [str(folder) for folder in gin_folders()])
        asked = gin.get_bindings('train', resolve_references=False)
        return {name: copy.deepcopy(asked[name]) for name in ('prompt', 'optimizer', 'settings')}


def _schedule(text: str, bindings: Sequence[str]) -> list[str]:
    """Return what fits a method's warm-up and decay to other steps than its file has."""
    steps = [int(one.partition('=')[2]) for one in bindings if one.startswith('settings.steps=')]
    whole = re.search(r'^STEPS = (\d+)', text, re.MULTILINE)
    if not steps or whole is None:
        return []
    rise = re.search(r'^(warmup_schedule.warmup_steps) = (\d+)', text, re.MULTILINE)
    return [f'STEPS={steps[0]}'] + (
        [f'{rise[1]}={int(rise[2]) * steps[0] // int(whole[1])}'] if rise else [])


def _after(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the metrics of what was trained, whatever its heading is."""
    others = (NO_PROMPT, BEFORE)
    return dict(results.get(AFTER) or [value for heading, value in results.items()
                                       if heading not in others][-1])


def learned(curve: Sequence[Mapping[str, float]], by: str = 'accuracy') -> tuple[float, float]:
    """Return the seconds to the best of a curve, and to 95 % of its gain."""
    best = max(range(len(curve)), key=lambda at: (curve[at][by], -curve[at]['loss']))
    needed = curve[0][by] + LEARNED * (curve[best][by] - curve[0][by])
    first = next(point for point in curve if point[by] >= needed)
    return curve[best]['seconds'], first['seconds']


def spread(values: Iterable[float], scale: float = 1.0, digits: int = 1) -> str:
    """Write mean and standard deviation."""
    values = [scale * value for value in values]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f'{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}'


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table."""
    for line in (head, ['---'] * len(head), *rows):
        print('| ' + ' | '.join(line) + ' |')


def settings_of(steps: int, batch_size: int, evaluations: int, seed: int,
                **more: Any) -> list[str]:
    """Return bindings that are the same for all methods."""
    asked = {'steps': steps, 'batch_size': batch_size, 'seed': seed, 'max_buckets': 8,
             'bucket_multiple': 4, 'evaluate_every': max(1, steps // evaluations)} | more
    known = TrainSettings.__dataclass_fields__
    assert asked.keys() <= known.keys(), asked.keys() - known.keys()
    return [f'settings.{name}={value}' for name, value in asked.items()]
