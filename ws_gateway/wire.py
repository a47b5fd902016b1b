"""One socket: bytes to WebSocket frames and back, around the library's protocol, which does no input or output.

    bytes ─► opening request ─► house.answer: an HTTP answer and the end, or 101 ─► house.begin
          ─► frames ─► receiver.receive                                    put ─► bytes

The library has a server of its own, with two tasks, a queue and locks for each connection; a gateway with a thousand
clients would hold 20 KiB and pay two wake-ups for each. Here a connection is one object, and one timer of the gateway
looks after all of them: who does not finish its request, answer a ping, or end its close is cut.

Frames of data are made by hand (RFC 6455 section 5.2): ours are whole messages, never masked, never compressed. Their
payload is shared by everyone who gets it and copied for nobody but the kernel.
"""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final, Protocol

from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN, SERVER
from websockets.protocol import Protocol as Frames
from websockets.server import ServerProtocol
from websockets.typing import Origin, Subprotocol

from ws_gateway.cohort import Members
from ws_gateway.frames import BATCH, HEADER, OWN, OWN_AT, VERSION
from ws_gateway.strictjson import TEXT_BYTES_MAX
from ws_gateway.subscription import Subscription

log = logging.getLogger(__name__)

_QUIET: Final = logging.getLogger("ws_gateway.sockets")
_QUIET.setLevel(logging.WARNING)  # the library tells each connection twice; metrics count them

WRITE_BYTES_MAX: Final = 256 << 10
"""Bytes in a socket's buffer above which nothing is written. Several messages fit, so a healthy client is never waited
for; more would only be older when it arrives. See subscription.BACKLOG_BYTES_MAX for the sum."""

UNSENT_BYTES_MAX: Final = 128 << 10
"""Bytes the kernel may hold that it has not put on the wire yet (TCP_NOTSENT_LOWAT). Without it, megabytes of old rows
wait where conflation cannot reach them."""

UNASKED_BYTES_MAX: Final = 1 << 20
"""Bytes in a socket's buffer above which it is cut: we stop sending at WRITE_BYTES_MAX, so what lies above it are
answers to pings that the client does not read."""

READ_BYTES: Final = 16 << 10
"""Bytes taken from a socket at once. Clients send control messages of at most 8 KiB; a flood of small frames is parsed
in steps of this size, so that it holds up nobody for longer than some milliseconds."""

HEAD_BYTES_MAX: Final = 32 << 10
"""Bytes of an opening request. Browsers send some hundred, with large cookies a few thousand."""

HANDSHAKE_S: Final = 10.0
"""Time for a client to send its opening request; a slow one only holds one socket."""

PING_S: Final = 10.0
PONG_S: Final = 10.0
"""Silence after which a client is asked whether it is there, and time for it to answer; then it is cut. Half-open
connections are gone within 20 s; shorter would cut clients whose machine is busy for a moment."""

CLOSE_S: Final = 1.0
"""Time for a client to end its side of a close."""

