"""What a record's action does to the book, and the flow that it causes.

    action          book                                            flow at the order's tick
    A  add          insert at the back of its level                 added
    C  cancel       take off; size 0 or undefined: all of it        pulled, less what fills announced
    M  modify       larger: back of the queue; smaller: keeps it    added; or pulled, less what fills announced
                    other price or side: leave and insert           pulled at the old tick, added at the new one
    F  fill         none: the C or M that follows takes the lots    filled
    T  trade        none                                            none; see `trades`
    R  clear        remove everything                               none; physics starts from zero
    N  none, other  none                                            none

A fill and the cancel that follows it are one event: the fill notes its lots as *pending* on the order, and the cancel
or modify counts only what it takes off beyond them as pulled.

Three kinds of records move the book differently (`mode`): events of the market cause flow; records of a snapshot are
state, and the grid takes its depths when the snapshot ends; a change of an L2 venue's view moves depth alone.
"""

from typing import Final

from engine import book as l3
from engine import counters, grid, trades
from engine._jit import i64, inlined
from engine.machine import level_of, order_of, state_of
from engine.order_index import find
from engine.state import ASK, BID, BUY, NONE, SELL, Machine, Record
from engine.ticks import nearest_tick
from schemas.mbo import F_MBP, F_PUBLISHER_SPECIFIC, F_SNAPSHOT
from schemas.units import UNDEF_PRICE, UNDEF_SIZE

ADD: Final = ord("A")
CANCEL: Final = ord("C")
MODIFY: Final = ord("M")
FILL: Final = ord("F")
TRADE: Final = ord("T")
CLEAR: Final = ord("R")

_EVENT: Final = 0
_VIEW: Final = 1
_STATE: Final = 2

_VIEW_FLAGS: Final = F_MBP | F_PUBLISHER_SPECIFIC


@inlined
def _mode(flags: int) -> int:
    if flags & F_SNAPSHOT:
        return _STATE
    return _VIEW if flags & _VIEW_FLAGS == _VIEW_FLAGS else _EVENT


@inlined
def _lots(size: int) -> int:
    """Size of a record as int64; 0 if undefined."""
    lots = i64(size)
    return 0 if lots == UNDEF_SIZE else lots


@inlined
def _flow(m: Machine, mode: int, tick: int, side: int, add: int, pull: int, depth: int) -> None:
    """Hand a change of one side's depth, and the flow that caused it, to the grid."""
    if not m.physics:
        return
    bid = depth if side == BID else 0
    ask = depth if side == ASK else 0
    if mode == _EVENT:
        grid.touch(m, tick, add, pull, 0, bid, ask)
    elif mode == _VIEW:
        grid.shift_depth(m, tick, bid, ask)


@inlined
def _add(m: Machine, record: Record, mode: int, side: int, size: int) -> None:
    """Insert an order whose id does not rest."""
    synthetic = (record.flags & F_MBP) != 0
    slot = l3.insert(m, record.order_id, side, record.price, size, synthetic)
    level = level_of(m, order_of(m, slot).level)
    if level.off_tick:
        counters.count(m, counters.OFF_TICK)
    _flow(m, mode, level.tick, side, size, 0, size)


@inlined
def _reduce(m: Machine, slot: int, mode: int, removed: int) -> None:
    """Take lots off an order, 0 included; delete it when none are left."""
    order = order_of(m, slot)
    level = level_of(m, order.level)
    tick = i64(level.tick)
    side = i64(level.side)
    pulled = l3.take_pending(order, removed)
    left = i64(order.size) - removed
    if left == 0:
        l3.remove(m, slot)
    else:
        l3.resize(m, slot, left)
    _flow(m, mode, tick, side, 0, pulled, -removed)


