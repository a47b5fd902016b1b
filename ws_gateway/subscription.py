"""One reader of one stream: which rows it gets next, when, and what it is told instead of rows.

Nothing is queued per client: what waits is a place in the ring or in the past, shared with everyone. A reader that is
too slow for what is live is taken to the newest row (*conflate*), which is counted and shown in the next header, or
falls back into the past (*lossless*) as far as topic and lake go.

    ring    ... 41 42 43 44 45 46 47 48        next_row = 49
    reader            ▲ wants 43: backlog 6    above its limit: takes 48, counts 5 left out

Pulling is driven by whoever can send; publishing only wakes. Callers say what time it is.
"""

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final, NamedTuple

from ws_gateway.catalogue import CURSOR, GRID, stream
from ws_gateway.channel import Channel, Gap, Instant
from ws_gateway.clock import FOREVER, NEVER, ReplayClock
from ws_gateway.cohort import Cohort
from ws_gateway.frames import (
    END_OF_STREAM,
    Block,
    Encoder,
    Flag,
    Frame,
    Kind,
    Layout,
    Piece,
    SchemaChangedError,
    pack_header,
)
from ws_gateway.reading import Reading
from ws_gateway.request import Refusal, Request, Start
from ws_gateway.rings import Row

BACKLOG_BYTES_MAX: Final = 2 << 20
"""Encoded rows that a client may be behind, over all its subscriptions, before it is taken to the newest. Together with
the socket's buffer (wire.WRITE_BYTES_MAX) and one message in the making it stays below 4 MiB a client. Much less
would conflate healthy browsers during a burst; more only makes slow ones look at older rows."""

BACKLOG_ROWS_MAX: Final = 4_096
"""The same in rows, for layouts whose rows are tiny."""

DIGEST_NS: Final = 10_000_000_000
"""Time between two digests. A client compares its copy at each; an error shows that much later at most."""


Parts = tuple[bytes, bytes]
"""A binary message: its header, and the payload that others send too."""


class Pulled(NamedTuple):
    """What a subscription gives its session: at most one binary message, and things to be told before it."""

    data: Parts | None = None
    notices: tuple[dict[str, Any], ...] = ()
    ended: bool = False
    failed: Refusal | None = None


_NOTHING: Final = Pulled()


