"""The full order book (L3): every order, its place in the queue of its level, every level of both sides.

    ladder, one per side, ascending keys         levels                 orders
    key(bid) = px, key(ask) = ~px                px, size, count        id, size
    [ worst ............ best ]  ---------->     head  ------------>    front <-> ... <-> back

The best level is the *last* of its ladder: nearly all levels come and go near the best, so few entries move; the best
quotes are exact at any price; the ten best are the last ten. `~px` turns the order of asks around without overflow.

Orders and levels lie in slabs with free lists. Kernels here never look for room: the driver makes sure of it before a
record is touched. What an action means is not decided here but in `actions`.
"""

from typing import Final

import numpy as np

from engine._jit import i64, inlined, kernel
from engine.machine import (
    KEY_BYTES,
    SLOT_BYTES,
    expiring,
    hints,
    ladder,
    ladder_keys,
    level_of,
    move_bytes,
    order_of,
    places,
)
from engine.order_index import GOLDEN, drop, put
from engine.state import BID, HINT_BITS, NONE, Machine, Record
from engine.ticks import nearest_tick

SYNTHETIC: Final = 1 << 62
"""Bit in `pending` of an order that stands for a whole level of an L2 venue (F_MBP): its fills expire with the bin."""
_PENDING_MASK: Final = SYNTHETIC - 1

_NEAR: Final = 12
"""Levels looked at one by one from the best before halving: nearly all actions fall there."""


@inlined
def level_count(m: Machine, side: int) -> int:
    """Number of levels, by exact price, of a side (BID or ASK)."""
    return i64(m.bid_levels if side == BID else m.ask_levels)


@kernel
def _add_to_level_count(m: Machine, side: int, change: int) -> None:
    """Note that the ladder of a side has become longer or shorter, and which level is now its best."""
    m.levels += change
    count = level_count(m, side) + change
    best_slot = i64(ladder(m)[side, count - 1]) if count else NONE
    if side == BID:
        m.bid_levels, m.best_bid = count, best_slot
    else:
        m.ask_levels, m.best_ask = count, best_slot


@inlined
def best(m: Machine, side: int) -> int:
    """Slot of the best level of a side; NONE if the side is empty."""
    return i64(m.best_bid if side == BID else m.best_ask)


