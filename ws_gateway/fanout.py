"""One stream to many readers: who gets which row, and what a slow reader gets instead.

A *channel* is one topic stream of one instrument: its ring, its encoders, and when it was last heard of. A
*subscription* is a place in the ring. Nothing is queued per client: the rows between its place and the ring's end are
its queue, shared with everyone, and bounded by jumping to the newest row (*conflation*), which is counted and shown in
the next message's header. So a reader that stops costs the gateway nothing, and the others never notice.

    ring    ... 41 42 43 44 45 46 47 48        next_row = 49
    reader            ▲ wants 43: backlog 6    above its limit: takes 48, counts 5 left out

Pulling is driven by whoever can send; publishing only wakes. There is no I/O and no clock here: callers say what time
it is.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

from schemas.names import Cursor
from ws_gateway.frames import CHOICES, CURSOR, END_OF_STREAM, Block, Encoder, Flag, Kind, Layout, pack_header
from ws_gateway.request import MAIN, Refusal, Request, Start
from ws_gateway.rings import RING_BYTES_MAX, Budget, Ring

BACKLOG_BYTES_MAX: Final = 2 << 20
"""Encoded rows that a client may be behind, over all its subscriptions, before it is taken to the newest. Together with
the socket's buffer (server.WRITE_BYTES_MAX) and one message in the making it stays below 4 MiB a client. Much less
would conflate healthy browsers during a burst; more only makes slow ones look at older rows."""

BACKLOG_ROWS_MAX: Final = 4_096
"""The same in rows, for layouts whose rows are tiny."""

GAPS_KEPT: Final = 256
"""Newest gaps remembered by a channel, to tell readers that come to them later."""


class Instant(NamedTuple):
    """One moment on two clocks: monotonic for durations, UTC for age; both ns."""

    mono_ns: int
    wall_ns: int


class Name(NamedTuple):
    """Name of a channel: `topic` is the topic's stream, `bins` (also for grids) or `trades`."""

    tape: str
    line: str
    topic: str
    instrument: str

    def cursor(self, stream: str, block: Block, row: int) -> str:
        """Cursor of a row of a block of this channel."""
        return str(Cursor(self.tape, self.line, stream, self.instrument, block.seq, block.part, row))


@dataclass(frozen=True, slots=True)
class Gap:
    """Rows that never came: messages `from_seq` up to before `to_seq`."""

    from_seq: int
    to_seq: int
    cause: str


@dataclass(slots=True)
class Tape:
    """What the catalogue says of one tape: its id, its lines and its instruments."""

    tape_id: str
    lines: tuple[str, ...] = ("main",)
    instruments: tuple[str, ...] = ()
    state: str = "open"


@dataclass(slots=True, eq=False)
class Channel:
    """One topic stream of one instrument.

    Attributes:
        heard_ns: monotonic time of the last message, rows or not.
        ended: whether the tape's `end` came.
        closed: set when the tape was replaced; its subscriptions must go.
    """

    name: Name
    heard_ns: int
    ring: Ring = field(default_factory=Ring)
    ended: bool = False
    closed: bool = False
    gaps: deque[tuple[int, Gap]] = field(default_factory=lambda: deque(maxlen=GAPS_KEPT))
    encoders: WeakValueDictionary[Layout, Encoder] = field(default_factory=WeakValueDictionary)
    listeners: set[Callable[[], None]] = field(default_factory=set)

    def encoder(self, layout: Layout) -> Encoder:
        """The encoder that all subscriptions of this layout share; it goes with the last of them."""
        encoder = self.encoders.get(layout)
        if encoder is None:
            encoder = self.encoders[layout] = Encoder(layout)
        return encoder

    def wake(self) -> None:
        """Tell every reader that there may be something for it."""
        for listener in tuple(self.listeners):
            listener()


