"""The gateway process: sockets around `protocol.Session`.

Outlets (`ws_gateway.outlet`) write only while a socket's buffer is low, so what a client has not read waits as a place
in a ring and not as bytes. The library's `broadcast` has no back-pressure and its pings do not free a client whose
buffer is full, so a watchdog cuts such connections itself.

On the same port, by GET: `/health`, `/ready`, `/metrics`. Anything else but `/v1/stream` is 404.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from ssl import SSLContext
from typing import Any, Final, Protocol
from urllib.parse import parse_qs
from weakref import WeakKeyDictionary

from prometheus_client import generate_latest
from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as listen
from websockets.exceptions import ConnectionClosed
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
from ws_gateway.outlet import WRITE_BYTES_MAX, Connection, Outlet, Outlets, clock
from ws_gateway.protocol import PROTOCOL, RETRY_AFTER_MS, Code, Session
from ws_gateway.strictjson import TEXT_BYTES_MAX

log = logging.getLogger(__name__)

_QUIET: Final = logging.getLogger("ws_gateway.sockets")
_QUIET.setLevel(logging.WARNING)  # the library tells each connection twice; metrics count them

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

HANDSHAKE_S: Final = 10.0
"""Time for a client to send its opening request; a slow one only holds one socket."""


FRAGMENTS_MAX: Final = 16
"""Frames that one message may come in. Libraries send a control message in one. Empty frames have no size, so only
their number keeps a client from filling our memory with them."""

UNASKED_BYTES_MAX: Final = 1 << 20
"""Bytes in the library's buffer above which a connection is cut: we stop sending at WRITE_BYTES_MAX, so what lies above
it are answers to pings that the client does not read."""


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
        self.hub = Hub(library=library)
        self.feeder = feeder
        self.door = Door(allowed_origins, authority)
        self._origins: list[Origin | None] = [*(Origin(o) for o in allowed_origins), None]
        self._clients: set[_Client] = set()
        self._admitted: WeakKeyDictionary[ServerConnection, Principal | None] = WeakKeyDictionary()
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
            server = await self._listen(host, port, tls)
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
            server.close(close_connections=True)
            await server.wait_closed()
            await asyncio.to_thread(self.feeder.stop)
        if self._failure is not None:
            raise self._failure

    async def _listen(self, host: str, port: int, tls: SSLContext | None) -> Server:
        return await listen(
            self._serve_client,
            host,
            port,
            ssl=tls,
            process_request=self._answer,
            origins=self._origins,
            subprotocols=[Subprotocol(PROTOCOL)],
            compression=None,
            max_size=TEXT_BYTES_MAX,
            max_queue=8,
            create_connection=Connection,
            logger=_QUIET,
            write_limit=WRITE_BYTES_MAX,
            open_timeout=HANDSHAKE_S,
            ping_interval=10,
            ping_timeout=10,
            close_timeout=1,
            server_header=None,
        )

    def _answer(self, connection: ServerConnection, request: HttpRequest) -> Response | None:
        """Plain HTTP on the gateway's port; None lets a WebSocket handshake go on."""
        path, _, query = request.path.partition("?")
        knock = _knock(connection, request, query)
        if path == PATH:
            try:
                self._admitted[connection] = self.door.knock(knock)
            except TurnedAwayError as away:
                return _turned_away(connection, away)
            offered = request.headers.get_all("Sec-WebSocket-Protocol")
            if not any(PROTOCOL in (p.strip() for p in line.split(",")) for line in offered):
                return connection.respond(HTTPStatus.BAD_REQUEST, f"offer the subprotocol {PROTOCOL}\n")
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "restarting\n") if self._draining else None
        if path == "/health":
            return connection.respond(HTTPStatus.OK, "ok\n")
        if path == "/ready":
            good = self.feeder.ready and not self._draining
            return connection.respond(HTTPStatus.OK, "ready\n") if good else _not_ready(connection)
        if path == "/metrics":
            try:
                self.door.ask(knock, "GET /metrics")
            except TurnedAwayError as away:
                return _turned_away(connection, away)
            metrics.RING_BYTES.set(self.hub.budget.held_bytes)
            return connection.respond(HTTPStatus.OK, generate_latest().decode())
        return connection.respond(HTTPStatus.NOT_FOUND, f"nothing here; streams are at {PATH}\n")

    async def _serve_client(self, connection: ServerConnection) -> None:
        opening = await self._opening(connection)
        if opening is None:
            metrics.CLOSED.labels(str(Code.POLICY)).inc()
            await connection.close(Code.POLICY, "there is no such serving version or alias")
            return
        client = _Client(connection, self.hub, self._outlets, self.door, self._admitted.get(connection), opening)
        self._clients.add(client)
        metrics.OPENED.inc()
        metrics.CLIENTS.set(len(self._clients))
        try:
            await client.run()
        finally:
            self._clients.discard(client)
            metrics.CLIENTS.set(len(self._clients))

    async def _opening(self, connection: ServerConnection) -> Opening | None:
        """What the address asks for by `?serving=`: nothing, a version's subscriptions, or None for one unknown."""
        query = connection.request.path.partition("?")[2] if connection.request else ""
        names = parse_qs(query).get("serving")
        return () if not names else await asyncio.to_thread(self._serving, names[-1])

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = clock()
            for client in tuple(self._clients):
                client.tick(now)

    async def _drain(self) -> None:
        self._draining = True
        now = clock()
        spread_ms = RETRY_SPREAD_MS + RETRY_PER_CLIENT_MS * len(self._clients)
        for client in tuple(self._clients):
            client.session.drain(now, RETRY_AFTER_MS + int(random.uniform(0, spread_ms)))
            client.wake.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while self._clients:
                    await asyncio.sleep(0.02)


