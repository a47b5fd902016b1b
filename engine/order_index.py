"""Order id to slot: an open-addressing hash table over preallocated arrays.

A place of 32 bits is -1 while it is free, else it holds

    3 bits: how far it lies from its home | 4 bits of the id's hash | 24 bits: the slot

The id itself is read from the order, which is needed next anyway. The bits of the hash spare nearly every look at an
order that is another one, and the distance spares all looks in removal: with many orders each look is a wait for
memory. Multiplying by the golden ratio (Knuth, TAOCP vol. 3, 6.4) spreads the rising ids of a venue; collisions go to
the next place; at most half of the places are used. Removal closes the gap by moving later entries back (algorithm R
there): no tombstones, and the speed does not depend on history.
"""

from typing import Final

import numpy as np

from engine._jit import i64, inlined, kernel
from engine.machine import entry_at, ladder, level_of, order_of, set_entry
from engine.state import NONE, Machine

GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)

_SLOT_BITS: Final = 24
ORDERS_MAX: Final = 1 << _SLOT_BITS
"""Orders that one instrument can have: 640 MiB of them. The busiest books of exchanges have a tenth of that."""
SLOT_MASK: Final = ORDERS_MAX - 1
_TAG_BITS: Final = 4
_TAG_MASK: Final = (1 << _TAG_BITS) - 1
_ENTRY_MASK: Final = (1 << (_SLOT_BITS + _TAG_BITS)) - 1
_DISTANCE_MAX: Final = 7
"""From here on the distance is computed from the order's id: about one entry in a thousand."""


@inlined
def _hash(order_id: np.uint64, bits: int) -> int:
    """Home of an id in a table of 2^bits places, and below it `_TAG_BITS` further bits of its hash."""
    return i64((order_id * GOLDEN) >> np.uint64(64 - _TAG_BITS - bits))


@inlined
def home(order_id: np.uint64, bits: int) -> int:
    """First place to look for an id in a table of 2^bits places."""
    return _hash(order_id, bits) >> _TAG_BITS


@inlined
def find(m: Machine, order_id: np.uint64) -> int:
    """Slot of an order by its id, uint64; NONE if the id does not rest."""
    mask = (1 << m.index_bits) - 1
    hashed = _hash(order_id, m.index_bits)
    tag = hashed & _TAG_MASK
    place = hashed >> _TAG_BITS
    while True:
        entry = entry_at(m, place)
        if entry < 0:
            return NONE
        if (entry >> _SLOT_BITS) & _TAG_MASK == tag:
            slot = entry & SLOT_MASK
            if order_of(m, slot).id == order_id:
                return slot
        place = (place + 1) & mask


@inlined
def likely_slot(m: Machine, order_id: np.uint64) -> int:
    """Slot in the first or second place of an id, by the bits of its hash, without a branch; 0 if both are empty."""
    hashed = _hash(order_id, m.index_bits)
    place = hashed >> _TAG_BITS
    first = entry_at(m, place)
    second = entry_at(m, (place + 1) & ((1 << m.index_bits) - 1))
    entry = first if (first >> _SLOT_BITS) & _TAG_MASK == hashed & _TAG_MASK else second
    return max(0, entry) & SLOT_MASK


@inlined
def put(m: Machine, order_id: np.uint64, slot: int) -> None:
    """Enter an id that is not in the table."""
    mask = (1 << m.index_bits) - 1
    hashed = _hash(order_id, m.index_bits)
    place = hashed >> _TAG_BITS
    distance = 0
    while entry_at(m, place) >= 0:
        place = (place + 1) & mask
        distance += 1
    entry = slot | (hashed & _TAG_MASK) << _SLOT_BITS
    set_entry(m, place, entry | min(distance, _DISTANCE_MAX) << (_SLOT_BITS + _TAG_BITS))


@inlined
def _distance(m: Machine, entry: int, place: int, mask: int) -> int:
    """How far an entry lies from its home."""
    distance = entry >> (_SLOT_BITS + _TAG_BITS)
    if distance == _DISTANCE_MAX:
        distance = (place - home(order_of(m, entry & SLOT_MASK).id, m.index_bits)) & mask
    return distance


@inlined
def drop(m: Machine, order_id: np.uint64, slot: int) -> None:
    """Take out an id that is in the table with this slot."""
    mask = (1 << m.index_bits) - 1
    hole = home(order_id, m.index_bits)
    while entry_at(m, hole) & SLOT_MASK != slot:
        hole = (hole + 1) & mask
    place = hole
    while True:
        place = (place + 1) & mask
        entry = entry_at(m, place)
        if entry < 0:
            break
        distance = _distance(m, entry, place, mask)
        step = (place - hole) & mask
        if distance >= step:  # its home lies at or before the hole
            left = min(distance - step, _DISTANCE_MAX)
            set_entry(m, hole, entry & _ENTRY_MASK | left << (_SLOT_BITS + _TAG_BITS))
            hole = place
    set_entry(m, hole, NONE)


@kernel
def rebuild(m: Machine) -> None:
    """Enter every resting order anew, after the table was replaced by a larger one filled with NONE."""
    for side in range(2):
        count = m.bid_levels if side == 0 else m.ask_levels
        for i in range(count):
            slot = i64(level_of(m, ladder(m)[side, i]).head)
            while slot >= 0:
                put(m, order_of(m, slot).id, slot)
                slot = i64(order_of(m, slot).next)
