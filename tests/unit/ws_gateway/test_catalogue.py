"""Streams follow from declarations: a topic that nobody in the gateway has heard of is served once it is declared."""

import pyarrow as pa
import pytest

from runtime.codec import encode_rows
from runtime.tapes import Instrument, new_tape
from schemas import streams
from schemas.columns import Column, empty_table
from schemas.envelope import Envelope, crc32
from schemas.message import Message
from schemas.streams import StreamSpec
from schemas.topics import TopicSpec
from ws_gateway import catalogue
from ws_gateway.decode import block_of
from ws_gateway.fanout import Name
from ws_gateway.feeder import _sources_of

MOODS = TopicSpec("moods", "line", 1, "instrument", "Arrow", "a stage", ("gateway",))
COLUMNS = (
    Column("ts_ns", "i8", "ns", "when"),
    Column("mood", "f8", "1", "how"),
    Column("shape", "f8", "1", "a vector", 4),
)


@pytest.fixture
def moods(monkeypatch):
    monkeypatch.setitem(streams.DECLARED, "moods", StreamSpec(MOODS, COLUMNS, "ts_ns"))


def rows(world, count=3):
    table = empty_table(COLUMNS, count)
    table["mood"] = [0.5, 1.5, 2.5][:count]
    table["shape"][:, 3] = 7
    value = encode_rows(table, COLUMNS)
    message = Message("t1.main.moods.v1", 0, 0, 0, "X", value, Envelope("data", "moods", crc32=crc32(value), seq=4))
    return block_of(message, catalogue.stream("moods"))


def test_a_declared_topic_is_a_stream(world, names, moods):
    world.hub.publish(Name(names["tape"], "main", "moods", names["instrument"]), rows(world), world.ns)
    seen = world.subscribe(world.session(), stream="moods", fields=["mood", "shape"], **{"from": "@0"})
    table = pa.ipc.open_stream(b"".join(m[1] for m in seen if isinstance(m, tuple))).read_all()
    assert table["mood"].to_pylist() == [0.5, 1.5, 2.5]
    assert table["shape"].to_pylist() == [[0, 0, 0, 7.0]] * 3
    assert table["seq"].to_pylist() == [4] * 3
    assert catalogue.stream("moods").defaults == ("ts_ns", "mood")
    assert "moods" in world.drain(world.session())[0]["streams"]


def test_its_topic_is_read_on_every_line(moods):
    tape = new_tape("t1", instruments={"X:Y": Instrument(0, 1)})
    assert ("t1.main.moods.v1", 0) in dict(_sources_of(tape))


def test_it_is_none_before_it_is_declared(world):
    assert world.subscribe(world.session(), stream="moods")[-1]["code"] == "bad_field"


@pytest.mark.parametrize("name", catalogue.names())
def test_every_stream_has_its_time_and_defaults_among_its_fields(name):
    stream = catalogue.stream(name)
    assert set(stream.defaults) <= set(stream.fields)
    assert stream.time in stream.fields


def test_records_have_the_fields_of_their_schema_and_the_line_of_the_tape(world, names):
    gaps = catalogue.stream("gaps")
    assert {"id", "cause", "seq_from", "epoch"} <= set(gaps.fields)
    assert gaps.line("main") == "-"
    seen = world.subscribe(world.session(), stream="gaps")
    schema = pa.ipc.open_stream(seen[-1][1]).schema
    assert schema.names == [*gaps.fields, "seq", "part", "row"]
    assert schema.field("cause").type == pa.utf8()
