"""What is older than the rings, piece by piece: who wants what, what is being read, what is kept. No I/O, no clock.

A *segment* is a run of blocks of one channel without a hole in it. Readers ask for the segment that holds a place; what
is not there is wanted once, however many ask, and a few workers beside (`ws_gateway.replay`) read what is wanted from
the topic or the lake, in the order in which it was asked for. So a thousand clients that come back at once cost a few
readers, and those who look at the same past share its bytes.

    find ─► kept? ─► segment                     take_job ─► worker reads ─► finish: kept, everyone who waits is woken
             └─────► wanted, None  (once a place)                            └ failed: told, asked again a second later
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ws_gateway.frames import Block, Place
from ws_gateway.request import Refusal, Start

SEGMENT_BYTES: Final = 1 << 20
"""Bytes of a segment's blocks; one message may exceed it. Much smaller ones cost a question to broker or lake each, and
each replaying client holds one."""

KEPT_BYTES: Final = 64 << 20
"""Segments kept for whoever comes next. Clients that come back after a restart look at the same minutes; far less would
read these again for each of them."""

READING_MAX: Final = 4
"""Segments that are read at the same time, each with a consumer or a lake reader. Two cores decode no more; the load on
the broker stays that of four consumers, whatever the number of clients."""

RETRY_NS: Final = 1_000_000_000
"""Pause before something is read again that failed, or had nothing. A broker that restarts takes seconds; a reader at
the end of a log that comes to the ring meanwhile needs it no more."""


class Name(NamedTuple):
    """Name of a channel: `topic` is the topic's stream; grids are of `bins`."""

    tape: str
    line: str
    topic: str
    instrument: str


PLACE: Final = Start("cursor")
"""Start of a want that is for a place."""


class Want(NamedTuple):
    """A segment that somebody wants: of a channel of one tape, from a start.

    Attributes:
        name: the channel.
        tape_id: identity of the tape; a replaced one has another past.
        start: `cursor` means the place in `place`, otherwise a bin or an event time.
        place: message to begin with.
    """

    name: Name
    tape_id: str
    start: Start
    place: Place = (-1, 0)


class Missing(NamedTuple):
    """Rows that cannot be had any more: from a place up to before another.

    Attributes:
        first, until: the range.
        cause: why, for people.
        retention: whether they were deleted by age or size, rather than lost.
    """

    first: Place
    until: Place
    cause: str
    retention: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """Blocks of a channel, complete from `first` up to before `next`.

    Attributes:
        first, next: the range; places are those of the partition, so `next` need not be one of this instrument.
        blocks: those that have rows.
        at_end: whether nothing was there behind it when it was read.
        ended: whether the tape's end is in it.
        missing: what is missing before `first`, if anything is.
        at_ns: when it was read, monotonic.
    """

    first: Place
    next: Place
    blocks: tuple[Block, ...] = ()
    at_end: bool = False
    ended: bool = False
    missing: Missing | None = None
    at_ns: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes that it holds, roughly."""
        return 1024 + sum(block.nbytes for block in self.blocks)


@dataclass(frozen=True, slots=True)
class Failure:
    """A segment that could not be read.

    Attributes:
        refusal: what to tell the client, if trying again does not help; None: it may.
        at_ns: when, monotonic.
    """

    refusal: Refusal | None
    at_ns: int


@dataclass
class Library:
    """Segments kept, wanted and being read.

    Attributes:
        on_want: called when there may be a job.
    """

    kept_bytes_max: int = KEPT_BYTES
    on_want: Callable[[], None] = lambda: None
    _kept: OrderedDict[Want, Segment] = field(default_factory=OrderedDict)
    _kept_bytes: int = 0
    _failed: dict[Want, Failure] = field(default_factory=dict)
    _waiting: dict[Want, set[Callable[[], None]]] = field(default_factory=dict)
    _queue: deque[Want] = field(default_factory=deque)
    _reading: set[Want] = field(default_factory=set)

    def find(self, want: Want, wake: Callable[[], None], mono_ns: int) -> Segment | Failure | None:
        """A segment that holds what is wanted, or how it failed; None: it is on its way, and `wake` will be called."""
        kept = self._kept_for(want)
        if kept is not None and (kept.blocks or kept.ended or mono_ns - kept.at_ns < RETRY_NS):
            return kept
        failed = self._failed.get(want)
        if failed is not None and mono_ns - failed.at_ns < RETRY_NS:
            return failed
        self._failed.pop(want, None)
        first = want not in self._waiting
        self._waiting.setdefault(want, set()).add(wake)
        if first:
            self._queue.append(want)
            self.on_want()
        return None

    def take_job(self) -> Want | None:
        """The next segment to read; None if none is wanted, or enough are being read."""
        if not self._queue or len(self._reading) >= READING_MAX:
            return None
        want = self._queue.popleft()
        self._reading.add(want)
        return want

    def finish(self, want: Want, found: Segment | Failure) -> None:
        """A worker is done with a job: keep what it found, tell everyone who waits for something in it."""
        self._reading.discard(want)
        wakes = self._waiting.pop(want, set())
        if isinstance(found, Failure):
            self._failed[want] = found
        else:
            self._keep(want, found)
            for other in [w for w in self._queue if _holds(want, found, w)]:
                self._queue.remove(other)
                wakes |= self._waiting.pop(other, set())
        for wake in wakes:
            wake()
        self.on_want()

    def forget(self, name: Name) -> None:
        """A channel is closed: whatever will be under its name has another past."""
        for want in [w for w in self._kept if w.name == name]:
            self._kept_bytes -= self._kept.pop(want).nbytes
        for want in [w for w in self._failed if w.name == name]:
            del self._failed[want]

    def _kept_for(self, want: Want) -> Segment | None:
        """The segment kept for a want, or one that holds its place."""
        key = want if want in self._kept else None
        if key is None:
            key = next((k for k, segment in self._kept.items() if _holds(k, segment, want)), None)
        if key is None:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def _keep(self, want: Want, segment: Segment) -> None:
        old = self._kept.pop(want, None)
        self._kept_bytes += segment.nbytes - (old.nbytes if old else 0)
        self._kept[want] = segment
        while self._kept_bytes > self.kept_bytes_max and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes


def _holds(key: Want, segment: Segment, want: Want) -> bool:
    """Whether a segment holds the place that is wanted."""
    same = key.name == want.name and key.tape_id == want.tape_id
    return same and want.start.kind == "cursor" and segment.first <= want.place < segment.next
