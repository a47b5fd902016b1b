import io
from itertools import pairwise

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks.base import Batch, Entry, Lane
from sinks.lake import object_name
from sinks.lake_object import decode_object, encode_object, read_index, read_places
from sinks.tables import TABLES
from tests.unit.sinks.messages import first_of_each, make_tape

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
