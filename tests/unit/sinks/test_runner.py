"""The pipeline against a made-up broker and a store in memory, crashing wherever it can."""

import os
import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from runtime.errors import BarographError
from runtime.object_store import LocalObjectStore
from runtime.sequence import ConflictError, HoleError
from runtime.tapes import Deletion, Manifest
from sinks.base import Batch, Lane, StoppedError
from sinks.batcher import Limits
from sinks.progress import Progress, ProgressStore
from sinks.rows import BadMessageError, build_rows
from sinks.runner import SinkReport, SinkRunner
from sinks.tables import RECORDS, TABLES
from tests.unit.sinks.messages import FakeConsumer, Made, Raw, first_of_each, make_records, make_tape, manifest

TAPE = manifest()
INSTRUMENTS = {name: known.partition for name, known in TAPE.instruments.items()}


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies keeps what it wrote; only power cuts need fsync, and thousands of them take minutes."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class CrashError(Exception):
    """The process died."""


class StepClock:
    """A clock that moves when it is read, by uneven steps, so that batches are cut by age at odd places."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._now_s = 0.0

    def now_ns(self) -> int:
        return int(self._now_s * 1e9)

    def monotonic_s(self) -> float:
        self._now_s += self._random.random() * 0.1
        return self._now_s


class MemorySink:
    """Keeps batches by token, as a store that drops repeats does; may die before or after it kept one."""

    name = "memory"

    def __init__(self, kept: dict[str, Batch], dice: Callable[[], float], limits: Limits) -> None:
        self.kept, self._dice, self.limits = kept, dice, limits

    def open(self, stop: Event) -> str:
        return "identity"

    def write(self, batch: Batch, stop: Event) -> None:
        if self._dice() < 0.1:
            raise CrashError
        known = self.kept.setdefault(batch.token, batch)
        assert list(known.entries) == list(batch.entries), "one name, two contents"
        if self._dice() < 0.3:
            raise CrashError

    def close(self) -> None:
        pass


class CrashingState(LocalObjectStore):
    """Files of which a put may be the last thing that happens, or not happen at all."""

    def __init__(self, root: Path, dice: Callable[[], float]) -> None:
        super().__init__(root)
        self._dice = dice

    def put(self, name: str, data: bytes) -> None:
        if self._dice() < 0.05:
            raise CrashError
        super().put(name, data)
        if self._dice() < 0.05:
            raise CrashError


def serve(
    made: Made, sink: MemorySink, state: LocalObjectStore, seed: int, polls: int = 2_000, *, ahead: bool = False
) -> SinkReport:
    """Run until everything is drained, or the process dies."""
    stop = Event()
    last: list[SinkReport] = []
    consumers = [FakeConsumer(made)]
    original = consumers[0].consume
    left = iter(range(polls))

    def consume(count: int, timeout: float):
        if next(left, None) is None:
            stop.set()
        return original(count, timeout)

    consumers[0].consume = consume  # type: ignore[method-assign]

    def tell(report: SinkReport) -> None:
        last.append(report)
        if report.drained(INSTRUMENTS):
            stop.set()

    runner = SinkRunner(sink, TAPE, "main", "", state, StepClock(seed), lambda _: consumers[0], ahead=ahead)
    runner.run(stop, tell)
    return last[-1]


def everything(made: Made, kept: dict[str, Batch]) -> None:
    """Each message of each topic lies in exactly one batch, and in order."""
    for table in TABLES.values():
        topic = table.topic_name("t1", "main")
        wanted = first_of_each(made.topics[topic], table.raw)
        batches = sorted((b for b in kept.values() if b.lane.topic == topic), key=lambda b: b.first)
        found = [((e.seq, e.part), e.message) for b in batches for e in b.entries]
        assert [place for place, _ in found] == sorted(wanted)
        assert dict(found) == wanted


MBO_ONLY = (TABLES["mbo"],)
LIMITS = Limits(rows=60, bytes=4_000, age_s=0.5)


def test_everything_arrives_once(tmp_path: Path) -> None:
    made = make_tape(repeats=True)
    kept: dict[str, Batch] = {}
    report = serve(made, MemorySink(kept, lambda: 1.0, LIMITS), LocalObjectStore(tmp_path), 1)
    everything(made, kept)
    assert report.drained(INSTRUMENTS)
    assert report.rows["mbo"] == sum(m.envelope.count for m in made.topics["t1.mbo.v1"] if m.envelope.kind == "data")


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_lost_or_twice_wherever_it_dies(tmp_path: Path, seed: int, ahead: bool) -> None:
    made = make_tape(seed, blocks=20, repeats=True)
    dice = random.Random(seed)
    kept: dict[str, Batch] = {}
    for life in range(1_000):
        state = CrashingState(tmp_path, dice.random)
        try:
            report = serve(made, MemorySink(kept, dice.random, LIMITS), state, seed * 1_000 + life, ahead=ahead)
        except CrashError:
            continue
        if report.drained(INSTRUMENTS):
            break
    everything(made, kept)
    assert life > 1


class Waiting(MemorySink):
    """Its writes wait until more was taken, or until they are stopped."""

    def __init__(self, taken: Callable[[], int], limits: Limits) -> None:
        super().__init__({}, lambda: 1.0, limits)
        self._taken = taken
        self.waited = 0

    def write(self, batch: Batch, stop: Event) -> None:
        had = self._taken()
        while self._taken() <= had:
            if stop.wait(0.001):
                raise StoppedError
        self.waited += 1
        super().write(batch, stop)


@pytest.mark.parametrize("fails", [False, True])
def test_the_next_batch_is_taken_while_one_is_written(tmp_path: Path, fails: bool) -> None:
    """And when taking it fails, the write that waits for its target ends too."""
    stop, source = Event(), FakeConsumer(make_tape(instruments=("X:A",)))
    original, polls = source.consume, 0

    def consume(count: int, timeout: float) -> list[Raw]:
        nonlocal polls
        polls += not fails
        found = original(count, timeout)
        if fails and not found:
            raise CrashError
        return found

    source.consume = consume  # type: ignore[method-assign]
    sink = Waiting(lambda: polls, Limits(rows=1 << 30, bytes=1 << 30, age_s=1e9))

    def tell(report: SinkReport) -> None:
        if report.drained({"X:A": 0}):
            stop.set()

    state = LocalObjectStore(tmp_path)
    runner = SinkRunner(sink, TAPE, "main", "", state, StepClock(1), lambda _: source, tables=MBO_ONLY, ahead=True)
    if fails:
        with pytest.raises(CrashError):
            runner.run(stop, tell)
    else:
        runner.run(stop, tell)
        assert sink.waited == len(sink.kept) == 1
    assert stop.is_set()


def test_a_finished_tape_is_drained_at_once_when_started_again(tmp_path: Path) -> None:
    made = make_tape()
    kept: dict[str, Batch] = {}
    for _ in range(2):
        report = serve(made, MemorySink(kept, lambda: 1.0, LIMITS), LocalObjectStore(tmp_path), 1)
        assert report.drained(INSTRUMENTS)
    everything(made, kept)


def test_a_tape_without_ends_is_not_drained(tmp_path: Path) -> None:
    made = make_tape()
    for topic, messages in made.topics.items():
        made.topics[topic] = [m for m in messages if m.envelope.kind != "end"]
    report = serve(made, MemorySink({}, lambda: 1.0, LIMITS), LocalObjectStore(tmp_path), 1, polls=60)
    assert not report.drained(INSTRUMENTS)
    assert not report.drained({})


def test_a_hole_is_refused_with_its_range(tmp_path: Path) -> None:
    made = make_tape()
    bins = made.topics["t1.main.bins.v1"]
    gone = [m for m in bins if m.envelope.seq != 4]
    made.topics["t1.main.bins.v1"] = [replace(m, offset=at) for at, m in enumerate(gone)]
    with pytest.raises(HoleError, match=r"4\.0 to before 5\.0 are missing"):
        serve(made, MemorySink({}, lambda: 1.0, LIMITS), LocalObjectStore(tmp_path), 1)


def test_two_contents_of_one_place_stop_it(tmp_path: Path) -> None:
    made = make_tape()
    bins = made.topics["t1.main.bins.v1"]
    first = bins[0]
    other = replace(first, offset=len(bins), envelope=replace(first.envelope, crc32=first.envelope.crc32 ^ 1))
    bins.append(other)
    with pytest.raises(ConflictError):
        serve(made, MemorySink({}, lambda: 1.0, Limits(10**9, 10**9, 1e9)), LocalObjectStore(tmp_path), 1)


def test_a_value_with_a_wrong_checksum_stops_it(tmp_path: Path) -> None:
    made = make_tape()
    bins = made.topics["t1.main.bins.v1"]
    at = next(i for i, m in enumerate(bins) if m.value)
    bins[at] = replace(bins[at], value=bins[at].value[:-1] + bytes([bins[at].value[-1] ^ 1]))
    with pytest.raises(BadMessageError, match="checksum"):
        serve(made, MemorySink({}, lambda: 1.0, LIMITS), LocalObjectStore(tmp_path), 1)


def test_a_lane_of_another_process_is_refused_or_followed(tmp_path: Path) -> None:
    made = make_tape()
    kept: dict[str, Batch] = {}
    state = LocalObjectStore(tmp_path)
    serve(made, MemorySink(kept, lambda: 1.0, LIMITS), state, 1)
    other = ProgressStore(state, "memory", "identity")
    raw = Lane(TAPE.tape, TAPE.tape_id, "main", TABLES["mbo"], 0)
    assert other.claim(raw)
    report = serve(made, MemorySink(kept, lambda: 1.0, LIMITS), state, 1)
    assert report.drained(INSTRUMENTS)
    assert other.claim(replace(raw, table=TABLES["bins"]))
    with pytest.raises(BarographError, match="another memory sink writes"):
        serve(made, MemorySink(kept, lambda: 1.0, LIMITS), state, 1)
    other.close()


def test_a_new_topic_of_the_same_tape_is_read_from_its_start(tmp_path: Path) -> None:
    made = make_tape()
    kept: dict[str, Batch] = {}
    state = LocalObjectStore(tmp_path)
    serve(made, MemorySink(kept, lambda: 1.0, LIMITS), state, 1)
    before = dict(kept)
    renewed = replace(TAPE, topic_ids={"t1.main.bins.v1": "another"})
    consumer = FakeConsumer(made)
    stop = Event()
    reports: list[SinkReport] = []

    def tell(report: SinkReport) -> None:
        reports.append(report)
        stop.set()

    SinkRunner(MemorySink(kept, lambda: 1.0, LIMITS), renewed, "main", "", state, None, lambda _: consumer).run(
        stop, tell
    )
    assert kept == before
    assert reports[-1].drained(INSTRUMENTS)


def test_a_batch_that_may_have_been_written_is_cut_the_same_under_other_limits(tmp_path: Path) -> None:
    made = make_tape(seed=2, blocks=20)
    kept: dict[str, Batch] = {}
    dice = iter([1.0, 0.0])  # the first write is kept, and its process dies before it can note that
    with pytest.raises(CrashError):
        serve(made, MemorySink(kept, lambda: next(dice), Limits(30, 10**9, 1e9)), LocalObjectStore(tmp_path), 1)
    assert len(kept) == 1
    serve(made, MemorySink(kept, lambda: 1.0, Limits(10**9, 10**9, 1e9)), LocalObjectStore(tmp_path), 1)
    everything(made, kept)


RECORD_TABLES = (*TABLES.values(), *RECORDS.values())


def serve_records(tape: Manifest, made: Made, kept: dict[str, Batch], state: LocalObjectStore) -> SinkReport:
    """Run over rows and records until everything is drained, which must not take long."""
    stop, consumer = Event(), FakeConsumer(made)
    original, left, last = consumer.consume, iter(range(300)), list[SinkReport]()

    def consume(count: int, timeout: float):
        if next(left, None) is None:
            stop.set()
        return original(count, timeout)

    consumer.consume = consume  # type: ignore[method-assign]

    def tell(report: SinkReport) -> None:
        last.append(report)
        if report.drained(INSTRUMENTS):
            stop.set()

    SinkRunner(
        MemorySink(kept, lambda: 1.0, LIMITS), tape, "main", "", state, StepClock(1), lambda _: consumer, RECORD_TABLES
    ).run(stop, tell)
    return last[-1]


def gaps_of(kept: dict[str, Batch]) -> list[tuple[int, bytes]]:
    found = [(e.seq, e.message.value) for b in kept.values() if b.lane.table.name == "gaps" for e in b.entries]
    return sorted(found)


def test_records_of_a_new_topic_are_numbered_after_those_of_the_old_one(tmp_path: Path) -> None:
    made, kept, state = (
        Made({**make_tape().topics, **make_records().topics}),
        dict[str, Batch](),
        LocalObjectStore(tmp_path),
    )
    assert serve_records(TAPE, made, kept, state).drained(INSTRUMENTS)
    before = gaps_of(kept)
    assert [seq for seq, _ in before] == list(range(14))
    fresh = [replace(m, value=m.value + b"\0") for m in make_records(count=2).topics["t1.gaps.v1"]]
    made.topics["t1.gaps.v1"] = fresh
    renewed = replace(TAPE, topic_ids={"t1.gaps.v1": "another"})
    for _ in range(2):  # and once more, from what was noted meanwhile
        assert serve_records(renewed, made, kept, state).drained(INSTRUMENTS)
        assert gaps_of(kept) == [*before, *((14 + at, m.value) for at, m in enumerate(fresh))]


def test_a_batch_of_the_old_topic_of_records_is_not_completed_from_the_new_one(tmp_path: Path) -> None:
    made, kept, state = make_records(), dict[str, Batch](), LocalObjectStore(tmp_path)
    with closing(ProgressStore(state, "memory", "identity")) as store:
        lane = Lane(TAPE.tape, TAPE.tape_id, "main", RECORDS["gaps"], 0)
        store.load(lane)
        store.save(lane, Progress(offset=3, seq=3, plan=((3, 0), (5, 0))))
    renewed = replace(TAPE, topic_ids={"t1.gaps.v1": "another"})
    serve_records(renewed, made, kept, state)
    assert [seq for seq, _ in gaps_of(kept)] == list(range(6, 20))


def test_records_of_a_topic_that_was_filled_again_keep_their_numbers(tmp_path: Path) -> None:
    made, kept, state = (
        Made({**make_tape().topics, **make_records().topics}),
        dict[str, Batch](),
        LocalObjectStore(tmp_path),
    )
    serve_records(TAPE, made, kept, state)
    before = gaps_of(kept)
    more = replace(made.topics["t1.gaps.v1"][0], offset=14)
    made.topics["t1.gaps.v1"].append(more)
    renewed = replace(TAPE, topic_ids={"t1.gaps.v1": "another"}, restored={"another": (14,)})
    for _ in range(2):
        assert serve_records(renewed, made, kept, state).drained(INSTRUMENTS)
        assert gaps_of(kept) == [*before, (14, more.value)]


def test_records_behind_a_filled_part_that_is_shorter_than_what_is_stored_are_new(tmp_path: Path) -> None:
    made = Made({**make_tape().topics, **make_records().topics})
    kept, state = dict[str, Batch](), LocalObjectStore(tmp_path)
    serve_records(TAPE, made, kept, state)
    before, topic = gaps_of(kept), "t1.gaps.v1"
    fresh = [replace(m, value=m.value + b"\0") for m in made.topics[topic][11:13]]
    made.topics[topic] = made.topics[topic][:11] + fresh  # the lake had 11 when the broker was lost
    renewed = replace(TAPE, topic_ids={topic: "another"}, restored={"another": (11,)})
    for _ in range(2):
        assert serve_records(renewed, made, kept, state).drained(INSTRUMENTS)
        assert gaps_of(kept) == [*before, *((14 + at, m.value) for at, m in enumerate(fresh))]


def test_records_have_their_offset_as_number_whatever_the_base_is(tmp_path: Path) -> None:
    kept: dict[str, Batch] = {}
    serve_records(replace(TAPE, base=(5,)), make_records(), kept, LocalObjectStore(tmp_path))
    assert [seq for seq, _ in gaps_of(kept)] == list(range(14))


def test_what_was_deleted_on_demand_gives_no_rows_and_keeps_its_place(tmp_path: Path) -> None:
    made, kept = Made({**make_tape(blocks=30).topics, **make_records().topics}), dict[str, Batch]()
    gone = (Deletion("X:A", 0, 0, 10**6),)
    report = serve_records(replace(TAPE, deletions=gone), made, kept, LocalObjectStore(tmp_path))
    assert report.drained(INSTRUMENTS)
    everything(made, kept)
    rooted = [e for b in kept.values() if b.lane.table.topic.rooted for e in b.entries]
    assert {e.deleted for e in rooted if e.message.instrument == "X:A"} == {True}
    assert not any(e.rows for e in rooted if e.message.instrument == "X:A")
    assert sum(e.rows for e in rooted if e.message.instrument == "X:B")
    assert not any(e.deleted for e in rooted if e.message.instrument == "X:B")
    assert len(gaps_of(kept)) == 14, "records have numbers of their own, which no deletion means"
    bins = next(b for b in kept.values() if b.lane.table.name == "bins")
    assert "X:A" not in build_rows(bins).column("instrument").to_pylist()
