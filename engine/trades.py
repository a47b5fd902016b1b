"""Trades: a row for each T record, and the trade statistics of the open bin.

The aggressor is the side of the record: B bought, A sold, N or anything else is unknown and counts as neither.
"""

from engine._jit import i64, kernel
from engine.book import best
from engine.machine import level_of, state_of, trade_rows
from engine.state import ASK, BID, BUY, NONE, SELL, Machine, Record
from schemas.units import PRICE_SCALE, UNDEF_PRICE


@kernel
def record_trade(m: Machine, record: Record, lots: int) -> None:
    """Count a trade and write its row, with the best quotes that stand before it.

    Args:
        m: The engine.
        record: A record with action T, outside snapshots.
        lots: Its size; 0 if the venue gave none.
    """
    state = state_of(m)
    sign = 1 if record.side == BUY else (-1 if record.side == SELL else 0)
    state.trade_count += 1
    if sign > 0:
        state.trade_buy_sz += lots
    elif sign < 0:
        state.trade_sell_sz += lots
    else:
        state.trade_none_sz += lots
    if record.price != UNDEF_PRICE:
        state.last_trade_px = record.price
        state.trade_notional += float(record.price) * float(lots) / PRICE_SCALE
    row = trade_rows(m)[m.trade_rows]
    m.trade_rows += 1
    row.ts_ns = state.t_ns
    row.px = record.price
    row.sz = lots
    row.side = sign
    row.sequence = i64(record.sequence)
    bid, ask = best(m, BID), best(m, ASK)
    row.best_bid_px = UNDEF_PRICE if bid == NONE else level_of(m, bid).px
    row.best_bid_sz = 0 if bid == NONE else level_of(m, bid).size
    row.best_ask_px = UNDEF_PRICE if ask == NONE else level_of(m, ask).px
    row.best_ask_sz = 0 if ask == NONE else level_of(m, ask).size
