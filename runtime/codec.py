"""Values to bytes and back: Arrow for rows, Avro in Confluent's wire format for records.

Rows travel as an Arrow IPC *stream* without Arrow's own compression (the Kafka producer compresses with lz4, and
browsers cannot read compressed Arrow). A message without rows has an empty value. Avro values start with a zero byte
and a four-byte schema id (big endian), as Confluent's serializers write them; ids are fixed in `schemas/avro/ids.json`.
"""

import io
import json
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final, cast

import fastavro
import numpy as np
import pyarrow as pa

from runtime.errors import InputError
from schemas.columns import Column, Table, concat_tables, from_arrow, table_rows, to_arrow

_WIRE: Final = struct.Struct(">bI")


def encode_rows(table: Table, columns: Sequence[Column], metadata: Mapping[str, str] | None = None) -> bytes:
    """The table as an Arrow IPC stream; empty bytes for a table without rows."""
    if table_rows(table) == 0:
        return b""
    batch = to_arrow(table, columns, metadata)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def decode_batches(value: bytes) -> list[pa.RecordBatch]:
    """The record batches of a value; none for an empty value.

    Only for bytes from our own topics: Arrow from strangers is not parsed anywhere in this project.
    """
    return list(pa.ipc.open_stream(value)) if value else []


def decode_rows(value: bytes, columns: Sequence[Column]) -> dict[str, np.ndarray]:
    """The rows of a value as arrays; see `schemas.columns.from_arrow` for shapes and errors."""
    return concat_tables([from_arrow(batch, columns) for batch in decode_batches(value)], columns)


@cache
def avro_schema(name: str) -> Any:
    """The parsed Avro schema `schemas/avro/NAME.avsc`."""
    return fastavro.parse_schema(json.loads(_resource(f"{name}.avsc")))


@cache
def avro_ids() -> dict[str, int]:
    """Schema name → id of the embedded registry."""
    ids: dict[str, int] = json.loads(_resource("ids.json"))
    return ids


def encode_avro(name: str, record: Mapping[str, object]) -> bytes:
    """One record in Confluent's wire format."""
    out = io.BytesIO()
    out.write(_WIRE.pack(0, avro_ids()[name]))
    fastavro.schemaless_writer(out, avro_schema(name), dict(record), strict=True)
    return out.getvalue()


def decode_avro(name: str, value: bytes) -> dict[str, Any]:
    """The record of a value in Confluent's wire format.

    Raises:
        InputError: the value does not start with the id of schema `name`.
    """
    if len(value) < _WIRE.size or _WIRE.unpack_from(value) != (0, avro_ids()[name]):
        raise InputError(
            f"value of {len(value)} bytes is not a {name} record", remedy=f"send schema id {avro_ids()[name]} first"
        )
    record = fastavro.schemaless_reader(io.BytesIO(value[_WIRE.size :]), avro_schema(name), None)
    return cast("dict[str, Any]", record)


def _resource(name: str) -> str:
    return (resources.files("schemas") / "avro" / name).read_text()