@kernel
def _position(m: Machine, side: int, key: int) -> int:
    """Where a key stands in its ladder, or belongs: the number of smaller keys."""
    high = level_count(m, side)
    near = max(0, high - _NEAR)
    while high > near and ladder_keys(m)[side, high - 1] >= key:
        high -= 1
    if high > near or near == 0:
        return high
    low = 0
    while low < high:
        middle = (low + high) >> 1
        if ladder_keys(m)[side, middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _move_rungs(m: Machine, side: int, source: int, to: int, count: int) -> None:
    """Move `count` entries of a ladder; levels far from the best come and go in numbers when a book is loaded."""
    keys_at = m.ladder_keys_at + KEY_BYTES * side * m.level_room
    slots_at = m.ladder_at + SLOT_BYTES * side * m.level_room
    move_bytes(keys_at + KEY_BYTES * to, keys_at + KEY_BYTES * source, KEY_BYTES * count)
    move_bytes(slots_at + SLOT_BYTES * to, slots_at + SLOT_BYTES * source, SLOT_BYTES * count)


@kernel
def _new_level(m: Machine, side: int, px: int, position: int) -> int:
    """Make an empty level at a position of its ladder."""
    slot: int = m.level_free
    if slot >= 0:
        m.level_free = level_of(m, slot).head
    else:
        slot = m.level_used
        m.level_used += 1
    level = level_of(m, slot)
    level.px = px
    level.tick = nearest_tick(px, m.unit_px)
    level.off_tick = 1 if px % m.tick_px else 0
    level.size = 0
    level.count = 0
    level.head = NONE
    level.tail = NONE
    level.side = side
    _move_rungs(m, side, position, position + 1, level_count(m, side) - position)
    ladder_keys(m)[side, position] = px if side == BID else ~px
    ladder(m)[side, position] = slot
    _add_to_level_count(m, side, 1)
    return slot


@kernel
def _drop_level(m: Machine, slot: int) -> None:
    """Take an empty level out of its ladder."""
    level = level_of(m, slot)
    side = i64(level.side)
    count = level_count(m, side)
    position = _position(m, side, level.px if side == BID else ~level.px)
    _move_rungs(m, side, position + 1, position, count - 1 - position)
    _add_to_level_count(m, side, -1)
    level.head = m.level_free
    m.level_free = slot


@inlined
def hint_of(px: int) -> int:
    """Where in `hints` the level of a price (1e-9) is remembered, 0 to HINTS - 1; other prices may share the place."""
    return i64((np.uint64(px) * GOLDEN) >> np.uint64(64 - HINT_BITS))


@inlined
def _level_at(m: Machine, side: int, px: int) -> int:
    """Level of a side at an exact price, made if it is not there."""
    hint = hint_of(px)
    slot = i64(hints(m)[side, hint])
    if slot >= 0:
        level = level_of(m, slot)
        if level.px == px and level.count > 0 and level.side == side:
            return slot
    slot = _search_level(m, side, px)
    hints(m)[side, hint] = slot
    return slot


@kernel
def _search_level(m: Machine, side: int, px: int) -> int:
    """Level of a side at an exact price by its ladder, made if it is not there."""
    key = px if side == BID else ~px
    position = _position(m, side, key)
    if position < level_count(m, side) and ladder_keys(m)[side, position] == key:
        return i64(ladder(m)[side, position])
    return _new_level(m, side, px, position)


@inlined
def _append(m: Machine, slot: int, level_slot: int) -> None:
    """Put an order at the back of a level's queue; sizes are not touched."""
    order = order_of(m, slot)
    level = level_of(m, level_slot)
    order.level = level_slot
    order.prev = level.tail
    order.next = NONE
    if level.tail >= 0:
        order_of(m, level.tail).next = slot
    else:
        level.head = slot
    level.tail = slot


@inlined
def _unlink(m: Machine, slot: int) -> None:
    """Take an order out of its level's queue; sizes are not touched."""
    order = order_of(m, slot)
    level = level_of(m, order.level)
    if order.prev >= 0:
        order_of(m, order.prev).next = order.next
    else:
        level.head = order.next
    if order.next >= 0:
        order_of(m, order.next).prev = order.prev
    else:
        level.tail = order.prev


@inlined
def insert(m: Machine, order_id: np.uint64, side: int, px: int, size: int, synthetic: bool) -> int:
    """Put a new order at the back of its level, which is made if it is not there.

    Args:
        m: The engine, with room for an order and a level.
        order_id: Its id, uint64, which does not rest.
        side: BID or ASK.
        px: Exact price, 1e-9, defined.
        size: Lots, > 0.
        synthetic: Whether it stands for a whole level of an L2 venue.

    Returns:
        Its slot.
    """
    slot: int = m.order_free
    if slot >= 0:
        m.order_free = order_of(m, slot).next
    else:
        slot = m.order_used
        m.order_used += 1
    m.orders += 1
    order = order_of(m, slot)
    order.id = order_id
    order.size = size
    order.pending = SYNTHETIC if synthetic else 0
    put(m, order_id, slot)
    level_slot = _level_at(m, side, px)
    _append(m, slot, level_slot)
    level = level_of(m, level_slot)
    level.size += size
    level.count += 1
    return slot


@inlined
def _leave_level(m: Machine, slot: int) -> None:
    """Take an order with its size out of its level, and the level away if it was the last."""
    order = order_of(m, slot)
    level_slot = i64(order.level)
    level = level_of(m, level_slot)
    _unlink(m, slot)
    level.size -= i64(order.size)
    level.count -= 1
    if level.count == 0:
        _drop_level(m, level_slot)


@inlined
def remove(m: Machine, slot: int) -> None:
    """Delete the order in a slot, which becomes free; its level goes with the last order."""
    drop(m, order_of(m, slot).id, slot)
    _leave_level(m, slot)
    order_of(m, slot).next = m.order_free
    m.order_free = slot
    m.orders -= 1


@inlined
def move(m: Machine, slot: int, side: int, px: int, size: int) -> None:
    """Give an order another price, side and size; it goes to the back of its new level and loses pending fills.

    Args:
        m: The engine, with room for a level.
        slot: The order's.
        side: Its new side, BID or ASK.
        px: Its new exact price, 1e-9, defined.
        size: Its new size, lots, > 0.
    """
    _leave_level(m, slot)
    order = order_of(m, slot)
    order.size = size
    order.pending &= SYNTHETIC
    level_slot = _level_at(m, side, px)
    _append(m, slot, level_slot)
    level = level_of(m, level_slot)
    level.size += size
    level.count += 1


@inlined
def resize(m: Machine, slot: int, size: int) -> None:
    """Change the size of the order in a slot to `size` > 0 lots.

    An order that becomes larger goes to the back of its queue, any other keeps its place.
    """
    order = order_of(m, slot)
    old = i64(order.size)
    level_of(m, order.level).size += size - old
    order.size = size
    if size > old:
        level_slot = i64(order.level)
        _unlink(m, slot)
        _append(m, slot, level_slot)


@kernel
def clear(m: Machine) -> None:
    """Remove every order."""
    m.orders = 0
    m.order_free = NONE
    m.order_used = 0
    m.levels = 0
    m.level_free = NONE
    m.level_used = 0
    m.bid_levels = 0
    m.ask_levels = 0
    m.best_bid = NONE
    m.best_ask = NONE
    m.expiring = 0
    places(m)[:] = NONE
    hints(m)[:] = NONE


@inlined
def add_pending(m: Machine, slot: int, size: int) -> None:
    """Note that `size` >= 0 lots of the order in a slot were filled, which the cancel or modify to come will take off.

    A synthetic order is listed, since its fills expire with the bin.
    """
    order = order_of(m, slot)
    if order.pending == SYNTHETIC and size > 0:
        expiring(m)[m.expiring] = slot
        m.expiring += 1
    order.pending += size


@inlined
def take_pending(order: Record, removed: int) -> int:
    """Set `removed` lots taken off an order (an element of ORDER_DTYPE) against its pending fills.

    Returns:
        Lots that were pulled, not filled.
    """
    credit: int = min(removed, order.pending & _PENDING_MASK)
    order.pending -= credit
    return removed - credit


@kernel
def expire_pending(m: Machine) -> None:
    """Forget the pending fills of synthetic orders; slots used again by other orders are left alone."""
    for i in range(m.expiring):
        order = order_of(m, expiring(m)[i])
        if order.pending & SYNTHETIC:
            order.pending = SYNTHETIC
    m.expiring = 0


@kernel
def queue_ahead(m: Machine, slot: int) -> tuple[int, int]:
    """Lots and orders before the order in a slot, in the queue of its level; takes a look at each of them."""
    lots = 0
    count = 0
    ahead = i64(order_of(m, slot).prev)
    while ahead >= 0:
        lots += i64(order_of(m, ahead).size)
        count += 1
        ahead = i64(order_of(m, ahead).prev)
    return lots, count


@kernel
def top_levels(m: Machine, side: int, out: np.ndarray, missing_px: int) -> None:
    """Best levels of a side.

    Args:
        m: The engine.
        side: BID or ASK.
        out: int64[n, 3], written: price, size, count, best first; `missing_px`, 0, 0 where there is none.
        missing_px: Price of a missing level.
    """
    count = level_count(m, side)
    for i in range(len(out)):
        if i < count:
            level = level_of(m, ladder(m)[side, count - 1 - i])
            out[i, 0] = level.px
            out[i, 1] = level.size
            out[i, 2] = level.count
        else:
            out[i, 0] = missing_px
            out[i, 1] = 0
            out[i, 2] = 0


@kernel
def walk(m: Machine, side: int, out_levels: np.ndarray, out_orders: np.ndarray, first: int) -> int:
    """Copy a side, best level first, orders in their queue.

    Args:
        m: The engine.
        side: BID or ASK.
        out_levels: LEVEL_DTYPE[levels of the side], written.
        out_orders: ORDER_DTYPE[...], written from `first` on.
        first: Where this side's orders begin.

    Returns:
        Position after the last order written.
    """
    count = level_count(m, side)
    for i in range(count):
        out_levels[i] = level_of(m, ladder(m)[side, count - 1 - i])
        slot = i64(out_levels[i].head)
        while slot >= 0:
            out_orders[first] = order_of(m, slot)
            first += 1
            slot = i64(order_of(m, slot).next)
    return first


@kernel
def refill(m: Machine, side: int, in_levels: np.ndarray, in_orders: np.ndarray, first: int) -> int:
    """Insert a side that `walk` copied into an empty one.

    Args:
        m: The engine, with room.
        side: BID or ASK.
        in_levels: LEVEL_DTYPE[n], best first; only `px` and `count` matter.
        in_orders: ORDER_DTYPE[...]; only `id`, `pending` and `size` matter.
        first: Where this side's orders begin.

    Returns:
        Position after the last order inserted.
    """
    after = first
    for i in range(len(in_levels)):
        after += i64(in_levels[i].count)
    end = after
    for i in range(len(in_levels) - 1, -1, -1):  # worst first, so that every level comes at the end of its ladder
        end -= i64(in_levels[i].count)
        for o in range(end, end + i64(in_levels[i].count)):
            order = in_orders[o]
            slot = insert(m, order.id, side, in_levels[i].px, i64(order.size), False)
            order_of(m, slot).pending = order.pending
            if order.pending > SYNTHETIC:
                expiring(m)[m.expiring] = slot
                m.expiring += 1
    return after
