"""Bench `sinks`: how fast batches become rows in ClickHouse and objects of the lake.

Batches are those that a sink writes: raw blocks of 4,096 records in batches of 100,000 rows, bins of 101 cells in parts
of 245. They go through the sink itself to a store in a process of its own, over HTTP (`clickhouse_http`), and through
the same builder straight into an engine in this process (`clickhouse_engine`). Beside them the engine takes the same
bytes, ready made, without a sink, a token or HTTP. Each run writes a tape of its own; what is counted only afterwards
is that the store holds its rows, all of them once and with the sums that they have in memory.
"""

import io
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from threading import Event
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from clickhouse_connect.driver.client import Client

from control.bench.engine_runs import PER_BIN
from control.bench.measure import Bound, Figure, Row
from control.bench.oracle import WrongAnswerError
from control.bench.session import Case, Session
from control.bench.stream_tape import child, lost, messages_of
from control.bench.synthetic import Shape
from control.embedded.store_engine import Request, StoreEngine
from control.embedded.store_sql import Statement
from control.processes import argv
from runtime.codec import encode_rows
from runtime.endpoints import Endpoints
from runtime.settings import Settings
from schemas.bins import RADIUS_DEFAULT
from schemas.bins import columns as bins_columns
from schemas.columns import concat_tables, slice_table, table_rows
from schemas.envelope import Envelope, crc32
from schemas.mbo import MBO_DTYPE
from schemas.message import Message
from sinks.base import Batch, Entry, Lane
from sinks.clickhouse import INSERT_SETTINGS, ClickHouseSink, Insert, build_insert, connect
from sinks.clickhouse import LIMITS as CLICKHOUSE_LIMITS
from sinks.ddl import drop_tape
from sinks.ddl.render import table_sql
from sinks.lake import LIMITS as LAKE_LIMITS
from sinks.lake_object import encode_object
from sinks.rows import build_rows
from sinks.tables import TABLES
from streams.build_books import BooksReducer

BLOCK: Final = 4_096
"""Records in a raw message: full blocks, as a replay at full speed cuts them."""

BINS_A_PART: Final = 245
"""Bins in a message: 4 MiB of rows of 17 kB."""

START_S: Final = 60.0
"""How long the store process may take to answer; it takes about two seconds on a quiet machine."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is written in each run.

    Attributes:
        table: which table.
        entries: messages with their places, by batch.
        rows: in all of them.
        sums: SQL expression → its value over the rows, computed from memory.
    """

    table: str
    entries: Sequence[tuple[Entry, ...]]
    rows: int
    sums: dict[str, int]

    def batches(self, tape: str) -> Iterator[Batch]:
        """The batches, of a tape."""
        lane = Lane(tape, f"id-{tape}", "main", TABLES[self.table], 0)
        return (Batch(lane, entries) for entries in self.entries)

    def check(self, row: str, answer: Sequence[int]) -> None:
        """Compare what a store holds with what was written.

        Raises:
            WrongAnswerError: it differs.
        """
        wanted = (self.rows, *self.sums.values())
        if tuple(answer) != wanted:
            raise WrongAnswerError(row, f"the store holds {tuple(answer)}, written were {wanted} (rows, sums)")

    def question(self, tape: str) -> str:
        """SQL that asks a store for the rows and sums of a tape."""
        return f"SELECT count(), {', '.join(self.sums)} FROM {self.table} WHERE tape = '{tape}'"


def raw_load(session: Session, rows_a_batch: int) -> Load:
    """Raw records of a busy market."""
    shape = Shape(session.scaled(40_000, 2_000_000), levels=22, queue=session.scaled(40, 455), per_bin=PER_BIN)
    stream, _ = session.stream(shape)
    found, _ = messages_of(stream, "bench.mbo.v1", BLOCK)
    messages = [m for m in found if m.envelope.kind == "data"]
    records = np.concatenate([np.frombuffer(m.value, MBO_DTYPE) for m in messages])
    sums = {
        "sum(order_id)": int(records["order_id"].sum(dtype=np.uint64)),
        "sum(sequence)": int(records["sequence"].sum(dtype=np.uint64)),
        "sum(toUInt64(size))": int(records["size"].sum(dtype=np.uint64)),
    }
    entries = [
        Entry(Message(m.topic, 0, at, 0, m.instrument, m.value, m.envelope), at, 0) for at, m in enumerate(messages)
    ]
    return Load("mbo", _batched(entries, rows_a_batch, CLICKHOUSE_LIMITS.bytes), len(records), sums)


