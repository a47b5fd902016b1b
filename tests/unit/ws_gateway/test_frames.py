import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.bins import columns as columns_of_bins
from schemas.columns import empty_table, row_dtype
from ws_gateway.catalogue import stream
from ws_gateway.frames import (
    CACHE_BYTES_MAX,
    END_OF_STREAM,
    Block,
    Encoder,
    Flag,
    Kind,
    Layout,
    Piece,
    SchemaChangedError,
    pack_header,
)
from ws_gateway.packed import pack


def grid(fields=None, radius=5, dtype="f32"):
    return Layout("grid", tuple(fields or stream("grid").defaults), radius, dtype)


def test_header_bytes_are_what_the_protocol_says():
    made = pack_header(Kind.BATCH, Flag.GAP_BEFORE | Flag.CONFLATED, 0x01020304, 5, 6, 7)
    assert made.hex() == "010106000403020105000000000000000600000007000000"
    assert len(made) == 24


def test_header_counts_stay_inside_their_fields():
    made = pack_header(Kind.END, Flag.NONE, 1, 2, 2**40, -5)
    assert struct.unpack_from("<II", made, 16) == (2**32 - 1, 0)
    assert struct.unpack_from("<I", pack_header(Kind.END, Flag.NONE, 1, 2, 0, 2**40), 20) == (2**32 - 1,)


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_payloads_one_after_another_are_an_arrow_stream(blocks, dtype, ended):
    encoder = Encoder(grid(("bin_seq", "rest_depth", "add_mass", "last_event_id"), 3, dtype))
    rows = [blocks(seq) for seq in range(4)]
    stream = encoder.schema_frame.payload + b"".join(payload(encoder, b, 0, 1) for b in rows)
    table = pa.ipc.open_stream(stream + (END_OF_STREAM if ended else b"")).read_all()
    assert table.num_rows == 4
    table.validate(full=True)
    assert table["bin_seq"].to_pylist() == [0, 1, 2, 3]
    assert table["rest_depth"].type == pa.list_(
        pa.field("item", pa.float32() if dtype == "f32" else pa.float64(), nullable=False), 7
    )
    assert table["last_event_id"].type.value_type == pa.int64()
    expected = np.stack([(b.table["bid_depth"] + b.table["ask_depth"])[0, 2:9] for b in rows])
    got = np.array(table["rest_depth"].to_pylist())
    np.testing.assert_array_equal(got, expected.astype("f4" if dtype == "f32" else "f8"))
    np.testing.assert_array_equal(np.array(table["last_event_id"].to_pylist())[:, 0], [2, 12, 22, 32])


def test_columns_stand_in_the_order_of_the_protocol():
    names = [c.name for c in grid(("rest_depth", "mid_px", "spot_tick", "bin_seq")).columns()]
    assert names == ["mid_px", "bin_seq", "spot_tick", "tick_px", "bucket", "seq", "part", "row", "rest_depth"]


def test_rows_carry_their_cursor(blocks):
    block = blocks(9, rows=4, part=2)
    batch = read(Encoder(grid()), block, 1, 3)
    assert batch["seq"].to_pylist() == [9, 9]
    assert batch["part"].to_pylist() == [2, 2]
    assert batch["row"].to_pylist() == [1, 2]


@given(data=st.data())
@settings(deadline=None)
def test_a_single_packed_row_gives_the_bytes_that_arrow_writes(data):
    """Whatever is asked for, and at each radius up to the line's; a wider one is refused as ever."""
    name = data.draw(st.sampled_from(["grid", "bins", "trades", "bars"]))
    line_radius, radius = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 7))
    fields = tuple(data.draw(st.lists(st.sampled_from(sorted(stream(name).fields)), min_size=1, unique=True)))
    layout = Layout(name, fields, radius if name == "grid" else 0, data.draw(st.sampled_from(["f32", "f64"])))
    columns = stream(name).columns or columns_of_bins(line_radius)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    table = {
        n: rng.standard_normal(a.shape).astype(a.dtype)
        if a.dtype.kind == "f"
        else rng.integers(0, 99, a.shape, a.dtype)
        for n, a in empty_table(columns, 1).items()
    }
    seq, part = data.draw(st.integers(0, 2**62)), data.draw(st.integers(0, 2**30))
    plain, packed = (
        Block(seq, part, t, 0, -1, 0, "r", stream(name).time) for t in (table, pack(table, row_dtype(columns)))
    )
    if name == "grid" and radius > line_radius:
        with pytest.raises(SchemaChangedError):
            Encoder(layout).frame([Piece(packed, 0, 1)])
        return
    encoder = Encoder(layout)
    made = encoder.frame([Piece(packed, 0, 1)]).payload
    assert encoder._one is not None
    assert made == Encoder(layout).frame([Piece(plain, 0, 1)]).payload


def test_units_travel_in_the_schema():
    encoder = Encoder(grid(("v_rest_depth", "best_bid_px")))
    assert encoder.schema.field("v_rest_depth").metadata == {b"unit": b"lots/s"}
    assert encoder.schema.field("best_bid_px").metadata == {b"unit": b"1e-9"}


@pytest.mark.parametrize("name", ["bins", "trades"])
def test_flat_streams_have_their_default_columns(blocks, trade_blocks, name):
    encoder = Encoder(Layout(name, stream(name).defaults, 0, "f64"))
    block = blocks(3, rows=2) if name == "bins" else trade_blocks(3, rows=2)
    batch = read(encoder, block, 0, 2)
    assert batch.schema.names == [*stream(name).defaults, "seq", "part", "row"]
    assert batch.num_rows == 2


def test_levels_can_be_asked_for_in_bins(blocks):
    batch = read(Encoder(Layout("bins", ("bin_seq", "bid_px", "ask_ct"), 0, "f64")), blocks(1), 0, 1)
    assert batch["bid_px"].type.list_size == 10


def test_equal_rows_are_encoded_once(blocks):
    encoder, block = Encoder(grid()), blocks(1)
    first = payload(encoder, block, 0, 1)
    assert payload(encoder, block, 0, 1) is first
    assert encoder.encoded == 1


def test_the_cache_stays_inside_its_bound(blocks):
    encoder, block = Encoder(grid(radius=5, dtype="f64")), blocks(1)
    one = len(payload(encoder, block, 0, 1))
    for number in range(1, 3 * CACHE_BYTES_MAX // one):
        payload(encoder, blocks(number + 1), 0, 1)
    assert sum(len(frame.payload) for frame in encoder._cache.values()) <= CACHE_BYTES_MAX
    assert payload(encoder, block, 0, 1)
    assert encoder.encoded == 3 * CACHE_BYTES_MAX // one + 1


def test_batches_of_wide_rows_stay_small():
    assert Encoder(grid(radius=4096, fields=("add_mass",), dtype="f64")).rows_max == 3
    assert Encoder(grid(radius=5)).rows_max == 64


def payload(encoder, block, start, stop):
    return encoder.frame([Piece(block, start, stop)]).payload


def read(encoder, block, start, stop):
    return pa.ipc.open_stream(encoder.schema_frame.payload + payload(encoder, block, start, stop)).read_all()
