"""Tables and views in a real ClickHouse engine: records, registers, a stream that is only declared, migrations."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from confluent_kafka.admin import NewTopic

from control.embedded.store import running_store
from control.topic_admin import TopicAdmin
from runtime.codec import encode_avro, encode_rows
from runtime.kafka import CheckedProducer, admin
from runtime.tapes import Deletion, Instrument, Line, Manifest
from schemas.columns import Column
from schemas.envelope import Envelope, crc32
from schemas.message import Message, Outgoing
from schemas.topics import RUNS, TAPES, TopicSpec
from sinks.base import Batch, Entry, Lane
from sinks.clickhouse import ClickHouseSink, connect
from sinks.ddl import apply_ddl, drop_tape
from sinks.erase import erase_rows
from sinks.registers import following, insert_rows, register_rows
from sinks.tables import RECORDS, REGISTERS, TABLES, TableSpec
from tests.unit.sinks.messages import RUN, make_records

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_store(tmp_path_factory.mktemp("tables")) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    made = connect(url)
    apply_ddl(made)
    yield made
    made.close()


def test_records_are_stored_once_by_id_however_they_are_cut(url: str, client: Client) -> None:
    """The second half says the same ids again: in the same batch, in a later one, and in a repeat of either."""
    sink, stop = ClickHouseSink(url), threading.Event()
    sink.open(stop)
    for stream, table in RECORDS.items():
        messages = make_records("rec", count=10).topics[f"rec.{stream}.v1"]
        lane = Lane("rec", "id-rec", "main", table, 0)
        entries = [Entry(m, m.offset, 0) for m in messages]
        for part in (entries[:13], entries[:13], entries[13:], entries[13:], entries[:13]):
            sink.write(Batch(lane, tuple(part)), stop)
        found = client.query(f"SELECT id, seq, part, row, line, run FROM {stream} WHERE tape = 'rec' ORDER BY seq")
        assert [tuple(row[1:]) for row in found.result_rows] == [(at, 0, 0, "-", "") for at in range(10)]
        assert [row[0].rpartition("-")[2] for row in found.result_rows] == [str(at) for at in range(10)]
    sink.close()
    gap = client.query("SELECT cause, ts_from, ts_to, epoch FROM gaps WHERE id = 'gap-3'").result_rows[0]
    assert gap == ('it\'s a \\ "gap"\n', -(1 << 63), (1 << 63) - 1, 0)
    letter = client.query(
        "SELECT hex(value), arrayMap(h -> (h.name, hex(h.value)), headers), hex(key), of_seq, of_run, of_partition "
        "FROM dead_letters WHERE id = 'letter-5'"
    ).result_rows[0]
    assert bytes.fromhex(letter[0]) == bytes(range(256)) * 5
    assert letter[1:] == ([("kind", "64617461"), ("kind", "FF00")], "FE", 1_005, "run-9", 3)


def test_a_stream_that_is_only_declared_has_its_table(
    url: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = (
        Column("ts_ns", "i8", "ns", "time of the reading"),
        Column("pressure", "f8", "lots/s", "a \\ 'quoted' meaning", 3),
        Column("state", "i1", "code", "state"),
    )
    topic = TopicSpec("weather", "line", 1, "instrument", "Arrow", "weather stage", ("sinks",))
    monkeypatch.setitem(TABLES, "weather", TableSpec(topic, columns, ("ts_ns",)))
    assert apply_ddl(client).changed == ("weather",)
    rows = {
        "ts_ns": np.array([-(1 << 63), 5, (1 << 63) - 1]),
        "pressure": np.array([[np.nan, np.inf, -np.inf], [0.0, -0.0, 5e-324], [1.5, 2.5, 3.5]]),
        "state": np.array([-128, 0, 127], "i1"),
    }
    value = encode_rows(rows, columns)
    envelope = Envelope("data", "weather", count=3, crc32=crc32(value), seq=7, run=RUN)
    message = Message(topic.name("w1"), 0, 0, 0, "X:A", value, envelope)
    sink, stop = ClickHouseSink(url), threading.Event()
    sink.write(Batch(Lane("w1", "id-w1", "main", TABLES["weather"], 0), (Entry(message, 7, 0),)), stop)
    sink.close()
    back = client.query_arrow("SELECT * FROM weather ORDER BY ts_ns")
    for name, cells in rows.items():
        flat = back.column(name).combine_chunks()
        found = flat.flatten() if pa.types.is_list(flat.type) else flat
        assert found.to_numpy(zero_copy_only=False).tobytes() == cells.tobytes(), name
    assert back.column("seq").to_pylist() == [7, 7, 7]
    comment = client.query("SELECT comment FROM system.columns WHERE table='weather' AND name='pressure'")
    assert comment.result_rows == [("a \\ 'quoted' meaning [lots/s]",)]
    drop_tape(client, "w1")
    assert client.command("SELECT count() FROM weather") == 0
    client.command("DROP TABLE weather")


def announced(manifest: Manifest, state: str = "open") -> tuple[str, bytes]:
    """Key and value of a manifest on its topic."""
    record = {
        "tape": manifest.tape, "tape_id": manifest.tape_id, "state": state, "partitions": manifest.partitions,
        "manifest": manifest.to_json(),
    }  # fmt: skip
    return manifest.tape, encode_avro("tape", record)


def tape(name: str, run: str, complete: bool = False) -> Manifest:
    """A tape of one instrument."""
    known = {"GLBX.MDP3:ESH4": Instrument(0, 250_000_000, lot="1", tick_source="table", venue_symbol="ESH4")}
    return Manifest(name, f"id-{name}", instruments=known, lines={"main": Line(run, {"radius": 50}, complete)})


def test_the_newest_record_of_a_key_stands(client: Client) -> None:
    def message(at: int, manifest: Manifest, state: str = "open") -> Message:
        key, value = announced(manifest, state)
        return Message(TAPES.name(), 0, at, 1_000 + at, key, value, Envelope("definition", "tape", 1, 1, crc32(value)))

    found = [message(1, tape("a", "r1")), message(2, tape("a", "r2", True)), message(3, tape("b", "r3"))]
    gone = message(4, tape("c", "r4"), "deleted")
    for order in ([*found, gone], found[:1], found[::-1]):
        insert_rows(client, REGISTERS["ops_tapes"], register_rows(order, REGISTERS["ops_tapes"]))
    runs = client.query("SELECT tape, line, run, complete, config FROM runs ORDER BY tape").result_rows
    assert [row[:4] for row in runs] == [("a", "main", "r2", True), ("b", "main", "r3", False)]
    assert json.loads(runs[0][4]) == {"radius": 50}
    assert client.query("SELECT * EXCEPT tape FROM instruments WHERE tape = 'a'").result_rows == [
        ("GLBX.MDP3:ESH4", 0, 250_000_000, 1, "1", "ESH4", "table")
    ]
    tapes = client.query("SELECT tape, state, lines, instruments FROM tapes ORDER BY tape").result_rows
    assert tapes[0] == ("a", "open", ["main"], ["GLBX.MDP3:ESH4"])
    assert tapes[2][:2] == ("c", "deleted")


def test_registers_are_followed_from_the_broker(kafka: str, url: str, client: Client) -> None:
    known = TopicAdmin(kafka).existing()
    topics = [NewTopic(spec.name(), 1, 1, config=spec.config()) for spec in (TAPES, RUNS) if spec.name() not in known]
    broker = admin(kafka)
    for future in broker.create_topics(topics).values() if topics else ():
        future.result(30)
    cutover = {
        "id": "id/main/books/0/9", "tape": "f1", "tape_id": "id", "line": "main", "stage": "books", "partition": 3,
        "seq": 9, "from_run": "r1", "to_run": "r2", "checkpoint": "c",
    }  # fmt: skip
    said = [(TAPES.name(), *announced(tape("f1", "r1"))), (TAPES.name(), *announced(tape("f1", "r2")))]
    said.append((RUNS.name(), "id/main/books/0/9", encode_avro("cutover", cutover)))
    producer = CheckedProducer(kafka)
    with following(kafka, url):
        for topic, key, value in said:
            producer.send(Outgoing(topic, 0, key, value, Envelope("data", "tape", 1, 1, crc32(value))))
        producer.flush()
        seen = "SELECT (SELECT run FROM runs WHERE tape = 'f1'), (SELECT max(partition) FROM cutovers)"
        for _ in range(600):
            if client.query(seen).result_rows == [("r2", 3)]:
                break
            threading.Event().wait(0.05)
    assert client.query(seen).result_rows == [("r2", 3)]
    stamp = client.command("SELECT toUnixTimestamp(announced_utc) FROM tapes WHERE tape = 'f1'")
    assert int(stamp) > 1_600_000_000, "stamped by a clock, so that a later one wins on any broker"


def test_indexes_and_columns_that_are_new_are_added(client: Client, tmp_path: Path) -> None:
    client.command("ALTER TABLE mbo DROP INDEX order_id_known")
    client.command("ALTER TABLE gaps DROP COLUMN cause")
    client.command("TRUNCATE TABLE schema_versions")
    assert {"mbo", "gaps", "instruments"} <= set(apply_ddl(client).changed)
    names = client.query("SELECT name FROM system.data_skipping_indices WHERE table = 'mbo'").result_rows
    assert ("order_id_known",) in names
    assert client.command("SELECT type FROM system.columns WHERE table = 'gaps' AND name = 'cause'") == "String"
    assert apply_ddl(client).changed == ()


def test_deleted_ranges_go_by_one_mutation_of_each_table(client: Client) -> None:
    manifest = Manifest("erased", "id-erased")
    for tape in ("erased", "other"):
        for instrument, partition in (("X:A", 0), ("it\\'s", 0), ("X:C", 1)):
            client.command(
                "INSERT INTO trades (tape, line, instrument, partition, seq) "
                f"SELECT '{tape}', 'main', '{instrument}', {partition}, number FROM numbers(10)"
            )
    deletions = (
        Deletion("X:A", 0, 2, 5, "2024-01-02"),
        Deletion("it's", 0, 3, 3),
        Deletion("X:C", 1, 8, 9),
        Deletion("X:C", 0, 1, 1),
    )
    erase_rows(client, manifest, deletions, [(0, 4), (0, 3_000), (1, 8), (1, 2)])
    found = client.query(
        "SELECT instrument, groupArray(seq) FROM (SELECT * FROM trades WHERE tape = 'erased' ORDER BY seq) "
        "GROUP BY 1 ORDER BY 1"
    ).result_rows
    assert found == [
        ("X:A", [0, 1, 4, 6, 7, 8, 9]),
        ("X:C", list(range(8))),
        ("it's", [0, 1, 2, 4, 5, 6, 7, 8, 9]),
    ]
    assert client.command("SELECT count() FROM trades WHERE tape = 'other'") == 30
    mutations = client.query("SELECT table, count() FROM system.mutations WHERE command LIKE '%it%s%' GROUP BY table")
    assert {str(table): count for table, count in mutations.result_rows} == dict.fromkeys(TABLES, 1)
