"""A client of the gateway's protocol `barograph.v1`: connections around `course.Course`.

One connection carries many subscriptions. A reader task hands each message to its subscription's inbox; when the
program is slower than the market the inbox fills, reading stops, and the gateway *conflates*: it keeps the newest row
and says in the next frame how many it left out; or, with the policy `lossless`, it goes on from where the program is.
Nothing grows without bound on either side, and nothing is lost silently. An inbox that is full holds up the other
subscriptions of its connection: give programs of different speed a connection each.

A connection that breaks or falls silent is made again, with growing pauses, and every subscription goes on behind the
last row that came. Only when nobody answers for `patience_s` does the program hear of it.

Everything that changes who is subscribed happens between two awaits; messages leave through an outbox of their own. So
a program may be cancelled anywhere.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias
from urllib.parse import urlsplit

from barograph.course import Course
from barograph.errors import ConnectionLostError, GatewayError, WrongFramesError
from barograph.frame import HEADER, VERSION, Frame
from barograph.renewal import SOON_S, refresh_in_s
from runtime.errors import BarographError, InputError, MissingServiceError, UsageError

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection
    from websockets.exceptions import InvalidStatus

PROTOCOL: Final = "barograph.v1"
ADDRESS: Final = "ws://HOST:PORT/v1/stream"

QUEUE_FRAMES: Final = 64
"""Frames that wait for the program, per subscription. They cover some seconds at 10 bins a second; with more, a slow
program would look at older rows before the gateway may leave any out."""

OPEN_S: Final = 10.0
"""How long connecting and the gateway's hello may take."""

SILENCE_S: Final = 10.0
"""Silence after which a connection with subscriptions is given up: the gateway says where each stands every second, so
ten heartbeats are missed. Much less would break connections while a machine is merely busy; with more, a program looks
at old rows for longer before it goes on elsewhere."""

CLOSE_S: Final = 1.0
"""How long leaving may take; a gateway that does not answer the goodbye is left without it."""

STEADY_S: Final = 5.0
"""A connection that lived shorter counts as an attempt that failed: pauses grow, and patience runs on."""

AGAIN_S: Final = 0.5
"""Pause before a subscription is asked for again of a gateway that just came up and does not know its tape yet."""

MESSAGE_BYTES_MAX: Final = 64 << 20
"""Largest frame taken. One row of the widest grid has about half a MiB, a batch 256 KiB or one row."""

PAUSE_MIN_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0
"""Pauses between two attempts to connect: doubled from the first to the second, each times a random half to one, so
that a thousand clients of a gateway that restarts do not come back at the same moment."""

FINAL: Final = {
    1008: ("policy", "correct what was asked"),
    1009: ("too_big", "ask for less at once"),
    4001: ("slow", "take frames faster, or subscribe with policy='conflate'"),
    4003: ("token", "give another token"),
    4004: ("schema_changed", "subscribe anew"),
}
"""Close codes after which connecting again would only end the same way: what programs call it, and the remedy."""

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
"""Hosts that no proxy leads to."""

Token: TypeAlias = str | Callable[[], str]


