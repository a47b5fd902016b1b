"""A channel: one topic stream of one instrument, shared by everyone who reads it."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

from schemas.names import Cursor
from ws_gateway.cohort import Cohort, Crew, NoCrew
from ws_gateway.frames import Encoder, Layout
from ws_gateway.library import Name
from ws_gateway.rings import Ring, Row

GAPS_KEPT: Final = 256
"""Newest gaps remembered by a channel, to tell readers that come to them later."""


class Instant(NamedTuple):
    """One moment on two clocks: monotonic for durations, UTC for age; both ns."""

    mono_ns: int
    wall_ns: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Rows that never came: messages `from_seq` up to before `to_seq`.

    Attributes:
        cause: what happened, for people.
        schema: whether rows came that are not of the declared form, so that showing on would be guessing.
    """

    from_seq: int
    to_seq: int
    cause: str
    schema: bool = False


@dataclass(slots=True, eq=False)
class Channel:
    """One topic stream of one instrument.

    Attributes:
        heard_ns: monotonic time of the last message, rows or not.
        heard: messages so far.
        t_ns: event time of the newest of them.
        ended: whether the tape's `end` came.
        closed: set when the tape was replaced; its subscriptions must go.
        gaps: what the source lacks, each with the ring number of the row behind it.
        readers: subscriptions that go by themselves, and how each is woken.
        cohorts: those that go together.
        crew: who writes for them.
    """

    name: Name
    heard_ns: int
    ring: Ring = field(default_factory=Ring)
    heard: int = 0
    t_ns: int = 0
    ended: bool = False
    closed: bool = False
    gaps: deque[tuple[int, Gap]] = field(default_factory=lambda: deque(maxlen=GAPS_KEPT))
    encoders: WeakValueDictionary[Layout, Encoder] = field(default_factory=WeakValueDictionary)
    readers: dict[object, Callable[[], None]] = field(default_factory=dict)
    cohorts: dict[Encoder, Cohort] = field(default_factory=dict)
    crew: Crew = field(default_factory=NoCrew)

    def encoder(self, layout: Layout) -> Encoder:
        """The encoder that all subscriptions of this layout share; it goes with the last of them."""
        encoder = self.encoders.get(layout)
        if encoder is None:
            encoder = self.encoders[layout] = Encoder(layout)
        return encoder

    def cohort(self, encoder: Encoder) -> Cohort:
        """The cohort of an encoder's layout; it goes with the last of its members."""
        cohort = self.cohorts.get(encoder)
        if cohort is None:
            cohort = self.cohorts[encoder] = Cohort(self, encoder, self.crew)
        return cohort

    def forget(self, encoder: Encoder) -> None:
        """Its cohort has no member any more."""
        self.cohorts.pop(encoder, None)

    def cursor(self, stream: str, row: Row) -> str:
        """Cursor of a row, as a stream of this channel names it."""
        return str(Cursor(self.name.tape, self.name.line, stream, self.name.instrument, *row))

    def wake(self) -> None:
        """Tell every reader that there may be something for it."""
        for cohort in self.cohorts.values():
            cohort.wake()
        for wake in tuple(self.readers.values()):
            wake()
