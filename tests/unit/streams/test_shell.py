"""The stage shell without a broker: what is stored, in which order, and what never is."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from faust.types import TP

from runtime.codec import decode_avro
from runtime.errors import BarographError, InputError, MissingServiceError
from runtime.object_store import LocalObjectStore
from runtime.sequence import HoleError
from runtime.tapes import Deletion, Line, Manifest
from schemas import topics
from schemas.columns import Column
from schemas.envelope import Envelope
from schemas.message import Message, Outgoing
from schemas.topics import TopicSpec
from streams import faust_stage, shell
from streams.checkpoints import Checkpoint, CheckpointStore
from streams.cutover import Cutover, checkpoint_hash
from streams.faust_consumer import Consumer
from streams.faust_stage import FaustInput, attach, threads
from streams.past import PastDelivery
from streams.poison import DEATHS_MAX, FAILURES_MAX, NOWHERE, Attempts
from streams.reducer import BrokenMessageError, Output, Rows, Stage, Stamp
from streams.shell import HOLE_PATIENCE_S, DeletedError, StageShell, Timing, TrimmedError
from streams.worker import StageStores

COLUMNS = (Column("n", "i8", "count", "a number"),)
BASE, POISON, BROKEN, CRASH = 100, 13, 14, 15


class Summing:
    """Adds the counts of messages up. `BROKEN` is refused; `POISON` and `CRASH` change the state, then fail."""

    def __init__(self) -> None:
        self.total = 0

    def apply(self, message: Message) -> Iterator[Rows]:
        if message.envelope.count == BROKEN:
            raise BrokenMessageError(message, "is broken")
        self.total += message.envelope.count
        if message.envelope.count == CRASH:
            raise ZeroDivisionError("of all things")
        if message.envelope.count == POISON:
            raise InputError("this message is broken")
        yield Rows("trades", {"n": np.array([self.total], "<i8")})

    def skip(self, message: Message, reason: str) -> Iterator[Rows]:
        self.total += 1_000_000
        return iter(())

    def stamp(self, message: Message) -> Stamp:
        return Stamp(message.envelope.t, {})

    def snapshot(self) -> Mapping[str, bytes]:
        return {"X": str(self.total).encode()}

    def restore(self, pieces: Mapping[str, bytes]) -> None:
        self.total = int(pieces["X"])


def double(pieces: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """States of format 1 count in halves."""
    return {name: str(2 * int(piece)).encode() for name, piece in pieces.items()}


class FakeProducer:
    """Notes what is sent and flushed; `while_flushing` runs in the middle of a flush, in the thread that flushes."""

    def __init__(self, events: list[Any]) -> None:
        self.events = events
        self.while_flushing: Callable[[], None] = lambda: None
        self.refuses = False
        self.sent: list[Outgoing] = []
        self.there: tuple[int, int] | None = None
        self.complete = -1

    def send(self, message: Outgoing) -> None:
        if self.refuses:
            raise InputError("the broker refused it")
        self.sent.append(message)
        self.events.append(("send", message.envelope.seq))

    def newest(self, topic: str, partition: int) -> tuple[int, int] | None:
        return self.there

    def shown(self, topic: str, partition: int) -> int:
        return self.complete

    def flush(self) -> None:
        self.events.append("flush")
        self.while_flushing()


class NotedStore(CheckpointStore):
    """The real store; notes when it is written."""

    def __init__(self, folder: Path, events: list[Any]) -> None:
        super().__init__(LocalObjectStore(folder), "c")
        self.events = events

    def save(self, partition: int, checkpoint: Checkpoint, pieces: Mapping[str, bytes]) -> None:
        self.events.append(("save", checkpoint.offset))
        super().save(partition, checkpoint, pieces)


class FakeConsumer:
    """Owns one partition; notes commits and acknowledgements."""

    def __init__(self, tp: TP, events: list[Any]) -> None:
        self.tp, self.events = tp, events
        self.log_start = 0
        self.tracked: list[Any] = []

    async def earliest_offsets(self, *tps: TP) -> dict[TP, int]:
        return dict.fromkeys(tps, self.log_start)

    def assignment(self) -> set[TP]:
        return {self.tp}

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        self.events.append(("commit", dict(offsets)))
        return True

    def ack(self, raw: Any) -> bool:
        self.events.append(("ack", raw.offset))
        return True

    def track_message(self, raw: Any) -> None:
        self.tracked.append(raw)


class FakeSignal:
    """Keeps what was connected; `send` calls it, as Faust does."""

    def __init__(self) -> None:
        self.handlers: list[Callable[..., Coroutine[Any, Any, None]]] = []

    def connect(self, handler: Callable[..., Any], **_: Any) -> None:
        self.handlers.append(handler)

    async def send(self, *args: Any) -> None:
        for handler in self.handlers:
            await handler(*args)


class FakeApp:
    """What the shell asks of a Faust app."""

    def __init__(self, consumer: FakeConsumer) -> None:
        self.consumer = consumer
        self.agents: list[Any] = []
        self.timers: list[Any] = []
        self.on_rebalance_complete, self.on_partitions_revoked, self.on_before_shutdown = (
            FakeSignal() for _ in range(3)
        )

    def topic(self, name: str, **_: Any) -> str:
        return name

    def agent(self, _topic: str, **_: Any) -> Callable[[Any], None]:
        return self.agents.append

    def timer(self, _seconds: float) -> Callable[[Any], None]:
        return self.timers.append


class FakeStream:
    """Gives raw messages as Faust's stream does once it is told not to acknowledge them itself."""

    def __init__(self, messages: list[Any]) -> None:
        self.channel: Any = SimpleNamespace(queue=asyncio.Queue())
        for message in messages:
            self.channel.queue.put_nowait(SimpleNamespace(message=message))

    def noack(self) -> Any:
        async def events() -> Any:
            while not self.channel.queue.empty():
                yield self.channel.queue.get_nowait()

        return SimpleNamespace(events=events)


