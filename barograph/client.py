"""A client of the gateway's protocol `barograph.v1`: connections around `course.Course`.

One connection carries many subscriptions. A reader task hands each message to its subscription's small queue; when the
program is slower than the market that queue fills, reading stops, and the gateway *conflates*: it keeps the newest row
and says in the next frame how many it left out; or, with the policy `lossless`, it goes on from where the program is.
Nothing grows without bound on either side, and nothing is lost silently. A queue that is full holds up the other
subscriptions of its connection: give programs of different speed a connection each.

A connection that breaks is made again, with growing pauses, and every subscription goes on behind the last row that
came. Only when nobody answers for `patience_s` does the program hear of it.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from barograph.course import Course
from barograph.errors import ConnectionLostError, GatewayError, WrongFramesError
from barograph.frame import HEADER, Frame
from barograph.renewal import refresh_in_s
from runtime.errors import BarographError, MissingServiceError

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

PROTOCOL: Final = "barograph.v1"

QUEUE_FRAMES: Final = 64
"""Frames that wait for the program, per subscription. They cover some seconds at 10 bins a second; with more, a slow
program would look at older rows before the gateway may leave any out."""

OPEN_S: Final = 10.0
"""How long connecting and the gateway's hello may take."""

MESSAGE_BYTES_MAX: Final = 64 << 20
"""Largest frame taken. One row of the widest grid has about half a MiB, a batch 256 KiB or one row."""

PAUSE_MIN_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0
"""Pauses between two attempts to connect: doubled from the first to the second, each times a random half to one, so
that a thousand clients of a gateway that restarts do not come back at the same moment."""

FINAL: Final = {1008: "policy", 1009: "too_big", 4001: "slow", 4003: "token", 4004: "schema_changed"}
"""Close codes after which connecting again would only end the same way."""

Token: TypeAlias = str | Callable[[], str]
Item: TypeAlias = Frame | BarographError | None