def _knock(connection: ServerConnection, request: HttpRequest, query: str) -> Knock:
    headers = request.headers
    return Knock(
        str((connection.remote_address or ("",))[0]),
        tuple(headers.get_all("Origin")),
        tuple(headers.get_all("Authorization")),
        query,
    )


def _turned_away(connection: ServerConnection, away: TurnedAwayError) -> Response:
    response = connection.respond(away.status, away.text)
    if away.status is HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="barograph"'
    return response


def _not_ready(connection: ServerConnection) -> Response:
    return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "not ready\n")


class _Client:
    """One connection: a reader, an outlet, and the watchdog over it."""

    def __init__(
        self,
        connection: ServerConnection,
        hub: Hub,
        outlets: Outlets,
        door: Door,
        principal: Principal | None,
        opening: Opening = (),
    ) -> None:
        self.wake = Outlet(connection, outlets)
        self._connection, self._door, self._counted = connection, door, principal
        peer = connection.remote_address
        self._address = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        guard, set_ = door.authority, self.wake.set
        self.session = Session(hub, clock(), set_, guard, principal, self._note, self._address, opening)
        self.wake.open(self.session)

    async def run(self) -> None:
        self._door.enter(self._counted)
        try:
            while (message := await self._receive()) is not None:
                self._take(message)
                self.wake.set()
            self.session.refuse(Code.POLICY, "fragments", f"a message comes in at most {FRAGMENTS_MAX} pieces")
            self.wake.set()
            await self._connection.wait_closed()
        except ConnectionClosed:
            pass
        finally:
            self._door.leave(self._counted)
            self.session.release()
            self.wake.close()

    async def _receive(self) -> str | bytes | None:
        """The next message; None for one that came in too many pieces."""
        pieces: list[Any] = []
        async for piece in self._connection.recv_streaming():
            pieces.append(piece)
            if len(pieces) > FRAGMENTS_MAX:
                return None
        whole: str | bytes = pieces[0][:0].join(pieces)
        return whole

    def _take(self, message: str | bytes) -> None:
        """Count a message, hand it on, and count the user if it told who he is."""
        who = self._counted
        if self.session.closing is not None:
            return
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
        self._door.note(reason, self._address, user=who.subject if who else "", wanted=what)

    def tick(self, now: Instant) -> None:
        """Let time pass; cut the connection if its buffer has been full for too long, or pongs pile up."""
        stuck = self.wake.full_since_ns and now.mono_ns - self.wake.full_since_ns > BEHIND_S_MAX * 1e9
        if stuck or self._connection.transport.get_write_buffer_size() > UNASKED_BYTES_MAX:
            metrics.ABORTED.inc()
            self._connection.transport.abort()
            return
        self.session.tick(now)


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
