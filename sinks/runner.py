"""The pipeline of every sink: consume, judge, batch, plan, write, advance.

One process serves one tape and line with one sink, all streams in one loop. There is no consumer group: partitions are
assigned explicitly and read from where the sink's own progress says. One batch is written at a time; meanwhile the next
is taken and judged, in a thread beside, so that this process and the store work at once. When that one is due as well,
nothing is consumed until the first is confirmed; Kafka keeps what waits and the client's queue is bounded, so memory is
too.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any, Final, Literal, get_args

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from runtime.clock import Clock, WallClock
from runtime.errors import BarographError
from runtime.kafka import consumer, to_message
from runtime.object_store import LocalObjectStore, ObjectStore, object_store_at
from runtime.sequence import Place, Sequence, Verdict
from runtime.tape_reader import first_seq
from runtime.tapes import Manifest, TapeStore
from runtime.telemetry import SINK_ROWS, SINK_SECONDS
from schemas.envelope import crc32
from schemas.message import Message
from sinks.base import Batch, Entry, Lane, Sink, StoppedError
from sinks.batcher import Batcher
from sinks.clickhouse import ClickHouseSink
from sinks.lake import LakeSink
from sinks.past import left_the_log
from sinks.progress import Progress, ProgressStore
from sinks.registers import following
from sinks.retry import patiently
from sinks.rows import BadMessageError
from sinks.tables import TABLES, TableSpec, tape_tables

log = logging.getLogger(__name__)

POLL_S: Final = 0.05
"""Longest wait for messages: how late a batch's age is noticed, and how long a stop takes."""

POLL_MESSAGES: Final = 16
"""Messages taken at once; at 4 MiB a message they are 64 MiB, which is what the client's own queue holds."""

BEHIND_AGE_S: Final = 5.0
"""Age at which a batch is due while more messages wait than are taken at once. Whoever is behind has no fresh rows to
show, and small blocks cost as much as large ones: with half a second, bins, trades and bars took half of a store's time
while raw rows waited. Longer would show in the lanes that are not behind."""

LOOK_S: Final = 0.5
"""How often the progress of a lane that another process writes is looked at."""

_PASSING: Final = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT})
_ABSENT: Final = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION})
"""What the client says of a topic that is not there: tapes of an older release lack topics of records."""

END_TIMEOUT_S: Final = 5.0
"""How long the broker may take to say where a topic ends; it takes milliseconds, and is asked again."""

Name = Literal["clickhouse", "lake"]
NAMES: Final[tuple[Name, ...]] = get_args(Name)
"""Every sink, in the order in which they are started and shown."""


@dataclass(frozen=True, slots=True)
class LaneReport:
    """How far a lane is.

    Attributes:
        stream, partition: which lane.
        rows: rows confirmed; of records, messages.
        next_place: place expected next.
        ended: instruments whose `end` is confirmed.
        behind: of records, which no `end` closes, messages that are published and not confirmed; -1 where that was
            not asked, because the tape goes on. None in lanes of rows.
    """

    stream: str
    partition: int
    rows: int
    next_place: Place
    ended: frozenset[str]
    behind: int | None = None


@dataclass(frozen=True, slots=True)
class SinkReport:
    """How far a sink is, in all lanes."""

    sink: str
    lanes: tuple[LaneReport, ...]

    @property
    def rows(self) -> dict[str, int]:
        """Confirmed rows by table."""
        out: dict[str, int] = {}
        for lane in self.lanes:
            out[lane.stream] = out.get(lane.stream, 0) + lane.rows
        return out

    def drained(self, partition_of: Mapping[str, int]) -> bool:
        """Whether the `end` of every instrument is confirmed in every stream of rows, and every record there is.

        Args:
            partition_of: instrument → partition, as the manifest has it; none at all is not drained.
        """
        done = {(lane.stream, lane.partition, name) for lane in self.lanes for name in lane.ended}
        streams = {lane.stream for lane in self.lanes if lane.behind is None}
        needed = {(stream, number, name) for stream in streams for name, number in partition_of.items()}
        return bool(needed) and needed <= done and not any(lane.behind for lane in self.lanes)


