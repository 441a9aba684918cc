"""What requests and answers look like; FastAPI makes the OpenAPI document of it."""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

from jax_prompt.prompts.versions import NAME_PATTERN
from jax_prompt.serving.settings import ServerSettings

PromptName = Annotated[str, Field(
    pattern=NAME_PATTERN, max_length=129, examples=['sst2', 'sst2@2'],
    description='A prompt, or one of its versions as NAME@VERSION.')]


def _whole(value: Any) -> Any:
    """Take 3.0 for 3, as JSON Schema does."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _whole_number(least: int, most: int) -> Any:
    """Return the type of a whole number within bounds."""
    return Annotated[int, Field(ge=least, le=most), BeforeValidator(_whole)]


#: A request's inputs may have so many columns.
_MOST_COLUMNS = 64


def _inputs_type(most: int) -> Any:
    """Return the type of a request's inputs, of at most so many characters altogether."""
    text = {'type': 'string', 'maxLength': most}
    column = {'anyOf': [text, {'type': 'number'}, {'type': 'boolean'}]}
    return Annotated[Any, BeforeValidator(_inputs_reader(most)), WithJsonSchema({'anyOf': [
        text, {'type': 'object', 'maxProperties': _MOST_COLUMNS, 'additionalProperties': column}]})]


def _inputs_reader(most: int) -> Callable[[Any], Any]:
    """Return what refuses inputs that a task cannot render; see `_inputs_type`.

    A union of types would be refused with a line on its first member, whichever was meant.
    """

    def read(value: Any) -> Any:
        columns = value if isinstance(value, dict) else {'': value}
        if len(columns) > _MOST_COLUMNS:
            raise _wrong(f'{len(columns)} columns; expected at most {_MOST_COLUMNS}')
        for column, content in columns.items():
            problem = _problem(content)
            if problem and isinstance(value, dict):
                raise ValidationError.from_exception_data('inputs', [InitErrorDetails(
                    type=_wrong(f'{problem}; expected a text, a number, true or false'),
                    loc=(column,), input=content)])
            if problem or not isinstance(value, dict | str):
                raise _wrong(f'{problem or "it is no text"}; expected a text, or an object with '
                             "the columns of the task's template")
        length = sum(len(str(content)) for content in columns.values())
        if length > most:
            raise _wrong(f'{length} characters in all; expected at most {most} characters')
        return value

    return read


def _problem(content: Any) -> str | None:
    """Say what keeps a text or a column from being shown in a template."""
    if isinstance(content, str):
        # What JSON can write and UTF-8 cannot.
        broken = any('\ud800' <= character <= '\udfff' for character in content)
        return 'it holds half a surrogate pair' if broken else None
    if not isinstance(content, int | float):
        return 'it is ' + {type(None): 'null', list: 'a list', dict: 'an object'}[type(content)]
    finite = isinstance(content, int) or math.isfinite(content)
    return None if finite else f'it is {content}'


def _wrong(line: str) -> PydanticCustomError:
    # Braces would be taken for fields of a template, were the line not one itself.
    return PydanticCustomError('inputs', '{line}', {'line': line})


def request_models(settings: ServerSettings) -> tuple[type[BaseModel], type[BaseModel]]:
    """Return the models of requests to classify and to generate, with a server's limits in them."""
    beams = sorted({1, settings.num_beams})

    class Request(BaseModel):
        """What both have; unknown keys are refused, since they are misspelt ones."""

        model_config = ConfigDict(extra='forbid', strict=True)

        prompt: PromptName | None = Field(
            None, description='The prompt to use; null for the plain model.')
        ensemble: list[PromptName] | None = Field(
            None, min_length=2, max_length=max(2, settings.batch_size),
            json_schema_extra={'uniqueItems': True}, description='Different prompts of one task '
            'that answer together, in place of `prompt`.')
        inputs: _inputs_type(settings.max_text) = Field(
            description="The text, or an object with the columns of the task's template; at most "
            f'{settings.max_text} characters, all columns together.',
            examples=['a film to remember'])

    class ClassifyRequest(Request):
        """Choose among labels."""

        labels: list[Annotated[str, Field(min_length=1, max_length=200)]] | None = Field(
            None, min_length=2, max_length=settings.max_labels, description="Different labels, in "
            "place of the task's own; the plain model has none.",
            json_schema_extra={'uniqueItems': True})
        combine: Literal['vote', 'mean'] = Field(
            'vote', description='How an ensemble decides: by the majority, or by the mean of the '
            'probabilities.')
        calibrate: bool = Field(
            False, description='Take away what the labels score without an input.')
        temperature: float = Field(
            1.0, ge=0.01, le=100, allow_inf_nan=False,
            description='Divides the scores; above 1 for less sure probabilities.')

    class GenerateRequest(Request):
        """Generate text."""

        max_tokens: _whole_number(1, settings.max_tokens) | None = Field(
            None, description="At most so many tokens; otherwise the task's targets_length, "
            'and no more than may be asked for.')
        temperature: float = Field(0.0, ge=0, le=100, allow_inf_nan=False,
                                   description='0 for the likeliest token each time.')
        top_k: _whole_number(0, 2**31 - 1) = Field(
            0, description='Draw from the k likeliest; 0 for all. Needs a temperature above 0.')
        top_p: float = Field(1.0, ge=0, le=1, allow_inf_nan=False,
                             description='Draw from the likeliest that sum to p. Needs a '
                             'temperature above 0.')
        seed: _whole_number(0, 2**32 - 1) = Field(
            0, description='The same seed and input give the same text.')
        num_beams: Annotated[Literal[*beams], BeforeValidator(_whole)] = Field(
            1, description='Of a beam search, which draws nothing; only what the server was '
            'started for.')
        length_penalty: float = Field(
            1.0, ge=-10, le=10, allow_inf_nan=False,
            description='Alpha of the beam search; above 0 favours long texts. Needs num_beams '
            'above 1.')

    return ClassifyRequest, GenerateRequest