_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: closing resets."""

_BUFFER: Final = memoryview(bytearray(READ_BYTES))  # one for all: what it holds is taken before the loop goes on


class Receiver(Protocol):
    """Who gets what comes over an open connection."""

    def receive(self, frame: Frame) -> None:
        """A frame of a message came."""

    def set(self) -> None:
        """The buffer is low again."""

    def lost(self) -> None:
        """The connection is gone."""


class House(Protocol):
    """What connections belong to."""

    wires: "set[Wire]"
    origins: Sequence[Origin | None]
    subprotocols: Sequence[Subprotocol]

    def answer(self, wire: "Wire", request: Request) -> Response | None:
        """Plain HTTP; None lets a WebSocket handshake go on."""

    def begin(self, wire: "Wire", request: Request) -> None:
        """A connection is open: `wire.open` follows, now or later."""


class Wire(asyncio.BufferedProtocol):
    """One connection.

    Attributes:
        transport: of the event loop.
        receiver: who gets frames; None before `open`.
        fd: of the socket; -1 if it cannot be written to directly, or not any more.
        behind: whether something that was written may wait in the transport's buffer; then the socket is not written to
            directly, lest frames mix.
    """

    __slots__ = (
        "__weakref__", "_frames", "_head", "_heard_ns", "_house", "_leaving_ns", "_monotonic_ns", "_pinged_ns",
        "behind", "fd", "receiver", "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, house: House, monotonic_ns: Callable[[], int]) -> None:
        self.receiver: Receiver | None = None
        self.fd, self.behind = -1, False
        self._house, self._monotonic_ns = house, monotonic_ns
        self._head: bytearray | None = bytearray()
        self._frames: Frames | None = None
        self._heard_ns = monotonic_ns()
        self._leaving_ns = 0
        self._pinged_ns = 0

    # ---- the event loop's calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        assert isinstance(transport, asyncio.Transport), "streams have such"
        self.transport = transport
        transport.set_write_buffer_limits(WRITE_BYTES_MAX)
        sock = transport.get_extra_info("socket")
        option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, UNSENT_BYTES_MAX)
        if transport.get_extra_info("sslcontext") is None:
            self.fd = sock.fileno()
        self._house.wires.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the event loop puts what came."""
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes came."""
        if self._frames is not None:  # the time for an opening request is counted from its beginning
            self._heard_ns, self._pinged_ns = self._monotonic_ns(), 0
        self._take(bytes(_BUFFER[:nbytes]))

    def eof_received(self) -> None:
        """The client ended its side; the transport closes ours."""
        self._leaving_ns = self._leaving_ns or self._monotonic_ns()
        if self._frames is not None:
            self._frames.receive_eof()

    def resume_writing(self) -> None:
        """The buffer is low again."""
        if self.receiver is not None:
            self.receiver.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone; its number may be another's from now on."""
        self.fd, self.behind = -1, False
        self._house.wires.discard(self)
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            receiver.lost()

    # ---- out -------------------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether messages may be sent."""
        return self._frames is not None and self._frames.state is OPEN and not self.transport.is_closing()

    @property
    def idle(self) -> bool:
        """Whether everything that was written is out."""
        self.behind = self.behind and bool(self.transport.get_write_buffer_size())
        return not self.behind

    def put(self, head: bytes, payload: bytes) -> None:
        """Write a frame.

        Args:
            head: the frame's start, and whatever comes before the payload.
            payload: the rest of it.
        """
        if not self.idle or self.fd < 0:
            self._write(head + payload)
            return
        try:
            sent = os.writev(self.fd, (head, payload))
        except BlockingIOError:
            sent = 0
        except OSError:
            self.transport.abort()  # reset, or gone: the loop says so in a moment
            return
        self.put_rest(head, payload, sent)

    def put_rest(self, head: bytes, payload: bytes, sent: int) -> None:
        """Write what the kernel did not take of a frame."""
        if sent < len(head):
            self._write(head[sent:] + payload)
        elif sent < len(head) + len(payload):
            self._write(payload[sent - len(head) :])

    def _write(self, data: bytes) -> None:
        self.behind = True
        if not self.transport.is_closing():
            self.transport.write(data)

    def end(self, code: int, reason: str) -> None:
        """Close: say why, and wait a moment for the client to end its side."""
        if self._frames is not None and self._frames.state is OPEN:
            self._frames.send_close(code, reason)
            self._flush(self._frames)
        self._leaving_ns = self._leaving_ns or self._monotonic_ns()

    def fail(self, code: int, reason: str) -> None:
        """Close without waiting for an answer."""
        if self._frames is not None and self._frames.state is OPEN:
            self._frames.fail(code, reason)
            self._flush(self._frames)

    def cut(self) -> None:
        """End the connection now, and what the kernel holds of it: a client that reads nothing would keep that long."""
        sock = self.transport.get_extra_info("socket")
        if self.fd >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def look(self, now_ns: int) -> None:
        """Time has passed: ping who is silent, cut who does not do his part."""
        silent_ns = now_ns - self._heard_ns
        if self._leaving_ns:
            late = now_ns - self._leaving_ns > CLOSE_S * 1e9
        elif self._frames is None:
            late = silent_ns > HANDSHAKE_S * 1e9
        else:
            unanswered = self._pinged_ns > 0 and now_ns - self._pinged_ns > PONG_S * 1e9
            late = unanswered or self.transport.get_write_buffer_size() > UNASKED_BYTES_MAX
            if not self._pinged_ns and silent_ns > PING_S * 1e9 and self._frames.state is OPEN:
                self._pinged_ns = now_ns  # who was not asked is not late, however long we ourselves stood still
                self._frames.send_ping(b"")
                self._flush(self._frames)
        if late:
            self.cut()

    # ---- in --------------------------------------------------------------------------------------------------------

    def open(self, receiver: Receiver) -> None:
        """From now on frames go to somebody; those that came already do so at once."""
        self.receiver = receiver
        held, self._head = self._head, None
        self.transport.resume_reading()
        if held:
            self._take(bytes(held))

    def _take(self, data: bytes) -> None:
        if self._frames is None:
            assert self._head is not None, "it is there until the connection is open"
            self._head += data
            end = self._head.find(b"\r\n\r\n") + 4
            if end > 3 or len(self._head) > HEAD_BYTES_MAX:
                head, self._head = bytes(self._head[: end if end > 3 else None]), self._head[end:]
                self._shake_hands(head)
            return
        if self._head is not None:
            self._head += data  # nobody is there yet who takes it
            return
        if self._frames.reader.eof:
            return
        self._frames.receive_data(data)
        frames = self._frames.events_received()
        self._flush(self._frames)
        for frame in frames:
            assert isinstance(frame, Frame), "nothing else comes after the handshake"
            if self.receiver is not None and frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self.receiver.receive(frame)

    def _shake_hands(self, head: bytes) -> None:
        house = self._house
        hands = ServerProtocol(origins=house.origins, subprotocols=house.subprotocols, logger=_QUIET)
        hands.receive_data(head)
        request = next(iter(hands.events_received()), None)
        if isinstance(request, Request):
            hands.send_response(self._answer(request, hands) or hands.accept(request))
        elif not hands.writes:
            hands.send_response(hands.reject(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request is too large\n"))
        self._frames = hands
        self._flush(hands)
        if hands.state is OPEN and isinstance(request, Request):
            self._frames = Frames(SERVER, max_size=TEXT_BYTES_MAX, logger=_QUIET)  # the other one keeps the request
            self.transport.pause_reading()
            house.begin(self, request)
        else:
            self._head = None

    def _answer(self, request: Request, hands: ServerProtocol) -> Response | None:
        try:
            return self._house.answer(self, request)
        except Exception:
            log.exception("a request could not be answered")
            return hands.reject(HTTPStatus.INTERNAL_SERVER_ERROR, "see the gateway's log\n")

    def _flush(self, frames: Frames) -> None:
        """Write what the library wants written."""
        for data in frames.data_to_send():
            if data:
                self._write(data)
                continue
            self._leaving_ns = self._leaving_ns or self._monotonic_ns()
            if self.transport.can_write_eof() and not self.transport.is_closing():
                self.transport.write_eof()


def spread(members: Members, begin: bytes, sent: int, age_us: int, payload: bytes) -> list[Subscription]:
    """Write one payload to every member of a cohort, with the number that is its own.

    This loop is what a gateway with many clients does all day; its body is written for that. The frame is made once,
    and before each write the twelve bytes that are a member's own are put into it: the kernel takes one piece of memory
    in less time than two.

    Args:
        members: as in `Cohort`.
        begin: start of the frame.
        sent: frames of the cohort so far.
        age_us: of the payload, microseconds.
        payload: what all get.

    Returns:
        Members that the kernel did not take all of it from; the rest waits in their buffers.
    """
    head = len(begin) + HEADER.size
    frame = bytearray(b"".join((begin, HEADER.pack(VERSION, BATCH, 0, 0, 0, 0, age_us), payload)))
    own, at, size = OWN.pack_into, len(begin) + OWN_AT, len(frame)
    write, full = os.write, []
    for subscription, (base, number, wire) in members.items():
        own(frame, at, number, base + sent)
        if wire.behind and not wire.idle:
            wire.put(bytes(frame[:head]), payload)
            full.append(subscription)
            continue
        try:
            taken = write(wire.fd, frame)
        except BlockingIOError:
            taken = 0
        except OSError:
            if wire.fd < 0:  # TLS: only the transport writes
                wire.put(bytes(frame[:head]), payload)
            else:
                wire.transport.abort()
            taken = size
            full.append(subscription)
        if taken != size:
            wire.put_rest(bytes(frame[:head]), payload, taken)
            full.append(subscription)
    return full
