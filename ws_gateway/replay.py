"""Workers that read what is older than the rings: segments of topics and lake, a few at a time.

    library.take_job ─► thread: manifest ─► where to begin ─► tape reader ─► blocks ─► event loop: library.finish
                                               │                   └─ kept open for whoever goes on there
                                               └─ a place, or an event time: looked for in log, then lake

Reading goes on where it stopped: a reader that is not at its end is kept for a while, so a replay at full speed opens
one and not one per segment.
"""

import asyncio
import logging
import threading
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaException, TopicPartition

from runtime import lake_format
from runtime.errors import BarographError, MissingServiceError
from runtime.kafka import ANSWER_TIMEOUT_S, consumer, read_raw, to_message, watermarks
from runtime.lake_format import ObjectRange
from runtime.object_store import ObjectStore, object_store_at
from runtime.sequence import HoleError, Placed
from runtime.tape_reader import TapeReader
from runtime.tapes import Manifest, TapeStore
from schemas.bins import CELL_NS_DEFAULT
from schemas.columns import ColumnError
from ws_gateway import catalogue
from ws_gateway.catalogue import Stream
from ws_gateway.decode import UNREADABLE, block_of
from ws_gateway.frames import Block, Place
from ws_gateway.library import READING_MAX, SEGMENT_BYTES, Failure, Library, Missing, Name, Segment, Want
from ws_gateway.request import Refusal, Start

log = logging.getLogger(__name__)

MESSAGES_MAX: Final = 4_096
"""Messages looked at for one segment, those of other instruments of the partition too. It bounds how long one job keeps
others waiting."""

OPEN_MAX: Final = 4
OPEN_S: Final = 5.0
"""Readers kept open between two segments, and for how long. Each may hold a consumer with its buffers; opening one
takes a tenth of a second."""

LISTING_S: Final = 5.0
"""How long a broker may take to list its topics. A question for one that is not there waits for its time-out, and holds
the worker; the list comes at once."""

GONE: Final = Refusal("tape_replaced", "the tape was replaced or deleted; subscribe again")


class UnreadableError(Exception):
    """A message whose bytes are not what its headers say.

    Args:
        expected: its place.
        got: the place behind it.
    """

    def __init__(self, expected: Place, got: Place) -> None:
        self.expected, self.got = expected, got
        super().__init__(f"seq {expected[0]}.{expected[1]} cannot be read")


@dataclass(slots=True)
class Course:
    """A reader on its way through a channel.

    Attributes:
        messages: what comes next, of all instruments of the partition.
        next: place of the next message.
        used_s: when it was last used, monotonic.
    """

    messages: Iterator[Placed]
    next: Place
    used_s: float = 0.0