class Hub:
    """All channels, their common budget, and the catalogue of what exists."""

    def __init__(self, ring_bytes_max: int = RING_BYTES_MAX) -> None:
        self.budget = Budget(ring_bytes_max)
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
            self.channels[name] = Channel(name, mono_ns)
        return self.channels[name]

    def hear(self, name: Name, mono_ns: int, *, end: bool = False) -> Channel:
        """Note that a message came for a channel, with rows or without, and whether it was the tape's end."""
        channel = self.channel(name, mono_ns)
        channel.heard_ns = mono_ns
        if end:
            channel.ended = True
            channel.wake()
        return channel

    def publish(self, name: Name, block: Block, mono_ns: int, *, gap: Gap | None = None, end: bool = False) -> None:
        """Give the rows of one message to everyone who reads the channel; empty blocks only count as heard."""
        channel = self.channel(name, mono_ns)
        channel.heard_ns = mono_ns
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
        }

    def open(self, request: Request, now: Instant) -> "Subscription":
        """A subscription, placed where the request says.

        Raises:
            Refusal: no such tape, line or instrument, radius beyond the line's, or a cursor of another stream.
        """
        request = self._named(request)
        self._check_exists(request)
        topic = "bins" if request.stream == "grid" else request.stream
        channel = self.channel(Name(request.tape, request.line, topic, request.instrument), now.mono_ns)
        subscription = Subscription(channel, request, self.tapes[request.tape].tape_id)
        subscription.place(request.start)
        return subscription

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
        channel.wake()


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a subscription gives its session: at most one binary message, and things to be told before it."""

    data: bytes | None = None
    notices: tuple[dict[str, Any], ...] = ()
    ended: bool = False
    failed: Refusal | None = None


_NOTHING: Final = Pulled()


class Subscription:
    """One reader's place in a channel.

    Attributes:
        next_row: ring number of the row it wants next.
        number: messages sent so far.
        left_out: rows left out by conflation since the last message; goes into the next header.
        dropped: rows left out since the client was last told in words.
        tape_id: identity of the tape; a client that knows another one subscribes anew.
    """

    def __init__(self, channel: Channel, request: Request, tape_id: str = "") -> None:
        self.tape_id = tape_id
        self.channel = channel
        self.request = request
        self.next_row = 0
        self.number = 0
        self.left_out = 0
        self.dropped = 0
        self.sent_cursor = ""
        self.sent_t_ns = 0
        self._encoder: Encoder | None = None
        self._catch_up_to = 0
        self._told_row = 0
        self._due_ns = 0
        self._interval_ns = int(1e9 / request.max_rate_hz) if request.max_rate_hz else 0
        self._layout = self._settle_layout()

    def _settle_layout(self) -> Layout | None:
        """The layout, once the line's radius is known.

        Raises:
            Refusal: the radius asked for is larger.
        """
        request, newest = self.request, self.channel.ring.newest
        if request.stream != "grid":
            return Layout(request.stream, request.fields, 0, "f64")
        if newest is None:
            return None
        radius = newest.radius if request.radius is None else request.radius
        if radius > newest.radius:
            raise Refusal("bad_radius", f"the line's radius is {newest.radius}; ask for at most that")
        return Layout(request.stream, request.fields, radius, request.dtype)

    def place(self, start: Start) -> None:
        """Go to where the request begins: live is the newest row there is, so that something can be seen at once.

        Raises:
            Refusal: the cursor names another stream, or bins are asked of a stream that has none.
        """
        ring, name = self.channel.ring, self.channel.name
        self._told_row = ring.next_row
        if start.kind == "live":
            self.next_row = max(ring.first_row, ring.next_row - 1)
        elif start.kind == "cursor" and start.cursor is not None:
            at = start.cursor
            topic = "bins" if at.stream == "grid" else at.stream
            if Name(at.tape, at.line, topic, at.instrument) != name:
                raise Refusal("bad_cursor", "`from` names a row of another stream")
            self.next_row = ring.after_cursor(at.seq, at.part, at.row)
        elif start.kind == "time":
            self.next_row = ring.from_time(start.value)
        elif name.topic == "bins":
            self.next_row = ring.from_bin(start.value)
        else:
            raise Refusal("bad_field", "stream trades has no bins; use a cursor or @ns")
        self._catch_up_to = 0 if start.kind == "live" else ring.next_row

    def describe(self) -> dict[str, Any]:
        """What was agreed: cursor, configuration, fields with units."""
        request, newest = self.request, self.channel.ring.newest
        names = (c.name for c in self._layout.columns()) if self._layout else request.fields
        known = {**CHOICES[request.stream], **{c.name: c for c in CURSOR}}
        return {
            "cursor": self.sent_cursor or self._cursor_of(newest),
            "tape_id": self.tape_id,
            "runtime_config": {
                "stream": request.stream,
                "radius": self._layout.radius if self._layout else request.radius,
                "dtype": request.dtype,
                "max_rate_hz": request.max_rate_hz,
                "policy": request.policy,
                "run": newest.run if newest else "",
            },
            "fields": [{"name": n, "unit": known[n].unit} for n in names],
        }

    def position(self) -> dict[str, Any]:
        """Cursor of the last row sent, and how far event time has gone on since, ms."""
        newest = self.channel.ring.newest
        lag_ns = newest.t_ns - self.sent_t_ns if newest and self.sent_t_ns else 0
        return {"cursor": self.sent_cursor, "lag_ms": max(0, lag_ns) // 1_000_000}

    def due_ns(self) -> int:
        """Monotonic time before which a rate limit lets nothing out; 0 without one."""
        return self._due_ns if self.next_row < self.channel.ring.next_row else 0

    def pull(self, now: Instant, backlog_bytes_max: int = BACKLOG_BYTES_MAX) -> Pulled:
        """The next message for this reader, if there is one that may go now."""
        if self.channel.closed:
            return Pulled(failed=Refusal("tape_replaced", "the tape was replaced or deleted; subscribe again"))
        try:
            self._layout = self._layout or self._settle_layout()
        except Refusal as refusal:
            return Pulled(failed=refusal)
        if self._layout is None:
            return _NOTHING
        if self._encoder is None:
            self._encoder = self.channel.encoder(self._layout)
            return Pulled(data=self._message(Kind.SCHEMA, self._encoder.schema_payload))
        if self.next_row >= self.channel.ring.next_row:
            return Pulled(data=self._message(Kind.END, END_OF_STREAM), ended=True) if self.channel.ended else _NOTHING
        if now.mono_ns < self._due_ns:
            return _NOTHING
        return self._pull_rows(now, backlog_bytes_max, self._encoder)

    def _pull_rows(self, now: Instant, backlog_bytes_max: int, encoder: Encoder) -> Pulled:
        notices = self._evicted()
        jumped = self._conflate(backlog_bytes_max, encoder)
        block, start = self.channel.ring.at(self.next_row)
        if block.radius < encoder.layout.radius:
            return Pulled(failed=Refusal("schema_changed", "the line's radius changed; subscribe again"))
        stop = min(block.rows, start + (1 if self._interval_ns else encoder.rows_max))
        replayed = self.next_row < self._catch_up_to
        notices += self._gaps_until(self.next_row + stop - start)
        flags = (Flag.REPLAYED if replayed else 0) | (Flag.GAP_BEFORE if notices else 0)
        flags |= Flag.CONFLATED if jumped else 0
        age_us = 0 if replayed or block.arrived_ns < 0 else (now.wall_ns - block.arrived_ns) // 1000
        payload = encoder.payload(self.next_row, block, start, stop)
        data = self._message(Kind.BATCH, payload, Flag(flags), age_us)
        self.next_row += stop - start
        self._due_ns = now.mono_ns + self._interval_ns if self._interval_ns else 0
        self.sent_cursor = self._cursor_of(block, stop - 1)
        self.sent_t_ns = block.t_ns
        return Pulled(data=data, notices=tuple(notices))

    def _message(self, kind: Kind, payload: bytes, flags: Flag = Flag.NONE, age_us: int = 0) -> bytes:
        header = pack_header(kind, flags, self.request.id, self.number, self.left_out, age_us)
        self.number += 1
        self.left_out = 0
        return header + payload

    def _conflate(self, backlog_bytes_max: int, encoder: Encoder) -> bool:
        """Jump to the newest row if the reader is too far behind; rows replayed from the ring are not skipped."""
        backlog = self.channel.ring.next_row - self.next_row
        if self.next_row < self._catch_up_to:
            return False
        too_far = backlog > BACKLOG_ROWS_MAX or backlog * encoder.row_bytes > backlog_bytes_max
        if backlog <= 1 or not (self._interval_ns or too_far):
            return False
        self.left_out += backlog - 1
        self.dropped += backlog - 1
        self.next_row += backlog - 1
        return True

    def _evicted(self) -> list[dict[str, Any]]:
        """Told as a gap: rows that left the ring before this reader took them."""
        first = self.channel.ring.first_row
        if self.next_row >= first:
            return []
        block, row = self.channel.ring.at(first)
        self.next_row = first
        to = self._cursor_of(block, row)
        return [
            {"op": "gap", "from": self.sent_cursor, "to": to, "cause": "left the ring", "epoch": _epoch(block, row)}
        ]

    def _gaps_until(self, row: int) -> list[dict[str, Any]]:
        """Gaps of the source between the rows already covered and `row`, exclusive; each told once."""
        found = []
        for at, gap in self.channel.gaps:
            if self._told_row <= at < row:
                block, place = self.channel.ring.at(max(at, self.channel.ring.first_row))
                found.append(
                    {
                        "op": "gap",
                        "from": gap.from_seq,
                        "to": gap.to_seq,
                        "cause": gap.cause,
                        "epoch": _epoch(block, place),
                    }
                )
        self._told_row = max(self._told_row, row)
        return found

    def _cursor_of(self, block: Block | None, row: int = -1) -> str:
        if block is None:
            return ""
        return self.channel.name.cursor(self.request.stream, block, row if row >= 0 else block.rows - 1)


def _epoch(block: Block, row: int) -> int:
    """Epoch of a row; 0 where the stream has none."""
    epochs = block.table.get("epoch")
    return 0 if epochs is None else int(epochs[row])
