"""Bins: what happens when event time crosses a bin's end.

Order at a bin end: rows of the grid that were touched are advanced, the mid is taken, the window follows it, the row is
written if the bin is emitted. Emission decides what is *shown*: every bin (`dense`); or every bin with a record, and in
silence a heartbeat after 10 bins, then 20, 40, ... 320, then every 600 (`active`). It changes no value, so silent bins
that nobody sees are skipped in one stroke, and a gap of a week costs nothing.
"""

from typing import Final

from engine import book as l3
from engine import grid
from engine._jit import i64, kernel
from engine.machine import bin_rows, fresh_top, grid_rows, level_of, state_of, touched_rows
from engine.state import ASK, BID, NONE, Machine, Record
from engine.ticks import floor_mean, nearest_tick
from schemas.bins import LEVELS
from schemas.units import UNDEF_PRICE

HEARTBEAT_FIRST_BINS: Final = 10
"""A reader that sees no row for 10 bins after a busy one knows that the stream is behind, not the market silent."""
HEARTBEAT_MAX_BINS: Final = 600
"""A minute of 100 ms bins: below, silent nights fill the log; above, a reader waits long for the first sign of life."""

_MOVE_MAX: Final = (1 << 31) - 1


@kernel
def best_px(m: Machine, side: int) -> int:
    """Best price of a side (BID or ASK), 1e-9; UNDEF_PRICE if it is empty."""
    slot = l3.best(m, side)
    return UNDEF_PRICE if slot == NONE else i64(level_of(m, slot).px)


@kernel
def _move_ticks(px: int, before_px: int, unit_px: int) -> int:
    """Ticks from one best price to the next, within int32; 0 if either is missing."""
    if px == UNDEF_PRICE or before_px == UNDEF_PRICE:
        return 0
    tick, before = nearest_tick(px, unit_px), nearest_tick(before_px, unit_px)
    move = tick - before
    if (move >= 0) != (tick >= before):  # ticks of extreme prices lie further apart than int64 reaches
        return _MOVE_MAX if tick >= before else -_MOVE_MAX
    return max(-_MOVE_MAX, min(_MOVE_MAX, move))


@kernel
def _sign(value: int) -> int:
    return 1 if value > 0 else (-1 if value < 0 else 0)


@kernel
def _write_quotes(m: Machine, row: Record) -> None:
    """Best quotes, their moves and the signs of those, the ten best levels."""
    state, unit_px = state_of(m), m.unit_px
    l3.top_levels(m, BID, fresh_top(m), UNDEF_PRICE)
    for i in range(LEVELS):
        row.bid_px[i] = fresh_top(m)[i, 0]
        row.bid_sz[i] = fresh_top(m)[i, 1]
        row.bid_ct[i] = fresh_top(m)[i, 2]
    l3.top_levels(m, ASK, fresh_top(m), UNDEF_PRICE)
    for i in range(LEVELS):
        row.ask_px[i] = fresh_top(m)[i, 0]
        row.ask_sz[i] = fresh_top(m)[i, 1]
        row.ask_ct[i] = fresh_top(m)[i, 2]
    row.best_bid_px, row.best_bid_sz, row.best_bid_ct = row.bid_px[0], row.bid_sz[0], row.bid_ct[0]
    row.best_ask_px, row.best_ask_sz, row.best_ask_ct = row.ask_px[0], row.ask_sz[0], row.ask_ct[0]
    bid_move = _move_ticks(row.best_bid_px, state.closed_bid_px, unit_px)
    ask_move = _move_ticks(row.best_ask_px, state.closed_ask_px, unit_px)
    bid_sign, ask_sign = _sign(bid_move), _sign(ask_move)
    row.best_bid_move, row.best_ask_move = bid_move, ask_move
    row.bid_sign, row.ask_sign = bid_sign, ask_sign
    row.microstate = (ask_sign + 1) * 3 + (bid_sign + 1)
    row.chase_up = 1 if bid_sign > 0 and ask_sign > 0 else 0
    row.chase_down = 1 if bid_sign < 0 and ask_sign < 0 else 0


