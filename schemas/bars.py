"""Bars: one row for each interval of event time in which an instrument traded; open, high, low, close, volume, VWAP.

A bar of width D covers the event times [nD, (n+1)D) since the epoch. Bars of several widths travel in one stream: each
row names its own `interval_ns`, so a reader of one width filters by it, and another width is configuration, not another
topic. An interval without a trade has no row. Rows stand in the order in which bars end; of two that end together, the
shorter comes first.

Sums are taken in integers without limit and rounded once, at the end: neither the order in which trades came nor the
messages they came in can show in the last digit. `vwap_px` is a price like the others, floor of the exact quotient;
`trade_notional` is the double next to the exact sum, for those who join bars to longer ones.

Trades whose venue gave no price count in `trade_count` and in the volumes, and nowhere else.
"""

from typing import Final

from schemas.columns import Column
from schemas.units import NS_PER_SECOND

INTERVALS_NS_DEFAULT: Final = (NS_PER_SECOND, 60 * NS_PER_SECOND)
"""Widths of bars, ns: a second and a minute."""

COLUMNS: Final = (
    Column("interval_ns", "i8", "ns", "width of the bar"),
    Column("ts_start_ns", "i8", "ns", "start of the bar, inclusive; a multiple of its width"),
    Column("ts_end_ns", "i8", "ns", "end of the bar, exclusive"),
    Column("open_px", "i8", "1e-9", "price of the first trade; UNDEF_PRICE if no trade had one, as in all prices here"),
    Column("high_px", "i8", "1e-9", "highest price"),
    Column("low_px", "i8", "1e-9", "lowest price"),
    Column("close_px", "i8", "1e-9", "price of the last trade"),
    Column("vwap_px", "i8", "1e-9", "mean price, each lot counted once, floor; UNDEF_PRICE if no lot had a price"),
    Column("volume_sz", "i8", "lots", "size of all trades"),
    Column("trade_buy_sz", "i8", "lots", "size of trades with a buying aggressor"),
    Column("trade_sell_sz", "i8", "lots", "size of trades with a selling aggressor"),
    Column("trade_none_sz", "i8", "lots", "size of trades without an aggressor"),
    Column("trade_notional", "f8", "currency * lots", "sum of price times size"),
    Column("trade_count", "i8", "trades", "trades"),
)
"""The row of `T.L.bars.v1`."""
