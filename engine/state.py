"""Memory of the engine: every array that a kernel works on, made here and nowhere else.

Kernels get these arrays in small named tuples, free after compilation. Two kinds of memory are kept apart:

- what the stream has led to (`State`, counters, orders, rows of the grid): a snapshot holds it;
- how it happens to be laid out (`Heap`: free lists, sizes, hash tables): rebuilt by `snapshot.restore`.

Integers are int64 unless a figure below says otherwise; times are ns since the epoch; prices 1e-9; sizes lots.
"""

from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from schemas import bins, mbo, mbp10, trades
from schemas.columns import row_dtype

Record: TypeAlias = Any
"""One element of a structured array inside a kernel; NumPy has no static type for its fields."""
Config: TypeAlias = Record
State: TypeAlias = Record
Heap: TypeAlias = Record
Counts: TypeAlias = np.ndarray
"""int64[10], see `counters`."""

BID: Final = 0
ASK: Final = 1
NONE: Final = -1
"""No slot."""

PARTIAL: Final = 0
SNAPSHOT: Final = 1
VALID: Final = 2
SUSPECT: Final = 3

MBO_KERNEL_DTYPE: Final = np.dtype(
    [(field[0], "u1" if field[1] == "|S1" else field[1]) for field in mbo.MBO_DTYPE.descr],
)
"""The record as kernels read it: action and side as bytes, else `schemas.mbo.MBO_DTYPE`."""

CONFIG_DTYPE: Final = np.dtype(
    [
        ("tick_px", "i8"),
        ("unit_px", "i8"),
        ("cell_ns", "i8"),
        ("radius", "i8"),
        ("n_ticks", "i8"),
        ("dense", "i8"),
        ("mbp10", "i8"),
        ("max_future_ns", "i8"),
        ("tau_v_s", "f8"),
        ("tau_a_s", "f8"),
        ("tau_j_s", "f8"),
        ("tau_mass_s", "f8"),
    ]
)

STATE_DTYPE: Final = np.dtype(
    [
        # time
        ("t_ns", "i8"),
        ("has_time", "i8"),  # 0 until the first record or clock message
        ("started", "i8"),  # 0 until the first record
        ("bin_seq", "i8"),  # the open bin
        # the stream so far
        ("event_id", "i8"),
        ("last_sequence", "i8"),
        ("book_state", "i8"),
        ("suspect_after", "i8"),  # 1: the snapshot being received ends in SUSPECT
        ("snapshot_t_ns", "i8"),  # time of the last snapshot record
        ("bins_since_reset", "i8"),
        ("epoch", "i8"),
        ("last_trade_px", "i8"),
        # grid
        ("reset_t_ns", "i8"),  # every tick that is not stored stands at zero since then
        ("centred", "i8"),
        ("centre", "i8"),
        # best quotes at the end of the previous bin; UNDEF_PRICE if missing
        ("closed_bid_px", "i8"),
        ("closed_ask_px", "i8"),
        # emission
        ("emitted_seq", "i8"),
        ("heartbeat_bins", "i8"),
        ("bins_emitted", "i8"),
        # previous point of the order-flow imbalance
        ("ofi_valid", "i8"),
        ("ofi_bid_px", "i8"),
        ("ofi_bid_sz", "i8"),
        ("ofi_ask_px", "i8"),
        ("ofi_ask_sz", "i8"),
        # open MBP-10 event
        ("event_has_trade", "i8"),
        # sums of the open bin
        ("event_count", "i8"),
        ("trade_count", "i8"),
        ("trade_buy_sz", "i8"),
        ("trade_sell_sz", "i8"),
        ("trade_none_sz", "i8"),
        ("trade_notional", "f8"),
        ("ofi", "f8"),
        ("flags", "i8"),
        ("add_count", "i8"),
        ("cancel_count", "i8"),
        ("modify_count", "i8"),
        ("fill_count", "i8"),
    ]
)

HEAP_DTYPE: Final = np.dtype(
    [
        ("index_bits", "i8"),  # the order index has 2^index_bits places
        ("orders", "i8"),  # orders that rest
        ("order_free", "i8"),  # head of the free list, linked by `next`
        ("order_used", "i8"),  # slots ever used; those above are untouched
        ("levels", "i8"),
        ("level_free", "i8"),
        ("level_used", "i8"),
        ("bid_levels", "i8"),
        ("ask_levels", "i8"),
        ("expiring", "i8"),
        ("stamp", "i8"),  # rows of the grid with another stamp are void
        ("opened", "i8"),
        ("early", "i8"),  # ticks in the table that is used before the first centre
        # weights of the last step, see chains.weights
        ("dt_ns", "i8"),
        ("dt_s", "f8"),
        ("alpha_v", "f8"),
        ("alpha_a", "f8"),
        ("alpha_j", "f8"),
        ("mass_factor", "f8"),
        # rows written in this call
        ("bin_rows", "i8"),
        ("trade_rows", "i8"),
        ("mbp_rows", "i8"),
    ]
)

ORDER_DTYPE: Final = np.dtype(
    [
        ("id", "u8"),
        ("pending", "i8"),  # lots of fills not yet taken off by a cancel or modify; bit 62: see book.SYNTHETIC
        ("size", "u4"),
        ("level", "i4"),
        ("prev", "i4"),  # towards the front of the queue
        ("next", "i4"),
    ]
)
"""32 bytes; with two places of 4 bytes in the index, an order costs 40."""

