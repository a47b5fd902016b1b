"""Values that other systems bend: through the sink into the real engine and back, bit for bit, or refused whole."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client

from control.embedded.store import running_store
from runtime.codec import encode_avro, encode_rows
from runtime.errors import InputError
from schemas import bars, bins, trades
from schemas.columns import Column, Table, empty_table
from schemas.envelope import Envelope, crc32
from schemas.mbo import MBO_DTYPE
from schemas.message import Message
from schemas.units import UNDEF_PRICE, UNDEF_SIZE, UNDEF_TIMESTAMP
from sinks.base import Batch, Entry, Lane
from sinks.clickhouse import ClickHouseSink, RefusedError, connect
from sinks.ddl import apply_ddl
from sinks.rows import BadMessageError
from sinks.tables import MBO_COLUMNS, RECORDS, TABLES, all_tables
from tests.unit.sinks.messages import gap_record, records

pytestmark = pytest.mark.real

INTEGERS = (-(1 << 63), -(1 << 63) + 1, -1, 0, 1, (1 << 62), UNDEF_PRICE - 1, UNDEF_PRICE)
FLOATS = np.array(
    [
        np.nan,
        -np.nan,
        np.inf,
        -np.inf,
        0.0,
        -0.0,
        5e-324,
        -5e-324,
        np.finfo(float).max,
        np.finfo(float).tiny,
        0.1,
        1 / 3,
    ]
)
ODD_NAN = np.array([0x7FF8DEADBEEF0001, 0xFFF0000000000001], np.uint64).view(np.float64)
"""NaNs with a payload, one of them signalling: bits, not only "a NaN"."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_store(tmp_path_factory.mktemp("exact")) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Client]:
    made = connect(url)
    apply_ddl(made)
    yield made
    made.close()


def write(url: str, tape: str, table: str, messages: list[Message]) -> None:
    """Write messages as one batch."""
    spec = all_tables()[table]
    sink = ClickHouseSink(url)
    entries = tuple(Entry(m, m.offset, 0) for m in messages)
    try:
        sink.write(Batch(Lane(tape, f"id-{tape}", "main", spec, 0), entries), threading.Event())
    finally:
        sink.close()


def message(table: str, value: bytes, count: int, at: int = 0, **headers: object) -> Message:
    envelope = Envelope("data", table, count=count, crc32=crc32(value), seq=at, run="r")
    return Message("t.main.x.v1", 0, at, 0, "X:A", value, replace(envelope, **headers))  # type: ignore[arg-type]


def test_raw_records_of_every_bit_pattern(url: str, client: Client) -> None:
    """Order ids from 2^63 on, undefined prices, sizes and times, times at both ends, letters of every byte."""
    block = records(np.random.default_rng(3), 4_000)
    block["action"] = block["side"] = np.arange(4_000, dtype=np.uint8).view("S1")
    extremes = np.array([0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1], np.uint64)
    for at, value in enumerate(extremes):
        block["order_id"][at] = block["ts_event"][at] = block["ts_recv"][at] = value
    block["price"][: len(INTEGERS)] = INTEGERS
    block["size"][0], block["ts_event"][9] = UNDEF_SIZE, UNDEF_TIMESTAMP
    write(url, "raw", "mbo", [message("mbo", block.tobytes(), len(block))])
    found = client.query_arrow("SELECT * FROM mbo WHERE tape = 'raw' ORDER BY row")
    for name in MBO_COLUMNS:
        if name in ("action", "side"):
            wanted = [bytes(letter).decode("latin-1") for letter in block[name].view(np.uint8).reshape(-1, 1)]
            assert found[name].to_pylist() == wanted
        else:
            assert found[name].combine_chunks().to_numpy().tobytes() == np.ascontiguousarray(block[name]).tobytes(), (
                name
            )


