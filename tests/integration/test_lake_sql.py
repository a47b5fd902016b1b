"""The same query over hot tables and over the lake: one market, written by both sinks, asked twice."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from connectors.simulate import START_NS
from control.embedded.store import running_store
from control.lake_views import lake_store
from runtime.errors import InputError
from runtime.object_store import LocalObjectStore, ObjectStore
from runtime.tapes import Line, Manifest, TapeStore
from schemas.units import NS_PER_SECOND
from sinks.base import Batch, Entry, Lane
from sinks.clickhouse import connect
from sinks.lake import LakeSink
from sinks.tables import TABLES, tape_tables
from tests.integration import sql_tape
from tests.integration.sql_tape import SqlTape
from tests.integration.test_sql_questions import FROM_NS, QUESTIONS, TO_NS, Market
from tests.unit.sinks.s3 import S3Server

pytestmark = pytest.mark.real
Cli = Callable[..., Any]

VIEWS = (
    "SELECT * FROM mbo ORDER BY tape, instrument, seq, row",
    "SELECT * FROM bins ORDER BY tape, instrument, ts_end_ns",
    "SELECT * FROM trades ORDER BY tape, instrument, seq, part, row",
    "SELECT * FROM bars ORDER BY ALL",
    "SELECT * FROM gaps ORDER BY seq",
    "SELECT * FROM events ORDER BY seq",
    "SELECT * FROM dead_letters ORDER BY seq",
    "SELECT * FROM bins_full ORDER BY instrument, ts_end_ns LIMIT 500",
    "SELECT * FROM grid_long WHERE ts_end_ns <= {soon_ns:Int64} ORDER BY instrument, ts_end_ns, k",
    "SELECT * FROM bars_of(interval_ns = 60000000000) ORDER BY instrument, ts_start_ns",
    "SELECT * FROM volume_profile(interval_ns = 600000000000, bucket_px = 250000000) ORDER BY ALL",
    "SELECT * FROM trades_as_of ORDER BY instrument, seq, part, row",
    "SELECT * FROM quality_calendar ORDER BY instrument, day",
    "SELECT tape, tape_id, state, partitions, live, lines, instruments, sources FROM tapes",
    "SELECT * FROM runs",
    "SELECT * FROM instruments ORDER BY instrument",
    "SELECT ts_event_utc, ts_recv_utc FROM mbo ORDER BY seq, row LIMIT 10",
    "SELECT ts_end_utc, ts_start_utc FROM bars ORDER BY ALL LIMIT 10",
    "SELECT name, type FROM system.columns WHERE database = 'default' AND table = 'bins' ORDER BY position",
)

COUNTS = tuple(f"SELECT count(), sum(cityHash64(seq, part, row, instrument)) FROM {table}" for table in TABLES)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SqlTape:
    return sql_tape.make(tmp_path_factory.mktemp("market"), records=20_000, hours=0.6)


def said_twice(made: SqlTape) -> None:
    """Gaps again, by another producer: readers of either store see the first of each."""
    first = made.messages["gaps"]
    for message in list(first):
        first.append(sql_tape.again(message, len(first)))


@pytest.fixture(scope="module")
def hot(made: SqlTape, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    """What the tables answer; a process has one engine, so this one is closed before the lake's is opened."""
    said_twice(made)
    with running_store(tmp_path_factory.mktemp("hot")) as url:
        sql_tape.fill(url, made)
        sql_tape.announce(url, made)
        with closing(connect(url)) as client:
            return {sql: answer(client, sql, made) for sql in (*VIEWS, *QUESTIONS.values(), *COUNTS)}


def answer(client: Client, sql: str, made: SqlTape) -> pa.Table:
    market = Market(made)
    parameters = {
        "tape": "sim", "line": "main", "instrument": market.name, "from_ns": FROM_NS, "to_ns": TO_NS,
        "order_id": market.order_id, "soon_ns": START_NS + 20 * NS_PER_SECOND,
    }  # fmt: skip
    used = {name: value for name, value in parameters.items() if f"{{{name}:" in sql}
    return client.query_arrow(sql, parameters=used, use_strings=True)


