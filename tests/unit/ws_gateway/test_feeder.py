"""The feeder's decisions, without a broker: what a message means, and what becomes of repeats and holes."""

import gc
import tracemalloc
from dataclasses import replace

import pytest

from runtime.codec import encode_rows
from runtime.sequence import ConflictError
from runtime.tapes import Instrument, Line, new_tape
from schemas import bins, trades
from schemas.envelope import Envelope, crc32
from schemas.message import Message
from schemas.topics import BINS, TRADES
from tests.unit.sinks.messages import make_records
from ws_gateway import catalogue
from ws_gateway.channel import Gap
from ws_gateway.decode import block_of
from ws_gateway.feeder import Source, _catalogue_of, _sources_of, judge


def message(seq, value=b"", part=0, last=True, spec=BINS, run="r", **known):
    envelope = Envelope("data", spec.stream, crc32=crc32(value), seq=seq, part=part, last=last, run=run, **known)
    return Message(spec.name("t1"), 0, seq, 0, "X:Y", value, envelope)


@pytest.fixture
def source():
    return Source("t1", "id", "main", BINS, "t1.main.bins.v1[0]")


@pytest.mark.parametrize("radius", [3, 50])
def test_rows_come_out_as_they_went_in_whatever_the_radius(blocks, radius):
    rows = blocks(5, rows=2, radius=radius)
    value = encode_rows(rows.table, bins.columns(radius))
    block = block_of(message(5, value, arrived=77, t=88), catalogue.stream("bins"))
    assert (block.seq, block.rows, block.radius) == (5, 2, radius)
    assert (block.arrived_ns, block.t_ns, block.run) == (77, 88, "r")
    assert list(block.table) == list(rows.table)
    assert all((block.table[name] == values).all() for name, values in rows.table.items())
    with pytest.raises(ValueError, match="read-only"):
        block.table["a_pull"][0] = 1
    with pytest.raises(KeyError):
        block.table["b_pull"]


@pytest.mark.parametrize("stream", ["bins", "trades", "gaps", "events"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_block_holds_as_much_memory_as_it_says(blocks, trade_blocks, stream, rows):
    """What rings and kept segments are bounded by; the message and what Arrow made of it are gone."""
    if stream in ("gaps", "events"):
        heard = make_records().topics[f"t1.{stream}.v1"][rows]
    else:
        made = (blocks if stream == "bins" else trade_blocks)(5, rows=rows)
        spec, columns = (BINS, bins.columns(5)) if stream == "bins" else (TRADES, trades.COLUMNS)
        heard = message(0, encode_rows(made.table, columns), spec=spec)
    kept = [block_of(heard, catalogue.stream(stream))]
    tracemalloc.start()
    try:
        for offset in range(1000, 1500):
            again = replace(heard, value=bytes(bytearray(heard.value)), offset=offset)
            kept.append(block_of(again, catalogue.stream(stream)))
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] / 500
    finally:
        tracemalloc.stop()
    assert 0.5 < held / kept[-1].nbytes < 1.1


def test_trades_and_markers(trade_blocks):
    rows = trade_blocks(5, rows=3)
    block = block_of(message(5, encode_rows(rows.table, trades.COLUMNS), spec=TRADES), catalogue.stream("trades"))
    assert block.table["sz"].tolist() == [5, 6, 7]
    assert block_of(message(6), catalogue.stream("bins")).rows == 0


def test_the_first_message_anchors_and_repeats_are_dropped(source):
    assert judge(source, message(40, part=1, last=False)) == (True, None)
    assert judge(source, message(40, part=2)) == (True, None)
    assert judge(source, message(40, part=1, last=False)) == (False, None)
    assert judge(source, message(41)) == (True, None)


def test_a_hole_is_told_and_reading_goes_on_behind_it(source):
    judge(source, message(1))
    new, gap = judge(source, message(7, part=0, last=False))
    assert (new, gap) == (True, Gap(2, 7, "messages are missing in the topic"))
    assert judge(source, message(7, part=1)) == (True, None)
    assert judge(source, message(8)) == (True, None)


def test_two_writers_that_disagree_are_an_alarm(source):
    judge(source, message(1, b"a"))
    with pytest.raises(ConflictError):
        judge(source, message(1, b"b"))


def test_a_tape_gives_a_source_for_each_topic_line_and_partition():
    tape = new_tape("t1", partitions=2, instruments={"X:Y": Instrument(0, 1)})
    assert [key for key, _ in _sources_of(tape)] == [
        ("t1.main.bins.v1", 0),
        ("t1.main.bins.v1", 1),
        ("t1.main.trades.v1", 0),
        ("t1.main.trades.v1", 1),
        ("t1.main.bars.v1", 0),
        ("t1.main.bars.v1", 1),
        ("t1.gaps.v1", 0),
        ("t1.gaps.v1", 1),
        ("t1.events.v1", 0),
        ("t1.events.v1", 1),
    ]
    more = tape.with_line("main", Line("r")).with_line("b", Line("s"))
    assert len(list(_sources_of(more))) == 16
    assert _catalogue_of(more).lines == ("main", "b")
    assert _catalogue_of(more).instruments == ("X:Y",)
