"""Serve until told to stop: uvicorn on a thread, signals on the main one."""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from jax_prompt.inference.batching import Shapes
from jax_prompt.models.open import OpenedModel
from jax_prompt.serving.app import create_app
from jax_prompt.serving.limits import Limits
from jax_prompt.serving.service import Service
from jax_prompt.serving.settings import ServerSettings

_log = logging.getLogger(__name__)

_MAX_HEADER_BYTES = 16 * 1024
#: Who connects while the server starts waits among so many, and is answered by /readyz.
_BACKLOG = 512
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(opened: OpenedModel, prompts: str | os.PathLike, settings: ServerSettings | None = None,
          shapes: Shapes | None = None,
          announce: Callable[[str], None] = lambda address: None) -> None:
    """Answer requests until SIGTERM or SIGINT; then answer those that were accepted, and return.

    For `settings.drain` seconds after the signal `/readyz` says 503, and every answer ends its
    connection, so that whoever sends requests turns elsewhere; then nobody is let in.

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
    server = uvicorn.Server(uvicorn.Config(
        Limits(create_app(service), service), http='h11', ws='none', lifespan='off',
        loop='asyncio', log_config=None, access_log=False, server_header=False, backlog=_BACKLOG,
        # It counts the connection of the request that asks, too.
        limit_concurrency=settings.max_connections + 1,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        timeout_keep_alive=max(5, int(settings.read_limit)),
        timeout_graceful_shutdown=int(settings.read_limit + settings.time_limit) + 1))
    logging.getLogger('uvicorn.error').setLevel(logging.CRITICAL)  # every malformed request
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
        listener.listen(_BACKLOG)
    except OSError as error:
        raise OSError(f'cannot listen on {host}:{port}: {error.strerror or error}; choose another '
                      'host or port') from error
    return listener


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
