"""Reconciler: what is in the topics against what is in ClickHouse and in the lake, message by message.

The headers of a topic say how many rows each message (`seq`, `part`) holds; repeats count once. Each store is asked how
many rows it has under each of these places, and how many different ones. From that:

    missing     rows that a topic holds and a store does not
    duplicate   rows that a store holds beyond those: the same row again, or a row of no message

A lake is asked twice: its rows, and its index of messages, which must name every message, empty ones too. Of raw
streams the DBN objects must hold as many records. What the manifest says was deleted is expected nowhere, and is too
much where it stands. Messages that have left Kafka's log are expected as the lake's index names them.

Records (gaps, events, dead letters) are said again by several producers. The lake keeps each message; in ClickHouse the
first with an id counts, and a row of a later one is too much.

While a tape goes on, its stores are behind its topics. Each sink writes a lane in order, so what is missing before the
last message of a store is missing; what comes after it waits.
"""

import logging
from collections.abc import Iterable, MutableMapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
from clickhouse_connect.driver.client import Client

from runtime.errors import MissingServiceError
from runtime.lake_format import DamagedObjectError, ObjectRange
from runtime.object_store import ObjectStore
from runtime.sequence import Place
from runtime.tape_reader import TapeReader, first_seq
from runtime.tapes import Manifest
from schemas.mbo import MBO_BYTES
from sinks.base import Entry, Lane
from sinks.clickhouse import known_ids
from sinks.lake import objects_of
from sinks.lake_dbn import read_records
from sinks.lake_object import read_index, read_places
from sinks.records import id_of
from sinks.rows import rows_in
from sinks.tables import tape_tables

log = logging.getLogger(__name__)


LaneKey = tuple[str, int]
"""Table and partition."""

LISTINGS: Final = 3
"""How often a lane's objects are listed while some of those listed vanish: compaction joins them. A single pass of it
changes a lane once, so a second look nearly always does."""


@dataclass(frozen=True, slots=True)
class TableReport:
    """One table.

    Attributes:
        topic_rows: rows in the topic, repeats not counted; of records each id once.
        store_rows, lake_rows: rows in ClickHouse and in the lake; None where it was not asked. Of records the lake has
            a row for each message.
        missing: rows that are missing, in both stores together.
        duplicate: rows too many, in both stores together.
        messages: messages in the topic, repeats not counted.
        lake_messages_missing: messages that the lake's index does not name, or names with another row count.
        waiting: rows that stand behind the last message of a store, in both together; 0 unless these were told apart.
        damaged: objects of the lake that cannot be read; their rows count as missing.
        dbn_missing: records that DBN objects lack, or have too many.
    """

    topic_rows: int
    store_rows: int | None
    lake_rows: int | None
    missing: int
    duplicate: int
    messages: int
    lake_messages_missing: int
    waiting: int = 0
    damaged: tuple[str, ...] = ()
    dbn_missing: int = 0

    @property
    def all_missing(self) -> int:
        """Rows missing, messages missing in the lake, and records missing in DBN objects."""
        return self.missing + self.lake_messages_missing + self.dbn_missing


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """All tables of a tape and line."""

    tables: dict[str, TableReport]

    @property
    def missing(self) -> int:
        """Rows missing, messages missing in the lake, and records missing in DBN objects, over all tables."""
        return sum(t.all_missing for t in self.tables.values())

    @property
    def duplicate(self) -> int:
        """Rows too many over all tables."""
        return sum(t.duplicate for t in self.tables.values())

    @property
    def waiting(self) -> int:
        """Rows that wait for their sink, over all tables."""
        return sum(t.waiting for t in self.tables.values())

    @property
    def damaged(self) -> tuple[str, ...]:
        """Objects of the lake that cannot be read."""
        return tuple(name for t in self.tables.values() for name in t.damaged)

    @property
    def clean(self) -> bool:
        """Whether everything is there once."""
        return not self.missing and not self.duplicate and not self.damaged

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        tables = {name: asdict(table) for name, table in self.tables.items()}
        counts = {"missing": self.missing, "duplicate": self.duplicate, "waiting": self.waiting}
        return {"tables": tables, **counts, "damaged": list(self.damaged)}


