"""One way to declare a row: a tuple of columns, from which every representation is made.

A derived record (`bins`, `trades`) is declared once as a tuple of `Column`. From it come the Arrow schema that travels
on topics and lies in the lake, the packed NumPy row that hashes are taken over, and, in `sinks/ddl`, the ClickHouse
table. A table of rows in memory is a mapping from column name to array: shape `(rows,)` for scalars, `(rows, width)`
for vectors. Nothing else about a row is stored anywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import sha256
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa

Table: TypeAlias = Mapping[str, np.ndarray]


class ColumnError(ValueError):
    """A column of Arrow rows that is not as declared.

    Args:
        column: its name.
        reason: what is wrong with it.
    """

    def __init__(self, column: str, reason: str) -> None:
        self.column, self.reason = column, reason
        super().__init__(f"column {column} {reason}")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a derived record.

    Attributes:
        name: Field name, unit as suffix where it has one.
        dtype: NumPy type of one element: `i1 i4 i8 f8`.
        unit: Unit of the value, or what it counts.
        doc: Meaning, and the value that stands for "missing".
        width: 0 for a scalar, else the fixed number of elements of a vector.
        missing: what stands for the column in rows of a producer that did not have it yet; None: it must be there.
    """

    name: str
    dtype: str
    unit: str
    doc: str
    width: int = 0
    missing: float | None = None

    @property
    def numpy_dtype(self) -> np.dtype:
        """Little-endian element type."""
        return _numpy_dtype(self.dtype)

    @property
    def arrow_type(self) -> pa.DataType:
        """Arrow type: the element, or a fixed-size list of it."""
        return _arrow_type(self.dtype, self.width)

    @property
    def row_bytes(self) -> int:
        """Bytes that this column adds to a packed row."""
        return int(self.numpy_dtype.itemsize) * max(1, self.width)


# Types are asked for a hundred times for each batch; making them anew took as long as to copy its rows.


@cache
def _numpy_dtype(dtype: str) -> np.dtype:
    return np.dtype(dtype).newbyteorder("<")


@cache
def _arrow_type(dtype: str, width: int) -> pa.DataType:
    element = pa.from_numpy_dtype(np.dtype(dtype))
    return pa.list_(pa.field("item", element, nullable=False), width) if width else element


@cache
def _arrow_schema(columns: tuple[Column, ...]) -> pa.Schema:
    return pa.schema([pa.field(c.name, c.arrow_type, nullable=False, metadata={"unit": c.unit}) for c in columns])


def arrow_schema(columns: Sequence[Column], metadata: Mapping[str, str] | None = None) -> pa.Schema:
    """Arrow schema of the columns in order; no field is nullable; each field carries its unit as metadata."""
    schema = _arrow_schema(tuple(columns))
    return schema.with_metadata(dict(metadata)) if metadata else schema


def row_dtype(columns: Sequence[Column]) -> np.dtype:
    """Packed little-endian row: the columns in order, no padding. What content hashes are taken over."""
    return np.dtype([(c.name, c.numpy_dtype, (c.width,)) if c.width else (c.name, c.numpy_dtype) for c in columns])


def empty_table(columns: Sequence[Column], rows: int = 0) -> dict[str, np.ndarray]:
    """A table of `rows` zeroed rows."""
    return {c.name: np.zeros((rows, c.width) if c.width else rows, c.numpy_dtype) for c in columns}


def table_rows(table: Table) -> int:
    """Number of rows of a table; 0 for a table without columns."""
    return next((len(a) for a in table.values()), 0)


def slice_table(table: Table, start: int, stop: int) -> dict[str, np.ndarray]:
    """Rows `start:stop` as views."""
    return {name: array[start:stop] for name, array in table.items()}


def concat_tables(tables: Sequence[Table], columns: Sequence[Column]) -> dict[str, np.ndarray]:
    """The rows of all tables in order; an empty table of the columns when there are none."""
    if len(tables) == 1:
        return dict(tables[0])
    if not tables:
        return empty_table(columns)
    return {c.name: np.concatenate([t[c.name] for t in tables]) for c in columns}


