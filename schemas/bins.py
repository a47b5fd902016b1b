"""Bins: one row for each interval of event time in which something happened, with the grid around the mid.

`design` words: *bin* n covers event times [nD, (n+1)D) for a cell width of D ns; *k* is the distance in ticks from
`spot_tick`; a grid vector has 2R+1 elements, element i is k = i - R. The engine computes the rows (`engine.bins`), the
books stage puts `tick_px` and `bucket` before them and sends them as Arrow.

Four vectors that users expect (`rest_depth` and its v, a, j) are sums of a bid and an ask vector. They are not stored;
`with_rest_depth` adds them for readers, SQL views do the same.
"""

from typing import Final

import numpy as np

from schemas.columns import Column, Table

LEVELS: Final = 10
"""Best levels kept per side and bin."""

RADIUS_DEFAULT: Final = 50
"""Ticks on each side of the mid in the grid; 101 cells, as the original system shows."""

CELL_NS_DEFAULT: Final = 100_000_000
"""Width of a bin, ns."""

CHAINS: Final = ("add", "pull", "fill", "bid_depth", "ask_depth")
"""Quantities of which the engine keeps velocity, acceleration and jerk per tick."""

HEADER: Final = (
    Column("tick_px", "i8", "1e-9", "tick size in force"),
    Column("bucket", "i8", "ticks", "ticks of the venue in one grid tick; 1 unless the venue's ticks are very fine"),
)

SCALARS: Final = (
    Column("bin_seq", "i8", "bins", "number of the bin: engine time divided by the cell width, floor"),
    Column("ts_start_ns", "i8", "ns", "start of the bin, inclusive"),
    Column("ts_end_ns", "i8", "ns", "end of the bin, exclusive"),
    Column("event_id", "i8", "records", "records of the instrument so far"),
    Column("event_count", "i4", "records", "records in this bin"),
    Column("book_state", "i1", "code", "0 PARTIAL, 1 SNAPSHOT, 2 VALID, 3 SUSPECT, at the bin end"),
    Column("bins_since_reset", "i8", "bins", "bin ends since the last reset or snapshot end; 0 where it happened"),
    Column("best_bid_px", "i8", "1e-9", "best bid of the whole book; UNDEF_PRICE if the side is empty"),
    Column("best_ask_px", "i8", "1e-9", "best ask of the whole book; UNDEF_PRICE if the side is empty"),
    Column("best_bid_sz", "i8", "lots", "size at the best bid; 0 if empty"),
    Column("best_ask_sz", "i8", "lots", "size at the best ask; 0 if empty"),
    Column("best_bid_ct", "i4", "orders", "orders at the best bid; 0 if empty"),
    Column("best_ask_ct", "i4", "orders", "orders at the best ask; 0 if empty"),
    Column("mid_px", "i8", "1e-9", "mean of best bid and ask, floor; UNDEF_PRICE unless both sides are present"),
    Column("spot_tick", "i8", "ticks", "nearest tick to the mid, halves up; 0 without a mid"),
    Column("best_bid_move", "i4", "ticks", "best bid against the previous closed bin; 0 if missing in either"),
    Column("best_ask_move", "i4", "ticks", "best ask against the previous closed bin; 0 if missing in either"),
    Column("bid_sign", "i1", "sign", "sign of best_bid_move"),
    Column("ask_sign", "i1", "sign", "sign of best_ask_move"),
    Column("microstate", "i1", "code", "(ask_sign + 1) * 3 + (bid_sign + 1)"),
    Column("chase_up", "i1", "0/1", "both best quotes rose"),
    Column("chase_down", "i1", "0/1", "both best quotes fell"),
    Column("trade_count", "i4", "trades", "trades in this bin"),
    Column("trade_buy_sz", "i8", "lots", "size of trades with a buying aggressor"),
    Column("trade_sell_sz", "i8", "lots", "size of trades with a selling aggressor"),
    Column("trade_none_sz", "i8", "lots", "size of trades without an aggressor"),
    Column("last_trade_px", "i8", "1e-9", "price of the last trade so far; UNDEF_PRICE if none"),
    Column("trade_notional", "f8", "currency * lots", "sum of price times size over the trades of this bin"),
    Column("ofi", "f8", "lots", "order-flow imbalance of Cont, Kukanov and Stoikov (2014), summed over the bin"),
    Column("flags", "i4", "bits", "counters that rose in this bin, see engine.counters"),
    Column("epoch", "i8", "count", "+1 at each reset, snapshot end and change to SUSPECT"),
    Column("add_count", "i4", "records", "adds applied in this bin"),
    Column("cancel_count", "i4", "records", "cancels applied in this bin"),
    Column("modify_count", "i4", "records", "modifies applied in this bin"),
    Column("fill_count", "i4", "records", "fills applied in this bin"),
)

LEVEL_COLUMNS: Final = (
    Column("bid_px", "i8", "1e-9", "ten best bids, best first; UNDEF_PRICE where missing", LEVELS),
    Column("bid_sz", "i8", "lots", "their sizes; 0 where missing", LEVELS),
    Column("bid_ct", "i4", "orders", "their order counts; 0 where missing", LEVELS),
    Column("ask_px", "i8", "1e-9", "ten best asks, best first; UNDEF_PRICE where missing", LEVELS),
    Column("ask_sz", "i8", "lots", "their sizes; 0 where missing", LEVELS),
    Column("ask_ct", "i4", "orders", "their order counts; 0 where missing", LEVELS),
)

MASSES: Final = ("add_mass", "pull_mass", "fill_mass")
DEPTHS: Final = ("bid_depth", "ask_depth")
FLOAT_VECTORS: Final = (
    *MASSES,
    *DEPTHS,
    *(f"{order}_{chain}" for order in "vaj" for chain in CHAINS),
)
"""The 20 grid vectors that are stored, in schema order; last_event_id follows them."""

REST_VECTORS: Final = ("rest_depth", "v_rest_depth", "a_rest_depth", "j_rest_depth")
"""Sums of a bid and an ask vector; never stored."""


def _vector_unit(name: str) -> str:
    return {"v": "lots/s", "a": "lots/s^2", "j": "lots/s^3"}.get(name[0] if name[1] == "_" else "", "lots")


def engine_columns(radius: int) -> tuple[Column, ...]:
    """What the engine gives per bin: scalars, levels, grid vectors of `2 * radius + 1` elements, last_event_id."""
    width = 2 * radius + 1
    vectors = tuple(Column(n, "f8", _vector_unit(n), "grid vector around spot_tick", width) for n in FLOAT_VECTORS)
    touched = Column(
        "last_event_id", "i8", "records", "number of the record that last touched the tick; 0 if none", width
    )
    return (*SCALARS, *LEVEL_COLUMNS, *vectors, touched)


def columns(radius: int = RADIUS_DEFAULT) -> tuple[Column, ...]:
    """The row of `T.L.bins.v1`: `tick_px`, `bucket`, then the engine's columns."""
    return (*HEADER, *engine_columns(radius))


def with_rest_depth(table: Table) -> dict[str, np.ndarray]:
    """The table with the four `rest_depth` vectors added, each the sum of its bid and ask counterparts."""
    out = dict(table)
    for name in REST_VECTORS:
        bid, ask = name.replace("rest", "bid"), name.replace("rest", "ask")
        out[name] = table[bid] + table[ask]
    return out
