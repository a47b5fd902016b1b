"""One reader's way through a channel: from any place, through the past, into the ring. No I/O, no clock.

Between two rows there is a *next place*. Where the ring has it, rows come from the ring, by number; where it does not,
they come from segments of the library, until the ring has it. A row is given if it is at the next place or behind it,
so nothing comes twice at the seam, and whatever is not there is told as `Missing`, never passed over.

    past    [segment][segment] ──► ring [block][block][block] ──► live
                 ▲ next place            ▲ floor
"""

from collections.abc import Callable

from ws_gateway.catalogue import stream
from ws_gateway.channel import Channel, Gap
from ws_gateway.frames import Block, Piece
from ws_gateway.library import PLACE, RETRY_NS, Failure, Library, Missing, Segment, Want
from ws_gateway.request import Refusal, Start
from ws_gateway.rings import Row, row_from_bin, row_from_time

START: Row = (-1, 0, 0)
"""Before every row."""


class Reading:
    """Where one subscription reads.

    Attributes:
        number: ring number of the next row; None while it reads the past.
        next: place of the next row, or before it; None: wherever the ring begins.
        missing: what is missing before the row that `peek` gave; to be told, then cleared.
        failure: why it cannot go on.
    """

    __slots__ = (
        "_channel", "_filter", "_fresh", "_index", "_library", "_segment", "_tape_id", "_told", "_wake", "failure",
        "missing", "next", "number",
    )  # fmt: skip

    def __init__(self, channel: Channel, tape_id: str, library: Library | None, wake: Callable[[], None]) -> None:
        self.number: int | None = 0
        self.next: Row | None = None
        self.missing: list[Missing | Gap] = []
        self.failure: Refusal | None = None
        self._channel, self._tape_id, self._library, self._wake = channel, tape_id, library, wake
        self._segment: Segment | None = None
        self._index = 0
        self._filter: Start | None = None
        self._told = 0
        self._fresh = True

    # ---- where to --------------------------------------------------------------------------------------------------

    def go(self, start: Start) -> None:
        """Go to a start: live is the newest row there is, so that something can be seen at once."""
        ring = self._channel.ring
        self._segment, self._filter, self._fresh = None, None, True
        self.missing.clear()
        self._told = ring.next_row
        if start.kind == "live":
            self.number = max(ring.first_row, ring.next_row - 1)
            self.next = ring.row_at(self.number) if len(ring) else None
        elif start.kind == "cursor" and start.cursor is not None:
            at = start.cursor
            self._go_to((at.seq, at.part, at.row + 1))
        else:
            self._go_from(start)

    def _go_to(self, row: Row) -> None:
        ring = self._channel.ring
        self.next = row
        here = ring.covers(row) or self._library is None
        self.number = ring.number_of(row) if here else None
        self._told = self.number if self.number is not None else 0

    def _go_from(self, start: Start) -> None:
        """Go to a bin or an event time: in the ring if its first row is not behind it, else in the past."""
        ring = self._channel.ring
        self.next, self._filter = START, start
        first = ring.at(ring.first_row)[0] if len(ring) else None
        ordered = not stream(self._channel.name.topic).record  # several producers' records stand as they came
        inside = ordered and first is not None and (_first_row(first, start) > 0 or _is_bin(first, start))
        if self._library is not None and not inside:
            self.number, self._told = None, 0
            return
        self.number = (
            ring.from_bin(start.value) if start.kind == "bin" else ring.from_time(start.value, ordered=ordered)
        )
        self._told = self.number
        if self.number < ring.next_row:
            self.next = ring.row_at(self.number)

    # ---- what is there ---------------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether the tape's end was reached; look after `peek` gave nothing."""
        if self.number is None:
            segment = self._segment
            return segment is not None and segment.ended and self._index >= len(segment.blocks)
        return self._channel.ended and self.number >= self._channel.ring.next_row

    @property
    def fresh(self) -> bool:
        """Whether nothing was read since the last `go`."""
        return self._fresh

    def peek(self, mono_ns: int) -> Piece | None:
        """The rest of the next block; None if nothing is there now. Look at `missing` and `failure` first."""
        while True:
            piece = self._peek_ring() if self.number is not None else None
            if self.number is None:
                piece = self._peek_past(mono_ns)
            if piece is None or self._filter is None:
                return piece
            start = _first_row(piece.block, self._filter)
            if start < piece.block.rows:
                self._filter = None
                skipped = max(0, start - piece.start)
                if self.number is not None:
                    self.number += skipped
                self.next = (*piece.block.place, piece.start + skipped)
                return Piece(piece.block, piece.start + skipped, piece.stop)
            self._step_over(piece, piece.stop)

    def advance(self, piece: Piece) -> None:
        """Rows of the piece that `peek` gave were taken, up to before its stop."""
        self._fresh = False
        self._step_over(piece, piece.stop)

    def rest(self) -> None:
        """Hold nothing while the client takes nothing: a segment may be as large as the largest message.

        It is asked for again when there is room; so what waiting clients have in memory is what the library keeps.
        """
        segment = self._segment
        if segment is None or self.next is None or segment.ended:
            return
        told = segment.missing is None or self.next[:2] >= segment.missing.until
        if told and not self.missing:
            self._segment = None

    @property
    def at_edge(self) -> bool:
        """Whether everything that is there was taken and told, and whatever comes is next."""
        channel, ring = self._channel, self._channel.ring
        if self.number != ring.next_row or self._filter is not None or self.missing or self.failure is not None:
            return False
        newest = ring.newest
        known = (-1, 0, 0) if newest is None else (*newest.place, newest.rows)
        return (self.next is None or self.next <= known) and not (channel.gaps and channel.gaps[-1][0] >= self._told)

    def follow(self, number: int, block: Block) -> None:
        """Everything up to before a number was sent, a block last."""
        self.number = self._told = number
        self.next, self._fresh = (*block.place, block.rows), False

    def jump(self) -> int:
        """Leave out everything but the newest row of the ring; how many rows that were. Only in the ring."""
        ring = self._channel.ring
        assert self.number is not None, "rows of the past are not left out"
        left_out = max(0, ring.next_row - 1 - self.number)
        if left_out:
            self.number = ring.next_row - 1
            self.next = ring.row_at(self.number)
        return left_out

    @property
    def backlog(self) -> int:
        """Rows between the next one and the newest of the ring; 0 in the past."""
        return 0 if self.number is None else self._channel.ring.next_row - self.number

    def _step_over(self, piece: Piece, stop: int) -> None:
        self.next = (*piece.block.place, stop)
        if self.number is not None:
            self.number += stop - piece.start
        elif stop >= piece.block.rows:
            self._index += 1

    def _peek_ring(self) -> Piece | None:
        ring = self._channel.ring
        assert self.number is not None, "the caller looked"
        if self.number < ring.first_row:
            self._fall_behind()
            return None if self.number is None else self._peek_ring()
        if self.number >= ring.next_row:
            return None
        block, start = ring.at(self.number)
        if self.next is not None and (*block.place, start) < self.next:
            self.number = max(self.number + 1, ring.number_of(self.next))
            return self._peek_ring()
        self._find_gaps(self.number + block.rows - start)
        return Piece(block, start, block.rows)

    def _fall_behind(self) -> None:
        """The next row left the ring: read it in the past, or say that it is gone."""
        ring = self._channel.ring
        if self._library is not None and self.next is not None:
            self.number, self._segment = None, None
            return
        if len(ring) and self.next is not None and self.next != START:
            block, _ = ring.at(ring.first_row)
            self.missing.append(Missing(self.next[:2], block.place, "left the ring", retention=True))
        self.number = ring.first_row

    def _find_gaps(self, until: int) -> None:
        """Gaps of the source before the rows up to before number `until`, each told once."""
        if self._channel.gaps:
            for at, gap in self._channel.gaps:
                if self._told <= at < until:
                    self.missing.append(gap)
        self._told = max(self._told, until)

    def _peek_past(self, mono_ns: int) -> Piece | None:
        while True:
            segment = self._segment or self._ask(mono_ns)
            if segment is None:
                return self._peek_ring() if self.number is not None else None
            while self._index < len(segment.blocks):
                block = segment.blocks[self._index]
                start = self.next[2] if self.next is not None and block.place == self.next[:2] else 0
                if start < block.rows and (self.next is None or (*block.place, start) >= self.next):
                    return Piece(block, start, block.rows)
                self._index += 1
            if segment.ended:
                return None
            if self.next is None or self.next < (*segment.next, 0):
                self.next = (*segment.next, 0)
            if self._enter_ring():
                return self._peek_ring()
            if segment.at_end and not segment.blocks and not self._worth_asking(segment, mono_ns):
                return None
            self._segment = None

    def _worth_asking(self, segment: Segment, mono_ns: int) -> bool:
        """Whether there may be more behind a segment that had nothing: a message came about then, a moment ago."""
        heard = self._channel.heard_ns + RETRY_NS >= segment.at_ns
        return heard and mono_ns - segment.at_ns >= RETRY_NS

    def _enter_ring(self) -> bool:
        """Go on in the ring if it has the next place."""
        ring = self._channel.ring
        if self.next is None or not ring.covers(self.next):
            return False
        self.number, self._segment = ring.number_of(self.next), None
        self._told = self.number
        return True

    def _ask(self, mono_ns: int) -> Segment | None:
        """The segment with the next place, if it is there."""
        assert self._library is not None, "without a library nothing is read beyond the ring"
        found = self._library.find(self._want(), self._wake, mono_ns)
        if isinstance(found, Failure):
            self.failure = found.refusal
            return None
        if found is None:
            return None
        self._segment, self._index = found, 0
        if found.missing is not None and (self.next is None or self.next[:2] < found.missing.until):
            self.missing.append(found.missing)
        if not found.at_end:
            self._library.find(self._want_place(found.next), self._wake, mono_ns)  # the next one is read meanwhile
        return found

    def _want(self) -> Want:
        if self._filter is not None and self.next == START:
            return Want(self._channel.name, self._tape_id, self._filter)
        assert self.next is not None, "a reader of the past knows where it is"
        return self._want_place(self.next[:2])

    def _want_place(self, place: tuple[int, int]) -> Want:
        return Want(self._channel.name, self._tape_id, PLACE, place)


def _first_row(block: Block, start: Start) -> int:
    return row_from_bin(block, start.value) if start.kind == "bin" else row_from_time(block, start.value)


def _is_bin(block: Block, start: Start) -> bool:
    return start.kind == "bin" and int(block.table["bin_seq"][0]) == start.value
