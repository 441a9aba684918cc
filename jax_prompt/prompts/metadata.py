"""What a prompt file says of its prompt: which model, vocabulary, task and layout it belongs to."""

import dataclasses
import json
import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jax_prompt import __version__
from jax_prompt.files import brief, first_line, shown
from jax_prompt.prompts.layout import Layout

#: Of a prompt of virtual tokens alone, of one with tensors that the first version cannot read, and
#: of one with a design, which those that do not know it would leave out.
FORMAT_VERSIONS = ('1', '2', '3')
#: Entries that a file need not have.
_OPTIONAL = ('design', 'dtype')
#: Characters of a name, a fingerprint or a method.
_LONGEST_TEXT = 500
_SPACES = re.compile('[\t\r\n]')


@dataclasses.dataclass(frozen=True)
class PromptMetadata:
    """What a prompt belongs to and where it comes from.

    Attributes:
        base_model: name of the frozen model.
        base_model_fingerprint: digest of its weights.
        vocabulary_fingerprint: digest of its tokenizer.
        task: what JSON can hold: name, inputs_template, labels, inputs_length, targets_length.
        layout: where the virtual tokens stand.
        method: how the prompt was parameterised while it was trained.
        step: training steps.
        metrics: the validation's numbers at that step.
        seed: the run's.
        jax_prompt_version: what wrote the file.
        design: the words around an input, as `data.design.Design` tells them; None for the task's
            own template.
        dtype: that the model computed in when the prompt was trained, of its products where these
            have one of their own; None where the file does not say.
    """

    base_model: str
    base_model_fingerprint: str
    vocabulary_fingerprint: str
    task: Mapping[str, Any]
    layout: Layout
    method: str
    step: int
    metrics: Mapping[str, float]
    seed: int
    jax_prompt_version: str = __version__
    design: Mapping[str, Any] | None = None
    dtype: str | None = None

    def __post_init__(self):
        # What is compared after loading shall be what was given: tuples become lists here.
        object.__setattr__(self, 'task', _json_copy('task', self.task))
        metrics = {name: float(value) for name, value in self.metrics.items()}
        object.__setattr__(self, 'metrics', _json_copy('metrics', metrics))
        for name in metrics:
            _check_text('the name of a metric', name)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is str or (field.name == 'dtype' and value is not None):
                _check_text(field.name, value)
            if field.type is int:
                value = operator.index(value)
                if abs(value) >= 2**63:
                    raise ValueError(f'prompt metadata {field.name} is {brief(value)}; expected a '
                                     'number of 64 bits')
                object.__setattr__(self, field.name, value)
        _check_task(self.task)
        if self.design is not None:
            object.__setattr__(self, 'design', _json_copy('design', self.design))
            _check_lines('design', _texts_in(self.design))

    def to_strings(self, version: str = FORMAT_VERSIONS[0]) -> dict[str, str]:
        """Return the metadata as safetensors keeps them: flat, text to text."""
        version = FORMAT_VERSIONS[2] if self.design is not None else version
        values = {'format_version': version} | vars(self) | {'layout': self.layout.to_dict()}
        return {name: value if isinstance(value, str) else json.dumps(value)
                for name, value in values.items() if name not in _OPTIONAL or value is not None}

    @classmethod
    def from_strings(cls, strings: Mapping[str, str]) -> 'PromptMetadata':
        """Read what `to_strings` gave.

        Raises:
            ValueError: another format version, or an entry that is missing or unreadable.
        """
        version = strings.get('format_version')
        if version not in FORMAT_VERSIONS:
            raise ValueError(f'it has format version {brief(version)} and this jax_prompt reads '
                             f'{" and ".join(map(repr, FORMAT_VERSIONS))}')
        kinds = {field.name: field.type for field in dataclasses.fields(cls)
                 if field.name not in _OPTIONAL or field.name in strings}
        missing = [name for name in kinds if name not in strings]
        if missing:
            raise ValueError(f'its metadata lack {", ".join(missing)}')
        try:
            values = {name: strings[name] if kind in (str, str | None)
                      else json.loads(strings[name]) for name, kind in kinds.items()}
            values['layout'] = Layout.from_dict(values['layout'])
            return cls(**values)
        except (ArithmeticError, AttributeError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f'its metadata are unreadable ({first_line(error)})') from error


def _check_text(name: str, value: Any) -> None:
    """Refuse what could not be shown in a line of a log, a list or a terminal."""
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or shown(value) != value:
        raise ValueError(f'prompt metadata {name} is {brief(value)}; expected text of one line, at '
                         f'most {_LONGEST_TEXT:,} characters')


def _check_task(task: Mapping[str, Any]) -> None:
    """Refuse texts of a task, its columns and labels, that hold more than lines of text."""
    _check_text('name of the task', task.get('name', ''))
    _check_lines('task', _texts_in(task))


def _texts_in(value: Any) -> Iterator[str]:
    """Yield all texts of what JSON gave, and the names of its entries."""
    if isinstance(value, str):
        yield value
    for part in value if isinstance(value, list | dict) else ():
        yield from _texts_in(part)
    for part in value.values() if isinstance(value, dict) else ():
        yield from _texts_in(part)


def _check_lines(name: str, texts: Iterable[str]) -> None:
    """Refuse texts that hold more than lines."""
    for text in texts:
        lines = _SPACES.sub(' ', text)
        if shown(lines) != lines:
            raise ValueError(f'prompt metadata {name} holds {brief(text)}; expected text without '
                             'control characters')


def _json_copy(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON gives them back; refuse what it cannot hold."""
    try:
        return json.loads(json.dumps(dict(values), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'prompt metadata {name} cannot be written as JSON ({error}); use text, finite '
            'numbers, lists and dictionaries'
        ) from error