@dataclass
class FakeClock:
    """Time that stands still until it is moved."""

    now_s: float = 50.0

    def now_ns(self) -> int:
        return int(self.now_s * 1e9)

    def monotonic_s(self) -> float:
        return self.now_s


@dataclass
class Bench:
    """A shell and everything around it; `events` is what happened, in order."""

    folder: Path
    source: TopicSpec = topics.MBO
    run: str = "run0"
    topic_id: str = "topic0"
    state_format: int = 1
    past: Any = None
    events: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.topic = self.source.name("t1", "main")
        manifest = Manifest("t1", "0" * 16, base=(BASE,), topic_ids={self.topic: self.topic_id})
        stage = Stage("summing", self.source, {"trades": Output(topics.TRADES, COLUMNS)}, {}, Summing)
        stage = replace(stage, state_format=self.state_format, migrations={1: double})
        self.app = FakeApp(FakeConsumer(TP(self.topic, 0), self.events))
        self.producer, self.clock = FakeProducer(self.events), FakeClock()
        self.store = NotedStore(self.folder, self.events)
        self.stores = StageStores(LocalObjectStore(self.folder), "t/main/summing")
        self.stores.checkpoints = self.store
        fake_app: Any = self.app
        self.shell = StageShell(
            stage,
            manifest.with_line("main", Line(self.run)),
            "main",
            FaustInput(fake_app, self.topic),
            self.producer,
            self.stores,
            self.clock,
            Timing(1.0, 30.0),
            threads("apply"),
            threads("load"),
            past=self.past,
        )
        attach(fake_app, self.shell)

    def raw(self, offset: int, count: int = 1, **envelope: Any) -> Any:
        """A message as Faust gives it, with a value of one byte."""
        headers = Envelope(kind="data", schema="mbo", count=count, t=5, **envelope).to_headers()
        fields = {"topic": self.topic, "partition": 0, "offset": offset, "timestamp": 0.005, "key": b"X"}
        return SimpleNamespace(**fields, value=b"v", headers=headers)

    async def assign(self) -> None:
        """The group gives the partition to this worker."""
        await self.app.on_rebalance_complete.send(self.app)

    async def leave(self) -> None:
        """The group takes the partition away."""
        await self.app.on_partitions_revoked.send(self.app, {TP(self.topic, 0)})

    async def take(self, *messages: Any) -> None:
        """The agent reads messages."""
        await self.app.agents[0](FakeStream(list(messages)))

    async def tick(self, later_s: float) -> None:
        """Time passes, and the timer fires."""
        self.clock.now_s += later_s
        await self.app.timers[0]()

    async def caught_up(self, later_s: float = 2.0) -> None:
        """Time passes until nothing that has left the log is to be taken any more, and once again."""
        await self.tick(later_s)
        while any(owned.behind for owned in self.shell.owned()):
            await asyncio.sleep(0.001)
            await self.tick(0.0)
        await self.tick(later_s)

    def happened(self, *names: str) -> list[Any]:
        """The events of some names, in order."""
        return [event for event in self.events if (event if isinstance(event, str) else event[0]) in names]

    def stored(self) -> tuple[int, int, bytes] | None:
        """Offset, seq and state of the newest checkpoint."""
        loaded = self.store.load(0)
        return None if loaded is None else (loaded[0].offset, loaded[0].seq, loaded[1]["X"])

    def records(self, spec: TopicSpec, schema: str) -> list[dict[str, Any]]:
        """What was said on a topic of records."""
        return [decode_avro(schema, m.value) for m in self.producer.sent if m.topic == spec.name("t1")]

    def marks(self) -> list[tuple[int, int, str]]:
        """(seq, rows, skipped) of each output."""
        found = [m.envelope for m in self.producer.sent if m.topic == topics.TRADES.name("t1")]
        return [(e.seq, e.count, e.skipped) for e in found]


