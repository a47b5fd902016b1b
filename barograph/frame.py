"""A frame: some rows of one stream, as the gateway sent them.

A binary message is a 24-byte little-endian header and an encapsulated Arrow message:

    0  u8   version, 1          4   u32  subscription id
    1  u8   kind                8   u64  number, +1 for each message of the subscription
    2  u16  flags               16  u32  rows left out by conflation since the message before
                                20  u32  age, microseconds; 0 in replays

The payload stays where the socket put it; Arrow, polars and NumPy are views into it. They are imported by the first
frame that is asked for them, so that a program that only counts or stores bytes needs none.
"""

import struct
from hashlib import sha256
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

HEADER: Final = struct.Struct("<BBHIQII")
VERSION: Final = 1
SCHEMA, BATCH, DIGEST, END = 0, 1, 2, 3
_REPLAYED, _GAP, _CONFLATED = 1, 2, 4


class Frame:
    """Some rows of one stream, as they came.

    Attributes:
        number: +1 for each message of the subscription on one connection.
        left_out: rows that conflation left out just before this frame.
        age_us: from the connector's clock at the newest record to the gateway's send, microseconds; 0 in replays.
        replayed: whether the rows are from the past, sent to catch up.
        gap_before: whether the source lacks rows before these; what is missing stands in `Subscription.gaps`.
        conflated: whether these are the first rows after some that were left out.
        turn: seeks that were answered before it; a frame of an earlier turn is of the place before.
    """

    __slots__ = (
        "_batch", "_payload", "_schema", "age_us", "conflated", "gap_before", "left_out", "number", "replayed", "turn",
    )  # fmt: skip

    def __init__(self, data: bytes, schema: bytes, turn: int = 0) -> None:
        self.turn = turn
        _, _, flags, _, self.number, self.left_out, self.age_us = HEADER.unpack_from(data)
        self.replayed, self.gap_before = bool(flags & _REPLAYED), bool(flags & _GAP)
        self.conflated = bool(flags & _CONFLATED)
        self._payload, self._schema = memoryview(data)[HEADER.size :], schema
        self._batch: pa.RecordBatch | None = None

    @property
    def payload(self) -> memoryview:
        """The bytes of the Arrow message. Those of a subscription behind `Subscription.schema` are an Arrow stream."""
        return self._payload

    def to_arrow(self) -> "pa.RecordBatch":
        """The rows as an Arrow record batch, without copying."""
        if self._batch is None:
            import pyarrow as pa

            schema = pa.ipc.read_schema(pa.py_buffer(self._schema))
            self._batch = pa.ipc.read_record_batch(pa.py_buffer(self._payload), schema)
        return self._batch

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

    def place(self) -> tuple[int, int, int]:
        """`seq`, `part` and `row` of the last row: what its cursor ends with."""
        seq, part, row = (int(self.to_arrow().column(name)[-1].as_py()) for name in ("seq", "part", "row"))
        return seq, part, row


def payload_hash(data: bytes) -> bytes:
    """The 16 bytes by which digests know a message: the first of its payload's sha256."""
    return sha256(memoryview(data)[HEADER.size :]).digest()[:16]