class _Inbox:
    """What waits for the program: frames, and then how it ended."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[Frame | Exception | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(QUEUE_FRAMES)

    async def put(self, frame: Frame) -> None:
        """Add a frame once there is room."""
        await self._room.acquire()
        self._items.put_nowait(frame)

    def end(self, how: Exception | None) -> None:
        """Nothing follows but this error; None: the tape has ended."""
        self._items.put_nowait(how)

    async def get(self) -> Frame | Exception | None:
        """The next one."""
        item = await self._items.get()
        self._room.release()
        return item

    def abandon(self) -> None:
        """Nobody takes anything any more: whoever waits for room need not."""
        self._room.release()


class Frames:
    """One pass over a subscription. A wait for the next frame may be cancelled, as a timeout does, and begun again."""

    def __init__(self, subscription: "Subscription") -> None:
        self._subscription = subscription
        self._inbox: _Inbox | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Frame:
        """The next frame.

        Raises:
            BarographError: it cannot go on.
            StopAsyncIteration: the tape has ended, or `aclose` was called.
        """
        if self._done:
            raise StopAsyncIteration
        if self._inbox is None:
            self._loop = asyncio.get_running_loop()
            self._inbox = self._subscription._begin()
        item = await self._inbox.get()
        if isinstance(item, Frame):
            self._subscription._course.got(item)
            return item
        await self.aclose()
        if item is None:
            raise StopAsyncIteration
        raise item

    async def aclose(self) -> None:
        """Leave the subscription."""
        self._close()

    def _close(self) -> None:
        if not self._done:
            self._done = True
            if self._inbox is not None:
                self._subscription._leave(self._inbox)

    def __del__(self) -> None:
        """Whoever leaves the loop by `break` leaves the subscription too."""
        if not self._done and self._loop is not None and self._inbox is not None:
            with suppress(RuntimeError):  # the loop is closed, and the connection with it
                self._loop.call_soon_threadsafe(self._subscription._leave, self._inbox)


class Subscription:
    """The frames of one subscription, as an asynchronous iterable; it ends with the tape.

    Leaving the loop leaves the subscription. Iterated again, it goes on behind the last frame that the program got.
    """

    def __init__(self, client: "Client", request: dict[str, Any]) -> None:
        self._client, self._course = client, Course(request)
        self._inbox = _Inbox()

    @property
    def agreed(self) -> dict[str, Any]:
        """The gateway's answer: `cursor`, `runtime_config`, `fields` with units; empty until it came."""
        return self._course.agreed

    @property
    def gaps(self) -> list[dict[str, Any]]:
        """Newest missing ranges of the source, as the gateway told them: `from`, `to`, `cause`, `epoch`."""
        return list(self._course.gaps)

    @property
    def left_out(self) -> int:
        """Rows that conflation left out so far."""
        return self._course.left_out

    @property
    def stale_ms(self) -> int:
        """How long the source has been silent; 0 while it is heard of."""
        return self._course.stale_ms

    @property
    def lag_ms(self) -> int:
        """Event time between the last row sent and the newest there is, as last told, ms."""
        return self._course.lag_ms

    @property
    def resumed(self) -> int:
        """How often it went on after its connection had broken."""
        return self._course.resumed

    @property
    def schema(self) -> bytes:
        """The Arrow schema message; with the payloads of the frames behind it, an Arrow stream."""
        return self._course.schema

    @property
    def cursor(self) -> str:
        """The last row that the program got; give it as `start=` to go on behind it, today or in a year."""
        return self._course.cursor

    def __aiter__(self) -> Frames:
        return Frames(self)

    async def seek(self, to: str) -> None:
        """Go to `live`, a cursor, `bin/N` or `@ns`. What is under way still comes; `Frame.turn` tells it apart."""
        self._tell(self._course.seek(to))

    async def pause(self) -> None:
        """Stand still; nothing is left out meanwhile."""
        self._tell(self._course.pace("pause"))

    async def resume(self) -> None:
        """Go on from where it stands."""
        self._tell(self._course.pace("resume"))

    async def step(self, bins: int = 1) -> None:
        """Show the next rows and stand still."""
        self._tell(self._course.pace("step", bins=bins))

    async def speed(self, factor: float | str) -> None:
        """Pace of a replay: event seconds per second, or `max`. While live it ends the iteration: `GatewayError`."""
        self._tell(self._course.pace("speed", factor=factor))

    def _tell(self, message: dict[str, Any]) -> None:
        """Say it if the subscription is open; else it is part of how it opens."""
        if self._course.number in self._client._subscriptions:
            self._client._say(message)

    def _begin(self) -> _Inbox:
        """Open it for a new pass over it, which ends one that is under way."""
        self._client._leave(self._course.number)
        self._inbox.end(UsageError("the subscription is iterated elsewhere now", remedy="subscribe twice"))
        self._inbox.abandon()
        self._inbox = _Inbox()
        self._client._open(self, anew=True)
        return self._inbox

    def _leave(self, inbox: _Inbox) -> None:
        """A pass over it is left; another one may be under way."""
        inbox.abandon()
        if inbox is self._inbox:
            self._client._leave(self._course.number)

    async def _take(self, message: bytes | dict[str, Any]) -> None:
        """A message about it, in the order of the socket."""
        inbox, frame = self._inbox, None
        try:
            if isinstance(message, dict):
                if self._course.told(message):
                    self._client._ask_again(self, GatewayError(message["code"], message["message"]))
            else:
                frame = self._course.take(message)
        except (GatewayError, WrongFramesError) as error:
            self._client._leave(self._course.number)  # what still comes is not to be trusted, or not wanted
            inbox.end(error)
            return
        if frame is not None:
            await inbox.put(frame)
        elif isinstance(message, bytes) and Course.ended(message):
            inbox.end(None)


