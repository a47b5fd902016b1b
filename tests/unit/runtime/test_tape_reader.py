"""Reading a stream from Kafka, from the lake, and across the seam between them: the same messages everywhere."""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from control.scan import scan_topic
from runtime import lake_format, tape_reader
from runtime.errors import BarographError, InputError
from runtime.lake_format import DamagedObjectError, all_objects, folder, objects
from runtime.object_store import LocalObjectStore
from runtime.sequence import HoleError, Placed
from runtime.tape_reader import TapeReader, TopicReader, reader_at
from runtime.tapes import Deletion
from schemas.message import Message
from schemas.names import parse_cursor
from schemas.topics import BINS, MBO
from sinks.base import Batch, Entry, Lane
from sinks.lake import LakeSink
from sinks.tables import KEY_COLUMNS, TABLES
from tests.unit.sinks.messages import Made, first_of_each, make_tape, manifest

TAPE = manifest()
STREAMS = [MBO, BINS]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies keeps what it wrote; only power cuts need fsync, and hundreds of them take minutes."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@dataclass
class Log:
    """One partition of a topic as Kafka keeps it, trimmed below `low`."""

    messages: list[Message]
    low: int = 0
    asked: int = 0
    _at: int = field(default=0)

    def assign(self, places: list[Any]) -> None:
        self._at = places[0].offset

    def poll(self, timeout: float) -> Any:
        self.asked += 1
        return self.messages[self._at]

    def close(self) -> None:
        pass

    def read(self, start: int, stop: int | None) -> Iterator[Message]:
        assert start >= self.low, "trimmed"
        yield from self.messages[start : len(self.messages) if stop is None else stop]


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Log]:
    """Topic → its log, in the place of a broker."""
    known: dict[str, Log] = {}
    current: list[Log] = []

    def watermarks(client: Any, topic: str, partition: int) -> tuple[int, int]:
        current[:] = [known[topic]]
        client.log = known[topic]
        return known[topic].low, len(known[topic].messages)

    class Client:
        log: Log

        def assign(self, places: list[Any]) -> None:
            self.log.assign(places)

        def poll(self, timeout: float) -> Any:
            return self.log.poll(timeout)

        def close(self) -> None:
            pass

    def read_raw(servers: str, topic: str, partition: int, start: int = 0, stop: int | None = None) -> Iterator[Any]:
        return known[topic].read(start, stop)

    monkeypatch.setattr(tape_reader, "consumer", lambda servers: Client())
    monkeypatch.setattr(tape_reader, "watermarks", watermarks)
    monkeypatch.setattr(tape_reader, "read_raw", read_raw)
    monkeypatch.setattr(tape_reader, "to_message", lambda raw: raw)
    return known


def wanted(made: Made, spec: Any) -> list[Placed]:
    topic = spec.name("t1", "main")
    return [Placed(m, *place) for place, m in first_of_each(made.topics[topic], spec is MBO).items()]


def content(reader: TapeReader) -> list[Placed]:
    """What a reader gives, offsets aside: of a message that stands twice in a log, either will do."""
    return [replace(p, message=replace(p.message, offset=0)) for p in reader]


def bare(messages: list[Placed]) -> list[Placed]:
    return [replace(p, message=replace(p.message, offset=0)) for p in messages]


def fill(lake: LocalObjectStore, made: Made, spec: Any, sizes: Iterator[int], stop: int | None = None) -> None:
    """Write a stream's messages to the lake in objects of these sizes."""
    lane = Lane("t1", TAPE.tape_id, "main", TABLES[spec.stream], 0)
    left = [Entry(p.message, p.seq, p.part) for p in wanted(made, spec)][:stop]
    while left:
        size = next(sizes)
        LakeSink(lake).write(Batch(lane, tuple(left[:size])), Event())
        left = left[size:]


def sizes(seed: int) -> Iterator[int]:
    dice = random.Random(seed)
    while True:
        yield dice.randint(1, 5)


@pytest.mark.parametrize("spec", STREAMS, ids=lambda s: s.stream)
@pytest.mark.parametrize("repeats", [False, True])
def test_every_start_gives_the_rest_from_lake_and_log_alike(
    tmp_path: Path, logs: dict[str, Log], spec: Any, repeats: bool
) -> None:
    made = make_tape(seed=5, blocks=25, repeats=repeats)
    lake = LocalObjectStore(tmp_path)
    fill(lake, made, spec, sizes(1))
    topic, all_of_it = spec.name("t1", "main"), wanted(made, spec)
    logs[topic] = Log(made.topics[topic])
    for at, placed in enumerate(all_of_it):
        start = placed.seq, placed.part
        rest = bare(all_of_it[at:])
        assert content(TapeReader(TAPE, "main", spec, 0, "a:1", start=start)) == rest, start
        if at % 5 == 0:
            assert content(TapeReader(TAPE, "main", spec, 0, lake=lake, start=start)) == rest, start
            assert content(TapeReader(TAPE, "main", spec, 0, "a:1", lake, start)) == rest, start
    assert list(TapeReader(TAPE, "main", spec, 0, lake=lake, seq_to=7)) == [p for p in all_of_it if p.seq <= 7]


