"""One object of the lake: a Parquet file with the rows of a batch, and in its footer the index of its messages; pure.

Rows are for people and queries: any Parquet reader scans them, times are int64 ns, sizes and ids exact. The index is
for replays: from it and the rows, every message can be made again as it was in Kafka, empty ones too. It lies in the
file's key-value metadata as a compressed Arrow table, one row per message:

    seq, part, last, kind, t, instrument, rows     what readers look for
    offset, timestamp_ms, headers                  Kafka's side: every header in order, as bytes
    value                                          bytes of messages that are no rows (definitions); else missing
"""

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from runtime.codec import encode_rows
from schemas.columns import Column, from_arrow
from schemas.envelope import read_headers
from schemas.mbo import MBO_BYTES, MBO_DTYPE
from schemas.message import Message
from sinks.base import Batch, Entry
from sinks.parquet import writer_options
from sinks.rows import build_rows
from sinks.tables import LETTERS, MBO_COLUMNS, TableSpec

INDEX_KEY: Final = b"barograph.messages"
"""Key of the message index in the Parquet footer; base64 because readers take metadata for text."""

_INDEX: Final = pa.schema(
    [
        ("seq", pa.int64()),
        ("part", pa.int32()),
        ("last", pa.bool_()),
        ("kind", pa.string()),
        ("t", pa.int64()),
        ("instrument", pa.string()),
        ("rows", pa.int32()),
        ("offset", pa.int64()),
        ("timestamp_ms", pa.int64()),
        ("headers", pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))),
        ("value", pa.binary()),
    ]
)


def encode_object(batch: Batch) -> bytes:
    """The Parquet file of a batch; equal bytes for equal batches.

    Raises:
        BadMessageError: a message of it is not what it should be.
    """
    rows = build_rows(batch)
    metadata = {INDEX_KEY: base64.b64encode(_encode_index(batch.entries))}
    table = rows.replace_schema_metadata(metadata)
    out = io.BytesIO()
    pq.write_table(table, out, **writer_options(table.schema))
    return out.getvalue()


def read_index(data: bytes) -> pa.Table:
    """The message index of an object.

    Raises:
        ValueError: it has none, so it is not an object of this lake.
    """
    return _decode_index(pq.ParquetFile(pa.BufferReader(data)).schema_arrow.metadata)


def read_places(data: bytes) -> pa.Table:
    """Columns seq, part, row of an object's rows."""
    return pq.read_table(pa.BufferReader(data), columns=["seq", "part", "row"])


def content_of(data: bytes) -> tuple[pa.Table, pa.Table] | None:
    """Rows and message index of an object, to be compared; None if it cannot be read."""
    try:
        rows = pq.read_table(pa.BufferReader(data))
        return rows.replace_schema_metadata(None), _decode_index(rows.schema.metadata)
    except (pa.ArrowInvalid, OSError, ValueError):
        return None


def decode_object(data: bytes, table: TableSpec, topic: str, partition: int) -> Iterator[Entry]:
    """Every message of an object, in order, as it was in Kafka.

    Args:
        data: the object.
        table: what its rows are.
        topic, partition: where the messages were.
    """
    rows = pq.read_table(pa.BufferReader(data))
    index = _decode_index(rows.schema.metadata)
    start = 0
    for at in index.to_pylist():
        value = at["value"] if at["value"] is not None else _value(rows.slice(start, at["rows"]), table)
        start += at["rows"]
        envelope, _ = read_headers([(h["name"], h["value"]) for h in at["headers"]], value)
        message = Message(topic, partition, at["offset"], at["timestamp_ms"], at["instrument"], value, envelope)
        yield Entry(message, at["seq"], at["part"])


def _encode_index(entries: Sequence[Entry]) -> bytes:
    rows = []
    for entry in entries:
        message, envelope = entry.message, entry.message.envelope
        rows.append(
            {
                "seq": entry.seq,
                "part": entry.part,
                "last": envelope.last,
                "kind": envelope.kind,
                "t": envelope.t,
                "instrument": message.instrument,
                "rows": entry.rows,
                "offset": message.offset,
                "timestamp_ms": message.timestamp_ms,
                "headers": [{"name": name, "value": value} for name, value in envelope.to_headers()],
                "value": None if entry.rows else message.value,
            }
        )
    out = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(out, _INDEX, options=options) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=_INDEX))
    return out.getvalue()


def _decode_index(metadata: dict[bytes, bytes] | None) -> pa.Table:
    encoded = (metadata or {}).get(INDEX_KEY)
    if encoded is None:
        raise ValueError("the Parquet file has no message index")
    return pa.ipc.open_stream(base64.b64decode(encoded)).read_all()


def _value(rows: pa.Table, table: TableSpec) -> bytes:
    """The bytes that rows travelled as."""
    if table.raw:
        return _records(rows).tobytes()
    columns = tuple(_as_stored(column, rows.schema.field(column.name).type) for column in table.columns)
    return encode_rows(from_arrow(rows, columns), columns)


def _as_stored(column: Column, kind: pa.DataType) -> Column:
    """The declared column with the width of vectors that the file has."""
    width = kind.list_size if pa.types.is_fixed_size_list(kind) else 0
    return Column(column.name, column.dtype, column.unit, column.doc, width)


def _records(rows: pa.Table) -> np.ndarray:
    records = np.zeros(len(rows), MBO_DTYPE)
    records["length"] = MBO_BYTES // 4
    for name in MBO_COLUMNS:
        column = rows.column(name)
        if name in LETTERS:
            letters = np.array(column.to_pylist(), dtype="U1")
            records[name] = np.char.encode(letters, "latin-1") if len(letters) else letters.astype("S1")
        else:
            records[name] = column.to_numpy()
    return records
