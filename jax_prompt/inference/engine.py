"""One frozen model, many prompts: batches whose rows are of different tasks.

All prompts stand in one table (`prompt_table`), so which prompt a row uses is a matter of its ids;
its labels are arrays of the batch (`row_labels`). Nothing is compiled for a prompt: programs are
compiled for shapes, of which there are few (`shapes`), and `warm_up` compiles them ahead.
"""

import collections
import dataclasses
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.data.vocabularies import encode_batch
from jax_prompt.inference.decodings import SAMPLING, Decoding
from jax_prompt.inference.prediction import Prediction
from jax_prompt.inference.prompt_table import PromptTable
from jax_prompt.inference.row_labels import LabelSet, make_row_label_scorer, stack_labels
from jax_prompt.inference.rows import OpenedModel, Row, Running, ServedPrompt, in_batches
from jax_prompt.inference.shapes import Shapes
from jax_prompt.prompts.file import PromptFile, check_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.types import Array

#: What the plain model reads and writes where a request does not say: T5's own lengths.
_PLAIN = TextTask('plain', {}, '{text}', inputs_length=512, targets_length=64)


class UnknownPrompt(ValueError):
    """A request names a prompt that is not in use."""


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
                 decodings: Mapping[str, Decoding] | None = None,
                 sharding: jax.sharding.Sharding | None = None):
        """Take a model into use.

        Args:
          opened: the frozen model with its vocabulary.
          shapes: at which batches run.
          capacity: R, rows of the prompt table to begin with.
          decodings: ways to generate by name, besides 'sample'; such as `beam_search(4)`.
          sharding: of prompt table and batches, where the model stands on several devices.
        """
        self.opened = opened
        self.shapes = shapes or Shapes()
        self.table = PromptTable(opened.model.config.d_model, capacity, sharding)
        self._decodings = {'sample': SAMPLING, **(decodings or {})}
        self._sharding = sharding
        self._score = make_row_label_scorer(opened.model)
        self._generators: dict[tuple[str, int], Callable[..., Array]] = {}
        self._ran: set[tuple] = set()
        self._lock = threading.Lock()
        no_rows = self._converter(_PLAIN, Layout(), 0)
        self.plain = ServedPrompt('', _PLAIN, no_rows, None, None)
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
        check_prompt(file, d_model=opened.model.config.d_model, model_name=opened.name,
                     model_fingerprint=opened.fingerprint,
                     vocabulary_fingerprint=opened.vocabulary_fingerprint,
                     allow_other_model=allow_other_model)
        task = TextTask.from_dict(file.metadata.task)
        converter = self._converter(task, file.metadata.layout, len(file.prompt_PD))
        labels = None if task.label_words is None else self.label_set(task.label_words)
        block = self.table.put(file.prompt_PD) if len(file.prompt_PD) else None
        prompt = ServedPrompt(name, task, converter, labels, block, file)
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

    def label_set(self, words: Sequence[str]) -> LabelSet:
        """Spell labels with the model's vocabulary.

        Raises:
          ValueError: fewer than two, or words that the vocabulary cannot tell apart.
        """
        return LabelSet.encode(words, self.opened.vocabulary.encode, self.opened.model.config)

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
          ValueError: inputs that do not fit the task, no labels to rank, an unknown decoding.
        """
        labels = prompt.labels if labels is None else labels
        if rank is None:
            rank = labels is not None
        if rank and labels is None:
            raise ValueError(f'{prompt} has no labels to choose from; give some, or generate')
        max_tokens = prompt.task.targets_length if max_tokens is None else max_tokens
        group = self._rank_group(labels) if rank else self._generate_group(max_tokens, decoding)
        texts = [prompt.render(one, where(number)) for number, one in enumerate(inputs)]
        rows = []
        for number, tokens in enumerate(encode_batch(self.opened.vocabulary, texts)):
            ids, cut = prompt.ids(tokens, where(number))
            rows.append(Row(prompt, ids, cut, labels if rank else None, max_tokens, decoding,
                            options, group))
        return rows

    def _rank_group(self, labels: LabelSet) -> tuple:
        shared = self.shapes.shared_labels - 1
        return 'rank', max(shared, self.shapes.label_rung(*labels.shape))

    def _generate_group(self, max_tokens: int, decoding: str) -> tuple:
        if decoding not in self._decodings:
            raise ValueError(f'no decoding {decoding!r}; choose one of '
                             f'{", ".join(self._decodings)}')
        if max_tokens < 1:
            raise ValueError(f'max_tokens is {max_tokens}; expected at least 1')
        return 'generate', decoding, self.shapes.target_length(max_tokens)

    def start(self, rows: Sequence[Row]) -> Running:
        """Start a batch; returns before the device is done.

        Args:
          rows: of one `group`, at most `shapes.largest_batch`.
        """
        assert len({row.group for row in rows}) == 1, 'rows of several groups in one batch'
        batch = self.shapes.batch_size(len(rows))
        ids_BS = np.full((batch, self.shapes.length(max(len(row.ids) for row in rows))),
                         self.opened.model.config.pad_token_id, np.int32)
        for number, row in enumerate(rows):
            ids_BS[number, :len(row.ids)] = row.ids
        program, arrays = self._program(rows, batch)
        arrays = [ids_BS, *arrays]
        if self._sharding is not None:
            arrays = jax.device_put(arrays, self._sharding)
        result = program(self.opened.frozen, self.table.rows_RD, *arrays)
        self._ran.add(self._key(rows))
        return Running(tuple(rows), result, self.opened)

    def run(self, rows: Sequence[Row]) -> list[Prediction]:
        """Answer any number of rows of any groups, in their order.

        Rows are batched with others of like length, so what stands in a batch follows from the
        rows given, and the same rows give the same answers, bit for bit.
        """
        answers: list[Any] = [None] * len(rows)
        under_way: collections.deque = collections.deque()

        def finish() -> None:
            numbers, running = under_way.popleft()
            for number, answer in zip(numbers, running.answers(), strict=True):
                answers[number] = answer

        for numbers in in_batches(rows, self.shapes.largest_batch):
            under_way.append((numbers, self.start([rows[number] for number in numbers])))
            # The device works on the newest batch while the host reads the one before it.
            if len(under_way) > 1:
                finish()
        while under_way:
            finish()
        return answers

    def _program(self, rows: Sequence[Row], batch: int) -> tuple[Callable[..., Array], tuple]:
        """Return what computes a batch, and the arrays that it takes besides the ids."""
        if rows[0].labels is not None:
            sets = [row.labels for row in rows]
            rung = max(self.shapes.label_rung(*labels.shape) for labels in sets)
            pad = self.opened.model.config.pad_token_id
            return self._score, stack_labels(sets, batch, *self.shapes.label_shape(rung), pad)
        _, decoding, length = rows[0].group
        arrays = self._decodings[decoding].arrays(rows, batch, length)
        return self._generator(decoding, length), (arrays,)

    def _generator(self, decoding: str, length: int) -> Callable[..., Array]:
        key = decoding, length
        if key not in self._generators:
            self._generators[key] = self._decodings[decoding].make(self.opened.model, length)
        return self._generators[key]

    @property
    def compilations(self) -> int:
        """Return how many programs have been compiled so far."""
        programs = [self._score, *list(self._generators.values())]
        return self.table.compilations + sum(program._cache_size() for program in programs)

    def warm_up(self, inputs: Sequence[Row] | None = None, longest: int | None = None,
                stop: Callable[[], bool] = lambda: False) -> int:
        """Compile, ahead of requests, the programs that they will need.

        Args:
          inputs: rows such as will come; None for one of each prompt in use, as its task says.
          longest: the most encoder positions to prepare for; None for the most that the prompts of
            these rows can need.
          stop: is asked before each program whether to leave it at that.

        Returns:
          How many programs were compiled. What ran before is not run again.
        """
        before = self.compilations
        if inputs is None:
            inputs = [row for prompt in self._prompts.values() for row in self.samples(prompt)]
        self.table.warm_up()
        most = max((row.prompt.longest for row in inputs), default=0)
        for row in {self._kind(row): row for row in inputs}.values():
            for length in self.shapes.lengths_up_to(most if longest is None else longest):
                for batch in self.shapes.batch_sizes:
                    sample = [dataclasses.replace(row, ids=np.zeros(length, np.int32))] * batch
                    if not self.is_warm(sample) and not stop():
                        self.start(sample).answers()
        return self.compilations - before

    def is_warm(self, rows: Sequence[Row]) -> bool:
        """Tell whether a batch of these rows would start without compiling anything."""
        return self._key(rows) in self._ran

    def _key(self, rows: Sequence[Row]) -> tuple:
        """Return what tells the program of a batch from others."""
        return (max(self._kind(row) for row in rows), self.shapes.batch_size(len(rows)),
                self.shapes.length(max(len(row.ids) for row in rows)), self.table.capacity)

    def samples(self, prompt: ServedPrompt) -> list[Row]:
        """Return rows without content, of every kind that requests to a prompt can make."""
        labels, tokens = prompt.labels, prompt.task.targets_length
        groups = ({'sample': self._rank_group(labels)} if labels is not None else
                  {name: self._generate_group(tokens, name) for name in self._decodings})
        return [Row(prompt, np.zeros(1, np.int32), False, labels, tokens, name, None, group)
                for name, group in groups.items()]

    def _kind(self, row: Row) -> tuple:
        """Return what two rows share that need the same programs."""
        if row.labels is None:
            return row.group
        return 'rank', self.shapes.label_rung(*row.labels.shape)

    def _converter(self, task: TextTask, layout: Layout, num_rows: int) -> FeatureConverter:
        return FeatureConverter.for_model(task, self.opened.vocabulary, self.opened.model.config,
                                          layout, num_rows)
