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
from hashlib import sha256
from typing import Final, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from schemas import bins
from schemas.columns import ArrowRows, Column, Table, concat_tables, table_rows
from ws_gateway.catalogue import CURSOR, GRID, GRID_ALWAYS, SCALARS, TEXT, VECTORS, stream
from ws_gateway.onerow import OneRow
from ws_gateway.packed import Packed

Place = tuple[int, int]
"""(seq, part) of a message."""

Dtype = Literal["f32", "f64"]
DTYPES: Final[dict[str, str]] = {"f32": "f4", "f64": "f8"}
"""Element types a subscription may ask its grid vectors in."""

VERSION: Final = 1
HEADER: Final = struct.Struct("<BBHIQII")
"""version, kind, flags, subscription, number, bins left out, age in microseconds."""

END_OF_STREAM: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""Payload of kind 3: Arrow's own end-of-stream marker."""

OWN: Final = struct.Struct("<IQ")
OWN_AT: Final = 4
"""Subscription and number, and where they stand in the header: all in which two readers' copies of a frame differ."""

TEXT_FRAME: Final = b"\x81"
BINARY_FRAME: Final = b"\x82"
"""First byte of a WebSocket frame that is a whole message."""

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


TEXT_BYTES: Final = 64
"""What a text of a record counts for where bytes are estimated; ids have 64 characters, most texts fewer."""


class Kind(IntEnum):
    """What a binary message holds."""

    SCHEMA = 0
    BATCH = 1
    DIGEST = 2
    END = 3


BATCH: Final = int(Kind.BATCH)


class Flag(IntFlag):
    """Marks of a binary message."""

    NONE = 0
    REPLAYED = 1
    GAP_BEFORE = 2
    CONFLATED = 4


def pack_header(kind: Kind, flags: Flag, subscription: int, number: int, left_out: int, age_us: int) -> bytes:
    """The 24 bytes before a payload; counts beyond 32 bits are shown as the largest."""
    return HEADER.pack(VERSION, kind, flags, subscription, number, min(left_out, U32_MAX), max(0, min(age_us, U32_MAX)))


def frame_start(first: bytes, length: int) -> bytes:
    """What comes before a message's bytes in a WebSocket frame of a server (RFC 6455 section 5.2): 2, 4 or 10 bytes.

    Ours are whole messages, never masked and never compressed.
    """
    if length < 126:
        return first + length.to_bytes(1, "big")
    if length < 65_536:
        return first + b"\x7e" + length.to_bytes(2, "big")
    return first + b"\x7f" + length.to_bytes(8, "big")


@dataclass(frozen=True, slots=True)
class Layout:
    """What the rows of a subscription look like; equal layouts of one instrument share their bytes.

    Attributes:
        stream: name of the stream.
        fields: names, in the order asked for.
        radius: ticks on each side of the centre in grid vectors; 0 for streams without vectors.
        dtype: element type of floating grid vectors; scalars and counts keep their own.
    """

    stream: str
    fields: tuple[str, ...]
    radius: int
    dtype: Dtype

    def columns(self) -> tuple[Column, ...]:
        """Columns of a batch: scalars, the cursor, then vectors."""
        choices = stream(self.stream).fields
        if self.stream != GRID:
            return (*(choices[name] for name in self.fields), *CURSOR)
        scalars = [n for n in self.fields if n in SCALARS and n not in GRID_ALWAYS]
        width = 2 * self.radius + 1
        vectors = (self._vector(choices[n], width) for n in self.fields if n in VECTORS)
        return (*(choices[n] for n in (*scalars, *GRID_ALWAYS)), *CURSOR, *vectors)

    def _vector(self, column: Column, width: int) -> Column:
        dtype = DTYPES[self.dtype] if column.dtype == "f8" else column.dtype
        return Column(column.name, dtype, column.unit, column.doc, width)

    def row_bytes(self) -> int:
        """Bytes of one row, without Arrow's padding."""
        return sum(TEXT_BYTES if c.dtype == TEXT else c.row_bytes for c in self.columns())


