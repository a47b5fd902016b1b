"""Streams for measurement: a book of a given breadth and depth in a steady state, from a seed.

The market of `connectors.market_model` looks alive; this one is even, so that one property can be varied and the rest
stays as it was. It has `levels` ticks on each side and holds about `queue` orders on every one of them:

- An event falls on a side by a coin and on a tick near the touch rather than far (the lesser of two uniform draws). It
  is an add or a cancel of any order of that level, all the likelier an add the fewer orders rest there.
- One event in twenty modifies an order: half make it smaller, a quarter larger, a quarter move it to another level.
- One in sixty is a trade with the front of the best queue: T, F, and C (whole) or M (what is left).
- Every `200 * queue` records the price moves by a tick: aggressors eat the best level of one side, the orders of the
  farthest level of the other are cancelled, and the freed tick fills up from the new side.

Orders have rising ids with gaps. Records are spread evenly over bins, `per_bin` in each. Everything is a function of
the shape: the random words come from splitmix64, all arithmetic is on integers.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple, TypeVar, cast

import numba
import numpy as np

from engine.state import MBO_KERNEL_DTYPE
from schemas.mbo import F_LAST, MBO_BYTES, MBO_DTYPE, MBO_RTYPE
from schemas.units import UNDEF_PRICE

F = TypeVar("F", bound=Callable[..., Any])

TICK_PX: Final = 250_000_000
START_NS: Final = 1_700_000_000_000_000_000
_LATENCY_NS: Final = 20_000
_DRIFT: Final = 512
"""Ticks by which the price may leave its start in either direction."""
_BASE_TICK: Final = 16_000
"""Tick of the lowest place of the ladder."""

_ADD, _CANCEL, _MODIFY, _TRADE, _FILL, _CLEAR = (ord(c) for c in "ACMTFR")
_BID, _ASK, _NO_SIDE = (ord(c) for c in "BAN")

# Places in the scalar state.
_ROW, _MID, _MOVING, _NEXT_ID, _FREE, _SEQUENCE, _MOVE_AT = range(7)
# Columns of the table of orders.
_ID, _SIZE, _TICK, _POSITION, _BEFORE, _AFTER = range(6)
# Columns of the table of levels.
_COUNT, _HEAD, _TAIL = range(3)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a stream is made from; equal shapes give equal records.

    Attributes:
        records: records to be measured, after the opening ones.
        levels: ticks on each side that hold orders.
        queue: orders on each of them, on average.
        per_bin: records in each bin.
        cell_ns: width of a bin, ns.
        churn: records of the same flow among the opening ones, so that orders lie in memory as they come to lie in a
            long run and not as they were first added.
        seed: of the random words.
        instrument: instrument id of the records.
    """

    records: int
    levels: int
    queue: int
    per_bin: int
    cell_ns: int = 100_000_000
    churn: int = 50_000
    seed: int = 7
    instrument: int = 1

    @property
    def orders(self) -> int:
        """Orders that rest, about."""
        return 2 * self.levels * self.queue

    def conditions(self) -> dict[str, Any]:
        """The shape as a row tells it."""
        return asdict(self) | {"live_orders": self.orders}


@dataclass(frozen=True, slots=True)
class Stream:
    """Records of one instrument.

    Attributes:
        opening: what fills the book, MBO_DTYPE; not measured.
        records: what is measured, MBO_DTYPE.
        tick_px: tick size, 1e-9.
        cell_ns: width of a bin, ns.
        conditions: how to get the same stream again.
    """

    opening: np.ndarray
    records: np.ndarray
    tick_px: int
    cell_ns: int
    conditions: dict[str, Any]


class _Book(NamedTuple):
    """Memory of the generator: scalars, random state (uint64[1]), tables, and the records written so far."""

    s: np.ndarray
    random: np.ndarray
    orders: np.ndarray
    levels: np.ndarray
    lists: np.ndarray
    out: np.ndarray


