"""Rings: the newest rows of every stream, in memory, under one budget.

A ring is a queue of blocks whose rows are numbered from 0 since the gateway started; a number never changes, so a
subscription is nothing but the number of the row it wants next. What is beyond the ring's start is gone and said so.

    first_row ────────────────► next_row
    [block 17][block 18][block 19]
          ▲ a reader's next row

All rings share one budget. When it is exceeded the oldest block of all goes first, so a quiet instrument keeps its few
rows until they really are the oldest.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from typing import Final

from ws_gateway.frames import Block, Place

Row = tuple[int, int, int]
"""(seq, part, row): the place of one row."""

RING_BYTES_MAX: Final = 256 << 20
"""Memory of the blocks that all rings keep: some 24 minutes of one instrument at 10 bins a second and radius 50. More
costs memory of the process one to one; with less, clients that come back late get a gap instead of their rows."""


class Ring:
    """The newest blocks of one stream of one instrument.

    Attributes:
        first_row, next_row: numbers of the oldest row, and of the one after the newest.
        floor: place from which on nothing is missing here; None until a message was heard.
    """

    def __init__(self) -> None:
        self.first_row = 0
        self.next_row = 0
        self.floor: Place | None = None
        self._blocks: deque[Block] = deque()
        self._starts: deque[int] = deque()

    def __len__(self) -> int:
        return self.next_row - self.first_row

    @property
    def newest(self) -> Block | None:
        """The last block, or None while the ring is empty."""
        return self._blocks[-1] if self._blocks else None

    @property
    def newest_start(self) -> int:
        """Number of the last block's first row; -1 while the ring is empty."""
        return self._starts[-1] if self._starts else -1

    def append(self, block: Block) -> None:
        """Add a block that has rows."""
        assert block.rows > 0, "empty blocks have no place in a ring"
        self.heard(block.place)
        self._blocks.append(block)
        self._starts.append(self.next_row)
        self.next_row += block.rows

    def heard(self, place: Place) -> None:
        """Note a message, with rows or without: the first one is where the ring begins to know everything."""
        if self.floor is None:
            self.floor = place

    def covers(self, row: Row) -> bool:
        """Whether every row from `row` on is here, or will be when it comes."""
        return self.floor is not None and self.floor <= row[:2]

    def row_at(self, number: int) -> Row:
        """Place of a row by its number; `first_row <= number < next_row`."""
        block, row = self.at(number)
        return block.seq, block.part, row

    def drop_oldest(self) -> Block:
        """Remove the oldest block and return it; the ring must not be empty."""
        block = self._blocks.popleft()
        self.floor = (block.seq, block.part + 1)
        self._starts.popleft()
        self.first_row = self._starts[0] if self._starts else self.next_row
        return block

    def at(self, row: int) -> tuple[Block, int]:
        """The block that holds a row, and the row's place in it; `first_row <= row < next_row`."""
        assert self.first_row <= row < self.next_row, f"row {row} is not in [{self.first_row}, {self.next_row})"
        index = bisect_right(self._starts, row) - 1
        return self._blocks[index], row - self._starts[index]

    def number_of(self, row: Row) -> int:
        """Number of the first row at a place or after it; `next_row` if there is none yet."""
        index = bisect_left(self._blocks, row[:2], key=lambda b: (b.seq, b.part))
        if index == len(self._blocks):
            return self.next_row
        block = self._blocks[index]
        return self._starts[index] + (min(row[2], block.rows) if block.place == row[:2] else 0)

    def from_bin(self, bin_seq: int) -> int:
        """Number of the first row whose bin is `bin_seq` or later; `next_row` if there is none yet."""
        return self._lower_bound("bin_seq", bin_seq)

    def from_time(self, t_ns: int, *, ordered: bool = True) -> int:
        """Number of the first row at or after an event time, see `row_from_time`.

        Args:
            t_ns: the time.
            ordered: whether blocks are in the order of their times.
        """

        def reaches(block: Block) -> bool:
            return row_from_time(block, t_ns) < block.rows

        if ordered:
            index = bisect_left(self._blocks, True, key=reaches)
        else:
            index = next((i for i, block in enumerate(self._blocks) if reaches(block)), len(self._blocks))
        if index == len(self._blocks):
            return self.next_row
        return self._starts[index] + row_from_time(self._blocks[index], t_ns)

    def _lower_bound(self, column: str, value: int) -> int:
        index = bisect_left(self._blocks, value, key=lambda b: int(b.table[column][-1]))
        if index == len(self._blocks):
            return self.next_row
        return self._starts[index] + int(self._blocks[index].table[column].searchsorted(value))


def row_from_time(block: Block, t_ns: int) -> int:
    """First row of a block that ends after `t_ns` (rows that cover an interval), or is stamped at or after it."""
    return int(block.times.searchsorted(t_ns, "right" if block.time == "ts_end_ns" else "left"))


def row_from_bin(block: Block, bin_seq: int) -> int:
    """First row of a block whose bin is `bin_seq` or later."""
    return int(block.table["bin_seq"].searchsorted(bin_seq))


class Budget:
    """Bytes that all rings together may hold, oldest out first."""

    def __init__(self, limit_bytes: int = RING_BYTES_MAX) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._order: deque[tuple[int, Ring]] = deque()

    def append(self, ring: Ring, block: Block) -> None:
        """Put a block into its ring, then drop the oldest blocks of all rings until the budget holds again."""
        ring.append(block)
        self._order.append((block.nbytes, ring))
        self.held_bytes += block.nbytes
        while self.held_bytes > self.limit_bytes and len(self._order) > 1:
            nbytes, oldest = self._order.popleft()
            self.held_bytes -= nbytes
            if len(oldest):
                oldest.drop_oldest()

    def forget(self, ring: Ring) -> None:
        """Give back what a ring that is no longer served held."""
        kept = deque((n, r) for n, r in self._order if r is not ring)
        self.held_bytes = sum(n for n, _ in kept)
        self._order = kept