def extreme(columns: tuple[Column, ...], rows: int) -> dict[str, np.ndarray]:
    """Rows in which every column takes every extreme of its type."""
    table = empty_table(columns, rows)
    floats = np.concatenate([FLOATS, ODD_NAN])
    for number, column in enumerate(columns):
        cells = table[column.name]
        if column.dtype == "f8":
            cells[...] = np.resize(np.roll(floats, number), cells.shape)
        else:
            limits = np.iinfo(column.dtype)
            inside = np.array([limits.min, limits.min + 1, -1, 0, 1, limits.max - 1, limits.max])
            cells[...] = np.resize(np.roll(inside, number), cells.shape)
    return table


def bits(found: pa.Table, columns: tuple[Column, ...], wanted: Table) -> None:
    for column in columns:
        array = found[column.name].combine_chunks()
        flat = array.flatten() if column.width else array
        assert flat.to_numpy(zero_copy_only=False).tobytes() == np.ascontiguousarray(wanted[column.name]).tobytes(), (
            column.name
        )


@pytest.mark.parametrize(
    ("table", "columns"), [("bins", bins.columns(3)), ("trades", trades.COLUMNS), ("bars", bars.COLUMNS)]
)
def test_derived_rows_of_every_extreme(url: str, client: Client, table: str, columns: tuple[Column, ...]) -> None:
    """NaN with its payload, both zeros, infinities, ns times at both ends of int64."""
    wanted = extreme(columns, 64)
    write(url, "far", table, [message(table, encode_rows(wanted, columns), 64)])
    bits(client.query_arrow(f"SELECT * FROM {table} WHERE tape = 'far' ORDER BY row"), columns, wanted)
    times = [name for name in TABLES[table].time if name in wanted]
    for name in times:
        for value in (-(1 << 63), (1 << 63) - 1):
            count = client.query(
                f"SELECT count() FROM {table} WHERE tape = 'far' AND {name} = {{v:Int64}}", parameters={"v": value}
            ).result_rows[0][0]
            assert count == int((wanted[name] == value).sum()), "found by its index too"


def arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def good() -> pa.Table:
    return pa.ipc.open_stream(encode_rows(extreme(trades.COLUMNS, 5), trades.COLUMNS)).read_all()


DRIFT = {
    "a new column": lambda t: t.append_column("more", t.column(0)),
    "a column less": lambda t: t.drop_columns(["sequence"]),
    "another name": lambda t: t.rename_columns(["time", *t.schema.names[1:]]),
    "another order": lambda t: t.select([*t.schema.names[1:], t.schema.names[0]]),
    "integers as floats": lambda t: t.set_column(1, "px", t.column(1).cast(pa.float64(), safe=False)),
    "unsigned": lambda t: t.set_column(1, "px", t.column(1).cast(pa.uint64(), safe=False)),
    "narrower": lambda t: t.set_column(2, "sz", t.column(2).cast(pa.int32(), safe=False)),
    "text": lambda t: t.set_column(3, "side", t.column(3).cast(pa.string())),
    "nulls": lambda t: t.set_column(2, "sz", pa.array([1, None, 3, 4, 5], pa.int64())),
    "a list": lambda t: t.set_column(2, "sz", pa.array([[1]] * 5, pa.list_(pa.int64()))),
}


def test_columns_that_might_hold_nulls_but_do_not_are_stored(url: str, client: Client) -> None:
    """Another producer's Arrow says of every field that it may be null."""
    ours, theirs = message("trades", arrow(good()), 5), pa.table({n: good().column(n) for n in good().column_names})
    nullable = theirs.cast(pa.schema([f.with_nullable(True) for f in theirs.schema]))
    write(url, "nullable", "trades", [ours, message("trades", arrow(nullable), 5, at=1)])
    assert client.command("SELECT count() FROM trades WHERE tape = 'nullable'") == 10