@pytest.mark.parametrize("spec", STREAMS, ids=lambda s: s.stream)
@pytest.mark.parametrize("repeats", [False, True])
def test_a_trimmed_log_is_gone_on_with_at_every_seam(
    tmp_path: Path, logs: dict[str, Log], spec: Any, repeats: bool
) -> None:
    made = make_tape(seed=6, blocks=25, repeats=repeats)
    lake = LocalObjectStore(tmp_path)
    fill(lake, made, spec, sizes(2))
    topic, all_of_it = spec.name("t1", "main"), wanted(made, spec)
    for low in range(len(made.topics[topic]) + 1):
        logs[topic] = Log(made.topics[topic], low)
        if low % 3 == 0:
            assert content(TapeReader(TAPE, "main", spec, 0, "a:1", lake)) == bare(all_of_it), low
        start = all_of_it[-7]
        rest = content(TapeReader(TAPE, "main", spec, 0, "a:1", lake, (start.seq, start.part)))
        assert rest == bare(all_of_it[-7:]), low


@pytest.mark.parametrize("spec", STREAMS, ids=lambda s: s.stream)
def test_of_a_topic_that_a_lost_broker_left_empty_the_lake_gives_everything(
    tmp_path: Path, logs: dict[str, Log], spec: Any
) -> None:
    made, lake = make_tape(seed=6, blocks=25), LocalObjectStore(tmp_path)
    logs[spec.name("t1", "main")] = Log([])
    assert list(TapeReader(TAPE, "main", spec, 0, "a:1", lake)) == []
    fill(lake, made, spec, sizes(2))
    assert list(TapeReader(TAPE, "main", spec, 0, "a:1", lake)) == wanted(made, spec)
    assert list(TapeReader(TAPE, "main", spec, 0, "a:1")) == []


def test_what_is_neither_in_the_lake_nor_in_the_log_is_refused(tmp_path: Path, logs: dict[str, Log]) -> None:
    made, lake = make_tape(seed=6, blocks=25), LocalObjectStore(tmp_path)
    fill(lake, made, BINS, sizes(2), stop=8)
    log = logs["t1.main.bins.v1"] = Log(made.topics["t1.main.bins.v1"], low=14)
    with pytest.raises(HoleError, match="are missing"):
        list(TapeReader(TAPE, "main", BINS, 0, "a:1", lake))
    with pytest.raises(BarographError, match="is no longer in Kafka; give the lake"):
        list(TapeReader(TAPE, "main", BINS, 0, "a:1"))
    with pytest.raises(InputError, match="neither a broker nor a lake"):
        list(TapeReader(TAPE, "main", BINS, 0))
    log.low = 8
    assert list(TapeReader(TAPE, "main", BINS, 0, "a:1", lake)) == wanted(made, BINS)


def test_a_far_start_is_found_by_halves(logs: dict[str, Log]) -> None:
    made = make_tape(seed=8, blocks=400, repeats=True)
    topic = "t1.main.bins.v1"
    log = logs[topic] = Log(made.topics[topic])
    all_of_it = wanted(made, BINS)
    start = all_of_it[-5]
    assert content(TapeReader(TAPE, "main", BINS, 0, "a:1", start=(start.seq, start.part))) == bare(all_of_it[-5:])
    assert log.asked < 15


def test_a_cursor_is_where_reading_starts(tmp_path: Path) -> None:
    made, lake = make_tape(seed=6), LocalObjectStore(tmp_path)
    fill(lake, made, BINS, sizes(2))
    cursor = parse_cursor("t1/main/bins/X%3AA/5.0.0")
    assert list(reader_at(cursor, TAPE, lake=lake)) == [p for p in wanted(made, BINS) if p.seq >= 5]
    for bad in ("t1/main/bins/X%3AC/5.0.0", "t2/main/bins/X%3AA/5.0.0", "t1/main/none/X%3AA/5.0.0"):
        with pytest.raises(InputError, match="has nothing at"):
            reader_at(parse_cursor(bad), TAPE, lake=lake)


