"""The stage shell: assignment, messages, checkpoints around a reducer; nothing of what a stage computes.

Delivery in one paragraph: outputs are sent by an idempotent producer before the state that contains them is stored,
and input is acknowledged after that. A crash in between makes the next owner redo the work from the stored state and
send the same bytes under the same (`seq`, `part`) again, which consumers drop. A worker that was paused and wakes up
late can only do the same. So every message has its effect once.

The shell knows no Kafka client. Whoever delivers messages (`streams.faust_stage` in production, the simulator in
tests) calls four methods and offers an `Input`:

    assigned(partitions)   load the newest states; gives the offsets to start at
    take(delivery, ...)    messages of one partition, in order
    tick()                 now and then: quiet partitions, holes that stay
    leaving()              partitions go away, or the worker stops in order

Work on a state runs in a thread (numba releases the interpreter lock), so heartbeats never wait. Going there and back
costs as much as a small message, so a thread takes all messages that wait, and meanwhile the client fetches the next.
"""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from runtime.clock import Clock
from runtime.errors import BarographError, InputError
from runtime.sequence import HoleError
from runtime.tapes import Manifest
from runtime.telemetry import (
    CHECKPOINT_SECONDS,
    STAGE_RECORDS,
    STAGE_REPEATS,
    STAGE_ROWS,
    STAGE_SECONDS,
    STAGE_SEQ,
    STAGE_SKIPS,
)
from schemas.envelope import read_headers
from schemas.message import Message, Outgoing
from schemas.topics import MBO
from streams.checkpoints import Checkpoint, CheckpointStore
from streams.cutover import Cutovers
from streams.letters import Original, letters
from streams.outbox import Outbox
from streams.partition import PartitionState
from streams.partition import Place as Where
from streams.poison import NOWHERE, Attempts, Place, PoisonStore, Skip, one_line
from streams.reducer import BrokenMessageError, Stage

log = logging.getLogger(__name__)

CHECKPOINT_SHARE: Final = 0.05
"""Part of the time that checkpoints may take. A checkpoint of 50 ms is then written once a second at most."""

HOLE_PATIENCE_S: Final = 10.0
"""How long messages out of place are forgiven after an assignment: what was buffered before it comes again, in order,
once the seek takes effect, within milliseconds. A hole that stays is real and is refused after this long; with much
less, a machine under full load would stop a worker for nothing."""


class Delivery(Protocol):
    """A message as the client gives it; its value may be taken away, the rest stays until it is acknowledged."""

    topic: str
    partition: int
    offset: int
    timestamp: float
    key: bytes | None
    value: bytes | None
    headers: Any


