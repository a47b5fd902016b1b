"""Reconciler: what is in the topics against what is in ClickHouse and in the lake, message by message.

The headers of a topic say how many rows each message (`seq`, `part`) holds; repeats count once. Each store is asked how
many rows it has under each of these places, and how many different ones. From that:

    missing     rows that a topic holds and a store does not
    duplicate   rows that a store holds beyond those: the same row again, or a row of no message

A lake is asked twice: its rows, and its index of messages, which must name every message, empty ones too.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from clickhouse_connect.driver.client import Client

from runtime.object_store import ObjectStore
from runtime.sequence import Place
from runtime.tape_reader import TopicReader
from runtime.tapes import Manifest
from sinks.base import Lane, rows_of
from sinks.lake import objects_of
from sinks.lake_object import read_index, read_places
from sinks.tables import TABLES


@dataclass(frozen=True, slots=True)
class TableReport:
    """One table.

    Attributes:
        topic_rows: rows in the topic, repeats not counted.
        store_rows, lake_rows: rows in ClickHouse and in the lake; None where it was not asked.
        missing: rows that are missing, in both stores together.
        duplicate: rows too many, in both stores together.
        messages: messages in the topic, repeats not counted.
        lake_messages_missing: messages that the lake's index does not name, or names with another row count.
    """

    topic_rows: int
    store_rows: int | None
    lake_rows: int | None
    missing: int
    duplicate: int
    messages: int
    lake_messages_missing: int


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """All tables of a tape and line."""

    tables: dict[str, TableReport]

    @property
    def missing(self) -> int:
        """Rows missing, and messages missing in the lake, over all tables."""
        return sum(t.missing + t.lake_messages_missing for t in self.tables.values())

    @property
    def duplicate(self) -> int:
        """Rows too many over all tables."""
        return sum(t.duplicate for t in self.tables.values())

    @property
    def clean(self) -> bool:
        """Whether everything is there once."""
        return not self.missing and not self.duplicate

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        tables = {name: asdict(table) for name, table in self.tables.items()}
        return {"tables": tables, "missing": self.missing, "duplicate": self.duplicate}


@dataclass(frozen=True, slots=True)
class Held:
    """What a store holds under one place: rows, different rows, and the highest row number."""

    rows: int
    distinct: int
    highest: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Outcome of one comparison."""

    missing: int
    duplicate: int


def compare(expected: dict[Place, int], held: dict[Place, Held]) -> Difference:
    """Rows expected by place against what a store holds.

    Row numbers of a message are 0 to n - 1. So where the highest is n or more, at least one row belongs to no message;
    it counts as too many and does not stand in for a row that is missing.
    """
    missing = duplicate = 0
    for place, wanted in expected.items():
        have = held.get(place, Held(0, 0, -1))
        strange = max(have.distinct - wanted, int(have.highest >= wanted))
        missing += wanted - (have.distinct - strange)
        duplicate += have.rows - have.distinct + strange
    duplicate += sum(have.rows for place, have in held.items() if place not in expected)
    return Difference(missing, duplicate)


def reconcile(
    manifest: Manifest,
    line: str,
    bootstrap_servers: str,
    *,
    client: Client | None = None,
    lake: ObjectStore | None = None,
) -> ReconcileReport:
    """Compare all tables of a tape and line.

    Args:
        manifest: the tape.
        line: the line.
        bootstrap_servers: Kafka.
        client: ClickHouse; None: not asked.
        lake: store of the lake's objects; None: not asked.

    Raises:
        HoleError: a topic itself lacks messages.
        BarographError: the broker does not answer, or a topic was trimmed.
    """
    tables = {}
    for table in TABLES.values():
        found = [
            _reconcile_lane(
                Lane(manifest.tape, manifest.tape_id, line, table, partition),
                TopicReader(bootstrap_servers, manifest, line, table.topic, partition),
                client,
                lake,
            )
            for partition in range(manifest.partitions)
        ]
        tables[table.name] = _sum(found)
    return ReconcileReport(tables)


def _reconcile_lane(lane: Lane, topic: TopicReader, client: Client | None, lake: ObjectStore | None) -> TableReport:
    expected = {(placed.seq, placed.part): rows_of(placed.message) for placed in topic}
    missing = duplicate = lake_messages_missing = 0
    store_rows = lake_rows = None
    if client is not None:
        held = _in_clickhouse(client, lane)
        store_rows = sum(h.rows for h in held.values())
        difference = compare(expected, held)
        missing, duplicate = difference.missing, difference.duplicate
    if lake is not None:
        held, named = _in_lake(lake, lane)
        lake_rows = sum(h.rows for h in held.values())
        difference = compare(expected, held)
        missing, duplicate = missing + difference.missing, duplicate + difference.duplicate
        lake_messages_missing = sum(named.get(place) != rows for place, rows in expected.items())
    return TableReport(
        sum(expected.values()), store_rows, lake_rows, missing, duplicate, len(expected), lake_messages_missing
    )


def _in_clickhouse(client: Client, lane: Lane) -> dict[Place, Held]:
    found = client.query_arrow(
        f"SELECT seq, part, count() AS rows, uniqExact(row) AS distinct, max(row) AS highest FROM {lane.table.name} "
        "WHERE tape = {tape:String} AND line = {line:String} AND partition = {partition:Int32} GROUP BY seq, part",
        parameters={"tape": lane.tape, "line": lane.row_line, "partition": lane.partition},
    )
    return _held(found)


def _in_lake(store: ObjectStore, lane: Lane) -> tuple[dict[Place, Held], dict[Place, int]]:
    """Rows by place, and rows by place as the indexes name them."""
    places: list[pa.Table] = []
    named: dict[Place, int] = {}
    for item in objects_of(store, lane):
        data = store.get(item.name) or b""
        places.append(read_places(data))
        index = read_index(data)
        for seq, part, rows in zip(*(index.column(n).to_pylist() for n in ("seq", "part", "rows")), strict=True):
            named[seq, part] = rows
    if not places:
        return {}, named
    grouped = pa.concat_tables(places).group_by(["seq", "part"])
    counted = grouped.aggregate([("row", "count"), ("row", "count_distinct"), ("row", "max")])
    return _held(counted.select(["seq", "part", "row_count", "row_count_distinct", "row_max"])), named


def _held(table: pa.Table) -> dict[Place, Held]:
    """Columns seq, part, rows, distinct, highest, in this order, as a mapping."""
    columns = [np.asarray(column).tolist() for column in table.columns]
    return {(seq, part): Held(*rest) for seq, part, *rest in zip(*columns, strict=True)}


def _sum(found: Iterable[TableReport]) -> TableReport:
    reports = list(found)

    def total(name: str) -> int:
        return sum(getattr(report, name) for report in reports)

    def total_asked(name: str) -> int | None:
        return total(name) if all(getattr(report, name) is not None for report in reports) else None

    return TableReport(
        topic_rows=total("topic_rows"),
        store_rows=total_asked("store_rows"),
        lake_rows=total_asked("lake_rows"),
        missing=total("missing"),
        duplicate=total("duplicate"),
        messages=total("messages"),
        lake_messages_missing=total("lake_messages_missing"),
    )
