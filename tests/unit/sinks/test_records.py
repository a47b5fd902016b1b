import json
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from runtime.object_store import LocalObjectStore
from schemas.envelope import crc32
from schemas.message import Message
from schemas.topics import CATALOGUE, TAPES, TopicSpec
from sinks import records
from sinks.base import Batch, Entry, Lane, rows_of
from sinks.batcher import Limits
from sinks.clickhouse import build_insert, known_ids
from sinks.ddl.render import table_sql
from sinks.records import fields_of, first_of_each_id
from sinks.registers import register_rows
from sinks.rows import build_rows
from sinks.runner import SinkReport, SinkRunner
from sinks.tables import KEY_COLUMNS, RECORDS, REGISTERS, TABLES, record_table
from tests.unit.sinks.messages import FakeConsumer, event_record, gap_record, letter_record, make_records, make_tape
from tests.unit.sinks.messages import manifest as make_manifest

SOURCES = {"gaps": gap_record, "events": event_record, "dead_letters": letter_record}


def lane(stream: str) -> Lane:
    return Lane("t1", "id", "main", RECORDS[stream], 0)


def batch_of(stream: str, messages: list[Message]) -> Batch:
    return Batch(lane(stream), tuple(Entry(m, m.offset, 0) for m in messages))


def test_every_topic_of_records_has_a_table() -> None:
    wanted = {spec.stream.replace(".", "_") for spec in CATALOGUE if not spec.rooted}
    assert {*RECORDS, *REGISTERS} == wanted
    assert set(RECORDS) == set(SOURCES)
    assert all("id" in [f.name for f in table.fields] for table in RECORDS.values()), "readers are idempotent by it"


@pytest.mark.parametrize("stream", SOURCES)
def test_rows_hold_every_field_exactly(stream: str) -> None:
    messages = make_records().topics[f"t1.{stream}.v1"][:7]
    rows = build_rows(batch_of(stream, messages))
    fields = RECORDS[stream].fields
    assert rows.column_names == [*KEY_COLUMNS, *(f.name for f in fields)]
    for at, row in enumerate(rows.to_pylist()):
        assert [row[n] for n in KEY_COLUMNS] == ["t1", "-", "X:A", 0, at, 0, 0, ""]
        assert {f.source: row[f.name] for f in fields} == SOURCES[stream](at)


def test_fields_that_key_columns_have_already_are_renamed() -> None:
    names = {f.source: f.name for f in RECORDS["dead_letters"].fields}
    assert {n for n in names if names[n] != n} == {"line", "run", "partition", "seq"}
    assert names["seq"] == "of_seq"


def test_the_first_of_each_id_counts_and_a_repeat_is_the_same_block() -> None:
    messages = make_records(count=3).topics["t1.gaps.v1"]
    whole = first_of_each_id(build_rows(batch_of("gaps", messages)), frozenset())
    assert whole.column("epoch").to_pylist() == [0, 0, 0]
    second = batch_of("gaps", messages[2:])
    first, again = (build_insert(second, frozenset({"gap-0", "gap-1"})) for _ in range(2))
    assert first is not None
    assert first == again
    assert pa.ipc.open_stream(first.body).read_all().column("id").to_pylist() == ["gap-2"]
    assert build_insert(batch_of("gaps", messages[3:]), frozenset({"gap-0", "gap-1", "gap-2"})) is None


def test_ids_are_asked_in_pieces_that_a_server_takes() -> None:
    lane = Lane("t1", "id", "main", RECORDS["events"], 3)
    ids = [f"{at:064x}" for at in range(2_500)]
    stands, asked = set(ids[::7]), list[list[str]]()

    class Server:
        """Answers as ClickHouse does, which refuses a form field above 128 KiB."""

        def query(self, sql: str, parameters: dict[str, Any]) -> Any:
            assert len(repr(parameters["ids"])) <= 128 << 10, "http_max_field_value_size"
            assert (parameters["tape"], parameters["at"], parameters["first"]) == ("t1", 3, 9)
            asked.append(parameters["ids"])
            return SimpleNamespace(result_rows=[(name,) for name in parameters["ids"] if name in stands])

    server: Any = Server()
    assert known_ids(server, lane, 9, [*ids, *ids[:10]]) == stands
    assert [name for piece in asked for name in piece] == ids
    assert known_ids(server, lane, 9, []) == frozenset()


