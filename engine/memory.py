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
from engine.errors import TooManyOrdersError
from engine.machine import with_attributes
from engine.state import (
    ARRAYS,
    BIN_DTYPE,
    HINTS,
    LEVEL_DTYPE,
    MACHINE_DTYPE,
    MARK_DTYPE,
    MBO_KERNEL_DTYPE,
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
    Record,
)
from schemas import bins, mbp10, trades
from schemas.units import UNDEF_PRICE

_ORDERS_MIN: Final = 1024
_LEVELS_MIN: Final = 256
_EXPIRING_MIN: Final = 64
_EARLY_MIN: Final = 1024
_FIRST_WRITTEN: Final = [name for name in MACHINE_DTYPE.names or ()].index("bin_rows")
"""Where `bin_rows`, `trade_rows`, `mbp_rows` stand in the machine record; all its fields have 8 bytes."""


class Memory:
    """Machine record and arrays of one engine; shapes and dtypes stand in `state`.

    Attributes:
        machine: MACHINE_DTYPE[1], the record that every kernel works on.
        address: Where that record is, for `driver.run`.
        arrays: The arrays by their names in `state.ARRAYS`.
        bin_room: Rows of bins that the buffers hold.
        bin_columns: Buffer of bins by the names of `bins.engine_columns`, first axis rows.
        trade_columns: Buffer of trades by the names of `trades.COLUMNS`.
    """

    def __init__(self, machine: np.ndarray, orders: int = 0, levels: int = 0, early: int = 0) -> None:
        """Empty memory.

        Args:
            machine: MACHINE_DTYPE[1] with the settings filled in.
            orders: Orders there must be room for.
            levels: Levels there must be room for.
            early: Ticks there must be room for before the first centre is known.
        """
        self.machine = machine
        self.address: int = machine.ctypes.data
        self._written = machine.view(np.int64)[_FIRST_WRITTEN : _FIRST_WRITTEN + 3]
        self.arrays: dict[str, np.ndarray] = {}
        self.bin_room = 0
        self.bin_columns: dict[str, np.ndarray] = {}
        self.trade_columns: dict[str, np.ndarray] = {}
        machine["stamp"] = 1
        self._make_state()
        self._make_grid(max(_EARLY_MIN, 4 * _power_of_two(early)))
        self._make_book(max(_ORDERS_MIN, _power_of_two(orders)), max(_LEVELS_MIN, _power_of_two(levels)))
        self.make_buffers(1)
        book.clear(self.m)
        fill_powers(self.m)

    @property
    def m(self) -> Record:
        """The machine record, for kernels."""
        return with_attributes(self.machine)[0]

    @property
    def state(self) -> Record:
        """The state record."""
        return with_attributes(self.arrays["state"])[0]

    def _make_state(self) -> None:
        state = np.zeros(1, STATE_DTYPE)
        for name in ("last_trade_px", "closed_bid_px", "closed_ask_px"):
            state[name] = UNDEF_PRICE
        state["heartbeat_bins"] = HEARTBEAT_FIRST_BINS
        top_ten = np.zeros((2, mbp10.LEVELS, 3), np.int64)
        top_ten[:, :, 0] = UNDEF_PRICE
        self.arrays |= {
            "state": state,
            "counts": np.zeros(len(NAMES), np.int64),
            "top_ten": top_ten,
            "fresh_top": np.zeros((mbp10.LEVELS, 3), np.int64),
            "event": np.zeros(1, MBO_KERNEL_DTYPE),
        }

    def _make_grid(self, early_room: int) -> None:
        n_ticks = int(self.m["n_ticks"])
        self.arrays |= {
            "ring_marks": np.zeros(n_ticks, MARK_DTYPE),
            "ring_rows": np.zeros((n_ticks, ROW_FLOATS)),
            "powers": np.zeros((POWER_DIGITS, POWER_BASE, POWER_ENTRIES)),
            "scratch": np.zeros((1, ROW_FLOATS)),
        }
        self._make_early(early_room)

    def _make_early(self, room: int) -> None:
        self.arrays |= {
            "early_marks": np.zeros(room, MARK_DTYPE),
            "early_rows": np.zeros((room, ROW_FLOATS)),
            "opened": np.zeros(max(room, int(self.m["n_ticks"])), np.int64),
        }

    def _make_book(self, order_room: int, level_room: int) -> None:
        self.arrays |= {
            "orders": np.zeros(order_room, ORDER_DTYPE),
            "places": _empty_places(order_room),
            "levels": np.zeros(level_room, LEVEL_DTYPE),
            "ladder_keys": np.zeros((2, level_room), np.int64),
            "ladder": np.zeros((2, level_room), np.int32),
            "hints": np.zeros((2, HINTS), np.int32),
            "expiring": np.zeros(max(_EXPIRING_MIN, order_room if order_room > _ORDERS_MIN else 0), np.int32),
        }

    def make_buffers(self, bin_room: int) -> None:
        """Make the buffers of rows; what they held is lost.

        Args:
            bin_room: Rows of bins to make room for, >= 1; room for trades and MBP-10 records is fixed.
        """
        width = 2 * int(self.m["radius"]) + 1
        self.arrays |= {
            "bin_rows": np.zeros(bin_room, BIN_DTYPE),
            "grid_rows": np.zeros((bin_room, ROW_FLOATS, width)),
            "touched_rows": np.zeros((bin_room, width), np.int64),
            "trade_rows": np.zeros(TRADE_ROWS_MAX, TRADE_DTYPE),
            "mbp_rows": np.zeros(MBP_ROWS_MAX, mbp10.MBP10_DTYPE),
        }
        arrays = self.arrays
        self.bin_room = bin_room
        self.bin_columns = {c.name: arrays["bin_rows"][c.name] for c in (*bins.SCALARS, *bins.LEVEL_COLUMNS)}
        self.bin_columns |= dict(zip(bins.FLOAT_VECTORS, arrays["grid_rows"].swapaxes(0, 1), strict=True))
        self.bin_columns["last_event_id"] = arrays["touched_rows"]
        self.trade_columns = {c.name: arrays["trade_rows"][c.name] for c in trades.COLUMNS}
        self._bind()

    def rows_written(self) -> tuple[int, int, int]:
        """Rows of bins, trades and MBP-10 that the last call left in the buffers."""
        n_bins, n_trades, n_mbp10 = self._written.tolist()
        return n_bins, n_trades, n_mbp10

    def _bind(self) -> None:
        """Write addresses and lengths of the arrays into the machine record, after any of them was replaced."""
        arrays = self.arrays
        for name in ARRAYS:
            self.machine[f"{name}_at"] = arrays[name].ctypes.data
        for room, name in (
            ("order_room", "orders"),
            ("expiring_room", "expiring"),
            ("level_room", "levels"),
            ("early_room", "early_marks"),
            ("opened_room", "opened"),
            ("bin_room", "bin_rows"),
            ("trade_room", "trade_rows"),
            ("mbp_room", "mbp_rows"),
        ):
            self.machine[room] = len(arrays[name])
        self.machine["index_bits"] = len(arrays["places"]).bit_length() - 1

    def live_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Marks and rows in use, by tick: MARK_DTYPE[n], float64[n, ROW_FLOATS]."""
        table = "ring" if self.state["centred"] else "early"
        marks, rows = self.arrays[f"{table}_marks"], self.arrays[f"{table}_rows"]
        live = np.flatnonzero(marks["stamp"] == self.m["stamp"])
        live = live[np.argsort(marks["tick"][live])]
        return with_attributes(marks[live]), rows[live]

    def grow(self) -> None:
        """Double every table that is at least half full.

        Raises:
            TooManyOrdersError: the order index cannot hold more; nothing has changed.
            MemoryError: there is no memory for it; nothing has changed.
        """
        arrays, machine = (
            dict(self.arrays),
            self.machine.copy(),
        )  # kernels know arrays by address: old ones must live on
        try:
            self._double_tables()
        except BaseException:
            self.arrays = arrays
            self.machine[:] = machine
            raise

    def _double_tables(self) -> None:
        m, arrays = self.m, self.arrays
        if m["orders"] == m["order_room"] == order_index.ORDERS_MAX:
            raise TooManyOrdersError(order_index.ORDERS_MAX)
        if 2 * m["orders"] >= m["order_room"] < order_index.ORDERS_MAX:
            arrays["orders"] = _doubled(arrays["orders"])
            arrays["places"] = _empty_places(len(arrays["orders"]))
            self._bind()
            order_index.rebuild(m)
        if 2 * m["levels"] >= m["level_room"]:
            for name in ("levels", "ladder_keys", "ladder"):
                arrays[name] = _doubled(arrays[name])
        if 2 * m["expiring"] >= m["expiring_room"]:
            arrays["expiring"] = _doubled(arrays["expiring"])
        if m["physics"] and not self.state["centred"] and 4 * (m["early"] + m["levels"]) >= m["early_room"]:
            marks, rows = self.live_rows()
            self._make_early(2 * len(arrays["early_marks"]))
            self._bind()
            grid.adopt(m, marks, rows)
        self._bind()


def _doubled(old: np.ndarray) -> np.ndarray:
    """A copy with twice the length along the last axis, the new half zero."""
    new = np.zeros((*old.shape[:-1], 2 * old.shape[-1]), old.dtype)
    new[..., : old.shape[-1]] = old
    return new


def _empty_places(order_room: int) -> np.ndarray:
    """An order index for so many orders: two places each."""
    return np.full(2 * order_room, NONE, np.int32)


def _power_of_two(n: int) -> int:
    """Smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()