@dataclass(frozen=True, slots=True)
class Block:
    """The rows of one message of a derived topic.

    Attributes:
        seq, part: the message's place.
        table: columns as arrays (schemas.columns.Table), read only.
        nbytes: memory that it holds, for budgets.
        arrived_ns: connector's clock at the newest record, ns; -1 in replays.
        t_ns: engine time after the message, ns.
        run: identity of code and configuration that made the rows.
        time: name of the column by which the rows are ordered in time; empty: they all have `t_ns`.
    """

    seq: int
    part: int
    table: Table
    nbytes: int
    arrived_ns: int = -1
    t_ns: int = 0
    run: str = ""
    time: str = ""

    @property
    def place(self) -> Place:
        """(seq, part) of the message."""
        return self.seq, self.part

    @property
    def times(self) -> np.ndarray:
        """Event time of each row, ns: int64 of shape `(rows,)`."""
        known = self.table.get(self.time)
        return np.full(self.rows, self.t_ns, "<i8") if known is None else known

    @property
    def rows(self) -> int:
        """Rows in the block."""
        table = self.table
        return table.rows if isinstance(table, Packed) else table_rows(table)

    @property
    def radius(self) -> int:
        """Ticks on each side of the centre in its grid vectors; 0 when it has none."""
        vector = self.table.get(bins.MASSES[0])
        return 0 if vector is None else (vector.shape[1] - 1) // 2


class Piece(NamedTuple):
    """Rows `start` up to before `stop` of a block."""

    block: Block
    start: int
    stop: int


class SchemaChangedError(ValueError):
    """Rows that do not have what a layout was agreed to show.

    Args:
        reason: what is different.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def select(piece: Piece, layout: Layout, columns: Sequence[Column]) -> dict[str, np.ndarray]:
    """The rows of a piece in the layout's columns, vectors cut to its radius around the centre.

    Raises:
        SchemaChangedError: the block lacks a column, or its grid is narrower.
    """
    block, start, stop = piece
    rows = stop - start
    if layout.stream == GRID and block.radius < layout.radius:
        raise SchemaChangedError("the line's radius changed")
    cut = slice(block.radius - layout.radius, block.radius + layout.radius + 1)
    out: dict[str, np.ndarray] = {
        "seq": _repeated(block.seq, rows, "<i8"),
        "part": _repeated(block.part, rows, "<i4"),
        "row": np.arange(start, stop, dtype="<i4"),
    }
    whole, grid = rows == block.rows, layout.stream == GRID
    for c in columns:
        name = c.name
        if name in out:
            continue
        try:
            values = np.add(*(block.table[n] for n in _SUMS[name])) if name in _SUMS else block.table[name]
        except KeyError:
            raise SchemaChangedError(f"rows have no column {name} any more") from None
        values = values if whole else values[start:stop]
        out[name] = values[:, cut] if grid and c.width else values
    return out


_SUMS: Final = {name: (name.replace("rest", "bid"), name.replace("rest", "ask")) for name in bins.REST_VECTORS}
"""Vectors that no topic has, and the two of which each is the sum."""


def _repeated(value: int, rows: int, dtype: str) -> np.ndarray:
    """What `numpy.full` gives, in a tenth of the time."""
    out = np.empty(rows, dtype)
    out.fill(value)
    return out


class Frame:
    """An encoded payload and, once anybody asks, the 16 bytes by which digests know it."""

    __slots__ = ("_hash", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self._hash = b""

    @property
    def hash(self) -> bytes:
        """First 16 bytes of the payload's sha256; computed once, whoever asks."""
        if not self._hash:
            self._hash = sha256(self.payload).digest()[:16]
        return self._hash


