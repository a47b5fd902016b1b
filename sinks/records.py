"""Records: Avro messages as rows, one each. Columns follow from the schema, so a record is declared in one place.

A record has what rows of stages do not: text of any length, bytes, lists of pairs, values that may be missing. Each
Avro type has one Arrow and one ClickHouse type that hold all its values; a type that has none is refused when the table
is declared, not when the first value of it comes. A field whose name a key column has already gets `of_` before it: the
`partition` of a gap's input is `of_partition`, and `partition` is where the gap record itself lies.

Several producers write records and any of them may say the same again, so what counts is the first message with an id
(`first_of_each_id`). A message that is no such record gives no row: it stays in its topic, and whoever reads on is not
held up by one producer's mistake.
"""

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import pyarrow as pa

from runtime.avro_schemas import UnknownSchemaError, latest
from runtime.codec import WrongValueError, decode_avro
from schemas.envelope import crc32
from schemas.message import Message

PREFIX: Final = "of_"
"""Stands before a field whose name is a key column's."""

_SIMPLE: Final[Mapping[str, tuple[pa.DataType, str]]] = {
    "string": (pa.string(), "String"),
    "enum": (pa.string(), "String"),
    "bytes": (pa.binary(), "String"),
    "boolean": (pa.bool_(), "Bool"),
    "int": (pa.int32(), "Int32"),
    "long": (pa.int64(), "Int64"),
    "float": (pa.float32(), "Float32"),
    "double": (pa.float64(), "Float64"),
}


@dataclass(frozen=True, slots=True)
class Field:
    """A column made of a field.

    Attributes:
        name: the column's.
        source: the field's.
        arrow: Arrow type.
        sql: ClickHouse type.
        doc: meaning.
    """

    name: str
    source: str
    arrow: pa.DataType
    sql: str
    doc: str


@cache
def fields_of(schema: str, taken: frozenset[str]) -> tuple[Field, ...]:
    """Columns of the newest version of an Avro record.

    Args:
        schema: its name, as in `schemas/avro/NAME.avsc`.
        taken: names of the key columns.

    Raises:
        TypeError: a field has a type that no column holds.
    """
    out = []
    for field in json.loads(latest(schema).text)["fields"]:
        arrow, sql = _types(field["type"])
        name = field["name"]
        out.append(Field(PREFIX + name if name in taken else name, name, arrow, sql, field.get("doc", "")))
    return tuple(out)


def _types(avro: Any) -> tuple[pa.DataType, str]:
    """Arrow and ClickHouse type of an Avro type."""
    match avro:
        case str() if avro in _SIMPLE:
            return _SIMPLE[avro]
        case {"type": "array", "items": items}:
            arrow, sql = _types(items)
            return pa.list_(arrow), f"Array({sql})"
        case {"type": "record", "fields": inner}:
            kinds = [(f["name"], *_types(f["type"])) for f in inner]
            return pa.struct([(n, a) for n, a, _ in kinds]), f"Tuple({', '.join(f'{n} {s}' for n, _, s in kinds)})"
        case ["null", other] | [other, "null"]:
            arrow, sql = _types(other)
            return arrow, f"Nullable({sql})"
        case {"type": str() as name} if name in _SIMPLE:
            return _SIMPLE[name]
    raise TypeError(f"no column holds the Avro type {avro!r}")


def is_record(message: Message, schema: str) -> bool:
    """Whether a message holds a record of a schema that can be read, with the checksum that its headers give.

    Raises:
        MissingServiceError: a registry would know, and does not answer; a later try may succeed.
    """
    if crc32(message.value) != message.envelope.crc32:
        return False
    try:
        decode_avro(schema, message.value)
    except (WrongValueError, UnknownSchemaError):
        return False
    return True


def id_of(message: Message, schema: str) -> str:
    """The id of a record that can be read."""
    return str(decode_avro(schema, message.value)["id"])


def record_rows(messages: Sequence[Message], schema: str, fields: Sequence[Field]) -> pa.Table:
    """One row for each message; all of them are records."""
    records = [decode_avro(schema, message.value) for message in messages]
    arrays = [pa.array([record[field.source] for record in records], field.arrow) for field in fields]
    return pa.table(arrays, schema=pa.schema([pa.field(field.name, field.arrow) for field in fields]))


def first_of_each_id(rows: pa.Table, known: Container[str]) -> pa.Table:
    """The first row of each `id`, without those that are known."""
    firsts: dict[str, int] = {}
    for at, name in enumerate(rows.column("id").to_pylist()):
        firsts.setdefault(name, at)
    return rows.take(pa.array([at for name, at in firsts.items() if name not in known], pa.int64()))
