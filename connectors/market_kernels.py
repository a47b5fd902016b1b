"""The invented market's events, compiled. What they mean stands in `market_model`; here is how.

A book is a few arrays of integers: orders in a table, linked into queues per (side, tick); live orders in a list, so
that one can be drawn; best ticks kept as levels come and go. Randomness is read from a list of 64-bit words that the
caller fills. Importing this module compiles it (10 s on a new machine, cached then); `market_model` does so on first
use. The cache goes by this file alone: after a change of a constant from elsewhere, touch it.
"""

import math
from collections.abc import Callable
from hashlib import sha256
from statistics import NormalDist
from typing import Any, Final, NamedTuple, TypeVar, cast

import numba
import numpy as np

from connectors.synthetic import LATENCY_MIN_NS
from schemas.mbo import F_BAD_TS_RECV, F_LAST, F_SNAPSHOT

F = TypeVar("F", bound=Callable[..., Any])

TICKS: Final = 4096
"""Ticks that a book spans; the latent price is kept within the middle half."""
ORDERS_MAX: Final = 16_384
WALLS: Final = 8
_EVENT_RECORDS_MAX: Final = 64
"""Records of one event at most: 12 fills of 4 records and a margin. Room for one more event is checked by it."""
_EVENT_WORDS_MAX: Final = 64
WORDS: Final = 1 << 16
_FILLS_MAX: Final = 12
ONE: Final = 1 << 16
"""One tick, or one of any quantile, in fixed point."""

# Places in the scalar state of a book.
(CUR, OUT, T, NEXT, LATENT, VOL, MOOD, _EXCITE, BID, ASK, _LIVE, _FREE, ID, _SEQ, RECV, TARGET, GAP, BASE,
 INSTRUMENT, _EVENTS, _BIDS) = range(21)  # fmt: skip

# Columns of what kernels write: `_records` makes DBN records of it. Kernels on plain integers compile in a third of the
# time that structured rows take.
ROW_T, ROW_RECV, ROW_SEQ, ROW_ACTION, ROW_SIDE, ROW_TICK, ROW_SIZE, ROW_ID, ROW_FLAGS = range(9)

# Columns of the order table.
OID, _TICK, _SIZE, _SIDE, _RESERVE, AFTER, _BEFORE, _POS = range(8)

