"""The routes, as a FastAPI application; see `schemas` for what they take and give."""

import dataclasses
import functools
import importlib.resources
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.routing import Match

from jax_prompt import __version__
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.inference.answering import AnswerSettings
from jax_prompt.inference.calibration import Calibration
from jax_prompt.inference.engine import UnknownPrompt
from jax_prompt.inference.rows import Row, ServedPrompt
from jax_prompt.prompts.standing import Standing
from jax_prompt.prompts.versions import NAME_PATTERN, BadName
from jax_prompt.serving import canary, schemas
from jax_prompt.serving.batching import BatchFailed, Busy, Stopped
from jax_prompt.serving.examples import read_examples
from jax_prompt.serving.prompt_folder import Exists, Version
from jax_prompt.serving.service import READY, Refused, Service

_log = logging.getLogger(__name__)

_Name = Annotated[str, Path(pattern=NAME_PATTERN, max_length=129,
                            description='NAME, NAME@VERSION or NAME@TAG.')]
_BEARER = HTTPBearer(auto_error=False, description='The token that the server was started with.')
_ALWAYS = (403, 503)


def create_app(service: Service) -> FastAPI:
    """Make the application of a service; `limits.Limits` goes around it."""
    app = FastAPI(
        title='jax_prompt', version=__version__, docs_url=None, redoc_url=None,
        description='One frozen T5 and many soft prompts: requests of all tasks share batches.',
        # Where other machines can ask, `Limits` wants a token of everyone; here it is documented.
        dependencies=[] if service.settings.is_loopback else [Depends(_BEARER)])
    _add_answers(app, service)
    _add_prompts(app, service)
    _add_changes(app, service)
    _add_states(app, service)
    _add_page(app)
    _add_errors(app)
    return app


def _problems(service: Service, *codes: int) -> dict[int | str, dict[str, Any]]:
    """Document refusals, those of `Limits` among them."""
    token = () if service.settings.is_loopback else (401,)
    return schemas.problems(*sorted({*codes, *_ALWAYS, *token}))


def _add_answers(app: FastAPI, service: Service) -> None:
    """Add the routes that ask the model."""
    classify_request, generate_request = schemas.request_models(service.settings)
    codes = _problems(service, 400, 404, 408, 409, 413, 415, 422, 504)

    @app.post('/v1/classify', responses=codes, tags=['answers'], summary='Choose among labels')
    async def classify(body: classify_request) -> schemas.ClassifyAnswer:
        prompts, name = prompts_of(service, body.prompt, body.ensemble, body.inputs)

        def make_rows() -> list[Row]:
            plain = body.temperature == 1 and not body.calibrate
            return [service.engine.rows_of(
                prompt, [body.inputs], rank=True,
                labels=None if body.labels is None else service.label_set(body.labels, prompt),
                options=None if plain else Calibration(None, body.temperature))[0]
                for prompt in prompts]

        with service.telemetry.request(prompts, name, body.inputs) as note:
            row, answer = await service.answer(make_rows, body.calibrate, body.combine)
            note(row, answer)
        return schemas.ClassifyAnswer(
            prompt=name, label=answer.text, scores=answer.scores,
            probabilities=answer.probabilities, truncated=row.cut)

    @app.post('/v1/generate', responses=codes, tags=['answers'], summary='Generate text')
    async def generate(body: generate_request) -> schemas.GenerateAnswer:
        prompts, name = prompts_of(service, body.prompt, body.ensemble, body.inputs)

        def make_rows() -> list[Row]:
            answers = AnswerSettings(
                num_beams=body.num_beams, length_penalty=body.length_penalty,
                temperature=body.temperature, top_k=body.top_k, top_p=body.top_p)
            answers.check_effects()
            decoding, options = answers.generation(body.seed)
            rows = [service.engine.rows_of(
                prompt, [body.inputs], rank=False, max_tokens=body.max_tokens,
                decoding=decoding, options=options)[0] for prompt in prompts]
            # A task's own length is what was compiled for; the limit ends the row before that.
            return [dataclasses.replace(
                row, max_tokens=min(row.max_tokens, service.settings.max_tokens)) for row in rows]

        with service.telemetry.request(prompts, name, body.inputs) as note:
            row, answer = await service.answer(make_rows)
            note(row, answer)
        return schemas.GenerateAnswer(prompt=name, text=answer.text, truncated=row.cut)


