import base64
import io
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import databento
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.lake_format import INDEX_KEY
from schemas.envelope import crc32, read_headers
from schemas.mbo import MBO_DTYPE
from sinks.base import Batch, Entry, Lane
from sinks.erase import without
from sinks.lake import object_name
from sinks.lake_dbn import encode_dbn, read_records
from sinks.lake_object import content_of, decode_object, encode_object, read_index, read_places
from sinks.tables import RECORDS, TABLES
from tests.unit.sinks.messages import first_of_each, make_records, make_tape

STREAMS = {"mbo": "t1.mbo.v1", "bins": "t1.main.bins.v1", "trades": "t1.main.trades.v1", "bars": "t1.main.bars.v1"}


def batch(stream: str, seed: int, blocks: int = 6) -> Batch:
    table = TABLES[stream]
    messages = make_tape(seed, blocks).topics[STREAMS[stream]]
    entries = tuple(Entry(m, *place) for place, m in first_of_each(messages, table.raw).items())
    return Batch(Lane("t1", "id", "main", table, 0), entries)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(list(STREAMS)), st.integers(0, 10_000), st.integers(0, 8))
def test_every_message_comes_back_byte_for_byte(stream: str, seed: int, blocks: int) -> None:
    written = batch(stream, seed, blocks)
    data = encode_object(written)
    assert list(decode_object(data, TABLES[stream], STREAMS[stream], 0)) == list(written.entries)
    assert encode_object(written) == data


@pytest.mark.parametrize("stream", RECORDS)
def test_every_record_comes_back_byte_for_byte_and_what_is_none_too(stream: str) -> None:
    messages = make_records().topics[f"t1.{stream}.v1"]
    other = next(m for t, found in make_records().topics.items() for m in found if stream not in t)
    rubbish = replace(
        messages[0], value=b"\0rubbish", envelope=replace(messages[0].envelope, crc32=crc32(b"\0rubbish"))
    )
    found = [replace(m, topic=messages[0].topic, offset=at) for at, m in enumerate((*messages, other, rubbish))]
    written = Batch(Lane("t1", "id", "main", RECORDS[stream], 0), tuple(Entry(m, m.offset, 0) for m in found))
    data = encode_object(written)
    assert list(decode_object(data, RECORDS[stream], messages[0].topic, 0)) == list(written.entries)
    index = read_index(data)
    assert index.column("rows").to_pylist() == [1] * len(messages) + [0, 0]
    assert pl.read_parquet(io.BytesIO(data))["id"].to_list() == [
        f"{stream[:-1].split('_')[-1]}-{n % 7}" for n in range(14)
    ]


@pytest.mark.parametrize("stream", list(STREAMS))
@pytest.mark.parametrize("names", [("X:A",), ("X:A", "X:B")])
def test_a_batch_without_what_was_deleted_is_the_object_that_a_deletion_leaves(
    stream: str, names: tuple[str, ...]
) -> None:
    written = batch(stream, 4, 30)
    edited = without(encode_object(written), "x", lambda seq, name, kind: name in names)
    assert edited is not None
    gone = tuple(Entry(e.message, e.seq, e.part, e.message.instrument in names) for e in written.entries)
    repeated = encode_object(replace(written, entries=gone))
    assert content_of(repeated) == content_of(edited[0]) != content_of(encode_object(written))
    back = list(decode_object(repeated, TABLES[stream], STREAMS[stream], 0))
    assert [(e.seq, e.part, e.deleted, e.rows) for e in back] == [(e.seq, e.part, e.deleted, e.rows) for e in gone]
    assert not any(e.message.value for e in back if e.deleted)


def test_raw_messages_that_no_stage_could_apply_come_back_as_they_were() -> None:
    messages = [e.message for e in batch("mbo", 3).entries]
    at = next(i for i, m in enumerate(messages) if m.envelope.count > 1)
    messages[at] = replace(messages[at], value=messages[at].value[:-1] + b"!")
    foreign, _ = read_headers([("from", b"elsewhere"), ("x", b"\xff")], b"hello")
    messages.append(replace(messages[-1], offset=len(messages), value=b"hello", envelope=foreign))
    written = Batch(Lane("t1", "id", "main", TABLES["mbo"], 0), tuple(Entry(m, m.offset, 0) for m in messages))
    data = encode_object(written)
    back = list(decode_object(data, TABLES["mbo"], STREAMS["mbo"], 0))
    assert back == list(written.entries)
    assert [back[at].rows, back[-1].rows] == [0, 0]
    assert back[-1].message.envelope.to_headers() == [("from", b"elsewhere"), ("x", b"\xff")]


def test_index_tells_what_readers_look_for() -> None:
    written = batch("bins", 3)
    index = read_index(encode_object(written))
    assert index.column("seq").to_pylist() == [e.seq for e in written.entries]
    assert index.column("rows").to_pylist() == [e.message.envelope.count for e in written.entries]
    assert index.column("kind").to_pylist()[-1] == "end"
    assert ("summary", b'{"orders": 1}') in [(h["name"], h["value"]) for h in index.column("headers").to_pylist()[-1]]