class Client:
    """A connection to a gateway, made again when it breaks; an asynchronous context manager, made by `connect`.

    Attributes:
        hello: what the gateway said first, on the newest connection: `tapes`, `lines`, `instruments`, `limits`.
    """

    def __init__(self, url: str, token: Token | None, patience_s: float) -> None:
        self.hello: dict[str, Any] = {}
        self._url, self._token, self._patience_s = url, token, patience_s
        self._subscriptions: dict[int, Subscription] = {}
        self._next_number = 1
        self._socket: ClientConnection | None = None
        self._outbox: asyncio.Queue[str | None] = asyncio.Queue()
        self._runner: asyncio.Task[None] | None = None
        self._shown: str | None = None  # the token of this connection
        self._pause_s = self._retry_after_s = self._until_s = 0.0
        self._ended: Exception | None = UsageError(
            "the client is not connected", remedy="use it with `async with barograph.connect(url) as client`"
        )

    async def __aenter__(self) -> Self:
        await self._dial()
        self._ended = None
        self._runner = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None, "entered before it is left"
        self._runner.cancel()
        with suppress(asyncio.CancelledError):
            await self._runner
        self._end(MissingServiceError("the client was closed"))
        if self._socket is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._socket.close()
            self._socket.transport.abort()
            self._socket = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection now; while there is none, another one is being made."""
        return self._socket is not None

    def subscribe(
        self,
        stream: str = "grid",
        *,
        tape: str,
        instrument: str,
        line: str = "main",
        fields: Sequence[str] | None = None,
        radius: int | None = None,
        dtype: str = "f32",
        max_rate_hz: float | None = None,
        policy: str = "conflate",
        start: str = "live",
        clock: str | None = None,
        digest: bool = False,
    ) -> Subscription:
        """Subscribe to a stream; nothing is sent until the result is iterated.

        Args:
            stream: `grid`, `bins`, `trades`, `bars`, `gaps`, `events`, or another that the gateway names.
            tape, line, instrument: what to watch; see `hello`.
            fields: names as in the stream's topic; a small set if not given.
            radius: ticks on each side of the mid; the line's own if not given.
            dtype: `f32` or `f64` for grid vectors.
            max_rate_hz: newest row at most this often; every row if not given.
            policy: `conflate` leaves rows out for a slow program and counts them; `lossless` never does.
            start: `live`, a cursor, `bin/N`, or `@ns` since the epoch.
            clock: a name; subscriptions with the same one replay together.
            digest: whether what comes is compared with the gateway's digest of it, every ten seconds.
        """
        known = {
            "fields": list(fields) if fields else None,
            "radius": radius,
            "max_rate_hz": max_rate_hz,
            "clock": clock,
            "digest": digest or None,
            "policy": policy if policy != "conflate" else None,
        }
        request = {
            "stream": stream,
            "tape": tape,
            "line": line,
            "instrument": instrument,
            "dtype": dtype,
            "from": start,
            **{key: value for key, value in known.items() if value is not None},
        }
        return Subscription(self, request)

    # -- what subscriptions ask --------------------------------------------------------------------------------------

    def _open(self, subscription: Subscription, *, anew: bool) -> None:
        """Begin a subscription under a new id."""
        if self._ended is not None:
            subscription._inbox.end(self._over(subscription))
            return
        self._share_clock(subscription._course)
        number, self._next_number = self._next_number, self._next_number + 1
        messages = subscription._course.begin(number, anew=anew, aliases=self.hello.get("aliases", {}))
        self._subscriptions[number] = subscription
        for message in messages:
            self._say(message)

    def _share_clock(self, course: Course) -> None:
        if course.clock is not None:
            for other in self._subscriptions.values():
                if other._course.clock == course.clock:
                    course.share(other._course)

    def _leave(self, number: int) -> None:
        if (subscription := self._subscriptions.pop(number, None)) is not None:
            subscription._course.part()
            self._say({"op": "unsubscribe", "id": number})

    def _ask_again(self, subscription: Subscription, error: GatewayError) -> None:
        """The gateway just came up and does not know a tape yet: ask again in a moment, as long as patience lasts."""
        number = subscription._course.number

        def again() -> None:
            if self._subscriptions.pop(number, None) is not None:
                self._open(subscription, anew=False)

        if time.monotonic() < self._until_s:
            asyncio.get_running_loop().call_later(AGAIN_S, again)
        else:
            self._leave(number)
            subscription._inbox.end(error)

    def _say(self, message: dict[str, Any]) -> None:
        """Send a message; one that does not leave before the connection ends is said again by `Course.begin`."""
        if self._socket is not None:
            self._outbox.put_nowait(json.dumps(message))

    def _end(self, error: Exception) -> None:
        """It is over: everyone who waits hears of it."""
        if self._ended is None:
            self._ended = error
            for subscription in list(self._subscriptions.values()):
                subscription._inbox.end(self._over(subscription))
            self._subscriptions.clear()

    def _over(self, subscription: Subscription) -> Exception:
        """How it ended, for one subscription: an exception of its own, since each is raised in another task."""
        error = self._ended
        assert error is not None, "asked after the end"
        if isinstance(error, GatewayError):
            return GatewayError(error.code, error.message, remedy=error.remedy)
        if isinstance(error, MissingServiceError):
            return ConnectionLostError(error.message, subscription.cursor)
        return error

    # -- connections -------------------------------------------------------------------------------------------------

    async def _dial(self) -> None:
        """Connect and hear the hello.

        Raises:
            MissingServiceError: nobody answers there, or not now.
            GatewayError: the gateway does not let this client in, or is none.
            InputError: the address is none.
        """
        from websockets.asyncio.client import connect as dial
        from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
        from websockets.typing import Subprotocol

        token = await self._ask_token()
        try:
            host = _host(self._url)
            socket = await dial(
                self._url,
                subprotocols=[Subprotocol(PROTOCOL)],
                additional_headers={"Authorization": f"Bearer {token}"} if token else None,
                proxy=None if host in LOOPBACK else True,
                compression=None,
                max_size=MESSAGE_BYTES_MAX,
                max_queue=8,
                open_timeout=OPEN_S,
                ping_interval=10,
                ping_timeout=10,
                close_timeout=CLOSE_S,
            )
            self.hello = await self._hear_hello(socket)
        except InvalidURI as error:
            raise InputError(
                f"{self._url} is no address of a gateway", remedy="write ws://HOST:PORT/v1/stream"
            ) from error
        except InvalidStatus as error:
            raise self._refused(error, shown=bool(token)) from error
        except ConnectionClosed as error:
            if error.rcvd is not None and error.rcvd.code in FINAL:
                raise _final(error.rcvd.code, error.rcvd.reason) from error
            raise self._nobody(error) from error
        except (OSError, TimeoutError, InvalidHandshake) as error:
            raise self._nobody(error) from error
        self._socket, self._outbox, self._shown = socket, asyncio.Queue(), token

    async def _hear_hello(self, socket: "ClientConnection") -> dict[str, Any]:
        try:
            async with asyncio.timeout(OPEN_S):
                return _hello(await socket.recv())
        except BaseException:
            socket.transport.abort()
            raise

    def _refused(self, error: "InvalidStatus", *, shown: bool) -> BarographError:
        status = error.response.status_code
        if shown and status in (401, 403):
            return GatewayError("token", "the gateway does not accept the token", remedy="give another")
        if status == 401:
            return GatewayError("token", "the gateway asks for a token", remedy="give one with token=")
        if status in (200, 400, 403, 404):  # the api, another server, or another path
            return GatewayError(
                "address",
                f"{self._url} is no stream of a gateway (HTTP {status})",
                remedy="write ws://HOST:PORT/v1/stream with the gateway's port; `barograph status` prints it",
            )
        return self._nobody(error)

    def _nobody(self, error: Exception) -> MissingServiceError:
        return MissingServiceError(
            f"no gateway answers at {self._url} ({error})",
            remedy="start one with `barograph up`, or correct the address",
        )

    async def _run(self) -> None:
        """Read until the program leaves; connect again when the connection breaks."""
        try:
            while True:
                began_s = time.monotonic()
                code, reason = await self._talk()
                self._socket = None
                if code in FINAL and not (code == 4003 and callable(self._token)):
                    raise _final(code, reason)
                await self._again(f"{code} {reason}", steady=time.monotonic() - began_s > STEADY_S)
        except Exception as error:  # a fault of ours too: a program that waits must hear of it
            self._end(error)

    async def _talk(self) -> tuple[int, str]:
        """Talk on one connection until it ends; its close code and reason."""
        socket = self._socket
        assert socket is not None, "talked on after it was made"
        outbox = self._outbox
        sender = asyncio.create_task(self._send(socket, outbox))
        refresher = asyncio.create_task(self._refresh_token())
        try:
            return await self._read(socket)
        finally:
            refresher.cancel()
            outbox.put_nowait(None)  # what was said still leaves
            await asyncio.wait([sender], timeout=CLOSE_S)
            sender.cancel()

    async def _send(self, socket: "ClientConnection", outbox: asyncio.Queue[str | None]) -> None:
        from websockets.exceptions import ConnectionClosed

        with suppress(ConnectionClosed):
            while (text := await outbox.get()) is not None:
                await socket.send(text)

    async def _read(self, socket: "ClientConnection") -> tuple[int, str]:
        """Hand out messages until the connection ends, or nothing comes any more; its close code and reason."""
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                async with asyncio.timeout(SILENCE_S if self._subscriptions else None):
                    message = await socket.recv()
                await self._dispatch(message)
        except TimeoutError:
            socket.transport.abort()
            return 1006, f"nothing came for {SILENCE_S:g} s"
        except ConnectionClosed:
            return socket.close_code or 1006, socket.close_reason or "nothing was said"

    async def _dispatch(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            if len(message) < HEADER.size or message[0] != VERSION:
                raise GatewayError(
                    "version", "the gateway speaks another protocol than barograph.v1", remedy="install its client"
                )
            await self._hand(HEADER.unpack_from(message)[3], message)
            return
        told: dict[str, Any] = json.loads(message)
        if told["op"] == "bye":
            self._retry_after_s = told.get("retry_after_ms", 0) / 1000
        await self._hand(told.get("id", -1), told)

    async def _hand(self, number: int, message: bytes | dict[str, Any]) -> None:
        subscription = self._subscriptions.get(number)
        if subscription is not None:
            await subscription._take(message)

    async def _again(self, reason: str, *, steady: bool) -> None:
        """Connect again and go on with everything.

        Args:
            reason: how the connection ended.
            steady: whether it had lived for a while.

        Raises:
            BarographError: nobody answered for `patience_s`, or the token is not accepted any more.
        """
        if steady or not self._pause_s:
            self._pause_s, self._until_s = 0.0, time.monotonic() + self._patience_s
        if time.monotonic() >= self._until_s:
            raise MissingServiceError(f"the gateway's connection ended ({reason})")
        while True:
            await asyncio.sleep(max(self._retry_after_s, self._pause_s * random.uniform(0.5, 1.0)))
            self._retry_after_s, self._pause_s = 0.0, min(PAUSE_MAX_S, max(PAUSE_MIN_S, 2 * self._pause_s))
            try:
                await self._dial()
            except MissingServiceError:
                if time.monotonic() > self._until_s:
                    raise MissingServiceError(f"the gateway's connection ended ({reason})") from None
            else:
                break
        for number, subscription in list(self._subscriptions.items()):
            del self._subscriptions[number]
            self._open(subscription, anew=False)

    async def _ask_token(self) -> str | None:
        """The token. Whoever gives new ones may need the network, so he is asked in a thread."""
        return await asyncio.to_thread(self._token) if callable(self._token) else self._token

    async def _refresh_token(self) -> None:
        """Present a new token before the old one ends, if there is somebody to ask for it.

        If he fails, he is asked again; if he fails until the token ends, the program hears of it when the next
        connection is made.
        """
        if not callable(self._token):
            return
        token = self._shown
        while True:
            await asyncio.sleep(refresh_in_s(token or "", time.time()))
            try:
                token = await self._ask_token()
            except Exception:
                await asyncio.sleep(SOON_S)
            else:
                self._say({"op": "auth", "token": token})


def _final(code: int, reason: str) -> GatewayError:
    """How a close code that is final is told."""
    name, remedy = FINAL[code]
    return GatewayError(name, f"the gateway ended the connection ({code} {reason})", remedy=remedy)


def _host(url: str) -> str | None:
    """Host of an address.

    Raises:
        InvalidURI: its port is none.
    """
    from websockets.exceptions import InvalidURI

    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise InvalidURI(url, str(error)) from error
    return parts.hostname


def _hello(message: str | bytes) -> dict[str, Any]:
    """The gateway's first message.

    Raises:
        GatewayError: it is none.
        TimeoutError: it says goodbye already.
    """
    with suppress(ValueError):
        told = json.loads(message)
        if isinstance(told, dict) and told.get("protocol") == PROTOCOL:
            return told
        if isinstance(told, dict) and told.get("op") == "bye":
            raise TimeoutError(told.get("reason", "it goes away"))
    raise GatewayError("version", "what answers is no gateway of barograph.v1", remedy="correct the address")


def connect(url: str, *, token: Token | None = None, patience_s: float = 60.0) -> Client:
    """A connection to the gateway at `url` (`ws://host:port/v1/stream`), to be used with `async with`.

    Args:
        url: the gateway's address; `barograph status` prints it.
        token: for gateways that ask for one; a function is asked again before the token expires and for each
            connection.
        patience_s: how long to try again after a connection broke; 0 tells the program at once.
    """
    return Client(url, token, patience_s)
