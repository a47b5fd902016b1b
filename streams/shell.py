"""The stage shell: Faust around a reducer. Assignment, messages, checkpoints; nothing of what a stage computes.

Delivery in one paragraph: outputs are sent by an idempotent producer before the state that contains them is stored,
and input is acknowledged after that. A crash in between makes the next owner redo the work from the stored state and
send the same bytes under the same (`seq`, `part`) again, which consumers drop. A worker that was paused and wakes up
late can only do the same. So every message has its effect once.

Faust would acknowledge on its own, also when the agent fails, and it commits past holes; therefore streams are read
with `noack`, all messages since the last checkpoint are held (their values released), and they are acknowledged in
order by `checkpoint`. CPU work runs in a thread (numba releases the interpreter lock), so heartbeats never wait.
"""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, cast

import faust
import mode

from runtime.clock import Clock
from runtime.errors import BarographError, InputError
from runtime.kafka import CheckedProducer
from runtime.sequence import HoleError
from runtime.tapes import Manifest
from runtime.telemetry import CHECKPOINT_SECONDS, STAGE_RECORDS, STAGE_REPEATS, STAGE_ROWS, STAGE_SECONDS, STAGE_SEQ
from schemas.envelope import from_headers
from schemas.message import Message, Outgoing
from streams.checkpoints import Checkpoint, CheckpointStore
from streams.faust_consumer import Consumer
from streams.partition import PartitionState, Place
from streams.reducer import Stage

log = logging.getLogger(__name__)

CHECKPOINT_SHARE: Final = 0.05
"""Part of the time that checkpoints may take. A checkpoint of 50 ms is then written once a second at most."""

HOLE_PATIENCE_S: Final = 10.0
"""How long messages out of place are forgiven after an assignment: what was buffered before it comes again, in order,
once the seek takes effect, within milliseconds. A hole that stays is real and is refused after this long; with much
less, a machine under full load would stop a worker for nothing."""


@dataclass(slots=True)
class Owned:
    """A partition that this worker owns, as of one assignment.

    Attributes:
        generation: the assignment; an older one is dropped.
        state: reducer and place.
        held: messages applied since the last checkpoint, not acknowledged.
        offset, seq: the last message whose root is complete; -1 before the first.
        whole: whether the last message applied completed its root; in between, no checkpoint is taken.
        hole: the first message out of place since the assignment, and when; None if all were in order.
        due_s: when the next checkpoint may be written.
    """

    generation: int
    state: PartitionState
    offset: int
    seq: int
    due_s: float
    whole: bool = True
    held: list[Any] = field(default_factory=list)
    hole: tuple[HoleError, float] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Timing:
    """Shortest and longest time between checkpoints, seconds."""

    min_s: float = 1.0
    max_s: float = 30.0


