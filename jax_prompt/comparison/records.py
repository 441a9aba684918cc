"""The folder of a comparison: what it compares, and a record for each trial that is done."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jax_prompt.files import locked, write_file
from jax_prompt.training.folder import check_same
from jax_prompt.training.problem import file_name

COMPARISON_FILE = 'comparison.json'
_FORMAT, _LOCK, _RUNS, _RECORD = 1, 'lock', 'runs', 'record.json'


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """One trial of a comparison.

    Attributes:
      task, contender: their names.
      size: examples of training; None for all.
      seed: of the trial.
    """

    task: str
    contender: str
    size: int | None
    seed: int

    def __str__(self) -> str:
        size = 'all examples' if self.size is None else f'{self.size} examples'
        return f'{self.task}, {self.contender}, {size}, seed {self.seed}'


@dataclasses.dataclass(frozen=True)
class Record:
    """What came of a trial.

    Attributes:
      validation, test: metric -> value; the test's was measured once and chose nothing.
      answers: the text of each answer to the test, in its order.
      validated: examples of the validation.
      trained_numbers, stored_bytes, examples, seconds: see `contender.Fitted`.
      seconds_an_answer: on the test, in batches, without compiling.
      own_seconds: of fitting and measuring, without compiling.
      curve: see `contender.Fitted`.
    """

    validation: Mapping[str, float]
    test: Mapping[str, float]
    answers: Sequence[str]
    validated: int
    trained_numbers: int
    stored_bytes: int
    examples: int
    seconds: float
    seconds_an_answer: float
    own_seconds: float
    curve: Sequence[Mapping[str, Any]] = ()


@dataclasses.dataclass(frozen=True)
class ComparisonFolder:
    """Where a comparison keeps its files.

    Attributes:
      path: the folder.
      configuration: name -> value of the operative gin, to be kept in it.
    """

    path: pathlib.Path
    configuration: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def trial(self, cell: Cell) -> pathlib.Path:
        """Return the folder of a trial."""
        size = 'all' if cell.size is None else str(cell.size)
        return (self.path / _RUNS / file_name(cell.task) / file_name(cell.contender)
                / f'{size}-{cell.seed}')

    def record(self, cell: Cell) -> Record | None:
        """Return what came of a trial; None where it is not done."""
        path = self.trial(cell) / _RECORD
        return Record(**json.loads(path.read_text())) if path.exists() else None

    def keep(self, cell: Cell, record: Record) -> None:
        """Keep what came of a trial."""
        told = json.dumps(dataclasses.asdict(record), indent=1)
        write_file(self.trial(cell) / _RECORD, told.encode(), overwrite=True)

    def check(self) -> None:
        """Refuse, with ValueError, a path that holds something else than a comparison."""
        if self.path.exists() and (not self.path.is_dir() or not (
                self.path / COMPARISON_FILE).exists() and any(
                    one.name != _LOCK for one in self.path.iterdir())):
            raise ValueError(f'output {self.path} holds no {COMPARISON_FILE}, so it is no folder '
                             'of a comparison; choose an empty or a new folder')

    @contextlib.contextmanager
    def claimed(self, identity: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
        """Take the folder for a comparison, for oneself alone.

        What both know must be the same: the model, and tasks and contenders of one name. New ones
        are added to those that are there.

        Args:
          identity: 'model', 'tasks', 'contenders' and 'settings' -> name -> what decides results.

        Raises:
          ValueError: the folder holds a comparison of another configuration, or other files.
        """
        self.check()
        record = self.path / COMPARISON_FILE
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path / _LOCK, f'comparing in {self.path}'):
            known = self.identity()
            for what, ours in identity.items():
                theirs = known.get(what, {})
                both = sorted(ours.keys() & theirs.keys())
                check_same({what: {name: ours[name] for name in both}},
                           {what: {name: theirs[name] for name in both}},
                           f'comparison folder {self.path}')
            whole = {what: {**known.get(what, {}), **ours} for what, ours in identity.items()}
            told = json.dumps({'format': _FORMAT, **whole}, indent=1, sort_keys=True)
            write_file(record, told.encode(), overwrite=True)
            if self.configuration:
                lines = [f'{name} = {value}\n' for name, value in
                         sorted(self.configuration.items())]
                write_file(self.path / 'operative_config.gin', ''.join(lines).encode(),
                           overwrite=True)
            yield

    def identity(self) -> dict[str, Any]:
        """Return what it was begun with, as `claimed` has it; {} where nothing was begun."""
        record = self.path / COMPARISON_FILE
        if not record.exists():
            return {}
        try:
            found = json.loads(record.read_text())
            if found['format'] == _FORMAT:
                return found
        except (ValueError, TypeError, KeyError):
            pass
        raise ValueError(f'{record} is not what this version of jax_prompt writes; choose a new '
                         'folder')
