"""One frozen model, many prompts: batches whose rows are of different tasks.

All prompts stand in one table (`prompt_table`), so which prompt a row uses is a matter of its ids,
and `predict` answers rows of them all. Prompts have names here, and what they will need can be
compiled before requests come.
"""

import dataclasses
import functools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.inference.batching import How, Shapes
from jax_prompt.inference.decodings import SAMPLING, Decoding
from jax_prompt.inference.designs import DesignInUse, task_of
from jax_prompt.inference.parts import Part
from jax_prompt.inference.predict import Runner
from jax_prompt.inference.prefix_table import PrefixTable
from jax_prompt.inference.prompt_table import PromptTable
from jax_prompt.inference.rank import LabelSet
from jax_prompt.inference.rows import PLAIN, Prediction, Row, Running, ServedPrompt, UnknownPrompt
from jax_prompt.inference.states import mean_states
from jax_prompt.models.forward import prefix_of
from jax_prompt.models.open import OpenedModel
from jax_prompt.prompts.file import PromptFile, check_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt, no_prompt


def _the_request(number: int) -> str:
    """Say where an input stands of which nothing is known."""
    del number
    return 'the request'


class Engine:
    """Answer rows of any tasks with one frozen model.

    Prompts are added and removed from any thread at any time. A row keeps what it was made with: a
    prompt that is removed or replaced meanwhile still answers it.

    Example:
      >>> engine = Engine(open_model('t5-folder'))  # doctest: +SKIP
      >>> engine.add('sst2', load_prompt('sst2.safetensors'))  # doctest: +SKIP
      >>> engine.run(engine.rows([('sst2', 'a film to remember'),
      ...                         (None, 'translate English to German: hi')]))  # doctest: +SKIP
    """

    def __init__(self, opened: OpenedModel, shapes: Shapes | None = None, capacity: int = 4096,
                 decodings: Mapping[str, Decoding] | None = None):
        """Take a model into use.

        Args:
          opened: the frozen model with its vocabulary.
          shapes: at which batches run.
          capacity: R, rows of the prompt table to begin with.
          decodings: ways to generate by name, besides 'sample'; such as `beam_search(4)`.
        """
        self.opened = opened
        self.shapes = shapes or Shapes()
        self._how = How(self.shapes, tuple({'sample': SAMPLING, **(decodings or {})}.items()))
        self._runner = Runner(opened, self._how)
        self.prefixes = PrefixTable(self._runner.everywhere)
        self.table = PromptTable(opened.model.d_model, capacity, self._runner.everywhere)
        # Whether any prompt ever added rows to texts: one that was removed still answers its rows.
        self._adds = False
        self._lock, self._warming_up = threading.Lock(), False
        plain = self._converter(PLAIN, Layout(), no_prompt(opened.model.d_model))
        self.plain = ServedPrompt('', PLAIN, plain, None, None)
        self._prompts: dict[str, ServedPrompt] = {}

    @property
    def prompts(self) -> dict[str, ServedPrompt]:
        """Return the prompts in use, by name; a copy."""
        return dict(self._prompts)

    def add(self, name: str, file: PromptFile, allow_other_model: bool = False) -> ServedPrompt:
        """Take a prompt into use, in place of one of the same name.

        Args:
          name: by which rows will name it.
          file: the prompt, from `load_prompt`.
          allow_other_model: accept a prompt that was trained for other weights of the same width.

        Returns:
          The prompt in use.

        Raises:
          ValueError: it does not fit the model, or its task cannot be used.
        """
        if not name:
            raise ValueError('a prompt needs a name to be asked for; got an empty one')
        opened = self.opened
        check_prompt(file, d_model=opened.model.d_model, model_name=opened.name,
                     model_fingerprint=opened.fingerprint,
                     vocabulary_fingerprint=opened.vocabulary_fingerprint,
                     allow_other_model=allow_other_model)
        try:
            task, converter, labels, design = self._read(file)
        except ValueError as error:
            what = 'the prompt' if file.path is None else f'prompt file {file.path}'
            raise ValueError(f'{what} cannot be used: {error}') from error
        block = slot = None
        if len(file.prompt.rows):
            block = self.table.put(file.prompt.rows)
            converter = dataclasses.replace(converter, first_row=block.offset)
        if converter.added:
            converter.check_added()
            self._adds = True
        if file.prompt.prefix:
            prefix_of(opened.model, file.prompt)
            slot = self.prefixes.put(file.prompt.prefix)
        prompt = ServedPrompt(name, task, converter, labels, block, file, slot, design)
        with self._lock:
            self._prompts = {**self._prompts, name: prompt}
        return prompt

    def remove(self, name: str) -> None:
        """Take a prompt out of use; rows that were made with it are still answered.

        Raises:
          UnknownPrompt: there is none of that name.
        """
        with self._lock:
            self.prompt(name)
            self._prompts = {key: value for key, value in self._prompts.items() if key != name}

    def prompt(self, name: str | None) -> ServedPrompt:
        """Return a prompt in use; the plain model for None or ''.

        Raises:
          UnknownPrompt: there is none of that name.
        """
        if not name:
            return self.plain
        prompts = self._prompts
        if name not in prompts:
            known = ', '.join(sorted(prompts)[:10]) + (', ...' if len(prompts) > 10 else '')
            raise UnknownPrompt(f'no prompt {name!r} in use; there are: {known or "none"}')
        return prompts[name]

    def label_set(self, words: Sequence[str], prompt: ServedPrompt | None = None) -> LabelSet:
        """Spell labels with the model's vocabulary, as the design of a prompt has them answered.

        Raises:
          ValueError: fewer than two, or words that the vocabulary cannot tell apart.
        """
        if prompt is not None and prompt.design is not None:
            return prompt.design.label_set(words)
        return LabelSet.encode(words, self.opened.vocabulary.encode, self.opened.model)

    def row(self, name: str | None, inputs: str | Mapping[str, Any], **options: Any) -> Row:
        """Make a row of one text; see `rows_of` for the options."""
        return self.rows_of(self.prompt(name), [inputs], **options)[0]

    def rows(self, requests: Iterable[tuple[str | None, str | Mapping[str, Any]]]) -> list[Row]:
        """Make rows of (name of a prompt or None, its inputs), each as its task says.

        Raises:
          ValueError: an unknown name, or inputs that do not fit the task.
        """
        return [self.row(name, inputs) for name, inputs in requests]

    def rows_of(self, prompt: ServedPrompt, inputs: Sequence[str | Mapping[str, Any]], *,
                rank: bool | None = None, labels: LabelSet | None = None,
                max_tokens: int | None = None, decoding: str = 'sample', options: Any = None,
                where: Callable[[int], str] = _the_request) -> list[Row]:
        """Make rows of texts of one task.

        Args:
          prompt: from `prompt`.
          inputs: columns of the template, or the text of its only one, for each row.
          rank: choose among labels (True) or generate (False); None for what the task does.
          labels: to choose among, in place of the task's.
          max_tokens: to generate at most; None for the task's `targets_length`.
          decoding: 'sample', or a name that the engine was given.
          options: what that decoding takes for these rows; a `SamplingSettings` for 'sample', which
            is greedy without. For ranking, a `Calibration` of the probabilities.
          where: number of an input -> its place, for messages.

        Raises:
          ValueError: inputs that do not fit the task, no labels to rank, an unknown decoding or
            options of another.
        """
        labels = prompt.labels if labels is None else labels
        if rank is None:
            rank = labels is not None
        if rank and labels is None:
            raise ValueError(f'{prompt} has no labels to choose from; give some, or generate')
        max_tokens = prompt.task.targets_length if max_tokens is None else max_tokens
        group = (self._how.rank_group(labels) if rank else
                 self._how.generation_group(max_tokens, decoding, options))
        rows = []
        for number, (tokens, left_out) in enumerate(
                prompt.texts_tokens(inputs, self.opened.vocabulary, where)):
            ids, cut = prompt.ids(tokens, where(number))
            rows.append(Row(prompt, ids, cut or left_out, labels if rank else None, max_tokens,
                            decoding, options, group, prefix=prompt.prefix_use))
        return rows

    def divide(self, rows: Sequence[Row]) -> list[Part]:
        """Return the parts of a batch, which `is_warm` and `start` can be handed."""
        return self._runner.divide(rows)

    def start(self, rows: Sequence[Row], parts: Sequence[Part] | None = None) -> Running:
        """Start a batch; returns before the device is done.

        Args:
          rows: of one `group`, at most `shapes.largest_batch`.
          parts: from `divide`, where that was done already.
        """
        return self._runner.start(rows, self._prompt, parts)

    def run(self, rows: Sequence[Row], **where: Callable[[int], str]) -> list[Prediction]:
        """Answer any number of rows of any groups, in their order; see `predict.Runner.run`."""
        return self._runner.run(rows, self._prompt, **where)

    @property
    def compilations(self) -> int:
        """Return how many programs have been compiled so far."""
        return self.table.compilations + self._runner.compilations

    def is_warm(self, rows: Sequence[Row], parts: Sequence[Part] | None = None) -> bool:
        """Tell whether a batch of these rows would start without compiling anything."""
        return self._runner.is_warm(rows, self._prompt, parts)

    def padded(self, rows: Sequence[Row]) -> list[Part] | None:
        """Return how to run the first of some rows while `warm_up` has not come to their program.

        Returns:
          Parts for `start`, of a program that is there and has more room than they need; None where
          there is none, or no other is under way.
        """
        return self._runner.padded(rows, self._prompt) if self._warming_up else None

    def warm_up(self, inputs: Sequence[Row] | None = None, longest: int | None = None,
                stop: Callable[[], bool] = lambda: False,
                told: Callable[[int], None] = lambda left: None) -> int:
        """Compile, ahead of requests, the programs that they will need, the likeliest first.

        Args:
          inputs: rows such as will come; None for one of each prompt in use, as its task says.
          longest: the most encoder positions to prepare for; None for the most that the prompts of
            these rows can need.
          stop: is asked before each program whether to leave it at that.
          told: is told before the first program and after each how many are left; 0 when all is
            done, what writes the table included.

        Returns:
          How many programs were compiled. What ran before is not run again.
        """
        before = self.compilations
        if inputs is None:
            inputs = [row for prompt in self._prompts.values() for row in self.samples(prompt)]
        if longest is None:
            longest = max((row.prompt.longest for row in inputs), default=0)
        self._warming_up = True
        try:
            self._runner.warm_up(inputs, self.shapes.lengths_up_to(longest), self._prompt,
                                 stop, lambda left: told(left) if left else None)
            self.table.warm_up()
            for design in {row.prompt.design for row in inputs} - {None}:
                design.warm_up(self.shapes.lengths_up_to(longest), stop)
            if not stop():
                told(0)
        finally:
            self._warming_up = False
        return self.compilations - before

    def make_room(self, prompt: Prompt, stop: Callable[[], bool] = lambda: False) -> None:
        """Compile what has run so far for the tables that a prompt will need, if these change.

        Without that, whatever runs after the prompt is added is compiled once more.

        Args:
          prompt: of which only sizes count, and whether it adds rows to texts, which no prompt in
            use may have done yet.
          stop: is asked before each program whether to leave it at that.
        """
        capacity = self.table.capacity_for(len(prompt.rows))
        adds, prefixes = bool(prompt.added) or self._adds, self.prefixes.empty_for(prompt.prefix)
        if capacity != self.table.capacity:
            self.table.warm_up(capacity=capacity)
        wider = jax.tree.map(jnp.shape, prefixes) != jax.tree.map(jnp.shape, self.prefixes.arrays)
        if (capacity, adds) != (self.table.capacity, self._adds) or wider:
            self._runner.run_again(Prompt(self.table.empty(capacity), int(adds), prefixes), stop)

    @property
    def _prompt(self) -> Prompt:
        """Return all prompts in use as one."""
        return Prompt(self.table.rows_RD, int(self._adds), self.prefixes.arrays)

    def samples(self, prompt: ServedPrompt) -> list[Row]:
        """Return rows without content, of every kind that requests to a prompt make by themselves.

        Not of labels that they bring, of other lengths than the task's, or of free text from a
        prompt that has labels: these are compiled when they are first asked for.
        """
        labels, tokens = prompt.labels, prompt.task.targets_length
        groups = ({'sample': self._how.rank_group(labels)} if labels is not None else
                  {name: self._how.generation_group(tokens, name)
                   for name, _ in self._how.decodings})
        return [Row(prompt, np.zeros(1, np.int32), False, labels, tokens, name, None, group,
                    prefix=prompt.prefix_use)
                for name, group in groups.items()]

    def _read(self, file: PromptFile) -> tuple[TextTask, FeatureConverter, LabelSet | None,
                                               DesignInUse | None]:
        """Return what a prompt file says that inputs and labels are."""
        task, labels, design = task_of(self.opened, file, functools.partial(
            mean_states, self.opened, shapes=self.shapes))
        converter = self._converter(task, file.metadata.layout, file.prompt)
        if file.metadata.layout.placement == 'marker':
            empty = self.opened.vocabulary.encode(task.render(dict.fromkeys(task.columns, '')))
            if converter.marker_id is None or (
                    list(empty).count(converter.marker_id) > converter.layout.num_markers):
                converter.input_ids(empty)  # which says why no input will do
        return task, converter, labels, design

    def _converter(self, task: TextTask, layout: Layout, prompt: Prompt) -> FeatureConverter:
        return FeatureConverter.for_model(task, self.opened.vocabulary, self.opened.model,
                                          layout, prompt.num_virtual, prompt.added)