class StageShell:
    """One stage of one tape and line in one Faust app.

    Args:
        app: the app; the shell registers its agent, timer and hooks.
        stage: what to compute.
        manifest: the tape.
        line: the line; its `run` must be in the manifest.
        producer: where outputs go.
        checkpoints: where states are kept.
        clock: for time-outs.
        timing: checkpoint interval.
    """

    def __init__(
        self,
        app: faust.App,
        stage: Stage,
        manifest: Manifest,
        line: str,
        producer: CheckedProducer,
        checkpoints: CheckpointStore,
        clock: Clock,
        timing: Timing,
    ) -> None:
        self.app, self.stage, self.manifest, self.line = app, stage, manifest, line
        self.run = manifest.lines[line].run
        self.source = stage.source.name(manifest.tape, line)
        self.topic_id = manifest.topic_ids.get(self.source, "")
        self._producer, self._checkpoints, self._clock, self._timing = producer, checkpoints, clock, timing
        self._generation = 0
        self._owned: dict[int, Owned] = {}
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=f"{stage.name}-apply")
        for partition in range(manifest.partitions):
            self._load(partition)  # refuse foreign checkpoints before anything starts
        topic = app.topic(self.source, value_serializer="raw", key_serializer="raw")
        app.agent(
            topic,
            name=stage.name,
            isolated_partitions=True,  # one actor per partition, in order
            concurrency=1,
            supervisor_strategy=mode.CrashingSupervisor,  # the default leaves a failed partition silently stuck
        )(self._run)
        app.timer(min(0.25, timing.min_s))(self._tick)
        signals: Any = app  # Faust types its signals too narrowly for handlers that ignore what they are sent
        signals.on_rebalance_complete.connect(self._on_assigned, weak=False)
        signals.on_partitions_revoked.connect(self._on_leaving, weak=False)
        signals.on_before_shutdown.connect(self._on_leaving, weak=False)

    async def _on_assigned(self, _app: faust.App, **_: Any) -> None:
        """After every assignment, before Faust seeks: load each partition's newest state and start right after it."""
        self._generation += 1
        mine = [tp for tp in self.app.consumer.assignment() if tp.topic == self.source]
        self._owned = {tp.partition: self._load(tp.partition) for tp in mine}
        starts = {tp: self._owned[tp.partition].offset + 1 for tp in mine}
        others = {tp: offset for tp, offset in Consumer.start_at.items() if tp.topic != self.source}
        Consumer.start_at = {**others, **starts}
        if starts:
            await cast("Any", self.app.consumer)._commit(starts)
        log.info("%s owns %s", self.stage.name, {tp.partition: offset for tp, offset in starts.items()})

    async def _on_leaving(self, _app: faust.App, *_: Any, **__: Any) -> None:
        """Partitions go to another worker, or this one stops: store what was done, so that nobody has to redo it."""
        for owned in list(self._owned.values()):
            try:
                async with owned.lock:
                    await self.checkpoint(owned)
            except BarographError as error:  # the others still can; whoever comes next redoes this one
                log.warning("leaving without a checkpoint: %s", error)

    def _load(self, partition: int) -> Owned:
        base = self.manifest.base[partition]
        place = Place(self.manifest.tape, self.line, partition, base, self.run)
        reducer = self.stage.reducer()
        loaded = self._checkpoints.load(partition)
        offset, seq = -1, base - 1
        if loaded is not None:
            checkpoint, pieces = loaded
            self._refuse_foreign(checkpoint)
            reducer.restore(pieces)
            offset, seq = checkpoint.offset, checkpoint.seq
        due_s = self._clock.monotonic_s() + self._timing.min_s
        return Owned(self._generation, PartitionState(self.stage, place, reducer, seq + 1), offset, seq, due_s)

    def _refuse_foreign(self, checkpoint: Checkpoint) -> None:
        for what, theirs, ours in (
            ("run", checkpoint.run, self.run),
            ("input topic", checkpoint.topic_id, self.topic_id),
        ):
            if theirs != ours:
                raise InputError(
                    f"the checkpoint of {self.stage.name} at seq {checkpoint.seq} is of {what} {theirs}, not {ours}",
                    remedy="start a new line with --line, or make the tape again with --replace",
                )

    async def _run(self, stream: Any) -> None:
        """The agent: one message at a time of one partition."""
        async for event in stream.noack().events():
            owned = self._owned.get(event.message.partition)
            if owned is not None:
                async with owned.lock:
                    if owned.generation == self._generation:
                        await self._take(owned, event.message)

    async def _take(self, owned: Owned, raw: Any) -> None:
        message = _parse(raw)
        raw.value = None  # held until the checkpoint: without this every block since then stays in memory
        started_s, whole = self._clock.monotonic_s(), owned.whole
        owned.whole = False  # until its outputs are sent: a state that broke in the middle must never be stored
        try:
            outgoing = await self._in_thread(owned.state.take, message)
        except HoleError as hole:
            self._forgive(owned, hole)
            owned.whole = whole
            return
        owned.held.append(raw)
        owned.hole = None
        if outgoing is None:
            owned.whole = whole
            STAGE_REPEATS.labels(self.stage.name, self.manifest.tape).inc()
        else:
            await self._in_thread(self._send, outgoing)
            STAGE_SECONDS.labels(self.stage.name).observe(self._clock.monotonic_s() - started_s)
            STAGE_RECORDS.labels(self.stage.name, self.manifest.tape).inc(message.envelope.count)
            owned.whole = message.envelope.last
        if owned.whole:
            owned.offset, owned.seq = max(owned.offset, raw.offset), owned.state.sequence.next_seq - 1
            STAGE_SEQ.labels(self.stage.name, self.manifest.tape, str(raw.partition)).set(owned.seq)
            if self._clock.monotonic_s() >= owned.due_s:
                await self.checkpoint(owned)

    def _forgive(self, owned: Owned, hole: HoleError) -> None:
        """Let a message out of place pass if it may be a left-over from before the assignment; it changed nothing."""
        if owned.held:
            raise hole
        if owned.hole is None:
            log.warning("%s; waiting for the seek to take effect", hole.message)
            owned.hole = hole, self._clock.monotonic_s()

    def _send(self, outgoing: list[Outgoing]) -> None:
        for message in outgoing:
            self._producer.send(message)
            STAGE_ROWS.labels(self.stage.name, message.topic).inc(message.envelope.count)

    async def _tick(self) -> None:
        """A quiet partition gets its checkpoint too, and a hole that stays is refused."""
        for owned in list(self._owned.values()):
            if owned.hole is not None and self._clock.monotonic_s() > owned.hole[1] + HOLE_PATIENCE_S:
                raise owned.hole[0]
            if owned.held and not owned.lock.locked() and self._clock.monotonic_s() >= owned.due_s:
                async with owned.lock:
                    await self.checkpoint(owned)

    async def checkpoint(self, owned: Owned) -> None:
        """Store the state of a partition and acknowledge its input. The caller holds the partition's lock.

        1. Every output sent so far is confirmed by the broker.
        2. The assignment is still the one the state belongs to; else leave: the new owner redoes it.
        3. The state is written: pieces, then the manifest under its offset, never below the newest.
        4. The held messages are acknowledged in order; Faust commits them.
        """
        if not owned.held or not owned.whole:
            return  # nothing new, or in the middle of a root message's parts
        started_s = self._clock.monotonic_s()
        await self._in_thread(self._producer.flush)  # 1
        if owned.generation != self._generation:  # 2
            return
        pieces = await self._in_thread(owned.state.reducer.snapshot)  # 3
        checkpoint = Checkpoint(owned.offset, owned.seq, self.run, self.topic_id, {})
        await self._in_thread(self._checkpoints.save, owned.state.place.partition, checkpoint, pieces)
        for message in owned.held:  # 4
            self.app.consumer.ack(message)
        owned.held.clear()
        now_s = self._clock.monotonic_s()
        CHECKPOINT_SECONDS.labels(self.stage.name).observe(now_s - started_s)
        pause_s = (now_s - started_s) / CHECKPOINT_SHARE
        owned.due_s = now_s + min(self._timing.max_s, max(self._timing.min_s, pause_s))

    async def _in_thread(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)


def _parse(raw: Any) -> Message:
    return Message(
        topic=raw.topic,
        partition=raw.partition,
        offset=raw.offset,
        timestamp_ms=int(raw.timestamp * 1000),
        instrument=(raw.key or b"").decode(),
        value=raw.value or b"",
        envelope=from_headers(raw.headers if not isinstance(raw.headers, dict) else raw.headers.items()),
    )
