"""What a prompt's rows do in use: measured on a task, and watched on texts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jax_prompt.data.design import Design
from jax_prompt.data.examples import Examples, load_examples
from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.rows import read_rows
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation.evaluator import Evaluator
from jax_prompt.evaluation.metrics import LOSS
from jax_prompt.exchange.prompts_in_out import find_prompt
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.rank import LabelSet
from jax_prompt.models.open import OpenedModel
from jax_prompt.prompts.file import PromptFile, PromptMetadata
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.nearest import COSINE
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.prompts.virtual import shifted, stride
from jax_prompt.reading import discrete
from jax_prompt.reading.ablation import ablate
from jax_prompt.reading.attention import Asked, attention_to_rows
from jax_prompt.reading.rows import Words
from jax_prompt.reading.settings import ReadingSettings

#: Files of rows, whose columns the template names; in all others each line is a text.
_OF_ROWS = ('.csv', '.tsv', '.json', '.jsonl', '.parquet')


class Use:
    """A prompt in use with its model: measured on the examples of a task, where there is one."""

    def __init__(self, opened: OpenedModel, file: PromptFile, words: Words,
                 task: TextTask | RegisteredTask | None, settings: ReadingSettings):
        """Take a prompt into use.

        Args:
          opened: the model, which was checked to be the prompt's.
          file: the prompt, with rows.
          words: the model's vocabulary.
          task: to measure on; None to watch given texts alone.
          settings: how to read.

        Raises:
          ValueError, FileNotFoundError: the task's data cannot be read.
        """
        self._opened, self._file, self._words = opened, file, words
        self._task, self._settings = task, settings
        self._design, self._examples = Design.of(file), None
        if task is not None:
            self._examples = load_examples(task, settings.split, opened.vocabulary,
                                           settings.examples)
            self._evaluator = Evaluator(opened, task, file.metadata.layout,
                                        batch_size=settings.batch_size, design=self._design)

    def ablation(self) -> dict[str, Any] | None:
        """Tell what each row is worth; None without a task."""
        if self._examples is None:
            return None
        return {'task': self._task.name, 'split': self._settings.split} | ablate(
            self._evaluator, self._file.prompt, self._examples)

    def attention(self) -> dict[str, Any] | None:
        """Tell what texts attend to; None where there are none, or the model does not attend."""
        if self._settings.texts is not None:
            asked = self._given_texts(self._settings.texts)
        elif self._examples is not None:
            asked = self._some_examples()
        else:
            return None
        return attention_to_rows(self._opened, self._file.prompt, asked)

    def discrete(self, start: str | None = None,
                 ) -> tuple[dict[str, Any], PromptFile | None] | None:
        """Tell what words in place of the rows cost.

        Args:
          start: the file that the prompt started from, whose words are the target where none is
            given.

        Returns:
          (what is told, the cheapest words as a prompt file without rows); None without a task, and
          no file for a task that has no template.
        """
        if self._examples is None:
            return None
        prompt, decode = self._file.prompt, self._opened.vocabulary.decode
        whole = _measured(self._evaluator, prompt, self._examples)
        target = self._settings.target
        if target is None and start is not None:
            target = decode(self._words.nearest(find_prompt(start).rows_PD, 1, COSINE)[0][:, 0])
        told: dict[str, Any] = {'whole': whole, 'target': target, 'projections': {}}
        measured: dict[tuple[int, ...], dict[str, Any]] = {}
        for by, ids_P in discrete.project(prompt.virtual, self._words).items():
            if tuple(ids_P) not in measured:
                measured[tuple(ids_P)] = self._projection(ids_P, whole, target)
            told['projections'][by] = measured[tuple(ids_P)]
        as_text = [one for one in measured.values() if 'as_text' in one]
        if not as_text:
            return told, None
        best = min(as_text, key=lambda one: one['as_text']['metrics'][LOSS])
        told['written'] = next(by for by, one in told['projections'].items() if one is best)
        return told, self._design_file(best)

    def _projection(self, ids_P: np.ndarray, whole: Mapping[str, float],
                    target: str | None) -> dict[str, Any]:
        """Measure words in place of rows: as their embeddings, and as text."""
        prompt, layout = self._file.prompt, self._file.metadata.layout
        vectors_PD = discrete.embedded(ids_P, self._words)
        rows = np.concatenate([vectors_PD, prompt.rows[prompt.num_virtual:]])
        metrics = _measured(self._evaluator, prompt.replace(rows=rows), self._examples)
        text = self._opened.vocabulary.decode(ids_P)
        told = {'ids': [int(one) for one in ids_P], 'text': text, 'metrics': metrics,
                'words': [self._words.word(int(one)) for one in ids_P],
                'cost': discrete.cost(whole, metrics),
                'squared_distance': discrete.squared_distance(prompt.virtual, ids_P, self._words)}
        if target is not None:
            told['f1'] = discrete.prompt_f1(text, target)
        if isinstance(self._task, TextTask) and self._design is None:
            said = discrete.texts_of(ids_P, layout, self._opened.vocabulary.decode)
            read_back = [one for part in said for one in self._words.encode(part)]
            found = self._measured_text(said, whole)
            if found is not None:
                told['as_text'] = {'said': said, 'same_tokens': read_back == told['ids']} | found
        return told

    def _measured_text(self, said: list[str], whole: Mapping[str, float]) -> dict[str, Any] | None:
        """Measure words in the template, without virtual tokens; None where no input fits beside.

        The words count as the input's, of which no more than before is read.
        """
        design = discrete.as_design(said, self._task.inputs_template, self._file.metadata.layout)
        alone = self._words.encode(design.render(dict.fromkeys(design.columns, '')))
        if len(alone) >= self._task.inputs_length - 1:
            return None
        evaluator = Evaluator(self._opened, self._task, Layout(),
                              batch_size=self._settings.batch_size, design=design)
        metrics = _measured(evaluator, _without_rows(self._file.prompt), self._examples)
        return {'metrics': metrics, 'cost': discrete.cost(whole, metrics)}

    def _design_file(self, found: Mapping[str, Any]) -> PromptFile:
        """Return words as a prompt file without rows."""
        of, prompt, text = self._file.metadata, self._file.prompt, found['as_text']
        design = discrete.as_design(text['said'], self._task.inputs_template, of.layout)
        return PromptFile(_without_rows(prompt), PromptMetadata(
            of.base_model, of.base_model_fingerprint, of.vocabulary_fingerprint, of.task, Layout(),
            f'{of.method}, as its nearest words', of.step, text['metrics'], of.seed,
            design=design.to_dict(), dtype=of.dtype))

    def _some_examples(self) -> list[Asked]:
        """Return examples from all over the split, each with its right answer."""
        prompt = self._file.prompt
        rows, _ = self._evaluator.prepare(self._examples, prompt.num_virtual, prompt.added)
        count = min(self._settings.most_texts, len(self._examples))
        asked = []
        for number in np.linspace(0, len(self._examples) - 1, count).astype(int):
            row = rows[self._evaluator.ways[0]][number]
            if row.labels is None:
                target = np.append(self._examples.targets[number], self._opened.model.tokens.eos)
            else:
                target = _target(row.labels, self._examples.labels[number])
            asked.append(self._asked(row.ids, target.astype(np.int32)))
        return asked

    def _asked(self, ids: np.ndarray, target: np.ndarray) -> Asked:
        """Return an input and what is answered to it, with the text that either is."""
        vocabulary, tokens = self._opened.vocabulary, ids % stride(self._opened.model.vocab_size)
        return Asked(vocabulary.decode(tokens[tokens < vocabulary.vocab_size]), ids,
                     vocabulary.decode(target), target)

    def _given_texts(self, path: str) -> list[Asked]:
        """Return texts of a file, each with the answer that the prompt gives."""
        engine, vocabulary = Engine(self._opened), self._opened.vocabulary
        served = engine.add('prompt', self._file, self._settings.allow_other_model)
        texts = _texts(path)[:self._settings.most_texts]
        rows = engine.rows_of(served, texts, where=lambda number: f'text {number + 1} of {path}')
        asked = []
        for row, answer in zip(rows, engine.run(rows), strict=True):
            ids = shifted(row.ids, -served.block.offset, self._opened.model.vocab_size)
            target = (served.converter.target_ids(vocabulary.encode(answer.text))[0]
                      if row.labels is None else
                      _target(row.labels, row.labels.words.index(answer.text)))
            asked.append(self._asked(ids, target))
        return asked


def _target(labels: LabelSet, number: int) -> np.ndarray:
    """Return what the decoder writes for a label: of a verbalizer, the first of its words."""
    place = number if labels.starts is None else labels.starts[number]
    return labels.targets_CL[place][labels.weights_CL[place] > 0]


def _measured(evaluator: Evaluator, prompt: Prompt, examples: Examples) -> dict[str, float]:
    """Measure a prompt that nobody means to use: a constant answer is no reason for a warning."""
    return evaluator.measure_edited(prompt, examples, [lambda ids: ids])[0][0]


def _without_rows(prompt: Prompt) -> Prompt:
    """Return a prompt without virtual tokens; what it adds to the text and its prefix stay."""
    return prompt.replace(rows=prompt.rows[prompt.num_virtual:])


def _texts(path: str) -> list[Any]:
    """Read lines of text, or rows of columns by the ending of a file's name."""
    if path.lower().endswith(_OF_ROWS):
        return [dict(row.columns) for row in read_rows(path)]
    lines = Path(path).read_text(encoding='utf-8').splitlines()
    found = [line for line in lines if line.strip()]
    if not found:
        raise ValueError(f'{path} holds no text; give a file of lines, or of rows '
                         f'({", ".join(_OF_ROWS)})')
    return found