class _TextRows:
    """Tables with texts to Arrow: what `schemas.columns.ArrowRows` is for columns of fixed width."""

    def __init__(self, columns: Sequence[Column], metadata: dict[str, str]) -> None:
        fields = [
            pa.field(c.name, pa.utf8() if c.dtype == TEXT else c.arrow_type, nullable=False, metadata={"unit": c.unit})
            for c in columns
        ]
        self.schema = pa.schema(fields, metadata)

    def message(self, table: Table) -> bytes:
        """A table as an encapsulated Arrow message."""
        arrays = [_text(table[f.name]) if f.type == pa.utf8() else _numbers(table[f.name]) for f in self.schema]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self.schema)
        return bytes(batch.serialize().to_pybytes())


def _text(values: np.ndarray) -> pa.Array:
    """Texts as Arrow, made of buffers: `pa.array` would import pandas first, a quarter of a second on the loop."""
    encoded = [text.encode() for text in values.tolist()]
    offsets = np.zeros(len(encoded) + 1, "<i4")
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.utf8(), len(encoded), buffers, 0)


def _numbers(values: np.ndarray) -> pa.Array:
    flat = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(flat.dtype), flat.size, [None, pa.py_buffer(flat)], 0)


class Encoder:
    """Arrow payloads of one instrument in one layout, each made once.

    A payload is known by the places of its first and last row and its row count; the newest are kept.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.columns: Sequence[Column] = layout.columns()
        self.row_bytes = layout.row_bytes()
        self.rows_max = max(1, min(ROWS_MAX, BATCH_BYTES_MAX // self.row_bytes))
        text = any(c.dtype == TEXT for c in self.columns)
        self._arrow = (_TextRows if text else ArrowRows)(self.columns, self._metadata())
        self._one: OneRow | None = None
        self.schema: pa.Schema = self._arrow.schema
        self.schema_frame = Frame(self.schema.serialize().to_pybytes())
        self.encoded = 0
        self._cache: OrderedDict[tuple[int, ...], Frame] = OrderedDict()
        self._cache_bytes = 0

    def _metadata(self) -> dict[str, str]:
        return {"stream": self.layout.stream, "radius": str(self.layout.radius)}

    def frame(self, pieces: Sequence[Piece]) -> Frame:
        """The record batch of some rows in order.

        Raises:
            SchemaChangedError: they are not what was agreed.
        """
        first, last = pieces[0], pieces[-1]
        rows = sum(piece.stop - piece.start for piece in pieces)
        key = (*first.block.place, first.start, *last.block.place, last.stop, rows)
        cached = self._cache.get(key)
        if cached is not None:
            return cached
        made = Frame(self._single(first.block) if first.block.rows == rows == 1 else self._joined(pieces))
        self.encoded += 1
        self._cache[key] = made
        self._cache_bytes += len(made.payload)
        while self._cache_bytes > CACHE_BYTES_MAX and len(self._cache) > 1:
            self._cache_bytes -= len(self._cache.popitem(last=False)[1].payload)
        return made

    def _joined(self, pieces: Sequence[Piece]) -> bytes:
        tables = [select(piece, self.layout, self.columns) for piece in pieces]
        return self._arrow.message(concat_tables(tables, self.columns))

    def _single(self, block: Block) -> bytes:
        """The message of a block of one row: the short way, where it is packed."""
        table = block.table
        arrow = self._arrow
        if not isinstance(table, Packed) or not isinstance(arrow, ArrowRows):
            return self._joined([Piece(block, 0, 1)])
        row = table.array.dtype
        if self._one is None or self._one.row is not row:
            if block.radius < self.layout.radius:
                return self._joined([Piece(block, 0, 1)])  # which says so, also where no vector is asked for
            try:
                self._one = OneRow(row, self.columns, arrow, _SUMS)
            except (KeyError, ValueError):
                return self._joined([Piece(block, 0, 1)])  # which says what is wrong
        return self._one.message(table.array, block.seq, block.part)
