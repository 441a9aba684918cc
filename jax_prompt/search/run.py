"""Search the words of a prompt: spend a budget step by step, choose, measure, and write files."""

import dataclasses
import hashlib
import logging
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_prompt.config import config_of
from jax_prompt.data.design import Design
from jax_prompt.data.examples import load_examples
from jax_prompt.data.tasks.rows import Row
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation.evaluator import Evaluator
from jax_prompt.models.open import OpenedModel
from jax_prompt.parallel.hosts import fetch
from jax_prompt.progress import ProgressBar
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import no_prompt
from jax_prompt.search import STRATEGIES
from jax_prompt.search.filling import check_sentinels
from jax_prompt.search.folder import Record, claimed, save_result
from jax_prompt.search.lexicon import make_lexicon
from jax_prompt.search.problem import TaskProblem
from jax_prompt.search.scoring import Scorer
from jax_prompt.search.settings import SearchSettings
from jax_prompt.search.strategy import Candidate, Spent, Strategy
from jax_prompt.search.wording import INPUTS

#: Headings of what is measured.
PLAIN, FOUND = "the task's template", 'searched words'

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
      design: the best design: with the searched words, or the plain one where none was better.
      candidate: the words in it; None for the plain one.
      losses: heading (`PLAIN`, `FOUND`) -> mean loss on the examples of the search, in nats.
      metrics: heading -> split -> metrics.
      calls: model calls that were spent.
      seconds: of the search, those of runs that were killed among them, without measuring.
      history: whenever a better candidate was found: calls until then, its loss, its words.
      folder: with the design file, the soft prompt's start and the record.
    """

    design: Design
    candidate: Candidate | None
    losses: Mapping[str, float]
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]]
    calls: int
    seconds: float
    history: tuple[Mapping[str, Any], ...]
    folder: pathlib.Path

    def metrics_of(self, split: str) -> Mapping[str, float]:
        """Return the metrics of the design on a split; {} where the task has none."""
        return self.metrics[FOUND].get(split, {})


def search(opened: OpenedModel, task: TextTask, strategy: str | Strategy,
           settings: SearchSettings | None = None, output: str | os.PathLike = 'runs/search',
           quiet: bool = False) -> Found:
    """Search words for a task; nothing but its training split is read before the end.

    The folder may hold the same search, killed at any moment: it then goes on and ends with the
    same words.

    Args:
      opened: the frozen model.
      task: a task of text columns.
      strategy: a name of `STRATEGIES`, or one with settings of its own.
      settings: how to search.
      output: a folder, made if it is not there.
      quiet: show no progress.

    Returns:
      What was found.

    Raises:
      ValueError: in one line, for whatever cannot be searched, and for a budget that ended before
        anything was found.
    """
    settings, strategy = settings or SearchSettings(), chosen_strategy(strategy)
    rows, held_out = examples_of(task, settings)
    template = (settings.template or strategy.template).replace(INPUTS, task.inputs_template)
    scorer = Scorer(opened, task, settings.batch_size)
    lexicon = make_lexicon(opened.vocabulary, settings.allowed)
    table = opened.model.embedding_table(opened.frozen)
    problem = TaskProblem(scorer, rows, template, lexicon.with_rows(fetch(table[lexicon.ids_A])),
                          settings)
    scorer.in_use(problem.design(Candidate()))  # which refuses what no candidate could mend
    if settings.fluency:
        check_sentinels(opened, problem.slots, 'fluency')
    plain = scorer.make_design(task.inputs_template, None, 'sum')
    identity = {'strategy': {'name': strategy.name} | config_of(strategy),
                'settings': config_of(settings), 'template': template, 'task': task.to_dict(),
                'examples': _digest([*rows, *held_out], task), 'model': opened.fingerprint,
                'vocabulary': opened.vocabulary_fingerprint, 'numerics': opened.model.numerics}
    with claimed(pathlib.Path(output), identity) as record:
        reserve = (settings.finalists + 1) * len(held_out) + len(rows)
        _check_budget(settings, problem, reserve)
        _spend(strategy, problem, settings, record, reserve, quiet)
        if record.chosen is None:
            _choose(problem, plain, held_out, settings, record, reserve)
        design = plain if record.chosen == -1 else problem.design(record.best[record.chosen][0])
        if not record.metrics:
            record.metrics = {heading: measure(opened, task, one, settings)
                              for heading, one in ((PLAIN, plain), (FOUND, design))}
            record.save()
        found = _found(record, design, pathlib.Path(output))
        save_result(opened, task, strategy.name, settings.seed, found)
    return found


def _found(record: Record, design: Design, folder: pathlib.Path) -> Found:
    """Return what a record that is complete tells."""
    candidate, loss = (None, record.plain_loss) if record.chosen == -1 else (
        record.best[record.chosen])
    return Found(design, candidate, {PLAIN: record.plain_loss, FOUND: loss}, record.metrics,
                 record.calls, record.seconds, tuple(record.history), folder)


def chosen_strategy(strategy: str | Strategy) -> Strategy:
    """Return a strategy by its name, or itself.

    Raises:
      ValueError: there is none of the name.
    """
    if not isinstance(strategy, str):
        return strategy
    if strategy not in STRATEGIES:
        raise ValueError(f'no search strategy {strategy!r}; choose one of {", ".join(STRATEGIES)}')
    return STRATEGIES[strategy]()


def examples_of(task: Any, settings: SearchSettings) -> tuple[list[Row], list[Row]]:
    """Draw examples of the training split, labels in turn: to search on, and to compare on.

    Args:
      task: of which no other split is read.
      settings: how many.

    Returns:
      (rows, other rows): at most half of the split are the others.

    Raises:
      ValueError: a task without text columns, or with fewer than four training examples.
    """
    if not isinstance(task, TextTask):
        raise ValueError(f'task {task.name} is registered with seqio and gives ready inputs, for '
                         'which no words can be searched; give a task of text columns')
    rows = task.rows('train')
    if len(rows) < 4:
        raise ValueError(f'the training split of task {task.name} has {len(rows)} examples; a '
                         'search needs at least 4, half of them to compare what it found')
    order = np.random.default_rng([settings.seed, 0]).permutation(len(rows))
    waiting: dict[str, list[Row]] = {}
    for number in order.tolist():
        answer = '' if task.label_words is None else task.target_text(rows[number])
        waiting.setdefault(answer, []).append(rows[number])
    queues, mixed = [waiting[answer] for answer in sorted(waiting)], []
    while any(queues):
        mixed += [queue.pop() for queue in queues if queue]
    held = min(settings.held_out, len(rows) // 2)
    return mixed[held:held + settings.examples], mixed[:held]


def measure(opened: OpenedModel, task: TextTask, design: Design,
            settings: SearchSettings) -> dict[str, dict[str, float]]:
    """Measure a design on all splits of a task that there are.

    Returns:
      split -> metrics; of training on at most `settings.measured` examples.
    """
    evaluator = Evaluator(opened, task, Layout(), batch_size=settings.batch_size, design=design)
    found = {}
    for split in ('train', 'validation', 'test'):
        if split in task.splits:
            limit = settings.measured if split == 'train' else None
            examples = load_examples(task, split, opened.vocabulary, limit)
            found[split] = evaluator(no_prompt(opened.model.d_model), examples)
    return found


def _check_budget(settings: SearchSettings, problem: TaskProblem, reserve: int) -> None:
    """Refuse a budget that cannot reach for one candidate and the comparison in the end."""
    least = reserve + problem.size
    if settings.budget < least:
        raise ValueError(
            f'search_settings.budget is {settings.budget:,} model calls but scoring one candidate '
            f'takes {problem.size} and comparing {settings.finalists} with the plain template '
            f'{reserve:,}; expected at least {least:,}, and many times that to search: raise it, '
            'or lower examples, held_out or finalists')


def _spend(strategy: Strategy, problem: TaskProblem, settings: SearchSettings, record: Record,
           reserve: int, quiet: bool) -> None:
    """Run the strategy until it is done or the budget is spent, but for what choosing takes."""
    if record.done:
        return
    problem.known_fluency = record.fluency
    with ProgressBar(settings.budget, record.calls, quiet, 'calls',
                     'call {step}/{total}') as bar:
        state = record.state
        if state is None:
            state = strategy.start(problem, np.random.default_rng([settings.seed, 1]))
        while not record.done:
            before, begun = record.calls, time.monotonic()
            problem.left = settings.budget - reserve - before
            rng = np.random.default_rng([settings.seed, 2, record.steps])
            try:
                state, tried, record.done = strategy.step(problem, state, rng)
            except Spent:
                tried, record.done = [], True
            record.calls = settings.budget - reserve - problem.left
            record.seconds += time.monotonic() - begun
            record.keep(tried, settings.finalists)
            record.state, record.steps = state, record.steps + 1
            record.save()
            shown = {} if not record.best else {'loss': record.best[0][1]}
            bar.update(record.calls, record.calls - before, **shown)
    if not record.best:
        raise ValueError(
            f'search_settings.budget of {settings.budget:,} model calls was spent before '
            f'{strategy.name} had scored one candidate on all {problem.size} examples; raise it, '
            'or ask for less a step')


def _choose(problem: TaskProblem, plain: Design, held_out: list[Row], settings: SearchSettings,
            record: Record, reserve: int) -> None:
    """Compare the best candidates and the plain design on examples that no candidate has seen."""
    begun = time.monotonic()
    problem.left = reserve
    candidates = [candidate for candidate, _ in record.best]
    losses = [*problem.losses_on(candidates, held_out).mean(axis=1),
              problem.plain_losses(plain, held_out).mean()]
    record.plain_loss = float(problem.plain_losses(plain).mean())
    best = int(np.argmin(losses))
    record.chosen = -1 if best == len(candidates) else best
    record.calls += reserve - problem.left
    record.seconds += time.monotonic() - begun
    if record.chosen == -1:
        _log.warning("no searched words were better than the task's template on %d held-out "
                     'examples of training, so it is kept; raise search_settings.budget, or try '
                     'another strategy', len(held_out))
    record.save()


def _digest(rows: list[Row], task: TextTask) -> str:
    """Return what tells these examples from any others."""
    texts = [f'{task.render(row)}\0{task.target_text(row)}' for row in rows]
    return hashlib.sha256('\0\0'.join(texts).encode()).hexdigest()[:16]
