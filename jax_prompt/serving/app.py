"""The routes, as a FastAPI application; see `schemas` for what they take and give."""

import importlib.resources
import logging
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from jax_prompt import __version__
from jax_prompt.inference.beam import BeamSettings
from jax_prompt.inference.content_free import choose_calibration
from jax_prompt.inference.engine import UnknownPrompt
from jax_prompt.inference.rows import Row
from jax_prompt.inference.sampling import SamplingSettings
from jax_prompt.serving import schemas
from jax_prompt.serving.batcher import Busy, Stopped
from jax_prompt.serving.names import NAME_PATTERN, BadName
from jax_prompt.serving.prompt_folder import Exists, Version
from jax_prompt.serving.service import READY, Service, TooLate, Unavailable

_log = logging.getLogger(__name__)

_Name = Annotated[str, Path(pattern=NAME_PATTERN, max_length=129,
                            description='NAME, or NAME@VERSION.')]
_BEARER = HTTPBearer(auto_error=False, description='The token that the server was started with.')
_ALWAYS = (403, 503)


def create_app(service: Service) -> FastAPI:
    """Make the application of a service; `gate.Gate` goes around it."""
    app = FastAPI(
        title='jax_prompt', version=__version__, docs_url=None, redoc_url=None,
        description='One frozen T5 and many soft prompts: requests of all tasks share batches.',
        # Where other machines can ask, the gate wants a token of everyone; here it is documented.
        dependencies=[] if service.settings.is_loopback else [Depends(_BEARER)])
    _add_answers(app, service)
    _add_prompts(app, service)
    _add_changes(app, service)
    _add_states(app, service)
    _add_page(app)
    _add_errors(app)
    return app


def _problems(service: Service, *codes: int) -> dict[int | str, dict[str, Any]]:
    """Document refusals, those of the gate among them."""
    token = () if service.settings.is_loopback else (401,)
    return schemas.problems(*sorted({*codes, *_ALWAYS, *token}))


def _add_answers(app: FastAPI, service: Service) -> None:
    """Add the routes that ask the model."""
    classify_request, generate_request = schemas.request_models(service.settings)
    codes = _problems(service, 400, 404, 408, 409, 413, 422, 504)

    @app.post('/v1/classify', responses=codes, tags=['answers'], summary='Choose among labels')
    async def classify(body: classify_request) -> schemas.ClassifyAnswer:
        prompt, name = service.prompt(body.prompt)

        def make_row() -> Row:
            labels = None if body.labels is None else service.label_set(body.labels)
            options = choose_calibration(service.engine, prompt, labels or prompt.labels,
                                         body.calibrate, body.temperature)
            return service.engine.rows_of(prompt, [body.inputs], rank=True, labels=labels,
                                          options=options)[0]

        row, answer = await service.answer(make_row)
        return schemas.ClassifyAnswer(
            prompt=name, label=answer.text, scores=answer.scores,
            probabilities=answer.probabilities, truncated=row.cut)

    @app.post('/v1/generate', responses=codes, tags=['answers'], summary='Generate text')
    async def generate(body: generate_request) -> schemas.GenerateAnswer:
        prompt, name = service.prompt(body.prompt)
        most = min(prompt.task.targets_length, service.settings.max_tokens)
        decoding, options = _decoding(body)
        row, answer = await service.answer(lambda: service.engine.rows_of(
            prompt, [body.inputs], rank=False, max_tokens=body.max_tokens or most,
            decoding=decoding, options=options)[0])
        return schemas.GenerateAnswer(prompt=name, text=answer.text, truncated=row.cut)


def _decoding(body: Any) -> tuple[str, BeamSettings | SamplingSettings]:
    """Return the engine's decoding that a request to generate asks for, and its options."""
    if body.num_beams == 1:
        return 'sample', SamplingSettings(body.temperature, body.top_k, body.top_p, body.seed)
    if body.temperature > 0:
        raise ValueError(f'num_beams={body.num_beams} with temperature={body.temperature:g}: a '
                         'beam search draws nothing; leave one of them out')
    return 'beam', BeamSettings(body.length_penalty)


def _add_prompts(app: FastAPI, service: Service) -> None:
    """Add the routes that tell of prompts."""

    @app.get('/v1/prompts', responses=_problems(service), tags=['prompts'],
             summary='List the prompts in use')
    async def list_prompts() -> schemas.PromptList:
        return schemas.PromptList(model=service.engine.opened.name, prompts=[
            _describe(version, default=number == 0)
            for versions in service.folder.versions().values()
            for number, version in enumerate(versions)])

    @app.get('/v1/prompts/{name}', responses=_problems(service, 404, 422), tags=['prompts'],
             summary='Describe a prompt')
    async def describe_prompt(name: _Name) -> schemas.PromptDescription:
        version = service.folder.find(name)
        return _describe(version, service.folder.versions()[version.name][0] is version)

    @app.get('/v1/prompts/{name}/nearest', responses=_problems(service, 404, 422),
             tags=['prompts'], summary="Read a prompt by the words nearest to its rows")
    def nearest(name: _Name, count: Annotated[int, Query(ge=1, le=20)] = 5) -> schemas.NearestWords:
        version = service.folder.find(name)
        return schemas.NearestWords(prompt=version.full_name, rows=[
            [schemas.NearestWord(word=word, cosine=cosine) for word, cosine in row]
            for row in service.nearest(version, count)])


