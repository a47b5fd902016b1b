"""The arrays of one engine: made, grown and handed to kernels here.

Kernels never allocate. They stop before a record for which there may be no room; `grow` then doubles whatever is at
least half full, and the same record is tried again. Starting sizes suit a quiet instrument.
"""

from typing import Final

import numpy as np

from engine import book, grid, order_index
from engine.bins import HEARTBEAT_FIRST_BINS
from engine.chains import fill_powers
from engine.counters import NAMES
from engine.state import (
    BIN_DTYPE,
    HEAP_DTYPE,
    LEVEL_DTYPE,
    MARK_DTYPE,
    MBO_KERNEL_DTYPE,
    MBP_HEADER_DTYPE,
    MBP_ROWS_MAX,
    NONE,
    ORDER_DTYPE,
    POWER_BASE,
    POWER_DIGITS,
    POWER_ENTRIES,
    ROW_FLOATS,
    STATE_DTYPE,
    TRADE_DTYPE,
    TRADE_ROWS_MAX,
    Book,
    Grid,
)
from schemas import mbp10
from schemas.units import UNDEF_PRICE

_ORDERS_MIN: Final = 1024
_LEVELS_MIN: Final = 256
_EXPIRING_MIN: Final = 64
_EARLY_MIN: Final = 1024


def _larger(old: np.ndarray, size: int) -> np.ndarray:
    """A copy with another length of the last axis, the new part zero."""
    new = np.zeros((*old.shape[:-1], size), old.dtype)
    new[..., : old.shape[-1]] = old
    return new


class Memory:
    """State, tables and buffers of one engine; shapes and dtypes stand in `state`."""

    def __init__(self, config: np.ndarray, orders: int = 0, levels: int = 0, early: int = 0) -> None:
        """Empty memory with room for at least so many orders, levels and early ticks."""
        n_ticks = int(config[0]["n_ticks"])
        self.config = config
        self.state = np.zeros(1, STATE_DTYPE)
        for name in ("last_trade_px", "closed_bid_px", "closed_ask_px"):
            self.state[name] = UNDEF_PRICE
        self.state["heartbeat_bins"] = HEARTBEAT_FIRST_BINS
        self.counts = np.zeros(len(NAMES), np.int64)
        self.top_ten = np.zeros((2, mbp10.LEVELS, 3), np.int64)
        self.top_ten[:, :, 0] = UNDEF_PRICE
        self.fresh_top = np.zeros((mbp10.LEVELS, 3), np.int64)
        self.event = np.zeros(1, MBO_KERNEL_DTYPE)

        self.heap = np.zeros(1, HEAP_DTYPE)
        self.heap["stamp"] = 1
        self._set_order_room(max(_ORDERS_MIN, _power_of_two(orders)))
        self._set_level_room(max(_LEVELS_MIN, _power_of_two(levels)))
        self.expiring = np.zeros(max(_EXPIRING_MIN, len(self.orders) if orders else 0), np.int32)
        book.clear(self.book())

        self.marks = np.zeros(n_ticks, MARK_DTYPE)
        self.rows = np.zeros((n_ticks, ROW_FLOATS))
        self._set_early_room(max(_EARLY_MIN, 4 * _power_of_two(early)))
        self.powers = np.zeros((POWER_DIGITS, POWER_BASE, POWER_ENTRIES))
        self.scratch = np.zeros((1, ROW_FLOATS))
        fill_powers(self.heap[0], config[0], self.powers)
        self.set_rows_max(1)

    def _set_order_room(self, size: int) -> None:
        old = getattr(self, "orders", np.zeros(0, ORDER_DTYPE))
        self.orders = _larger(old, size)
        self.index = np.full(2 * size, NONE, np.int32)
        self.heap["index_bits"] = (2 * size).bit_length() - 1

    def _set_level_room(self, size: int) -> None:
        self.levels = _larger(getattr(self, "levels", np.zeros(0, LEVEL_DTYPE)), size)
        self.ladder_keys = _larger(getattr(self, "ladder_keys", np.zeros((2, 0), np.int64)), size)
        self.ladder = _larger(getattr(self, "ladder", np.zeros((2, 0), np.int32)), size)

    def _set_early_room(self, size: int) -> None:
        self.early_marks = np.zeros(size, MARK_DTYPE)
        self.early_rows = np.zeros((size, ROW_FLOATS))
        self.opened = np.zeros(max(size, len(self.marks)), np.int64)

    def set_rows_max(self, rows_max: int) -> None:
        """Make the buffers of rows; what they held is lost."""
        width = 2 * int(self.config[0]["radius"]) + 1
        self.bin_rows = np.zeros(rows_max, BIN_DTYPE)
        self.grid_rows = np.zeros((ROW_FLOATS, rows_max, width))
        self.touched_rows = np.zeros((rows_max, width), np.int64)
        self.trade_rows = np.zeros(TRADE_ROWS_MAX, TRADE_DTYPE)
        self.mbp_rows = np.zeros(MBP_ROWS_MAX, mbp10.MBP10_DTYPE)

    def book(self) -> Book:
        """The book's tables as kernels take them."""
        return Book(self.heap[0], self.orders, self.index, self.levels, self.ladder_keys, self.ladder, self.expiring)

    def grid(self) -> Grid:
        """The grid's tables as kernels take them."""
        return Grid(
            self.heap[0],
            self.marks,
            self.rows,
            self.early_marks,
            self.early_rows,
            self.opened,
            self.powers,
            self.scratch,
        )

    def live_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Marks and rows in use, by tick: MARK_DTYPE[n], float64[n, ROW_FLOATS]."""
        marks, rows = (self.marks, self.rows) if self.state[0]["centred"] else (self.early_marks, self.early_rows)
        live = np.flatnonzero(marks["stamp"] == self.heap[0]["stamp"])
        live = live[np.argsort(marks["tick"][live])]
        return marks[live], rows[live]

    def grow(self) -> None:
        """Double every table that is more than half full."""
        heap = self.heap[0]
        if 2 * heap["orders"] >= len(self.orders):
            self._set_order_room(2 * len(self.orders))
            order_index.rebuild(self.book())
        if 2 * heap["levels"] >= len(self.levels):
            self._set_level_room(2 * len(self.levels))
        if 2 * heap["expiring"] >= len(self.expiring):
            self.expiring = _larger(self.expiring, 2 * len(self.expiring))
        if not self.state[0]["centred"] and 4 * (heap["early"] + heap["levels"]) >= len(self.early_marks):
            marks, rows = self.live_rows()
            self._set_early_room(2 * len(self.early_marks))
            grid.adopt(self.state[0], self.grid(), marks, rows)

    def arguments(self) -> tuple[np.ndarray, ...]:
        """The arrays of `driver.run`, in its order, from `config` on."""
        header = self.mbp_rows.view(MBP_HEADER_DTYPE)
        px = self.mbp_rows.view(np.int64).reshape(len(header), -1)
        u4 = self.mbp_rows.view(np.uint32).reshape(len(header), -1)
        book_arrays = (self.orders, self.index, self.levels, self.ladder_keys, self.ladder, self.expiring)
        grid_arrays = (self.marks, self.rows, self.early_marks, self.early_rows, self.opened, self.powers, self.scratch)
        sinks = (self.bin_rows, self.grid_rows, self.touched_rows, self.trade_rows, header, px, u4)
        top = (self.top_ten, self.fresh_top, self.event)
        return (self.config, self.state, self.heap, self.counts, *book_arrays, *grid_arrays, *sinks, *top)


def _power_of_two(n: int) -> int:
    """Smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()