class Subscription:
    """The frames of one subscription, as an asynchronous iterator; it ends with the tape.

    Leaving the loop leaves the subscription. Iterated again, it goes on behind the last frame that the program got.
    """

    def __init__(self, client: "Client", request: dict[str, Any]) -> None:
        self._client, self._course = client, Course(request)
        self._queue: asyncio.Queue[Item] = asyncio.Queue(QUEUE_FRAMES)

    @property
    def agreed(self) -> dict[str, Any]:
        """The gateway's answer: `cursor`, `runtime_config`, `fields` with units; empty until it came."""
        return self._course.agreed

    @property
    def gaps(self) -> list[dict[str, Any]]:
        """Missing ranges of the source, as the gateway told them: `from`, `to`, `cause`, `epoch`."""
        return self._course.gaps

    @property
    def left_out(self) -> int:
        """Rows that conflation left out so far."""
        return self._course.left_out

    @property
    def stale_ms(self) -> int:
        """How long the source has been silent; 0 while rows come."""
        return self._course.stale_ms

    @property
    def lag_ms(self) -> int:
        """Event time between the last row sent and the newest there is, as last told, ms."""
        return self._course.lag_ms

    @property
    def resumed(self) -> int:
        """How often it went on after its connection had broken."""
        return max(0, self._course.resumed)

    @property
    def schema(self) -> bytes:
        """The Arrow schema message; with the payloads of the frames behind it, an Arrow stream."""
        return self._course.schema

    @property
    def cursor(self) -> str:
        """The last row that the program got; give it as `start=` to go on behind it, today or in a year."""
        return self._course.cursor

    async def __aiter__(self) -> AsyncIterator[Frame]:
        queue = self._queue = asyncio.Queue(QUEUE_FRAMES)
        number = await self._client._open(self, anew=True)
        try:
            while (item := await queue.get()) is not None:
                if isinstance(item, BarographError):
                    raise item
                self._course.got(item)
                yield item
        finally:
            await self._client._leave(number)
            while not queue.empty():  # the reader may wait for room in it
                queue.get_nowait()

    async def seek(self, to: str) -> None:
        """Go to `live`, a cursor, `bin/N` or `@ns`. What is under way still comes; `replayed` marks the past."""
        await self._tell(self._course.seek(to))

    async def pause(self) -> None:
        """Stand still; nothing is left out meanwhile."""
        await self._tell(self._course.pace("pause"))

    async def resume(self) -> None:
        """Go on from where it stands."""
        await self._tell(self._course.pace("resume"))

    async def step(self, bins: int = 1) -> None:
        """Show the next rows and stand still."""
        await self._tell(self._course.pace("step", bins=bins))

    async def speed(self, factor: float | str) -> None:
        """Pace of a replay: event seconds per second, or `max`. Refused while live."""
        await self._tell(self._course.pace("speed", factor=factor))

    async def _tell(self, message: dict[str, Any]) -> None:
        """Say it if the subscription is open; else it is part of how it opens."""
        if self._course.number in self._client._subscriptions:
            await self._client._say(message)

    async def _take(self, message: bytes | dict[str, Any]) -> None:
        """A message about it, in the order of the socket."""
        try:
            if isinstance(message, dict):
                self._course.told(message)
                return
            frame = self._course.take(message)
        except (GatewayError, WrongFramesError) as error:
            await self._queue.put(error)
            return
        if frame is not None:
            await self._queue.put(frame)
        elif Course.ended(message):
            await self._queue.put(None)


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
        self._retry_after_s = 0.0
        self._ended: GatewayError | None = None
        self._reason = ""

    async def __aenter__(self) -> Self:
        await self._dial()
        self._runner = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._runner.cancel()
        with suppress(asyncio.CancelledError):
            await self._runner
        if self._socket is not None:
            await self._socket.close()

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

    async def _open(self, subscription: Subscription, *, anew: bool) -> int:
        """Begin a subscription under a new id, which is returned."""
        if self._reason:
            raise self._over(subscription)
        await self._leave(subscription._course.number)  # of a loop that was left, but not yet closed
        number, self._next_number = self._next_number, self._next_number + 1
        messages = subscription._course.begin(number, anew=anew)
        self._subscriptions[number] = subscription
        for message in messages:
            await self._say(message)
        return number

    def _over(self, subscription: Subscription) -> BarographError:
        return self._ended or ConnectionLostError(self._reason, subscription.cursor)

    async def _leave(self, number: int) -> None:
        if self._subscriptions.pop(number, None) is not None:
            await self._say({"op": "unsubscribe", "id": number})

    async def _say(self, message: dict[str, Any]) -> None:
        """Send a message; one that does not leave before the connection ends is said again by `Course.begin`."""
        from websockets.exceptions import ConnectionClosed

        if self._socket is not None:
            with suppress(ConnectionClosed):
                await self._socket.send(json.dumps(message))

    # -- connections -------------------------------------------------------------------------------------------------

    async def _dial(self) -> None:
        """Connect and hear the hello.

        Raises:
            MissingServiceError: nobody answers there.
            GatewayError: the token is not accepted.
        """
        from websockets.asyncio.client import connect as dial
        from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
        from websockets.typing import Subprotocol

        token = self._token() if callable(self._token) else self._token
        try:
            socket = await dial(
                self._url,
                subprotocols=[Subprotocol(PROTOCOL)],
                additional_headers={"Authorization": f"Bearer {token}"} if token else None,
                compression=None,
                max_size=MESSAGE_BYTES_MAX,
                max_queue=8,
                open_timeout=OPEN_S,
            )
            self.hello = json.loads(await asyncio.wait_for(socket.recv(), OPEN_S))
        except InvalidStatus as error:
            if error.response.status_code in (401, 403):
                raise GatewayError("token", "the gateway does not accept the token", remedy="give another") from error
            raise self._nobody(error) from error
        except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as error:
            raise self._nobody(error) from error
        self._socket = socket

    def _nobody(self, error: Exception) -> MissingServiceError:
        return MissingServiceError(
            f"no gateway answers at {self._url} ({error})",
            remedy="start one with `barograph up`, or correct the address",
        )

    async def _run(self) -> None:
        """Read until the program leaves; connect again when the connection breaks."""
        while True:
            refresher = asyncio.create_task(self._refresh_token())
            try:
                code, reason = await self._read()
            finally:
                refresher.cancel()
            self._socket = None
            try:
                if code in FINAL and not (code == 4003 and callable(self._token)):
                    raise GatewayError(FINAL[code], f"the gateway ended the connection ({reason})")
                await self._again(reason)
            except BarographError as error:
                self._ended = error if isinstance(error, GatewayError) else None
                self._reason = reason
                for subscription in list(self._subscriptions.values()):
                    await subscription._queue.put(self._over(subscription))
                return

    async def _again(self, reason: str) -> None:
        """Connect again and go on with everything.

        Raises:
            BarographError: nobody answered for `patience_s`, or the token is not accepted any more.
        """
        pause_s, until_s = PAUSE_MIN_S, time.monotonic() + self._patience_s
        wait_s, self._retry_after_s = max(self._retry_after_s, 0.0), 0.0
        if self._patience_s <= 0:
            raise MissingServiceError(reason)
        while True:
            await asyncio.sleep(wait_s)
            try:
                await self._dial()
            except MissingServiceError:
                if time.monotonic() > until_s:
                    raise
                wait_s = pause_s * random.uniform(0.5, 1.0)
                pause_s = min(PAUSE_MAX_S, 2 * pause_s)
            else:
                break
        for number, subscription in list(self._subscriptions.items()):
            if self._subscriptions.pop(number, None):  # a program may leave meanwhile
                await self._open(subscription, anew=False)

    async def _read(self) -> tuple[int, str]:
        """Hand out messages until the connection ends; its close code and reason."""
        from websockets.exceptions import ConnectionClosed

        socket = self._socket
        assert socket is not None, "a connection is read after it was made"
        with suppress(ConnectionClosed):
            async for message in socket:
                await self._dispatch(message)
        code, reason = socket.close_code or 1006, socket.close_reason or "nothing was said"
        return code, f"{code} {reason}"

    async def _dispatch(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            number, told = HEADER.unpack_from(message)[3], message
        else:
            told = json.loads(message)
            if told["op"] == "bye":
                self._retry_after_s = told.get("retry_after_ms", 0) / 1000
            number = told.get("id", -1)
        subscription = self._subscriptions.get(number)
        if subscription is not None:
            await subscription._take(told)

    async def _refresh_token(self) -> None:
        """Present a new token before the old one ends, if there is somebody to ask for it."""
        while callable(self._token):
            await asyncio.sleep(refresh_in_s(self._token(), time.time()))
            await self._say({"op": "auth", "token": self._token()})


def connect(url: str, *, token: Token | None = None, patience_s: float = 60.0) -> Client:
    """A connection to the gateway at `url` (`ws://host:port/v1/stream`), to be used with `async with`.

    Args:
        url: the gateway's address; `barograph status` prints it.
        token: for gateways that ask for one; a function is asked again before the token expires and for each
            connection.
        patience_s: how long to try again after a connection broke; 0 tells the program at once.
    """
    return Client(url, token, patience_s)