@inlined
def _move(m: Machine, slot: int, mode: int, side: int, px: int, size: int) -> None:
    """Give an order another price or side: all of it is pulled at the old tick and the new size added at the new."""
    order = order_of(m, slot)
    old = level_of(m, order.level)
    old_tick = i64(old.tick)
    old_side = i64(old.side)
    old_size = i64(order.size)
    pulled = l3.take_pending(order, old_size)
    l3.move(m, slot, side, px, size)
    new_tick = i64(level_of(m, order.level).tick)
    _flow(m, mode, old_tick, old_side, 0, pulled, -old_size)
    _flow(m, mode, new_tick, side, size, 0, size)


@inlined
def _modify(m: Machine, record: Record, slot: int, mode: int, side: int, size: int) -> None:
    """Change an order that rests; size 0 cancels it."""
    if record.price % m.tick_px:
        counters.count(m, counters.OFF_TICK)
    order = order_of(m, slot)
    level = level_of(m, order.level)
    old_size = i64(order.size)
    if size == 0:
        _reduce(m, slot, mode, old_size)
    elif record.price != level.px or side != level.side:
        _move(m, slot, mode, side, record.price, size)
    elif size > old_size:
        tick = i64(level.tick)
        l3.resize(m, slot, size)
        _flow(m, mode, tick, side, size - old_size, 0, size - old_size)
    else:
        _reduce(m, slot, mode, old_size - size)


@inlined
def _place(m: Machine, record: Record, mode: int) -> None:
    """Apply A or M: both mean that the order is to rest as the record says."""
    state = state_of(m)
    is_add = record.action == ADD
    size = _lots(record.size)
    if record.price == UNDEF_PRICE:
        counters.count(m, counters.UNDEFINED_PRICE)
        return
    if record.side != BUY and record.side != SELL:
        counters.count(m, counters.UNDEFINED_SIDE)
        return
    slot = find(m, record.order_id)
    if size == 0 and (is_add or slot == NONE):
        counters.count(m, counters.UNDEFINED_SIZE)
        return
    if is_add:
        state.add_count += 1
    else:
        state.modify_count += 1
    side = BID if record.side == BUY else ASK
    if slot == NONE:
        if not is_add:
            counters.count(m, counters.UNKNOWN_MODIFY)
        _add(m, record, mode, side, size)
    else:
        if is_add:
            counters.count(m, counters.DUPLICATE_ADD)
        _modify(m, record, slot, mode, side, size)


@inlined
def _cancel(m: Machine, record: Record, mode: int) -> None:
    slot = find(m, record.order_id)
    if slot == NONE:
        counters.count(m, counters.UNKNOWN_CANCEL)
        return
    state_of(m).cancel_count += 1
    resting = i64(order_of(m, slot).size)
    size = _lots(record.size)
    _reduce(m, slot, mode, resting if size == 0 else min(size, resting))


@inlined
def _fill(m: Machine, record: Record, mode: int) -> None:
    """Note a fill; outside snapshots."""
    slot = find(m, record.order_id)
    size = _lots(record.size)
    if slot != NONE:
        l3.add_pending(m, slot, size)
        tick = i64(level_of(m, order_of(m, slot).level).tick)
    elif record.price != UNDEF_PRICE:
        if record.price % m.tick_px:
            counters.count(m, counters.OFF_TICK)
        tick = nearest_tick(record.price, m.unit_px)
    else:
        return
    state_of(m).fill_count += 1
    if mode == _EVENT and m.physics:
        grid.touch(m, tick, 0, 0, size, 0, 0)


@inlined
def apply_action(m: Machine, record: Record) -> None:
    """Apply a record's action, except R, which `driver` treats with the book's state."""
    mode = _mode(record.flags)
    action = record.action
    if action in (ADD, MODIFY):
        _place(m, record, mode)
    elif action == CANCEL:
        _cancel(m, record, mode)
    elif mode == _STATE:
        return  # a trade or fill inside a snapshot is no event
    elif action == FILL:
        _fill(m, record, mode)
    elif action == TRADE:
        trades.record_trade(m, record, _lots(record.size))
