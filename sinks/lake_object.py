"""One object of the lake from a batch: Parquet rows with the index of messages in the footer, and DBN; pure.

`runtime.lake_format` says what an object is and makes the messages again. Rows are for people and queries: any Parquet
reader scans them, times are int64 ns, sizes and ids exact. Readers of Parquet know times in microseconds best, and skip
row groups by them; so one column of that kind is added, under the name that ClickHouse has for it. It is missing where
the time is (UNDEF), and no message is made of it.
"""

import io
from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from runtime import lake_format
from runtime.lake_format import INDEX_KEY, decode_index, encode_index, read_index
from sinks.base import Batch, Entry
from sinks.parquet import writer_options
from sinks.rows import build_rows, rows_in
from sinks.tables import TableSpec

__all__ = ["as_text", "content_of", "decode_object", "encode_object", "read_index", "read_places", "write_parquet"]

_MICROSECONDS: Final = pa.timestamp("us", tz="UTC")


def encode_object(batch: Batch) -> bytes:
    """The Parquet file of a batch; equal bytes for equal batches.

    Raises:
        BadMessageError: a message of it is not what it should be.
    """
    return write_parquet(with_time(build_rows(batch), batch.lane.table), encode_index(_index(batch)))


def write_parquet(rows: pa.Table, index: bytes) -> bytes:
    """The Parquet file of rows and the footer value of their index."""
    table = rows.replace_schema_metadata({INDEX_KEY: index})
    out = io.BytesIO()
    pq.write_table(table, out, **writer_options(table.schema))
    return out.getvalue()


def with_time(rows: pa.Table, table: TableSpec) -> pa.Table:
    """Rows with the table's first time in microseconds, rounded down, as their last column; some records have none."""
    if not table.time:
        return rows
    name = table.time[0]
    times = rows.column(name).to_numpy()
    known = times <= np.iinfo(np.int64).max  # of unsigned times those above are UNDEF
    micros = np.floor_divide(np.where(known, times, 0).astype(np.int64), 1000)
    column = pa.array(micros, pa.int64()).cast(_MICROSECONDS)
    column = pa.compute.if_else(pa.array(known), column, pa.scalar(None, _MICROSECONDS))
    return rows.append_column(f"{name.removesuffix('_ns')}_utc", column)


def read_places(data: bytes) -> pa.Table:
    """Columns seq, part, row of an object's rows."""
    return pq.read_table(pa.BufferReader(data), columns=["seq", "part", "row"])


def content_of(data: bytes) -> tuple[pa.Table | None, pa.Table] | None:
    """Rows, if there are any, and message index of an object, to be compared; None if it cannot be read.

    An object without rows may not know how wide its vectors would be, and one that lost some knows words that no row
    has any more; neither is a difference.
    """
    try:
        rows = pq.read_table(pa.BufferReader(data))
        return as_text(rows) if rows.num_rows else None, decode_index(rows.schema.metadata)
    except (pa.ArrowException, OSError, ValueError):
        return None


def as_text(rows: pa.Table) -> pa.Table:
    """Rows with text as text: how texts are numbered depends on where objects were cut, and on who wrote them."""
    fields = [f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in rows.schema]
    return rows.cast(pa.schema(fields)).replace_schema_metadata(None)


def decode_object(data: bytes, table: TableSpec, topic: str, partition: int) -> Iterator[Entry]:
    """Every message of an object, in order, as it was in Kafka.

    Args:
        data: the object.
        table: what its rows are.
        topic, partition: where the messages were.
    """
    for placed in lake_format.decode_object(data, table.name, topic, partition):
        yield Entry(placed.message, placed.seq, placed.part, placed.deleted)


def _headers(entry: Entry) -> list[dict[str, object]]:
    """Headers as the index has them; of a deleted message without what they say of its content."""
    headers = entry.message.envelope.to_headers()
    return [{"name": n, "value": value} for n, value in headers if not (entry.deleted and n == "summary")]


def _index(batch: Batch) -> list[dict[str, object]]:
    table, rows = batch.lane.table, list[dict[str, object]]()
    for entry in batch.entries:
        message, envelope, count = entry.message, entry.message.envelope, rows_in(entry, batch.lane.table)
        rows.append(
            {
                "seq": entry.seq,
                "part": entry.part,
                "last": envelope.last,
                "kind": envelope.kind,
                "t": envelope.t,
                "instrument": message.instrument,
                "rows": count,
                "offset": message.offset,
                "timestamp_ms": message.timestamp_ms,
                "headers": _headers(entry),
                "value": None if entry.deleted or (count and not table.record) else message.value,
                "deleted": entry.deleted,
            }
        )
    return rows