_INT, _BOOL, _VOID = numba.int64, numba.boolean, numba.void
_TABLE = numba.int64[:, ::1]
_BOOK: Final = numba.types.NamedTuple(
    (
        numba.int64[::1],
        numba.uint64[::1],
        _TABLE,
        _TABLE,
        numba.int32[:, ::1],
        numba.from_dtype(MBO_KERNEL_DTYPE)[::1],  # type: ignore[no-untyped-call]
    ),
    _Book,
)


def _kernel(signature: Any) -> Callable[[F], F]:
    """Compile for one signature when the module is imported; left to itself, numba compiles once per constant."""
    return cast("Callable[[F], F]", numba.njit(signature, cache=True, nogil=True))


@_kernel(_INT(_BOOK, _INT))
def _below(b: Any, n: int) -> int:
    """A uniform integer in [0, n), n < 2^31."""
    z = b.random[0] + np.uint64(0x9E3779B97F4A7C15)
    b.random[0] = z
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((np.int64((z ^ (z >> np.uint64(31))) >> np.uint64(33)) * n) >> 31)


@_kernel(_VOID(_BOOK, _INT, _INT, _INT, _INT, _INT))
def _emit(b: Any, action: int, side: int, tick: int, size: int, order_id: int) -> None:
    """Write the next record, all but its times."""
    r = b.out[b.s[_ROW]]
    r.action, r.side, r.flags = action, side, 0
    r.price, r.size, r.order_id = (_BASE_TICK + tick) * TICK_PX, size, order_id
    r.sequence = b.s[_SEQUENCE]
    b.s[_ROW] += 1


@_kernel(_VOID(_BOOK, _INT, _INT))
def _enter(b: Any, slot: int, tick: int) -> None:
    """Put an order at the back of a level."""
    count, last = b.levels[tick, _COUNT], b.levels[tick, _TAIL]
    b.orders[slot, _TICK], b.orders[slot, _POSITION] = tick, count
    b.orders[slot, _BEFORE], b.orders[slot, _AFTER] = last, -1
    if last < 0:
        b.levels[tick, _HEAD] = slot
    else:
        b.orders[last, _AFTER] = slot
    b.levels[tick, _TAIL] = slot
    b.lists[tick, count] = slot
    b.levels[tick, _COUNT] = count + 1


@_kernel(_VOID(_BOOK, _INT))
def _leave(b: Any, slot: int) -> None:
    """Take an order out of its level."""
    tick, before, after = b.orders[slot, _TICK], b.orders[slot, _BEFORE], b.orders[slot, _AFTER]
    if before < 0:
        b.levels[tick, _HEAD] = after
    else:
        b.orders[before, _AFTER] = after
    if after < 0:
        b.levels[tick, _TAIL] = before
    else:
        b.orders[after, _BEFORE] = before
    count = b.levels[tick, _COUNT] - 1
    b.levels[tick, _COUNT] = count
    moved = b.lists[tick, count]
    b.lists[tick, b.orders[slot, _POSITION]] = moved
    b.orders[moved, _POSITION] = b.orders[slot, _POSITION]


@_kernel(_VOID(_BOOK, _INT))
def _new(b: Any, tick: int) -> None:
    """Add an order at a tick."""
    slot = b.s[_FREE]
    b.s[_FREE] = b.orders[slot, _AFTER]
    b.s[_NEXT_ID] += 1 + _below(b, 16)
    b.orders[slot, _ID], b.orders[slot, _SIZE] = b.s[_NEXT_ID], 1 + _below(b, 8)
    _enter(b, slot, tick)
    _emit(b, _ADD, _BID if tick < b.s[_MID] else _ASK, tick, b.orders[slot, _SIZE], b.orders[slot, _ID])


