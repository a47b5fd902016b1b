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

from engine._jit import i64, kernel
from engine.order_index import drop, put
from engine.state import BID, NONE, Book, Config, Record
from engine.ticks import nearest_tick

SYNTHETIC: Final = 1 << 62
"""Bit in `pending` of an order that stands for a whole level of an L2 venue (F_MBP): its fills expire with the bin."""
_PENDING_MASK: Final = SYNTHETIC - 1

_NEAR: Final = 12
"""Levels looked at one by one from the best before halving: nearly all actions fall there."""


@kernel
def level_count(book: Book, side: int) -> int:
    """Levels of a side."""
    return i64(book.heap.bid_levels if side == BID else book.heap.ask_levels)


@kernel
def _add_to_level_count(book: Book, side: int, change: int) -> None:
    if side == BID:
        book.heap.bid_levels += change
    else:
        book.heap.ask_levels += change
    book.heap.levels += change


@kernel
def best(book: Book, side: int) -> int:
    """Slot of the best level of a side; NONE if the side is empty."""
    count = level_count(book, side)
    return i64(book.ladder[side, count - 1]) if count else NONE


@kernel
def _position(book: Book, side: int, key: int) -> int:
    """Where a key stands in its ladder, or belongs: the number of smaller keys."""
    high = level_count(book, side)
    near = max(0, high - _NEAR)
    while high > near and book.ladder_keys[side, high - 1] >= key:
        high -= 1
    if high > near or near == 0:
        return high
    low = 0
    while low < high:
        middle = (low + high) >> 1
        if book.ladder_keys[side, middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _new_level(book: Book, config: Config, side: int, px: int, position: int) -> int:
    """Make an empty level at a position of its ladder."""
    heap = book.heap
    slot: int = heap.level_free
    if slot >= 0:
        heap.level_free = book.levels[slot].head
    else:
        slot = heap.level_used
        heap.level_used += 1
    level = book.levels[slot]
    level.px = px
    level.tick = nearest_tick(px, config.unit_px)
    level.off_tick = 1 if px % config.tick_px else 0
    level.size = 0
    level.count = 0
    level.head = NONE
    level.tail = NONE
    level.side = side
    for i in range(level_count(book, side), position, -1):
        book.ladder_keys[side, i] = book.ladder_keys[side, i - 1]
        book.ladder[side, i] = book.ladder[side, i - 1]
    book.ladder_keys[side, position] = px if side == BID else ~px
    book.ladder[side, position] = slot
    _add_to_level_count(book, side, 1)
    return slot


@kernel
def _drop_level(book: Book, slot: int) -> None:
    """Take an empty level out of its ladder."""
    level = book.levels[slot]
    side = i64(level.side)
    count = level_count(book, side)
    position = _position(book, side, level.px if side == BID else ~level.px)
    for i in range(position, count - 1):
        book.ladder_keys[side, i] = book.ladder_keys[side, i + 1]
        book.ladder[side, i] = book.ladder[side, i + 1]
    _add_to_level_count(book, side, -1)
    level.head = book.heap.level_free
    book.heap.level_free = slot


@kernel
def _level_at(book: Book, config: Config, side: int, px: int) -> int:
    """Level of a side at an exact price, made if it is not there."""
    key = px if side == BID else ~px
    position = _position(book, side, key)
    if position < level_count(book, side) and book.ladder_keys[side, position] == key:
        return i64(book.ladder[side, position])
    return _new_level(book, config, side, px, position)


@kernel
def _append(book: Book, slot: int, level_slot: int) -> None:
    """Put an order at the back of a level's queue; sizes are not touched."""
    order = book.orders[slot]
    level = book.levels[level_slot]
    order.level = level_slot
    order.prev = level.tail
    order.next = NONE
    if level.tail >= 0:
        book.orders[level.tail].next = slot
    else:
        level.head = slot
    level.tail = slot


@kernel
def _unlink(book: Book, slot: int) -> None:
    """Take an order out of its level's queue; sizes are not touched."""
    order = book.orders[slot]
    level = book.levels[order.level]
    if order.prev >= 0:
        book.orders[order.prev].next = order.next
    else:
        level.head = order.next
    if order.next >= 0:
        book.orders[order.next].prev = order.prev
    else:
        level.tail = order.prev


@kernel
def insert(book: Book, config: Config, order_id: np.uint64, side: int, px: int, size: int, synthetic: bool) -> int:
    """Put a new order, whose id does not rest, at the back of its level.

    Returns:
        Its slot.
    """
    heap = book.heap
    slot: int = heap.order_free
    if slot >= 0:
        heap.order_free = book.orders[slot].next
    else:
        slot = heap.order_used
        heap.order_used += 1
    heap.orders += 1
    order = book.orders[slot]
    order.id = order_id
    order.size = size
    order.pending = SYNTHETIC if synthetic else 0
    put(book, order_id, slot)
    level_slot = _level_at(book, config, side, px)
    _append(book, slot, level_slot)
    level = book.levels[level_slot]
    level.size += size
    level.count += 1
    return slot


@kernel
def _leave_level(book: Book, slot: int) -> None:
    """Take an order with its size out of its level, and the level away if it was the last."""
    order = book.orders[slot]
    level_slot = i64(order.level)
    level = book.levels[level_slot]
    _unlink(book, slot)
    level.size -= i64(order.size)
    level.count -= 1
    if level.count == 0:
        _drop_level(book, level_slot)


@kernel
def remove(book: Book, slot: int) -> None:
    """Delete an order."""
    drop(book, book.orders[slot].id)
    _leave_level(book, slot)
    book.orders[slot].next = book.heap.order_free
    book.heap.order_free = slot
    book.heap.orders -= 1


@kernel
def move(book: Book, config: Config, slot: int, side: int, px: int, size: int) -> None:
    """Give an order another price, side and size; it goes to the back of its new level and loses pending fills."""
    _leave_level(book, slot)
    order = book.orders[slot]
    order.size = size
    order.pending &= SYNTHETIC
    level_slot = _level_at(book, config, side, px)
    _append(book, slot, level_slot)
    level = book.levels[level_slot]
    level.size += size
    level.count += 1


@kernel
def resize(book: Book, slot: int, size: int) -> None:
    """Change the size of an order; a larger one loses its place in the queue, a smaller one keeps it."""
    order = book.orders[slot]
    old = i64(order.size)
    book.levels[order.level].size += size - old
    order.size = size
    if size > old:
        level_slot = i64(order.level)
        _unlink(book, slot)
        _append(book, slot, level_slot)


@kernel
def clear(book: Book) -> None:
    """Remove every order."""
    heap = book.heap
    heap.orders = 0
    heap.order_free = NONE
    heap.order_used = 0
    heap.levels = 0
    heap.level_free = NONE
    heap.level_used = 0
    heap.bid_levels = 0
    heap.ask_levels = 0
    heap.expiring = 0
    book.places[:] = NONE


@kernel
def add_pending(book: Book, slot: int, size: int) -> None:
    """Note that `size` lots of an order were filled, which the cancel or modify to come will take off."""
    order = book.orders[slot]
    if order.pending == SYNTHETIC and size > 0:
        book.expiring[book.heap.expiring] = slot
        book.heap.expiring += 1
    order.pending += size


@kernel
def take_pending(order: Record, removed: int) -> int:
    """Set lots taken off an order against its pending fills.

    Returns:
        Lots that were pulled, not filled.
    """
    credit: int = min(removed, order.pending & _PENDING_MASK)
    order.pending -= credit
    return removed - credit


@kernel
def expire_pending(book: Book) -> None:
    """Forget the pending fills of synthetic orders; slots used again by other orders are left alone."""
    for i in range(book.heap.expiring):
        order = book.orders[book.expiring[i]]
        if order.pending & SYNTHETIC:
            order.pending = SYNTHETIC
    book.heap.expiring = 0


@kernel
def queue_ahead(book: Book, slot: int) -> tuple[int, int]:
    """Lots and orders before an order in the queue of its level."""
    lots = 0
    count = 0
    ahead = i64(book.orders[slot].prev)
    while ahead >= 0:
        lots += i64(book.orders[ahead].size)
        count += 1
        ahead = i64(book.orders[ahead].prev)
    return lots, count


@kernel
def top_levels(book: Book, side: int, out: np.ndarray, missing_px: int) -> None:
    """Best levels of a side.

    Args:
        book: The book.
        side: BID or ASK.
        out: int64[n, 3], written: price, size, count, best first; `missing_px`, 0, 0 where there is none.
        missing_px: Price of a missing level.
    """
    count = level_count(book, side)
    for i in range(len(out)):
        if i < count:
            level = book.levels[book.ladder[side, count - 1 - i]]
            out[i, 0] = level.px
            out[i, 1] = level.size
            out[i, 2] = level.count
        else:
            out[i, 0] = missing_px
            out[i, 1] = 0
            out[i, 2] = 0


@kernel
def walk(book: Book, side: int, levels: np.ndarray, orders: np.ndarray, first: int) -> int:
    """Copy a side, best level first, orders in their queue.

    Args:
        book: The book.
        side: BID or ASK.
        levels: LEVEL_DTYPE[levels of the side], written.
        orders: ORDER_DTYPE[...], written from `first` on.
        first: Where this side's orders begin.

    Returns:
        Position after the last order written.
    """
    count = level_count(book, side)
    for i in range(count):
        levels[i] = book.levels[book.ladder[side, count - 1 - i]]
        slot = i64(levels[i].head)
        while slot >= 0:
            orders[first] = book.orders[slot]
            first += 1
            slot = i64(book.orders[slot].next)
    return first


@kernel
def refill(book: Book, config: Config, side: int, levels: np.ndarray, orders: np.ndarray, first: int) -> int:
    """Insert a side that `walk` copied into an empty one.

    Args:
        book: The book, with room.
        config: Tick size.
        side: BID or ASK.
        levels: LEVEL_DTYPE[n], best first; only `px` and `count` matter.
        orders: ORDER_DTYPE[...]; only `id`, `pending` and `size` matter.
        first: Where this side's orders begin.

    Returns:
        Position after the last order inserted.
    """
    after = first
    for i in range(len(levels)):
        after += i64(levels[i].count)
    end = after
    for i in range(len(levels) - 1, -1, -1):  # worst first, so that every level comes at the end of its ladder
        end -= i64(levels[i].count)
        for o in range(end, end + i64(levels[i].count)):
            order = orders[o]
            slot = insert(book, config, order.id, side, levels[i].px, i64(order.size), False)
            book.orders[slot].pending = order.pending
            if order.pending > SYNTHETIC:
                book.expiring[book.heap.expiring] = slot
                book.heap.expiring += 1
    return after