class Input(Protocol):
    """What the shell asks of whoever delivers messages."""

    async def log_starts(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """Partition → first offset of the input topic that is still in the log."""

    def acknowledge(self, delivery: Delivery) -> None:
        """The message has had its effect, durably; called in the order of delivery."""


class Producer(Protocol):
    """Where outputs go."""

    def send(self, message: Outgoing) -> None:
        """Queue a message; raises if an earlier one failed."""

    def flush(self) -> None:
        """Wait until every message is confirmed; raises if one is not."""

    def newest(self, topic: str, partition: int) -> Place | None:
        """The highest (`seq`, `part`) anywhere on a partition; None if it is empty."""

    def shown(self, topic: str, partition: int) -> int:
        """The root message that is complete with the last message of a partition; -1 if none is."""


class Stores(Protocol):
    """What is kept beside the topics, for one stage on one tape and line."""

    checkpoints: CheckpointStore
    cutovers: Cutovers

    def poison(self, partition: int) -> PoisonStore:
        """Skips and attempts of a partition."""


T = TypeVar("T")


class Threads(Protocol):
    """Where work runs off the event loop, one piece at a time."""

    def __call__(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:
        """Run a function; its result."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Shortest and longest time between checkpoints, seconds."""

    min_s: float = 1.0
    max_s: float = 30.0


CAREFUL_MESSAGES: Final = 64
"""Root messages that a worker takes one by one where processes died before: as many as a dying process may have had in
hand whose outputs nobody has seen. Those whose outputs stand in the log killed nobody and are done again at full speed.
Each costs some writes to the store, so with many more a partition that was unlucky three times falls behind; a culprit
further on is met later, and is then nearer to the newest state."""

LATELY: Final = 1 / 16
"""Weight of the newest message in what messages hold lately."""


@dataclass(slots=True)
class Owned:
    """A partition that this worker owns, as of one assignment.

    Attributes:
        generation: the assignment; an older one is dropped.
        state: reducer and place.
        poison: what is written down about poison here.
        skips: messages not to be applied, by place.
        known: attempts as they stood at the assignment; what to skip is judged by these.
        attempts: attempts as they stand now; None before the first message and after leaving.
        offset, seq: the last message whose root is complete; -1 before the first.
        due_s: when the next checkpoint may be written.
        careful: root messages that are still to be taken one by one, because a process died near here.
        shown: last root message whose outputs all stand in the log, as far as that was looked up; -1 if it was not.
        timestamp_ms: Kafka's timestamp of the last message applied; -1 before the first.
        moved_s: when the last message was taken, on the shell's clock; at first, when the partition was assigned.
        taken: offset of the last message taken.
        records: records or rows in a message, as those taken lately held.
        whole: whether the last message applied completed its root; in between, no checkpoint is taken.
        left: whether it goes away; nothing more is taken then, and a new assignment begins anew.
        held: messages applied since the last checkpoint, not acknowledged.
        hole: the first message out of place since the assignment, and when; None if all were in order.
    """

    generation: int
    state: PartitionState
    poison: PoisonStore
    skips: dict[Place, Skip]
    known: Attempts
    offset: int
    seq: int
    due_s: float
    moved_s: float
    attempts: Attempts | None = None
    careful: int = 0
    shown: int = -1
    timestamp_ms: int = -1
    taken: int = -1
    records: float = 0.0
    whole: bool = True
    left: bool = False
    held: list[Delivery] = field(default_factory=list)
    hole: tuple[HoleError, float] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def partition(self) -> int:
        """Its number."""
        return self.state.place.partition

    def verdict(self, place: Place) -> str:
        """Why the message at a place must not be tried again; empty if it may. What is shown was tried with success."""
        return "" if place[0] <= self.shown else self.known.verdict(place)


class StageShell:
    """One stage of one tape and line.

    Args:
        stage: what to compute.
        manifest: the tape.
        line: the line; its `run` must be in the manifest.
        source: who delivers messages.
        producer: where outputs go.
        stores: where states and skips are kept.
        clock: for time-outs.
        timing: checkpoint interval.
        in_thread: where work on states runs.
        aside: where states are loaded, so that an assignment never waits for a flush that waits for the broker.
        alone: held while a careful partition tries a message; the shells of a process share one. A process that dies
            must have tried one message only, or the innocent of other partitions would be skipped with the culprit.
    """

    def __init__(
        self,
        stage: Stage,
        manifest: Manifest,
        line: str,
        source: Input,
        producer: Producer,
        stores: Stores,
        clock: Clock,
        timing: Timing,
        in_thread: Threads,
        aside: Threads,
        alone: asyncio.Lock | None = None,
    ) -> None:
        self._alone = alone or asyncio.Lock()
        self.stage, self.manifest, self.line = stage, manifest, line
        self.run = manifest.lines[line].run
        self.topic = stage.source.name(manifest.tape, line)
        self.topic_id = manifest.topic_ids.get(self.topic, "")
        self._source, self._producer, self._stores = source, producer, stores
        self._clock, self._timing = clock, timing
        self._in_thread, self._aside = in_thread, aside
        self._generation = 0
        self._owned: dict[int, Owned] = {}
        self.confirming = 0  # how much of it waits for the broker; what stands still then is not the stage
        labels = stage.name, manifest.tape  # looked up once: a look-up costs more than an increment
        self._records, self._repeats = STAGE_RECORDS.labels(*labels), STAGE_REPEATS.labels(*labels)
        self._seconds = STAGE_SECONDS.labels(stage.name)
        outputs = [output.topic.name(manifest.tape, line) for output in stage.outputs.values()]
        self._rows = {topic: STAGE_ROWS.labels(stage.name, topic) for topic in outputs}

    # -- what the deliverer calls ------------------------------------------------------------------------------------

    async def assigned(self, partitions: Iterable[int]) -> dict[int, int]:
        """After every assignment, before anything is delivered: load each partition's newest state.

        Returns:
            Partition → offset to start at, to be sought explicitly.

        Raises:
            InputError: a state is of another run or topic, or messages that it needs have left the log.
        """
        self._generation += 1
        self._owned, generation = {}, self._generation
        loaded = {number: await self._aside(self.load, number) for number in partitions}
        lows = await self._source.log_starts(list(loaded))
        for number, owned in loaded.items():
            low = lows.get(number, 0)
            if owned.offset + 1 < low:  # this process may have stood still since it read; others went on, the log too
                owned = loaded[number] = await self._aside(self.load, number)
            self.refuse_trimmed(number, owned.offset, low)
        if generation != self._generation:
            return {}  # another assignment came meanwhile
        self._owned = loaded
        starts = {number: owned.offset + 1 for number, owned in loaded.items()}
        log.info("%s owns %s", self.stage.name, starts)
        return starts

    async def take(self, *deliveries: Delivery) -> None:
        """Messages of one partition, in order; whoever gives more of them waits until these are done.

        Raises:
            BarographError: one cannot be applied or skipped; the process must leave.
            Exception: whatever the reducer fails with; the process must leave.
        """
        owned = self._owned.get(deliveries[0].partition)
        if owned is None:
            return
        async with owned.lock:
            while deliveries and owned.generation == self._generation and not owned.left:
                deliveries = deliveries[await self._take_some(owned, deliveries) :]
                if owned.whole and self._clock.monotonic_s() >= owned.due_s:
                    await self.checkpoint(owned)

    async def tick(self) -> None:
        """A quiet partition gets its checkpoint too, and a hole that stays is refused."""
        for owned in list(self._owned.values()):
            if owned.hole is not None and self._clock.monotonic_s() > owned.hole[1] + HOLE_PATIENCE_S:
                raise owned.hole[0]
            if owned.held and not owned.lock.locked() and self._clock.monotonic_s() >= owned.due_s:
                async with owned.lock:
                    await self.checkpoint(owned)

    async def leaving(self) -> None:
        """Partitions go to another worker, or this one stops: store what was done, so that nobody has to redo it."""
        for owned in self._owned.values():
            owned.left = True
        for owned in list(self._owned.values()):
            try:
                async with owned.lock:
                    if owned.attempts is not None:  # alive, so no message killed it; what fails below is no death
                        await self._in_thread(owned.poison.note, owned.attempts.ended())
                        owned.attempts = None
                    await self.checkpoint(owned)
            except (BarographError, OSError) as error:  # the others still can; whoever comes next redoes this one
                log.warning("leaving without a checkpoint: %s", error)

    def give_up(self) -> None:
        """From any thread: the process ends before `leaving` came to its end; that is no death either."""
        for owned in list(self._owned.values()):
            if (attempts := owned.attempts) is not None:
                with suppress(OSError):
                    owned.poison.note(attempts.ended())

    def owned(self) -> list[Owned]:
        """The partitions that this worker owns now."""
        return list(self._owned.values())

    # -- assignment --------------------------------------------------------------------------------------------------

    def load(self, partition: int) -> Owned:
        """The newest state of a partition.

        Raises:
            InputError: it is of another run or input topic.
        """
        base = self.manifest.base[partition]
        where = Where(self.manifest.tape, self.line, partition, base, self.run)
        reducer, poison = self.stage.reducer(), self._stores.poison(partition)
        offset, seq = -1, base - 1
        if stored := self.stored(partition):
            checkpoint, pieces = stored
            reducer.restore(pieces)
            offset, seq = checkpoint.offset, checkpoint.seq
        now_s, known = self._clock.monotonic_s(), poison.attempts()
        return Owned(
            generation=self._generation,
            state=PartitionState(self.stage, where, reducer, seq + 1),
            poison=poison,
            skips=poison.skips(),
            known=known,
            careful=CAREFUL_MESSAGES if known.careful else 0,
            shown=self._shown(partition) if known.careful else -1,
            offset=offset,
            seq=seq,
            due_s=now_s + self._timing.min_s,
            moved_s=now_s,
            taken=offset,
        )

    def _shown(self, partition: int) -> int:
        """The last root message whose outputs all stand in the log, at least: whoever made them survived it."""
        return min(self._producer.shown(topic, partition) for topic in self._rows)

    def stored(self, partition: int) -> tuple[Checkpoint, Mapping[str, bytes]] | None:
        """The newest checkpoint of a partition with its pieces in this release's format; None if there is none.

        Raises:
            InputError: it is of another run or input topic, or of a format that cannot be read.
        """
        loaded = self._stores.checkpoints.load(partition)
        if loaded is None:
            return None
        checkpoint, pieces = loaded
        self._refuse_foreign(partition, checkpoint)
        return checkpoint, self.stage.migrate(pieces, checkpoint.state_format)

    def _refuse_foreign(self, partition: int, checkpoint: Checkpoint) -> None:
        """Another topic's state is never right; another run's only where a cutover names both."""
        if checkpoint.topic_id != self.topic_id:
            what, theirs, ours = "input topic", checkpoint.topic_id, self.topic_id
        elif checkpoint.run != self.run and not self._stores.cutovers.allows(partition, checkpoint, self.run):
            what, theirs, ours = "run", checkpoint.run, self.run
        else:
            return
        raise InputError(
            f"the checkpoint of {self.stage.name} at seq {checkpoint.seq} is of {what} {theirs}, not {ours}",
            remedy="start a new line with --line, take this one over with `barograph tape cutover`, "
            "or make the tape again with --replace",
        )

    def refuse_trimmed(self, partition: int, offset: int, low: int) -> None:
        """Refuse to start where messages that the state needs have left the log; never jump over them.

        Args:
            partition: the partition.
            offset: last message that its state contains; -1 without a state.
            low: first offset that is still in the log.

        Raises:
            TrimmedError: some are missing.
        """
        if offset + 1 < low:
            raise TrimmedError(self.topic, partition, offset + 1, low - 1)

    # -- messages ----------------------------------------------------------------------------------------------------

    async def _take_some(self, owned: Owned, deliveries: Sequence[Delivery]) -> int:
        """Messages of a partition, as many as may be taken in one go; how many were done, at least one."""
        if self._suspects(owned, deliveries[0]):
            await self._take_alone(owned, deliveries[0])
            return 1
        done = 0
        if owned.attempts is not None:
            done = await self._in_thread(self._take_plain, owned, deliveries)
        if done < len(deliveries) and not self._suspects(owned, deliveries[done]):
            await self._take(owned, deliveries[done])
            done += 1
        return done

    @staticmethod
    def _suspects(owned: Owned, delivery: Delivery) -> bool:
        """Whether a message may be the one that processes died on."""
        return bool(owned.careful) and owned.state.place_of(read(delivery)[0])[0] > owned.shown

    async def _take_alone(self, owned: Owned, delivery: Delivery) -> None:
        """One message while nothing else in the process is tried, and its state stored: a process died near it."""
        async with self._alone:
            await self.checkpoint(owned)  # what was done at full speed before it is progress, and no part of a trial
            await self._take(owned, delivery)
            if owned.held and owned.whole:
                owned.careful -= 1
                await self.checkpoint(owned)
            if owned.held and owned.attempts is not None:  # tried and alive, but not stored: a root in parts
                await self._note(owned, NOWHERE)

    def _take_plain(self, owned: Owned, deliveries: Sequence[Delivery]) -> int:
        """In the thread: messages as long as there is nothing special about them; how many were done."""
        for done, delivery in enumerate(deliveries):
            message, unreadable = read(delivery)
            place = owned.state.place_of(message)
            if unreadable or place in owned.skips or owned.verdict(place):
                return done
            if owned.careful and place[0] > owned.shown:
                return done
            started_s, whole = self._clock.monotonic_s(), owned.whole
            owned.whole = False  # until its outputs are sent: a state that broke in the middle must never be stored
            try:
                outbox = owned.state.take(message)
            except (BrokenMessageError, HoleError):  # nothing has changed
                owned.whole = whole
                return done
            except (BarographError, OSError):
                raise
            except Exception as error:
                self._note_failure(owned, place, error)
                raise
            if outbox is not None:
                self._send(outbox)
            delivery.value = None
            self._taken(owned, delivery, message, started_s, whole if outbox is None else None)
        return len(deliveries)

    async def _take(self, owned: Owned, delivery: Delivery) -> None:
        """One message, whatever there is about it."""
        message, unreadable = read(delivery)
        original = Original(delivery.key or b"", tuple(delivery.headers or ()))
        delivery.value = None  # held until the checkpoint: without this every block since then stays in memory
        started_s, whole = self._clock.monotonic_s(), owned.whole
        owned.whole = False
        try:
            outbox = await self._apply(owned, message, unreadable, original)
        except HoleError as hole:
            self._forgive(owned, hole)
            owned.whole = whole
            return
        if outbox is not None:
            await self._in_thread(self._send, outbox)
        self._taken(owned, delivery, message, started_s, whole if outbox is None else None)

    def _taken(
        self, owned: Owned, delivery: Delivery, message: Message, started_s: float, repeat_of_whole: bool | None
    ) -> None:
        """Note that a message has had its effect, and its outputs are sent.

        Args:
            owned: its partition.
            delivery, message: the message.
            started_s: when work on it began.
            repeat_of_whole: of a repeat: whether the root before it was complete; else None.
        """
        beyond_hole = owned.hole is not None or delivery.offset > owned.taken + 1
        if repeat_of_whole is not None and beyond_hole:  # a repeat proves nothing about what the client left out
            owned.whole = repeat_of_whole
            return
        now_s = self._clock.monotonic_s()
        owned.held.append(delivery)
        owned.hole = None
        owned.taken, owned.timestamp_ms, owned.moved_s = delivery.offset, message.timestamp_ms, now_s
        if repeat_of_whole is not None:
            owned.whole = repeat_of_whole
            self._repeats.inc()
        else:
            owned.whole = owned.state.is_last(message)
            self._seconds.observe(now_s - started_s)
            self._records.inc(message.envelope.count)
            owned.records += (message.envelope.count - owned.records) * LATELY
        if owned.whole:
            owned.offset, owned.seq = max(owned.offset, delivery.offset), owned.state.sequence.next_seq - 1
            STAGE_SEQ.labels(self.stage.name, self.manifest.tape, str(owned.partition)).set(owned.seq)

    async def _apply(self, owned: Owned, message: Message, unreadable: str, original: Original) -> Outbox | None:
        """The outputs of a message, applied or skipped; None for a repeat."""
        if unreadable and self.stage.source is not MBO:
            raise BrokenMessageError(message, unreadable)  # its place is in its headers: nobody can tell what it is
        if owned.state.is_repeat(message):
            return None
        place = owned.state.place_of(message)
        skip = owned.skips.get(place)
        if skip is None and (reason := unreadable or owned.verdict(place)):
            skip = await self._write_skip(owned, message, reason)
        if skip is None:
            await self._note(owned, place)
            try:
                return await self._in_thread(owned.state.take, message)
            except BrokenMessageError as error:
                skip = await self._write_skip(owned, message, error.reason, error)
            except (BarographError, OSError):  # a hole, a conflict, a full disk: not this message's fault
                raise
            except Exception as error:
                await self._in_thread(self._note_failure, owned, place, error)
                raise
        for letter in letters(skip, message, original, self.stage.name, owned.state.place):
            self._producer.send(letter)
        await self._in_thread(self._flush)  # never a marker without its letter
        STAGE_SKIPS.labels(self.stage.name, self.manifest.tape).inc()
        return await self._in_thread(owned.state.take, message, skip.reason)

    async def _write_skip(self, owned: Owned, message: Message, reason: str, error: Exception | None = None) -> Skip:
        """Write down that a message is not applied, unless its outputs are there already.

        Raises:
            BarographError: an output topic shows what another attempt made of it.
        """
        for topic, first in owned.state.next_outputs(message).items():
            newest = await self._in_thread(self._producer.newest, topic, owned.partition)
            if newest is not None and newest >= first:
                raise BarographError(
                    f"offset {message.offset} of {message.topic}[{message.partition}] {reason}, but {topic} "
                    f"shows that it was applied before (seq {first[0]})",
                    remedy="find out what differs between the workers; it is not skipped",
                )
        (seq, part), known = owned.state.place_of(message), owned.known
        failed = error is None and known.failed_at == (seq, part)
        skip = Skip(
            seq=seq,
            part=part,
            reason=one_line(reason),
            topic=message.topic,
            offset=message.offset,
            instrument=message.instrument,
            error=known.error if failed else type(error).__name__ if error else "",
            trace=known.trace if failed else "".join(traceback.format_exception(error)) if error else "",
            attempts=max(1, known.failures if failed else known.deaths if error is None else 1),
            run=self.run,
        )
        log.error(
            "%s skips offset %d of %s[%d]: %s",
            self.stage.name, message.offset, self.topic, owned.partition, skip.reason,
        )  # fmt: skip
        owned.skips[seq, part] = written = await self._in_thread(owned.poison.write, skip)
        return written

    async def _note(self, owned: Owned, place: Place) -> None:
        """Write down that work begins, and, where workers died before, at which message."""
        if owned.attempts is None:
            attempts = owned.known.begun(owned.seq + 1)
        elif owned.known.careful:
            attempts = owned.attempts
        else:
            return
        if owned.known.careful:
            attempts = attempts.trying(NOWHERE if place[0] <= owned.shown else place)
        if attempts == owned.attempts:
            return
        owned.attempts = attempts
        try:
            await self._in_thread(owned.poison.note, owned.attempts)
        except OSError as error:  # a full disk must not stop what needs none
            log.warning("%s cannot note its attempts: %s", self.stage.name, error)

    def _note_failure(self, owned: Owned, place: Place, error: Exception) -> None:
        """In the thread: write down that the reducer failed, and how."""
        attempts, trace = owned.attempts or owned.known, "".join(traceback.format_exception(error))
        owned.poison.note(attempts.failed(place, type(error).__name__, trace))
        owned.attempts = None  # it leaves, and that is neither a death nor an orderly end

    def _forgive(self, owned: Owned, hole: HoleError) -> None:
        """Let a message out of place pass if it may be a left-over from before the assignment; it changed nothing."""
        if owned.held:
            raise hole
        if owned.hole is None:
            log.warning("%s; waiting for the seek to take effect", hole.message)
            owned.hole = hole, self._clock.monotonic_s()

    def _send(self, outbox: Outbox) -> None:
        """In the thread: hand outputs to the producer, which waits while it cannot take more."""
        with self._confirming():
            for message in outbox:
                self._producer.send(message)
                self._rows[message.topic].inc(message.envelope.count)

    def _flush(self) -> None:
        """In the thread: wait until all that was sent is confirmed."""
        with self._confirming():
            self._producer.flush()

    @contextmanager
    def _confirming(self) -> Iterator[None]:
        self.confirming += 1
        try:
            yield
        finally:
            self.confirming -= 1

    # -- checkpoints -------------------------------------------------------------------------------------------------

    async def checkpoint(self, owned: Owned) -> None:
        """Store the state of a partition and acknowledge its input. The caller holds the partition's lock.

        1. Every output sent so far is confirmed by the broker.
        2. The assignment is still the one the state belongs to; else leave: the new owner redoes it.
        3. The state is written: the pieces that changed, then the manifest under its offset, never below the newest.
        4. The held messages are acknowledged in order; the client commits them.
        5. Older manifests and what only they named are forgotten (the store does it as part of 3).
        """
        if not owned.held or not owned.whole:
            return  # nothing new, or in the middle of a root message's parts
        started_s = self._clock.monotonic_s()
        await self._in_thread(self._flush)  # 1
        if owned.generation != self._generation:  # 2
            return
        try:
            await self._in_thread(self._store, owned)  # 3, 5
        except OSError as error:  # a full disk, a store that is away: what was done stays held and is stored later
            log.warning("%s keeps its state in memory: %s", self.stage.name, error)
            owned.due_s = self._clock.monotonic_s() + self._timing.min_s
            return
        for delivery in owned.held:  # 4
            self._source.acknowledge(delivery)
        owned.held.clear()
        now_s = self._clock.monotonic_s()
        CHECKPOINT_SECONDS.labels(self.stage.name).observe(now_s - started_s)
        pause_s = (now_s - started_s) / CHECKPOINT_SHARE
        owned.due_s = now_s + min(self._timing.max_s, max(self._timing.min_s, pause_s))

    def _store(self, owned: Owned) -> None:
        pieces = owned.state.reducer.snapshot()
        checkpoint = Checkpoint(owned.offset, owned.seq, self.run, self.topic_id, self.stage.state_format)
        self._stores.checkpoints.save(owned.partition, checkpoint, pieces)


class TrimmedError(InputError):
    """Messages that a state needs have left the log.

    Args:
        topic, partition: where.
        first, last: the missing offsets, inclusive.
    """

    def __init__(self, topic: str, partition: int, first: int, last: int) -> None:
        self.topic, self.partition, self.first, self.last = topic, partition, first, last
        super().__init__(
            f"offsets {first} to {last} of {topic}[{partition}] have left the log before they were applied",
            remedy="make the tape again with --replace; nothing was skipped",
        )


def read(delivery: Delivery) -> tuple[Message, str]:
    """A delivered message, and what is wrong with its headers: empty if they can be read."""
    value = delivery.value or b""
    envelope, wrong = read_headers(delivery.headers, value)
    message = Message(
        topic=delivery.topic,
        partition=delivery.partition,
        offset=delivery.offset,
        timestamp_ms=int(delivery.timestamp * 1000),
        instrument=(delivery.key or b"").decode(errors="replace"),
        value=value,
        envelope=envelope,
    )
    return message, f"has headers that cannot be read ({wrong})" if wrong else ""