@dataclass(frozen=True, slots=True)
class Held:
    """What a store holds under one place: rows, different rows, and the highest row number."""

    rows: int
    distinct: int
    highest: int

    def with_another(self, other: "Held") -> "Held":
        """With what a second object holds under the same place.

        An object holds messages whole, so a second one is a copy, or a part of one that was damaged: how many of its
        rows are new follows from the row numbers, which are 0 to `highest`.
        """
        highest = max(self.highest, other.highest)
        return Held(self.rows + other.rows, min(self.distinct + other.distinct, highest + 1), highest)


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
    ongoing: bool = False,
    starts: MutableMapping[LaneKey, Place] | None = None,
) -> ReconcileReport:
    """Compare all tables of a tape and line.

    Args:
        manifest: the tape.
        line: the line.
        bootstrap_servers: Kafka.
        client: ClickHouse; None: not asked.
        lake: store of the lake's objects; None: not asked.
        ongoing: whether rows behind the last message of a store wait rather than being missing.
        starts: where to begin in each lane; moved to what follows the last message of lanes in which all was right.

    Raises:
        HoleError: a topic itself lacks messages.
        BarographError: the broker or the lake does not answer, or a topic was trimmed and no lake is asked.
    """
    tables, begins = {}, {} if starts is None else starts
    for table in tape_tables():
        found = []
        for partition in range(manifest.partitions):
            lane = Lane(manifest.tape, manifest.tape_id, line, table, partition)
            if table.record and manifest.topic_ids and lane.topic not in manifest.topic_ids:
                continue  # a tape of a release that did not have this topic
            start = begins.get((table.name, partition), (first_seq(table.topic, manifest, partition), 0))
            topic = TapeReader(
                manifest, line, table.topic, partition, bootstrap_servers, lake, start=start, deleted=True
            )
            comparison = _Comparison(lane, topic, ongoing, client)
            found.append(comparison.run(client, lake))
            if comparison.right:
                begins[table.name, partition] = comparison.done
        tables[table.name] = _sum(found)
    return ReconcileReport(tables)


class _Comparison:
    """One lane from a place on.

    Attributes:
        right: whether nothing was missing or too much.
        done: the first place that waits, or what follows the last one.
    """

    def __init__(self, lane: Lane, topic: TapeReader, ongoing: bool, client: Client | None) -> None:
        self._lane, self._ongoing = lane, ongoing
        self._start: Place = topic.sequence.next_seq, topic.sequence.next_part
        self._expected, ids = dict[Place, int](), dict[Place, str]()
        for placed in topic:
            rows = 0 if placed.deleted else rows_in(Entry(placed.message, placed.seq, placed.part), lane.table)
            self._expected[placed.seq, placed.part] = rows
            if rows and lane.table.record:
                ids[placed.seq, placed.part] = id_of(placed.message, lane.table.topic.avro)
        again = self._said_again(ids, client)
        self._in_store = {place: 0 if place in again else rows for place, rows in self._expected.items()}
        self.done: Place = topic.sequence.next_seq, topic.sequence.next_part
        self._missing = self._duplicate = self._waiting = 0
        self.right = True

    def _said_again(self, ids: dict[Place, str], client: Client | None) -> set[Place]:
        """Places of records whose id stood before: in this look, or in the table from an earlier one."""
        known: set[str] = set()
        if client is not None and ids and self._start > (0, 0):
            known |= known_ids(client, self._lane, self._start[0], list(ids.values()))
        again = set()
        for place, name in ids.items():
            if name in known:
                again.add(place)
            known.add(name)
        return again

    def run(self, client: Client | None, lake: ObjectStore | None) -> TableReport:
        """Ask both stores."""
        store_rows = lake_rows = None
        named_wrong, dbn_missing, damaged = 0, 0, list[str]()
        if client is not None:
            held = _in_clickhouse(client, self._lane, self._start)
            store_rows = sum(h.rows for h in held.values())
            self._compare(self._in_store, held, max(held, default=None))
        if lake is not None:
            found = _in_lake(lake, self._lane, self._start)
            lake_rows, damaged = sum(h.rows for h in found.held.values()), found.damaged
            last = self._compare(self._expected, found.held, found.last)
            settled = {place: rows for place, rows in self._expected.items() if place <= last}
            named_wrong = sum(found.named.get(place) != rows for place, rows in settled.items())
            dbn_missing = found.dbn_missing
        self.right = not (self._missing or self._duplicate or named_wrong or damaged or dbn_missing)
        return TableReport(
            sum(self._in_store.values()), store_rows, lake_rows, self._missing, self._duplicate,
            len(self._expected), named_wrong, self._waiting, tuple(damaged), dbn_missing,
        )  # fmt: skip

    def _compare(self, expected: dict[Place, int], held: dict[Place, Held], last: Place | None) -> Place:
        """Count a store; the last place that it should have."""
        end = max(expected, default=self._start)
        if self._ongoing:  # the stores were asked after the topic, so they may be further
            held = {place: have for place, have in held.items() if place <= end}
            end = min(end, last or (-1, 0))
        waiting = {place: rows for place, rows in expected.items() if place > end}
        self._waiting += sum(waiting.values())
        self.done = min([self.done, *waiting])
        difference = compare({p: rows for p, rows in expected.items() if p <= end}, held)
        self._missing += difference.missing
        self._duplicate += difference.duplicate
        return end


