"""From Kafka to the hub: the tails of the derived topics of every tape and line, listed anew every few seconds.

A thread of its own consumes and decodes; decoded messages cross to the event loop in batches, and the next batch is not
fetched before the last was taken over, so a busy loop slows the reading and nothing piles up between them.

    list tapes ─► assign tails ─► consume ─► sequence rule ─► decode ─► event loop: hub.publish
       ▲  every 5 s                              │ hole: told as a gap, reading goes on behind it
       └──────────── errors of a partition: it is dropped and found again by the next listing
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from runtime.errors import BarographError, MissingServiceError
from runtime.kafka import consumer, to_message, watermarks
from runtime.object_store import object_store_at
from runtime.sequence import ConflictError, HoleError, Sequence, Verdict
from runtime.tapes import Manifest, TapeStore
from schemas.columns import ColumnError
from schemas.message import Message
from schemas.topics import TopicSpec
from ws_gateway import catalogue, metrics
from ws_gateway.decode import UNREADABLE, block_of
from ws_gateway.fanout import Gap, Hub, Name, Tape
from ws_gateway.frames import Block

log = logging.getLogger(__name__)

LIST_S: Final = 5.0
"""How often tapes and lines are listed. A new tape appears to clients within it; a listing reads a few small files."""

TAIL_MESSAGES: Final = 256
"""Messages read back from the end of each partition at first, so that a page opened after a restart has something to
show. A live message is a bin or two, one of a fast replay may be 4 MiB; more would make starting slow."""

CONSUME_MAX: Final = 64
CONSUME_S: Final = 0.05
"""Messages taken, and time waited, per round; both bound how late a stop or a listing is noticed."""

HAND_OVER_S: Final = 1.0
"""How long one wait for the event loop lasts before stopping is looked at again."""

METADATA_S: Final = 5.0
"""How long the broker may take to list its topics; what is not listed is looked for at the next listing."""


@dataclass(slots=True)
class Source:
    """One partition of one derived topic that is being read.

    Attributes:
        tape, tape_id, line, spec: what it belongs to.
        sequence: the consumer's rule; None until the first message anchors it. Records have none, only offsets.
        next_offset: what to go on with after an interruption; None before the first message.
    """

    tape: str
    tape_id: str
    line: str
    spec: TopicSpec
    where: str
    sequence: Sequence | None = None
    next_offset: int | None = None

    def name(self, instrument: str) -> Name:
        """The channel of an instrument of this source."""
        return Name(self.tape, self.line, self.spec.stream, instrument)


@dataclass(frozen=True, slots=True)
class Heard:
    """One message for the hub: an empty block (`block.rows == 0`) only says that time passed."""

    name: Name
    block: Block
    gap: Gap | None = None
    end: bool = False


def judge(source: Source, message: Message) -> tuple[bool, Gap | None]:
    """Apply the consumer's rule: whether the message is new, and the gap before it if there is one.

    Raises:
        ConflictError: two writers disagree about the same place.
    """
    e = message.envelope
    if not source.spec.rooted:
        return source.next_offset is None or message.offset >= source.next_offset, None
    if source.sequence is None:
        source.sequence = Sequence(source.where, e.seq, e.part)
    try:
        verdict = source.sequence.check(e.seq, e.part, last=e.last, run=e.run, crc32=e.crc32)
    except HoleError as hole:
        metrics.HOLES.inc()
        log.error("%s", hole)
        source.sequence.next_seq, source.sequence.next_part = e.seq, e.part
        source.sequence.check(e.seq, e.part, last=e.last, run=e.run, crc32=e.crc32)
        return True, Gap(hole.expected[0], e.seq, "messages are missing in the topic")
    return verdict is Verdict.ACCEPT, None


def block_or_gap(source: Source, message: Message, place: tuple[int, int]) -> tuple[Block, Gap | None]:
    """The rows of a message, or an empty block and the reason, for bytes that are not what they should be."""
    try:
        return block_of(message, catalogue.of_topic(source.spec)), None
    except ColumnError as error:
        reason, schema = f"rows are of another form: {error}", True
        log.error("%s: offset %d: %s", source.where, message.offset, error)
    except UNREADABLE as error:
        reason, schema = "a message cannot be read", False
        log.error("%s: offset %d: %s", source.where, message.offset, error)
    seq, part = place
    empty = Block(seq, part, {}, 0, message.envelope.arrived, message.envelope.t)
    return empty, Gap(seq, seq + 1, reason, schema)


@dataclass
class KafkaFeeder:
    """Reads every derived topic and feeds a hub.

    Args:
        bootstrap_servers: Kafka brokers.
        state: where the tape manifests lie: a folder or a URL.
        loop: the event loop on whose thread the hub lives.
    """

    bootstrap_servers: str
    state: str | Path
    loop: asyncio.AbstractEventLoop
    _ready: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)
    _taken: threading.Event = field(default_factory=threading.Event)
    _sources: dict[tuple[str, int], Source] = field(default_factory=dict)
    _left: dict[tuple[str, int], Source] = field(default_factory=dict)
    _thread: threading.Thread | None = None

    @property
    def ready(self) -> bool:
        """Whether tapes were listed and their tails assigned once."""
        return self._ready

    def start(self, hub: Hub, on_failure: Callable[[Exception], None]) -> None:
        """Begin to read; called on the event loop's thread."""
        self._hub, self._on_failure = hub, on_failure
        self._tapes = TapeStore(object_store_at(self.state))
        self._thread = threading.Thread(target=self._run, name="gateway-feeder", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it; not to be called on the event loop's thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    # ---- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        client = consumer(self.bootstrap_servers)
        listed = float("-inf")
        try:
            while not self._stop.is_set():
                if time.monotonic() - listed >= LIST_S:
                    client = self._list(client)
                    listed = time.monotonic()
                heard = [h for raw in _consume(client) if (h := self._take(client, raw))]
                if heard:
                    self._hand_over(heard)
        except Exception as error:
            log.exception("reading from Kafka ended")
            self._call(self._on_failure, error)  # a gateway that shows nothing new must not look healthy
        finally:
            client.close()

    def _list(self, client: Consumer) -> Consumer:
        """Look which tapes and lines exist; leave what went, take up what came.

        Returns:
            The client to go on with: a new one where a tape was made again. The old one knows the leader epochs of the
            deleted topics, which count up with each restart of the broker; it would ignore the new topic of the same
            name, whose epoch is lower, without a word.
        """
        manifests = [m for name in self._tapes.names() if (m := self._tapes.load(name))]
        wanted = {key: source for m in manifests for key, source in _sources_of(m)}
        known = {**self._left, **self._sources}
        again = [key for key, now in wanted.items() if key in known and known[key].tape_id != now.tape_id]
        for key in list(self._sources):
            if again or key not in wanted:
                self._leave(client, key)
        if again:
            client.close()
            client = consumer(self.bootstrap_servers)
        catalogue = {m.tape: _catalogue_of(m) for m in manifests}
        aliases = {name: (alias.tape, alias.line) for name, alias in self._tapes.aliases().items()}
        self._call(partial(self._hub.set_tapes, catalogue), aliases)
        missing = {key: source for key, source in wanted.items() if key not in self._sources}
        there = _topics(client) if missing else frozenset()
        for key, source in missing.items():
            if key[0] in there:
                self._take_up(client, key, source)
        self._ready = True
        return client

    def _take_up(self, client: Consumer, key: tuple[str, int], source: Source) -> None:
        left = self._left.get(key)
        known = left.next_offset if left and left.tape_id == source.tape_id else None
        try:
            low, high = watermarks(client, *key)
            start = high - TAIL_MESSAGES if known is None else known  # what came meanwhile is no hole
            client.incremental_assign([TopicPartition(*key, max(low, min(start, high)))])
        except (KafkaException, MissingServiceError) as error:
            log.info("%s[%d] cannot be read yet: %s", *key, error)  # made a moment later, or the broker is away
            return
        left = self._left.pop(key, None)
        if left and left.tape_id == source.tape_id:
            source.sequence, source.next_offset = left.sequence, left.next_offset  # what was shown is a repeat now
        self._sources[key] = source

    def _leave(self, client: Consumer, key: tuple[str, int]) -> None:
        with suppress(KafkaException):
            client.incremental_unassign([TopicPartition(*key)])
        if key in self._sources:
            self._left[key] = self._sources.pop(key)

    def _take(self, client: Consumer, raw: Any) -> Heard | None:
        """What one consumed message means for the hub; None for repeats, and for faults, which are logged."""
        key = (raw.topic(), raw.partition())
        source = self._sources.get(key)
        if source is None:
            return None
        try:
            message = to_message(raw)
            new, gap = judge(source, message)
        except ConflictError:
            log.exception("%s is no longer read", source.where)
            with suppress(KafkaException):
                client.incremental_unassign([TopicPartition(*key)])
            return None
        except BarographError as error:
            log.error("%s: %s", source.where, error)
            self._leave(client, key)  # the next listing takes it up again where it was
            return None
        except ValueError as error:
            log.error("%s: offset %s: %s", source.where, raw.offset(), error)  # not ours; the next one tells the hole
            return None
        source.next_offset = message.offset + 1
        if not new:
            return None
        e = message.envelope
        place = (message.offset, 0) if not source.spec.rooted else (e.seq, e.part)
        block, unread = block_or_gap(source, message, place)
        metrics.ROWS.labels(source.spec.stream).inc(block.rows)
        return Heard(source.name(message.instrument), block, unread or gap, e.kind == "end" and e.last)

    def _hand_over(self, heard: list[Heard]) -> None:
        """Give the messages to the event loop and wait until it has them."""
        self._taken.clear()
        self._call(self._deliver, heard)
        while not self._taken.wait(HAND_OVER_S) and not self._stop.is_set():
            pass

    def _call(self, function: Any, argument: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process is leaving
            self.loop.call_soon_threadsafe(function, argument)

    # ---- the event loop's thread -----------------------------------------------------------------------------------

    def _deliver(self, heard: Iterable[Heard]) -> None:
        now_ns = time.monotonic_ns()
        for h in heard:
            self._hub.publish(h.name, h.block, now_ns, gap=h.gap, end=h.end)
        self._taken.set()


def _sources_of(manifest: Manifest) -> Iterable[tuple[tuple[str, int], Source]]:
    for spec in catalogue.topics():
        lines = tuple(manifest.lines) or ("main",)
        for line in (catalogue.TAPE_LINE,) if spec.scope == "tape" else lines:
            topic = spec.name(manifest.tape, line)
            for partition in range(manifest.partitions):
                where = f"{topic}[{partition}]"
                yield (topic, partition), Source(manifest.tape, manifest.tape_id, line, spec, where)


def _consume(client: Consumer) -> list[Any]:
    """What came, as soon as anything did: asked for many at once, the client waits for as many."""
    first = client.consume(1, timeout=CONSUME_S)
    return [*first, *client.consume(CONSUME_MAX, timeout=0)] if first else []


def _topics(client: Consumer) -> frozenset[str]:
    """Topics that the broker has; none if it does not answer: asking for one that is not there takes long."""
    try:
        return frozenset(client.list_topics(timeout=METADATA_S).topics)
    except KafkaException as error:
        log.info("the broker does not list its topics: %s", error)
        return frozenset()


def _catalogue_of(manifest: Manifest) -> Tape:
    lines = tuple(manifest.lines) or ("main",)
    return Tape(manifest.tape_id, lines, tuple(manifest.instruments), manifest.state)
