"""HTTP connections: uvicorn's, with bounds that it lacks and refusals in the form of all others."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from jax_prompt.serving.gate import Receive, Send, refusal

#: Bytes that may be sent behind a request before it is answered (pipelining).
_MOST_BEHIND = 64 * 1024
#: Seconds, once the server ends, in which a connection without a request may still bring one.
LAST_CHANCE = 1.0


class Connection(H11Protocol):
    """One connection.

    Of uvicorn's `limit_concurrency` it makes a limit of connections that does not touch those that
    were there before.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._most_connections, self.limit_concurrency = self.limit_concurrency, None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Take up a connection; one too many is told so, whatever it asks."""
        super().connection_made(transport)
        if self._most_connections is not None and len(self.connections) > self._most_connections:
            self.app = _refuse

    def data_received(self, data: bytes) -> None:
        """Take in bytes, but not without end while a request is being answered.

        An application that waits to hear whether the sender hangs up makes uvicorn read on, and
        what it reads lies in memory until the requests before it are answered.
        """
        is_behind = self.conn.their_state is h11.DONE
        if is_behind and len(self.conn.trailing_data[0]) + len(data) > _MOST_BEHIND:
            super().shutdown()  # once the request is answered
        else:
            super().data_received(data)

    def shutdown(self) -> None:
        """End the connection after its request.

        Where there is none it may be under way, or lie unread: to close right away would reset it.
        """
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LAST_CHANCE, self._shut_down_late)
        else:
            super().shutdown()

    def _shut_down_late(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            status, headers, body = refusal(400, 'this is no valid HTTP/1.1 request')
            head = h11.Response(status_code=status, headers=headers, reason=b'Bad Request')
            self.transport.write(b''.join(map(
                self.conn.send, (head, h11.Data(data=body), h11.EndOfMessage()))))
        self.transport.close()


async def _refuse(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer where there are too many connections."""
    del scope, receive
    status, headers, body = refusal(503, 'there are too many connections; try again later')
    await send({'type': 'http.response.start', 'status': status, 'headers': headers})
    await send({'type': 'http.response.body', 'body': body})
