"""Sinks against a real ClickHouse engine, a real lake folder and a real broker."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from clickhouse_connect.driver.client import Client
from confluent_kafka.admin import NewTopic

from runtime.codec import decode_rows
from runtime.errors import InputError
from runtime.kafka import CheckedProducer, admin
from runtime.object_store import LocalObjectStore
from schemas.bins import with_rest_depth
from schemas.mbo import MBO_DTYPE
from schemas.topics import of_tape
from sinks.base import Batch, Entry, Lane
from sinks.batcher import Limits
from sinks.clickhouse import ClickHouseSink, RefusedError, build_insert, connect
from sinks.ddl import apply_ddl, drop_tape
from sinks.lake import LakeSink, objects_of
from sinks.lake import drop_tape as drop_lake_tape
from sinks.lake_object import decode_object
from sinks.reconcile import reconcile
from sinks.runner import SinkReport, SinkRunner, run_sink
from sinks.tables import KEY_COLUMNS, MBO_COLUMNS, RECORDS, TABLES
from tests.unit.sinks.messages import BINS, FakeConsumer, Made, first_of_each, make_records, make_tape, manifest

pytestmark = pytest.mark.real
ROOT = Path(__file__).parent.parent.parent

KILLS = 5

STILL = "max_bytes_to_merge_at_max_space_in_pool"
"""Setting of a table that keeps its parts from being merged; a merge would remove what is double."""

STORE = """
import sys
from pathlib import Path
from control.embedded.store import EmbeddedStore
store = EmbeddedStore(Path(sys.argv[1]), port=int(sys.argv[2]))
store.serve(lambda: print(store.port, flush=True))
"""


class StoreProcess:
    """A store that can be killed and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        argv = [sys.executable, "-c", STORE, str(self._folder), str(self._port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())

    def end(self, number: int = signal.SIGTERM) -> None:
        self._process.send_signal(number)
        self._process.communicate()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    process = StoreProcess(tmp_path_factory.mktemp("data"))
    yield process
    process.end()


@pytest.fixture
def client(store: StoreProcess) -> Iterator[Client]:
    made = connect(store.url)
    apply_ddl(made)
    yield made
    made.close()


def entries(made: Made, lane: Lane) -> tuple[Entry, ...]:
    places = first_of_each(made.topics[lane.topic], lane.table.by_offset)
    return tuple(Entry(m, *place) for place, m in places.items())


def test_tables_have_the_declared_columns(client: Client) -> None:
    assert apply_ddl(client).changed == (), "done before"
    for table in TABLES.values():
        rows = client.query(f"DESCRIBE TABLE {table.name}").result_rows
        stored = [(name, kind) for name, kind, default, *_ in rows if default != "ALIAS"]
        declared = MBO_COLUMNS if table.raw else [c.name for c in table.columns]
        assert [name for name, _ in stored] == [*KEY_COLUMNS, *declared]
        kinds = dict(stored)
        for column in table.columns:
            assert kinds[column.name].startswith("Array(") == bool(column.width)


def test_a_new_column_is_added_and_a_changed_one_refused(client: Client) -> None:
    client.command("ALTER TABLE trades DROP COLUMN sz")
    client.command("TRUNCATE TABLE schema_versions")
    assert "trades" in apply_ddl(client).changed
    order = [row[0] for row in client.query("DESCRIBE TABLE trades").result_rows]
    assert order.index("sz") == order.index("px") + 1
    client.command("ALTER TABLE trades MODIFY COLUMN sz Float64")
    client.command("TRUNCATE TABLE schema_versions")
    with pytest.raises(InputError, match="column sz of table trades is Float64, declared is Int64"):
        apply_ddl(client)
    client.command("ALTER TABLE trades MODIFY COLUMN sz Int64")
    apply_ddl(client)


def test_rows_are_stored_exactly_and_once(store: StoreProcess, client: Client) -> None:
    made = make_tape(seed=3, blocks=20, tape="exact")
    sink = ClickHouseSink(store.url)
    stop = threading.Event()
    sink.open(stop)
    for table in TABLES.values():
        lane = Lane("exact", "id-exact", "main", table, 0)
        batch = Batch(lane, entries(made, lane))
        sink.write(batch, stop)
        sink.write(batch, stop)
        assert client.command(f"SELECT count() FROM {table.name} WHERE tape = 'exact'") == batch.rows, lane.topic
    sink.close()
    raw = client.query_arrow("SELECT * FROM mbo WHERE tape = 'exact' ORDER BY seq, row")
    blocks = [m.value for m in made.topics["exact.mbo.v1"] if m.envelope.kind == "data"]
    records = np.frombuffer(b"".join(blocks), MBO_DTYPE)
    for name in MBO_COLUMNS:
        wanted = records[name].astype("U1").tolist() if name in ("action", "side") else records[name].tolist()
        assert raw.column(name).to_pylist() == wanted, name
    full = client.query_arrow("SELECT * FROM bins_full WHERE tape = 'exact' ORDER BY seq, part, row")
    start = 0
    for message in made.topics["exact.main.bins.v1"]:
        part = full.slice(start, message.envelope.count)
        start += message.envelope.count
        for name, cells in with_rest_depth(decode_rows(message.value, BINS)).items():
            assert np.array_equal(
                np.array(part.column(name).to_pylist()).reshape(cells.shape), cells, equal_nan=True
            ), name


def test_a_repeat_whose_token_is_gone_leaves_nothing_double(store: StoreProcess, client: Client) -> None:
    """Others' inserts have pushed the token out of the window; the table itself says what is there."""
    made, sink, stop = make_tape(seed=5, tape="window"), ClickHouseSink(store.url), threading.Event()
    made.topics |= make_records("window").topics
    sink.open(stop)
    for name in ("mbo", "trades", "gaps"):
        lane = Lane("window", "id-window", "main", (TABLES | RECORDS)[name], 0)
        batch = Batch(lane, entries(made, lane))
        sink.write(batch, stop)
        rows = client.command(f"SELECT count() FROM {name} WHERE tape = 'window'")
        client.command(f"ALTER TABLE {name} MODIFY SETTING non_replicated_deduplication_window = 2, {STILL} = 1")
        for number in range(4):
            client.command(f"INSERT INTO {name} (tape, seq) VALUES ('others', {number})")
        sink.write(replace(batch, repeat=True), stop)
        assert client.command(f"SELECT count() FROM {name} WHERE tape = 'window'") == rows > 0, name
        sink.write(batch, stop)  # as if nobody had asked: the token is really gone
        assert client.command(f"SELECT count() FROM {name} WHERE tape = 'window'") == 2 * rows, name
        client.command(f"ALTER TABLE {name} MODIFY SETTING non_replicated_deduplication_window = 10000")
        client.command(f"ALTER TABLE {name} RESET SETTING {STILL}")
    drop_tape(client, "window")
    drop_tape(client, "others")
    sink.close()


def test_what_can_never_succeed_stops_the_sink(store: StoreProcess, client: Client) -> None:
    sink = ClickHouseSink(store.url)
    lane = Lane("t1", "id", "main", TABLES["trades"], 0)
    batch = Batch(lane, entries(make_tape(), lane))
    client.command("RENAME TABLE trades TO trades_away")
    try:
        with pytest.raises(RefusedError, match="UNKNOWN_TABLE"):
            sink.write(batch, threading.Event())
    finally:
        client.command("RENAME TABLE trades_away TO trades")
        sink.close()


def test_a_batch_without_rows_needs_no_insert() -> None:
    lane = Lane("t1", "id", "main", TABLES["mbo"], 0)
    empty = tuple(e for e in entries(make_tape(), lane) if not e.rows)
    assert build_insert(Batch(lane, empty)) is None


def drain(made: Made, sink: ClickHouseSink | LakeSink, tape: str, state: Path) -> SinkReport:
    """Run a sink over a made-up tape until it is drained."""
    stop = threading.Event()
    reports: list[SinkReport] = []
    known = manifest(tape)

    def tell(report: SinkReport) -> None:
        reports.append(report)
        if report.drained({name: i.partition for name, i in known.instruments.items()}):
            stop.set()

    consumer = FakeConsumer(made)
    tables = (*TABLES.values(), *(RECORDS.values() if isinstance(sink, ClickHouseSink) else ()))
    SinkRunner(sink, known, "main", "", LocalObjectStore(state), None, lambda _: consumer, tables).run(stop, tell)
    return reports[-1]


def test_a_store_that_is_killed_loses_and_doubles_nothing(tmp_path: Path) -> None:
    process = StoreProcess(tmp_path / "data")
    made = make_tape(seed=11, blocks=100, tape="killed", repeats=True)
    made.topics |= make_records("killed", count=40).topics
    sink = ClickHouseSink(process.url, Limits(rows=100, bytes=100_000, age_s=0.2))
    over = threading.Event()
    kills = 0

    def kill() -> None:
        nonlocal kills
        dice = random.Random(5)
        while kills < KILLS and not over.wait(0.5 + dice.random()):
            process.end(signal.SIGKILL)
            kills += 1
            process.start()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        drain(made, sink, "killed", tmp_path / "state")
        over.set()
        killer.join()
        client = connect(process.url)
        for table in TABLES.values():
            lane = Lane("killed", "", "main", table, 0)
            wanted = sum(e.rows for e in entries(made, lane))
            found = client.query(f"SELECT count(), uniqExact(seq, part, row) FROM {table.name}").result_rows[0]
            assert found == (wanted, wanted), table.name
        for name in RECORDS:
            found = client.query(f"SELECT count(), uniqExact(id), max(seq) FROM {name}").result_rows[0]
            assert found == (40, 40, 39), "the first message of each id, once"
        client.close()
    finally:
        over.set()
        killer.join()
        process.end()
    assert kills


def test_the_lake_gives_every_message_back(tmp_path: Path) -> None:
    made = make_tape(seed=4, blocks=60, tape="lake", repeats=True)
    objects = LocalObjectStore(tmp_path / "lake")
    drain(made, LakeSink(objects, Limits(rows=50, bytes=30_000, age_s=0.2)), "lake", tmp_path / "state")
    for table in TABLES.values():
        lane = Lane("lake", manifest("lake").tape_id, "main", table, 0)
        found = objects_of(objects, lane)
        back = [e for o in found for e in decode_object(objects.get(o.name) or b"", table, lane.topic, 0)]
        assert back == list(entries(made, lane))
        assert len(found) > 1
        frame = pl.scan_parquet(tmp_path / "lake" / lane.topic / "**" / "*.parquet").collect()
        assert frame.height == sum(e.rows for e in back)
    drop_lake_tape(objects, "lake", "main")
    assert {name.split("/")[0] for name in objects.names()} == {"identity", "lake.mbo.v1"}
    drop_lake_tape(objects, "lake")
    assert list(objects.names()) == ["identity"]


def test_dropping_a_tape_leaves_the_others(store: StoreProcess, client: Client, tmp_path: Path) -> None:
    for tape in ("gone", "stays"):
        drain(make_tape(tape=tape), ClickHouseSink(store.url), tape, tmp_path)
    drop_tape(client, "gone", "main")
    tapes = [{r[0] for r in client.query(f"SELECT DISTINCT tape FROM {t}").result_rows} for t in ("mbo", "bins")]
    assert {"gone", "stays"} <= tapes[0]
    assert "gone" not in tapes[1]
    assert "stays" in tapes[1]
    drop_tape(client, "gone")
    assert "gone" not in {r[0] for r in client.query("SELECT DISTINCT tape FROM mbo").result_rows}


def test_a_new_database_is_filled_although_progress_exists(tmp_path: Path) -> None:
    made = make_tape(tape="anew")
    for folder in ("one", "two"):
        process = StoreProcess(tmp_path / folder)
        try:
            drain(made, ClickHouseSink(process.url), "anew", tmp_path / "state")
            client = connect(process.url)
            assert client.command("SELECT count() FROM mbo") > 0
            client.close()
        finally:
            process.end()


def publish(bootstrap_servers: str, made: Made, tape: str, only: Container[str] | None = None) -> None:
    wanted = {name: spec for name, spec in of_tape(tape).items() if only is None or name in only}
    topics = [NewTopic(name, 1, 1, config=spec.config()) for name, spec in wanted.items()]
    client = admin(bootstrap_servers)
    for future in client.create_topics(topics).values():
        future.result(30)
    producer = CheckedProducer(bootstrap_servers)
    for message in made.outgoing():
        producer.send(message)
    producer.flush()


def in_thread(work: Callable[[], None]) -> tuple[threading.Thread, list[BaseException]]:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, failures


def test_from_the_broker_into_both_stores_and_reconciled(
    kafka: str, store: StoreProcess, client: Client, tmp_path: Path
) -> None:
    made = make_tape(seed=9, blocks=80, tape="both", repeats=True)
    publish(kafka, made, "both")
    known = manifest("both")
    partition_of = {name: i.partition for name, i in known.instruments.items()}
    lake = tmp_path / "lake"
    for name, target in (("clickhouse", store.url), ("lake", str(lake))):
        stop = threading.Event()

        def tell(report: SinkReport, stop: threading.Event = stop) -> None:
            if report.drained(partition_of):
                stop.set()

        run_sink(
            name, known, "main", bootstrap_servers=kafka, target=target, state_dir=tmp_path / "state",
            stop=stop, on_progress=tell,
        )  # fmt: skip
    objects = LocalObjectStore(lake)
    report = reconcile(known, "main", kafka, client=client, lake=objects)
    assert report.clean, report
    for name, table in TABLES.items():
        lane = Lane("both", "", "main", table, 0)
        rows = sum(e.rows for e in entries(made, lane))
        found = report.tables[name]
        assert (found.topic_rows, found.store_rows, found.lake_rows) == (rows, rows, rows)
    # What is gone or doubled afterwards is counted.
    client.command("ALTER TABLE trades DELETE WHERE tape = 'both' AND row = 0", settings={"mutations_sync": 1})
    client.command("INSERT INTO mbo SELECT * FROM mbo WHERE tape = 'both' AND row = 1")
    first = objects_of(objects, Lane("both", known.tape_id, "main", TABLES["bins"], 0))[0]
    objects.delete(first.name)
    again = reconcile(known, "main", kafka, client=client, lake=objects)
    with_rows = [e for e in entries(made, Lane("both", "", "main", TABLES["trades"], 0)) if e.rows]
    assert again.tables["trades"].missing == len(with_rows)
    assert again.tables["mbo"].duplicate > 0
    assert again.tables["bins"].lake_messages_missing > 0
    assert again.tables["bins"].missing > 0
    assert not again.clean


def test_a_tape_of_a_release_without_topics_of_records_is_drained(
    kafka: str, store: StoreProcess, client: Client, tmp_path: Path
) -> None:
    made = make_tape(seed=10, blocks=10, tape="older")
    publish(kafka, made, "older", {name for name, spec in of_tape("older").items() if spec.rooted})
    known = manifest("older")
    stop = threading.Event()
    reports: list[SinkReport] = []

    def tell(report: SinkReport) -> None:
        reports.append(report)
        if report.drained({name: i.partition for name, i in known.instruments.items()}):
            stop.set()

    run_sink(
        "clickhouse", known, "main", bootstrap_servers=kafka, target=store.url, state_dir=tmp_path / "state",
        stop=stop, on_progress=tell,
    )  # fmt: skip
    assert {lane.stream: lane.behind for lane in reports[-1].lanes if lane.behind is not None} == dict.fromkeys(
        RECORDS, 0
    )
    rows = sum(e.rows for e in entries(made, Lane("older", "", "main", TABLES["mbo"], 0)))
    assert client.command("SELECT count() FROM mbo WHERE tape = 'older'") == rows


def test_a_sink_waits_for_a_store_that_is_away_and_stops_when_asked(tmp_path: Path) -> None:
    process = StoreProcess(tmp_path / "data")
    process.end()
    stop = threading.Event()
    known = replace(manifest("away"))
    thread, failures = in_thread(
        lambda: run_sink(
            "clickhouse", known, "main", bootstrap_servers="127.0.0.1:1", target=process.url,
            state_dir=tmp_path / "state", stop=stop,
        )
    )  # fmt: skip
    thread.join(1.0)
    assert thread.is_alive()
    stop.set()
    thread.join(20)
    assert not thread.is_alive()
    assert failures == []