class ArrowRows:
    """Tables of the same columns to Arrow, again and again: what does not change from table to table is made once.

    Columns have fixed widths and no nulls, so two batches of as many rows differ in the bytes of their values only:
    Arrow writes the first one, and what it wrote around the values is kept for the next. That is ten times faster, and
    a stage's thread does not wait for the interpreter lock a hundred times, behind each call that releases it.

    Args:
        columns: of the tables.
        metadata: of the schema.

    Attributes:
        schema: the Arrow schema.
    """

    def __init__(self, columns: Sequence[Column], metadata: Mapping[str, str] | None = None) -> None:
        self.schema = arrow_schema(columns, metadata)
        self._columns = [(c.name, c.numpy_dtype) for c in columns]
        self._types = [(c.arrow_type, c.arrow_type.value_type if c.width else None) for c in columns]
        self._head: bytes = self.schema.serialize().to_pybytes()
        self._frame = lru_cache(FRAMES_MAX)(self._make_frame)

    def batch(self, table: Table) -> pa.RecordBatch:
        """A table as one record batch, without copying contiguous arrays.

        Arrays are made of buffers: `pa.array` would import pandas first, a quarter of a second in every process.
        """
        arrays = []
        for flat, (kind, element) in zip(self._arrays(table), self._types, strict=True):
            values = pa.Array.from_buffers(element or kind, flat.size, [None, pa.py_buffer(flat)], 0)
            arrays.append(pa.Array.from_buffers(kind, len(flat), [None], 0, 0, [values]) if element else values)
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def message(self, table: Table) -> bytes:
        """A table as an encapsulated Arrow message; the same bytes as Arrow gives for `batch`."""
        return b"".join(self._pieces(table))

    def stream(self, table: Table) -> bytes:
        """A table as a whole Arrow IPC stream of one batch; the same bytes as Arrow's own stream writer gives."""
        return b"".join((self._head, *self._pieces(table), _END_OF_STREAM))

    def places(self, table: Table) -> tuple[bytes, list[int]]:
        """A table's message, and where in it the values of each column begin."""
        pieces = self._pieces(table)
        sizes = [memoryview(piece).nbytes for piece in pieces]
        return b"".join(pieces), [sum(sizes[:i]) for i in range(1, len(sizes), 2)]

    def _arrays(self, table: Table) -> list[np.ndarray]:
        return [np.ascontiguousarray(table[name], dtype) for name, dtype in self._columns]

    def _pieces(self, table: Table) -> list[Any]:
        """What stands in the message before, between and behind the values of the columns, and these."""
        arrays = self._arrays(table)
        pieces: list[Any] = list(self._frame(len(arrays[0])))
        pieces[1::2] = arrays
        return pieces

    def _make_frame(self, rows: int) -> tuple[bytes, ...]:
        """The message of a table of zeros, cut before and behind each column's values; these are left out as empty."""
        columns = self._columns
        zeros = {
            name: np.zeros((rows, kind.list_size) if element else rows, dtype)
            for (name, dtype), (kind, element) in zip(columns, self._types, strict=True)
        }
        written = self.batch(zeros).serialize()
        frame, at = [], 0
        for column in pa.ipc.read_record_batch(written, self.schema).columns:  # views into what was written
            values = column.buffers()[-1]
            begin = values.address - written.address if values.size else at
            frame += [written[at:begin].to_pybytes(), b""]
            at = begin + zeros[columns[len(frame) // 2 - 1][0]].nbytes
        return (*frame, written[at:].to_pybytes())


FRAMES_MAX: Final = 64
"""Row counts whose frames one encoder keeps, a few kilobytes each. A topic's messages hold a few to some dozens of
rows; with far fewer, each would be written twice."""

_END_OF_STREAM: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""Continuation marker and length 0, as the Arrow columnar format names the end of a stream."""


def to_arrow(table: Table, columns: Sequence[Column], metadata: Mapping[str, str] | None = None) -> pa.RecordBatch:
    """The table as one Arrow record batch; see `ArrowRows`."""
    return ArrowRows(columns, metadata).batch(table)


def from_arrow(batch: pa.RecordBatch | pa.Table, columns: Sequence[Column]) -> dict[str, np.ndarray]:
    """The named columns of an Arrow batch or table as arrays; vectors get shape `(rows, width)`.

    A reader goes by name. Columns that it does not name are a newer producer's and are passed over; one that is not
    there is filled with its `missing`, if it declares one. Nothing is converted: an integer that came as a float, or a
    null, could only be guessed.

    Raises:
        ColumnError: a column is missing or twice there, has another type than declared, or has nulls.
    """
    return {c.name: _array(batch, c) for c in columns}


def _array(batch: pa.RecordBatch | pa.Table, c: Column) -> np.ndarray:
    places = batch.schema.get_all_field_indices(c.name)
    if not places and c.missing is not None:
        return np.full((batch.num_rows, c.width) if c.width else batch.num_rows, c.missing, c.numpy_dtype)
    if len(places) != 1:
        raise ColumnError(c.name, f"is there {len(places)} times" if places else "is missing")
    column = batch.column(places[0])
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if column.type != c.arrow_type:
        raise ColumnError(c.name, f"is {column.type}, expected {c.arrow_type}")
    flat = column.flatten() if c.width else column
    if nulls := column.null_count + (flat.null_count if c.width else 0):
        raise ColumnError(c.name, f"has {nulls} nulls")
    array: np.ndarray = flat.to_numpy(zero_copy_only=False)
    return array.reshape(len(column), c.width) if c.width else array


class RowHash:
    """Running sha256 over packed rows; equal for equal rows, however they were cut into tables."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = tuple(columns)
        self._dtype = row_dtype(columns)
        self._hash = sha256()
        self.rows = 0

    def update(self, table: Table) -> None:
        """Add the rows of a table, in order."""
        rows = table_rows(table)
        packed = np.empty(rows, self._dtype)
        for c in self._columns:
            packed[c.name] = table[c.name]
        self._hash.update(packed.view(np.uint8).data)
        self.rows += rows

    def hexdigest(self) -> str:
        """Hash of all rows so far, 64 hex digits."""
        return self._hash.hexdigest()


def hash_of_hashes(by_instrument: Mapping[str, str]) -> str:
    """sha256 over the sorted list of (instrument, hash), each as `instrument<TAB>hash<LF>` in UTF-8."""
    lines = "".join(f"{name}\t{digest}\n" for name, digest in sorted(by_instrument.items()))
    return sha256(lines.encode()).hexdigest()
