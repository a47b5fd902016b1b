"""Order id to slot: an open-addressing hash table over preallocated arrays.

Places hold slots, not ids: the id is read from the order, which is needed next anyway. Multiplying by the golden ratio
(Knuth, TAOCP vol. 3, 6.4) spreads the rising ids of a venue; collisions go to the next place; at most half of the
places are used. Removal closes the gap by moving later entries back (algorithm R there): no tombstones, and the
speed does not depend on history.
"""

from typing import Final

import numpy as np

from engine._jit import i64, kernel
from engine.machine import ladder, levels, orders, places
from engine.state import NONE, Machine

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)


@kernel
def _home(order_id: np.uint64, bits: int) -> int:
    """First place to look for an id in a table of 2^bits places."""
    return i64((order_id * _GOLDEN) >> np.uint64(64 - bits))


@kernel
def find(m: Machine, order_id: np.uint64) -> int:
    """Slot of an order; NONE if the id does not rest."""
    mask = (1 << m.index_bits) - 1
    place = _home(order_id, m.index_bits)
    while True:
        slot = places(m)[place]
        if slot < 0:
            return NONE
        if orders(m)[slot].id == order_id:
            return i64(slot)
        place = (place + 1) & mask


@kernel
def put(m: Machine, order_id: np.uint64, slot: int) -> None:
    """Enter an id that is not in the table."""
    mask = (1 << m.index_bits) - 1
    place = _home(order_id, m.index_bits)
    while places(m)[place] >= 0:
        place = (place + 1) & mask
    places(m)[place] = slot


@kernel
def drop(m: Machine, order_id: np.uint64) -> None:
    """Take out an id that is in the table."""
    mask = (1 << m.index_bits) - 1
    bits = m.index_bits
    hole = _home(order_id, bits)
    while orders(m)[places(m)[hole]].id != order_id:
        hole = (hole + 1) & mask
    place = hole
    while True:
        place = (place + 1) & mask
        slot = places(m)[place]
        if slot < 0:
            break
        home = _home(orders(m)[slot].id, bits)
        if ((place - home) & mask) >= ((place - hole) & mask):  # its home lies at or before the hole
            places(m)[hole] = slot
            hole = place
    places(m)[hole] = NONE


@kernel
def rebuild(m: Machine) -> None:
    """Enter every resting order anew, after the table was replaced by a larger one filled with NONE."""
    for side in range(2):
        count = m.bid_levels if side == 0 else m.ask_levels
        for i in range(count):
            slot = levels(m)[ladder(m)[side, i]].head
            while slot >= 0:
                put(m, orders(m)[slot].id, slot)
                slot = orders(m)[slot].next
