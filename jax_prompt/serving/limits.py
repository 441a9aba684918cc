"""ASGI middleware: who may ask, how much and for how long; and what every answer gets.

A body is read whole here, within its limits, so that no slow or endless sender holds a route.
"""

import asyncio
import contextlib
import hmac
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import JSONResponse

from jax_prompt.serving.service import DRAINING, Refused, Service

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

#: Reachable without a token wherever the server listens: nothing of value is in them.
OPEN_PATHS = ('/', '/page.js', '/answers.js', '/many.js', '/page.css', '/healthz', '/readyz')
#: Changing prompts needs the token, even on this machine alone.
CHANGING = ('PUT', 'DELETE')
_PROMPTS = '/v1/prompts/'
#: Bytes of a body that an open path may be sent; none of them reads it.
_MAX_OPEN_BODY = 4096

_HEADERS = [
    (b'content-security-policy',
     b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
     b"img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b'x-content-type-options', b'nosniff'),
    (b'referrer-policy', b'no-referrer'),
    (b'cache-control', b'no-store'),
]
_LOOPBACK_NAMES = ('localhost', '127.0.0.1', '[::1]')


class Limits:
    """An ASGI application around another one."""

    def __init__(self, app: App, service: Service):
        self._app, self._service = app, service
        self._settings = service.settings
        self._is_loopback = service.settings.is_loopback
        host = self._settings.host.lower()
        self._names = (*_LOOPBACK_NAMES, f'[{host}]' if ':' in host else host)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope['type'] != 'http':
            return
        began, status, last_message, unread = time.monotonic(), 'dropped', None, True

        async def read() -> Message:
            nonlocal unread
            message = await receive()
            unread = message.get('more_body', False)
            return message

        async def answer(message: Message) -> None:
            nonlocal status, last_message
            if message['type'] == 'http.response.start':
                status = message['status']
                last = [(b'connection', b'close')] if self._service.state == DRAINING else []
                message = {**message, 'headers': [*message.get('headers', []), *_HEADERS, *last]}
            elif not message.get('more_body'):
                last_message = message
                return
            await send(message)

        try:
            self._check_sender(scope)
            body = await self._read_body(scope, read)
            await self._pass_on(scope, body, receive, answer)
        except Refused as refused:
            await _refuse(refused, answer)
            # Who is still sending would lose the answer if the connection were cut now; who waits
            # for a word to begin is not given it.
            if unread and refused.status != 408 and b'expect' not in dict(scope['headers']):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(_pass_over(receive), self._settings.read_limit)
        except ConnectionError:
            pass  # nobody is there to be answered
        finally:
            route = getattr(scope.get('route'), 'path', 'none')
            self._service.metrics.note_request(route, status, time.monotonic() - began)
            # At the very end: uvicorn limits how many of these calls there are, and whoever has an
            # answer may send the next request at once.
            if last_message is not None:
                await send(last_message)

    def _check_sender(self, scope: dict[str, Any]) -> None:
        """Refuse who may not ask this."""
        headers = dict(scope['headers'])
        if self._is_loopback:
            # A page of another site could reach us under a name of its own.
            host = headers.get(b'host', b'').decode('latin-1').lower()
            name = host if host.endswith(']') else host.rpartition(':')[0] or host
            if name not in self._names:
                raise Refused(403, 'this server answers to localhost alone')
        method, path = scope['method'], scope['path']
        if not _changes_prompt(method, path) and (self._is_loopback or path in OPEN_PATHS):
            return
        token = self._settings.token
        if token is None:
            raise Refused(403, 'this server was started without a token, so its prompts cannot be '
                               'changed')
        kind, _, value = headers.get(b'authorization', b'').partition(b' ')
        if kind.lower() != b'bearer' or not hmac.compare_digest(value.strip(), token.encode()):
            raise Refused(401, 'the bearer token is missing or wrong')

    async def _read_body(self, scope: dict[str, Any], receive: Receive) -> bytes:
        """Read all of the body, within its limits of size and time."""
        settings, method, path = self._settings, scope['method'], scope['path']
        most = settings.max_body
        if path in OPEN_PATHS:
            most = min(_MAX_OPEN_BODY, most)
        elif method == 'PUT' and _changes_prompt(method, path):
            most = settings.max_upload
        length = dict(scope['headers']).get(b'content-length', b'')
        if length.isdigit() and int(length) > most:
            raise Refused(413, f'the body has {int(length)} bytes; expected at most {most}')
        try:
            return await asyncio.wait_for(_read(receive, most), settings.read_limit)
        except TimeoutError:
            raise Refused(408, 'the request did not arrive within '
                               f'{settings.read_limit:g} seconds') from None

    async def _pass_on(self, scope: dict[str, Any], body: bytes, receive: Receive,
                       answer: Send) -> None:
        """Let a route answer; who hangs up is not worked for."""
        messages = [{'type': 'http.request', 'body': body, 'more_body': False}]

        async def replay() -> Message:
            return messages.pop() if messages else await asyncio.get_running_loop().create_future()

        work = asyncio.ensure_future(self._app(scope, replay, answer))
        gone = asyncio.ensure_future(receive())  # all that can still come
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if scope['method'] not in CHANGING:
                work.cancel()  # which does nothing to work that is done
            await asyncio.wait({work})
        finally:
            gone.cancel()
            work.cancel()
        if not work.cancelled():
            work.result()


def _changes_prompt(method: str, path: str) -> bool:
    name = path.removeprefix(_PROMPTS)
    return method in CHANGING and name != path and '/' not in name  # no route has one in its name


async def _refuse(refused: Refused, answer: Send) -> None:
    """Answer for the routes, all but the end of it."""
    headers = {'connection': 'close'}
    if refused.status == 401:
        headers['www-authenticate'] = 'Bearer'
    found = JSONResponse({'detail': refused.detail}, refused.status, headers)
    await answer({'type': 'http.response.start', 'status': found.status_code,
                  'headers': found.raw_headers})
    await answer({'type': 'http.response.body', 'body': found.body, 'more_body': True})
    await answer({'type': 'http.response.body', 'body': b''})


async def _pass_over(receive: Receive) -> None:
    """Take the rest of a body, and keep nothing of it."""
    while (await receive()).get('more_body'):
        pass


async def _read(receive: Receive, most: int) -> bytes:
    """Return a body; refuse one that is too large as soon as that is seen."""
    body = bytearray()
    while True:
        message = await receive()
        if message['type'] == 'http.disconnect':
            raise ConnectionError('the sender hung up')
        body += message.get('body', b'')
        if len(body) > most:
            raise Refused(413, f'the body has more than {most} bytes; expected at most so many')
        if not message.get('more_body'):
            return bytes(body)
