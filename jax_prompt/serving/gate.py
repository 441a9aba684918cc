"""What every request passes before a route sees it: token, size, time; and what every answer gets.

A body is read whole here, within its limits, so that no slow or endless sender holds a route.
"""

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from jax_prompt.serving.service import DRAINING, Service

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

#: Reachable without a token wherever the server listens: nothing of value is in them.
OPEN_PATHS = ('/', '/page.js', '/page.css', '/healthz', '/readyz')
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


class Refused(Exception):
    """A request that no route shall see."""

    def __init__(self, status: int, detail: str):
        super().__init__(detail)
        self.status, self.detail = status, detail


class Gate:
    """An ASGI application around another one."""

    def __init__(self, app: App, service: Service):
        self._app, self._service = app, service
        self._settings = service.settings
        host = self._settings.host.lower()
        self._names = (*_LOOPBACK_NAMES, f'[{host}]' if ':' in host else host)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope['type'] != 'http':
            return
        began, answer = time.monotonic(), _Answer(send, self._is_draining)
        try:
            try:
                self._check_sender(scope)
                body = await self._read_body(scope, receive)
            except Refused as refused:
                await self._refuse(refused, scope, receive, answer)
            except ConnectionError:
                return
            else:
                await self._pass_on(scope, body, receive, answer)
        finally:
            route = getattr(scope.get('route'), 'path', 'none')
            metrics = self._service.metrics
            metrics.requests.labels(route, answer.status or 'dropped').inc()
            metrics.seconds.labels(route).observe(time.monotonic() - began)

    def _is_draining(self) -> bool:
        return self._service.state == DRAINING

    def _check_sender(self, scope: dict[str, Any]) -> None:
        """Refuse who may not ask this."""
        headers = dict(scope['headers'])
        if self._settings.is_loopback:
            # A page of another site could reach us under a name of its own.
            host = headers.get(b'host', b'').decode('latin-1').lower()
            name = host if host.endswith(']') else host.rpartition(':')[0] or host
            if name not in self._names:
                raise Refused(403, 'this server answers to localhost alone')
        if not self._needs_token(scope['method'], scope['path']):
            return
        token = self._settings.token
        if token is None:
            raise Refused(403, 'this server was started without a token, so its prompts cannot be '
                               'changed')
        given = headers.get(b'authorization', b'')
        kind, _, value = given.partition(b' ')
        if kind.lower() != b'bearer' or not hmac.compare_digest(value.strip(), token.encode()):
            raise Refused(401, 'the bearer token is missing or wrong')

    def _needs_token(self, method: str, path: str) -> bool:
        if _changes_prompt(method, path):
            return True
        return not self._settings.is_loopback and path not in OPEN_PATHS

    def _largest_body(self, method: str, path: str) -> int:
        if path in OPEN_PATHS:
            return min(_MAX_OPEN_BODY, self._settings.max_body)
        is_upload = method == 'PUT' and _changes_prompt(method, path)
        return self._settings.max_upload if is_upload else self._settings.max_body

    async def _read_body(self, scope: dict[str, Any], receive: Receive) -> bytes:
        """Read all of the body, within its limits of size and time."""
        most = self._largest_body(scope['method'], scope['path'])
        length = dict(scope['headers']).get(b'content-length', b'')
        if length.isdigit() and int(length) > most:
            raise Refused(413, f'the body has {int(length)} bytes; expected at most {most}')
        try:
            return await asyncio.wait_for(_read(receive, most), self._settings.read_limit)
        except TimeoutError:
            raise Refused(408, 'the request did not arrive within '
                               f'{self._settings.read_limit:g} seconds') from None

    async def _refuse(self, refused: Refused, scope: dict[str, Any], receive: Receive,
                      answer: '_Answer') -> None:
        """Answer for the routes, and end the connection, whose body is not read."""
        status, headers, body = refusal(refused.status, refused.detail)
        # Who is still sending would not see an answer if the connection were cut right away.
        if refused.status != 408 and b'expect' not in dict(scope['headers']):
            await _discard(receive, 2 * self._settings.max_body)
        await answer.send({'type': 'http.response.start', 'status': status, 'headers': headers})
        await answer.send({'type': 'http.response.body', 'body': body})

    async def _pass_on(self, scope: dict[str, Any], body: bytes, receive: Receive,
                       answer: '_Answer') -> None:
        """Let a route answer; who hangs up is not worked for."""
        messages = [{'type': 'http.request', 'body': body, 'more_body': False}]

        async def replay() -> Message:
            return messages.pop() if messages else await asyncio.get_running_loop().create_future()

        work = asyncio.ensure_future(self._app(scope, replay, answer.send))
        gone = asyncio.ensure_future(receive())  # all that can still come
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not answer.ended and scope['method'] not in CHANGING:
                work.cancel()
            await work
        except asyncio.CancelledError:
            if not work.cancelled():
                work.cancel()
                raise
        finally:
            gone.cancel()


def refusal(status: int, detail: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return status, headers and body of a refusal after which the connection ends.

    Args:
      status: of HTTP.
      detail: one line for whoever asked.
    """
    body = json.dumps({'detail': detail}).encode()
    headers = [(b'content-type', b'application/json'), (b'connection', b'close'),
               (b'content-length', str(len(body)).encode())]
    if status == 401:
        headers.append((b'www-authenticate', b'Bearer'))
    if status == 503:
        headers.append((b'retry-after', b'1'))
    return status, headers, body


def _changes_prompt(method: str, path: str) -> bool:
    name = path.removeprefix(_PROMPTS)
    return method in CHANGING and name != path and '/' not in name  # no route has one in its name


class _Answer:
    """Send an answer with the headers that all have, and remember how it went."""

    def __init__(self, send: Send, is_draining: Callable[[], bool]):
        self._send, self._is_draining = send, is_draining
        self.status: int | None = None
        self.ended = False

    async def send(self, message: Message) -> None:
        """Pass a message on."""
        if message['type'] == 'http.response.start':
            self.status = message['status']
            headers = [*message.get('headers', []), *_HEADERS]
            if self._is_draining():
                headers.append((b'connection', b'close'))
            message = {**message, 'headers': headers}
        elif message['type'] == 'http.response.body' and not message.get('more_body'):
            self.ended = True
        await self._send(message)


async def _read(receive: Receive, most: int) -> bytes:
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


async def _discard(receive: Receive, most: int) -> None:
    """Take in what is still being sent, some of it."""

    async def take() -> None:
        left = most
        while left > 0:
            message = await receive()
            if message['type'] == 'http.disconnect' or not message.get('more_body'):
                return
            left -= len(message.get('body', b''))

    try:
        await asyncio.wait_for(take(), 1.0)
    except TimeoutError:
        pass
