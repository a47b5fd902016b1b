"""Kernels' view of the arrays whose addresses the machine record holds.

Every kernel gets one record, like the context pointer of a C library, and asks here for the arrays that it needs.
Passing the arrays themselves, alone or in named tuples, was measured at 2 microseconds a record, for reference counts
and copies of array headers, and it doubles the time of compilation; this costs nothing after inlining. The price: the
addresses must be true. They are written in one place, `memory.Memory`, which also keeps the arrays alive. What each
array holds, its shape and dtype, stands in `state.ARRAYS`.
"""

import ctypes
from collections.abc import Callable
from typing import Any, Final

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from engine._jit import i64, inlined
from engine.state import (
    BIN_DTYPE,
    HINTS,
    LEVEL_DTYPE,
    MACHINE_DTYPE,
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

ORDER_BYTES: Final = ORDER_DTYPE.itemsize
LEVEL_BYTES: Final = LEVEL_DTYPE.itemsize
PLACE_BYTES: Final = 4
KEY_BYTES: Final = 8
SLOT_BYTES: Final = 4

_typeless: Any = numba
"""numba without its partial type information."""

carray: Callable[[Any, tuple[int, ...], Any], np.ndarray] = _typeless.carray

if _typeless.config.DISABLE_JIT:  # kernels run as Python: slowly, to see which of their lines tests reach
    np.seterr(over="ignore", invalid="ignore")  # as in kernels: hashes wrap around, inf - inf is told by its result

    def _pointer(address: int) -> Any:
        return ctypes.c_void_p(int(address))

    class Element(np.void):  # type: ignore[misc]  # NumPy allows it, its stubs do not
        """An element of a structured array whose fields are attributes, even those named like attributes of arrays."""

        def __getattribute__(self, name: str) -> Any:
            fields = np.void.__getattribute__(self, "dtype").fields
            return self[name] if name in fields else np.void.__getattribute__(self, name)

        def __setattr__(self, name: str, value: Any) -> None:
            self[name] = value

    def with_attributes(array: np.ndarray) -> np.ndarray:
        """The same memory, its elements as kernels see them."""
        return array.view(np.dtype((Element, array.dtype))) if array.dtype.names else array

    def carray(pointer: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array over memory."""
        return with_attributes(_typeless.carray(pointer, shape, np.dtype(dtype)))

    def fetch_line(address: int) -> None:
        """Nothing to do here."""

    def move_bytes(to: int, source: int, count: int) -> None:
        """Copy memory that may overlap."""
        ctypes.memmove(int(to), int(source), int(count))

else:  # pragma: no cover  # compiled, or the body of what is compiled

    def with_attributes(array: np.ndarray) -> np.ndarray:
        """Nothing to do here."""
        return array

    @intrinsic
    def _pointer(_context: Any, address: Any) -> Any:
        """An address as a pointer that `carray` takes."""

        def generate(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], cgutils.voidptr_t)

        return types.voidptr(types.int64), generate

    @intrinsic
    def fetch_line(_context: Any, address: Any) -> Any:
        """Ask for the cache line of an address, to read it soon; LLVM language reference, `llvm.prefetch`."""

        def generate(target: Any, builder: Any, _signature: Any, args: Any) -> Any:
            word = ir.IntType(32)
            kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, word, word, word])
            insert: Any = cgutils.get_or_insert_function
            fetch = insert(builder.module, kind, "llvm.prefetch.p0")
            builder.call(fetch, [builder.inttoptr(args[0], cgutils.voidptr_t), word(0), word(3), word(1)])
            return target.get_dummy_value()

        return types.void(types.int64), generate

    @intrinsic
    def move_bytes(_context: Any, to: Any, source: Any, count: Any) -> Any:
        """Copy memory that may overlap; C standard library, `memmove`."""

        def generate(target: Any, builder: Any, _signature: Any, args: Any) -> Any:
            to_pointer, from_pointer = (builder.inttoptr(args[i], cgutils.voidptr_t) for i in range(2))
            move: Any = cgutils.raw_memmove
            move(builder, to_pointer, from_pointer, args[2], 1)
            return target.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), generate


@inlined
def machine_at(address: int) -> Machine:
    """The machine record (MACHINE_DTYPE) at an address, which Python hands over in a tenth of the time of an array."""
    return carray(_pointer(address), (1,), MACHINE_DTYPE)[0]


@inlined
def records_at(address: int, count: int) -> np.ndarray:
    """The caller's `count` records at an address, MBO_KERNEL_DTYPE[count]."""
    return carray(_pointer(address), (count,), MBO_KERNEL_DTYPE)


@inlined
def state_of(m: Machine) -> Record:
    """What the stream has led to."""
    return carray(_pointer(m.state_at), (1,), STATE_DTYPE)[0]


@inlined
def counts(m: Machine) -> np.ndarray:
    """Counters."""
    return carray(_pointer(m.counts_at), (10,), np.int64)


@inlined
def top_ten(m: Machine) -> np.ndarray:
    """The ten best levels after the previous event."""
    return carray(_pointer(m.top_ten_at), (2, LEVELS, 3), np.int64)


@inlined
def fresh_top(m: Machine) -> np.ndarray:
    """Scratch: the ten best levels of one side."""
    return carray(_pointer(m.fresh_top_at), (LEVELS, 3), np.int64)


@inlined
def event(m: Machine) -> np.ndarray:
    """First trade of the open event."""
    return carray(_pointer(m.event_at), (1,), MBO_KERNEL_DTYPE)


@inlined
def order_of(m: Machine, slot: int) -> Record:
    """The order in a slot; an element by its own address spares the test for an index from the end."""
    return carray(_pointer(m.orders_at + ORDER_BYTES * slot), (1,), ORDER_DTYPE)[0]


@inlined
def places(m: Machine) -> np.ndarray:
    """Hash table from order id to slot."""
    return carray(_pointer(m.places_at), (1 << m.index_bits,), np.int32)


@inlined
def entry_at(m: Machine, place: int) -> int:
    """What stands in a place of that table."""
    return i64(carray(_pointer(m.places_at + PLACE_BYTES * place), (1,), np.int32)[0])


@inlined
def set_entry(m: Machine, place: int, entry: int) -> None:
    """Write a place of that table."""
    carray(_pointer(m.places_at + PLACE_BYTES * place), (1,), np.int32)[0] = entry


@inlined
def level_of(m: Machine, slot: int) -> Record:
    """The level in a slot."""
    return carray(_pointer(m.levels_at + LEVEL_BYTES * slot), (1,), LEVEL_DTYPE)[0]


@inlined
def ladder_keys(m: Machine) -> np.ndarray:
    """Keys of each side, ascending."""
    return carray(_pointer(m.ladder_keys_at), (2, m.level_room), np.int64)


@inlined
def ladder(m: Machine) -> np.ndarray:
    """Level slot of each key."""
    return carray(_pointer(m.ladder_at), (2, m.level_room), np.int32)


@inlined
def hints(m: Machine) -> np.ndarray:
    """Level slot where a price was last found."""
    return carray(_pointer(m.hints_at), (2, HINTS), np.int32)


@inlined
def expiring(m: Machine) -> np.ndarray:
    """Synthetic orders with fills pending."""
    return carray(_pointer(m.expiring_at), (m.expiring_room,), np.int32)


@inlined
def ring_marks(m: Machine) -> np.ndarray:
    """Marks of the window."""
    return carray(_pointer(m.ring_marks_at), (m.n_ticks,), MARK_DTYPE)


@inlined
def ring_rows(m: Machine) -> np.ndarray:
    """Rows of the window."""
    return carray(_pointer(m.ring_rows_at), (m.n_ticks, ROW_FLOATS), np.float64)


@inlined
def early_marks(m: Machine) -> np.ndarray:
    """Marks until the first centre is known."""
    return carray(_pointer(m.early_marks_at), (m.early_room,), MARK_DTYPE)


@inlined
def early_rows(m: Machine) -> np.ndarray:
    """Rows until the first centre is known."""
    return carray(_pointer(m.early_rows_at), (m.early_room, ROW_FLOATS), np.float64)


@inlined
def opened(m: Machine) -> np.ndarray:
    """Places of rows inside the open bin."""
    return carray(_pointer(m.opened_at), (m.opened_room,), np.int64)


@inlined
def powers(m: Machine) -> np.ndarray:
    """Matrix powers of silent bins."""
    return carray(_pointer(m.powers_at), (POWER_DIGITS, POWER_BASE, POWER_ENTRIES), np.float64)


@inlined
def scratch(m: Machine) -> np.ndarray:
    """One row of scratch."""
    return carray(_pointer(m.scratch_at), (1, ROW_FLOATS), np.float64)


@inlined
def bin_rows(m: Machine) -> np.ndarray:
    """Buffer: scalars and levels of bins."""
    return carray(_pointer(m.bin_rows_at), (m.bin_room,), BIN_DTYPE)


@inlined
def grid_rows(m: Machine) -> np.ndarray:
    """Buffer: grid vectors of bins."""
    return carray(_pointer(m.grid_rows_at), (m.bin_room, ROW_FLOATS, 2 * m.radius + 1), np.float64)


@inlined
def touched_rows(m: Machine) -> np.ndarray:
    """Buffer: last_event_id of bins."""
    return carray(_pointer(m.touched_rows_at), (m.bin_room, 2 * m.radius + 1), np.int64)


@inlined
def trade_rows(m: Machine) -> np.ndarray:
    """Buffer: trades."""
    return carray(_pointer(m.trade_rows_at), (m.trade_room,), TRADE_DTYPE)


@inlined
def mbp_header(m: Machine) -> np.ndarray:
    """Buffer: MBP-10 records, the part before the levels."""
    return carray(_pointer(m.mbp_rows_at), (m.mbp_room,), MBP_HEADER_DTYPE)


@inlined
def mbp_px(m: Machine) -> np.ndarray:
    """Buffer: MBP-10 records as int64[rows, 46], for the prices."""
    return carray(_pointer(m.mbp_rows_at), (m.mbp_room, MBP10_BYTES // 8), np.int64)


@inlined
def mbp_u4(m: Machine) -> np.ndarray:
    """Buffer: MBP-10 records as uint32[rows, 92], for sizes and counts."""
    return carray(_pointer(m.mbp_rows_at), (m.mbp_room, MBP10_BYTES // 4), np.uint32)