def test_polars_reads_vectors_and_exact_ids() -> None:
    frame = pl.read_parquet(io.BytesIO(encode_object(batch("bins", 3))))
    assert frame.schema["bid_depth"] == pl.Array(pl.Float64, 5)
    raw = pl.read_parquet(io.BytesIO(encode_object(batch("mbo", 3))))
    assert raw.schema["order_id"] == pl.UInt64
    assert raw["order_id"].max() == (1 << 64) - 1


def test_places_are_those_of_the_rows() -> None:
    written = batch("trades", 5)
    places = read_places(encode_object(written))
    assert places.num_rows == written.rows
    assert places.schema.names == ["seq", "part", "row"]


def test_a_foreign_parquet_file_has_no_index() -> None:
    out = io.BytesIO()
    pq.write_table(read_places(encode_object(batch("trades", 5))).replace_schema_metadata(None), out)
    with pytest.raises(ValueError, match="no message index"):
        read_index(out.getvalue())


def test_names_sort_like_places() -> None:
    whole = batch("bins", 4)
    cuts = [0, 1, 5, len(whole.entries)]
    names = [object_name(Batch(whole.lane, whole.entries[a:b])) for a, b in pairwise(cuts)]
    assert names == sorted(names)
    assert names[0].startswith("t1.main.bins.v1/id/00000/0000000000000000000.000000-")


def test_a_time_in_microseconds_stands_beside_the_exact_ones() -> None:
    for stream, exact, shown in (("mbo", "ts_event", "ts_event_utc"), ("bins", "ts_end_ns", "ts_end_utc")):
        table = pq.read_table(io.BytesIO(encode_object(batch(stream, 3))))
        assert table.schema.names[-1] == shown
        times = table.column(exact).to_pylist()
        wanted = [None if t >= 1 << 63 else t // 1000 for t in times]
        assert table.column(shown).cast(pa.int64()).to_pylist() == wanted
        assert len(set(wanted)) > 1
        assert (None in wanted) == (stream == "mbo")
    assert (
        max(pq.read_table(io.BytesIO(encode_object(batch("mbo", 3)))).column("ts_event").to_pylist()) == (1 << 64) - 1
    )


def test_an_object_of_a_release_without_deletions_is_read() -> None:
    written = batch("trades", 5)
    rows = pq.read_table(io.BytesIO(encode_object(written)))
    index = read_index(encode_object(written)).drop_columns(["deleted"])
    out = io.BytesIO()
    with pa.ipc.new_stream(out, index.schema) as writer:
        writer.write_table(index)
    old = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata({INDEX_KEY: base64.b64encode(out.getvalue())}), old)
    assert list(decode_object(old.getvalue(), TABLES["trades"], STREAMS["trades"], 0)) == list(written.entries)


@pytest.mark.parametrize("instruments", [("GLBX.MDP3:ESH4",), ("X:A", "X:B"), ("X:A", "Y:B")])
def test_raw_records_are_a_dbn_file_too(instruments, tmp_path) -> None:
    messages = make_tape(4, instruments=instruments).topics["t1.mbo.v1"]
    numbered = []
    for m in messages:
        if m.envelope.kind == "data":
            records = np.frombuffer(m.value, MBO_DTYPE).copy()
            records["instrument_id"] = 100 + instruments.index(m.instrument)
            records["ts_recv"] %= 1 << 62
            value = records.tobytes()
            m = replace(m, value=value, envelope=replace(m.envelope, crc32=crc32(value)))
            numbered.append(m)
    data = encode_dbn(numbered)
    assert data == encode_dbn(numbered)
    path = tmp_path / "x.dbn.zst"
    path.write_bytes(data)
    store = databento.DBNStore.from_file(path)
    assert store.to_ndarray().tobytes() == b"".join(m.value for m in numbered) == read_records(data)
    venues = {name.split(":")[0] for name in instruments}
    assert store.dataset == (venues.pop() if len(venues) == 1 else "MIXED")
    assert store.symbols == [name.split(":")[1] for name in instruments]
    known = databento.common.symbology.InstrumentMap()
    known.insert_metadata(store.metadata)
    day = datetime.fromtimestamp(int(np.frombuffer(numbered[0].value, MBO_DTYPE)["ts_recv"][0]) // 10**9, UTC).date()
    at = instruments.index(numbered[0].instrument)
    assert known.resolve(100 + at, day) == instruments[at].split(":")[1]


def test_damaged_dbn_has_no_records() -> None:
    data = encode_dbn([m for m in make_tape(4).topics["t1.mbo.v1"] if m.envelope.kind == "data"])
    assert read_records(data[: len(data) // 2]) is None
    assert read_records(b"nothing") is None
