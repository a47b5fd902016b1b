"""Trades: one row for each T record, with the quotes that stood before it."""

from typing import Final

from schemas.columns import Column

COLUMNS: Final = (
    Column("ts_ns", "i8", "ns", "engine time of the trade"),
    Column("px", "i8", "1e-9", "price; UNDEF_PRICE if the venue gave none"),
    Column("sz", "i8", "lots", "size; 0 if the venue gave none"),
    Column("side", "i1", "sign", "aggressor: +1 buys, -1 sells, 0 neither"),
    Column("sequence", "i8", "count", "venue's sequence number of the record"),
    Column("best_bid_px", "i8", "1e-9", "best bid before the trade; UNDEF_PRICE if the side is empty"),
    Column("best_bid_sz", "i8", "lots", "size at that price; 0 if empty"),
    Column("best_ask_px", "i8", "1e-9", "best ask before the trade; UNDEF_PRICE if the side is empty"),
    Column("best_ask_sz", "i8", "lots", "size at that price; 0 if empty"),
)
"""The row of `T.L.trades.v1`."""
