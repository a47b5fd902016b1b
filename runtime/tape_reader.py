"""Reading a tape as every consumer must: each message once, in order, with its place; a hole is an error.

    TopicReader    one partition of one topic as Kafka has it now: reports, the reconciler and certificates read whole
                   topics again instead of believing what was remembered of them
    LakeReader     the same messages from the lake's objects
    TapeReader     one stream from any place: from Kafka as far back as its log goes, from the lake before that

Content is the same wherever it is read, so a reader may cross from the lake to Kafka at any message: the rule of
`runtime.sequence` drops what comes twice at the seam and refuses what comes nowhere.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from confluent_kafka import Consumer, TopicPartition

from runtime import lake_format
from runtime.errors import BarographError, InputError, MissingServiceError
from runtime.kafka import ANSWER_TIMEOUT_S, consumer, read_raw, to_message, watermarks
from runtime.lake_format import DamagedObjectError, ObjectRange
from runtime.object_store import ObjectStore
from runtime.sequence import HoleError, Place, Placed, Sequence, Verdict
from runtime.tapes import Manifest
from schemas.message import Message
from schemas.names import Cursor
from schemas.topics import TopicSpec, rooted


class UndeclaredDeletionError(InputError):
    """Messages are deleted in the lake, and the manifest does not say so.

    Args:
        where: stream and partition.
        place: the first of them.
    """

    def __init__(self, where: str, place: Place) -> None:
        self.where, self.place = where, place
        super().__init__(
            f"{where}: seq {place[0]}.{place[1]} is deleted in the lake, but not by the tape's manifest",
            remedy="end the deletion that was interrupted: repeat `barograph tape delete`",
        )


@dataclass(slots=True)
class TopicReader:
    """One partition of one topic of a tape, read from its start to its present end, repeats left out.

    What was deleted on demand may still stand in the log; such a message comes with `deleted`, and is nobody's to use.

    Attributes:
        bootstrap_servers: Kafka.
        manifest: the tape.
        line: the line, for derived topics.
        spec: which topic.
        partition: which partition.
        seq_to: last root message to read; None for all that is there.
        sequence: the consumer's rule; counts the repeats that were dropped.
    """

    bootstrap_servers: str
    manifest: Manifest
    line: str
    spec: TopicSpec
    partition: int
    seq_to: int | None = None
    sequence: Sequence = field(init=False)

    def __post_init__(self) -> None:
        start = first_seq(self.spec, self.manifest, self.partition)
        self.sequence = Sequence(f"{self.topic}[{self.partition}]", start)

    @property
    def topic(self) -> str:
        """Name of the topic."""
        return self.spec.name(self.manifest.tape, self.line)

    def __iter__(self) -> Iterator[Placed]:
        """The messages in order of their places.

        Raises:
            HoleError, ConflictError: the topic is damaged.
            BarographError: the broker does not answer, or the topic was trimmed.
        """
        for raw in read_raw(self.bootstrap_servers, self.topic, self.partition):
            message = to_message(raw)
            seq, part = place_of(message, self.spec, self.manifest)
            if self.seq_to is not None and seq > self.seq_to:
                return
            if judge(self.sequence, message, seq, part, by_offset=self.spec.by_offset) is Verdict.ACCEPT:
                gone = self.spec.rooted and self.manifest.deletes(self.partition, seq, message)
                yield Placed(message, seq, part, gone)


def place_of(message: Message, spec: TopicSpec, manifest: Manifest) -> Place:
    """The place of a message of a topic: its offset from the tape's base if raw, of a record its offset."""
    if spec.by_offset:
        return message.offset + first_seq(spec, manifest, message.partition), 0
    return message.envelope.seq, message.envelope.part


def first_seq(spec: TopicSpec, manifest: Manifest, partition: int) -> int:
    """The number of a partition's first message. Records have numbers of their own, which deletions do not move."""
    return manifest.base[partition] if spec.rooted else 0


def judge(sequence: Sequence, message: Message, seq: int, part: int, *, by_offset: bool) -> Verdict:
    """What the rule says of a message.

    Raises:
        HoleError, ConflictError: messages before it are missing, or it is another one than before.
    """
    envelope = message.envelope
    return sequence.check(seq, part, last=by_offset or envelope.last, run=envelope.run, crc32=envelope.crc32)


