"""From sessions to sockets: who has something to say is put on a list, and one pass over the list says it all.

A frame for a thousand clients is a thousand writes. A task for each, woken by an event, would cost several times what
the write costs; so a session that is woken only puts its outlet on the list, and the pass asks it for what may go. A
pass writes while the socket's buffer is low, a few messages each, so that nobody holds up the others. What a client has
not read waits as a place in a ring and not as bytes; when the buffer has drained, the outlet is put on the list again.

Frames of the WebSocket protocol are made here by hand (RFC 6455 section 5.2): ours are whole messages, never masked,
never compressed, and each is one write, so they cannot mix with the library's own answers to pings.
"""

import asyncio
import socket
import time
from typing import Final

from websockets.asyncio.server import ServerConnection
from websockets.protocol import State

from ws_gateway import metrics
from ws_gateway.channel import Instant
from ws_gateway.protocol import Session
from ws_gateway.subscription import Parts

WRITE_BYTES_MAX: Final = 256 << 10
"""Bytes in the library's buffer above which nothing is written. Several messages fit, so a healthy client is never
waited for; more would only be older when it arrives. See subscription.BACKLOG_BYTES_MAX for the sum."""

UNSENT_BYTES_MAX: Final = 128 << 10
"""Bytes the kernel may hold that it has not put on the wire yet (TCP_NOTSENT_LOWAT). Without it, megabytes of old rows
wait where conflation cannot reach them."""

TURN_MESSAGES: Final = 8
"""Messages that one outlet writes before the others have their turn."""

_TEXT, _BINARY = b"\x81", b"\x82"


def clock() -> Instant:
    """This moment."""
    return Instant(time.monotonic_ns(), time.time_ns())


def frame_of(first: bytes, parts: tuple[bytes, ...]) -> bytes:
    """A whole message as one WebSocket frame of a server.

    Args:
        first: what kind of message, and that it is whole.
        parts: its bytes, one after another.
    """
    length = sum(map(len, parts))
    if length < 126:
        head = length.to_bytes(1, "big")
    elif length < 65_536:
        head = b"\x7e" + length.to_bytes(2, "big")
    else:
        head = b"\x7f" + length.to_bytes(8, "big")
    return b"".join((first, head, *parts))


class Connection(ServerConnection):
    """The library's connection, which tells its outlet when the buffer has drained."""

    outlet: "Outlet | None" = None

    def resume_writing(self) -> None:
        """The buffer is low again."""
        super().resume_writing()
        if self.outlet is not None:
            self.outlet.set()


class Outlets:
    """The list of outlets that may have something to say, and the pass over it."""

    def __init__(self) -> None:
        self._waiting: list[Outlet] = []
        self._due: asyncio.Handle | None = None
        self.messages = 0
        self.bytes = 0
        self._data, self._control = metrics.MESSAGES.labels("data"), metrics.MESSAGES.labels("control")

    def add(self, outlet: "Outlet") -> None:
        """Put an outlet on the list."""
        self._waiting.append(outlet)
        if self._due is None:
            self._due = asyncio.get_running_loop().call_soon(self._pass)

    def _pass(self) -> None:
        waiting, self._waiting, self._due = self._waiting, [], None
        now = clock()
        data = control = sent = 0
        for outlet in waiting:
            outlet.listed = False
            data_of, control_of, sent_of = outlet.flush(now)
            data, control, sent = data + data_of, control + control_of, sent + sent_of
        self._data.inc(data)
        self._control.inc(control)
        metrics.SENT_BYTES.inc(sent)


class Outlet:
    """Where one session's messages leave.

    Attributes:
        listed: whether it is on the list.
        full_since_ns: since when the socket's buffer is above its limit; 0 while it is not.
    """

    def __init__(self, connection: ServerConnection, outlets: Outlets) -> None:
        self.listed = False
        self.full_since_ns = 0
        self._connection, self._outlets = connection, outlets
        self._session: Session | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None
        if isinstance(connection, Connection):
            connection.outlet = self
        _keep_kernel_queue_short(connection)

    def open(self, session: Session) -> None:
        """Begin to say what a session has to say."""
        self._session = session
        self.set()

    def set(self) -> None:
        """There may be something to say."""
        if not self.listed and self._session is not None:
            self.listed = True
            self._outlets.add(self)

    def close(self) -> None:
        """The connection is gone."""
        self._session = None
        if self._timer is not None:
            self._timer.cancel()

    def flush(self, now: Instant) -> tuple[int, int, int]:
        """Write what may go now.

        Returns:
            Data messages, control messages, bytes.
        """
        session, transport = self._session, self._connection.transport
        data = control = sent = 0
        if session is None or self._connection.protocol.state is not State.OPEN or self._closing is not None:
            return 0, 0, 0
        for _ in range(TURN_MESSAGES):
            if transport.get_write_buffer_size() > WRITE_BYTES_MAX:
                if not self.full_since_ns:
                    self.full_since_ns = now.mono_ns
                    session.rest()
                return data, control, sent
            self.full_since_ns = 0
            message = session.next_parts(now)
            if message is None:
                self._wait(session)
                return data, control, sent
            frame = _encoded(message)
            transport.write(frame)
            sent += len(frame)
            control, data = (control + 1, data) if isinstance(message, str) else (control, data + 1)
        self.set()
        return data, control, sent

    def _wait(self, session: Session) -> None:
        """Nothing may go now: close if that is all, or come back when a rate limit or a clock lets something out."""
        closing = session.closing
        if closing is not None:
            metrics.CLOSED.labels(str(closing.code)).inc()
            ending = self._connection.close(closing.code, closing.reason[:120])
            self._closing = asyncio.get_running_loop().create_task(ending)
            return
        due_ns = session.next_due_ns()
        if due_ns:
            if self._timer is not None:
                self._timer.cancel()
            delay_s = max(0.0, (due_ns - time.monotonic_ns()) / 1e9)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.set)


def _encoded(message: str | Parts) -> bytes:
    return frame_of(_TEXT, (message.encode(),)) if isinstance(message, str) else frame_of(_BINARY, message)


def _keep_kernel_queue_short(connection: ServerConnection) -> None:
    sock = connection.transport.get_extra_info("socket")
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if sock is not None and option is not None:
        sock.setsockopt(socket.IPPROTO_TCP, option, UNSENT_BYTES_MAX)
