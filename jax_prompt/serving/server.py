"""Serve until told to stop: uvicorn on a thread, signals on the main one."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from jax_prompt.inference.rows import OpenedModel
from jax_prompt.inference.shapes import Shapes
from jax_prompt.serving.app import create_app
from jax_prompt.serving.connection import LAST_CHANCE, Connection
from jax_prompt.serving.door import close_door
from jax_prompt.serving.gate import Gate
from jax_prompt.serving.service import Service
from jax_prompt.serving.settings import ServerSettings

_log = logging.getLogger(__name__)

_MAX_HEADER_BYTES = 16 * 1024
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(opened: OpenedModel, prompts: str | os.PathLike, settings: ServerSettings | None = None,
          shapes: Shapes | None = None,
          announce: Callable[[str], None] = lambda address: None) -> None:
    """Answer requests until SIGTERM or SIGINT; then answer those that were accepted, and return.

    Args:
      opened: the frozen model.
      prompts: the folder of prompt files, which is watched.
      settings: where to listen, and limits.
      shapes: of batches.
      announce: is told the address once it can be connected to; `/readyz` says when it answers.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: the model cannot do what the settings ask for.
      OSError: the address cannot be listened on.
    """
    settings = settings or ServerSettings()
    service = Service(opened, prompts, settings, shapes)
    listener = listen(settings.host, settings.port)
    stop = threading.Event()
    server = _make_server(service)
    with _signals_set(stop), service:
        thread = threading.Thread(target=server.run, kwargs={'sockets': [listener]}, name='http',
                                  daemon=True)
        thread.start()
        announce(_address(listener))
        while thread.is_alive() and not stop.wait(0.5):
            pass
        _log.info('draining: %d requests under way', service.batcher.unanswered)
        service.drain()
        if thread.is_alive():
            time.sleep(settings.drain)
            close_door(listener)
        server.should_exit = True
        thread.join()
    _log.info('stopped')


def listen(host: str, port: int) -> socket.socket:
    """Bind an address, before a prompt is read and compiled for in vain.

    Args:
      host: a name or an address, of IPv4 or IPv6.
      port: 0 for a free one.

    Returns:
      A socket that others can connect to.

    Raises:
      OSError: it cannot be had; one line with the address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Who connects while the server starts is answered by /readyz, not refused.
        listener.listen(512)
    except OSError as error:
        raise OSError(f'cannot listen on {host}:{port}: {error.strerror or error}; choose another '
                      'host or port') from error
    return listener


def _make_server(service: Service) -> uvicorn.Server:
    settings = service.settings
    idle_since: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    async def close_idle() -> None:
        _close_idle(server.server_state.connections, idle_since, settings.read_limit)

    server = uvicorn.Server(uvicorn.Config(
        Gate(create_app(service), service), http=Connection, ws='none', lifespan='off',
        loop='asyncio', log_config=None, access_log=False, server_header=False, backlog=512,
        limit_concurrency=settings.max_connections, h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        timeout_keep_alive=max(5, int(settings.read_limit)), callback_notify=close_idle,
        timeout_notify=1, timeout_graceful_shutdown=int(
            LAST_CHANCE + settings.read_limit + settings.time_limit) + 1))
    logging.getLogger('uvicorn.error').setLevel(logging.CRITICAL)  # every malformed request
    return server


def _close_idle(connections: set, idle_since: weakref.WeakKeyDictionary, limit: float) -> None:
    """Close connections whose next request does not arrive, or whose answer is not taken.

    Uvicorn waits for both forever.
    """
    now = asyncio.get_running_loop().time()
    for connection in list(connections):
        cycle = connection.cycle  # the request in work, or the last one that was answered
        is_stuck = connection.flow.write_paused
        if cycle is not None and not cycle.response_complete and not is_stuck:
            idle_since.pop(connection, None)
            continue
        seen, since = idle_since.setdefault(connection, (cycle, now))
        if seen is not cycle:
            idle_since[connection] = cycle, now
        elif now - since > limit:
            # To close is to wait until all is taken.
            (connection.transport.abort if is_stuck else connection.transport.close)()


@contextlib.contextmanager
def _signals_set(event: threading.Event) -> Iterator[None]:
    """Let signals set an event instead of ending the process; a second ctrl-C ends it."""

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f'http://{f"[{host}]" if ":" in host else host}:{port}'