@dataclass(slots=True)
class LakeReader:
    """One partition of one stream of a tape as the lake has it, from a place on.

    Objects may be compacted meanwhile: one that is gone when it is asked for lies in a wider one, which is looked for.

    Attributes:
        lake: the lake's objects.
        manifest: the tape.
        line: the line, for derived streams.
        spec: which stream.
        partition: which partition.
        sequence: the consumer's rule; its next place is where reading starts.
    """

    lake: ObjectStore
    manifest: Manifest
    line: str
    spec: TopicSpec
    partition: int
    sequence: Sequence
    _listed: deque[ObjectRange] = field(default_factory=deque)

    def __iter__(self) -> Iterator[Placed]:
        """The messages in order of their places, deleted ones too, up to where the lake ends.

        Raises:
            HoleError, ConflictError: objects are missing or contradict each other.
            DamagedObjectError: one cannot be read.
            UndeclaredDeletionError: a message is deleted that the manifest does not name.
            MissingServiceError: the lake is away.
        """
        topic = self.spec.name(self.manifest.tape, self.line)
        while (found := self._next()) is not None:
            item, data = found
            for placed in lake_format.decode_object(data, item.name, topic, self.partition):
                verdict = judge(self.sequence, placed.message, placed.seq, placed.part, by_offset=self.spec.by_offset)
                if verdict is Verdict.ACCEPT:
                    self._refuse_undeclared(placed)
                    yield placed
            if (self.sequence.next_seq, self.sequence.next_part) <= item.last:
                raise DamagedObjectError(item.name, "it ends before the place that its name says")

    def _next(self) -> tuple[ObjectRange, bytes] | None:
        """The object that holds the next place, or the first after it; None at the end of the lake."""
        missing: ObjectRange | None = None
        try:
            while True:
                item = self._standing() or self._standing(anew=True)
                if item is None:
                    return None
                data = self.lake.get(item.name)
                if data is not None:
                    return item, data
                if item == missing:
                    raise DamagedObjectError(item.name, "it is listed but cannot be had")
                missing = item
                self._listed.clear()
        except OSError as error:
            raise MissingServiceError(f"the lake does not answer ({error})", remedy="try again") from error

    def _standing(self, *, anew: bool = False) -> ObjectRange | None:
        """The first object from the next place on, of those listed before or anew: a list of a bucket takes seconds."""
        if anew:
            topic = self.spec.name(self.manifest.tape, self.line)
            prefix = lake_format.folder(topic, self.manifest.tape_id, self.partition)
            self._listed = deque(lake_format.objects(self.lake, prefix))
        while self._listed and self._listed[0].last < (self.sequence.next_seq, self.sequence.next_part):
            self._listed.popleft()
        return self._listed[0] if self._listed else None

    def _refuse_undeclared(self, placed: Placed) -> None:
        if placed.deleted and not self.manifest.deletes(self.partition, placed.seq, placed.message):
            raise UndeclaredDeletionError(self.sequence.where, (placed.seq, placed.part))


