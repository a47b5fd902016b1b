"""Tables: what of a stream becomes rows, in ClickHouse and in the lake alike.

A table is declared by its topic's entry in the catalogue (`schemas.topics`). Everything else follows:
the key columns that every row starts with, the Arrow type of each column, and the ClickHouse table (`sinks.ddl`).

    raw         records of DBN as they came                                    `mbo`
    rows        what stages say, Arrow                                         `bins`, `trades`, `bars`, ...
    records     what several producers say of a tape, Avro; every topic of the
                catalogue with such a record has one                           `gaps`, `events`, `dead_letters`
    registers   newest value of each key, of all tapes; likewise               `ops_tapes`, `ops_runs`

Every row of a tape names its place for ever: tape, line, instrument, partition, seq, part, row. `seq` is the number of
the root message in the raw stream, `part` the message among those of this seq, `row` the row within it; `run` says
which code and configuration made it. Raw rows have line `-`, part 0 and no run. So have records, whose seq is the
number of the first message with their id in their own topic. Rows of registers carry topic, partition and offset.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from schemas.columns import Column
from schemas.mbo import MBO_DTYPE
from schemas.topics import CATALOGUE, TopicSpec
from sinks.records import Field, fields_of

RAW_LINE: Final = "-"
"""Line of raw rows: they belong to no configuration."""

KEY_TEXT: Final = ("tape", "line", "instrument", "run")
KEY_COLUMNS: Final = ("tape", "line", "instrument", "partition", "seq", "part", "row", "run")
"""Columns that every row starts with, in order."""

KEY_INTEGERS: Final[dict[str, np.dtype]] = {
    "partition": np.dtype("i4"),
    "seq": np.dtype("i8"),
    "part": np.dtype("i4"),
    "row": np.dtype("i4"),
    "offset": np.dtype("i8"),
    "announced_ms": np.dtype("u8"),
}

REGISTER_COLUMNS: Final = ("topic", "partition", "offset", "announced_ms", "key")
"""Columns that every row of a register starts with, in order."""

MBO_COLUMNS: Final = tuple(name for name in MBO_DTYPE.names or () if name != "length")
"""The DBN fields that are stored: all but `length`, which is 14 in every MBO record."""

LETTERS: Final = frozenset({"action", "side"})
"""One-letter fields, stored as text."""


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One table.

    Attributes:
        topic: the stream whose rows it holds.
        columns: the stream's columns; empty for the raw stream, whose columns are DBN's, and for records.
        time: columns that hold times in ns, the one that orders rows first; each gets a column for people in SQL.
    """

    topic: TopicSpec
    columns: tuple[Column, ...]
    time: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of table and stream."""
        return self.topic.stream.replace(".", "_")

    @property
    def raw(self) -> bool:
        """Whether it holds DBN records rather than rows of ours."""
        return self.topic.rooted and self.topic.scope == "tape"

    @property
    def record(self) -> bool:
        """Whether its rows are Avro records, one a message."""
        return not self.topic.rooted

    @property
    def register(self) -> bool:
        """Whether it holds the newest record of each key, of all tapes."""
        return self.topic.scope == "global"

    @property
    def by_offset(self) -> bool:
        """Whether a message's number is its offset, rather than a header of it."""
        return self.topic.by_offset or self.register

    @property
    def key(self) -> tuple[str, ...]:
        """Columns that its rows start with."""
        return REGISTER_COLUMNS if self.register else KEY_COLUMNS

    @property
    def fields(self) -> tuple[Field, ...]:
        """Columns of its records."""
        return fields_of(self.topic.avro, frozenset(self.key)) if self.record else ()

    @property
    def shape(self) -> list[tuple[str, str]]:
        """Name and type of each column, which tells one declaration from another."""
        if self.record:
            return [(field.name, field.sql) for field in self.fields]
        return [(column.name, column.dtype) for column in self.columns]

    def line(self, line: str) -> str:
        """What its rows carry as line, on line `line`."""
        return RAW_LINE if self.topic.scope == "tape" else line

    def topic_name(self, tape: str, line: str) -> str:
        """The topic it is filled from."""
        return self.topic.name(tape, line)


def row_table(topic: TopicSpec) -> TableSpec:
    """The table of the raw topic, or of one of rows."""
    return TableSpec(topic, topic.columns, topic.times)


TABLES: Final = {table.name: table for table in (row_table(topic) for topic in CATALOGUE if topic.rooted)}
"""Tables of raw and derived rows by name, in the order in which data flows."""


def record_table(topic: TopicSpec) -> TableSpec:
    """The table of a topic of records; its fields `ts_...` are times."""
    table = TableSpec(topic, (), ())
    times = (f.name for f in table.fields if f.name.startswith("ts_") and f.arrow == pa.int64())
    return TableSpec(topic, (), tuple(times))


_OF_RECORDS: Final = [record_table(topic) for topic in CATALOGUE if topic.avro and not topic.rooted]

RECORDS: Final = {table.name: table for table in _OF_RECORDS if not table.register}
"""Tables of records of a tape, by name."""

REGISTERS: Final = {table.name: table for table in _OF_RECORDS if table.register}
"""Tables of the newest records of all tapes, by name."""


def tape_tables() -> tuple[TableSpec, ...]:
    """Every table of rows or records of a tape: what sinks write, and the reconciler compares."""
    return (*TABLES.values(), *RECORDS.values())


def all_tables() -> dict[str, TableSpec]:
    """Every table that ClickHouse has, by name."""
    return {**TABLES, **RECORDS, **REGISTERS}
