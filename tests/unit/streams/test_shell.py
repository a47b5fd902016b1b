"""The stage shell without a broker: what is stored, in which order, and what never is."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from faust.types import TP

from runtime.errors import InputError
from runtime.object_store import LocalObjectStore
from runtime.sequence import HoleError
from runtime.tapes import Line, Manifest
from schemas import topics
from schemas.columns import Column
from schemas.envelope import Envelope
from schemas.message import Message, Outgoing
from schemas.topics import TopicSpec
from streams.checkpoints import Checkpoint, CheckpointStore
from streams.faust_consumer import Consumer
from streams.reducer import Output, Rows, Stage, Stamp
from streams.shell import HOLE_PATIENCE_S, StageShell, Timing

COLUMNS = (Column("n", "i8", "count", "a number"),)
BASE, POISON = 100, 13


class Summing:
    """Adds the counts of messages up. A count of `POISON` changes the state, then fails."""

    def __init__(self) -> None:
        self.total = 0

    def apply(self, message: Message) -> Iterator[Rows]:
        self.total += message.envelope.count
        if message.envelope.count == POISON:
            raise InputError("this message is broken")
        yield Rows("trades", {"n": np.array([self.total], "<i8")})

    def stamp(self, message: Message) -> Stamp:
        return Stamp(message.envelope.t, {})

    def snapshot(self) -> Mapping[str, bytes]:
        return {"X": str(self.total).encode()}

    def restore(self, pieces: Mapping[str, bytes]) -> None:
        self.total = int(pieces["X"])


class FakeProducer:
    """Notes what is sent and flushed; `while_flushing` runs in the middle of a flush, in the thread that flushes."""

    def __init__(self, events: list[Any]) -> None:
        self.events = events
        self.while_flushing: Callable[[], None] = lambda: None
        self.refuses = False

    def send(self, message: Outgoing) -> None:
        if self.refuses:
            raise InputError("the broker refused it")
        self.events.append(("send", message.envelope.seq))

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

    def assignment(self) -> set[TP]:
        return {self.tp}

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        self.events.append(("commit", dict(offsets)))
        return True

    def ack(self, raw: Any) -> bool:
        self.events.append(("ack", raw.offset))
        return True


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
        self.messages = messages

    def noack(self) -> Any:
        async def events() -> Any:
            for message in self.messages:
                yield SimpleNamespace(message=message)

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
    events: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.topic = self.source.name("t1", "main")
        manifest = Manifest("t1", "0" * 16, base=(BASE,), topic_ids={self.topic: self.topic_id})
        stage = Stage("summing", self.source, {"trades": Output(topics.TRADES, COLUMNS)}, {}, Summing)
        self.app = FakeApp(FakeConsumer(TP(self.topic, 0), self.events))
        self.producer, self.clock = FakeProducer(self.events), FakeClock()
        self.store = NotedStore(self.folder, self.events)
        fakes: Any = (self.app, self.producer)
        self.shell = StageShell(
            fakes[0],
            stage,
            manifest.with_line("main", Line(self.run)),
            "main",
            fakes[1],
            self.store,
            self.clock,
            Timing(1.0, 30.0),
        )

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

    def happened(self, *names: str) -> list[Any]:
        """The events of some names, in order."""
        return [event for event in self.events if (event if isinstance(event, str) else event[0]) in names]

    def stored(self) -> tuple[int, int, bytes] | None:
        """Offset, seq and state of the newest checkpoint."""
        loaded = self.store.load(0)
        return None if loaded is None else (loaded[0].offset, loaded[0].seq, loaded[1]["X"])


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
        (owned,) = bench.shell._owned.values()
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
        await bench.take(bench.raw(2, seq=BASE + 1, part=1))
        assert bench.stored() == (2, BASE + 1, b"3")

    asyncio.run(scenario())


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
        Bench(tmp_path, run=run, topic_id=topic_id)