@pytest.mark.parametrize("drift", DRIFT)
def test_schema_drift_is_refused_whole_in_one_sentence(url: str, client: Client, drift: str) -> None:
    """Good rows before and behind it in the batch are not stored either: a batch is all or nothing."""
    fine = message("trades", arrow(good()), 5)
    bent = message("trades", arrow(DRIFT[drift](good())), 5, at=1)
    with pytest.raises(BadMessageError) as caught:
        write(url, "drift", "trades", [fine, bent, replace(fine, offset=2)])
    text = str(caught.value)
    assert "t.main.x.v1[0] offset 1: " in text
    assert "\n" not in text
    assert client.command("SELECT count() FROM trades WHERE tape = 'drift'") == 0


def test_two_widths_of_the_grid_in_one_batch_are_refused(url: str, client: Client) -> None:
    found = [message("bins", encode_rows(extreme(bins.columns(r), 2), bins.columns(r)), 2, at=r) for r in (2, 3)]
    with pytest.raises(BadMessageError, match="two grid widths"):
        write(url, "width", "bins", found)
    assert client.command("SELECT count() FROM bins WHERE tape = 'width'") == 0


def test_a_table_that_was_changed_by_hand_refuses_instead_of_bending(url: str, client: Client) -> None:
    """The server knows columns by name, so a column that is gone is an error and no shift of the others."""
    client.command("CREATE TABLE kept AS bars")
    client.command("ALTER TABLE bars DROP COLUMN volume_sz")
    try:
        value = encode_rows(extreme(bars.COLUMNS, 4), bars.COLUMNS)
        with pytest.raises(RefusedError, match="NO_SUCH_COLUMN_IN_TABLE"):
            write(url, "hand", "bars", [message("bars", value, 4)])
        assert client.command("SELECT count() FROM bars WHERE tape = 'hand'") == 0
    finally:
        client.command("DROP TABLE bars")
        client.command("RENAME TABLE kept TO bars")


def test_a_column_of_another_type_is_noticed_when_a_sink_opens(url: str, client: Client) -> None:
    """A server makes 2^40 fit an Int32 as 0 and says nothing."""
    client.command("ALTER TABLE bars MODIFY COLUMN volume_sz Int32")
    try:
        with pytest.raises(InputError, match="column volume_sz of table bars is Int32, declared is Int64"):
            ClickHouseSink(url).open(threading.Event())
    finally:
        client.command("ALTER TABLE bars MODIFY COLUMN volume_sz Int64")
    ClickHouseSink(url).open(threading.Event())


def test_records_that_cannot_be_read_are_left_out_and_those_beside_them_stored(url: str, client: Client) -> None:
    value = encode_avro("gap", gap_record(1))
    fine = replace(message("gap", value, 1), topic="t.gaps.v1")
    cut = replace(message("gap", value[:-3], 1, at=1), topic="t.gaps.v1")
    unknown = replace(message("gap", b"\0\0\0\x27\x0f" + value[5:], 1, at=2), topic="t.gaps.v1")
    write(url, "letters", "gaps", [cut, unknown, replace(fine, offset=3)])
    assert client.query("SELECT id, seq FROM gaps WHERE tape = 'letters'").result_rows == [("gap-1", 3)]
    assert set(RECORDS) == {"gaps", "events", "dead_letters"}


def test_names_are_values_and_nothing_else(url: str, client: Client) -> None:
    """Instruments are named by venues; quotes, comments and control characters in them stay what they are."""
    names = ["it's", 'a"b', "x`y", "a;DROP TABLE trades", "--", "é\u2028", "\\", "\t\n", "{x:String}", "%s", ""]
    value = encode_rows(extreme(trades.COLUMNS, 1), trades.COLUMNS)
    found = [replace(message("trades", value, 1, at=at), instrument=name) for at, name in enumerate(names)]
    write(url, "names", "trades", found)
    assert [
        r[0] for r in client.query("SELECT instrument FROM trades WHERE tape='names' ORDER BY seq").result_rows
    ] == names
    for at, name in enumerate(names):
        seq = client.query(
            "SELECT seq FROM trades WHERE tape='names' AND instrument = {n:String}", parameters={"n": name}
        )
        assert seq.result_rows == [(at,)]
    assert MBO_DTYPE.itemsize == 56
