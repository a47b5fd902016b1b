"""A client of the gateway's protocol `barograph.v1`.

One connection carries many subscriptions. A reader task hands each message to its subscription's small queue; when the
program is slower than the market that queue fills, reading stops, and the gateway *conflates*: it keeps the newest row
and says in the next frame how many it left out. Nothing grows without bound on either side, and nothing is lost
silently.

Every frame is a 24-byte header and an Arrow message, see `Frame`.
"""

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

from runtime.errors import BarographError, MissingServiceError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa
    from websockets.asyncio.client import ClientConnection

PROTOCOL: Final = "barograph.v1"
HEADER: Final = struct.Struct("<BBHIQII")
_SCHEMA, _BATCH, _END = 0, 1, 3
_REPLAYED, _GAP, _CONFLATED = 1, 2, 4

QUEUE_FRAMES: Final = 64
"""Frames that wait for the program, per subscription. They cover some seconds at 10 bins a second; with more, a slow
program would look at older rows before the gateway may leave any out."""

OPEN_S: Final = 10.0
"""How long connecting and the gateway's hello may take."""

MESSAGE_BYTES_MAX: Final = 64 << 20
"""Largest frame taken. One row of the widest grid has about half a MiB, a batch 256 KiB or one row."""


class GatewayError(BarographError):
    """The gateway refused an operation.

    Attributes:
        code: short and stable, e.g. `unknown_tape`.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class ConnectionLostError(MissingServiceError):
    """The connection ended before the subscription did.

    Attributes:
        cursor: the last row seen, to go on from with `start=`; empty if none was.
    """

    def __init__(self, reason: str, cursor: str) -> None:
        self.cursor = cursor
        super().__init__(
            f"the gateway's connection ended ({reason})", remedy="connect again, with start= the last cursor"
        )


class Frame:
    """Some rows of one stream, as they came.

    Attributes:
        number: +1 for each message of the subscription; a jump is a fault of the transport.
        left_out: rows that conflation left out just before this frame.
        age_us: from the connector's clock at the newest record to the gateway's send, microseconds; 0 in replays.
        replayed: whether the rows are from the past, sent to catch up.
        gap_before: whether the source lacks rows before these.
    """

    __slots__ = ("_payload", "_schema", "age_us", "gap_before", "left_out", "number", "replayed")

    def __init__(self, data: bytes, schema: bytes) -> None:
        _, _, flags, _, self.number, self.left_out, self.age_us = HEADER.unpack_from(data)
        self.replayed, self.gap_before = bool(flags & _REPLAYED), bool(flags & _GAP)
        self._payload, self._schema = memoryview(data)[HEADER.size :], schema

    def to_arrow(self) -> "pa.RecordBatch":
        """The rows as an Arrow record batch, without copying."""
        import pyarrow as pa

        schema = pa.ipc.read_schema(pa.py_buffer(self._schema))
        return pa.ipc.read_record_batch(pa.py_buffer(self._payload), schema)

    def to_polars(self) -> "pl.DataFrame":
        """The rows as a polars frame; grid vectors are of type `Array`."""
        import polars as pl

        frame = pl.from_arrow(self.to_arrow())
        assert isinstance(frame, pl.DataFrame), "a record batch is always a frame"
        return frame

    def to_numpy(self, field: str) -> "np.ndarray":
        """One field as an array: shape `(rows,)` for scalars, `(rows, 2 * radius + 1)` for grid vectors.

        Raises:
            KeyError: the subscription has no such field.
        """
        import pyarrow as pa

        column = self.to_arrow().column(field)
        vector = pa.types.is_fixed_size_list(column.type)
        values: np.ndarray = (column.flatten() if vector else column).to_numpy(zero_copy_only=False)
        return values.reshape(len(column), column.type.list_size) if vector else values


class Subscription:
    """The frames of one subscription, as an asynchronous iterator; it ends with the tape.

    Attributes:
        agreed: the gateway's answer: `cursor`, `runtime_config`, `fields` with units; empty until it came.
        gaps: missing ranges of the source, as the gateway told them.
        left_out: rows that conflation left out so far.
        stale_ms: how long the source has been silent; 0 while rows come.
    """

    def __init__(self, client: "Client", number: int, request: dict[str, Any]) -> None:
        self.agreed: dict[str, Any] = {}
        self.gaps: list[dict[str, Any]] = []
        self.left_out = 0
        self.stale_ms = 0
        self._client, self._number, self._request = client, number, request
        self._queue: asyncio.Queue[Frame | BarographError | None] = asyncio.Queue(QUEUE_FRAMES)
        self._schema = b""
        self._started = False

    @property
    def cursor(self) -> str:
        """The last row that the gateway reported as sent; give it as `start=` to go on behind it."""
        return str(self.agreed.get("cursor", ""))

    async def __aiter__(self) -> AsyncIterator[Frame]:
        await self._start()
        try:
            while True:
                item = await self._queue.get()
                if item is None:
                    return
                if isinstance(item, BarographError):
                    raise item
                self.left_out += item.left_out
                yield item
        finally:
            await self.close()

    async def close(self) -> None:
        """Leave the subscription; the connection stays."""
        await self._client._leave(self._number)

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            await self._client._say({"op": "subscribe", "id": self._number, **self._request})

    async def _take(self, data: bytes) -> None:
        kind = data[1]
        if kind == _SCHEMA:
            self._schema = data[HEADER.size :]
        elif kind == _BATCH:
            self.stale_ms = 0
            await self._queue.put(Frame(data, self._schema))
        elif kind == _END:
            await self._queue.put(None)

    async def _told(self, message: dict[str, Any]) -> None:
        op = message["op"]
        if op == "subscribed":
            self.agreed = message
        elif op == "position" and message["cursor"]:
            self.agreed["cursor"] = message["cursor"]
        elif op == "gap":
            self.gaps.append(message)
        elif op == "stale":
            self.stale_ms = message["age_ms"]
        elif op == "error":
            await self._queue.put(GatewayError(message["code"], message["message"]))


class Client:
    """A connection to a gateway; an asynchronous context manager, made by `connect`.

    Attributes:
        hello: what the gateway said first: `tapes`, `lines`, `instruments`, `limits`.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self.hello: dict[str, Any] = {}
        self._url, self._token = url, token
        self._subscriptions: dict[int, Subscription] = {}
        self._next_number = 1

    async def __aenter__(self) -> Self:
        from websockets.asyncio.client import connect as dial
        from websockets.exceptions import InvalidHandshake
        from websockets.typing import Subprotocol

        try:
            self._socket: ClientConnection = await dial(
                self._url,
                subprotocols=[Subprotocol(PROTOCOL)],
                compression=None,
                max_size=MESSAGE_BYTES_MAX,
                max_queue=8,
                open_timeout=OPEN_S,
            )
        except (OSError, TimeoutError, InvalidHandshake) as error:
            raise MissingServiceError(
                f"no gateway answers at {self._url} ({error})",
                remedy="start one with `barograph up`, or correct the address",
            ) from error
        if self._token is not None:
            await self._say({"op": "auth", "token": self._token})
        self.hello = json.loads(await asyncio.wait_for(self._socket.recv(), OPEN_S))
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader
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
        start: str = "live",
    ) -> Subscription:
        """Subscribe to a stream; nothing is sent until the result is iterated.

        Args:
            stream: `grid`, `bins` or `trades`.
            tape, line, instrument: what to watch; see `hello`.
            fields: names as in `schemas.bins`; a small set if not given.
            radius: ticks on each side of the mid; the line's own if not given.
            dtype: `f32` or `f64` for grid vectors.
            max_rate_hz: newest row at most this often; every row if not given.
            start: `live`, a cursor, `bin/N`, or `@ns` since the epoch.
        """
        asked = {"fields": list(fields) if fields else None, "radius": radius, "max_rate_hz": max_rate_hz}
        request = {
            "stream": stream,
            "tape": tape,
            "line": line,
            "instrument": instrument,
            "dtype": dtype,
            "from": start,
            **{key: value for key, value in asked.items() if value is not None},
        }
        subscription = Subscription(self, self._next_number, request)
        self._subscriptions[self._next_number] = subscription
        self._next_number += 1
        return subscription

    async def _say(self, message: dict[str, Any]) -> None:
        await self._socket.send(json.dumps(message))

    async def _leave(self, number: int) -> None:
        from websockets.exceptions import ConnectionClosed

        if self._subscriptions.pop(number, None) is not None:
            with suppress(ConnectionClosed):
                await self._say({"op": "unsubscribe", "id": number})

    async def _read(self) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            async for message in self._socket:
                await self._dispatch(message)
            reason = f"{self._socket.close_code} {self._socket.close_reason}".strip()
        except ConnectionClosed as error:
            reason = str(error)
        for subscription in list(self._subscriptions.values()):
            await subscription._queue.put(ConnectionLostError(reason, subscription.cursor))

    async def _dispatch(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            subscription = self._subscriptions.get(HEADER.unpack_from(message)[3])
            if subscription is not None:
                await subscription._take(message)
            return
        told = json.loads(message)
        subscription = self._subscriptions.get(told.get("id", -1))
        if subscription is not None:
            await subscription._told(told)


def connect(url: str, *, token: str | None = None) -> Client:
    """A connection to the gateway at `url` (`ws://host:port/v1/stream`), to be used with `async with`.

    Args:
        url: the gateway's address; `barograph status` prints it.
        token: for gateways that ask for one.
    """
    return Client(url, token)
