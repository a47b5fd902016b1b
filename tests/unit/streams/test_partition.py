"""A partition without a broker: cutting, headers, repeats, checkpoints; with a reducer that is easy to predict."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.codec import decode_rows
from runtime.object_store import LocalObjectStore
from runtime.sequence import HoleError
from schemas import topics
from schemas.columns import Column, concat_tables, empty_table
from schemas.envelope import Envelope, crc32
from schemas.message import Message, Outgoing
from streams import partition
from streams.checkpoints import KEPT, Checkpoint, CheckpointStore
from streams.outbox import Outbox, Part
from streams.partition import PartitionState, Place, rows_per_part
from streams.reducer import Output, Rows, Stage, Stamp

COLUMNS = (Column("n", "i8", "count", "a number"),)


class Counting:
    """Gives as many rows as the message counts, in yields of a chosen size."""

    def __init__(self, pause: int, stream: str = "trades") -> None:
        self.pause, self.stream, self.total = pause, stream, 0

    def apply(self, message: Message) -> Iterator[Rows]:
        left = message.envelope.count
        while left:
            rows = min(self.pause, left)
            table = empty_table(COLUMNS, rows)
            table["n"][:] = np.arange(self.total, self.total + rows)
            self.total += rows
            left -= rows
            yield Rows(self.stream, table)

    def skip(self, message: Message, reason: str) -> Iterator[Rows]:
        return iter(())

    def stamp(self, message: Message) -> Stamp:
        return Stamp(message.envelope.t, {"trades": "done"} if message.envelope.kind == "end" else {})

    def snapshot(self) -> Mapping[str, bytes]:
        return {"X": str(self.total).encode()}

    def restore(self, pieces: Mapping[str, bytes]) -> None:
        self.total = int(pieces["X"])


def stage(pause: int = 7) -> Stage:
    outputs = {"trades": Output(topics.TRADES, COLUMNS)}
    return Stage("counting", topics.MBO, outputs, {}, lambda: Counting(pause))


def state(pause: int = 7, base: int = 100) -> PartitionState:
    made = stage(pause)
    return PartitionState(made, Place("t1", "main", 0, base, "run0"), made.reducer(), base)


def message(offset: int, count: int, kind: str = "data") -> Message:
    envelope = Envelope(kind=kind, schema="mbo", count=count, t=5_000_000, arrived=9, source="f:0")  # type: ignore[arg-type]
    return Message("t1.mbo.v1", 0, offset, 5, "X", b"", envelope)


@given(st.lists(st.integers(0, 900), min_size=1, max_size=6), st.integers(1, 700), st.integers(1, 700))
def test_parts_do_not_depend_on_where_the_reducer_pauses(counts: list[int], one: int, other: int) -> None:
    def outputs(pause: int) -> list[object]:
        worker = state(pause)
        return [list(worker.take(message(offset, count)) or ()) for offset, count in enumerate(counts)]

    assert outputs(one) == outputs(other)


def test_parts_are_numbered_cut_and_closed() -> None:
    size = rows_per_part(COLUMNS)
    outgoing = list(state().take(message(0, 2 * size + 1)) or ())
    assert outgoing is not None
    heads = [(o.envelope.seq, o.envelope.part, o.envelope.last, o.envelope.count) for o in outgoing]
    assert heads == [(100, 0, False, size), (100, 1, False, size), (100, 2, True, 1)]
    rows = concat_tables([decode_rows(o.value, COLUMNS) for o in outgoing], COLUMNS)
    assert rows["n"].tolist() == list(range(2 * size + 1))
    first = outgoing[0]
    assert (first.topic, first.timestamp_ms, first.envelope.run) == ("t1.main.trades.v1", 5, "run0")
    assert first.envelope.crc32 == crc32(first.value)
    assert (first.envelope.arrived, first.envelope.source) == (9, "f:0")


def test_nothing_to_say_is_one_empty_part_and_end_has_a_summary() -> None:
    worker = state()
    (quiet,) = worker.take(message(0, 0)) or []
    assert (quiet.value, quiet.envelope.part, quiet.envelope.last, quiet.envelope.summary) == (b"", 0, True, "")
    (end,) = worker.take(message(1, 0, "end")) or []
    assert end.envelope.summary == "done"


def part_of(seq: int, part: int, count: int, *, last: bool) -> Message:
    """A message of a stage's topic: its seq and part stand in the headers, its offset says nothing."""
    envelope = Envelope("data", "trades", count=count, t=5_000_000, seq=seq, part=part, last=last, run="run0")
    return Message("t1.main.trades.v1", 0, 3 * seq + part, 5, "X", b"", envelope)


def later_state() -> PartitionState:
    """A stage that reads what another stage writes."""
    outputs = {"bars": Output(topics.BARS, COLUMNS)}
    made = Stage("later", topics.TRADES, outputs, {}, lambda: Counting(7, "bars"))
    return PartitionState(made, Place("t1", "main", 0, 100, "run0"), made.reducer(), 100)


def test_parts_of_a_root_are_one_input_of_a_later_stage() -> None:
    size, worker = rows_per_part(COLUMNS), later_state()
    made = [list(worker.take(part_of(100, i, count, last=i == 3)) or ()) for i, count in enumerate((2, size, 5, 0))]
    heads = [[(o.envelope.seq, o.envelope.part, o.envelope.last, o.envelope.count) for o in m or ()] for m in made]
    assert heads == [[], [(100, 0, False, size)], [], [(100, 1, True, 7)]]
    rows = concat_tables([decode_rows(o.value, COLUMNS) for m in made for o in m or ()], COLUMNS)
    assert rows["n"].tolist() == list(range(size + 7))


