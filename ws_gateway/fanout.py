"""Everything there is to subscribe to: channels, their common budget, the catalogue of tapes. No I/O, no clock.

A *channel* is one topic stream of one instrument: its ring, its encoders, and when it was last heard of. The hub gives
a subscription its place in one; what the subscription does there stands in `ws_gateway.subscription`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakValueDictionary

from ws_gateway import catalogue
from ws_gateway.channel import Channel, Gap, Instant
from ws_gateway.clock import ReplayClock
from ws_gateway.cohort import Crew, NoCrew
from ws_gateway.frames import Block
from ws_gateway.library import Library, Name
from ws_gateway.reading import Reading
from ws_gateway.request import MAIN, Refusal, Request
from ws_gateway.rings import RING_BYTES_MAX, Budget
from ws_gateway.subscription import Subscription

__all__ = ["Channel", "Gap", "Hub", "Instant", "Name", "Tape"]


@dataclass(slots=True)
class Tape:
    """What the catalogue says of one tape: its id, its lines and its instruments."""

    tape_id: str
    lines: tuple[str, ...] = ("main",)
    instruments: tuple[str, ...] = ()
    state: str = "open"


class Hub:
    """All channels, their common budget, and the catalogue of what exists.

    Args:
        ring_bytes_max: memory that the blocks of all rings hold together.
        library: what is older than the rings; None: nothing is.
        crew: who writes for cohorts; None: sessions are asked one by one.
    """

    def __init__(
        self,
        ring_bytes_max: int = RING_BYTES_MAX,
        library: Library | None = None,
        crew: Crew | None = None,
    ) -> None:
        self._crew = crew or NoCrew()
        self.budget = Budget(ring_bytes_max)
        self.library = library
        self._clocks: WeakValueDictionary[tuple[str, str], ReplayClock] = WeakValueDictionary()
        self.channels: dict[Name, Channel] = {}
        self.tapes: dict[str, Tape] = {}
        self.aliases: dict[str, tuple[str, str]] = {}
        self.rows = 0

    def set_tapes(self, tapes: Mapping[str, Tape], aliases: Mapping[str, tuple[str, str]] | None = None) -> None:
        """Take over what exists now; channels of tapes that went or were replaced are closed.

        Args:
            tapes: name → tape.
            aliases: other name → tape and line; one that moves does so for new subscriptions.
        """
        for name in list(self.channels):
            now, before = tapes.get(name.tape), self.tapes.get(name.tape)
            if before is not None and (now is None or now.tape_id != before.tape_id):
                self._close(name)
        self.tapes, self.aliases = dict(tapes), dict(aliases or {})

    def channel(self, name: Name, mono_ns: int) -> Channel:
        """The channel of that name; made if need be."""
        if name not in self.channels:
            self.channels[name] = Channel(name, mono_ns, crew=self._crew)
        return self.channels[name]

    def hear(self, name: Name, mono_ns: int, *, end: bool = False) -> Channel:
        """Note that a message came for a channel, with rows or without, and whether it was the tape's end."""
        channel = self.channel(name, mono_ns)
        channel.heard_ns = mono_ns
        channel.heard += 1
        if end:
            channel.ended = True
            channel.wake()
        return channel

    def publish(self, name: Name, block: Block, mono_ns: int, *, gap: Gap | None = None, end: bool = False) -> None:
        """Give the rows of one message to everyone who reads the channel; empty blocks only count as heard."""
        channel = self.channel(name, mono_ns)
        channel.heard_ns = mono_ns
        channel.heard += 1
        channel.t_ns = max(channel.t_ns, block.t_ns)
        channel.ring.heard(block.place)
        if gap is not None:
            channel.gaps.append((channel.ring.next_row, gap))
        if block.rows:
            self.budget.append(channel.ring, block)
            self.rows += block.rows
        channel.ended = channel.ended or end
        channel.wake()

    def hello(self) -> dict[str, Any]:
        """What exists, for the first message to a client."""
        return {
            "tapes": sorted(self.tapes),
            "aliases": {name: "/".join(place) for name, place in sorted(self.aliases.items())},
            "lines": {name: list(tape.lines) for name, tape in sorted(self.tapes.items())},
            "instruments": {name: list(tape.instruments) for name, tape in sorted(self.tapes.items())},
            "streams": list(catalogue.names()),
        }

    def open(self, request: Request, now: Instant, wake: Callable[[], None], user: str = "") -> Subscription:
        """A subscription, placed where the request says.

        Args:
            request: what is asked for.
            now: this moment.
            wake: called when there may be something for it.
            user: whose clocks it may share.

        Raises:
            Refusal: no such tape, line or instrument, radius beyond the line's, or a cursor of another stream.
        """
        request = self._named(request)
        self._check_exists(request)
        stream, tape_id = catalogue.stream(request.stream), self.tapes[request.tape].tape_id
        name = Name(request.tape, stream.line(request.line), stream.topic.stream, request.instrument)
        channel = self.channel(name, now.mono_ns)
        reading = Reading(channel, tape_id, self.library, wake)
        return Subscription(channel, request, reading, self._clock(user, request), tape_id, wake)

    def _clock(self, user: str, request: Request) -> ReplayClock:
        """The user's clock of that name, which goes with the last who is on it; a new one without a name."""
        if request.clock is None:
            return ReplayClock(paused=request.paused)
        clock = self._clocks.get((user, request.clock))
        if clock is None:
            clock = ReplayClock(shared=True, owner=user, paused=request.paused)
            self._clocks[user, request.clock] = clock
        return clock

    def may_be_stale(self, channel: Channel) -> bool:
        """Whether silence on a channel means something: not after its end, nor of a tape that is finished."""
        tape = self.tapes.get(channel.name.tape)
        return not channel.ended and (tape is None or tape.state == "open")

    def _named(self, request: Request) -> Request:
        """The request with an alias replaced by what it names; its line is taken unless another was asked for."""
        if request.tape in self.tapes or request.tape not in self.aliases:
            return request
        tape, line = self.aliases[request.tape]
        return replace(request, tape=tape, line=line if request.line == MAIN else request.line)

    def _check_exists(self, request: Request) -> None:
        tape = self.tapes.get(request.tape)
        if tape is None:
            known = ", ".join(sorted(self.tapes)[:10]) or "none yet"
            raise Refusal("unknown_tape", f"there is no tape {request.tape!r}; known: {known}")
        if request.line not in tape.lines:
            raise Refusal("unknown_line", f"tape {request.tape!r} has the lines {', '.join(tape.lines[:10])}")
        if request.instrument not in tape.instruments:
            known = ", ".join(tape.instruments[:10]) or "none yet"
            raise Refusal("unknown_instrument", f"tape {request.tape!r} has the instruments {known}")

    def _close(self, name: Name) -> None:
        channel = self.channels.pop(name)
        channel.closed = True
        self.budget.forget(channel.ring)
        if self.library is not None:
            self.library.forget(name)
        channel.wake()
