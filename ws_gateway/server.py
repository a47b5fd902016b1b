"""The gateway process: sockets around `protocol.Session`.

Outlets (`ws_gateway.outlet`) write only while a socket's buffer is low, so what a client has not read waits as a place
in a ring and not as bytes. Pings do not free a client whose buffer is full, so a watchdog cuts such connections itself.
There is no task for a connection: what comes is obeyed as it comes, what goes is written by the pass over all outlets,
and one timer lets time pass for everyone.

On the same port, by GET: `/health`, `/ready`, `/metrics`. Anything else but `/v1/stream` is 404.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from ssl import SSLContext
from typing import Any, Final, Protocol
from urllib.parse import parse_qs
from weakref import WeakKeyDictionary

from prometheus_client import generate_latest
from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response
from websockets.typing import Origin, Subprotocol

from runtime.auth import Authority, Principal
from runtime.endpoints import is_loopback
from runtime.errors import BarographError, PortTakenError
from runtime.object_store import object_store_at
from runtime.serving import ServingStore
from ws_gateway import metrics
from ws_gateway.channel import Instant
from ws_gateway.door import Door, Knock, TurnedAwayError
from ws_gateway.fanout import Hub
from ws_gateway.library import Library
from ws_gateway.outlet import Outlet, Outlets, clock
from ws_gateway.protocol import PROTOCOL, RETRY_AFTER_MS, Code, Session
from ws_gateway.wire import Wire

PATH: Final = "/v1/stream"

Opening = Sequence[Mapping[str, Any]]
"""Messages that a session obeys by itself."""

BEHIND_S_MAX: Final = 10.0
"""How long a client's buffer may be full before the connection is cut. A page in a background tab pauses for a second
or two; a client that is behind its limit for 10 s is gone or hopeless, and holds memory."""

TICK_S: Final = 0.25
"""How often sessions see time pass. Staleness and heartbeats have a second's grain, so four looks a second do."""

DRAIN_S: Final = 2.0
"""Time for clients to take `bye` and answer the close before the process leaves."""

RETRY_SPREAD_MS: Final = 500
RETRY_PER_CLIENT_MS: Final = 2
"""Over how long clients are spread that must all come back: a thousand over 2.5 s. Opening a thousand connections takes
about a second of a core; less spread makes the last ones wait for that, more makes all of them wait for nothing."""

FRAGMENTS_MAX: Final = 16
"""Frames that one message may come in. Libraries send a control message in one. Empty frames have no size, so only
their number keeps a client from filling our memory with them."""

BAD_TEXT: Final = 1007
"""Close code of a text that is no UTF-8 (RFC 6455 section 7.4.1)."""

BACKLOG: Final = 1_024
"""Connections that the kernel holds until the loop takes them. After a restart a thousand clients come within a second;
with less, their first packets are dropped, and they try again a second later."""


class Feeder(Protocol):
    """Where the hub gets its rows from."""

    @property
    def ready(self) -> bool:
        """Whether sources are being read."""

    def start(self, hub: Hub, on_failure: Callable[[Exception], None]) -> None:
        """Begin; called on the event loop's thread, as `on_failure` is when reading can never go on."""

    def stop(self) -> None:
        """End, and wait until it has."""


def check_bind(host: str, *, authenticated: bool = False) -> None:
    """Refuse to serve strangers without authentication.

    Raises:
        BarographError: the address is not loopback, and authentication is off.
    """
    if not authenticated and not is_loopback(host):
        raise BarographError(
            f"the gateway does not bind {host} without authentication",
            remedy="set BAROGRAPH_AUTH, or bind 127.0.0.1",
        )