def test_a_later_stage_says_nothing_once_for_a_root_without_rows() -> None:
    worker = later_state()
    assert list(worker.take(part_of(100, 0, 0, last=False)) or ()) == []
    (quiet,) = worker.take(part_of(100, 1, 0, last=True)) or []
    assert (quiet.value, quiet.envelope.part, quiet.envelope.last) == (b"", 0, True)
    (one,) = worker.take(part_of(101, 0, 1, last=True)) or []
    assert (one.envelope.seq, one.envelope.part, one.envelope.count) == (101, 0, 1)


def test_a_later_stage_drops_repeated_parts_and_refuses_missing_ones() -> None:
    worker = later_state()
    assert list(worker.take(part_of(100, 0, 3, last=False)) or ()) == []
    assert worker.take(part_of(100, 0, 3, last=False)) is None
    for missing in (part_of(100, 2, 3, last=True), part_of(101, 0, 3, last=True)):
        with pytest.raises(HoleError):
            worker.take(missing)
    (done,) = worker.take(part_of(100, 1, 3, last=True)) or []
    assert done.envelope.count == 6


def test_wide_rows_are_cut_by_bytes() -> None:
    wide = (Column("v", "f8", "lots", "wide", partition.PART_BYTES_MAX // 16),)
    assert rows_per_part(wide) == 2
    assert rows_per_part((Column("v", "f8", "lots", "wider", partition.PART_BYTES_MAX),)) == 1


def test_repeats_are_dropped_and_holes_refused() -> None:
    worker = state()
    worker.take(message(0, 3))
    assert worker.take(message(0, 3)) is None
    with pytest.raises(HoleError):
        worker.take(message(2, 3))


def checkpoint(offset: int) -> Checkpoint:
    return Checkpoint(offset, offset + 100, "run0", "topic0", {})


def test_checkpoints_keep_three_and_only_named_pieces(tmp_path: Path) -> None:
    store = CheckpointStore(LocalObjectStore(tmp_path), "c")
    assert store.load(0) is None
    for offset in range(6):
        store.save(0, checkpoint(offset), {"X": b"%d" % offset, "Y": b"same"})
    loaded = store.load(0)
    assert loaded is not None
    assert (loaded[0].offset, loaded[1]) == (5, {"X": b"5", "Y": b"same"})
    assert len(list((tmp_path / "c/0/manifests").iterdir())) == KEPT
    assert len(list((tmp_path / "c/0/pieces").iterdir())) == KEPT + 1


def test_a_smaller_offset_never_replaces_a_larger_one(tmp_path: Path) -> None:
    store = CheckpointStore(LocalObjectStore(tmp_path), "c")
    store.save(0, checkpoint(9), {"X": b"9"})
    store.save(0, checkpoint(8), {"X": b"8"})
    loaded = store.load(0)
    assert loaded is not None
    assert loaded[0].offset == 9


@pytest.mark.parametrize("what", ["manifests", "pieces"])
def test_a_damaged_checkpoint_is_found_and_the_one_before_is_used(tmp_path: Path, what: str) -> None:
    store = CheckpointStore(LocalObjectStore(tmp_path), "c")
    store.save(0, checkpoint(1), {"X": b"one"})
    store.save(0, checkpoint(2), {"X": b"two"})
    folder = tmp_path / "c/0" / what
    victim = next(p for p in folder.iterdir() if (what == "pieces" and p.read_bytes() == b"two") or "0002." in p.name)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    loaded = store.load(0)
    assert loaded is not None
    assert (loaded[0].offset, loaded[1]) == (1, {"X": b"one"})


def test_outputs_beyond_the_limit_wait_in_a_file_and_come_out_the_same() -> None:
    parts = [Part("trades", n, bytes([n]) * size, 1, last=n == 4) for n, size in enumerate((3, 5, 0, 7, 1))]

    def through(memory_bytes_max: int) -> list[Outgoing]:
        box = Outbox(memory_bytes_max)
        box.to_message = lambda part: Outgoing("t", part.part, "X", part.value, Envelope("data", "trades"))
        for part in parts:
            box.add(part)
        assert box.spilled == (memory_bytes_max < 16)
        return list(box)

    assert through(0) == through(3) == through(8) == through(1000)
    assert [m.value for m in through(3)] == [part.value for part in parts]


@pytest.mark.parametrize("what", ["manifests", "pieces"])
def test_what_was_damaged_is_written_anew_when_the_same_state_comes_again(tmp_path: Path, what: str) -> None:
    """Else a piece of an instrument that has ended, named by its content, would stay damaged for ever."""
    CheckpointStore(LocalObjectStore(tmp_path), "c").save(0, checkpoint(7), {"X": b"ended"})
    (victim,) = (tmp_path / "c/0" / what).iterdir()
    victim.write_bytes(victim.read_bytes()[:-1])
    heir = CheckpointStore(LocalObjectStore(tmp_path), "c")
    assert heir.load(0) is None
    heir.save(0, checkpoint(7), {"X": b"ended"})
    loaded = CheckpointStore(LocalObjectStore(tmp_path), "c").load(0)
    assert loaded is not None
    assert (loaded[0].offset, loaded[1]) == (7, {"X": b"ended"})
