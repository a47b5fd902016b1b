"""Kernels' view of the arrays whose addresses the machine record holds.

Every kernel gets one record, like the context pointer of a C library, and asks here for the arrays that it needs.
Passing the arrays themselves, alone or in named tuples, was measured at 2 microseconds a record, for reference counts
and copies of array headers, and it doubles the time of compilation; this costs nothing after inlining. The price: the
addresses must be true. They are written in one place, `memory.Memory`, which also keeps the arrays alive.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numba import carray, types  # type: ignore[attr-defined]  # carray is public, but not in `__all__`
from numba.core import cgutils
from numba.extending import intrinsic

from engine._jit import kernel
from engine.state import (
    BIN_DTYPE,
    LEVEL_DTYPE,
    MARK_DTYPE,
    MBO_KERNEL_DTYPE,
    MBP_HEADER_DTYPE,
    ORDER_DTYPE,
    POWER_BASE,
    POWER_DIGITS,
    POWER_ENTRIES,
    ROW_FLOATS,
    STATE_DTYPE,
    TRADE_DTYPE,
    Machine,
    Record,
)
from schemas.mbp10 import LEVELS, MBP10_BYTES


def _pointer_from(_context: Any, address: Any) -> Any:
    """An address as a pointer that `carray` takes."""

    def generate(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


_pointer = cast("Callable[[int], Any]", intrinsic(_pointer_from))


@kernel
def state_of(m: Machine) -> Record:
    """What the stream has led to."""
    return carray(_pointer(m.state_at), (1,), STATE_DTYPE)[0]


@kernel
def counts(m: Machine) -> np.ndarray:
    """Counters."""
    return carray(_pointer(m.counts_at), (10,), np.int64)


@kernel
def top_ten(m: Machine) -> np.ndarray:
    """The ten best levels after the previous event."""
    return carray(_pointer(m.top_ten_at), (2, LEVELS, 3), np.int64)


@kernel
def fresh_top(m: Machine) -> np.ndarray:
    """Scratch: the ten best levels of one side."""
    return carray(_pointer(m.fresh_top_at), (LEVELS, 3), np.int64)


@kernel
def event(m: Machine) -> np.ndarray:
    """First trade of the open event."""
    return carray(_pointer(m.event_at), (1,), MBO_KERNEL_DTYPE)


@kernel
def orders(m: Machine) -> np.ndarray:
    """Slab of orders."""
    return carray(_pointer(m.orders_at), (m.order_room,), ORDER_DTYPE)


@kernel
def places(m: Machine) -> np.ndarray:
    """Hash table from order id to slot."""
    return carray(_pointer(m.places_at), (1 << m.index_bits,), np.int32)


@kernel
def levels(m: Machine) -> np.ndarray:
    """Slab of levels."""
    return carray(_pointer(m.levels_at), (m.level_room,), LEVEL_DTYPE)


@kernel
def ladder_keys(m: Machine) -> np.ndarray:
    """Keys of each side, ascending."""
    return carray(_pointer(m.ladder_keys_at), (2, m.level_room), np.int64)


@kernel
def ladder(m: Machine) -> np.ndarray:
    """Level slot of each key."""
    return carray(_pointer(m.ladder_at), (2, m.level_room), np.int32)


@kernel
def expiring(m: Machine) -> np.ndarray:
    """Synthetic orders with fills pending."""
    return carray(_pointer(m.expiring_at), (m.expiring_room,), np.int32)


@kernel
def ring_marks(m: Machine) -> np.ndarray:
    """Marks of the window."""
    return carray(_pointer(m.ring_marks_at), (m.n_ticks,), MARK_DTYPE)


@kernel
def ring_rows(m: Machine) -> np.ndarray:
    """Rows of the window."""
    return carray(_pointer(m.ring_rows_at), (m.n_ticks, ROW_FLOATS), np.float64)


@kernel
def early_marks(m: Machine) -> np.ndarray:
    """Marks until the first centre is known."""
    return carray(_pointer(m.early_marks_at), (m.early_room,), MARK_DTYPE)


@kernel
def early_rows(m: Machine) -> np.ndarray:
    """Rows until the first centre is known."""
    return carray(_pointer(m.early_rows_at), (m.early_room, ROW_FLOATS), np.float64)


@kernel
def opened(m: Machine) -> np.ndarray:
    """Places of rows inside the open bin."""
    return carray(_pointer(m.opened_at), (m.opened_room,), np.int64)


@kernel
def powers(m: Machine) -> np.ndarray:
    """Matrix powers of silent bins."""
    return carray(_pointer(m.powers_at), (POWER_DIGITS, POWER_BASE, POWER_ENTRIES), np.float64)


@kernel
def scratch(m: Machine) -> np.ndarray:
    """One row of scratch."""
    return carray(_pointer(m.scratch_at), (1, ROW_FLOATS), np.float64)


@kernel
def bin_rows(m: Machine) -> np.ndarray:
    """Buffer: scalars and levels of bins."""
    return carray(_pointer(m.bin_rows_at), (m.bin_room,), BIN_DTYPE)


@kernel
def grid_rows(m: Machine) -> np.ndarray:
    """Buffer: grid vectors of bins."""
    return carray(_pointer(m.grid_rows_at), (ROW_FLOATS, m.bin_room, 2 * m.radius + 1), np.float64)


@kernel
def touched_rows(m: Machine) -> np.ndarray:
    """Buffer: last_event_id of bins."""
    return carray(_pointer(m.touched_rows_at), (m.bin_room, 2 * m.radius + 1), np.int64)


@kernel
def trade_rows(m: Machine) -> np.ndarray:
    """Buffer: trades."""
    return carray(_pointer(m.trade_rows_at), (m.trade_room,), TRADE_DTYPE)


@kernel
def mbp_header(m: Machine) -> np.ndarray:
    """Buffer: MBP-10 records, the part before the levels."""
    return carray(_pointer(m.mbp_rows_at), (m.mbp_room,), MBP_HEADER_DTYPE)


@kernel
def mbp_px(m: Machine) -> np.ndarray:
    """Buffer: MBP-10 records as int64[rows, 46], for the prices."""
    return carray(_pointer(m.mbp_rows_at), (m.mbp_room, MBP10_BYTES // 8), np.int64)


@kernel
def mbp_u4(m: Machine) -> np.ndarray:
    """Buffer: MBP-10 records as uint32[rows, 92], for sizes and counts."""
    return carray(_pointer(m.mbp_rows_at), (m.mbp_room, MBP10_BYTES // 4), np.uint32)
