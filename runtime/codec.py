"""Values to bytes and back: Arrow for rows, Avro in Confluent's wire format for records.

Rows travel as an Arrow IPC *stream* without Arrow's own compression (the Kafka producer compresses with lz4, and
browsers cannot read compressed Arrow). A message without rows has an empty value. Avro values start with a zero byte
and a four-byte schema id (big endian), as Confluent's serializers write them; `runtime.avro_schemas` says what an id
means.
"""

import io
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, cast

import fastavro
import numpy as np
import pyarrow as pa
from fastavro.read import SchemaResolutionError

from runtime.avro_schemas import latest, reader_schema, writer_schema
from runtime.errors import InputError
from schemas.columns import ArrowRows, Column, Table, concat_tables, from_arrow, table_rows

_WIRE: Final = struct.Struct(">bI")

_DAMAGED: Final = (EOFError, ValueError, LookupError, OverflowError, MemoryError, struct.error)
"""What fastavro raises over bytes that do not follow their schema; lengths in them may be anything."""


class WrongValueError(InputError):
    """A value that is not the Avro record it should be.

    Args:
        name: schema it should be readable as.
        value: the bytes.
        reason: what is wrong.
        schema_id: schema it names; -1 if none.
    """

    def __init__(self, name: str, value: bytes, reason: str, schema_id: int = -1) -> None:
        self.name, self.reason, self.schema_id = name, reason, schema_id
        super().__init__(
            f"value of {len(value)} bytes is not a {name} record: {reason}",
            remedy="find out who produced it; the schemas are in docs/topics.md",
        )


def encode_rows(table: Table, columns: Sequence[Column], metadata: Mapping[str, str] | None = None) -> bytes:
    """The table as an Arrow IPC stream; empty bytes for a table without rows."""
    if table_rows(table) == 0:
        return b""
    return _encoder(tuple(columns), tuple((metadata or {}).items())).stream(table)


@lru_cache(32)
def _encoder(columns: tuple[Column, ...], metadata: tuple[tuple[str, str], ...]) -> ArrowRows:
    """The encoder of a kind of table; a process writes a handful of kinds."""
    return ArrowRows(columns, dict(metadata))


def decode_batches(value: bytes) -> list[pa.RecordBatch]:
    """The record batches of a value; none for an empty value.

    Only for bytes from our own topics: Arrow from strangers is not parsed anywhere in this project.
    """
    return list(pa.ipc.open_stream(value)) if value else []


def decode_rows(value: bytes, columns: Sequence[Column]) -> dict[str, np.ndarray]:
    """The rows of a value as arrays; see `schemas.columns.from_arrow` for shapes and errors."""
    return concat_tables([from_arrow(batch, columns) for batch in decode_batches(value)], columns)


def encode_avro(name: str, record: Mapping[str, object]) -> bytes:
    """One record in Confluent's wire format, under the newest version of schema `name`."""
    out = io.BytesIO()
    out.write(_WIRE.pack(0, latest(name).id))
    fastavro.schemaless_writer(out, reader_schema(name), dict(record), strict=True)
    return out.getvalue()


def decode_avro(name: str, value: bytes) -> dict[str, Any]:
    """The record of a value in Confluent's wire format, as the newest version of schema `name` has it.

    Avro's resolution does the rest: a field that the writer did not know gets its default, one that the reader does
    not know is passed over, and whatever cannot be told without guessing is refused.

    Raises:
        WrongValueError: not in wire format, damaged, or written with a schema that cannot be read as `name`.
        UnknownSchemaError: nobody knows the schema it was written with.
        MissingServiceError: the registry that may know it does not answer.
    """
    magic, schema_id = _WIRE.unpack_from(value) if len(value) >= _WIRE.size else (-1, -1)
    if magic != 0:
        raise WrongValueError(name, value, "it does not start with a zero byte and a schema id")
    body = io.BytesIO(value[_WIRE.size :])
    try:
        record = fastavro.schemaless_reader(body, writer_schema(schema_id), reader_schema(name))
    except SchemaResolutionError as error:
        reason = f"it was written with schema id {schema_id}, which cannot be read as one"
        raise WrongValueError(name, value, reason, schema_id) from error
    except _DAMAGED as error:
        reason = f"its bytes do not follow schema id {schema_id} ({type(error).__name__})"
        raise WrongValueError(name, value, reason, schema_id) from error
    if rest := len(body.read()):
        raise WrongValueError(name, value, f"{rest} bytes are left after it", schema_id)
    return cast("dict[str, Any]", record)