ADD, _C, _M, _R, _TR, _F = (ord(c) for c in "ACMRTF")
SIDES: Final = np.frombuffer(b"BAN", "S1")
_VOLS: Final = np.array([ONE // 60, ONE // 25, ONE // 10], np.int64)
"""Standard deviation of the latent price per event, ticks: calm, normal, wild."""
_MOOD_GAPS: Final = np.array([160, 64, 20, 5], np.int64)
"""Mean gap of a mood, in 1/64 of the normal one: quiet, normal, busy, burst."""

_EXPONENTIAL: Final = np.array([round(-math.log(1 - (i + 0.5) / 4096) * ONE) for i in range(4096)], np.int64)
_NORMAL: Final = np.array([round(NormalDist().inv_cdf((i + 0.5) / 4096) * ONE) for i in range(4096)], np.int64)


class Book(NamedTuple):
    """Memory of one instrument."""

    s: np.ndarray
    orders: np.ndarray
    live: np.ndarray
    head: np.ndarray
    tail: np.ndarray
    walls: np.ndarray
    words: np.ndarray


_INT, _BOOL, _VOID = numba.int64, numba.boolean, numba.void
_TABLE = numba.int64[:, ::1]
_LIST = numba.int64[::1]
_BOOK = numba.types.NamedTuple((_LIST, _TABLE, _LIST, _TABLE, _TABLE, _TABLE, numba.uint64[::1]), Book)  # type: ignore[no-untyped-call]


def _kernel(signature: Any) -> Callable[[F], F]:
    """Compile for one signature, when the module is imported.

    Left to itself, numba would compile a function anew for each constant that it is called with, four times the work.
    Cached, the import takes a third of a second.
    """
    return cast("Callable[[F], F]", numba.njit(signature, cache=True, nogil=True))


@_kernel(_INT(_BOOK, _INT))
def _below(b: Any, n: int) -> int:
    """A uniform integer in [0, n), n < 2^31."""
    word = b.words[b.s[CUR]]
    b.s[CUR] += 1
    return int((np.int64(word >> np.uint64(33)) * n) >> 31)


@_kernel(_INT(_BOOK, _INT))
def _exponential(b: Any, mean: int) -> int:
    return int((_EXPONENTIAL[_below(b, 4096)] * mean) >> 16)


@_kernel(_VOID(_BOOK, _TABLE, _INT, _INT, _INT, _INT, _INT))
def emit(b: Any, out: np.ndarray, action: int, side: int, tick: int, size: int, order_id: int) -> None:
    """Write one record of the present event to row `s[OUT]` of `out`."""
    row = b.s[OUT]
    b.s[OUT] = row + 1
    out[row, 0], out[row, 1], out[row, 2] = b.s[T], b.s[RECV], b.s[_SEQ]
    out[row, 3], out[row, 4], out[row, 5] = action, side, tick
    out[row, 6], out[row, 7], out[row, 8] = size, order_id, 0


@_kernel(_INT(_BOOK, _INT, _INT, _INT, _INT, _INT))
def insert(b: Any, side: int, tick: int, size: int, reserve: int, slot: int) -> int:
    """Put an order at the back of its level; a new one with the next id if `slot` is negative."""
    if slot < 0:
        slot = b.s[_FREE]
        b.s[_FREE] = b.orders[slot, AFTER]
        b.s[ID] += 1 + _below(b, 12)
        b.orders[slot, OID] = b.s[ID]
        b.orders[slot, _POS] = b.s[_LIVE]
        b.live[b.s[_LIVE]] = slot
        b.s[_LIVE] += 1
    b.orders[slot, _TICK], b.orders[slot, _SIZE], b.orders[slot, _SIDE], b.orders[slot, _RESERVE] = (
        tick,
        size,
        side,
        reserve,
    )
    last = b.tail[side, tick]
    b.orders[slot, _BEFORE], b.orders[slot, AFTER] = last, -1
    if last < 0:
        b.head[side, tick] = slot
    else:
        b.orders[last, AFTER] = slot
    b.tail[side, tick] = slot
    if side == 0:
        b.s[_BIDS] += 1
        b.s[BID] = max(b.s[BID], tick)
    else:
        b.s[ASK] = min(b.s[ASK], tick)
    return slot


@_kernel(_VOID(_BOOK, _INT))
def _unlink(b: Any, slot: int) -> None:
    """Take an order out of its level and find the best level again."""
    side, tick = b.orders[slot, _SIDE], b.orders[slot, _TICK]
    before, after = b.orders[slot, _BEFORE], b.orders[slot, AFTER]
    if before < 0:
        b.head[side, tick] = after
    else:
        b.orders[before, AFTER] = after
    if after < 0:
        b.tail[side, tick] = before
    else:
        b.orders[after, _BEFORE] = before
    if side == 0:
        b.s[_BIDS] -= 1
        while b.s[BID] >= 0 and b.head[0, b.s[BID]] < 0:
            b.s[BID] -= 1
    else:
        while b.s[ASK] < TICKS and b.head[1, b.s[ASK]] < 0:
            b.s[ASK] += 1


@_kernel(_VOID(_BOOK, _INT))
def _free(b: Any, slot: int) -> None:
    """Forget an order that was unlinked."""
    position = b.orders[slot, _POS]
    b.s[_LIVE] -= 1
    moved = b.live[b.s[_LIVE]]
    b.live[position] = moved
    b.orders[moved, _POS] = position
    b.orders[slot, OID] = 0
    b.orders[slot, AFTER] = b.s[_FREE]
    b.s[_FREE] = slot


@_kernel(_INT(_BOOK, _INT, _INT))
def _behind(b: Any, side: int, distance: int) -> int:
    """The tick `distance` behind the latent price on a side, never across or at the other side's best."""
    latent = b.s[LATENT] >> 16
    if side == 0:
        return int(max(1, min(latent, b.s[ASK] - 1) - distance))
    return int(min(TICKS - 2, max(latent + 1, b.s[BID] + 1) + distance))


@_kernel(_INT(_BOOK))
def _size(b: Any) -> int:
    """Sizes: mostly a few lots, sometimes round larger ones."""
    kind = _below(b, 100)
    if kind < 80:
        return 1 + _exponential(b, 3)
    return (5, 10, 20, 50)[_below(b, 4)]


@_kernel(_VOID(_BOOK, _TABLE, _INT))
def _add(b: Any, out: np.ndarray, side: int) -> None:
    scale = 2 if _below(b, 100) < 45 else 22
    distance = _exponential(b, scale)
    size = _size(b)
    iceberg = distance < 3 and _below(b, 100) < 4
    reserve = size * (5 + _below(b, 15)) if iceberg else 0
    slot = insert(b, side, _behind(b, side, distance), size, reserve, -1)
    emit(b, out, ADD, side, b.orders[slot, _TICK], size, b.orders[slot, OID])


@_kernel(_BOOL(_BOOK, _INT))
def _is_wall(b: Any, slot: int) -> bool:
    for w in range(WALLS):  # noqa: SIM110 (numba compiles no generator)
        if b.walls[w, 0] == slot and b.walls[w, 1] == b.orders[slot, OID]:
            return True
    return False


@_kernel(_INT(_BOOK))
def _any_order(b: Any) -> int:
    """A live order that is no wall, rather one far from the latent price; -1 if the draw fails."""
    first, second = b.live[_below(b, b.s[_LIVE])], b.live[_below(b, b.s[_LIVE])]
    latent = b.s[LATENT] >> 16
    nearer = abs(b.orders[first, _TICK] - latent) < abs(b.orders[second, _TICK] - latent)
    slot = second if nearer and _below(b, 100) < 70 else first
    return -1 if _is_wall(b, slot) else slot


@_kernel(_VOID(_BOOK, _TABLE, _INT))
def _cancel(b: Any, out: np.ndarray, slot: int) -> None:
    removed = b.orders[slot, _SIZE]
    if removed > 1 and _below(b, 100) < 8:
        removed = 1 + _below(b, removed - 1)
    emit(b, out, _C, b.orders[slot, _SIDE], b.orders[slot, _TICK], removed, b.orders[slot, OID])
    b.orders[slot, _SIZE] -= removed
    if b.orders[slot, _SIZE] == 0:
        _unlink(b, slot)
        _free(b, slot)


@_kernel(_VOID(_BOOK, _TABLE, _INT))
def _retreat(b: Any, out: np.ndarray, side: int) -> None:
    """The newest order at the best level gives way, unless it is a wall or the last ones of its side."""
    best = b.s[BID] if side == 0 else b.s[ASK]
    many = b.s[_BIDS] > 20 if side == 0 else b.s[_LIVE] - b.s[_BIDS] > 20
    slot = b.tail[side, best]
    if many and not _is_wall(b, slot):
        _cancel(b, out, slot)


@_kernel(_VOID(_BOOK, _TABLE, _INT))
def _modify(b: Any, out: np.ndarray, slot: int) -> None:
    """A new price, or a new size; only a smaller size keeps the order's place."""
    side, tick, size = b.orders[slot, _SIDE], b.orders[slot, _TICK], b.orders[slot, _SIZE]
    if _below(b, 100) < 50:
        tick = _behind(b, side, _exponential(b, 4))
    else:
        size = _size(b)
    if tick != b.orders[slot, _TICK] or size > b.orders[slot, _SIZE]:
        _unlink(b, slot)
        insert(b, side, tick, size, b.orders[slot, _RESERVE], slot)
    b.orders[slot, _SIZE] = size
    emit(b, out, _M, side, tick, size, b.orders[slot, OID])


@_kernel(_VOID(_BOOK, _TABLE, _INT))
def _sweep(b: Any, out: np.ndarray, side: int) -> None:
    """An aggressor that takes from `side`, first come first served; the T carries the aggressor's side."""
    left = 1 + _exponential(b, 4) if _below(b, 100) < 94 else 20 + _below(b, 120)
    for _ in range(_FILLS_MAX):
        best = b.s[BID] if side == 0 else b.s[ASK]
        few = b.s[_BIDS] < 20 if side == 0 else b.s[_LIVE] - b.s[_BIDS] < 20
        if left == 0 or few:
            return
        slot = b.head[side, best]
        fill = min(left, b.orders[slot, _SIZE])
        left -= fill
        emit(b, out, _TR, 1 - side, best, fill, 0)
        emit(b, out, _F, side, best, fill, b.orders[slot, OID])
        b.orders[slot, _SIZE] -= fill
        if b.orders[slot, _SIZE] > 0:
            emit(b, out, _M, side, best, b.orders[slot, _SIZE], b.orders[slot, OID])
            return
        emit(b, out, _C, side, best, fill, b.orders[slot, OID])
        reserve = b.orders[slot, _RESERVE]
        _unlink(b, slot)
        _free(b, slot)
        if reserve > 0:
            shown = min(reserve, max(fill, 2))
            slot = insert(b, side, best, shown, reserve - shown, -1)
            emit(b, out, ADD, side, best, shown, b.orders[slot, OID])


@_kernel(_INT(_BOOK))
def _due_wall(b: Any) -> int:
    """A wall that shall be pulled now, as its place in the list; forgets walls that were filled; -1 if none."""
    for w in range(WALLS):
        slot = b.walls[w, 0]
        if slot < 0:
            continue
        if b.orders[slot, OID] != b.walls[w, 1]:
            b.walls[w, 0] = -1
            continue
        tick, side = b.orders[slot, _TICK], b.orders[slot, _SIDE]
        near = abs(tick - (b.s[BID] if side == 0 else b.s[ASK])) <= 1 and b.walls[w, 3] == 1
        if near or b.s[_EVENTS] >= b.walls[w, 2]:
            return w
    return -1


@_kernel(_BOOL(_BOOK, _TABLE))
def _wall(b: Any, out: np.ndarray) -> bool:
    """Put up a wall at a round price behind the market; whether there was room for it."""
    for w in range(WALLS):
        if b.walls[w, 0] < 0:
            side = _below(b, 2)
            round_tick = _behind(b, side, 5 + _below(b, 35)) // 4 * 4
            tick = round_tick if side == 0 else round_tick + 4
            size = 150 + 50 * _below(b, 16)
            slot = insert(b, side, min(tick, TICKS - 2), size, 0, -1)
            b.walls[w, 0], b.walls[w, 1] = slot, b.orders[slot, OID]
            b.walls[w, 2], b.walls[w, 3] = b.s[_EVENTS] + 800 + _below(b, 9000), _below(b, 100) < 65
            emit(b, out, ADD, side, b.orders[slot, _TICK], size, b.orders[slot, OID])
            return True
    return False


@_kernel(_VOID(_BOOK))
def _drift(b: Any) -> None:
    """Move the latent price one event on; change volatility and mood from time to time."""
    if _below(b, 1500) == 0:
        b.s[VOL] = (0, 0, 1, 1, 1, 2)[_below(b, 6)]
    if _below(b, 400) == 0:
        b.s[MOOD] = (0, 1, 1, 1, 1, 2, 2, 2, 3, 3)[_below(b, 10)]
    latent = b.s[LATENT] + ((_NORMAL[_below(b, 4096)] * _VOLS[b.s[VOL]]) >> 16)
    low, high = (TICKS // 4) << 16, (TICKS * 3 // 4) << 16
    b.s[LATENT] = min(max(latent, 2 * low - latent), 2 * high - latent)


@_kernel(_VOID(_BOOK, _TABLE))
def _ordinary(b: Any, out: np.ndarray) -> None:
    """A new order, a cancel or a modify; the more orders live, the more cancels."""
    draw = _below(b, 1000)
    slot = _any_order(b)
    crowd = min(900, 480 * b.s[_LIVE] // b.s[TARGET])
    if draw < 70 and slot >= 0:
        _modify(b, out, slot)
    elif draw < 70 + crowd and slot >= 0:
        _cancel(b, out, slot)
    elif b.s[_LIVE] < ORDERS_MAX - 64:
        _add(b, out, _below(b, 2))


@_kernel(_VOID(_BOOK, _TABLE))
def _event(b: Any, out: np.ndarray) -> None:
    """One event; its last record gets F_LAST."""
    b.s[T] = b.s[NEXT]
    b.s[RECV] = max(b.s[RECV], b.s[T] + LATENCY_MIN_NS + _below(b, 150_000))
    b.s[_SEQ] += 1
    b.s[_EVENTS] += 1
    b.s[_EXCITE] -= b.s[_EXCITE] >> 3
    _drift(b)
    asks = b.s[_LIVE] - b.s[_BIDS]
    above, below = b.s[LATENT] > (b.s[ASK] << 16), b.s[LATENT] < (b.s[BID] << 16)
    wall, start = _due_wall(b), b.s[OUT]
    draw = _below(b, 10_000)
    if min(asks, b.s[_BIDS]) * 4 < b.s[TARGET]:
        _add(b, out, 0 if b.s[_BIDS] < asks else 1)
    elif wall >= 0:
        slot = b.walls[wall, 0]
        b.walls[wall, 0] = -1
        emit(b, out, _C, b.orders[slot, _SIDE], b.orders[slot, _TICK], b.orders[slot, _SIZE], b.orders[slot, OID])
        _unlink(b, slot)
        _free(b, slot)
    elif draw < (600 if above or below else 90):
        _sweep(b, out, 1 if above else 0 if below else _below(b, 2))
        b.s[_EXCITE] += 4 << 16
    elif draw < 4500 and (above or below):
        _retreat(b, out, 1 if above else 0)
    elif draw > 9985:
        _wall(b, out)
    else:
        _ordinary(b, out)
    if b.s[OUT] == start:  # a draw that failed
        _add(b, out, _below(b, 2))
    out[b.s[OUT] - 1, ROW_FLAGS] = F_LAST
    gap = (b.s[GAP] * _MOOD_GAPS[b.s[MOOD]] // 64 << 16) // ((1 << 16) + b.s[_EXCITE])
    b.s[NEXT] = b.s[T] + 1 + _exponential(b, gap)


@_kernel(_VOID(_BOOK, _TABLE, _INT))
def open_book(b: Any, out: np.ndarray, orders: int) -> None:
    """The opening snapshot: a clear, then the resting orders."""
    emit(b, out, _R, 2, 0, 0, 0)
    out[0, ROW_FLAGS] = F_SNAPSHOT | F_BAD_TS_RECV
    for i in range(orders):
        _add(b, out, i % 2)
        out[i + 1, ROW_FLAGS] = F_SNAPSHOT | F_BAD_TS_RECV
        b.s[CUR] = 0 if b.s[CUR] > WORDS - _EVENT_WORDS_MAX else b.s[CUR]
    out[orders, ROW_FLAGS] |= F_LAST


@_kernel(_BOOL(_BOOK, _TABLE, _INT))
def advance(b: Any, out: np.ndarray, until_ns: int) -> bool:
    """Events before `until_ns` while there is room and randomness; whether time is up."""
    while b.s[NEXT] < until_ns:
        if b.s[OUT] > len(out) - _EVENT_RECORDS_MAX or b.s[CUR] > len(b.words) - _EVENT_WORDS_MAX:
            return False
        _event(b, out)
    return True


def tables_sha256() -> str:
    """Hash of the quantile tables; another one than the test's means that `log` differs here by more than rounding."""
    return sha256(_EXPONENTIAL.astype("<i8").tobytes() + _NORMAL.astype("<i8").tobytes()).hexdigest()