def bins_load(session: Session) -> Load:
    """Bins of 101 cells, a few records each."""
    bins = session.scaled(400, 6_000)
    shape = Shape(bins * 6, levels=22, queue=20, per_bin=6, churn=1_000)
    stream, _ = session.stream(shape)
    reducer = BooksReducer({"cell_ns": shape.cell_ns, "radius": RADIUS_DEFAULT, "n_ticks": 8192})
    raw, _ = messages_of(stream, "bench.mbo.v1", BLOCK)
    tables = [
        rows.table
        for at, m in enumerate(raw)
        for rows in reducer.apply(Message(m.topic, 0, at, 0, m.instrument, m.value, m.envelope))
        if rows.stream == "bins"
    ]
    columns = bins_columns(RADIUS_DEFAULT)
    table = concat_tables(tables, columns)
    count = table_rows(table)
    entries = []
    for at, start in enumerate(range(0, count, BINS_A_PART)):
        part = slice_table(table, start, min(count, start + BINS_A_PART))
        value = encode_rows(part, columns)
        envelope = Envelope("data", "bins", count=table_rows(part), crc32=crc32(value), seq=at, run="bench")
        entries.append(Entry(Message("bench.main.bins.v1", 0, at, 0, "SYNTH:BENCH", value, envelope), at, 0))
    sums = {
        "sum(event_id)": int(table["event_id"].sum()),
        "sum(arraySum(last_event_id))": int(table["last_event_id"].sum()),
        "sum(arraySum(x -> reinterpretAsUInt64(x) % 1000003, add_mass))": int(
            (table["add_mass"].view(np.uint64) % 1_000_003).sum()
        ),
    }
    return Load("bins", _batched(entries, CLICKHOUSE_LIMITS.rows, CLICKHOUSE_LIMITS.bytes), count, sums)


def _batched(entries: Sequence[Entry], rows: int, size_bytes: int) -> list[tuple[Entry, ...]]:
    """Entries cut as a sink cuts them: full at so many rows or bytes."""
    out: list[tuple[Entry, ...]] = []
    held: list[Entry] = []
    for entry in entries:
        held.append(entry)
        full = sum(e.rows for e in held) >= rows or sum(len(e.message.value) for e in held) >= size_bytes
        if full:
            out, held = [*out, tuple(held)], []
    return [*out, tuple(held)] if held else out


class Engine:
    """The engine in this process, and the tapes written to it.

    Args:
        session: whose folder is used.
        load: what is written.
    """

    def __init__(self, session: Session, load: Load) -> None:
        self._load = load
        self._engine = StoreEngine(session.folder() / f"engine-{load.table}")
        self._engine.run(Statement(table_sql(TABLES[load.table]), "CREATE", None, None), Request())
        self._numbers = itertools.count()

    def close(self) -> None:
        """Leave the folder."""
        self._engine.close()

    def insert(self, insert: Insert, settings: dict[str, str]) -> None:
        """One insert."""
        statement = f"INSERT INTO {insert.table} ({', '.join(insert.columns)})"
        self._engine.run(Statement(statement, "INSERT", "ArrowStream", insert.body), Request(settings=settings))

    def with_sink(self) -> float:
        """Seconds to build and insert everything as the sink does, without HTTP."""
        tape = f"s{next(self._numbers)}"
        begin_s = time.monotonic()
        for batch in self._load.batches(tape):
            insert = build_insert(batch)
            assert insert is not None
            settings = {name: str(value) for name, value in INSERT_SETTINGS.items()}
            self.insert(insert, {**settings, "insert_deduplication_token": insert.token})
        return self._checked("clickhouse_engine", tape, begin_s)

    def alone(self) -> float:
        """Seconds to insert the same bytes, ready made."""
        tape = f"a{next(self._numbers)}"
        ready = [i for i in map(build_insert, self._load.batches(tape)) if i is not None]
        begin_s = time.monotonic()
        for insert in ready:
            self.insert(insert, {})
        return self._checked("chdb_insert_alone", tape, begin_s)

    def _checked(self, row: str, tape: str, begin_s: float) -> float:
        taken = time.monotonic() - begin_s
        found = self._engine.run(Statement(self._load.question(tape), "SELECT", None, None), Request())
        self._load.check(row, [int(word) for word in found.body.split()])
        partition = f"'{tape}'" if TABLES[self._load.table].raw else f"('{tape}', 'main')"
        drop = f"ALTER TABLE {self._load.table} DROP PARTITION {partition}"
        self._engine.run(Statement(drop, "ALTER", None, None), Request())
        return taken


class Server:
    """A store process, as `barograph store` is one, and the tapes written to it.

    Args:
        session: whose folder is used.
        load: what is written.
    """

    def __init__(self, session: Session, load: Load) -> None:
        self._load = load
        folder = session.folder() / f"http-{load.table}"
        command = argv("store", "--port", "0", settings=Settings(data_dir=folder))
        self._process = child(command, session.folder(), f"store-{load.table}")
        until_s = time.monotonic() + START_S
        while (address := Endpoints(folder).find("store")) is None:
            if self._process.poll() is not None or time.monotonic() > until_s:
                raise lost(self._process, "does not answer")
            time.sleep(0.05)
        self._sink = ClickHouseSink(address)
        self._sink.open(Event())
        self._client: Client = connect(address)
        self._numbers = itertools.count()

    def close(self) -> None:
        """End the process."""
        self._sink.close()
        self._client.close()
        self._process.terminate(0)

    def write(self) -> float:
        """Seconds for the sink to write everything."""
        tape, stop = f"h{next(self._numbers)}", Event()
        begin_s = time.monotonic()
        for batch in self._load.batches(tape):
            self._sink.write(batch, stop)
        taken = time.monotonic() - begin_s
        self._load.check("clickhouse_http", self._client.query(self._load.question(tape)).result_rows[0])
        drop_tape(self._client, tape)
        return taken