@pytest.fixture(autouse=True, params=[1, 3, faust_stage.TOGETHER_MAX])
def _together(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds however many messages the shell is given at once."""
    monkeypatch.setattr(faust_stage, "TOGETHER_MAX", request.param)


@pytest.fixture(autouse=True)
def _own_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Consumer, "start_at", {})


def test_outputs_are_confirmed_before_the_state_is_stored_and_input_acknowledged_after(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> None:
        await bench.assign()
        messages = [bench.raw(offset) for offset in range(3)]
        await bench.take(*messages)
        assert [message.value for message in messages] == [None] * 3, "blocks that wait must not stay in memory"
        assert bench.happened("flush", "save", "ack") == []
        await bench.tick(0.5)
        assert bench.happened("flush", "save", "ack") == [], "not due yet"
        await bench.tick(0.6)
        order = ["flush", ("save", 2), ("ack", 0), ("ack", 1), ("ack", 2)]
        assert bench.happened("send", "flush", "save", "ack") == [("send", BASE + n) for n in range(3)] + order
        await bench.tick(100)
        await bench.leave()
        assert bench.happened("flush", "save", "ack") == order, "nothing is held any more"

    asyncio.run(scenario())
    assert bench.stored() == (2, BASE + 2, b"3")


def test_a_checkpoint_that_is_due_is_taken_with_the_message(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> None:
        await bench.assign()
        bench.clock.now_s += 1.0
        await bench.take(bench.raw(0))

    asyncio.run(scenario())
    assert bench.happened("flush", "save", "ack") == ["flush", ("save", 0), ("ack", 0)]


def test_leaving_stores_what_was_done_and_the_next_owner_goes_on_after_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> None:
        await bench.assign()
        await bench.take(bench.raw(0, 5), bench.raw(1, 6))
        await bench.leave()

    asyncio.run(scenario())
    assert bench.stored() == (1, BASE + 1, b"11")
    Consumer.start_at = {TP("another.topic", 0): 7}
    heir = Bench(tmp_path)

    async def goes_on() -> None:
        await heir.assign()
        await heir.take(heir.raw(1, 6), heir.raw(2, 7))
        await heir.leave()

    asyncio.run(goes_on())
    start = {TP(heir.topic, 0): 2}
    assert heir.happened("commit") == [("commit", start)]
    assert Consumer.start_at == {TP("another.topic", 0): 7, **start}
    assert heir.happened("send") == [("send", BASE + 2)]
    assert heir.stored() == (2, BASE + 2, b"18")


def test_an_assignment_during_the_flush_leaves_everything_to_the_new_owner(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> None:
        await bench.assign()
        loop = asyncio.get_running_loop()
        bench.producer.while_flushing = lambda: asyncio.run_coroutine_threadsafe(bench.assign(), loop).result(10)
        await bench.take(bench.raw(0), bench.raw(1))
        await bench.tick(2)

    asyncio.run(scenario())
    assert bench.happened("flush") == ["flush"]
    assert bench.happened("save", "ack") == []
    assert bench.stored() is None
    assert bench.happened("commit")[-1] == ("commit", {TP(bench.topic, 0): 0}), "it is all done again"


def test_a_message_that_waited_through_an_assignment_is_not_applied(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> None:
        await bench.assign()
        (owned,) = bench.shell.owned()
        async with owned.lock:
            waiting = asyncio.create_task(bench.take(bench.raw(0)))
            await asyncio.sleep(0)
            await bench.assign()
        await waiting

    asyncio.run(scenario())
    assert bench.happened("send") == []


def test_a_state_that_broke_in_the_middle_is_never_stored(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> None:
        await bench.assign()
        await bench.take(bench.raw(0, 5))
        with pytest.raises(InputError, match="broken"):
            await bench.take(bench.raw(1, POISON))
        await bench.tick(100)
        await bench.leave()
        await bench.app.on_before_shutdown.send(bench.app)

    asyncio.run(scenario())
    assert bench.happened("flush", "save", "ack") == []
    assert bench.stored() is None


def test_a_state_whose_outputs_could_not_be_sent_is_never_stored(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> None:
        await bench.assign()
        await bench.take(bench.raw(0, 5))
        bench.producer.refuses = True
        with pytest.raises(InputError, match="refused"):
            await bench.take(bench.raw(1, 6))
        await bench.leave()

    asyncio.run(scenario())
    assert bench.happened("save", "ack") == []


def test_a_failed_flush_stores_and_acknowledges_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    def fail() -> None:
        raise InputError("not confirmed")

    async def scenario() -> None:
        await bench.assign()
        await bench.take(bench.raw(0))
        bench.producer.while_flushing = fail
        await bench.leave()
        with pytest.raises(InputError, match="not confirmed"):
            await bench.tick(2)

    asyncio.run(scenario())
    assert bench.happened("save", "ack") == []


def test_a_repeat_never_moves_the_checkpoint_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> None:
        await bench.assign()
        await bench.take(*(bench.raw(offset) for offset in (0, 1, 2, 0)))
        await bench.tick(2)

    asyncio.run(scenario())
    assert bench.stored() == (2, BASE + 2, b"3")
    assert bench.happened("send") == [("send", BASE + n) for n in range(3)]
    assert bench.happened("ack") == [("ack", offset) for offset in (0, 1, 2, 0)]


def test_a_repeat_further_on_in_a_derived_topic_moves_the_offset_and_not_the_seq(tmp_path: Path) -> None:
    bench = Bench(tmp_path, source=topics.BINS)

    async def scenario() -> None:
        await bench.assign()
        await bench.take(*(bench.raw(offset, seq=seq) for offset, seq in ((0, BASE), (1, BASE + 1), (2, BASE))))
        await bench.tick(2)

    asyncio.run(scenario())
    assert bench.stored() == (2, BASE + 1, b"2")


def test_no_checkpoint_between_the_parts_of_one_root(tmp_path: Path) -> None:
    bench = Bench(tmp_path, source=topics.BINS)

    async def scenario() -> None:
        await bench.assign()
        await bench.take(bench.raw(0, seq=BASE), bench.raw(1, seq=BASE + 1, part=0, last=False))
        await bench.tick(100)
        await bench.leave()
        assert bench.stored() is None
        await bench.assign()
        await bench.take(bench.raw(0, seq=BASE), bench.raw(1, seq=BASE + 1, part=0, last=False))
        await bench.tick(100)
        assert bench.stored() is None
        await bench.take(bench.raw(2, seq=BASE + 1, part=1))
        assert bench.stored() == (2, BASE + 1, b"3")

    asyncio.run(scenario())


def test_who_leaves_takes_nothing_more(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> None:
        await bench.assign()
        await bench.take(bench.raw(0))
        await bench.leave()
        before = bench.stored()
        await bench.take(bench.raw(1))
        await bench.tick(100)
        assert bench.stored() == before == (0, BASE, b"1")
        await bench.assign()
        await bench.take(bench.raw(1))
        await bench.leave()
        assert bench.stored() == (1, BASE + 1, b"2")

    asyncio.run(scenario())
    assert bench.happened("ack") == [("ack", 0), ("ack", 1)]


def test_what_was_buffered_before_an_assignment_is_forgiven_until_the_seek_takes_effect(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> None:
        await bench.assign()
        await bench.take(bench.raw(7), bench.raw(8))
        await bench.tick(HOLE_PATIENCE_S - 1)
        await bench.take(bench.raw(0), bench.raw(1))
        await bench.tick(2 * HOLE_PATIENCE_S)

    asyncio.run(scenario())
    assert bench.stored() == (1, BASE + 1, b"2")
    assert bench.happened("ack") == [("ack", 0), ("ack", 1)]


def test_a_repeat_behind_a_hole_does_not_hide_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, source=topics.BINS)

    async def scenario() -> None:
        await bench.assign()
        await bench.take(bench.raw(0, seq=BASE))
        await bench.tick(2)
        await bench.take(bench.raw(2, seq=BASE + 2), bench.raw(3, seq=BASE))
        with pytest.raises(HoleError):
            await bench.tick(3 + HOLE_PATIENCE_S)

    asyncio.run(scenario())
    assert bench.stored() == (0, BASE, b"1")
    assert bench.happened("ack") == [("ack", 0)]


def test_a_repeat_behind_what_the_client_left_out_does_not_hide_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, source=topics.BINS)

    async def scenario() -> None:
        await bench.assign()
        await bench.take(bench.raw(0, seq=BASE))
        await bench.tick(2)
        await bench.take(bench.raw(2, seq=BASE))  # and 1 never came
        await bench.tick(3)
        assert bench.stored() == (0, BASE, b"1")
        await bench.take(bench.raw(3, seq=BASE + 1), bench.raw(4, seq=BASE))
        await bench.tick(4)

    asyncio.run(scenario())
    assert bench.stored() == (4, BASE + 1, b"2")


def test_a_hole_that_stays_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> None:
        await bench.assign()
        await bench.take(bench.raw(7))
        with pytest.raises(HoleError):
            await bench.tick(HOLE_PATIENCE_S + 1)

    asyncio.run(scenario())
    assert bench.happened("send", "save", "ack") == []


def test_a_hole_among_messages_in_order_is_refused_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> None:
        await bench.assign()
        with pytest.raises(HoleError):
            await bench.take(bench.raw(0), bench.raw(2))

    asyncio.run(scenario())
    assert bench.happened("send") == [("send", BASE)]


@pytest.mark.parametrize(
    ("run", "topic_id", "words"),
    [("another", "topic0", "run run0, not another"), ("run0", "another", "input topic topic0, not another")],
)
def test_checkpoints_of_another_run_or_topic_are_refused_before_anything_starts(
    tmp_path: Path, run: str, topic_id: str, words: str
) -> None:
    bench = Bench(tmp_path)

    async def scenario() -> None:
        await bench.assign()
        await bench.take(bench.raw(0))
        await bench.leave()

    asyncio.run(scenario())
    with pytest.raises(InputError, match=words):
        Bench(tmp_path, run=run, topic_id=topic_id).shell.load(0)


def test_a_broken_message_is_skipped_at_once_with_letter_gap_and_marker(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    broken = bench.raw(1, BROKEN)

    async def scenario(bench: Bench) -> None:
        await bench.assign()
        await bench.take(bench.raw(0), bench.raw(1, BROKEN), bench.raw(2))
        await bench.leave()

    asyncio.run(scenario(bench))
    reason = "is broken"
    assert bench.marks() == [(BASE, 1, ""), (BASE + 1, 0, reason), (BASE + 2, 1, "")]
    (letter,), (gap,) = bench.records(topics.DEAD_LETTERS, "dead_letter"), bench.records(topics.GAPS, "gap")
    assert (letter["value"], letter["key"], letter["offset"], letter["seq"]) == (b"v", b"X", 1, BASE + 1)
    assert [(h["name"], h["value"]) for h in letter["headers"]] == broken.headers
    assert (letter["reason"], letter["error"], letter["attempts"]) == (reason, "BrokenMessageError", 1)
    assert "BrokenMessageError" in letter["trace"]
    assert (gap["instrument"], gap["seq_from"], gap["seq_to"], gap["cause"]) == ("X", BASE + 1, BASE + 1, reason)
    assert bench.stored() == (2, BASE + 2, b"1000002")
    assert bench.happened("flush")[0] == "flush", "the letter is confirmed before the marker is sent"
    again = Bench(tmp_path / "elsewhere")
    asyncio.run(scenario(again))
    assert again.records(topics.DEAD_LETTERS, "dead_letter")[0]["id"] == letter["id"]
    assert again.marks() == bench.marks()


def test_a_skip_that_was_written_is_input_for_whoever_comes_next(tmp_path: Path) -> None:
    first, second = Bench(tmp_path), Bench(tmp_path)

    async def scenario(bench: Bench, count: int) -> None:
        await bench.assign()
        await bench.take(bench.raw(0), bench.raw(1, count))

    asyncio.run(scenario(first, BROKEN))
    asyncio.run(scenario(second, 7))  # it could apply the message, and does not
    assert second.marks() == first.marks()


def test_headers_that_cannot_be_read_are_broken_too_and_keep_their_bytes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    foreign = bench.raw(0)
    foreign.headers, foreign.key = [("kind", b"surprise"), ("x", b"\xff")], b"\xff"

    async def scenario() -> None:
        await bench.assign()
        await bench.take(foreign, bench.raw(1))

    asyncio.run(scenario())
    (letter,) = bench.records(topics.DEAD_LETTERS, "dead_letter")
    assert (letter["key"], letter["headers"][1]["value"]) == (b"\xff", b"\xff")
    assert [(seq, rows) for seq, rows, _ in bench.marks()] == [(BASE, 0), (BASE + 1, 1)]


def test_headers_of_a_derived_message_hold_its_place_and_cannot_be_skipped(tmp_path: Path) -> None:
    bench = Bench(tmp_path, source=topics.BINS)
    foreign = bench.raw(0)
    foreign.headers = []

    async def scenario() -> None:
        await bench.assign()
        await bench.take(foreign)

    with pytest.raises(BrokenMessageError):
        asyncio.run(scenario())
    assert bench.events[1:] == []


def test_what_outputs_show_already_is_never_skipped(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.producer.there = (BASE + 1, 0)

    async def scenario() -> None:
        await bench.assign()
        await bench.take(bench.raw(0), bench.raw(1, BROKEN))

    with pytest.raises(BarographError, match="applied before"):
        asyncio.run(scenario())
    assert bench.records(topics.DEAD_LETTERS, "dead_letter") == []
    assert bench.stores.poison(0).skips() == {}


def test_a_letter_that_is_not_confirmed_stops_the_stage(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    def fail() -> None:
        raise InputError("not confirmed")

    async def scenario() -> None:
        await bench.assign()
        bench.producer.while_flushing = fail
        await bench.take(bench.raw(0, BROKEN))

    with pytest.raises(InputError, match="not confirmed"):
        asyncio.run(scenario())
    assert bench.marks() == []


def test_an_unexpected_exception_is_skipped_the_third_time(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.assign()
        await bench.take(bench.raw(0), bench.raw(1), bench.raw(2, CRASH), bench.raw(3))

    for _ in range(FAILURES_MAX):
        with pytest.raises(ZeroDivisionError):
            asyncio.run(scenario(Bench(tmp_path)))
    bench = Bench(tmp_path)
    asyncio.run(scenario(bench))
    (letter,) = bench.records(topics.DEAD_LETTERS, "dead_letter")
    assert (letter["error"], letter["attempts"], letter["seq"]) == ("ZeroDivisionError", 3, BASE + 2)
    assert "of all things" in letter["trace"]
    assert [bool(skipped) for _, _, skipped in bench.marks()] == [False, False, True, False]


def test_progress_before_the_poison_does_not_start_the_count_anew(tmp_path: Path) -> None:
    async def scenario(bench: Bench, first: int) -> None:
        await bench.assign()
        await bench.take(*(bench.raw(n) for n in range(first, first + 3)))
        await bench.tick(2)
        await bench.take(
            bench.raw(first + 3, 1), *(bench.raw(n, CRASH if n == 20 else 1) for n in range(first + 4, 22))
        )

    for first in (0, 3, 6):
        with pytest.raises(ZeroDivisionError):
            asyncio.run(scenario(Bench(tmp_path), first))
    bench = Bench(tmp_path)
    asyncio.run(scenario(bench, 9))
    assert [seq for seq, _, skipped in bench.marks() if skipped] == [BASE + 20]


def test_a_message_that_kills_the_process_is_found_and_skipped(tmp_path: Path) -> None:
    """The process dies without a word at offset 5; every start is a new one on the same stores."""
    starts = 0
    while True:
        starts += 1
        assert starts < 2 * DEATHS_MAX + 5
        bench = Bench(tmp_path)

        async def scenario(bench: Bench = bench) -> bool:
            await bench.assign()
            (owned,) = bench.shell.owned()
            for offset in range(owned.offset + 1, 8):
                if offset == 5 and not owned.known.verdict((BASE + 5, 0)):
                    (owned,) = bench.shell.owned()
                    await bench.shell._note(owned, (BASE + 5, 0))
                    return False  # dead in the middle of it
                await bench.take(bench.raw(offset))
            return True

        if asyncio.run(scenario()):
            break
    (letter,) = bench.records(topics.DEAD_LETTERS, "dead_letter")
    assert (letter["seq"], letter["error"]) == (BASE + 5, "")
    assert "died" in letter["reason"]


def test_workers_that_stop_in_order_are_no_deaths(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.assign()
        await bench.take(bench.raw(0, seq=BASE, last=False))  # no checkpoint in the middle of a root
        await bench.leave()

    for _ in range(DEATHS_MAX + 3):
        bench = Bench(tmp_path, source=topics.BINS)
        asyncio.run(scenario(bench))
    assert bench.stores.poison(0).attempts().deaths <= 1
    assert bench.stores.poison(0).skips() == {}


def test_a_careful_worker_does_again_at_full_speed_what_killed_nobody(tmp_path: Path) -> None:
    """Processes died here; but the outputs of three messages stand in the log, so those three are innocent."""
    bench = Bench(tmp_path)
    bench.stores.poison(0).note(Attempts(start=BASE, deaths=3, at=(BASE, 0)))
    bench.producer.complete = BASE + 2

    async def scenario() -> None:
        await bench.assign()
        await bench.take(*(bench.raw(n) for n in range(3)))
        assert bench.happened("save") == []
        assert bench.stores.poison(0).attempts() == Attempts(start=BASE, deaths=4, at=NOWHERE)
        await bench.take(bench.raw(3), bench.raw(4))

    asyncio.run(scenario())
    assert bench.happened("save") == [("save", 2), ("save", 3), ("save", 4)]
    assert bench.stores.poison(0).attempts().at == (BASE + 4, 0)


def test_what_was_tried_with_success_is_not_blamed_for_a_later_death(tmp_path: Path) -> None:
    """A root in parts has no state in between; while its next part is waited for, none of them is being tried."""
    bench = Bench(tmp_path, source=topics.BINS)
    bench.stores.poison(0).note(Attempts(start=BASE, deaths=3, at=(BASE, 5)))

    async def scenario() -> None:
        await bench.assign()
        await bench.take(bench.raw(0, seq=BASE, part=0, last=False), bench.raw(1, seq=BASE, part=1, last=False))

    asyncio.run(scenario())
    assert bench.stores.poison(0).attempts() == Attempts(start=BASE, deaths=4, at=NOWHERE)


def test_a_full_disk_keeps_the_state_in_memory_until_there_is_room(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    save = bench.store.save

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    async def scenario() -> None:
        await bench.assign()
        bench.store.save = fail  # type: ignore[method-assign]
        await bench.take(bench.raw(0))
        await bench.tick(2)
        await bench.take(bench.raw(1))
        await bench.tick(2)
        assert bench.happened("ack") == []
        bench.store.save = save  # type: ignore[method-assign]
        await bench.tick(2)

    asyncio.run(scenario())
    assert bench.stored() == (1, BASE + 1, b"2")
    assert bench.happened("ack") == [("ack", 0), ("ack", 1)]


def test_a_log_that_begins_after_the_state_is_refused_with_the_missing_range(tmp_path: Path) -> None:
    first, second = Bench(tmp_path), Bench(tmp_path)
    second.app.consumer.log_start = 7

    async def begin() -> None:
        await first.assign()
        await first.take(first.raw(0), first.raw(1))
        await first.leave()

    asyncio.run(begin())
    with pytest.raises(TrimmedError, match="offsets 2 to 6") as refused:
        asyncio.run(second.assign())
    assert (refused.value.first, refused.value.last) == (2, 6)
    assert second.happened("commit") == []


class FakePast:
    """What has left the log: messages of one byte from a seq on; may tell when it is read."""

    def __init__(self, first: int, upto: int, on_read: Callable[[int], None] = lambda _: None) -> None:
        self.first, self.upto, self.on_read, self.asked = first, upto, on_read, list[Any]()

    def covers(self, partition: int, start: tuple[int, int]) -> bool:
        return start[0] >= self.first

    def read(self, partition: int, start: tuple[int, int], low: int) -> Any:
        self.asked.append((start, low))
        for seq in range(start[0], self.upto):
            self.on_read(seq)
            derived = Envelope(kind="data", schema="trades", count=1, t=5, seq=seq, run="run0")
            raw = Envelope(kind="data", schema="mbo", count=1, t=5)
            envelope, offset = (raw, seq - BASE) if self.raw else (derived, low - 1)
            yield PastDelivery("t", partition, offset, 0.005, b"X", b"v", envelope.to_headers())

    raw = True


def test_what_has_left_the_log_is_taken_from_the_past_first(tmp_path: Path) -> None:
    plain = Bench(tmp_path / "plain")

    async def whole() -> None:
        await plain.assign()
        await plain.take(*(plain.raw(n) for n in range(40)))
        await plain.leave()

    asyncio.run(whole())
    for first in (0, 3):
        folder = tmp_path / f"from-{first}"
        past = FakePast(BASE + first, BASE + 30)
        begun, bench = Bench(folder), Bench(folder, past=past)
        bench.app.consumer.log_start = 30

        async def begin(begun: Bench = begun, first: int = first) -> None:
            await begun.assign()
            await begun.take(*(begun.raw(n) for n in range(first)))
            await begun.leave()

        async def go_on(bench: Bench = bench) -> None:
            await bench.assign()
            await bench.take(*(bench.raw(n) for n in range(30, 40)))
            await bench.leave()

        asyncio.run(begin())
        asyncio.run(go_on())
        assert past.asked == [((BASE + first, 0), 30)]
        assert bench.happened("commit") == [("commit", {TP(bench.topic, 0): 30})]
        assert [offset for _, offset in bench.happened("ack")] == list(range(30, 40))
        assert bench.stored() == plain.stored()
        assert begun.happened("send") + bench.happened("send") == plain.happened("send")


def test_a_quiet_log_does_not_keep_the_past_waiting(tmp_path: Path) -> None:
    bench = Bench(tmp_path, past=FakePast(BASE, BASE + 5))
    bench.app.consumer.log_start = 5

    async def wait() -> None:
        await bench.assign()
        await bench.caught_up()

    asyncio.run(wait())
    assert bench.stored() == (4, BASE + 4, b"5")
    assert bench.happened("ack") == []


def test_a_worker_that_leaves_in_the_past_goes_on_there(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    leaving: list[Any] = []

    def on_read(seq: int) -> None:
        if seq == BASE + 40:
            for owned in first.shell.owned():
                owned.left = True

    first.past = first.shell._past = FakePast(BASE, BASE + 90, on_read)
    first.app.consumer.log_start = 90

    async def leave_early(bench: Bench) -> None:
        await bench.assign()
        await bench.take(bench.raw(90))
        await bench.leave()
        leaving.append(bench.stored())

    asyncio.run(leave_early(first))
    offset, seq, _ = leaving[0]
    assert 16 <= offset < 90
    assert seq == BASE + offset
    second = Bench(tmp_path, past=FakePast(BASE, BASE + 90))
    second.app.consumer.log_start = 90
    asyncio.run(leave_early(second))
    assert second.stored() == (90, BASE + 90, b"91")


def test_a_later_stage_stores_nothing_between_lake_and_log(tmp_path: Path) -> None:
    saved: list[Any] = []
    bench = Bench(tmp_path, source=topics.BINS)

    def on_read(seq: int) -> None:
        bench.clock.now_s += 5
        saved.append(bench.happened("save"))

    past = FakePast(BASE, BASE + 50, on_read)
    past.raw = False
    bench.shell._past = past
    bench.app.consumer.log_start = 70

    async def go_on() -> None:
        await bench.assign()
        await bench.tick(0)
        catching = bench.shell.owned()[0].catching
        assert catching is not None
        await catching

    asyncio.run(go_on())
    assert saved[-1] == []
    assert bench.stored() == (69, BASE + 49, b"50"), "stored as soon as the log begins, without waiting for its time"


@pytest.mark.parametrize("raw", [True, False])
def test_of_the_past_only_the_newest_message_is_held(tmp_path: Path, raw: bool) -> None:
    bench, held = Bench(tmp_path, source=topics.MBO if raw else topics.BINS), list[int]()
    past = FakePast(BASE, BASE + 200, lambda _: held.extend(len(owned.held) for owned in bench.shell.owned()))
    past.raw = raw
    bench.shell._past = past
    bench.app.consumer.log_start = 200

    async def go_on() -> None:
        await bench.assign()
        await bench.caught_up(0.0)  # no time passes, so nothing is stored on the way

    asyncio.run(go_on())
    assert max(held) == 1
    assert bench.happened("ack") == []


def test_a_lake_that_is_away_for_a_moment_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "PAST_RETRY_S", 0.001)
    away = [BASE + 20, BASE + 20, BASE + 3, BASE]
    errors = [MissingServiceError("the lake does not answer", remedy="try again"), OSError("no route")]

    def on_read(seq: int) -> None:
        if away and seq == away[-1]:
            away.pop()
            raise errors[len(away) % 2]

    past = FakePast(BASE, BASE + 30, on_read)
    bench = Bench(tmp_path, past=past)
    bench.app.consumer.log_start = 30

    async def go_on() -> None:
        await bench.assign()
        await bench.take(*(bench.raw(n) for n in range(30, 33)))
        await bench.leave()

    asyncio.run(go_on())
    assert not away
    assert bench.stored() == (32, BASE + 32, b"33")


def test_who_reads_the_past_does_not_hold_up_the_timer(tmp_path: Path) -> None:
    go = threading.Event()
    bench = Bench(tmp_path, past=FakePast(BASE, BASE + 5, lambda _: go.wait(30) and None))
    bench.app.consumer.log_start = 5

    async def wait() -> None:
        await bench.assign()
        for _ in range(3):
            await asyncio.wait_for(bench.tick(2), 20)
        go.set()
        await bench.caught_up()

    asyncio.run(wait())
    assert bench.stored() == (4, BASE + 4, b"5")


def test_a_past_that_cannot_be_had_ends_the_process_by_the_timer(tmp_path: Path) -> None:
    def damaged(seq: int) -> None:
        raise InputError("an object is damaged", remedy="none")

    bench = Bench(tmp_path, past=FakePast(BASE, BASE + 5, damaged))
    bench.app.consumer.log_start = 5

    async def wait() -> None:
        await bench.assign()
        await bench.caught_up()

    with pytest.raises(InputError, match="an object is damaged"):
        asyncio.run(wait())


@pytest.mark.parametrize("where", ["log", "lake"])
def test_what_was_deleted_on_demand_is_refused_wherever_it_stands(tmp_path: Path, where: str) -> None:
    start = 10 if where == "lake" else 0
    bench = Bench(tmp_path, past=FakePast(BASE, BASE + start))
    bench.app.consumer.log_start = start
    gone = Deletion("X", 0, BASE + 7, BASE + 8)
    bench.shell.manifest = replace(bench.shell.manifest, deletions=(Deletion("Y", 0, BASE, BASE + 9), gone))

    async def go_on() -> None:
        await bench.assign()
        await bench.take(*(bench.raw(n) for n in range(start, 12)))

    with pytest.raises(DeletedError, match=f"seq {BASE + 7} of .* was deleted on demand") as refused:
        asyncio.run(go_on())
    assert refused.value.seq == BASE + 7
    assert len(bench.happened("send")) == 7


def test_what_was_deleted_after_it_was_applied_is_a_repeat_like_any_other(tmp_path: Path) -> None:
    begun, bench = Bench(tmp_path), Bench(tmp_path)
    bench.shell.manifest = replace(bench.shell.manifest, deletions=(Deletion("X", 0, BASE, BASE + 8),))

    async def go_on() -> None:
        await begun.assign()
        await begun.take(*(begun.raw(n) for n in range(9)))
        await begun.leave()
        await bench.assign()
        await bench.take(*(bench.raw(n) for n in range(7, 12)))
        await bench.leave()

    asyncio.run(go_on())
    assert bench.stored() == (11, BASE + 11, b"12")


def test_another_run_goes_on_where_a_cutover_names_both_and_migrates_the_state(tmp_path: Path) -> None:
    first = Bench(tmp_path)

    async def begin() -> None:
        await first.assign()
        await first.take(first.raw(0, 5))
        await first.leave()

    async def go_on(bench: Bench) -> None:
        await bench.assign()
        await bench.take(bench.raw(1, 1))
        await bench.leave()

    asyncio.run(begin())
    second = Bench(tmp_path, run="run1", state_format=2)
    with pytest.raises(InputError, match="run run0, not run1"):
        asyncio.run(go_on(second))
    loaded = first.store.load(0)
    assert loaded is not None
    second.stores.cutovers.write(0, Cutover(BASE, "run0", "run1", checkpoint_hash(loaded[0])))
    asyncio.run(go_on(second))
    assert second.stored() == (1, BASE + 1, b"11")
    third = Bench(tmp_path, run="run1", state_format=4)
    with pytest.raises(InputError, match="format 2, this release reads 4"):
        third.shell.load(0)


def test_an_outage_of_writes_is_no_death_and_skips_nothing(tmp_path: Path) -> None:
    """The broker answers and confirms nothing: every start ends with an error, and the message is innocent."""

    def fail() -> None:
        raise InputError("not confirmed")

    async def try_it() -> None:
        bench = Bench(tmp_path)
        await bench.assign()
        await bench.take(bench.raw(0))
        bench.producer.while_flushing = fail
        with pytest.raises(InputError, match="not confirmed"):
            await bench.tick(2)
        await bench.leave()

    for _ in range(DEATHS_MAX + 1):
        asyncio.run(try_it())
    bench = Bench(tmp_path)
    assert bench.stores.poison(0).attempts().deaths == 0

    async def go_on() -> None:
        await bench.assign()
        await bench.take(bench.raw(0))

    asyncio.run(go_on())
    assert bench.marks() == [(BASE, 1, "")]