@_kernel(_VOID(_BOOK, _INT, _BOOL))
def _cancel(b: Any, slot: int, whole: bool) -> None:
    """Cancel an order, sometimes a part of it only."""
    tick, size = b.orders[slot, _TICK], b.orders[slot, _SIZE]
    if not whole and size > 1 and _below(b, 20) == 0:
        size = 1 + _below(b, size - 1)
    _emit(b, _CANCEL, _BID if tick < b.s[_MID] else _ASK, tick, size, b.orders[slot, _ID])
    b.orders[slot, _SIZE] -= size
    if b.orders[slot, _SIZE] == 0:
        _leave(b, slot)
        b.orders[slot, _AFTER] = b.s[_FREE]
        b.s[_FREE] = slot


@_kernel(_VOID(_BOOK, _INT, _INT))
def _modify(b: Any, slot: int, to: int) -> None:
    """Make an order smaller, larger, or move it to the tick `to` of its side."""
    kind = _below(b, 4)
    if kind == 0 and b.levels[to, _COUNT] < b.lists.shape[1]:
        _leave(b, slot)
        _enter(b, slot, to)
    elif kind == 1 or b.orders[slot, _SIZE] == 1:
        b.orders[slot, _SIZE] += 1 + _below(b, 4)
        tick = b.orders[slot, _TICK]
        _leave(b, slot)
        _enter(b, slot, tick)
    else:
        b.orders[slot, _SIZE] = 1 + _below(b, b.orders[slot, _SIZE] - 1)
    tick = b.orders[slot, _TICK]
    _emit(b, _MODIFY, _BID if tick < b.s[_MID] else _ASK, tick, b.orders[slot, _SIZE], b.orders[slot, _ID])


@_kernel(_VOID(_BOOK, _INT, _BOOL))
def _trade(b: Any, tick: int, whole: bool) -> None:
    """An aggressor meets the front of a level's queue."""
    slot = b.levels[tick, _HEAD]
    side, aggressor = (_BID, _ASK) if tick < b.s[_MID] else (_ASK, _BID)
    size = b.orders[slot, _SIZE] if whole else 1 + _below(b, b.orders[slot, _SIZE])
    left = b.orders[slot, _SIZE] - size
    _emit(b, _TRADE, aggressor, tick, size, 0)
    _emit(b, _FILL, side, tick, size, b.orders[slot, _ID])
    if left == 0:
        _cancel(b, slot, True)
    else:
        b.orders[slot, _SIZE] = left
        _emit(b, _MODIFY, side, tick, left, b.orders[slot, _ID])


@_kernel(_VOID(_BOOK, _INT))
def _move(b: Any, breadth: int) -> None:
    """One event of a move of the price; the price has moved when both levels are empty."""
    up = b.s[_MOVING] > 0
    near, far = (b.s[_MID], b.s[_MID] - breadth) if up else (b.s[_MID] - 1, b.s[_MID] + breadth - 1)
    if b.levels[near, _COUNT] > 0:
        _trade(b, near, True)
    elif b.levels[far, _COUNT] > 0:
        _cancel(b, b.levels[far, _HEAD], True)
    else:
        b.s[_MID] += b.s[_MOVING]
        b.s[_MOVING] = 0


@_kernel(_VOID(_BOOK, _INT, _INT))
def _ordinary(b: Any, breadth: int, queue: int) -> None:
    """An add, a cancel, a modify or a trade."""
    bid = _below(b, 2) == 0
    distance = min(_below(b, breadth), _below(b, breadth))
    tick = b.s[_MID] - 1 - distance if bid else b.s[_MID] + distance
    draw, count = _below(b, 1000), b.levels[tick, _COUNT]
    if draw < 17:
        best = b.s[_MID] - 1 if bid else b.s[_MID]
        while b.levels[best, _COUNT] == 0 and abs(best - b.s[_MID]) < breadth:
            best += -1 if bid else 1
        if b.levels[best, _COUNT] > 0:
            _trade(b, best, False)
    elif draw < 67 and count > 0:
        near = min(_below(b, breadth), _below(b, breadth))
        to = b.s[_MID] - 1 - near if bid else b.s[_MID] + near
        _modify(b, b.lists[tick, _below(b, count)], to)
    elif _below(b, 2 * queue) >= count:
        _new(b, tick)
    elif count > 0:
        _cancel(b, b.lists[tick, _below(b, count)], False)