LEVEL_DTYPE: Final = np.dtype(
    [
        ("px", "i8"),
        ("tick", "i8"),
        ("size", "i8"),
        ("count", "i4"),
        ("head", "i4"),  # front of the queue; next free level while the level is free
        ("tail", "i4"),
        ("side", "i1"),
        ("off_tick", "i1"),
        ("_pad", "i2"),
    ]
)

MARK_DTYPE: Final = np.dtype(
    [
        ("tick", "i8"),
        ("stamp", "i8"),
        ("bin_seq", "i8"),  # the row stands in this bin: at its start, or inside it if `open`
        ("last_t_ns", "i8"),
        ("dt_last_ns", "i8"),
        ("last_event_id", "i8"),
        ("open", "i8"),  # 1: listed in `opened`, to be advanced when the bin closes
    ]
)

CHAINS: Final = 5
ADD, PULL, FILL, BID_DEPTH, ASK_DEPTH = 0, 1, 2, 3, 4
ADD_MASS, PULL_MASS, FILL_MASS, BID_LOTS, ASK_LOTS = 0, 1, 2, 3, 4
V, A, J = 5, 10, 15
ROW_FLOATS: Final = 20
"""A row of the grid: three masses, two depths, then v, a, j of five chains; the order of `bins.FLOAT_VECTORS`."""

POWER_DIGITS: Final = 11
POWER_BASE: Final = 64
POWER_ENTRIES: Final = 6
"""Shape of the table of matrix powers, see chains."""

BIN_DTYPE: Final = np.dtype(
    [(c.name, c.dtype, (c.width,)) if c.width else (c.name, c.dtype) for c in (*bins.SCALARS, *bins.LEVEL_COLUMNS)],
    align=True,
)
TRADE_DTYPE: Final = row_dtype(trades.COLUMNS)

MBP_HEADER_DTYPE: Final = np.dtype(
    {
        "names": list((mbp10.MBP10_DTYPE.names or ())[:14]),
        "formats": ["u1", "u1", "u2", "u4", "u8", "i8", "u4", "u1", "u1", "u1", "u1", "u8", "i4", "u4"],
        "offsets": [0, 1, 2, 4, 8, 16, 24, 28, 29, 30, 31, 32, 40, 44],
        "itemsize": mbp10.MBP10_BYTES,
    }
)
"""The part of an MBP-10 record before its levels, action and side as bytes."""

TRADE_ROWS_MAX: Final = 4096
"""Trades per call before it returns early; one raw message has at most that many records."""
MBP_ROWS_MAX: Final = 1024
"""MBP-10 records per call before it returns early: 368 KiB of buffer."""


class Book(NamedTuple):
    """The full order book; see `book`."""

    heap: Heap
    orders: np.ndarray  # ORDER_DTYPE[capacity]
    places: np.ndarray  # int32[2^index_bits], slot of an order or NONE
    levels: np.ndarray  # LEVEL_DTYPE[capacity]
    ladder_keys: np.ndarray  # int64[2, capacity], ascending; the best level of a side is the last
    ladder: np.ndarray  # int32[2, capacity], level slot of each key
    expiring: np.ndarray  # int32[capacity], synthetic orders with fills pending


class Grid(NamedTuple):
    """Physics per tick; see `grid`."""

    heap: Heap
    marks: np.ndarray  # MARK_DTYPE[n_ticks], at tick modulo n_ticks
    rows: np.ndarray  # float64[n_ticks, ROW_FLOATS]
    early_marks: np.ndarray  # MARK_DTYPE[2^m], hash table until the first centre is known
    early_rows: np.ndarray  # float64[2^m, ROW_FLOATS]
    opened: np.ndarray  # int64[max(n_ticks, 2^m)], rows inside the open bin
    powers: np.ndarray  # float64[POWER_DIGITS, POWER_BASE, POWER_ENTRIES]
    scratch: np.ndarray  # float64[1, ROW_FLOATS]


class Sinks(NamedTuple):
    """Buffers of the rows that a call writes."""

    bins: np.ndarray  # BIN_DTYPE[rows]
    grid: np.ndarray  # float64[ROW_FLOATS, rows, width]
    touched: np.ndarray  # int64[rows, width]
    trades: np.ndarray  # TRADE_DTYPE[TRADE_ROWS_MAX]
    mbp_header: np.ndarray  # three views of the same MBP-10 records: MBP_HEADER_DTYPE[rows] ...
    mbp_px: np.ndarray  # ... int64[rows, 46]
    mbp_u4: np.ndarray  # ... uint32[rows, 92]


class Machine(NamedTuple):
    """Everything a kernel may need."""

    config: Config
    state: State
    counts: Counts
    book: Book
    grid: Grid
    sinks: Sinks
    top_ten: np.ndarray  # int64[2, 10, 3]: price, size, count after the previous event
    fresh_top: np.ndarray  # int64[10, 3]: scratch for one side of it
    event: np.ndarray  # MBO_KERNEL_DTYPE[1]: first trade of the open event
