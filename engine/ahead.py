"""Look ahead: bring near what records to come will touch.

A record names an order, the order its neighbours in the queue: three places in memory one after the other, and with
hundreds of thousands of orders each of them is a wait of tens of nanoseconds. The records of a block are known, so each
wait is begun some records early, in steps that find what they read already there:

    16 records ahead   the place of the id in the order index
    10                 the order that stands there
     5                 its neighbours; for an order to come, the last of the queue that it will join

Nothing here changes anything, and no branch depends on what is found: a slot that is missing counts as slot 0, whose
cache line is then asked for in vain. An order that moves in between costs its wait as before.
"""

from typing import Final

import numpy as np

from engine._jit import i64, inlined
from engine.book import hint_of
from engine.machine import ORDER_BYTES, PLACE_BYTES, fetch_line, hints, level_of, order_of
from engine.order_index import home, likely_slot
from engine.state import ASK, BID, BUY, Machine, Record

AHEAD: Final = 16
"""Records that `look_ahead` looks beyond the one to be applied. Fewer: waits are not over; more: what was fetched may
be gone again from the fastest cache."""
_ORDERS_AHEAD: Final = 10
_NEIGHBOURS_AHEAD: Final = 5


@inlined
def _fetch_order(m: Machine, slot: int) -> None:
    fetch_line(m.orders_at + ORDER_BYTES * max(0, i64(slot)))


@inlined
def _fetch_neighbours(m: Machine, record: Record) -> None:
    order = order_of(m, likely_slot(m, record.order_id))
    _fetch_order(m, order.prev)
    _fetch_order(m, order.next)
    side = BID if record.side == BUY else ASK
    level = level_of(m, max(0, i64(hints(m)[side, hint_of(record.price)])))
    _fetch_order(m, level.tail)


@inlined
def look_ahead(m: Machine, records: np.ndarray, i: int) -> None:
    """Ask for memory that the records from i + 5 to i + AHEAD need; all of which must exist."""
    fetch_line(m.places_at + PLACE_BYTES * home(records[i + AHEAD].order_id, m.index_bits))
    _fetch_order(m, likely_slot(m, records[i + _ORDERS_AHEAD].order_id))
    _fetch_neighbours(m, records[i + _NEIGHBOURS_AHEAD])