@dataclass
class Replays:
    """The workers of one library.

    Args:
        library: whose jobs.
        bootstrap_servers: Kafka; empty: the lake alone is read.
        state: where the tape manifests lie: a folder or a URL.
        lake: where the lake lies; empty: there is none.
    """

    library: Library
    bootstrap_servers: str
    state: str | Path
    lake: str | Path = ""
    _courses: OrderedDict[Want, Course] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to work; called on the event loop's thread."""
        self._loop = loop
        self._tapes = TapeStore(object_store_at(self.state))
        self._lake = object_store_at(self.lake) if self.lake else None
        self._pool = ThreadPoolExecutor(READING_MAX, thread_name_prefix="gateway-replay")
        self.library.on_want = self._pump

    def stop(self) -> None:
        """End the workers; jobs that run are waited for."""
        self.library.on_want = lambda: None
        self._pool.shutdown(cancel_futures=True)
        self._courses.clear()

    def _pump(self) -> None:
        """Hand out jobs as long as there is a worker for them."""
        while (want := self.library.take_job()) is not None:
            self._pool.submit(self._work, want)

    def _work(self, want: Want) -> None:
        found: Segment | Failure
        try:
            found = self._read(want)
        except (MissingServiceError, KafkaException, OSError) as error:
            log.warning("%s cannot be read now: %s", want.name, error)
            found = Failure(None, time.monotonic_ns())
        except Refusal as refusal:
            found = Failure(refusal, time.monotonic_ns())
        except Exception as error:
            log.exception("%s cannot be read", want.name)
            reason = str(error) if isinstance(error, BarographError) else "what is stored there cannot be read"
            found = Failure(Refusal("unreadable", reason[:300]), time.monotonic_ns())
        with suppress(RuntimeError):  # the loop is closed: the process is leaving
            self._loop.call_soon_threadsafe(self.library.finish, want, found)

    # ---- in a worker's thread --------------------------------------------------------------------------------------

    def _read(self, want: Want) -> Segment:
        """One segment.

        Raises:
            Refusal: the tape is gone.
            BarographError: it is damaged, or its parts are away.
        """
        course, missing = self._kept(want), None
        if course is None:
            manifest = self._manifest(want)
            spot = Spot(self, manifest, want.name)
            place = max(spot.base, want.place if want.start.kind == "cursor" else spot.find(want.start))
            course, missing = spot.open(place)
        return self._fill(want, course, missing)

    def _manifest(self, want: Want) -> Manifest:
        manifest = self._tapes.load(want.name.tape)
        if manifest is None or manifest.tape_id != want.tape_id or want.name.instrument not in manifest.instruments:
            raise GONE
        return manifest

    def _fill(self, want: Want, course: Course, missing: Missing | None) -> Segment:
        stream, name = catalogue.stream(want.name.topic), want.name
        first, blocks, nbytes, ended, at_end = course.next, [], 0, False, True
        try:
            for count, placed in enumerate(course.messages, 1):
                course.next = _after(placed)
                message = placed.message
                if message.instrument == name.instrument:
                    block = _block(placed, stream)
                    blocks += [block] if block.rows else []
                    nbytes += block.nbytes
                    ended = message.envelope.kind == "end" and message.envelope.last
                if ended or nbytes >= SEGMENT_BYTES or count >= MESSAGES_MAX:
                    at_end = False
                    break
        except (HoleError, UnreadableError) as hole:
            if not blocks and missing is None:
                cause = "messages are missing" if isinstance(hole, HoleError) else "a message cannot be read"
                course, _ = Spot(self, self._manifest(want), name).open(hole.got)
                return self._fill(want, course, Missing(hole.expected, hole.got, cause))
            at_end = False  # what is before it comes first
            course.next = hole.expected
            return Segment(first, course.next, tuple(blocks), at_end, ended, missing, time.monotonic_ns())
        segment = Segment(first, course.next, tuple(blocks), at_end, ended, missing, time.monotonic_ns())
        if not (at_end or ended):
            self._keep(want, course)
        return segment

    def _kept(self, want: Want) -> Course | None:
        """The reader that stopped at what is wanted."""
        with self._lock:
            now_s = time.monotonic()
            for key in [k for k, c in self._courses.items() if now_s - c.used_s > OPEN_S]:
                del self._courses[key]
            return self._courses.pop(want, None)

    def _keep(self, want: Want, course: Course) -> None:
        with self._lock:
            course.used_s = time.monotonic()
            self._courses[want._replace(start=Start("cursor"), place=course.next)] = course
            while len(self._courses) > OPEN_MAX:
                self._courses.popitem(last=False)


