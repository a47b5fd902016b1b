"""Memory of the engine: every array that a kernel works on, made here and nowhere else.

Two kinds of memory are kept apart:

- what the stream has led to (`STATE_DTYPE`, counters, orders, rows of the grid): a snapshot holds it;
- how it happens to be laid out (`MACHINE_DTYPE`: free lists, lengths, hash tables): rebuilt by `snapshot.load`.

Integers are int64 unless a figure below says otherwise; times are ns since the epoch; prices 1e-9; sizes lots.
"""

from typing import Any, Final, TypeAlias

import numpy as np

from schemas import bins, mbo, mbp10, trades
from schemas.columns import row_dtype

Record: TypeAlias = Any
"""One element of a structured array inside a kernel; NumPy has no static type for its fields."""
Machine: TypeAlias = Record
"""The element of an array of MACHINE_DTYPE."""

BID: Final = 0
ASK: Final = 1
BUY: Final = ord("B")
SELL: Final = ord("A")
"""Sides as records spell them: of an order, or of the aggressor of a trade."""
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

ARRAYS: Final = (
    "state",  # STATE_DTYPE[1]
    "counts",  # int64[10], see `counters`
    "top_ten",  # int64[2, 10, 3]: price, size, count after the previous event
    "fresh_top",  # int64[10, 3]: scratch for one side of it
    "event",  # MBO_KERNEL_DTYPE[1]: first trade of the open event
    "orders",  # ORDER_DTYPE[order_room]
    "places",  # int32[2^index_bits]: slot of an order, or NONE
    "levels",  # LEVEL_DTYPE[level_room]
    "ladder_keys",  # int64[2, level_room], ascending; the best level of a side is the last
    "ladder",  # int32[2, level_room]: level slot of each key
    "hints",  # int32[2, HINTS]: where the level of a price was last, see book.level_at
    "expiring",  # int32[expiring_room]: synthetic orders with fills pending
    "ring_marks",  # MARK_DTYPE[n_ticks], at tick modulo n_ticks
    "ring_rows",  # float64[n_ticks, ROW_FLOATS]
    "early_marks",  # MARK_DTYPE[early_room]: hash table until the first centre is known
    "early_rows",  # float64[early_room, ROW_FLOATS]
    "opened",  # int64[opened_room]: places of rows inside the open bin
    "powers",  # float64[POWER_DIGITS, POWER_BASE, POWER_ENTRIES]
    "scratch",  # float64[1, ROW_FLOATS]
    "bin_rows",  # BIN_DTYPE[bin_room]
    "grid_rows",  # float64[bin_room, ROW_FLOATS, 2 radius + 1]: the writer of a bin stays within a few pages
    "touched_rows",  # int64[bin_room, 2 radius + 1]
    "trade_rows",  # TRADE_DTYPE[trade_room]
    "mbp_rows",  # MBP-10 records, mbp_room of them
)
"""Arrays of an engine. `memory` makes and grows them, `machine` gives kernels the view of each."""

MACHINE_DTYPE: Final = np.dtype(
    [
        # settings, see engine.EngineConfig
        ("tick_px", "i8"),
        ("unit_px", "i8"),  # width of one grid tick: tick_px * bucket
        ("cell_ns", "i8"),
        ("radius", "i8"),
        ("n_ticks", "i8"),
        ("dense", "i8"),
        ("physics", "i8"),
        ("mbp10", "i8"),
        ("max_future_ns", "i8"),
        # one over the time constants, 1/s: a multiplication for each step instead of a division
        ("rate_v", "f8"),
        ("rate_a", "f8"),
        ("rate_j", "f8"),
        ("rate_mass", "f8"),
        # what is in use
        ("index_bits", "i8"),  # the order index has 2^index_bits places
        ("orders", "i8"),  # orders that rest
        ("order_free", "i8"),  # head of the free list, linked by `next`
        ("order_used", "i8"),  # slots ever used; those above are untouched
        ("levels", "i8"),
        ("level_free", "i8"),
        ("level_used", "i8"),
        ("bid_levels", "i8"),
        ("ask_levels", "i8"),
        ("best_bid", "i8"),  # slot of the best level
        ("best_ask", "i8"),
        ("expiring", "i8"),
        ("stamp", "i8"),  # rows of the grid with another stamp are void
        ("opened", "i8"),
        ("early", "i8"),  # ticks in the table that is used before the first centre
        # weights of the last step, see chains.set_weights
        ("dt_ns", "i8"),
        ("gain_v", "f8"),
        ("gain_a", "f8"),
        ("gain_j", "f8"),
        ("keep_v", "f8"),
        ("keep_a", "f8"),
        ("keep_j", "f8"),
        ("keep_mass", "f8"),
        # rows written in this call
        ("bin_rows", "i8"),
        ("trade_rows", "i8"),
        ("mbp_rows", "i8"),
        # lengths of arrays
        ("order_room", "i8"),
        ("level_room", "i8"),
        ("expiring_room", "i8"),
        ("early_room", "i8"),
        ("opened_room", "i8"),
        ("bin_room", "i8"),
        ("trade_room", "i8"),
        ("mbp_room", "i8"),
        # addresses of arrays, see `machine`
        *((f"{name}_at", "i8") for name in ARRAYS),
    ]
)
"""Settings, layout and whereabouts of one engine's memory: the one argument that every kernel gets."""

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

HINT_BITS: Final = 12
HINTS: Final = 1 << HINT_BITS
"""Prices per side whose level is found at once: far more than levels near the market, and 16 KiB, half of the fastest
cache."""

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
