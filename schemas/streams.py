"""Streams of rows: what a derived topic holds, declared once for everyone who shows it.

A topic of the catalogue becomes a stream of the gateway by one entry here: its columns are the fields that may be asked
for, its time column is what replays go by. Topics of records (Avro) need none; their columns are the record's.
"""

from dataclasses import dataclass
from typing import Final

from schemas import bars, bins, trades
from schemas.columns import Column
from schemas.topics import BARS, BINS, TRADES, TopicSpec


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One stream.

    Attributes:
        topic: where its rows are.
        columns: of a row.
        time: column by which rows are ordered and replays are paced, ns; one named `ts_end_ns` is the end of what the
            row covers, exclusive.
        defaults: fields of a reader who names none; empty: every scalar.
    """

    topic: TopicSpec
    columns: tuple[Column, ...]
    time: str
    defaults: tuple[str, ...] = ()


DECLARED: Final[dict[str, StreamSpec]] = {
    spec.topic.stream: spec
    for spec in (
        StreamSpec(BINS, bins.columns(), "ts_end_ns", tuple(c.name for c in (*bins.HEADER, *bins.SCALARS))),
        StreamSpec(TRADES, trades.COLUMNS, "ts_ns"),
        StreamSpec(BARS, bars.COLUMNS, "ts_end_ns"),
    )
}
"""Streams of what stages say, by name, in the order in which data flows."""
