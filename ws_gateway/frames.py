"""Rows to bytes: the 24-byte header and the Arrow messages behind it, encoded once and shared by all who want the same.

Every binary message is a header and an Arrow IPC *encapsulated message*: the schema first (kind 0), then record batches
(kind 1), at last the end-of-stream marker (kind 3). The payloads of one subscription, put one after another, are an
Arrow IPC stream that any Arrow reader opens; nothing in it is compressed, because browsers' readers have no codec.

The header belongs to one subscription (number, age, what was left out), the payload to everyone with the same `Layout`.
So an `Encoder` keeps the newest payloads, and a thousand equal subscriptions cost one encoding.

References: Arrow columnar format, "Encapsulated message format" and "IPC streaming format".
"""

import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from schemas import bins, trades
from schemas.columns import ArrowRows, Column, Table, table_rows

Stream = Literal["bins", "grid", "trades"]
STREAMS: Final[tuple[Stream, ...]] = ("bins", "grid", "trades")

Dtype = Literal["f32", "f64"]
DTYPES: Final[dict[str, str]] = {"f32": "f4", "f64": "f8"}
"""Element types a subscription may ask its grid vectors in."""

VERSION: Final = 1
HEADER: Final = struct.Struct("<BBHIQII")
"""version, kind, flags, subscription, number, bins left out, age in microseconds."""

END_OF_STREAM: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""Payload of kind 3: Arrow's own end-of-stream marker."""

U32_MAX: Final = (1 << 32) - 1

ROWS_MAX: Final = 64
"""Rows in one batch at most. More would make the first row wait for the last; fewer costs a header and a schema lookup
each."""

BATCH_BYTES_MAX: Final = 256 << 10
"""Bytes of one batch at most (one row may exceed it). It bounds what one send adds to a client's buffer."""

CACHE_BYTES_MAX: Final = 256 << 10
"""Newest payloads kept by one encoder. Healthy readers are within a few rows of each other; those further behind pay
for their own encoding. Below a few rows every reader would encode for itself; far above it one client with many odd
layouts would hold memory for all of them."""


class Kind(IntEnum):
    """What a binary message holds."""

    SCHEMA = 0
    BATCH = 1
    DIGEST = 2
    END = 3


class Flag(IntFlag):
    """Marks of a binary message."""

    NONE = 0
    REPLAYED = 1
    GAP_BEFORE = 2
    CONFLATED = 4


def pack_header(kind: Kind, flags: Flag, subscription: int, number: int, left_out: int, age_us: int) -> bytes:
    """The 24 bytes before a payload; counts beyond 32 bits are shown as the largest."""
    return HEADER.pack(VERSION, kind, flags, subscription, number, min(left_out, U32_MAX), max(0, min(age_us, U32_MAX)))


CURSOR: Final = (
    Column("seq", "i8", "count", "number of the root message: the row's cursor with part and row"),
    Column("part", "i4", "count", "message among those of this seq"),
    Column("row", "i4", "count", "row within the message"),
)
_REST: Final = tuple(Column(n, "f8", bins._vector_unit(n), "sum of bid and ask", 1) for n in bins.REST_VECTORS)
_VECTORS: Final = {c.name: c for c in (*bins.engine_columns(0), *_REST) if c.width == 1}
_SCALARS: Final = {c.name: c for c in (*bins.HEADER, *bins.SCALARS)}
_LEVELS: Final = {c.name: c for c in bins.LEVEL_COLUMNS}
_TRADES: Final = {c.name: c for c in trades.COLUMNS}

GRID_ALWAYS: Final = ("spot_tick", "tick_px", "bucket")
"""Scalars of every grid batch: without them a vector has no prices."""

CHOICES: Final[dict[str, dict[str, Column]]] = {
    "bins": {**_SCALARS, **_LEVELS},
    "grid": {**_SCALARS, **_VECTORS},
    "trades": _TRADES,
}
"""Fields that may be asked for, by stream. Grid vectors stand here with width 1; the radius gives their width."""