def _in_clickhouse(client: Client, lane: Lane, start: Place) -> dict[Place, Held]:
    found = client.query_arrow(
        f"SELECT seq, part, count() AS rows, uniqExact(row) AS distinct, max(row) AS highest FROM {lane.table.name} "
        "WHERE tape = {tape:String} AND line = {line:String} AND partition = {partition:Int32} "
        "AND seq >= {seq:Int64} AND (seq > {seq:Int64} OR part >= {part:Int32}) GROUP BY seq, part",
        parameters={
            "tape": lane.tape,
            "line": lane.row_line,
            "partition": lane.partition,
            "seq": start[0],
            "part": start[1],
        },
    )
    return _held(found)


@dataclass(slots=True)
class _InLake:
    """What the lake has of a lane: rows by place, rows by place as the indexes name them, and what is wrong with it."""

    held: dict[Place, Held] = field(default_factory=dict)
    named: dict[Place, int] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    dbn_missing: int = 0
    last: Place | None = None


class _VanishedError(Exception):
    """An object that was listed a moment ago is gone."""


def _in_lake(store: ObjectStore, lane: Lane, start: Place) -> _InLake:
    """What the lake's objects hold from a place on.

    Raises:
        MissingServiceError: the lake is away.
    """
    for listing in range(LISTINGS):
        out = _InLake()
        try:
            for item in objects_of(store, lane):
                out.last = item.last if out.last is None else max(out.last, item.last)
                if item.last >= start:
                    _look_into(store, lane, item, out)
        except _VanishedError:
            if listing + 1 < LISTINGS:
                continue
            raise MissingServiceError(f"the lake changes while {lane.topic} is read", remedy="try again") from None
        except OSError as error:
            raise MissingServiceError(f"the lake does not answer ({error})", remedy="try again") from error
        break
    out.held = {place: held for place, held in out.held.items() if place >= start}
    return out


def _look_into(store: ObjectStore, lane: Lane, item: ObjectRange, out: _InLake) -> None:
    """Add what one object holds, by message; a damaged one is noted, and what it should hold is missing."""
    data = store.get(item.name)
    if data is None:
        raise _VanishedError
    try:
        rows, index = read_places(data), read_index(data)
    except (pa.ArrowException, ValueError, OSError) as error:
        log.warning("%s", DamagedObjectError(item.name, str(error).splitlines()[0]))
        out.damaged.append(item.name)
        return
    counted = rows.group_by(["seq", "part"]).aggregate([("row", "count"), ("row", "count_distinct"), ("row", "max")])
    for place, held in _held(counted.select(["seq", "part", "row_count", "row_count_distinct", "row_max"])).items():
        before = out.held.get(place)
        out.held[place] = held if before is None else before.with_another(held)
    for seq, part, count in zip(*(index.column(n).to_pylist() for n in ("seq", "part", "rows")), strict=True):
        out.named[seq, part] = count
    if lane.table.raw:
        beside = store.get(item.name.removesuffix("parquet") + "dbn.zst")
        records = None if beside is None else read_records(beside)
        out.dbn_missing += abs(rows.num_rows - len(records or b"") // MBO_BYTES)


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
        waiting=total("waiting"),
        damaged=tuple(name for report in reports for name in report.damaged),
        dbn_missing=total("dbn_missing"),
    )