@dataclass(slots=True)
class TapeReader:
    """One partition of one stream of a tape from any place: lake up to the start of Kafka's log, then Kafka.

    Messages that the manifest names as deleted are left out, wherever they still stand.

    Attributes:
        manifest: the tape.
        line: the line, for derived streams.
        spec: which stream.
        partition: which partition.
        bootstrap_servers: Kafka; empty: the lake alone is read.
        lake: the lake; None: Kafka alone is read.
        start: first place to read; None for the tape's first.
        seq_to: last root message to read; None for all that is there.
        deleted: whether deleted messages are given too, as places without content.
        sequence: the consumer's rule.
    """

    manifest: Manifest
    line: str
    spec: TopicSpec
    partition: int
    bootstrap_servers: str = ""
    lake: ObjectStore | None = None
    start: Place | None = None
    seq_to: int | None = None
    deleted: bool = False
    sequence: Sequence = field(init=False)

    def __post_init__(self) -> None:
        seq, part = self.start or (first_seq(self.spec, self.manifest, self.partition), 0)
        self.sequence = Sequence(f"{self.topic}[{self.partition}]", seq, part)

    @property
    def topic(self) -> str:
        """Name of the topic."""
        return self.spec.name(self.manifest.tape, self.line)

    def __iter__(self) -> Iterator[Placed]:
        """The messages in order of their places.

        Raises:
            HoleError, ConflictError: messages are missing between lake and log, or contradict each other.
            BarographError: they have left the log and no lake was given, an object is damaged, broker or lake are away.
        """
        for placed in self._all():
            if self.seq_to is not None and placed.seq > self.seq_to:
                return
            gone = self._gone(placed)
            if not gone or self.deleted:
                yield Placed(placed.message, placed.seq, placed.part, gone)

    def _all(self) -> Iterator[Placed]:
        if not self.bootstrap_servers:
            yield from self._from_lake(None)
            return
        with closing(consumer(self.bootstrap_servers)) as client:
            low, high = watermarks(client, self.topic, self.partition)
            first = self._place_at(client, low) if low < high else None
            needs_lake = first is not None and self._next < first
            if low < high and not needs_lake:
                low = self._offset_before(client, low, high)
        if needs_lake or (first is None and (low > 0 or self.lake is not None)):  # a broker may have lost its logs
            if self.lake is None:
                raise BarographError(
                    f"{self.sequence.where}: seq {self._next[0]}.{self._next[1]} is no longer in Kafka",
                    remedy="give the lake, which keeps it",
                )
            yield from self._from_lake(first)
        if low < high:
            yield from self._from_log(low, high)

    def log_start(self) -> Place | None:
        """The place of the first message that Kafka still has; None if its log is empty.

        Raises:
            MissingServiceError: the broker does not answer.
        """
        with closing(consumer(self.bootstrap_servers)) as client:
            low, high = watermarks(client, self.topic, self.partition)
            return self._place_at(client, low) if low < high else None

    def before_log(self) -> Iterator[Placed]:
        """Only what Kafka has no longer: from the start up to before the first message of its log; of the lake.

        Raises:
            HoleError: the lake ends before the log begins.
            BarographError: an object is damaged, lake or broker are away.
        """
        first = self.log_start()
        if first is not None and self._next >= first:
            return
        for placed in self._from_lake(first):
            yield Placed(placed.message, placed.seq, placed.part, self._gone(placed))
        if first is not None and self._next < first:
            raise HoleError(self.sequence.where, self._next, first)

    def _gone(self, placed: Placed) -> bool:
        """Whether a message was deleted on demand; records never are, and have other numbers."""
        named = self.spec.rooted and self.manifest.deletes(self.partition, placed.seq, placed.message)
        return placed.deleted or named

    @property
    def _next(self) -> Place:
        return self.sequence.next_seq, self.sequence.next_part

    def _from_lake(self, until: Place | None) -> Iterator[Placed]:
        """What the lake has from the next place on, up to before `until`."""
        if self.lake is None:
            raise InputError("neither a broker nor a lake was given to read from", remedy="give one of them")
        for placed in LakeReader(self.lake, self.manifest, self.line, self.spec, self.partition, self.sequence):
            yield placed
            if until is not None and self._next >= until:
                return

    def _from_log(self, start: int, stop: int) -> Iterator[Placed]:
        for raw in read_raw(self.bootstrap_servers, self.topic, self.partition, start, stop):
            message = to_message(raw)
            seq, part = place_of(message, self.spec, self.manifest)
            if judge(self.sequence, message, seq, part, by_offset=self.spec.by_offset) is Verdict.ACCEPT:
                yield Placed(message, seq, part)

    def _offset_before(self, client: Consumer, low: int, high: int) -> int:
        """An offset from `low` on at or before the next place, near it.

        A log goes on by one or back, never over a hole. So from any message at or before a place, reading on meets it.
        """
        if self.spec.by_offset:
            start = first_seq(self.spec, self.manifest, self.partition)
            return min(high, max(low, self._next[0] - start))
        after = high
        while after - low > 1:
            middle = (low + after) // 2
            if self._place_at(client, middle) <= self._next:
                low = middle
            else:
                after = middle
        return low

    def _place_at(self, client: Consumer, offset: int) -> Place:
        client.assign([TopicPartition(self.topic, self.partition, offset)])
        raw = client.poll(ANSWER_TIMEOUT_S)
        if raw is None:
            raise MissingServiceError(
                f"the broker does not give offset {offset} of {self.topic}[{self.partition}]",
                remedy="look at the broker's log",
            )
        return place_of(to_message(raw), self.spec, self.manifest)


def reader_at(
    cursor: Cursor, manifest: Manifest, *, bootstrap_servers: str = "", lake: ObjectStore | None = None
) -> TapeReader:
    """The reader of a cursor's stream that starts at its message; the cursor's row lies within that one.

    Raises:
        InputError: the tape has no such stream or instrument.
    """
    specs = {spec.stream: spec for spec in rooted(manifest.tape, cursor.line).values()}
    instrument = manifest.instruments.get(cursor.instrument)
    if cursor.tape != manifest.tape or cursor.stream not in specs or instrument is None:
        raise InputError(
            f"tape {manifest.tape} has nothing at {cursor}", remedy="see its streams and instruments: `tape show`"
        )
    place = cursor.seq, cursor.part
    return TapeReader(
        manifest, cursor.line, specs[cursor.stream], instrument.partition, bootstrap_servers, lake, start=place
    )
