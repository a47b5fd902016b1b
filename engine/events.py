"""What is looked at only when an event is complete, that is after a record with F_LAST: order-flow imbalance, MBP-10.

Between the records of one event the book is in no state that the market ever showed; so both products take the book at
the ends of events.

Order-flow imbalance is that of Cont, Kukanov and Stoikov (2014, equation 4), with the sizes at the best quotes:
`e = [b1 >= b0] qb1 - [b1 <= b0] qb0 - [a1 <= a0] qa1 + [a1 >= a0] qa0`. A point at which a side is empty breaks the
chain; a reset does too.

An MBP-10 record is written after an event that changed the ten best levels of a side or that held a trade. Its fields
come from the event's first trade, else from its last record; `flags` always from the last.
"""

from engine._jit import i64, inlined, kernel
from engine.book import best, top_levels
from engine.machine import event, fresh_top, level_of, mbp_header, mbp_px, mbp_u4, state_of, top_ten
from engine.state import ASK, BID, NONE, Machine, Record
from schemas.mbp10 import HEADER_BYTES, LEVEL_BYTES, LEVELS, MBP10_BYTES, MBP10_RTYPE
from schemas.units import UNDEF_PRICE, UNDEF_SIZE

_LENGTH = MBP10_BYTES // 4
_PX_FIRST = HEADER_BYTES // 8
_PX_STEP = LEVEL_BYTES // 8
_U4_FIRST = HEADER_BYTES // 4 + 4
_U4_STEP = LEVEL_BYTES // 4
_SIZE_MAX = UNDEF_SIZE - 1


@inlined
def add_imbalance(m: Machine) -> None:
    """Take a point of the order-flow imbalance and add its step to the open bin."""
    state = state_of(m)
    bid, ask = best(m, BID), best(m, ASK)
    if bid == NONE or ask == NONE:
        state.ofi_valid = 0
        return
    b, a = level_of(m, bid), level_of(m, ask)
    if state.ofi_valid:
        step = 0
        if b.px >= state.ofi_bid_px:
            step += b.size
        if b.px <= state.ofi_bid_px:
            step -= state.ofi_bid_sz
        if a.px <= state.ofi_ask_px:
            step -= a.size
        if a.px >= state.ofi_ask_px:
            step += state.ofi_ask_sz
        state.ofi += step
    state.ofi_valid = 1
    state.ofi_bid_px = b.px
    state.ofi_bid_sz = b.size
    state.ofi_ask_px = a.px
    state.ofi_ask_sz = a.size


@inlined
def note_trade(m: Machine, record: Record) -> None:
    """Keep the first trade of the open event."""
    if not state_of(m).event_has_trade:
        state_of(m).event_has_trade = 1
        event(m)[0] = record


@kernel
def _refresh_top_ten(m: Machine) -> bool:
    """Take the ten best levels of both sides; whether they changed."""
    changed = False
    top, fresh = top_ten(m), fresh_top(m)
    for side in range(2):
        top_levels(m, side, fresh, UNDEF_PRICE)
        for i in range(LEVELS):
            for f in range(3):
                if top[side, i, f] != fresh[i, f]:
                    top[side, i, f] = fresh[i, f]
                    changed = True
    return changed


@kernel
def _write_mbp10(m: Machine, source: Record, flags: int) -> None:
    row = m.mbp_rows
    m.mbp_rows += 1
    out = mbp_header(m)[row]
    out.length = _LENGTH
    out.rtype = MBP10_RTYPE
    out.publisher_id = source.publisher_id
    out.instrument_id = source.instrument_id
    out.ts_event = source.ts_event
    out.price = source.price
    out.size = source.size
    out.action = source.action
    out.side = source.side
    out.flags = flags
    out.depth = 0
    out.ts_recv = source.ts_recv
    out.ts_in_delta = source.ts_in_delta
    out.sequence = source.sequence
    for level in range(LEVELS):
        for side in range(2):
            mbp_px(m)[row, _PX_FIRST + _PX_STEP * level + side] = top_ten(m)[side, level, 0]
            u4 = _U4_FIRST + _U4_STEP * level + side
            mbp_u4(m)[row, u4] = min(top_ten(m)[side, level, 1], _SIZE_MAX)
            mbp_u4(m)[row, u4 + 2] = top_ten(m)[side, level, 2]


@kernel
def end_event(m: Machine, record: Record) -> None:
    """Finish the open event with its last record, and write its MBP-10 record if there is something to say."""
    changed = _refresh_top_ten(m)
    if state_of(m).event_has_trade:
        _write_mbp10(m, event(m)[0], i64(record.flags))
    elif changed:
        _write_mbp10(m, record, i64(record.flags))
    state_of(m).event_has_trade = 0