@dataclass(slots=True)
class _LaneState:
    """A lane under way: what is confirmed, what is expected next, what is held."""

    lane: Lane
    manifest: Manifest
    base: int
    progress: Progress
    sequence: Sequence
    batcher: Batcher
    entries: list[Entry] = field(default_factory=list)
    log_start: int = 0

    def start(self) -> TopicPartition:
        """Where Kafka is read from: after what is confirmed, or where its log begins if the lake gave the rest."""
        offset = max(self.progress.offset, self.log_start)
        return TopicPartition(self.lane.topic, self.lane.partition, offset or OFFSET_BEGINNING)

    def take(self, message: Message, now_s: float) -> None:
        """Judge a message; if it is the expected one, hold it.

        Raises:
            HoleError: messages before it are missing.
            ConflictError: it was there before, with other bytes.
            BadMessageError: its bytes are not those that its producer sent.
        """
        envelope = message.envelope
        by_offset = self.lane.table.by_offset
        seq, part = (message.offset + self.base, 0) if by_offset else (envelope.seq, envelope.part)
        last = by_offset or envelope.last
        verdict = self.sequence.check(seq, part, last=last, run=envelope.run, crc32=envelope.crc32)
        if verdict is Verdict.REPEAT:
            return
        rooted = self.lane.table.topic.rooted  # a deletion's numbers are those of raw messages; records have their own
        entry = Entry(message, seq, part, rooted and self.manifest.deletes(self.lane.partition, seq, message))
        if not entry.deleted:
            self._examine(entry)
        self.entries.append(entry)
        self.batcher.add(entry.rows, len(message.value), now_s, urgent=envelope.kind == "end" and last)

    def _examine(self, entry: Entry) -> None:
        """Refuse derived bytes that are not those sent; of others, which the lake keeps as they are, only say so."""
        message, envelope, by_offset = entry.message, entry.message.envelope, self.lane.table.by_offset
        if by_offset and entry.rows < envelope.count and message.value and envelope.schema != "definition":
            log.warning("offset %d of %s is not what its headers say; it gives no rows", message.offset, message.topic)
        elif not by_offset and crc32(message.value) != envelope.crc32:
            raise BadMessageError(entry, "the value does not have the checksum that its header gives")

    def due(self, now_s: float, *, behind: bool = False) -> bool:
        """Whether to write now: where the plan ends if there is one, else as the batcher says."""
        plan = self.progress.plan
        if plan is None:
            return self.batcher.due(now_s, BEHIND_AGE_S if behind else 0.0)
        return bool(self.entries) and (self.entries[-1].seq, self.entries[-1].part) == plan[1]

    def must_write(self) -> bool:
        """Whether no further message may join the batch."""
        return self.batcher.full() if self.progress.plan is None else self.due(0.0)


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """The batch that is being written: its lane, what is expected after it, and how it ends."""

    state: _LaneState
    batch: Batch
    next_place: Place
    written: "Future[None]"