def prompts_of(service: Service, name: str | None, ensemble: Sequence[str] | None,
               inputs: str | Mapping[str, Any] | None = None,
               ) -> tuple[list[ServedPrompt], str | None]:
    """Return the prompts of a request to the model, one or an ensemble's, and what they are.

    Args:
      service: which has them.
      name: of a single prompt, see `Service.prompt`.
      ensemble: names of the members; None for a single prompt.
      inputs: of the request, by which a canary gets its share of those to a single prompt.

    Raises:
      Refused: the server has not started, both are given, or the members are not different prompts
        of one task.
      BadName, UnknownPrompt: there is none of such a name.
    """
    if ensemble is None:
        prompt, full_name = service.prompt(name, inputs)
        return [prompt], full_name
    if name is not None:
        raise Refused(409, 'both prompt and ensemble are given; leave one of them out')
    found = dict(reversed(service.prompt(one)) for one in ensemble)
    if len(found) < len(ensemble):
        raise Refused(409, f'ensemble has {len(ensemble)} members of which {len(found)} are '
                      'different; expected each once')
    tasks = [prompt.task.to_dict() for prompt in found.values()]
    if any(task != tasks[0] for task in tasks):
        raise Refused(409, 'the members of the ensemble are of different tasks; expected prompts '
                      'of one task')
    return [*found.values()], ','.join(found)


def _add_prompts(app: FastAPI, service: Service) -> None:
    """Add the routes that tell of prompts."""

    @app.get('/v1/prompts', responses=_problems(service), tags=['prompts'],
             summary='List the prompts in use', response_model=schemas.PromptList)
    def list_prompts() -> Response:  # written on this thread: FastAPI would on that of all requests
        found = schemas.PromptList(model=service.engine.opened.name, prompts=[
            _describe(version, number == 0, service.folder.standing(version.name))
            for versions in service.folder.versions().values()
            for number, version in enumerate(versions)])
        return Response(found.model_dump_json(), media_type='application/json')

    @app.get('/v1/prompts/{name}', responses=_problems(service, 404, 422), tags=['prompts'],
             summary='Describe a prompt')
    def describe_prompt(name: _Name) -> schemas.PromptDescription:
        version = service.find(name)
        return _describe(version, _is_default(service, version),
                         service.folder.standing(version.name))

    @app.get('/v1/prompts/{name}/nearest', responses=_problems(service, 404, 422),
             tags=['prompts'], summary="Read a prompt by the words nearest to its rows")
    def nearest(name: _Name, count: Annotated[int, Query(ge=1, le=20)] = 5) -> schemas.NearestWords:
        version = service.find(name)
        return schemas.NearestWords(prompt=version.full_name, rows=[
            [schemas.NearestWord(word=word, cosine=cosine) for word, cosine in row]
            for row in service.nearest(version, count)])

    @app.get('/v1/prompts/{name}/examples', responses=_problems(service, 404, 409, 422),
             tags=['prompts'], summary="Show a few inputs that whoever runs the server has chosen")
    def examples(name: _Name) -> schemas.Examples:
        version = service.find(name)
        try:
            found = read_examples(service.folder.path, version.name, version.prompt.task)
        except ValueError as error:
            raise Refused(409, str(error)) from error
        return schemas.Examples(prompt=version.full_name, examples=found)


def _add_changes(app: FastAPI, service: Service) -> None:
    """Add the routes that change the folder of prompts; `Limits` asks for the token."""
    # Where there is no token, none helps.
    token, dependencies = ((), []) if service.settings.token is None else ((401,), [
        Depends(_BEARER)])

    @app.put('/v1/prompts/{name}', status_code=201, tags=['prompts'],
             dependencies=dependencies, summary='Upload a version of a prompt',
             description='NAME@VERSION is never replaced. A bare NAME gets the next whole number, '
             'or the version whose file has this content already. The answer says whether the bare '
             'name now means it: the promoted version goes before all, where none is a file '
             'NAME.safetensors, and a higher version before a lower one.',
             responses={200: {'model': schemas.Uploaded, 'description': 'It was there already.'},
                        **_problems(service, *token, 408, 409, 413, 422)})
    def upload(name: _Name, response: Response, body: Annotated[bytes, Body(
            media_type='application/octet-stream', description='A prompt file.',
            )] = b'') -> schemas.Uploaded:
        with service.changing_folder() as folder:
            version, is_new = folder.upload(name, body)
        response.status_code = 201 if is_new else 200
        return schemas.Uploaded(name=version.name, version=version.version,
                                default=_is_default(service, version))

    @app.delete('/v1/prompts/{name}', tags=['prompts'], dependencies=dependencies,
                summary='Remove a version of a prompt, or all of them',
                description='A promoted version is removed with all the others alone.',
                responses=_problems(service, *token, 404, 409, 422))
    def remove(name: _Name) -> schemas.Removed:
        with service.changing_folder() as folder:
            return schemas.Removed(removed=folder.remove(name))