class Vanishing(LocalObjectStore):
    """A lake in which something happens whenever an object is read for the first time."""

    def __init__(self, root: Path, then: Any) -> None:
        super().__init__(root)
        self._then = then

    def get(self, name: str) -> bytes | None:
        self._then(name)
        return super().get(name)


def test_objects_that_were_joined_while_they_were_read_are_read_once(tmp_path: Path) -> None:
    made, lake = make_tape(seed=6, blocks=25), LocalObjectStore(tmp_path / "small")
    fill(lake, made, BINS, iter([3] * 99))
    wide = LocalObjectStore(tmp_path / "wide")
    fill(wide, made, BINS, iter([6, 6, 99]))
    prefix = folder("t1.main.bins.v1", TAPE.tape_id, 0)
    joined, second = objects(wide, prefix), objects(lake, prefix)[1].name

    def join(name: str) -> None:
        """The second object is gone when it is asked for; it lies in a wider one."""
        small = objects(lake, prefix)
        if name == second:
            assert lake.get(second)
            lake.put(joined[0].name, wide.get(joined[0].name) or b"")
            for item in (i for i in small if i.last <= joined[0].last):
                lake.delete(item.name)

    assert list(TapeReader(TAPE, "main", BINS, 0, lake=Vanishing(tmp_path / "small", join))) == wanted(made, BINS)
    assert joined[0].name in [item.name for item in all_objects(lake, prefix)]
    # Both stand for a moment: the wider one is read, and what it holds not again.
    for item in joined:
        lake.put(item.name, wide.get(item.name) or b"")
    assert list(TapeReader(TAPE, "main", BINS, 0, lake=lake)) == wanted(made, BINS)
    assert [item.name for item in objects(lake, prefix)] == [item.name for item in joined]


def test_what_was_deleted_is_marked_by_every_reader_and_left_out_of_certificates(logs: dict[str, Log]) -> None:
    made = make_tape(seed=5, blocks=25)
    narrow = replace(TAPE.lines["main"], config={"radius": 2})
    gone = replace(TAPE, lines={"main": narrow}, deletions=(Deletion("X:A", 0, 3, 17),))
    for spec in STREAMS:
        logs[spec.name("t1", "main")] = Log(made.topics[spec.name("t1", "main")])
        marked = [(p.seq, p.part) for p in TopicReader("a:1", gone, "main", spec, 0) if p.deleted]
        named = [p for p in wanted(made, spec) if p.message.instrument == "X:A" and 3 <= p.seq <= 17]
        assert marked == [(p.seq, p.part) for p in named] != []
        left = scan_topic("a:1", gone, "main", spec)
        assert left.messages == len(wanted(made, spec)) - len(named)
        assert left.value_bytes == sum(len(p.message.value) for p in wanted(made, spec) if p not in named)


def test_a_damaged_object_is_one_sentence(tmp_path: Path) -> None:
    made, lake = make_tape(seed=6), LocalObjectStore(tmp_path)
    fill(lake, made, MBO, iter([5] * 99))
    items = objects(lake, folder("t1.mbo.v1", TAPE.tape_id, 0))
    good = lake.get(items[1].name) or b""
    for damage in (b"", b"PAR1", good[:-20], good[: len(good) // 2], b"x" * len(good)):
        lake.put(items[1].name, damage)
        with pytest.raises(DamagedObjectError, match=r"lake object t1\.mbo\.v1/.* is damaged \("):
            list(TapeReader(TAPE, "main", MBO, 0, lake=lake))
    lake.put(items[1].name, lake.get(items[2].name) or b"")
    with pytest.raises((DamagedObjectError, HoleError)):
        list(TapeReader(TAPE, "main", MBO, 0, lake=lake))


def test_flipped_bits_are_found_or_harmless(tmp_path: Path) -> None:
    made, lake = make_tape(seed=6), LocalObjectStore(tmp_path)
    fill(lake, made, MBO, iter([99]))
    name = objects(lake, folder("t1.mbo.v1", TAPE.tape_id, 0))[0].name
    good, dice, found = lake.get(name) or b"", random.Random(4), 0
    for _ in range(60):
        bad = bytearray(good)
        bad[dice.randrange(len(bad))] ^= 1 << dice.randrange(8)
        lake.put(name, bytes(bad))
        try:
            values = [p.message.value for p in TapeReader(TAPE, "main", MBO, 0, lake=lake)]
        except BarographError:
            found += 1
        else:
            assert values == [p.message.value for p in wanted(made, MBO)]
    assert found


def test_the_key_columns_are_those_of_the_tables() -> None:
    assert lake_format.KEY_COLUMNS == KEY_COLUMNS