@dataclass(slots=True)
class Spot:
    """One channel on one tape, as workers look at it: where things are, and how to read from there.

    Attributes:
        replays: brokers and lake.
        manifest: the tape.
        name: the channel.
        servers: brokers that have its topic; empty: it is not there, or not any more.
    """

    replays: Replays
    manifest: Manifest
    name: Name
    servers: str = field(init=False)

    def __post_init__(self) -> None:
        servers = self.replays.bootstrap_servers
        self.servers = servers if servers and has_topic(servers, self.topic) else ""

    @property
    def stream(self) -> Stream:
        """The channel's stream."""
        return catalogue.stream(self.name.topic)

    @property
    def partition(self) -> int:
        """Where the instrument is."""
        return self.manifest.instruments[self.name.instrument].partition

    @property
    def topic(self) -> str:
        """Name of the topic."""
        return self.stream.topic.name(self.name.tape, self.name.line)

    @property
    def base(self) -> Place:
        """The first place there can be."""
        return (0 if self.stream.record else self.manifest.base[self.partition]), 0

    def open(self, place: Place) -> tuple[Course, Missing | None]:
        """A reader from a place on, and what is missing before its first message."""
        if not self.servers and (self.stream.record or self.replays._lake is None):
            return Course(iter(()), place), None
        if self.stream.record:
            return self._open_records(place)
        reader = self._reader(place)
        messages = iter(reader)
        try:
            first = next(messages, None)
        except HoleError as hole:
            return self._open_behind(place, hole.got, "messages are missing", retention=False)
        except MissingServiceError:
            raise
        except BarographError:
            start = reader.log_start() if self.servers else None
            if start is None or start <= place:
                raise
            return self._open_behind(place, start, "no longer kept", retention=True)
        return Course(_chain(first, messages), place), None

    def _open_behind(self, place: Place, until: Place, cause: str, *, retention: bool) -> tuple[Course, Missing]:
        return Course(iter(self._reader(until)), until), Missing(place, until, cause, retention)

    def _reader(self, place: Place) -> TapeReader:
        return TapeReader(
            self.manifest, self.name.line, self.stream.topic, self.partition,
            self.servers, self.replays._lake, start=place,
        )  # fmt: skip

    def _open_records(self, place: Place) -> tuple[Course, Missing | None]:
        """Records stay in their topic as long as the tape; their place is their offset."""
        with closing(consumer(self.servers)) as client:
            low, high = watermarks(client, self.topic, self.partition)
        start = min(max(low, place[0]), high)
        raw = read_raw(self.servers, self.topic, self.partition, start)
        messages = (Placed(m, m.offset, 0) for m in map(to_message, raw))
        missing = Missing(place, (low, 0), "no longer kept", retention=True) if place[0] < low else None
        return Course(messages, (start, 0)), missing

    # ---- places of times -------------------------------------------------------------------------------------------

    def find(self, start: Start) -> Place:
        """A place at or before the first row that a start means, near it; readers pass over the rows before."""
        if self.stream.record:
            return self.base
        t_ns = start.value if start.kind == "time" else (start.value + 1) * self._cell_ns()
        return self._in_log(t_ns) or self._in_lake(t_ns) or self.base

    def _cell_ns(self) -> int:
        """Width of the line's bins."""
        line = self.manifest.lines.get(self.name.line)
        return int(line.config.get("cell_ns", CELL_NS_DEFAULT)) if line else CELL_NS_DEFAULT

    def _in_log(self, t_ns: int) -> Place | None:
        """By Kafka's index of stamps, which are engine times of messages; None if it lies before the log."""
        if not self.servers:
            return None
        with closing(consumer(self.servers)) as client:
            low, high = watermarks(client, self.topic, self.partition)
            if low >= high:
                return None
            asked = TopicPartition(self.topic, self.partition, max(0, t_ns // 1_000_000))
            (found,) = client.offsets_for_times([asked], timeout=ANSWER_TIMEOUT_S)
            offset = high - 1 if found.offset < 0 else found.offset
            if offset <= low and low > 0 and self.replays._lake is not None:
                return None
        raw = next(read_raw(self.servers, self.topic, self.partition, offset, offset + 1))
        envelope = to_message(raw).envelope
        return envelope.seq, envelope.part

    def _in_lake(self, t_ns: int) -> Place | None:
        lake = self.replays._lake
        where = (self.topic, self.manifest.tape_id, self.partition)
        return None if lake is None else place_in_lake(lake, *where, self.name.instrument, t_ns)


def has_topic(servers: str, topic: str) -> bool:
    """Whether a broker has a topic.

    Raises:
        KafkaException: it does not answer.
    """
    with closing(consumer(servers)) as client:
        return topic in client.list_topics(timeout=LISTING_S).topics


def place_in_lake(
    lake: ObjectStore, topic: str, tape_id: str, partition: int, instrument: str, t_ns: int
) -> Place | None:
    """Where to begin for an engine time: by bisection over the lake's objects, each of which says the times in it.

    Returns:
        The first place of the object that has a message of the instrument at or after that time, or of the last one;
        None: there is no object.
    """
    objects = lake_format.objects(lake, lake_format.folder(topic, tape_id, partition))
    at = bisect_left(objects, True, key=lambda item: _reaches(lake, item, instrument, t_ns))
    return objects[min(at, len(objects) - 1)].first if objects else None


def _reaches(lake: ObjectStore, item: ObjectRange, instrument: str, t_ns: int) -> bool:
    """Whether an object holds a message of an instrument at or after a time.

    One that cannot tell counts as if it did, so that reading starts before it.
    """
    data = lake.get(item.name)
    if data is None:
        return True
    index = lake_format.read_index(data)
    times = [t for t, name in zip(*(index.column(c).to_pylist() for c in ("t", "instrument")), strict=True)
             if name == instrument]  # fmt: skip
    return not times or max(times) >= t_ns


def _chain(first: Placed | None, rest: Iterator[Placed]) -> Iterator[Placed]:
    if first is not None:
        yield first
        yield from rest


def _after(placed: Placed) -> Place:
    """The place behind a message."""
    if not placed.message.envelope.last:
        return placed.seq, placed.part + 1
    return placed.seq + 1, 0


def _block(placed: Placed, stream: Stream) -> Block:
    """The rows of a message.

    Raises:
        Refusal: they are not of the declared form.
        UnreadableError: its bytes are damaged.
    """
    try:
        return block_of(placed.message, stream)
    except ColumnError as error:
        raise Refusal("schema_changed", f"rows are of another form: {error}") from error
    except UNREADABLE as error:
        log.error("%s seq %d.%d: %s", placed.message.topic, placed.seq, placed.part, error)
        raise UnreadableError((placed.seq, placed.part), _after(placed)) from error
