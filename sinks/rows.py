"""Messages to rows, pure: the one builder behind ClickHouse and lake.

Values are decoded block by block, never record by record: raw records are viewed in place, derived rows are already
Arrow; only Avro records, which are rare, are read one by one. Nothing is converted on the way: order ids stay unsigned,
missing values keep their sentinels, times stay ns.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from runtime.codec import decode_batches
from runtime.errors import InputError
from schemas.columns import Column
from schemas.mbo import MBO_DTYPE
from sinks.base import Batch, Entry
from sinks.records import record_rows
from sinks.tables import KEY_COLUMNS, KEY_INTEGERS, LETTERS, MBO_COLUMNS, TableSpec

_LETTERS: Final = pa.array([chr(byte) for byte in range(256)])
"""Text of each byte that a one-letter field may hold; reversible for every byte."""


class BadMessageError(InputError):
    """The value of a message is not what its headers or its stream say.

    Args:
        entry: the message.
        reason: what is wrong.
    """

    def __init__(self, entry: Entry, reason: str) -> None:
        self.entry, self.reason = entry, reason
        message = entry.message
        super().__init__(
            f"{message.topic}[{message.partition}] offset {message.offset}: {reason}",
            remedy="the producer is of another version or broken; replay the tape",
        )


def build_rows(batch: Batch) -> pa.Table:
    """All rows of a batch: key columns, then the stream's columns.

    Raises:
        BadMessageError: a value that cannot be decoded, another row count than its header says, other columns.
    """
    entries = [entry for entry in batch.entries if rows_in(entry, batch.lane.table)]
    data = _data(batch.lane.table, entries)
    keys = _keys(batch, entries)
    fields = [*keys.schema, *data.schema]
    return pa.table([*keys.columns, *data.columns], schema=pa.schema(fields))


def rows_in(entry: Entry, table: TableSpec) -> int:
    """Rows that a message gives in a table: among several producers of records one may send another record."""
    return entry.rows if not table.record or entry.message.envelope.schema == table.topic.avro else 0


def _data(table: TableSpec, entries: Sequence[Entry]) -> pa.Table:
    if table.record:
        return record_rows([entry.message for entry in entries], table.topic.avro, table.fields)
    return _raw_rows(entries) if table.raw else _derived_rows(entries, table.columns)


def _keys(batch: Batch, entries: Sequence[Entry]) -> pa.Table:
    counts = np.array([entry.rows for entry in entries], np.int64)
    rows = int(counts.sum())
    ends = np.cumsum(counts)
    lane = batch.lane
    columns = {
        "tape": _repeated([lane.tape] * len(entries), counts),
        "line": _repeated([lane.row_line] * len(entries), counts),
        "instrument": _repeated([entry.message.instrument for entry in entries], counts),
        "partition": np.full(rows, lane.partition),
        "seq": np.repeat(np.array([entry.seq for entry in entries], np.int64), counts),
        "part": np.repeat(np.array([entry.part for entry in entries], np.int64), counts),
        "row": np.arange(rows) - np.repeat(ends - counts, counts),
        "run": _repeated([entry.message.envelope.run for entry in entries], counts),
    }
    arrays = [pa.array(columns[n].astype(KEY_INTEGERS[n])) if n in KEY_INTEGERS else columns[n] for n in KEY_COLUMNS]
    return pa.table(arrays, names=list(KEY_COLUMNS))


def _repeated(values: Sequence[str], counts: np.ndarray) -> pa.Array:
    """Each value as often as its count says, as a dictionary array."""
    names, codes = np.unique(np.array(values, dtype=np.str_), return_inverse=True)
    indices = np.repeat(codes.astype(np.int32), counts)
    return pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(names.tolist(), pa.string()))


def _raw_rows(entries: Sequence[Entry]) -> pa.Table:
    """Records column by column; block by block, since one stays in the cache while its fields are picked apart."""
    blocks = [np.frombuffer(entry.message.value, MBO_DTYPE) for entry in entries]  # whole, or they had no rows
    rows = sum(map(len, blocks))
    columns = {name: np.empty(rows, MBO_DTYPE[name]) for name in MBO_COLUMNS}
    start = 0
    for block in blocks:
        stop = start + len(block)
        for name, cells in columns.items():
            cells[start:stop] = block[name]
        start = stop
    return pa.table({name: _raw_column(name, cells) for name, cells in columns.items()})


def _raw_column(name: str, cells: np.ndarray) -> pa.Array:
    if name in LETTERS:
        return pa.DictionaryArray.from_arrays(pa.array(cells.view(np.uint8)), _LETTERS)
    return pa.array(cells)


def _derived_rows(entries: Sequence[Entry], columns: Sequence[Column]) -> pa.Table:
    batches: list[pa.RecordBatch] = []
    checked: pa.Schema | None = None
    for entry in entries:
        found = _decoded(entry)
        for batch in found:
            if checked is None or not batch.schema.equals(checked):
                _check_columns(entry, batch.schema, columns)
                checked = batch.schema
        if sum(batch.num_rows for batch in found) != entry.rows:
            raise BadMessageError(entry, f"the value does not hold the {entry.rows} rows that its header says")
        batches += found
    names = [column.name for column in columns]
    if not batches:
        return pa.table([pa.array([], column.arrow_type) for column in columns], names=names)
    if len({tuple(map(_width, batch.schema.types)) for batch in batches}) > 1:
        raise BadMessageError(entries[-1], "rows of two grid widths stand in one batch")
    schemas = {batch.schema.remove_metadata() for batch in batches}
    if len(schemas) > 1:  # another producer's, which may hold nulls
        _refuse_nulls(entries)
        batches = [batch.replace_schema_metadata(None).cast(batches[0].schema.remove_metadata()) for batch in batches]
    table = pa.Table.from_batches(batches).replace_schema_metadata(None).combine_chunks()
    if _has_nulls(table):
        _refuse_nulls(entries)
    return table


def _decoded(entry: Entry) -> list[pa.RecordBatch]:
    try:
        return decode_batches(entry.message.value)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadMessageError(entry, f"the value is not an Arrow stream ({error})") from error


def _check_columns(entry: Entry, schema: pa.Schema, columns: Sequence[Column]) -> None:
    """Names, order and types as declared; the width of vectors is configuration."""
    wanted = [(c.name, _element(c.arrow_type), bool(c.width)) for c in columns]
    found = [(f.name, _element(f.type), pa.types.is_fixed_size_list(f.type)) for f in schema]
    for declared, actual in zip(wanted, found, strict=False):
        if declared != actual:
            raise BadMessageError(entry, f"column {actual[0]} ({actual[1]}) stands where {declared[0]} is declared")
    if len(wanted) != len(found):
        raise BadMessageError(entry, f"{len(found)} columns, declared are {len(wanted)}")


def _has_nulls(table: pa.Table) -> bool:
    """Whether any cell is null, in vectors too."""
    chunks = (chunk for column in table.columns for chunk in column.chunks)
    return any(c.null_count or (pa.types.is_fixed_size_list(c.type) and c.flatten().null_count) for c in chunks)


def _refuse_nulls(entries: Sequence[Entry]) -> None:
    """A missing value is its column's sentinel; a null would be stored as 0."""
    for entry in entries:
        for batch in _decoded(entry):
            for field, array in zip(batch.schema, batch.columns, strict=True):
                if array.null_count or (_width(field.type) and array.flatten().null_count):
                    raise BadMessageError(entry, f"column {field.name} has nulls")


def _width(kind: pa.DataType) -> int:
    return kind.list_size if pa.types.is_fixed_size_list(kind) else 0


def _element(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_fixed_size_list(kind) else kind
