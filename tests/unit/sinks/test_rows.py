from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from runtime.codec import decode_rows
from schemas.envelope import crc32
from schemas.mbo import MBO_DTYPE
from schemas.message import Message
from sinks.base import Batch, Entry, Lane, rows_of
from sinks.rows import BadMessageError, build_rows
from sinks.tables import KEY_COLUMNS, MBO_COLUMNS, TABLES
from tests.unit.sinks.messages import BINS, first_of_each, make_tape


def batch_of(messages: list[Message], stream: str) -> Batch:
    lane = Lane("t1", "id", "main", TABLES[stream], 0)
    places = first_of_each(messages, lane.table.raw)
    return Batch(lane, tuple(Entry(m, seq, part) for (seq, part), m in places.items()))


def test_raw_rows_are_exact() -> None:
    messages = make_tape().topics["t1.mbo.v1"]
    table = build_rows(batch_of(messages, "mbo"))
    blocks = [m for m in messages if m.envelope.kind == "data"]
    records = np.frombuffer(b"".join(m.value for m in blocks), MBO_DTYPE)
    assert table.schema.names == [*KEY_COLUMNS, *MBO_COLUMNS]
    for name in MBO_COLUMNS:
        wanted = records[name].astype("U1").tolist() if name in ("action", "side") else records[name].tolist()
        assert table.column(name).to_pylist() == wanted, name
    places = [(m.offset, 0, row, m.instrument) for m in blocks for row in range(m.envelope.count)]
    found = [table.column(n).to_pylist() for n in ("seq", "part", "row", "instrument")]
    assert list(zip(*found, strict=True)) == places
    assert set(table.column("line").to_pylist()) == {"-"}
    assert set(table.column("run").to_pylist()) == {""}


@pytest.mark.parametrize("stream", ["bins", "trades", "bars"])
def test_derived_rows_are_exact(stream: str) -> None:
    messages = make_tape().topics[f"t1.main.{stream}.v1"]
    columns = BINS if stream == "bins" else TABLES[stream].columns
    table = build_rows(batch_of(messages, stream))
    assert table.num_rows == sum(m.envelope.count for m in messages)
    start = 0
    for m in messages:
        part = table.slice(start, m.envelope.count)
        start += m.envelope.count
        assert part.column("row").to_pylist() == list(range(m.envelope.count))
        for name, cells in decode_rows(m.value, columns).items():
            assert part.column(name).to_pylist() == cells.tolist(), name


def test_a_batch_without_rows_has_all_columns_and_no_row() -> None:
    messages = [m for m in make_tape().topics["t1.mbo.v1"] if m.envelope.kind != "data"]
    assert build_rows(batch_of(messages, "mbo")).num_rows == 0


def bent(message: Message, value: bytes) -> Message:
    return replace(message, value=value, envelope=replace(message.envelope, crc32=crc32(value)))


def test_raw_blocks_that_are_not_what_headers_say_give_no_rows() -> None:
    raw = next(m for m in make_tape().topics["t1.mbo.v1"] if m.envelope.kind == "data")
    values = raw.value[:-1], b"\x0d" + raw.value[1:]
    broken = [*(bent(raw, value) for value in values), replace(raw, value=raw.value[:-1] + b"!")]
    assert [rows_of(message) for message in [raw, *broken]] == [raw.envelope.count, 0, 0, 0]
    messages = [replace(message, offset=at) for at, message in enumerate([*broken, raw])]
    assert build_rows(batch_of(messages, "mbo")).num_rows == raw.envelope.count


def test_derived_values_that_are_not_what_headers_say_are_refused() -> None:
    row = next(m for m in make_tape().topics["t1.main.trades.v1"] if m.envelope.count)
    with pytest.raises(BadMessageError, match="not an Arrow stream"):
        build_rows(batch_of([bent(row, b"rubbish")], "trades"))
    more = replace(row, envelope=replace(row.envelope, count=row.envelope.count + 1))
    with pytest.raises(BadMessageError, match="rows that its header says"):
        build_rows(batch_of([more], "trades"))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.rename_columns(["other", *t.schema.names[1:]]),
        lambda t: t.set_column(0, "ts_ns", t.column(0).cast(pa.float64(), safe=False)),
        lambda t: t.drop_columns([t.schema.names[-1]]),
        lambda t: t.append_column("more", t.column(0)),
    ],
    ids=["renamed", "retyped", "dropped", "added"],
)
def test_drifting_columns_are_refused(change) -> None:
    row = next(m for m in make_tape().topics["t1.main.trades.v1"] if m.envelope.count)
    drifted = change(pa.ipc.open_stream(row.value).read_all())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, drifted.schema) as writer:
        writer.write_table(drifted)
    with pytest.raises(BadMessageError, match="declared"):
        build_rows(batch_of([bent(row, sink.getvalue().to_pybytes())], "trades"))
