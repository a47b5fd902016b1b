"""Layout and spelling of what travels."""

import subprocess
import sys

import databento_dbn
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import bars, bins, columns, names, trades
from schemas.envelope import KINDS, Envelope, from_headers
from schemas.mbo import MBO_BYTES, MBO_DTYPE
from schemas.topics import CATALOGUE, MBO, of_tape, rooted


def test_mbo_is_databentos_layout() -> None:
    assert MBO_DTYPE.itemsize == MBO_BYTES
    assert np.dtype(databento_dbn.MBOMsg._dtypes) == MBO_DTYPE


@pytest.mark.parametrize(("row", "size"), [(bins.columns(50), 17_578), (trades.COLUMNS, 65), (bars.COLUMNS, 112)])
def test_row_sizes(row: tuple[columns.Column, ...], size: int) -> None:
    assert columns.row_dtype(row).itemsize == size == sum(c.row_bytes for c in row)


@pytest.mark.parametrize("row", [bins.columns(3), trades.COLUMNS, bars.COLUMNS])
def test_arrow_round_trip_and_hash_do_not_depend_on_the_cut(row: tuple[columns.Column, ...]) -> None:
    rng = np.random.default_rng(1)
    table = columns.empty_table(row, 20)
    for array in table.values():
        array[...] = rng.integers(-100, 100, array.shape)
    back = columns.from_arrow(columns.to_arrow(table, row), row)
    assert all(np.array_equal(back[name], table[name]) for name in table)
    whole, cut = columns.RowHash(row), columns.RowHash(row)
    whole.update(table)
    for start, stop in ((0, 1), (1, 1), (1, 7), (7, 20)):
        cut.update(columns.slice_table(back, start, stop))
    assert whole.hexdigest() == cut.hexdigest()
    table[row[-1].name][19] += 1
    changed = columns.RowHash(row)
    changed.update(table)
    assert changed.hexdigest() != whole.hexdigest()


@pytest.mark.parametrize("row", [bins.columns(2), trades.COLUMNS, bars.COLUMNS])
def test_streams_and_messages_are_those_of_arrow_itself(row: tuple[columns.Column, ...]) -> None:
    rng, encoder = np.random.default_rng(2), columns.ArrowRows(row, {"stream": "any"})
    for rows in (1, 0, 7, 64, 7, 1, 500):  # a row count again: now with what was kept of the first
        table = columns.empty_table(row, rows)
        for array in table.values():
            array[...] = rng.integers(-100, 100, array.shape)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, encoder.schema) as writer:
            writer.write_batch(encoder.batch(table))
        assert encoder.stream(table) == sink.getvalue().to_pybytes()
        assert encoder.message(table) == encoder.batch(table).serialize().to_pybytes()


def test_arrow_of_another_type_is_refused() -> None:
    batch = columns.to_arrow(columns.empty_table(bins.columns(3), 1), bins.columns(3))
    with pytest.raises(ValueError, match="column add_mass is"):
        columns.from_arrow(batch, bins.columns(4))


def test_rest_depth_is_the_sum() -> None:
    table = columns.empty_table(bins.columns(1), 1)
    table["v_bid_depth"][0], table["v_ask_depth"][0] = (1, 2, 3), (10, 20, 30)
    assert bins.with_rest_depth(table)["v_rest_depth"].tolist() == [[11, 22, 33]]


numbers = st.integers(-1, 2**62)
envelopes = st.builds(
    Envelope,
    kind=st.sampled_from(KINDS),
    schema=st.sampled_from(["mbo", "bins"]),
    count=st.integers(0, 4096),
    crc32=st.integers(0, 2**32 - 1),
    t=st.integers(-5, 2**62),
    ts_first=numbers,
    seq=numbers,
    part=st.integers(0, 9),
    last=st.booleans(),
    run=st.text("0123456789abcdef", max_size=16),
    summary=st.text(max_size=20),
    other=st.just((("trace", b"\xff"),)),
)


@given(envelopes)
def test_envelope_survives_headers(envelope: Envelope) -> None:
    assert from_headers(envelope.to_headers()) == envelope


@pytest.mark.parametrize("headers", [None, [], [("kind", b"data")], [("kind", b"odd"), ("schema", b"mbo")]])
def test_foreign_headers_are_refused(headers: list[tuple[str, bytes]] | None) -> None:
    with pytest.raises(ValueError, match="message headers name"):
        from_headers(headers)


@given(st.text("abzAZ:./%é ", min_size=1), st.integers(0, 2**60), st.integers(0, 9), st.integers(0, 9))
def test_cursor_survives_spelling(instrument: str, seq: int, part: int, row: int) -> None:
    cursor = names.Cursor("t1", "main", "bins", instrument, seq, part, row)
    assert names.parse_cursor(str(cursor)) == cursor


@pytest.mark.parametrize("text", ["", "a/b", "t/main/bins/X/1.2", "t/main/bins/X/1.2.-3"])
def test_bad_cursor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a cursor"):
        names.parse_cursor(text)


@pytest.mark.parametrize(
    ("file", "tape"),
    [
        ("esh4-glbx-mdp3-20231225.mbo.dbn.zst", "esh4-glbx-mdp3-20231225-mbo"),
        ("AAPL_20120621_lobster50.mbo.dbn.zst", "aapl-20120621-lobster50-mbo"),
        ("ref.dbn", "tape"),
        ("ÄÖ.dbn", "tape"),
        ("x" * 99, "x" * 40),
    ],
)
def test_tape_name_of_a_file(file: str, tape: str) -> None:
    assert names.tape_of_file(file) == tape
    assert names.is_name(tape)


def test_topics_of_a_tape_are_distinct_and_never_expire() -> None:
    derived = [f"t1.alt.{s}.v1" for s in ("bins", "trades", "bars")]
    assert list(rooted("t1", "alt")) == ["t1.mbo.v1", *derived]
    assert list(of_tape("t1", "alt")) == ["t1.mbo.v1", *derived, "t1.gaps.v1", "t1.events.v1", "t1.dead_letters.v1"]
    assert MBO.name("t1", "any") == "t1.mbo.v1"
    assert all(spec.config()["retention.ms"] == "-1" for spec in CATALOGUE)


def test_arrow_batches_take_any_array_and_do_not_bring_pandas_along() -> None:
    """Importing pandas would cost every process a quarter of a second."""
    code = """
import sys
import numpy as np
from schemas.columns import Column, to_arrow
columns = (Column("x", "i8", "lots", "x"), Column("v", "f8", "lots", "v", 3))
fixed = np.arange(3)
fixed.flags.writeable = False
batch = to_arrow({"x": fixed, "v": np.arange(18.0).reshape(3, 6)[:, ::2]}, columns)
none = to_arrow({"x": np.zeros(0, "i8"), "v": np.zeros((0, 3))}, columns)
assert "pandas" not in sys.modules
assert batch.to_pydict() == {"x": [0, 1, 2], "v": [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0], [12.0, 14.0, 16.0]]}
assert none.num_rows == 0 and none.schema == batch.schema
batch.validate(full=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