class Subscription:
    """One reader's place in a channel.

    Attributes:
        number: messages sent so far.
        left_out: rows left out by conflation since the last message; goes into the next header.
        dropped: rows left out since the client was last told in words.
        live: whether it has caught up with what is live; a replay is not.
        clock: of its replay; others may be on it.
        tape_id: identity of the tape; a client that knows another one subscribes anew.
        wake: called when there may be something for it.
        cohort: which sends for it meanwhile; its place and numbers are known again after `part`.
    """

    __slots__ = (
        "_awaits", "_caught_up_at", "_digest", "_digest_due_ns", "_digested", "_encoder", "_interval_ns", "_layout",
        "_led_turn", "_mono_ns", "_rate_due_ns", "_replayed", "_simple", "_start", "_steps", "_stream", "_turn",
        "_waits_until_ns",
        "channel", "clock", "cohort", "dropped", "left_out", "live", "number", "reading", "request", "sent",
        "sent_t_ns", "tape_id", "wake",
    )  # fmt: skip

    def __init__(
        self,
        channel: Channel,
        request: Request,
        reading: Reading,
        clock: ReplayClock,
        tape_id: str,
        wake: Callable[[], None],
    ) -> None:
        self.channel, self.request, self.reading, self.clock = channel, request, reading, clock
        self.tape_id, self.wake = tape_id, wake
        self.cohort: Cohort | None = None
        self.number = self.left_out = self.dropped = 0
        self.live = False
        self.sent: Row | None = None
        self.sent_t_ns = 0
        self._stream = stream(request.stream)
        self._encoder: Encoder | None = None
        self._caught_up_at = 0
        self._steps = 0
        self._turn = clock.turn
        self._led_turn = -1  # the newest turn of the clock that it brought about itself
        self._awaits = self._replayed = False
        self._rate_due_ns = self._waits_until_ns = self._mono_ns = 0
        self._interval_ns = int(1e9 / request.max_rate_hz) if request.max_rate_hz else 0
        self._digest, self._digested, self._digest_due_ns = sha256() if request.digest else None, 0, 0
        self._simple = not (request.digest or request.max_rate_hz)
        self._layout: Layout | None = None
        self._start = request.start
        self._go(request.start)
        self._settle(channel.ring.newest)

    # ---- what clients ask ------------------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether its clock stands still."""
        return self.clock.paused

    def pause(self, now: Instant) -> None:
        """Stand still, with everyone on the clock."""
        self._steps = 0
        self.live = False
        self.clock.pause(now.mono_ns)

    def resume(self, now: Instant) -> None:
        """Go on, with everyone on the clock."""
        self._steps = 0
        self.clock.resume(now.mono_ns)

    def step(self, bins: int, now: Instant) -> None:
        """Stand still, but for the next `bins` rows.

        Raises:
            Refusal: the stream has no bins to step by.
        """
        if not self._stream.has_bins:
            raise Refusal("bad_field", f"`step` counts bins, and stream {self.request.stream} has none")
        self.pause(now)
        self._steps = bins

    def seek(self, start: Start) -> None:
        """Go elsewhere, with everyone on the clock.

        Raises:
            Refusal: the start is not one of this stream.
        """
        check_start(start, self.channel, self.request)
        self.clock.seek(start)
        self._turn = self._led_turn = self.clock.turn
        self._go(start)
        if self.paused and self._stream.has_bins:
            self._steps = 1  # whoever seeks while it stands still wants to see where to

    def set_speed(self, factor: float | None, now: Instant) -> None:
        """Change the pace of the replay, for everyone on the clock.

        Raises:
            Refusal: it is live.
        """
        if self.live and not self.paused and not self.reading.ended:
            raise Refusal("live", "what is live has no speed; `seek` or `pause` first")
        self.clock.set_speed(factor, now.mono_ns)
        if factor is None:
            self._caught_up_at = self.channel.ring.next_row

    # ---- what sessions tell ----------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """What was agreed: cursor, configuration, fields with units."""
        request, newest, layout = self.request, self.channel.ring.newest, self._layout
        names = (c.name for c in layout.columns()) if layout else request.fields
        known = {**self._stream.fields, **{c.name: c for c in CURSOR}}
        return {
            "from": str(self._start),
            "cursor": self._cursor_now(),
            "tape": request.tape,
            "line": request.line,
            "tape_id": self.tape_id,
            "paused": self.paused,
            "runtime_config": {
                "stream": request.stream,
                "radius": layout.radius if layout else request.radius,
                "dtype": request.dtype,
                "max_rate_hz": request.max_rate_hz,
                "policy": request.policy,
                "clock": request.clock,
                "digest": request.digest,
                "run": newest.run if newest else "",
            },
            "fields": [{"name": n, "unit": known[n].unit} for n in names],
        }

    def position(self) -> dict[str, Any]:
        """Cursor of the last row sent, how far event time has gone on since (ms), and whether that is live."""
        newest, sent, t_ns = self.channel.ring.newest, self.sent, self.sent_t_ns
        if self.cohort is not None and self.cohort.last is not None and self.cohort.sent_to(self):
            last = self.cohort.last
            sent, t_ns = (*last.place, last.rows - 1), int(last.times[-1])
        lag_ns = newest.t_ns - t_ns if newest and sent else 0
        cursor = self._cursor(sent) if sent else ""
        return {"cursor": cursor, "lag_ms": max(0, lag_ns) // 1_000_000, "live": self.live}

    def due_ns(self) -> int:
        """Monotonic time before which a rate limit or the clock lets nothing out; 0 if nothing waits for time."""
        return self._waits_until_ns

    # ---- what goes out ---------------------------------------------------------------------------------------------

    def pull(self, now: Instant, backlog_bytes_max: int = BACKLOG_BYTES_MAX) -> Pulled:
        """The next message for this reader, if there is one that may go now."""
        if self.channel.closed:
            return Pulled(failed=Refusal("tape_replaced", "the tape was replaced or deleted; subscribe again"))
        if (self.turned or self._awaits) and (moved := self._follow()) is not None:
            return moved
        if self.paused or self.clock.factor is not None:
            self.live = False
        self._waits_until_ns, self._mono_ns = 0, now.mono_ns
        try:
            if self._encoder is None:
                return self._begin(now)
            if self._digested and now.mono_ns >= self._digest_due_ns:
                return Pulled(data=self._make_digest(now))
            if now.mono_ns < self._rate_due_ns:
                waits = self.reading.backlog > 0 or self.reading.number is None
                self._waits_until_ns = self._rate_due_ns if waits else 0
                return _NOTHING
            return self._pull_rows(now, backlog_bytes_max, self._encoder)
        except SchemaChangedError as error:
            return Pulled(failed=Refusal("schema_changed", f"{error.reason}; subscribe again"))
        except Refusal as refusal:
            return Pulled(failed=refusal)

    def join(self, wire: Any) -> None:
        """Nothing goes out for now: if only the newest rows are waited for, let the cohort send them.

        Args:
            wire: the client's, on which the cohort's crew writes.
        """
        encoder, clock = self._encoder, self.clock
        if self.cohort is not None or encoder is None or not (self.live and self._simple) or self.left_out:
            return
        if clock.shared or clock.paused or clock.factor is not None or self.turned or self._awaits:
            return
        if self.channel.closed or self.channel.ended or not self.reading.at_edge:
            return
        cohort = self.channel.cohort(encoder)
        if cohort.join(self, wire):
            self.cohort = cohort
            self.channel.readers.pop(self, None)

    def part(self) -> None:
        """Go by itself again, from where the cohort is."""
        cohort, self.cohort = self.cohort, None
        if cohort is None:
            return
        number, last = cohort.leave(self), cohort.last
        self.channel.readers[self] = self.wake
        if number > self.number and last is not None:
            self.number, self.sent = number, (*last.place, last.rows - 1)
            self.sent_t_ns = int(last.times[-1])
            self.clock.shown(self.sent_t_ns)
            self.reading.follow(cohort.number, last)

    def _begin(self, now: Instant) -> Pulled:
        """The schema, once the rows' radius is known."""
        if self._layout is None:
            piece = self.reading.peek(now.mono_ns)
            if self.reading.failure is not None:
                return Pulled(failed=self.reading.failure)
            self._settle(self.channel.ring.newest or (piece.block if piece else None))
        if self._layout is None:
            return _NOTHING
        self._encoder = self.channel.encoder(self._layout)
        self._layout = self._encoder.layout
        self._digest_due_ns = now.mono_ns + DIGEST_NS
        return Pulled(data=self._send(Kind.SCHEMA, self._encoder.schema_frame))

    def _settle(self, block: Block | None) -> None:
        """The layout, once the line's radius is known.

        Raises:
            Refusal: the radius asked for is larger.
        """
        request = self.request
        if request.stream != GRID:
            self._layout = Layout(request.stream, request.fields, 0, "f64")
        elif block is not None:
            radius = block.radius if request.radius is None else request.radius
            if radius > block.radius:
                raise Refusal("bad_radius", f"the line's radius is {block.radius}; ask for at most that")
            self._layout = Layout(request.stream, request.fields, radius, request.dtype)

    def _pull_rows(self, now: Instant, backlog_bytes_max: int, encoder: Encoder) -> Pulled:
        jumped = self._conflate(backlog_bytes_max, encoder)
        pieces, notices = self._gather(now, encoder)
        if self.reading.failure is not None:
            return Pulled(failed=self.reading.failure)
        if not pieces:
            return self._at_end(now, tuple(notices))
        if self._interval_ns and self.request.policy == "conflate" and self.clock.factor is not None:
            jumped = self._keep_last(pieces) or jumped
        last = pieces[-1]
        replayed = self._replayed
        flags = (Flag.REPLAYED if replayed else 0) | (Flag.GAP_BEFORE if notices else 0)
        flags |= Flag.CONFLATED if jumped else 0
        arrived_ns = last.block.arrived_ns
        age_us = 0 if replayed or arrived_ns < 0 else (now.wall_ns - arrived_ns) // 1000
        data = self._send(Kind.BATCH, encoder.frame(pieces), Flag(flags), age_us)
        self._rate_due_ns = now.mono_ns + self._interval_ns if self._interval_ns else 0
        self.sent = (*last.block.place, last.stop - 1)
        self.sent_t_ns = int(last.block.times[last.stop - 1])
        self.clock.shown(self.sent_t_ns)
        self._look_whether_live()
        return Pulled(data=data, notices=tuple(notices))

    def _gather(self, now: Instant, encoder: Encoder) -> tuple[list[Piece], list[dict[str, Any]]]:
        """Rows for one batch that may go now, in order, and the gaps before the first of them; they are taken."""
        pieces: list[Piece] = []
        notices: list[dict[str, Any]] = []
        room = self._room(encoder)
        while room > 0:
            piece = self.reading.peek(now.mono_ns)
            if self.reading.missing:
                if pieces:
                    break
                notices += self._tell_missing(piece)
            if self.live and self.reading.number is None:  # it fell out of the ring, and what follows is a replay
                self.live, self._caught_up_at = False, self.channel.ring.next_row
            if piece is None:
                break
            if self._leads:
                self.clock.found(_begins_ns(piece))
            self._look_whether_live()
            if pieces and self.live:
                break  # one batch is either replayed or live
            self._replayed = not self.live
            allowed = self._allowed(piece, room, now)
            if allowed is None:
                break
            self.reading.advance(allowed)
            pieces.append(allowed)
            room -= allowed.stop - allowed.start
            if self.live:
                break
        return pieces, notices

    def _room(self, encoder: Encoder) -> int:
        """Rows that one batch may have."""
        if self._interval_ns and self.request.policy == "conflate" and self.clock.factor is None:
            return 1
        if self.paused and not self.clock.shared:
            return min(encoder.rows_max, self._steps)
        return min(encoder.rows_max, self._steps) if self._steps else encoder.rows_max

    def _allowed(self, piece: Piece, room: int, now: Instant) -> Piece | None:
        """The rows of a piece that the clock lets out now; None if it lets none."""
        block, start, stop = piece
        stop = min(stop, start + room)
        times = block.times
        if self._steps:
            self._steps -= stop - start
            self.clock.step_to(int(times[stop - 1]))
            return Piece(block, start, stop)
        self.clock.begin(int(times[start]), now.mono_ns)
        limit_ns = self.clock.limit_ns(now.mono_ns)
        if int(times[stop - 1]) > limit_ns:
            stop = start + int(times[start:stop].searchsorted(limit_ns, "right"))
        if stop <= start:
            self._waits_until_ns = self.clock.due_ns(int(times[start]))
            return None
        return Piece(block, start, stop)

    def _keep_last(self, pieces: list[Piece]) -> bool:
        """A paced replay with a rate limit shows the newest row that is due; whether any were left out."""
        left_out = sum(p.stop - p.start for p in pieces) - 1
        last = pieces[-1]
        pieces[:] = [Piece(last.block, last.stop - 1, last.stop)]
        self.left_out += left_out
        self.dropped += left_out
        return left_out > 0

    def _at_end(self, now: Instant, notices: tuple[dict[str, Any], ...]) -> Pulled:
        """Nothing to send: because the tape ended, or for now."""
        if self.paused:
            self.reading.rest()
        if not self.reading.ended or self.paused or self.reading.peek(now.mono_ns) is not None:
            return Pulled(notices=notices)
        if self._digested:
            return Pulled(data=self._make_digest(now), notices=notices)
        if self._leads:
            self.clock.found(FOREVER)
        self._encoder = None  # a seek back starts another Arrow stream
        return Pulled(data=self._message(Kind.END, END_OF_STREAM), notices=notices, ended=True)

    def _conflate(self, backlog_bytes_max: int, encoder: Encoder) -> bool:
        """Jump to the newest row if the reader of what is live is too far behind; replays are not skipped."""
        self._look_whether_live()
        backlog = self.reading.backlog
        if not self.live or self.paused or self.request.policy != "conflate" or backlog <= 1:
            return False
        too_far = backlog > BACKLOG_ROWS_MAX or backlog * encoder.row_bytes > backlog_bytes_max
        gone = self.reading.number is not None and self.reading.number < self.channel.ring.first_row
        if not (self._interval_ns or too_far or gone):
            return False
        left_out = self.reading.jump()
        self.left_out += left_out
        self.dropped += left_out
        return left_out > 0

    def _look_whether_live(self) -> None:
        """A replay is live once it has shown what the ring had when it began; a paced one when its clock is there."""
        if self.live or self.paused:
            return
        number, channel = self.reading.number, self.channel
        if number is None or number < self._caught_up_at:
            return
        paced = self.clock.factor is not None
        if not paced or (
            number >= channel.ring.next_row and channel.heard and self.clock.limit_ns(self._mono_ns) >= channel.t_ns
        ):
            self.live = True
            self.clock.arrive()

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _go(self, start: Start) -> None:
        check_start(start, self.channel, self.request)
        self.reading.go(start)
        self._start = start
        self.live = start.kind == "live"
        self._caught_up_at = 0 if self.live else self.channel.ring.next_row
        self._steps = 0
        self._awaits = False
        self._rate_due_ns = 0
        self.sent = None

    @property
    def turned(self) -> bool:
        """Whether somebody on the same clock went elsewhere."""
        return self._turn != self.clock.turn

    def _follow(self) -> Pulled | None:
        """Go where the clock was led: at once if that means something here, else when the event time there is known.

        None if it stays: whoever sought left before it was known.
        """
        if self.turned:
            self._turn, self._awaits, self.live = self.clock.turn, True, False
        target = self.clock.target
        assert target is not None, "a clock turns by a seek"
        if target.kind == "cursor" or (target.kind == "bin" and not self._stream.has_bins):
            if self.clock.began_ns == NEVER:
                self._awaits = self.clock.led
                return _NOTHING if self._awaits else None
            target = Start("time", value=self.clock.began_ns)
        self._awaits = False
        self._go(target)
        return Pulled(notices=({"op": "subscribed", **self.describe()},))

    @property
    def _leads(self) -> bool:
        """Whether others wait for what it finds where it led the clock."""
        return self._led_turn == self.clock.turn

    def leave(self) -> None:
        """Its client is gone, or wants it no more."""
        self.part()
        if self._leads:
            self.clock.lost()

    def _send(self, kind: Kind, frame: Frame, flags: Flag = Flag.NONE, age_us: int = 0) -> Parts:
        if self._digest is not None:
            self._digest.update(frame.hash)
            self._digested += 1
        return self._message(kind, frame.payload, flags, age_us)

    def _make_digest(self, now: Instant) -> Parts:
        assert self._digest is not None, "something was digested"
        made = self._digest.digest()
        self._digest, self._digested, self._digest_due_ns = sha256(), 0, now.mono_ns + DIGEST_NS
        return self._message(Kind.DIGEST, made)

    def _message(self, kind: Kind, payload: bytes, flags: Flag = Flag.NONE, age_us: int = 0) -> Parts:
        header = pack_header(kind, flags, self.request.id, self.number, self.left_out, age_us)
        self.number += 1
        self.left_out = 0
        return header, payload

    def _tell_missing(self, piece: Piece | None) -> list[dict[str, Any]]:
        """Notices of what is missing before the next row.

        Raises:
            Refusal: a lossless reader fell behind everything that is kept.
            SchemaChangedError: rows came that are not as declared.
        """
        found, epoch = [], _epoch(piece)
        for missing in self.reading.missing:
            if isinstance(missing, Gap):
                if missing.schema:
                    self.reading.missing.clear()
                    raise SchemaChangedError(missing.cause)
                first, until = (missing.from_seq, 0), (missing.to_seq, 0)
            else:
                first, until = missing.first, missing.until
                if missing.retention and self.request.policy == "lossless" and not self.reading.fresh:
                    raise Refusal("slow", "rows were deleted before this lossless subscription read them")
            found.append(
                {
                    "op": "gap",
                    "from": self._cursor((*first, 0)),
                    "to": self._cursor((*until, 0)),
                    "cause": missing.cause,
                    "epoch": epoch,
                }
            )
        self.reading.missing.clear()
        return found

    def _cursor(self, row: Row) -> str:
        return self.channel.cursor(self.request.stream, row)

    def _cursor_now(self) -> str:
        """Cursor behind which it goes on: of the last row sent, of where it began, or of the newest row."""
        newest = self.channel.ring.newest
        if self.sent is not None:
            return self._cursor(self.sent)
        if self._start.kind == "cursor":
            return str(self._start.cursor)
        return self._cursor((*newest.place, newest.rows - 1)) if newest and self._start.kind == "live" else ""


def check_start(start: Start, channel: Channel, request: Request) -> None:
    """Refuse a start that is none of a stream's.

    Raises:
        Refusal: the cursor names a row of another stream, or bins are asked of a stream that has none.
    """
    if start.kind == "bin" and not stream(request.stream).has_bins:
        raise Refusal("bad_field", f"stream {request.stream} has no bins; use a cursor or @ns")
    if start.kind == "cursor" and start.cursor is not None:
        at = start.cursor
        topic = "bins" if at.stream == GRID else at.stream
        if (at.tape, at.line, topic, at.instrument) != channel.name:
            raise Refusal("bad_cursor", "the cursor names a row of another stream")


def _begins_ns(piece: Piece) -> int:
    """Event time at which the first row of a piece begins: a bin lasts, everything else happens."""
    starts = piece.block.table.get("ts_start_ns")
    return int((piece.block.times if starts is None else starts)[piece.start])


def _epoch(piece: Piece | None) -> int:
    """Epoch of the first row of a piece; 0 where the stream has none."""
    epochs = None if piece is None else piece.block.table.get("epoch")
    return 0 if piece is None or epochs is None else int(epochs[piece.start])