def fill_lake(store: ObjectStore, made: SqlTape) -> None:
    """Every lane in three objects, and one of them within a wider one, as compaction leaves it when it is killed."""
    sink, stop = LakeSink(store), Event()
    for table in tape_tables():
        entries = [
            Entry(m, m.offset if table.by_offset else m.envelope.seq, 0) for m in made.messages.get(table.name, [])
        ]
        lane, third = Lane(made.tape, f"id-{made.tape}", "main", table, 0), -(-len(entries) // 3)
        cuts = [entries[at : at + third] for at in range(0, len(entries), third)] if entries else []
        for part in (*cuts, *([entries[: 2 * third]] if table.name == "bins" else [])):
            sink.write(Batch(lane, tuple(part)), stop)
    manifest = Manifest(made.tape, f"id-{made.tape}", "finished", instruments=made.known)
    TapeStore(store).save(manifest.with_line("main", Line(sql_tape.RUN, dict(sql_tape.CONFIG), True)))


@pytest.fixture(scope="module")
def folder(made: SqlTape, hot: dict[str, pa.Table], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lake")
    fill_lake(LocalObjectStore(root), made)
    return root


def test_the_command_asks_a_folder_or_a_bucket(cli: Cli, folder: Path, made: SqlTape, tmp_path: Path) -> None:
    sql = (
        "SELECT instrument, count() AS n FROM trades WHERE tape = {tape:String} GROUP BY instrument ORDER BY instrument"
    )
    asked = ("sql", sql, "--param", "tape=sim", "--lake", "--format", "json", "--lake-url")
    done = cli(*asked, folder)
    assert done.returncode == 0, done.stderr
    wanted = [{"instrument": name, "n": len(made.rows("trades", name)["ts_ns"])} for name in sorted(made.known)]
    assert json.loads(done.stdout) == wanted
    done = cli(*asked, tmp_path / "none")
    assert done.returncode == 2
    assert "holds no tapes" in done.stderr


def test_a_bucket_is_asked_as_a_folder_is(
    made: SqlTape, hot: dict[str, pa.Table], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    try:
        fill_lake(server.store("deep/lake"), made)
        with lake_store("s3://bucket/deep/lake") as url:
            client = connect(url)
            for sql in COUNTS:
                assert answer(client, sql, made).equals(hot[sql])
            assert client.query("SELECT id FROM gaps ORDER BY id").result_rows == [("g0",), ("g1",), ("g2",)]
            client.close()
    finally:
        server.stop()


def test_a_lake_of_two_tapes_answers_of_both(made: SqlTape, tmp_path: Path) -> None:
    """Each table then has objects in two folders; the second tape is the first under another name."""
    store = LocalObjectStore(tmp_path)
    fill_lake(store, made)
    for topic in list(tmp_path.glob(f"{made.tape}.*")):
        other = topic.name.replace(made.tape, "other", 1)
        shutil.copytree(topic / f"id-{made.tape}", tmp_path / other / "id-other")
    manifest = Manifest("other", "id-other", "finished", instruments=made.known)
    TapeStore(store).save(manifest.with_line("main", Line(sql_tape.RUN, dict(sql_tape.CONFIG), True)))
    with lake_store(str(tmp_path)) as url, closing(connect(url)) as client:
        for table in ("mbo", "bins", "trades", "bars"):
            rows = sum(m.envelope.count for m in made.messages[table] if m.envelope.kind != "definition")
            assert client.query(f"SELECT count() FROM {table}").result_rows == [(2 * rows,)], table


def test_places_that_the_engine_would_take_for_patterns_are_refused(tmp_path: Path, made: SqlTape) -> None:
    odd = tmp_path / "a{b}"
    fill_lake(LocalObjectStore(odd), made)
    with pytest.raises(InputError, match=r"has '\{' in it"), lake_store(str(odd)):
        pass


@pytest.fixture(scope="module")
def cold(folder: Path) -> Iterator[Client]:
    with lake_store(str(folder)) as url, closing(connect(url)) as client:
        yield client


@pytest.mark.parametrize("sql", VIEWS)
def test_a_view_over_the_lake_says_what_the_hot_one_says(
    sql: str, made: SqlTape, hot: dict[str, pa.Table], cold: Client
) -> None:
    found = answer(cold, sql, made)
    assert found.schema == hot[sql].schema
    assert found.equals(hot[sql])
    assert found.num_rows > 0 or "dead_letters" in sql


@pytest.mark.parametrize("number", QUESTIONS)
def test_each_of_the_twenty_questions_has_the_same_answer(
    number: str, made: SqlTape, hot: dict[str, pa.Table], cold: Client
) -> None:
    wanted, found = hot[QUESTIONS[number]], answer(cold, QUESTIONS[number], made)
    assert found.schema == wanted.schema
    for mine, theirs in zip(found.to_pylist(), wanted.to_pylist(), strict=True):
        for name, value in mine.items():
            assert value == (pytest.approx(theirs[name], rel=1e-9) if isinstance(value, float) else theirs[name]), name


def test_what_the_lake_lacks_is_refused_and_nothing_can_be_written(cold: Client) -> None:
    with pytest.raises(DatabaseError, match="cutovers"):
        cold.query("SELECT * FROM cutovers")
    assert (
        cold.query("SELECT count() FROM trades FINAL").result_rows
        == cold.query("SELECT count() FROM trades").result_rows
    )
    with pytest.raises(DatabaseError, match="write"):
        cold.command("INSERT INTO trades (tape) VALUES ('x')")
