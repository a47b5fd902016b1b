"""Where a replay cuts records into messages: by the file alone, so that every replay of it gives the same messages.

A message holds records of one instrument. While records of a file are walked in order, each instrument has at most one
*open* block. Let the *file time* of a record be the engine time that the whole file, taken as one stream, would have
there: it never goes back. An open block closes

- at the record that makes it `records_max` long, or
- before the first record of the file, of whatever instrument, whose time is `span_ns` or more after the block's first,
- at the end of the file.

It is then cut after the last record with F_LAST among its final `near` records, because a book may only be looked at
between events; what follows that record opens the next block. Without one near the end it is cut where it closed.

The walk is vectorised between closings, and neither the order nor the content of blocks depends on how the file was
read. A quiet instrument is closed by the time of the others, so nothing waits longer than a span; and as blocks leave
in the order in which they close, the instruments of a partition are merged by time to within one span.
"""

import heapq
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from schemas.mbo import F_LAST, RECORDS_PER_BLOCK_MAX
from schemas.units import NS_PER_MS, NS_PER_SECOND

FULL_SPEED_SPAN_NS: Final = 10 * NS_PER_SECOND
"""Event time in one block at full speed. Instruments of a partition are out of step by at most this, and a worker holds
as much of them; far below, quiet hours turn into millions of tiny messages."""

PACED_SPAN_NS: Final = 20 * NS_PER_MS
"""Wall time in one block of a paced replay. It adds to the latency that a viewer sees; at 5 ms the per-message cost
would dominate, at 100 ms a bin of the default width would arrive in one piece."""

NEAR_RECORDS: Final = 256
"""How far back from its end a block may be cut to end with an event. Events above that size are rare (large sweeps);
more would make blocks uneven, fewer would cut ordinary events."""


@dataclass(frozen=True, slots=True)
class CutRule:
    """The numbers of the rule. They stand in the tape's manifest: with them the messages are a function of the files.

    Attributes:
        records_max: records in a block at most.
        span_ns: a block holds less than this much file time, ns.
        near: records to look back for an end of event.
    """

    records_max: int = RECORDS_PER_BLOCK_MAX
    span_ns: int = FULL_SPEED_SPAN_NS
    near: int = NEAR_RECORDS

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


def rule_for_speed(speed: float, records_max: int | None = None) -> CutRule:
    """The rule of a replay at `speed` market seconds per second; infinite means full speed.

    Args:
        speed: see above.
        records_max: records in a block at most; None for as many as a message may hold.
    """
    longest = records_max or RECORDS_PER_BLOCK_MAX
    if math.isinf(speed):
        return CutRule(longest)
    return CutRule(longest, span_ns=max(1, round(PACED_SPAN_NS * speed)))


@dataclass(frozen=True, slots=True)
class Block:
    """Records of one instrument that travel together.

    Attributes:
        code: the instrument's number in its file.
        records: the records, `MBO_DTYPE`, at least one.
        first, last: place of the first and last of them among the file's MBO records.
        t_ns: file time of the last of them.
        closed_ns: file time of the record that closed the block; never goes back from block to block.
    """

    code: int
    records: np.ndarray
    first: int
    last: int
    t_ns: int
    closed_ns: int


@dataclass(slots=True)
class _Open:
    """A block in the making: parallel pieces of records, their places in the file, their file times."""

    deadline_ns: int
    first: int
    count: int = 0
    records: list[np.ndarray] = field(default_factory=list)
    places: list[np.ndarray] = field(default_factory=list)
    times: list[np.ndarray] = field(default_factory=list)

    def join(self) -> None:
        """Make each list one piece."""
        for pieces in (self.records, self.places, self.times):
            pieces[:] = [np.concatenate(pieces)] if len(pieces) > 1 else pieces


