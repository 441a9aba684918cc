"""The one way to answers: rows -> batches -> compiled programs -> predictions.

The evaluator, bulk prediction and the server differ in where rows come from and what is done with
predictions. Which prompt a row uses is a matter of its ids; its labels are arrays of the batch. So
nothing is compiled for a prompt or a task: programs are compiled for sizes, of which there are few.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_prompt.inference.batching import How, in_batches
from jax_prompt.inference.parts import (
    Encoded,
    Part,
    Work,
    divide,
    encode_chunks,
    every_division,
    start,
    taken,
)
from jax_prompt.inference.prefix_table import stack_uses
from jax_prompt.inference.programs import programs_of
from jax_prompt.inference.rank import stack_labels
from jax_prompt.inference.rows import Prediction, Row, Running
from jax_prompt.models.base import Prefix
from jax_prompt.models.forward import prefix_of
from jax_prompt.models.open import OpenedModel
from jax_prompt.parallel.mesh import DATA
from jax_prompt.parallel.placement import place
from jax_prompt.parallel.rules import batch_sharding, replicated
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.types import Array


def _numbered(number: int) -> str:
    return f'row {number}'


def predict(opened: OpenedModel, prompt: Prompt, rows: Sequence[Row],
            how: How = How(),  # noqa: B008
            where: Callable[[int], str] = _numbered) -> list[Prediction]:
    """Answer rows with a frozen model and the prompts that they use.

    Args:
      opened: the frozen model. What is compiled for it is kept as long as it is.
      prompt: whose row i is id V + i of the rows.
      rows: any number of them, of any tasks.
      how: at which sizes batches run, and how text is generated.
      where: number of a row -> its place, for messages.

    Returns:
      The answers, in the order of the rows.

    Raises:
      ValueError: a row has no answer, such as scores that are not finite.
    """
    return Runner(opened, how).run(rows, prompt, where)


class Runner:
    """Run rows of any tasks in batches with one frozen model.

    Whatever rows ask for, those of like sizes share a compiled program, with all runners of the
    model.
    """

    def __init__(self, opened: OpenedModel, how: How):
        """Take a model into use; nothing is compiled yet.

        Args:
          opened: the frozen model. On a mesh, the rows of a batch are spread over its data axis
            where they divide by it; else every device gets all of them.
          how: at which sizes batches run, and how text is generated.
        """
        self._opened, self._how = opened, how
        self._mesh = opened.mesh if opened.mesh is not None and opened.mesh.size > 1 else None
        self._programs = programs_of(opened)
        self._ran = self._programs.ran(how)
        self._compilations = 0

    @property
    def everywhere(self) -> jax.sharding.Sharding | None:
        """Return where arrays stand that every device needs; None for a single device."""
        return None if self._mesh is None else replicated(self._mesh)

    @property
    def compilations(self) -> int:
        """Return how many programs ran here for the first time, which compiles them."""
        return self._compilations

    def divide(self, rows: Sequence[Row]) -> list[Part]:
        """Return the parts of a batch, as `start` and `is_warm` take them; see `parts.divide`."""
        return divide(rows, self._how.shapes, self._mesh is not None)

    def start(self, rows: Sequence[Row], prompt: Prompt,
              parts: Sequence[Part] | None = None) -> Running:
        """Start a batch; returns before the device is done.

        Args:
          rows: of one `group`, at most `shapes.largest_batch`.
          prompt: that they use.
          parts: from `divide`, where that was done already.
        """
        assert len({row.group for row in rows}) == 1, 'rows of several groups in one batch'
        return self._start(rows, parts or self.divide(rows), prompt)

    def run(self, rows: Sequence[Row], prompt: Prompt,
            where: Callable[[int], str] = _numbered) -> list[Prediction]:
        """Answer any number of rows of any groups, in their order; for the rest see `predict`.

        Rows are batched with others of like length, so what stands in a batch follows from the
        rows given, and the same rows give the same answers, bit for bit.
        """
        answers: list[Any] = [None] * len(rows)
        under_way: collections.deque = collections.deque()

        def finish() -> None:
            numbers, running = under_way.popleft()
            found = running.answers(lambda place: where(numbers[place]))
            for number, answer in zip(numbers, found, strict=True):
                answers[number] = answer

        for numbers in in_batches(rows, self._how.shapes.largest_batch):
            under_way.append((numbers, self.start([rows[number] for number in numbers], prompt)))
            # The device works on the newest batch while the host reads the one before it.
            if len(under_way) > 1:
                finish()
        while under_way:
            finish()
        return answers

    def is_warm(self, rows: Sequence[Row], prompt: Prompt,
                parts: Sequence[Part] | None = None) -> bool:
        """Tell whether a batch would start without compiling anything.

        Args:
          rows: of one `group`.
          prompt: that they use.
          parts: from `divide`, where that was done already.
        """
        return not self._new(rows, parts or self.divide(rows), prompt)

    def warm_up(self, rows: Iterable[Row], lengths: Sequence[int], prompt: Prompt,
                stop: Callable[[], bool] = lambda: False,
                told: Callable[[int], None] = lambda left: None) -> None:
        """Run what rows such as these will need, at every size; what ran before is not run again.

        Args:
          rows: whose labels and ways to generate count, not their inputs.
          lengths: S, of inputs to prepare for.
          prompt: of the size that they will use.
          stop: is asked before each program whether to leave it at that.
          told: is told before the first program and after each how many are left.
        """
        jobs = self._jobs(rows, lengths, prompt)
        told(len(jobs))
        for number, (sample, parts) in enumerate(jobs, 1):
            if stop():
                return
            if self._new(sample, parts, prompt):  # nobody has needed it meanwhile
                self._start(sample, parts, prompt).answers(_numbered)
            told(len(jobs) - number)

    def padded(self, rows: Sequence[Row], prompt: Prompt) -> list[Part] | None:
        """Return how the first of some rows can be run by what has run before, with more padding.

        Args:
          rows: of one `group`, at most `shapes.largest_batch`.
          prompt: that they use.

        Returns:
          One part, the cheapest for each row that it holds; None where nothing will do.
        """
        shapes, found = self._how.shapes, []
        for room in shapes.batch_sizes:
            numbers = tuple(range(min(room, len(rows))))
            longest = max(len(rows[number].ids) for number in numbers)
            for length in shapes.lengths_up_to(max(longest, shapes.lengths[-1])):
                parts = [Part(numbers, room, length)]
                if length >= longest and not self._new(rows, parts, prompt):
                    found.append((room * length / len(numbers), parts))
        return min(found, key=lambda one: one[0])[1] if found else None

    def run_again(self, prompt: Prompt, stop: Callable[[], bool] = lambda: False) -> None:
        """Run whatever has run with prompts of other sizes, so that it is compiled for this one.

        Args:
          prompt: of the size to prepare for.
          stop: is asked before each batch whether to leave it at that.
        """
        for rows, parts in {id(batch): batch for batch in list(self._ran.values())}.values():
            if self._new(rows, parts, prompt):
                if stop():
                    return
                for _, wait in self._start(rows, parts, prompt).parts:
                    wait()

    def _jobs(self, rows: Iterable[Row], lengths: Sequence[int],
              prompt: Prompt) -> list[tuple[list[Row], list[Part]]]:
        """Return batches that need all programs that have not run, the likeliest first.

        The longest input alone comes first: its program can answer any, padded. Then full batches;
        then short texts before long ones, and sizes in between last.
        """
        shapes = self._how.shapes
        few, many = shapes.batch_sizes[0], shapes.batch_sizes[-1]
        sizes = sorted(itertools.product(lengths, shapes.batch_sizes), key=lambda size: (
            size != (lengths[-1], few), size != (lengths[-1], many), size[1] not in (few, many),
            size))
        jobs, seen = [], set()
        kinds = {(self._kind(row), row.prefix is None): row for row in rows}.values()
        for (length, batch), row in itertools.product(sizes, kinds):
            sample = [dataclasses.replace(row, ids=np.zeros(length, np.int32))] * batch
            for parts in every_division(sample, shapes, self._mesh is not None):
                if new := self._new(sample, parts, prompt) - seen:
                    seen |= new
                    jobs.append((sample, parts))
        return jobs

    def _start(self, rows: Sequence[Row], parts: Sequence[Part], prompt: Prompt) -> Running:
        """Start a batch that is divided so, and remember what has run."""
        new = self._new(rows, parts, prompt)
        encoded: dict[int, Encoded] = {}  # by the number of the row, from chunks
        works = [self._work(rows, part, prompt, encoded) for part in parts]
        launch = contextlib.nullcontext() if self._mesh is None else self._programs.launch
        with launch:
            results = start(works, aside=not new)
        if new:
            like = tuple(dataclasses.replace(row, prompt=None, options=None,
                                             ids=np.zeros(1, np.int32)) for row in rows)
            self._compilations += len(new - self._ran.keys())
            self._ran.update(dict.fromkeys(new, (like, tuple(parts))))
        numbers = [part.numbers for part in parts]
        return Running(tuple(rows), tuple(zip(numbers, results, strict=True)), self._opened)

    def _new(self, batch: Sequence[Row], parts: Sequence[Part], prompt: Prompt) -> set[tuple]:
        """Return what tells the programs that a batch needs and that have not run yet."""
        keys, capacity = set(), (len(prompt.rows), bool(prompt.added))
        if any(row.prefix for row in batch):
            capacity += tuple((name, keys.shape) for name, (keys, _) in prompt.prefix.items())
        for part in parts:
            kind = max(self._kind(batch[number]) for number in part.numbers)
            sizes = part.batch, part.length, capacity
            if part.chunks is None:
                keys.add(('whole', kind, *sizes))
            else:
                keys |= {(kind, *sizes),
                         *(('encode', kind[0] == 'rank', chunk.length, capacity)
                           for chunk in part.chunks)}
        return keys - self._ran.keys()

    def _kind(self, row: Row) -> tuple:
        """Return what two rows share that need the same programs."""
        if row.labels is None:
            return row.group if row.target is None else (*row.group, len(row.target))
        return 'rank', self._how.shapes.label_rung(*row.labels.shape)

    def _work(self, batch: Sequence[Row], part: Part, prompt: Prompt,
              encoded: dict[int, Encoded]) -> Work:
        """Prepare a part of a batch, filled up: all parts encode before any goes on.

        Ranking of a whole batch is a single program, the second.
        """
        opened, programs = self._opened, self._programs
        rows, pad_id = [batch[number] for number in part.numbers], opened.model.tokens.pad
        arrays = self._place(self._arrays(rows, part.batch), part.batch)
        uses, more = [row.prefix for row in rows], {}
        if any(uses):  # a batch of plain rows is a program without a prefix
            chosen = self._place(stack_uses(uses, part.batch, prompt.prefix), part.batch)
            more['prefix'] = prefix_of(opened.model, prompt, *chosen)
        prompt = prompt.replace(prefix={})
        if part.chunks is None:
            ids_BS = np.full((part.batch, part.length), pad_id, np.int32)
            for number, row in enumerate(rows):
                ids_BS[number, :len(row.ids)] = row.ids
            ids_BS = self._place(ids_BS, part.batch)
        ranks = rows[0].labels is not None
        # Ranking needs none of the copies that generating makes of the weights.
        weights = opened.for_scoring if ranks else opened.for_generation
        if ranks and part.chunks is None:
            return (lambda: None,
                    lambda _: (programs.score(weights, prompt, ids_BS, *arrays, **more),))
        run = functools.partial(programs.encode, weights, prompt, **more)
        if ranks:
            def answer(*encoded: Array) -> tuple[Array, ...]:
                return (programs.score_encoded(weights, *encoded, *arrays),)
        else:
            answer = self._generator(rows, part.batch, arrays, more)
        if part.chunks is None:
            return lambda: run(ids_BS), lambda inputs: answer(*inputs)
        return (lambda: encoded.update(encode_chunks(run, batch, part.chunks, pad_id)),
                lambda _: answer(*taken(part, encoded, opened.model)))

    def _generator(self, rows: Sequence[Row], batch: int, arrays: Any,
                   more: Mapping[str, Prefix]) -> Callable[[Array, Array], tuple[Array, ...]]:
        """Return what decodes encoded inputs and, where rows have targets, scores these too."""
        opened, (_, name, length) = self._opened, rows[0].group
        decode = self._programs.decoder(self._how.decoding(name), length)

        def generate(encoded_BSD: Array, mask_BS: Array) -> tuple[Array, ...]:
            tokens_BL = decode(opened.for_generation, encoded_BSD, mask_BS, arrays, **more)
            if rows[0].target is None:
                return (tokens_BL,)
            targets_BL = np.full((batch, len(rows[0].target)), opened.model.tokens.pad, np.int32)
            targets_BL[:len(rows)] = [row.target for row in rows]
            return tokens_BL, self._programs.score_targets(
                opened.frozen, encoded_BSD, mask_BS, self._place(targets_BL, batch), **more)

        return generate

    def _arrays(self, rows: Sequence[Row], batch: int) -> Any:
        """Return what a batch's program takes besides the ids: of labels, or of decoding."""
        if rows[0].labels is not None:
            sizes = self._how.shapes.label_shape(max(self._kind(row)[1] for row in rows))
            return stack_labels([row.labels for row in rows], batch, *sizes,
                                self._opened.model.tokens.pad)
        _, name, length = rows[0].group
        return self._how.decoding(name).arrays(rows, batch, length)

    def _place(self, arrays: Any, batch: int) -> Any:
        """Put a batch's arrays where the devices want them."""
        if self._mesh is None:
            return arrays
        divides = batch % self._mesh.shape[DATA] == 0
        return place(arrays, batch_sharding(self._mesh) if divides else replicated(self._mesh))
