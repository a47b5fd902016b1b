"""Tables: what of a stream becomes rows, in ClickHouse and in the lake alike.

A table is declared by its stream's columns (`schemas`) and the columns by which time is asked. Everything else follows:
the key columns that every row starts with, the Arrow type of each column, and the ClickHouse table (`sinks.ddl`). A
new derived stream gets its table by one entry in `TABLES`.

Every row names its place for ever: tape, line, instrument, partition, seq, part, row. `seq` is the number of the root
message in the raw stream, `part` the message among those of this seq, `row` the row within it; `run` says which code
and configuration made it. Raw rows have line `-`, part 0 and no run.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from schemas import bars, bins, trades
from schemas.columns import Column
from schemas.mbo import MBO_DTYPE
from schemas.topics import BARS, BINS, MBO, TRADES, TopicSpec

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
}

MBO_COLUMNS: Final = tuple(name for name in MBO_DTYPE.names or () if name != "length")
"""The DBN fields that are stored: all but `length`, which is 14 in every MBO record."""

LETTERS: Final = frozenset({"action", "side"})
"""One-letter fields, stored as text."""


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One table.

    Attributes:
        topic: the stream whose rows it holds.
        columns: the stream's columns; empty for the raw stream, whose columns are DBN's.
        time: columns that hold times in ns, the one that orders rows first; each gets a column for people in SQL.
    """

    topic: TopicSpec
    columns: tuple[Column, ...]
    time: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of table and stream."""
        return self.topic.stream

    @property
    def raw(self) -> bool:
        """Whether it holds DBN records rather than rows of ours."""
        return self.topic.scope == "tape"

    def line(self, line: str) -> str:
        """What its rows carry as line, on line `line`."""
        return RAW_LINE if self.raw else line

    def topic_name(self, tape: str, line: str) -> str:
        """The topic it is filled from."""
        return self.topic.name(tape, line)


TABLES: Final = {
    spec.name: spec
    for spec in (
        TableSpec(MBO, (), ("ts_event", "ts_recv")),
        TableSpec(BINS, bins.columns(), ("ts_end_ns", "ts_start_ns")),
        TableSpec(TRADES, trades.COLUMNS, ("ts_ns",)),
        TableSpec(BARS, bars.COLUMNS, ("ts_end_ns", "ts_start_ns")),
    )
}
"""Every table by its name, in the order in which data flows."""