@kernel
def _write_sums(state: Record, row: Record) -> None:
    """Sums of the bin and the state of the stream."""
    row.event_id = state.event_id
    row.event_count = state.event_count
    row.book_state = state.book_state
    row.bins_since_reset = state.bins_since_reset
    row.trade_count = state.trade_count
    row.trade_buy_sz = state.trade_buy_sz
    row.trade_sell_sz = state.trade_sell_sz
    row.trade_none_sz = state.trade_none_sz
    row.last_trade_px = state.last_trade_px
    row.trade_notional = state.trade_notional
    row.ofi = state.ofi
    row.flags = state.flags
    row.epoch = state.epoch
    row.add_count = state.add_count
    row.cancel_count = state.cancel_count
    row.modify_count = state.modify_count
    row.fill_count = state.fill_count


@kernel
def clear_sums(state: Record) -> None:
    """Set the sums of the open bin in a state record (STATE_DTYPE) to zero."""
    state.event_count = 0
    state.trade_count = 0
    state.trade_buy_sz = 0
    state.trade_sell_sz = 0
    state.trade_none_sz = 0
    state.trade_notional = 0.0
    state.ofi = 0.0
    state.flags = 0
    state.add_count = 0
    state.cancel_count = 0
    state.modify_count = 0
    state.fill_count = 0


@kernel
def _emit(m: Machine, mid_px: int, spot_tick: int) -> None:
    """Write the row of the open bin."""
    state = state_of(m)
    at = m.bin_rows
    m.bin_rows += 1
    row = bin_rows(m)[at]
    row.bin_seq = state.bin_seq
    row.ts_start_ns = state.bin_seq * m.cell_ns
    row.ts_end_ns = row.ts_start_ns + m.cell_ns
    row.mid_px = mid_px
    row.spot_tick = spot_tick
    _write_sums(state, row)
    _write_quotes(m, row)
    if mid_px == UNDEF_PRICE:
        touched_rows(m)[at] = 0
        grid_rows(m)[at] = 0.0
    else:
        grid.read(m, spot_tick, at)
    if state.event_count:
        state.heartbeat_bins = HEARTBEAT_FIRST_BINS
    else:
        state.heartbeat_bins = min(2 * state.heartbeat_bins, HEARTBEAT_MAX_BINS)
    state.emitted_seq = state.bin_seq
    state.bins_emitted += 1


@kernel
def close_bin(m: Machine, emit: bool) -> None:
    """Close the open bin and open the next; if `emit`, there must be room for a row."""
    state = state_of(m)
    grid.close_open_rows(m)
    l3.expire_pending(m)
    bid_px, ask_px = best_px(m, BID), best_px(m, ASK)
    mid_px = UNDEF_PRICE
    spot_tick = 0
    if bid_px != UNDEF_PRICE and ask_px != UNDEF_PRICE:
        mid_px = floor_mean(bid_px, ask_px)
        spot_tick = nearest_tick(mid_px, m.unit_px)
        grid.follow(m, spot_tick)
    if emit:
        _emit(m, mid_px, spot_tick)
    state.closed_bid_px = bid_px
    state.closed_ask_px = ask_px
    state.bin_seq += 1
    state.bins_since_reset += 1
    clear_sums(state)


@kernel
def close_bins(m: Machine, target: int) -> bool:
    """Close every bin before number `target`, emitting those that are due.

    Returns:
        False if the buffer of rows is full; the call is then to be repeated with an empty one.
    """
    state = state_of(m)
    while state.bin_seq < target:
        due = max(state.bin_seq, state.emitted_seq + state.heartbeat_bins)
        emit = m.dense != 0 or state.event_count > 0 or due == state.bin_seq
        if not emit and state.event_count == 0 and m.opened == 0:
            skipped = min(due, target) - state.bin_seq
            state.bin_seq += skipped
            state.bins_since_reset += skipped
            continue
        if emit and m.bin_rows >= m.bin_room:
            return False
        close_bin(m, emit)
    return True