class BlockCutter:
    """Applies a rule to one file.

    Args:
        rule: the numbers.
    """

    def __init__(self, rule: CutRule) -> None:
        self._rule = rule
        self._open: dict[int, _Open] = {}
        self._deadlines: list[tuple[int, int, int]] = []  # (deadline, first, code); stale entries are skipped
        self._seen = 0
        self._now_ns = 0

    def feed(self, records: np.ndarray, codes: np.ndarray, times: np.ndarray) -> Iterator[Block]:
        """Blocks that the next records of the file close.

        Args:
            records: `MBO_DTYPE`, shape (n,), in file order; blocks may be views of them.
            codes: instrument of each, int32, shape (n,).
            times: file time of each, int64 ns, shape (n,); never goes back, also from call to call.
        """
        start, size = 0, len(records)
        while start < size:
            now = int(times[start])
            yield from self._close_due(now)
            limit = min(now + self._rule.span_ns, self._deadlines[0][0] if self._deadlines else now + (1 << 62))
            stop = int(np.searchsorted(times, limit, "left"))
            part = slice(start, stop)
            yield from self._add(records[part], codes[part], times[part])
            start = stop

    def finish(self) -> Iterator[Block]:
        """The blocks still open; the file ends."""
        for code in sorted(self._open, key=lambda c: self._open[c].first):
            while code in self._open:
                yield self._cut(code, self._open[code].count, self._now_ns)

    def _close_due(self, now_ns: int) -> Iterator[Block]:
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            _, first, code = self._deadlines[0]
            block = self._open.get(code)
            if block is None or block.first != first:
                heapq.heappop(self._deadlines)
            else:
                yield self._cut(code, block.count, now_ns)
        while self._deadlines and self._is_stale(self._deadlines[0]):
            heapq.heappop(self._deadlines)

    def _is_stale(self, entry: tuple[int, int, int]) -> bool:
        block = self._open.get(entry[2])
        return block is None or block.first != entry[1]

    def _add(self, records: np.ndarray, codes: np.ndarray, times: np.ndarray) -> Iterator[Block]:
        """Take records before the next deadline; blocks that reach their length, in the order in which they do."""
        places = np.arange(self._seen, self._seen + len(records))
        self._seen += len(records)
        self._now_ns = int(times[-1])
        full: list[tuple[int, Block]] = []
        for group in _groups(codes):
            mine = places[group]
            code = int(codes[mine[0] - places[0]])
            block = self._open.get(code) or self._begin(code, int(mine[0]), int(times[mine[0] - places[0]]))
            block.records.append(records[group])
            block.places.append(mine)
            block.times.append(times[group])
            block.count += len(mine)
            full += self._cut_full(code)
        full.sort(key=lambda closing: closing[0])
        yield from (block for _, block in full)

    def _cut_full(self, code: int) -> Iterator[tuple[int, Block]]:
        """(place of the closing record, block) while the open block is long enough."""
        longest = self._rule.records_max
        while code in self._open and self._open[code].count >= longest:
            block = self._open[code]
            block.join()
            closer = int(block.places[0][longest - 1])
            yield closer, self._cut(code, longest, int(block.times[0][longest - 1]))

    def _begin(self, code: int, first: int, t_ns: int) -> _Open:
        block = self._open[code] = _Open(t_ns + self._rule.span_ns, first)
        heapq.heappush(self._deadlines, (block.deadline_ns, first, code))
        return block

    def _cut(self, code: int, end: int, closed_ns: int) -> Block:
        """Take a block of at most `end` records off the open one; the rest opens the next."""
        old = self._open.pop(code)
        old.join()
        (records,), (places,), (times,) = old.records, old.places, old.times
        tail = np.flatnonzero(records["flags"][max(0, end - self._rule.near) : end] & F_LAST)
        if len(tail):
            end = max(0, end - self._rule.near) + int(tail[-1]) + 1
        if end < len(records):
            rest = self._begin(code, int(places[end]), int(times[end]))
            rest.count = len(records) - end
            rest.records, rest.places, rest.times = [records[end:]], [places[end:]], [times[end:]]
        return Block(code, records[:end], int(places[0]), int(places[end - 1]), int(times[end - 1]), closed_ns)


def _groups(codes: np.ndarray) -> Iterator[np.ndarray | slice]:
    """Selections of the records of each instrument, in order; a slice, which copies nothing, if there is only one."""
    if (codes == codes[0]).all():
        yield slice(None)
        return
    order = np.argsort(codes, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
