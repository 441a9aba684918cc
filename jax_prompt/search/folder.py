"""The folder of a search: its record, from which a killed one goes on, and what it found."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.files import locked, sealed, write_file
from jax_prompt.models.open import OpenedModel
from jax_prompt.parallel.hosts import fetch
from jax_prompt.prompts.file import PromptFile, PromptMetadata, save_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.search.strategy import Candidate, State, Tried

RECORD_FILE, DESIGN_FILE, START_FILE = 'search.json', 'design.safetensors', 'start.safetensors'
RESULT_FILE = 'result.json'
_FORMAT, _LOCK = 1, 'lock'


@dataclasses.dataclass
class Record:
    """All that a search knows; written after every step, so that a kill loses one step at most.

    Attributes:
      path: of the file.
      identity: whatever decides the search's course, ready for JSON.
      state: the strategy's; None before it began.
      steps: that it has made.
      calls: model calls that are spent.
      seconds: that the search has taken.
      best: the best candidates on all examples of the search, the best first.
      history: whenever a better one was found: calls, loss, texts and words.
      fluency: of texts that were measured.
      done: whether no step is left.
      plain_loss: of the task's own template on the examples of the search; None for not yet.
      chosen: which of the best was chosen; -1 for the plain design, None for not yet.
      metrics: heading -> split -> metrics; {} for not yet.
    """

    path: pathlib.Path
    identity: Mapping[str, Any]
    state: State | None = None
    steps: int = 0
    calls: int = 0
    seconds: float = 0.0
    best: list[Tried] = dataclasses.field(default_factory=list)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    fluency: dict[tuple[str, ...], float] = dataclasses.field(default_factory=dict)
    done: bool = False
    plain_loss: float | None = None
    chosen: int | None = None
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)

    def keep(self, tried: Sequence[Tried], count: int) -> None:
        """Add what was scored on all examples; keep so many of the best."""
        before = self.best[0].loss if self.best else np.inf
        losses = dict(self.best)
        for candidate, loss in tried:
            losses.setdefault(candidate, loss)
        best = sorted(losses.items(), key=lambda item: item[1])[:count]
        self.best = [Tried(*item) for item in best]
        if self.best and self.best[0].loss < before:
            texts, words = self.best[0].candidate.to_json()
            self.history.append({'calls': self.calls, 'loss': self.best[0].loss, 'texts': texts,
                                 'words': dict(words)})

    def save(self) -> None:
        """Replace the file, whole or not at all."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values['path']
        values['best'] = [[one.candidate.to_json(), one.loss] for one in self.best]
        values['fluency'] = [[list(texts), float(one)] for texts, one in self.fluency.items()]
        content = json.dumps(sealed({'format': _FORMAT} | values), indent=1)
        write_file(self.path, content.encode(), overwrite=True)

    @classmethod
    def load(cls, path: pathlib.Path) -> 'Record':
        """Read what `save` wrote.

        Raises:
          ValueError: it is damaged, or of another version.
        """
        try:
            values = json.loads(path.read_text())
            whole = sealed(values) == values
        except (ValueError, AttributeError):
            whole = False
        if not whole:
            raise ValueError(f'{path} is damaged, so that the search cannot go on from it; choose '
                             'a new output folder')
        del values['digest']
        if values.pop('format') != _FORMAT:
            raise ValueError(f'{path} was written by another version of jax_prompt; finish the '
                             'search with that version, or choose a new output folder')
        values['best'] = [Tried(Candidate.from_json(one), loss) for one, loss in values['best']]
        values['fluency'] = {tuple(texts): one for texts, one in values['fluency']}
        return cls(path, **values)


@contextlib.contextmanager
def claimed(folder: pathlib.Path, identity: Mapping[str, Any]) -> Iterator[Record]:
    """Take a new folder for a search, or that of the same search to go on, for oneself alone.

    Raises:
      ValueError: it holds another search (names what differs), or files that are none's, or another
        process searches in it.
    """
    path, identity = folder / RECORD_FILE, json.loads(json.dumps(identity))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f'output {folder} is a file; expected a folder for the search')
    if folder.is_dir() and not path.exists() and any(
            one.name != _LOCK and not one.name.startswith('.') for one in folder.iterdir()):
        raise ValueError(f'output folder {folder} holds files but no {RECORD_FILE}, so it is not a '
                         'search of jax_prompt; choose an empty or a new folder')
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / _LOCK, f'searching in {folder}'):
        record = Record.load(path) if path.exists() else Record(path, identity)
        theirs, ours = (flatten_dict(one, sep='.') for one in (record.identity, identity))
        different = [name for name in sorted(ours.keys() | theirs.keys())
                     if ours.get(name) != theirs.get(name)]
        if different:
            told = '; '.join(f'{name} is {theirs.get(name)!r} there and {ours.get(name)!r} here'
                             for name in different[:3])
            raise ValueError(f'output folder {folder} holds a search of another configuration: '
                             f'{told}; choose a new folder, or the same configuration to go on')
        yield record


def save_result(opened: OpenedModel, task: TextTask, strategy: str, seed: int,
                found: Any) -> None:
    """Write the design file, the rows that a soft prompt may start from, and what was measured.

    Args:
      opened: the model.
      task: that was searched for.
      strategy: its name.
      seed: of the search.
      found: see `run.Found`.
    """
    folder, text = found.folder, start_text(found)
    metadata = PromptMetadata(
        opened.name, opened.fingerprint, opened.vocabulary_fingerprint, task.to_dict(), Layout(),
        f'search ({strategy})', 0, found.metrics_of('validation'), seed,
        design=found.design.to_dict())
    nothing = np.zeros((0, opened.model.d_model), np.float32)
    save_prompt(folder / DESIGN_FILE, PromptFile(Prompt(nothing), metadata))
    if text:
        ids = np.array(opened.vocabulary.encode_words(text), np.int32)
        rows = fetch(opened.model.embedding_table(opened.frozen)[ids])
        save_prompt(folder / START_FILE, PromptFile(
            Prompt(np.asarray(rows, np.float32)), dataclasses.replace(metadata, design=None,
                                                                      metrics={})))
    result = {'strategy': strategy, 'template': found.design.template, 'words': found.design.words,
              'text': text, 'losses': found.losses, 'metrics': found.metrics, 'calls': found.calls,
              'seconds': round(found.seconds, 1), 'history': list(found.history)}
    write_file(folder / RESULT_FILE, (json.dumps(result, indent=1) + '\n').encode(),
               overwrite=True)


def start_text(found: Any) -> str:
    """Return the words that a soft prompt may start from; '' where the plain design was kept."""
    if found.candidate is None:
        return ''
    texts = [text for text in found.candidate.texts if text]
    return ' '.join(texts or (word for _, word in found.candidate.words))