class Gateway:
    """The server: one hub, many sessions.

    Args:
        feeder: source of rows.
        allowed_origins: web origins whose pages may connect, e.g. `http://127.0.0.1:8760`; clients that are no
            browsers send none and are let in on loopback.
        library: what is older than the rings; None: nothing is.
        serving: gives the opening messages of a serving version or alias, None if there is none; may block.
        authority: judge of tokens; None: authentication is off.
    """

    def __init__(
        self,
        feeder: Feeder,
        allowed_origins: Sequence[str] = (),
        library: Library | None = None,
        serving: Callable[[str], Opening | None] = lambda _name: None,
        authority: Authority | None = None,
    ) -> None:
        self._serving, self._outlets = serving, Outlets()
        self.hub = Hub(library=library, crew=self._outlets)
        self.feeder = feeder
        self.door = Door(allowed_origins, authority)
        self.origins: Sequence[Origin | None] = [*(Origin(o) for o in allowed_origins), None]
        self.subprotocols: Sequence[Subprotocol] = [Subprotocol(PROTOCOL)]
        self.wires: set[Wire] = set()
        self._clients: set[_Client] = set()
        self._admitted: WeakKeyDictionary[Wire, Principal | None] = WeakKeyDictionary()
        self._lookups: set[asyncio.Task[None]] = set()
        self._draining = False
        self._failure: Exception | None = None

    async def run(
        self,
        host: str,
        port: int,
        stop: asyncio.Event,
        on_ready: Callable[[int], None] = lambda _port: None,
        tls: SSLContext | None = None,
    ) -> None:
        """Serve until `stop` is set, then say goodbye to everyone.

        Args:
            host: address to bind; loopback, unless authentication is on.
            port: port; 0 takes a free one.
            stop: set by the caller to end.
            on_ready: called with the port once connections are accepted.
            tls: context with a certificate; None: plain TCP.

        Raises:
            BarographError: the address is not loopback, and authentication is off.
            PortTakenError: another process listens there.
            Exception: whatever ended the feeder, after the clients were told.
        """
        check_bind(host, authenticated=self.door.authority is not None)
        try:
            loop = asyncio.get_running_loop()
            make = lambda: Wire(self, time.monotonic_ns)  # noqa: E731
            server = await loop.create_server(make, host, port, backlog=BACKLOG, ssl=tls)
        except OSError as error:
            raise PortTakenError(host, port) from error

        def fail(error: Exception) -> None:
            self._failure = error
            stop.set()

        self.feeder.start(self.hub, fail)
        ticker = asyncio.create_task(self._tick())
        try:
            on_ready(server.sockets[0].getsockname()[1])
            await stop.wait()
            await self._drain()
        finally:
            ticker.cancel()
            server.close()
            for wire in tuple(self.wires):
                wire.transport.abort()
            await server.wait_closed()
            await asyncio.to_thread(self.feeder.stop)
        if self._failure is not None:
            raise self._failure

    def answer(self, wire: Wire, request: HttpRequest) -> Response | None:
        """Plain HTTP on the gateway's port; None lets a WebSocket handshake go on."""
        path, _, query = request.path.partition("?")
        knock = _knock(wire, request, query)
        if path == PATH:
            try:
                self._admitted[wire] = self.door.knock(knock)
            except TurnedAwayError as away:
                return _turned_away(away)
            offered = request.headers.get_all("Sec-WebSocket-Protocol")
            if not any(PROTOCOL in (p.strip() for p in line.split(",")) for line in offered):
                return _plain(HTTPStatus.BAD_REQUEST, f"offer the subprotocol {PROTOCOL}\n")
            return _plain(HTTPStatus.SERVICE_UNAVAILABLE, "restarting\n") if self._draining else None
        if path == "/health":
            return _plain(HTTPStatus.OK, "ok\n")
        if path == "/ready":
            good = self.feeder.ready and not self._draining
            return _plain(HTTPStatus.OK, "ready\n") if good else _plain(HTTPStatus.SERVICE_UNAVAILABLE, "not ready\n")
        if path == "/metrics":
            try:
                self.door.ask(knock, "GET /metrics")
            except TurnedAwayError as away:
                return _turned_away(away)
            metrics.RING_BYTES.set(self.hub.budget.held_bytes)
            return _plain(HTTPStatus.OK, generate_latest().decode())
        return _plain(HTTPStatus.NOT_FOUND, f"nothing here; streams are at {PATH}\n")

    def begin(self, wire: Wire, request: HttpRequest) -> None:
        """A handshake went well: begin a session, after a look at what its address asks for."""
        names = parse_qs(request.path.partition("?")[2]).get("serving")
        if not names:
            self._welcome(wire, ())
            return
        lookup = asyncio.create_task(self._look_up(wire, names[-1]))
        self._lookups.add(lookup)
        lookup.add_done_callback(self._lookups.discard)

    async def _look_up(self, wire: Wire, name: str) -> None:
        """Begin with the subscriptions of a serving version, if there is one of that name."""
        opening = await asyncio.to_thread(self._serving, name)
        if opening is not None:
            self._welcome(wire, opening)
            return
        metrics.CLOSED.labels(str(Code.POLICY)).inc()
        self._admitted.pop(wire, None)
        wire.end(Code.POLICY, "there is no such serving version or alias")

    def _welcome(self, wire: Wire, opening: Opening) -> None:
        principal = self._admitted.pop(wire, None)
        if wire.transport.is_closing():
            return
        client = _Client(wire, self.hub, self._outlets, self.door, principal, self._clients, opening)
        metrics.OPENED.inc()
        wire.open(client)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = clock()
            for client in tuple(self._clients):
                client.tick(now)
            for wire in tuple(self.wires):
                wire.look(now.mono_ns)

    async def _drain(self) -> None:
        self._draining = True
        now = clock()
        spread_ms = RETRY_SPREAD_MS + RETRY_PER_CLIENT_MS * len(self._clients)
        for client in tuple(self._clients):
            client.session.drain(now, RETRY_AFTER_MS + int(random.uniform(0, spread_ms)))
            client.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while self._clients:
                    await asyncio.sleep(0.02)


def _address(wire: Wire) -> str:
    """Of the client, without its port."""
    peer = wire.transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) and peer else ""


def _knock(wire: Wire, request: HttpRequest, query: str) -> Knock:
    headers = request.headers
    authorizations = tuple(headers.get_all("Authorization"))
    return Knock(_address(wire), tuple(headers.get_all("Origin")), authorizations, query)