def test_what_is_no_such_record_gives_no_row() -> None:
    good, other, *_ = make_records().topics["t1.gaps.v1"]
    event = make_records().topics["t1.events.v1"][0]
    rubbish = replace(other, value=b"\0rubbish", envelope=replace(other.envelope, crc32=crc32(b"\0rubbish")))
    bent = replace(other, value=other.value[:-1] + b"!")
    strange = replace(other, envelope=replace(other.envelope, schema="unreadable"))
    assert [rows_of(m) for m in (good, rubbish, bent, strange)] == [1, 0, 0, 0]
    found = [replace(m, offset=at) for at, m in enumerate((rubbish, bent, strange, event, good))]
    assert build_rows(batch_of("gaps", found)).column("seq").to_pylist() == [4]


@pytest.mark.parametrize("kind", [{"type": "map", "values": "long"}, ["int", "string"], {"type": "fixed", "size": 4}])
def test_a_type_that_no_column_holds_is_refused_when_declared(kind: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="no column holds"):
        records._types(kind)


def test_columns_follow_from_a_made_up_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = [("id", "string"), ("ts_seen", "long"), ("ok", "boolean"), ("rate", ["null", "double"])]
    fields.append(("tags", {"type": "array", "items": "string"}))  # type: ignore[arg-type]
    text = json.dumps({"fields": [{"name": n, "type": t, "doc": "it's"} for n, t in fields]})
    monkeypatch.setattr(records, "latest", lambda _: type("Made", (), {"text": text}))
    fields_of.cache_clear()
    table = record_table(TopicSpec("notes", "tape", 1, "k", "v", "p", (), avro="note", rooted=False))
    assert [f.sql for f in table.fields] == ["String", "Int64", "Bool", "Nullable(Float64)", "Array(String)"]
    assert table.time == ("ts_seen",)
    assert "ts_seen_utc DateTime64" in table_sql(table)
    fields_of.cache_clear()


class Kept:
    """Keeps batches in memory."""

    name, limits = "kept", Limits(5, 1 << 20, 0.0)

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def open(self, stop: Event) -> str:
        return "identity"

    def write(self, batch: Batch, stop: Event) -> None:
        self.batches.append(batch)

    def close(self) -> None:
        pass


def test_a_sink_is_drained_when_every_record_is_confirmed(tmp_path: Path) -> None:
    made = make_tape()
    made.topics |= make_records(count=20).topics
    reports: list[SinkReport] = []
    known, stop, sink = make_manifest(), Event(), Kept()
    consumer = FakeConsumer(made)

    def tell(report: SinkReport) -> None:
        reports.append(report)
        if report.drained({name: 0 for name in known.instruments}):
            stop.set()

    SinkRunner(
        sink, known, "main", "", LocalObjectStore(tmp_path), None, lambda _: consumer,
        (*TABLES.values(), *RECORDS.values()),
    ).run(stop, tell)  # fmt: skip
    for stream in RECORDS:
        entries = [e for b in sink.batches if b.lane.table.name == stream for e in b.entries]
        assert [(e.seq, e.part) for e in entries] == [(at, 0) for at in range(40)]
    assert not any(r.drained({"X:A": 0, "X:B": 0}) for r in reports[:-1])


def test_register_rows_are_records_with_their_place() -> None:
    from runtime.codec import encode_avro
    from schemas.envelope import Envelope

    tape = {"tape": "t1", "tape_id": "id", "state": "open", "partitions": 1, "manifest": "{}"}
    value = encode_avro("tape", tape)
    envelope = Envelope("definition", "tape", count=1, crc32=crc32(value))
    good = Message(TAPES.name(), 0, 7, 1_700, "t1", value, envelope)
    gone = replace(good, value=b"", envelope=replace(envelope, crc32=0))
    rows = register_rows([good, gone, replace(good, value=b"\0\0\0\0\x02x")], REGISTERS["ops_tapes"])
    place = {"topic": "ops.tapes.v1", "partition": 0, "offset": 7, "announced_ms": 1_700, "key": "t1"}
    assert rows.to_pylist() == [{**place, **tape}]