_ANSWERED = ('NAME@VERSION that answered, or several with commas between them; null for the plain '
             'model.')


class ClassifyAnswer(BaseModel):
    """The likeliest label and how likely each is."""

    prompt: str | None = Field(description=_ANSWERED)
    label: str
    scores: dict[str, float] = Field(description='Log-probability of each label.')
    probabilities: dict[str, float] = Field(
        description='Probability among the labels, calibrated where that was asked for.')
    truncated: bool = Field(description='Whether the text was cut to the length of the task.')


class GenerateAnswer(BaseModel):
    """The generated text."""

    prompt: str | None = Field(description=_ANSWERED)
    text: str
    truncated: bool = Field(description='Whether the text was cut to the length of the task.')


class PromptDescription(BaseModel):
    """A version of a prompt."""

    name: str
    version: str
    default: bool = Field(description='Whether the bare name means this version.')
    promoted: bool = Field(description='Whether it was promoted last. It is the default once it is '
                           'in use; where none was promoted, another is.')
    tags: list[str] = Field(description='NAME@TAG means this version too.')
    canary_share: float = Field(description='Share of the requests with the bare name that it gets '
                                'as a canary; 0 where it is none.')
    digest: str = Field(description='Tells its content from any other.')
    task: str
    inputs_template: str
    task_template: str = Field(description="The task's own, where a design words inputs.")
    columns: list[str]
    labels: list[str] | None = Field(description='null where the task is free text.')
    inputs_length: int
    targets_length: int
    rows: int = Field(description='Virtual tokens.')
    layout: str
    method: str
    step: int
    metrics: dict[str, float]


class PromptList(BaseModel):
    """All prompts in use, and the model that they are for."""

    model: str
    prompts: list[PromptDescription]


class NearestWord(BaseModel):
    """A vocabulary entry near a row of a prompt."""

    word: str
    cosine: float


class NearestWords(BaseModel):
    """For each row of a prompt the nearest entries of the vocabulary."""

    prompt: str
    rows: list[list[NearestWord]]


class Examples(BaseModel):
    """Inputs to try a prompt with."""

    prompt: str
    examples: list[dict[str, str | float | bool]] = Field(
        description="Columns of the task's template, from the file NAME.examples.csv (or .tsv, "
        '.json, .jsonl) in the folder of prompts; at most 8.')


class Uploaded(BaseModel):
    """What an upload was taken as."""

    name: str
    version: str
    default: bool = Field(description='Whether the bare name means this version. If not, the '
                          'promoted version, the file NAME.safetensors or a higher one goes first.')


class Removed(BaseModel):
    """What is no longer there."""

    removed: list[str]


class State(BaseModel):
    """How the server is.

    While it starts and after, `programs_left` are still to be compiled; until then some requests
    are padded to larger programs, and some wait for theirs.
    """

    status: str
    programs_left: int | None = None


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Document refusals for FastAPI's `responses`."""
    return {code: {'model': Problem, 'description': _REASONS[code]} for code in codes}


_REASONS = {
    400: 'The body cannot be read.',
    401: 'The bearer token is missing or wrong.',
    403: 'This server has no token, so its prompts cannot be changed.',
    404: 'There is no such prompt.',
    408: 'The request did not arrive in time.',
    409: 'The request does not fit the prompt or itself, or another one is in its place.',
    413: 'The body is too large.',
    415: 'The body was not sent as application/json.',
    422: 'The request is not as described here.',
    503: 'The server is starting, full or shutting down; try again.',
    504: 'No answer in time.',
}