class SinkRunner:
    """One sink on one tape and line.

    Args:
        sink: where batches go.
        manifest: the tape; its partitions, bases and topic ids are used.
        line: the line.
        bootstrap_servers: Kafka.
        state: folder of locks and progress.
        clock: age of batches.
        open_consumer: makes the Kafka client from the servers' addresses.
        tables: what is read.
        progress: where progress is kept if not in `state`.
        lake: what has left Kafka's log is read from here; None: its absence is an error.
        ahead: whether the next batch is taken while one is written.
    """

    def __init__(
        self,
        sink: Sink,
        manifest: Manifest,
        line: str,
        bootstrap_servers: str,
        state: LocalObjectStore,
        clock: Clock | None = None,
        open_consumer: Callable[[str], Any] = consumer,
        tables: Iterable[TableSpec] = tuple(TABLES.values()),
        progress: ObjectStore | None = None,
        *,
        lake: ObjectStore | None = None,
        ahead: bool = False,
    ) -> None:
        self._sink = sink
        self._writer = ThreadPoolExecutor(1, "writer") if ahead else None
        self._under_way: _UnderWay | None = None
        self._manifest = manifest
        self._line = line
        self._bootstrap_servers = bootstrap_servers
        self._state, self._progress, self._lake = state, progress or state, lake
        self._clock = clock or WallClock()
        self._open_consumer = open_consumer
        self._lanes: dict[tuple[str, int], _LaneState] = {}
        self._followed: list[Lane] = []
        self._told: SinkReport | None = None
        self._look_at_s = 0.0
        self._tables = tuple(tables)
        self._records = {table.topic_name(manifest.tape, line) for table in self._tables if table.record}
        self._ends: dict[tuple[str, int], int] = {}
        self._ask_at_s = 0.0

    def run(self, stop: Event, on_progress: Callable[[SinkReport], None] | None = None) -> None:
        """Serve until `stop` is set. What is held then is read again next time.

        When this raises it has set `stop`, so that a write that still waits for its target ends too.

        Raises:
            BarographError: a hole, a conflict, a message or a target that cannot go on.
        """
        try:
            # 1. Make the target ready; its identity names our progress.
            identity = self._sink.open(stop)
            with closing(ProgressStore(self._progress, self._sink.name, identity, self._state, stop)) as store:
                # 2. Claim the lanes, and read each from where its progress says.
                self._claim_lanes(store)
                with closing(self._open_consumer(self._bootstrap_servers)) as client:
                    self._take_past(client, store, stop)
                    client.assign([state.start() for state in self._lanes.values()])
                    while not stop.is_set():
                        # 3. Take what there is; judge each message: repeats go, holes stop us, the rest is held.
                        found = client.consume(POLL_MESSAGES, POLL_S)
                        for raw in found:
                            if (message := self._usable(raw)) is None:
                                continue
                            state = self._lanes[message.topic, message.partition]
                            state.take(message, self._clock.monotonic_s())
                            if state.must_write():
                                self._write(state, store, stop)
                        # 4. Write what is old enough or ended: plan, write, advance.
                        for state in self._lanes.values():
                            if state.due(self._clock.monotonic_s(), behind=len(found) == POLL_MESSAGES):
                                self._write(state, store, stop)
                        self._advance(store, wait=False)
                        # 5. Tell how far we are.
                        self._ask_ends(client)
                        self._tell(store, on_progress, stop)
                    self._advance(store)
        except StoppedError:
            log.info("%s stopped while it waited for its target; it will do the same again", self._sink.name)
        except BaseException:
            stop.set()
            raise
        finally:
            if self._writer is not None:
                self._writer.shutdown()
            self._sink.close()

    def _claim_lanes(self, store: ProgressStore) -> None:
        manifest = self._manifest
        for table in self._tables:
            for partition in range(manifest.partitions):
                lane = Lane(manifest.tape, manifest.tape_id, self._line, table, partition)
                if store.claim(lane):
                    self._lanes[lane.topic, partition] = self._state_of(lane, store)
                elif table.by_offset:
                    self._followed.append(lane)
                else:
                    raise BarographError(
                        f"another {self._sink.name} sink writes {lane.topic}[{partition}]",
                        remedy="use that one or stop it",
                    )

    def _state_of(self, lane: Lane, store: ProgressStore) -> _LaneState:
        table, base = lane.table, first_seq(lane.table.topic, self._manifest, lane.partition)
        topic_id = self._manifest.topic_ids.get(lane.topic, "")
        progress = store.load(lane) or Progress(seq=base, topic_id=topic_id)
        if progress.topic_id != topic_id:
            progress = self._on_new_topic(progress, topic_id, lane)
        if table.record:  # numbers and offsets go side by side as long as the topic is the same
            base = progress.seq - progress.offset
        where = f"{lane.topic}[{lane.partition}]"
        return _LaneState(
            lane,
            self._manifest,
            base,
            progress,
            Sequence(where, progress.seq, progress.part),
            Batcher(self._sink.limits),
        )

    def _on_new_topic(self, progress: Progress, topic_id: str, lane: Lane) -> Progress:
        """Where a lane goes on that was read from another topic.

        What descends from raw messages has the same numbers in every topic, and what comes again is dropped. Records
        have the numbers that their topic gave them. What a new one holds behind the part that was filled again as it
        was are others: they get the numbers after all that may be stored, or they would pass for those of the old
        topic, of which this sink may have stored more than the lake that the new one was filled from.
        """
        if not lane.table.record:
            return replace(progress, offset=0, topic_id=topic_id)
        filled = self._manifest.restored.get(topic_id, ())
        known = filled[lane.partition] if filled else 0
        seq = progress.plan[1][0] + 1 if progress.plan else progress.seq
        if progress.offset + seq - progress.seq <= known:
            return replace(progress, topic_id=topic_id)
        return replace(progress, offset=min(progress.offset, known), topic_id=topic_id, seq=seq, part=0, plan=None)

    def _write(self, state: _LaneState, store: ProgressStore, stop: Event) -> None:
        """Write what a lane holds, so that a crash at any point is mended by doing the same again."""
        self._advance(store)
        batch = Batch(state.lane, tuple(state.entries), repeat=state.progress.plan is not None)
        # 1. Write down the range, so that a repeat is the same batch under the same name.
        store.save(state.lane, state.progress.planning(batch))
        state.progress = replace(state.progress, plan=None)  # what is held next is another batch
        # 2. Write the data, and wait until it is confirmed; meanwhile the next batch is taken.
        written: Future[None] = Future()
        if self._writer is not None:
            written = self._writer.submit(self._write_data, batch, stop)
        else:
            self._write_data(batch, stop)
            written.set_result(None)
        self._under_way = _UnderWay(state, batch, (state.sequence.next_seq, state.sequence.next_part), written)
        state.entries.clear()
        state.batcher.clear()
        # 3. Advance.
        self._advance(store, wait=self._writer is None)

    def _write_data(self, batch: Batch, stop: Event) -> None:
        started = time.perf_counter()
        self._sink.write(batch, stop)
        SINK_SECONDS.labels(self._sink.name).observe(time.perf_counter() - started)
        SINK_ROWS.labels(self._sink.name, batch.lane.table.name).inc(batch.rows)

    def _advance(self, store: ProgressStore, *, wait: bool = True) -> None:
        """Note that the batch under way is confirmed, if there is one; without `wait` only if it is by now."""
        one = self._under_way
        if one is None or not (wait or one.written.done()):
            return
        self._under_way = None
        one.written.result()
        one.state.progress = one.state.progress.after(one.batch, one.next_place)
        store.save(one.state.lane, one.state.progress)

    def _take_past(self, client: Any, store: ProgressStore, stop: Event) -> None:
        """What has left Kafka's log, from the lake, as if Kafka had delivered it; then Kafka goes on from there."""
        if self._lake is None:
            return
        for state in self._lanes.values():
            state.log_start = self._log_start(client, state.lane)
            if state.log_start <= state.progress.offset:
                continue
            past = left_the_log(
                self._lake, self._manifest, state.lane, state.progress.next_place, self._bootstrap_servers,
                state.log_start,
            )  # fmt: skip
            for message in past:
                if stop.is_set():
                    return
                state.take(message, self._clock.monotonic_s())
                if state.must_write():
                    self._write(state, store, stop)

    def _log_start(self, client: Any, lane: Lane) -> int:
        """First offset of a lane's log; 0 where there is no such topic or no answer, which reading it will tell of."""
        try:
            low, _ = client.get_watermark_offsets(TopicPartition(lane.topic, lane.partition), timeout=END_TIMEOUT_S)
        except KafkaException as error:
            log.info("where the log of %s starts is not known: %s", lane.topic, error.args[0].str())
            return 0
        return int(low)

    def _ask_ends(self, client: Any) -> None:
        """Once instruments end, learn where the topics of records do: nothing in them says so."""
        now_s = self._clock.monotonic_s()
        if not self._records or now_s < self._ask_at_s or not any(s.progress.ended for s in self._lanes.values()):
            return
        self._ask_at_s = now_s + LOOK_S
        for topic in self._records:
            for partition in range(self._manifest.partitions):
                try:
                    _, end = client.get_watermark_offsets(TopicPartition(topic, partition), timeout=END_TIMEOUT_S)
                    self._ends[topic, partition] = end
                except KafkaException as error:
                    if error.args[0].code() in _ABSENT:
                        self._ends[topic, partition] = 0

    def _report(self, lane: Lane, done: Progress) -> LaneReport:
        behind = None
        if lane.table.record:
            end = self._ends.get((lane.topic, lane.partition))
            behind = -1 if end is None else max(0, end - done.offset)
        return LaneReport(lane.table.name, lane.partition, done.rows, done.next_place, done.ended, behind)

    def _usable(self, raw: Any) -> Message | None:
        """The message, or None for an error that the client mends by itself.

        Raises:
            BarographError: an error that stays.
        """
        error = raw.error()
        if error is not None:
            if error.code() in _ABSENT and raw.topic() in self._records:
                log.info("there is no topic %s: nothing was said there", raw.topic())
                return None
            if error.retriable() or error.code() in _PASSING:
                log.warning("reading %s: %s", raw.topic(), error.str())
                return None
        return to_message(raw)

    def _tell(self, store: ProgressStore, on_progress: Callable[[SinkReport], None] | None, stop: Event) -> None:
        if on_progress is None:
            return
        reports = [self._report(state.lane, state.progress) for state in self._lanes.values()]
        now_s = self._clock.monotonic_s()
        if self._followed and now_s < self._look_at_s:
            return
        self._look_at_s = now_s + LOOK_S
        for lane in self._followed:
            reports.append(self._report(lane, store.load(lane) or Progress()))
        report = SinkReport(self._sink.name, tuple(reports))
        if report != self._told:
            self._told = report
            patiently(lambda: on_progress(report), "telling how far it is", stop)  # its disk may be full too