def _add_changes(app: FastAPI, service: Service) -> None:
    """Add the routes that change the folder of prompts; the gate asks for the token."""

    @app.put('/v1/prompts/{name}', status_code=201, tags=['prompts'],
             dependencies=[Depends(_BEARER)], summary='Upload a version of a prompt',
             responses={200: {'model': schemas.Uploaded, 'description': 'It was there already.'},
                        **_problems(service, 401, 408, 409, 413, 422)})
    def upload(name: _Name, response: Response, body: Annotated[bytes, Body(
            media_type='application/octet-stream', description='A prompt file.',
            )] = b'') -> schemas.Uploaded:
        version, is_new = service.folder.upload(name, body)
        response.status_code = 201 if is_new else 200
        return schemas.Uploaded(name=version.name, version=version.version)

    @app.delete('/v1/prompts/{name}', tags=['prompts'], dependencies=[Depends(_BEARER)],
                summary='Remove a version of a prompt, or all of them',
                responses=_problems(service, 401, 404, 422))
    def remove(name: _Name) -> schemas.Removed:
        return schemas.Removed(removed=service.folder.remove(name))


def _add_states(app: FastAPI, service: Service) -> None:
    """Add the routes for those who watch the server."""

    @app.get('/healthz', tags=['state'], summary='Is the process alive',
             responses=schemas.problems(403))
    async def healthz() -> schemas.State:
        return schemas.State(status='alive')

    @app.get('/readyz', tags=['state'], summary='Shall requests be sent here', responses={
        503: {'model': schemas.State, 'description': 'Starting or draining.'},
        **schemas.problems(403)})
    async def readyz(response: Response) -> schemas.State:
        response.status_code = 200 if service.state == READY else 503
        return schemas.State(status=service.state)

    @app.get('/metrics', tags=['state'], summary='Metrics for Prometheus', response_class=Response,
             responses={200: {'content': {'text/plain': {'schema': {'type': 'string'}}}},
                        **_problems(service)})
    def metrics() -> Response:
        return Response(service.metrics.text(), headers={'content-type': CONTENT_TYPE_LATEST})


def _add_page(app: FastAPI) -> None:
    """Add the page for trying prompts out."""
    folder = importlib.resources.files('jax_prompt.serving') / 'page'
    for path, name, kind in (('/', 'page.html', 'text/html'), ('/page.js', 'page.js',
                             'text/javascript'), ('/page.css', 'page.css', 'text/css')):
        content = (folder / name).read_bytes()
        app.add_api_route(path, _sender(content, f'{kind}; charset=utf-8'), methods=['GET'],
                          include_in_schema=False)


def _sender(content: bytes, kind: str) -> Callable[[], Any]:
    async def send() -> Response:
        return Response(content, headers={'content-type': kind})

    return send


def _add_errors(app: FastAPI) -> None:
    """Give every refusal the same form: {"detail": one line}."""
    for error, status in ((BadName, 422), (UnknownPrompt, 404), (Exists, 409), (ValueError, 409),
                          (Busy, 503), (Stopped, 503), (Unavailable, 503), (TooLate, 504)):
        app.add_exception_handler(error, _refusal(status))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        del request
        first = error.errors()[0]
        if first['type'] == 'json_invalid':
            return JSONResponse({'detail': 'the body is not JSON'}, 400)
        place = '.'.join(str(part) for part in first['loc'])
        return JSONResponse({'detail': f'{place}: {first["msg"]}'[:500]}, 422)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        del request
        return JSONResponse({'detail': str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        _log.error('%s %s failed', request.method, request.url.path, exc_info=error)
        return JSONResponse({'detail': 'the server failed; its log says how'}, 500)


def _refusal(status: int) -> Callable[[Request, Exception], Any]:
    async def refuse(request: Request, error: Exception) -> JSONResponse:
        del request
        headers = {'retry-after': '1'} if status == 503 else None
        lines = str(error).splitlines() or [type(error).__name__]
        return JSONResponse({'detail': lines[0]}, status, headers)

    return refuse


def _describe(version: Version, default: bool) -> schemas.PromptDescription:
    prompt, metadata = version.prompt, version.prompt.file.metadata
    words = prompt.task.label_words
    return schemas.PromptDescription(
        name=version.name, version=version.version, default=default, digest=prompt.digest,
        task=prompt.task.name, inputs_template=prompt.task.inputs_template,
        columns=list(prompt.task.columns), labels=None if words is None else list(words),
        inputs_length=prompt.task.inputs_length, targets_length=prompt.task.targets_length,
        rows=len(prompt.file.prompt_PD), layout=metadata.layout.describe(),
        method=metadata.method, step=metadata.step, metrics=dict(metadata.metrics))
