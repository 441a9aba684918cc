"""Let nobody else in before a listening socket is closed, and lose nobody who is in."""

import contextlib
import ctypes
import select
import socket
import struct
import time

#: Linux's, which `socket` does not name.
_SO_ATTACH_FILTER = 26
#: A classic BPF program, each line (operation, jump if true, jump if false, operand): load the byte
#: of flags of a TCP header; where SYN is set return 0, which drops the packet, else keep it all.
_DROP_NEW = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 2**32 - 1))
#: Seconds that are waited for what was under way.
_MOST_WAIT, _SETTLING = 2.0, 0.1


def close_door(listener: socket.socket) -> None:
    """Wait until all who are connected have been accepted, while nobody else can connect.

    Closing a listening socket resets the connections that the system has completed and nobody has
    accepted yet, whose requests may have been sent. Who tries to connect meanwhile is refused once
    the socket is closed. Where the system cannot hold new ones off, those of the very last moment
    are reset.

    Args:
      listener: the socket, on which another thread accepts.
    """
    with contextlib.suppress(OSError):
        _drop_new(listener)
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    end = time.monotonic() + _MOST_WAIT
    time.sleep(_SETTLING)  # handshakes under way end
    while waiting.poll(0) and time.monotonic() < end:
        time.sleep(_SETTLING)


def _drop_new(listener: socket.socket) -> None:
    """Drop what asks for a new connection; it is sent again, and refused after the close.

    Raises:
      OSError: the system cannot do this.
    """
    code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *line) for line in _DROP_NEW))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER,
                        struct.pack('HP', len(_DROP_NEW), ctypes.addressof(code)))