@_kernel(_VOID(_BOOK, _INT, _INT))
def _make(b: Any, breadth: int, queue: int) -> None:
    """Fill `out`: a clear, the opening orders on ticks in random order, then events until it is full."""
    _emit(b, _CLEAR, _NO_SIDE, 0, 0, 0)
    b.out[0].price, b.out[0].flags = UNDEF_PRICE, F_LAST
    for _ in range(2 * breadth * queue):
        tick = b.s[_MID] - breadth + _below(b, 2 * breadth)
        while b.levels[tick, _COUNT] >= queue:
            tick = tick + 1 if tick + 1 < b.s[_MID] + breadth else b.s[_MID] - breadth
        _new(b, tick)
        b.out[b.s[_ROW] - 1].flags = F_LAST
    b.s[_MOVE_AT] = b.s[_ROW] + 200 * queue
    middle = len(b.levels) // 2
    while b.s[_ROW] <= len(b.out) - 3:
        first = b.s[_ROW]
        b.s[_SEQUENCE] += 1
        if b.s[_ROW] >= b.s[_MOVE_AT] and b.s[_MOVING] == 0:
            b.s[_MOVE_AT] += 200 * queue
            b.s[_MOVING] = 1 if _below(b, 2) else -1
            if abs(b.s[_MID] + b.s[_MOVING] - middle) > _DRIFT:
                b.s[_MOVING] = -b.s[_MOVING]
        if b.s[_MOVING] != 0:
            _move(b, breadth)
        else:
            _ordinary(b, breadth, queue)
        if b.s[_ROW] > first:
            b.out[b.s[_ROW] - 1].flags = F_LAST


def make(shape: Shape) -> Stream:
    """The stream of a shape; a million records take about a second, most of it to compile or load the kernels."""
    ticks = 2 * (shape.levels + _DRIFT + 1)
    capacity = 2 * shape.queue + 1
    slots = 2 * shape.levels * capacity
    orders = np.zeros((slots, 6), np.int64)
    orders[:, _AFTER] = np.arange(1, slots + 1)
    levels = np.zeros((ticks, 3), np.int64)
    levels[:, _HEAD:] = -1
    lists = np.zeros((ticks, capacity), np.int32)
    state = np.zeros(7, np.int64)
    state[_MID], state[_NEXT_ID] = ticks // 2, 6_400_000_000_000 + shape.seed
    opening = 1 + shape.orders + shape.churn
    kernel_records = np.zeros(opening + shape.records + 2, MBO_KERNEL_DTYPE)
    random = np.array([shape.seed], np.uint64)
    _make(_Book(state, random, orders, levels, lists, kernel_records), shape.levels, shape.queue)
    records = kernel_records[: opening + shape.records].view(MBO_DTYPE)
    records["length"], records["rtype"], records["publisher_id"] = MBO_BYTES // 4, MBO_RTYPE, 1
    records["instrument_id"], records["ts_in_delta"] = shape.instrument, 12_000
    _set_times(records, opening, shape)
    return Stream(records[:opening], records[opening:], TICK_PX, shape.cell_ns, shape.conditions())


def _set_times(records: np.ndarray, opening: int, shape: Shape) -> None:
    """Spread records evenly over bins, those of one event together; the opening ones lie in the bin before."""
    index = np.arange(len(records), dtype=np.int64)
    starts = np.concatenate([[True], records["flags"][:-1] & F_LAST != 0])
    event = np.maximum.accumulate(np.where(starts, index, 0))
    measured = event - opening
    bins, places = np.divmod(measured, shape.per_bin)
    within = bins * shape.cell_ns + places * shape.cell_ns // shape.per_bin
    times = START_NS + np.where(measured >= 0, within, measured * shape.cell_ns // (opening + 1))
    records["ts_event"] = times
    records["ts_recv"] = times + _LATENCY_NS