def _plain(status: HTTPStatus, text: str) -> Response:
    """An answer after which the connection ends."""
    body = text.encode()
    known = {"Date": formatdate(usegmt=True), "Connection": "close", "Content-Length": str(len(body))}
    return Response(status, status.phrase, Headers({**known, "Content-Type": "text/plain; charset=utf-8"}), body)


def _turned_away(away: TurnedAwayError) -> Response:
    response = _plain(away.status, away.text)
    if away.status is HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="barograph"'
    return response


class _Client(Outlet):
    """One connection: what comes goes to its session, what the session says goes out."""

    __slots__ = ("_all", "_counted", "_door", "_pieces", "_text", "session")

    def __init__(
        self,
        wire: Wire,
        hub: Hub,
        outlets: Outlets,
        door: Door,
        principal: Principal | None,
        all_: set["_Client"],
        opening: Opening = (),
    ) -> None:
        super().__init__(wire, outlets)
        self._door, self._counted, self._all = door, principal, all_
        self._pieces: list[bytes] | None = None
        self._text = True
        all_.add(self)
        metrics.CLIENTS.set(len(all_))
        door.enter(principal)
        address = _address(wire)
        self.session = Session(hub, clock(), self.set, door.authority, principal, self._note, address, opening)
        self.speak(self.session)

    def lost(self) -> None:
        """The connection is gone."""
        self._door.leave(self._counted)
        self.session.release()
        self.close()
        self._all.discard(self)
        metrics.CLIENTS.set(len(self._all))

    def receive(self, frame: Frame) -> None:
        """Put the pieces of messages together, and obey what is whole."""
        if self.session.closing is not None:
            return
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
        if frame.fin and self._pieces is None:
            self._obey(bytes(frame.data))
            return
        self._pieces = [*(self._pieces or ()), bytes(frame.data)]
        if len(self._pieces) > FRAGMENTS_MAX:
            self.session.refuse(Code.POLICY, "fragments", f"a message comes in at most {FRAGMENTS_MAX} pieces")
            self.set()
        elif frame.fin:
            whole, self._pieces = b"".join(self._pieces), None
            self._obey(whole)

    def _obey(self, data: bytes) -> None:
        try:
            message = data.decode() if self._text else data
        except UnicodeDecodeError as error:
            self._note("bad_text", "ws")
            self.wire.fail(BAD_TEXT, f"{error.reason} at position {error.start}")
            return
        self._take(message)
        self.set()

    def _take(self, message: str | bytes) -> None:
        """Count a message, hand it on, and count the user if it told who he is."""
        who = self._counted
        if who is not None and who.kind != "local":
            limiter = self._door.limiter
            if not (limiter.take("messages", who.subject) and limiter.take("bytes", who.subject, len(message))):
                self.session.refuse(Code.POLICY, "rate_exceeded", "this user sends too much on all connections")
                return
        self.session.receive(message, clock())
        if who is None and self.session.principal is not None:
            self._door.leave(None)
            full = self._door.full(self.session.principal)
            self._counted = self.session.principal
            self._door.enter(self._counted)
            if full:
                self.session.refuse(Code.POLICY, "sockets", "this user has too many connections")

    def _note(self, reason: str, what: str) -> None:
        who = self.session.principal if hasattr(self, "session") else None
        self._door.note(reason, _address(self.wire), user=who.subject if who else "", wanted=what)

    def tick(self, now: Instant) -> None:
        """Let time pass; cut the connection if its buffer has been full for too long."""
        if self.full_since_ns and now.mono_ns - self.full_since_ns > BEHIND_S_MAX * 1e9:
            metrics.ABORTED.inc()
            self.wire.cut()
            return
        if self.session.tick(now):
            self.flush(now)


async def serve(
    *,
    host: str,
    port: int,
    bootstrap_servers: str,
    state: str | Path,
    lake: str | Path = "",
    allowed_origins: Sequence[str],
    stop: asyncio.Event,
    on_ready: Callable[[int], None] = lambda _port: None,
    authority: Authority | None = None,
    tls: SSLContext | None = None,
) -> None:
    """Run a gateway over Kafka until `stop` is set; see `Gateway.run` for the arguments and errors.

    Args:
        bootstrap_servers: Kafka brokers.
        state: where the tape manifests lie: a folder or a URL.
        lake: where the lake lies, for what has left Kafka; empty: it is told as a gap.
    """
    from ws_gateway.feeder import KafkaFeeder
    from ws_gateway.replay import Replays

    loop, library = asyncio.get_running_loop(), Library()
    feeder = KafkaFeeder(bootstrap_servers, state, loop)
    replays = Replays(library, bootstrap_servers, state, lake)
    versions = ServingStore(object_store_at(state))

    def serving(name: str) -> Opening | None:
        version = versions.resolve(name)
        return None if version is None else version.messages()

    replays.start(loop)
    try:
        await Gateway(feeder, allowed_origins, library, serving, authority).run(host, port, stop, on_ready, tls)
    finally:
        await asyncio.to_thread(replays.stop)