def run_sink(
    name: Name,
    manifest: Manifest,
    line: str,
    *,
    bootstrap_servers: str,
    target: str,
    state_dir: Path,
    stop: Event,
    on_progress: Callable[[SinkReport], None] | None = None,
    lake: str = "",
) -> None:
    """Fill ClickHouse or the lake from the topics of a tape and line until `stop` is set.

    Args:
        name: which sink.
        manifest: the tape.
        line: the line.
        bootstrap_servers: Kafka.
        target: ClickHouse's address (`http://host:port`), or the lake's folder or URL.
        state_dir: folder of locks and progress; a lake in a bucket keeps progress itself, and a copy is here.
        stop: set it to make this return.
        on_progress: called from this thread at the start and whenever more is confirmed.
        lake: for ClickHouse: folder or URL of the lake, which has what left Kafka's log; empty: none.

    Raises:
        BarographError: a hole, a conflict, a message or a target that cannot go on.
    """
    states = LocalObjectStore(state_dir)
    if name == "lake":
        objects = object_store_at(target)
        try:
            patiently(lambda: TapeStore(objects).save_copy(manifest), f"manifest of {manifest.tape}", stop)
        except StoppedError:
            return
        progress = None if isinstance(objects, LocalObjectStore) else objects
        runner = SinkRunner(
            LakeSink(objects), manifest, line, bootstrap_servers, states, tables=tape_tables(), progress=progress,
            ahead=True,
        )  # fmt: skip
        runner.run(stop, on_progress)
        return
    with following(bootstrap_servers, target):
        runner = SinkRunner(
            ClickHouseSink(target), manifest, line, bootstrap_servers, states, tables=tape_tables(),
            lake=object_store_at(lake) if lake else None, ahead=True,
        )  # fmt: skip
        runner.run(stop, on_progress)