def _add_states(app: FastAPI, service: Service) -> None:
    """Add the routes for those who watch the server."""

    @app.get('/healthz', tags=['state'], summary='Is the process alive',
             response_model_exclude_none=True, responses=schemas.problems(403))
    async def healthz() -> schemas.State:
        return schemas.State(status='alive')

    @app.get('/readyz', tags=['state'], summary='Shall requests be sent here',
             response_model_exclude_none=True, responses={
        503: {'model': schemas.State, 'description': 'Starting or draining.'},
        **schemas.problems(403)})
    async def readyz(response: Response) -> schemas.State:
        response.status_code = 200 if service.state == READY else 503
        return schemas.State(status=service.state, programs_left=service.programs_left)

    @app.get('/metrics', tags=['state'], summary='Metrics for Prometheus', response_class=Response,
             responses={200: {'content': {'text/plain': {'schema': {'type': 'string'}}}},
                        **_problems(service)})
    def metrics() -> Response:
        service.metrics.set_canaries(canary.shares(service.folder))
        return Response(service.metrics.text(), headers={'content-type': CONTENT_TYPE_LATEST})


def _add_page(app: FastAPI) -> None:
    """Add the page for trying prompts out."""
    folder = importlib.resources.files('jax_prompt.serving') / 'page'
    for path, name, kind in (('/', 'page.html', 'text/html'), ('/page.css', 'page.css', 'text/css'),
                             *((f'/{one}.js', f'{one}.js', 'text/javascript')
                               for one in ('page', 'answers', 'many'))):
        page = Response((folder / name).read_bytes(), media_type=kind)
        app.add_api_route(path, functools.partial(_itself, page), methods=['GET'],
                          include_in_schema=False)


async def _itself(page: Response) -> Response:
    return page


def _add_errors(app: FastAPI) -> None:
    """Give every refusal the same form: {"detail": one line}."""
    for error, status in ((Refused, None), (BadName, 422), (UnknownPrompt, 404), (Exists, 409),
                          (BatchFailed, 500), (Busy, 503), (Stopped, 503)):
        app.add_exception_handler(error, _refusal(status))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first['type'] == 'json_invalid':
            return JSONResponse({'detail': 'the body is not JSON'}, 400)
        if first['loc'] == ('body',) and isinstance(error.body, bytes):
            kind = request.headers.get('content-type', '')[:80]
            return JSONResponse({'detail': f'the body came with content-type {kind!r}; expected '
                                 'the header content-type: application/json'}, 415)
        place = '.'.join(str(part) for part in first['loc'])
        line = ' '.join(f'{place}: {first["msg"]}'.splitlines())
        return JSONResponse({'detail': line[:500]}, 422)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        headers = error.headers
        if error.status_code == 405:  # a path may have several routes
            headers = {'Allow': ', '.join(sorted({
                method for route in app.routes if route.matches(request.scope)[0] != Match.NONE
                for method in route.methods}))}
        return JSONResponse({'detail': str(error.detail)}, error.status_code, headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        _log.error('%s %s failed', request.method, request.url.path, exc_info=error)
        return JSONResponse({'detail': 'the server failed; its log says how'}, 500)


def _refusal(status: int | None) -> Callable[[Request, Exception], Any]:
    async def refuse(request: Request, error: Exception) -> JSONResponse:
        del request
        code = status or error.status
        headers = {'retry-after': '1'} if code == 503 else None
        lines = str(error).splitlines() or [type(error).__name__]
        return JSONResponse({'detail': lines[0]}, code, headers)

    return refuse


def _is_default(service: Service, version: Version) -> bool:
    """Tell whether the bare name means a version, which may have been removed since."""
    versions = service.folder.versions().get(version.name, ())
    return bool(versions) and versions[0].version == version.version


def _describe(version: Version, default: bool, standing: Standing) -> schemas.PromptDescription:
    prompt, metadata = version.prompt, version.prompt.file.metadata
    words = prompt.task.label_words
    return schemas.PromptDescription(
        name=version.name, version=version.version, default=default,
        promoted=standing.promoted == version.version,
        tags=list(standing.tags_of(version.version)), canary_share=standing.share_of(
            version.version), digest=prompt.digest,
        task=prompt.task.name, inputs_template=prompt.task.inputs_template,
        task_template=TextTask.from_dict(metadata.task).inputs_template,
        columns=list(prompt.task.columns), labels=None if words is None else list(words),
        inputs_length=prompt.task.inputs_length, targets_length=prompt.task.targets_length,
        rows=prompt.file.prompt.num_virtual, layout=metadata.layout.describe(),
        method=metadata.method, step=metadata.step, metrics=dict(metadata.metrics))