def clickhouse(session: Session) -> list[Row]:
    """Raw rows over HTTP, and straight into an engine."""
    load = raw_load(session, CLICKHOUSE_LIMITS.rows)
    with closing(Engine(session, load)) as engine, closing(Server(session, load)) as server:
        http, direct, alone = session.interleave([server.write, engine.with_sink, engine.alone])
    told = {"rows": load.rows, "batches": len(load.entries), "rows_a_message": BLOCK}
    base = alone.per_second(load.rows)

    def row(name: str, figure: Figure, gate: Bound | None, aim: float) -> Row:
        return Row(
            name, figure.per_second(load.rows), "rows/s wall", "chdb_insert_alone", base, gate=gate,
            aim=Bound(">=", aim), conditions=told,
        )  # fmt: skip

    return [row("clickhouse_http", http, Bound(">=", 0.25), 2e6), row("clickhouse_engine", direct, None, 5e6)]


def bins_clickhouse(session: Session) -> list[Row]:
    """Bins of 17 kB over HTTP."""
    load = bins_load(session)
    with closing(Engine(session, load)) as engine, closing(Server(session, load)) as server:
        http, alone = session.interleave([server.write, engine.alone])
    told = {"bins": load.rows, "radius": RADIUS_DEFAULT, "batches": len(load.entries)}
    return [
        Row(
            "bins_clickhouse", http.per_second(load.rows), "bins/s wall", "chdb_insert_alone",
            alone.per_second(load.rows), gate=Bound(">=", 0.6), aim=Bound(">=", 3e3), conditions=told,
        )
    ]  # fmt: skip


def parquet(session: Session) -> list[Row]:
    """Raw rows as objects of the lake, beside pyarrow with its defaults; how long, and how large."""
    load = raw_load(session, LAKE_LIMITS.rows)
    batches = list(load.batches("bench"))
    sizes: dict[str, int] = {}

    def objects() -> float:
        begin_s = time.monotonic()
        made = [encode_object(batch) for batch in batches]
        taken = time.monotonic() - begin_s
        _check_objects(load, made, batches)
        sizes["lake"] = sum(map(len, made))
        return taken

    tables = [build_rows(batch) for batch in batches]

    def defaults() -> float:
        begin_s = time.monotonic()
        outs = [io.BytesIO() for _ in tables]
        for table, out in zip(tables, outs, strict=True):
            pq.write_table(table, out)
        taken = time.monotonic() - begin_s
        sizes["pyarrow"] = sum(out.tell() for out in outs)
        return taken

    ours, base = session.interleave([objects, defaults])
    told = {"rows": load.rows, "objects": len(batches), "rows_a_message": BLOCK}
    bytes_a_row = [Figure((sizes[name] / load.rows,)) for name in ("lake", "pyarrow")]
    return [
        Row(
            "parquet", ours.per_second(load.rows), "rows/s wall", "pyarrow_defaults", base.per_second(load.rows),
            gate=Bound(">=", 0.8), aim=Bound(">=", 5e6), conditions=told,
        ),
        Row(
            "parquet_bytes", bytes_a_row[0], "bytes/row", "pyarrow_defaults", bytes_a_row[1], gate=Bound("<=", 0.6),
            aim=Bound("<=", 11), conditions=told,
        ),
    ]  # fmt: skip


def _check_objects(load: Load, made: Sequence[bytes], batches: Sequence[Batch]) -> None:
    """The objects hold the rows of the batches, column by column."""
    for data, batch in zip(made, batches, strict=True):
        found, wanted = pq.read_table(pa.BufferReader(data)), build_rows(batch)
        for name in ("order_id", "price", "size", "ts_event", "seq", "row"):
            if not np.array_equal(found.column(name).to_numpy(), wanted.column(name).to_numpy()):
                raise WrongAnswerError("parquet", f"column {name} read back differs")
    if sum(batch.rows for batch in batches) != load.rows:
        raise WrongAnswerError("parquet", "rows are missing")


CASES: Final = (
    Case("clickhouse", ("clickhouse_http", "clickhouse_engine"), clickhouse),
    Case("bins_clickhouse", ("bins_clickhouse",), bins_clickhouse),
    Case("lake", ("parquet", "parquet_bytes"), parquet),
)