DEFAULTS: Final[dict[str, tuple[str, ...]]] = {
    "bins": tuple(_SCALARS),
    "grid": ("bin_seq", "ts_end_ns", "book_state", "best_bid_px", "best_ask_px", "rest_depth"),
    "trades": tuple(_TRADES),
}
"""Fields of a subscription that names none."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the rows of a subscription look like; equal layouts of one instrument share their bytes.

    Attributes:
        stream: `bins`, `grid` or `trades`.
        fields: names, in the order asked for.
        radius: ticks on each side of the centre in grid vectors; 0 for streams without vectors.
        dtype: element type of floating grid vectors; scalars and counts keep their own.
    """

    stream: Stream
    fields: tuple[str, ...]
    radius: int
    dtype: Dtype

    def columns(self) -> tuple[Column, ...]:
        """Columns of a batch: scalars, the cursor, then vectors."""
        choices = CHOICES[self.stream]
        if self.stream != "grid":
            return (*(choices[name] for name in self.fields), *CURSOR)
        scalars = [n for n in self.fields if n in _SCALARS and n not in GRID_ALWAYS]
        width = 2 * self.radius + 1
        vectors = (self._vector(choices[n], width) for n in self.fields if n in _VECTORS)
        return (*(choices[n] for n in (*scalars, *GRID_ALWAYS)), *CURSOR, *vectors)

    def _vector(self, column: Column, width: int) -> Column:
        dtype = DTYPES[self.dtype] if column.dtype == "f8" else column.dtype
        return Column(column.name, dtype, column.unit, column.doc, width)

    def row_bytes(self) -> int:
        """Bytes of one row, without Arrow's padding."""
        return sum(c.row_bytes for c in self.columns())


@dataclass(frozen=True, slots=True)
class Block:
    """The rows of one message of a derived topic.

    Attributes:
        seq, part: the message's place.
        table: columns as arrays (schemas.columns.Table), read only.
        nbytes: size of the message's value.
        arrived_ns: connector's clock at the newest record, ns; -1 in replays.
        t_ns: engine time after the message, ns.
        run: identity of code and configuration that made the rows.
    """

    seq: int
    part: int
    table: Table
    nbytes: int
    arrived_ns: int = -1
    t_ns: int = 0
    run: str = ""

    @property
    def rows(self) -> int:
        """Rows in the block."""
        return table_rows(self.table)

    @property
    def radius(self) -> int:
        """Ticks on each side of the centre in its grid vectors; 0 when it has none."""
        vector = self.table.get(bins.MASSES[0])
        return 0 if vector is None else (vector.shape[1] - 1) // 2


def select(block: Block, layout: Layout, start: int, stop: int) -> dict[str, np.ndarray]:
    """Rows `start:stop` of a block in the layout's columns, vectors cut to its radius around the centre.

    Raises:
        KeyError: the block lacks a column.
    """
    rows = stop - start
    cut = slice(block.radius - layout.radius, block.radius + layout.radius + 1)
    out: dict[str, np.ndarray] = {
        "seq": np.full(rows, block.seq, "<i8"),
        "part": np.full(rows, block.part, "<i4"),
        "row": np.arange(start, stop, dtype="<i4"),
    }
    for c in layout.columns():
        if c.name in out:
            continue
        values = _values(block.table, c.name)[start:stop]
        out[c.name] = values[:, cut] if c.width and layout.stream == "grid" else values
    return out


def _values(table: Table, name: str) -> np.ndarray:
    if name in bins.REST_VECTORS:
        return np.add(table[name.replace("rest", "bid")], table[name.replace("rest", "ask")])
    return table[name]


class Encoder:
    """Arrow payloads of one instrument in one layout, each made once.

    A payload is known by its first row's number in the ring and its row count; the newest are kept.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.columns: Sequence[Column] = layout.columns()
        self.row_bytes = layout.row_bytes()
        self.rows_max = max(1, min(ROWS_MAX, BATCH_BYTES_MAX // self.row_bytes))
        self._arrow = ArrowRows(self.columns, self._metadata())
        self.schema: pa.Schema = self._arrow.schema
        self.schema_payload: bytes = self.schema.serialize().to_pybytes()
        self.encoded = 0
        self._cache: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._cache_bytes = 0

    def _metadata(self) -> dict[str, str]:
        return {"stream": self.layout.stream, "radius": str(self.layout.radius)}

    def payload(self, number: int, block: Block, start: int, stop: int) -> bytes:
        """The record batch of rows `start:stop` of a block; `number` is the ring's number of the first of them."""
        key = (number, stop - start)
        cached = self._cache.get(key)
        if cached is not None:
            return cached
        made = self._arrow.message(select(block, self.layout, start, stop))
        self.encoded += 1
        self._cache[key] = made
        self._cache_bytes += len(made)
        while self._cache_bytes > CACHE_BYTES_MAX and len(self._cache) > 1:
            self._cache_bytes -= len(self._cache.popitem(last=False)[1])
        return made
