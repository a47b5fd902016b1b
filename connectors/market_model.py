"""An invented market: order flow that looks alive, from a seed. Everything it makes is labelled synthetic.

One instrument is a book of orders around a *latent price* that nobody sees. Things happen at *events*, in this order
of causes:

- The latent price is a random walk on the clock of events, with three volatilities that come and go.
- Events arrive with exponential gaps. The intensity has four moods (quiet, normal, busy, burst), and each trade excites
  it for some events. So time is bursty and volatility comes in clusters.
- An event is a new order, a cancel (whole or part), a modify (price or size), an aggressor, or a wall. New orders lie
  at a distance of two exponential scales behind the latent price, never across the other side. Orders far from the
  latent price are cancelled first, and the more orders live, the more cancels come.
- Once the latent price has left the spread, orders at the wrong touch retreat and aggressors come, until the spread is
  around it again. An aggressor is matched against the best level, first come first served; each fill is a T, an F, and
  a C (whole) or M (the rest keeps its place).
- Some orders near the touch are *icebergs*: filled, they come back with a new id at the end of the queue. *Walls* are
  large orders at round prices that stay for a while and are pulled, most of them when the price comes close.

Deterministic on every machine: randomness is the raw 64-bit stream of NumPy's PCG64 (stable by NumPy's promise), all
arithmetic is on integers, and the two quantile tables, which do pass through the platform's `log`, are rounded to 16
bits, far from any half by more than rounding errors reach (a test compares their hash). Prices and sizes are no
forecast, and no claim is made that statistics of real markets are met.
"""

import math
from collections.abc import Callable, Iterator
from hashlib import sha256
from statistics import NormalDist
from typing import Any, Final, NamedTuple, TypeVar, cast

import numba
import numpy as np

from connectors.synthetic import TICK_PX
from schemas.mbo import F_BAD_TS_RECV, F_LAST, F_SNAPSHOT, MBO_BYTES, MBO_DTYPE, MBO_RTYPE
from schemas.units import NS_PER_SECOND, UNDEF_PRICE

F = TypeVar("F", bound=Callable[..., Any])

ORDERS_TARGET: Final = 1_500
"""Live orders around which a book settles."""

_TICKS: Final = 4096
"""Ticks that a book spans; the latent price is kept within the middle half."""
_ORDERS_MAX: Final = 16_384
_WALLS: Final = 8
_EVENT_RECORDS_MAX: Final = 64
"""Records of one event at most: 12 fills of 4 records and a margin. Room for one more event is checked by it."""
_EVENT_WORDS_MAX: Final = 64
_WORDS: Final = 1 << 16
_FILLS_MAX: Final = 12
_LATENCY_MIN_NS: Final = 20_000
"""ts_recv lies at least this far after ts_event."""
_ONE: Final = 1 << 16
"""One tick, or one of any quantile, in fixed point."""

_GAP_SHARE: Final = 0.55
"""Mean gap between records, in mean gaps of the normal mood: moods, excitation and records per event together. Measured
once; it only makes `hours` come out about right."""

# Places in the scalar state of a book.
(_CUR, _OUT, _T, _NEXT, _LATENT, _VOL, _MOOD, _EXCITE, _BID, _ASK, _LIVE, _FREE, _ID, _SEQ, _RECV, _TARGET, _GAP, _BASE,
 _INSTRUMENT, _EVENTS, _BIDS) = range(21)  # fmt: skip

# Columns of what kernels write: `_records` makes DBN records of it. Kernels on plain integers compile in a third of the
# time that structured rows take.
_ROW_T, _ROW_RECV, _ROW_SEQ, _ROW_ACTION, _ROW_SIDE, _ROW_TICK, _ROW_SIZE, _ROW_ID, _ROW_FLAGS = range(9)

# Columns of the order table.
_OID, _TICK, _SIZE, _SIDE, _RESERVE, _AFTER, _BEFORE, _POS = range(8)

_A, _C, _M, _R, _TR, _F = (ord(c) for c in "ACMRTF")
_SIDES: Final = np.frombuffer(b"BAN", "S1")
_VOLS: Final = np.array([_ONE // 60, _ONE // 25, _ONE // 10], np.int64)
"""Standard deviation of the latent price per event, ticks: calm, normal, wild."""
_MOOD_GAPS: Final = np.array([160, 64, 20, 5], np.int64)
"""Mean gap of a mood, in 1/64 of the normal one: quiet, normal, busy, burst."""

_EXPONENTIAL: Final = np.array([round(-math.log(1 - (i + 0.5) / 4096) * _ONE) for i in range(4096)], np.int64)
_NORMAL: Final = np.array([round(NormalDist().inv_cdf((i + 0.5) / 4096) * _ONE) for i in range(4096)], np.int64)


class _Book(NamedTuple):
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
_BOOK = numba.types.NamedTuple((_LIST, _TABLE, _LIST, _TABLE, _TABLE, _TABLE, numba.uint64[::1]), _Book)  # type: ignore[no-untyped-call]


def _kernel(signature: Any) -> Callable[[F], F]:
    """Compile for one signature, when the module is imported.

    Left to itself, numba would compile a function anew for each constant that it is called with, four times the work.
    Cached, the import takes a third of a second.
    """
    return cast("Callable[[F], F]", numba.njit(signature, cache=True, nogil=True))


@_kernel(_INT(_BOOK, _INT))
def _below(b: Any, n: int) -> int:
    """A uniform integer in [0, n), n < 2^31."""
    word = b.words[b.s[_CUR]]
    b.s[_CUR] += 1
    return int((np.int64(word >> np.uint64(33)) * n) >> 31)


@_kernel(_INT(_BOOK, _INT))
def _exponential(b: Any, mean: int) -> int:
    return int((_EXPONENTIAL[_below(b, 4096)] * mean) >> 16)


@_kernel(_VOID(_BOOK, _TABLE, _INT, _INT, _INT, _INT, _INT))
def _emit(b: Any, out: np.ndarray, action: int, side: int, tick: int, size: int, order_id: int) -> None:
    row = b.s[_OUT]
    b.s[_OUT] = row + 1
    out[row, 0], out[row, 1], out[row, 2] = b.s[_T], b.s[_RECV], b.s[_SEQ]
    out[row, 3], out[row, 4], out[row, 5] = action, side, tick
    out[row, 6], out[row, 7], out[row, 8] = size, order_id, 0


@_kernel(_INT(_BOOK, _INT, _INT, _INT, _INT, _INT))
def _insert(b: Any, side: int, tick: int, size: int, reserve: int, slot: int) -> int:
    """Put an order at the back of its level; a new one with the next id if `slot` is negative."""
    if slot < 0:
        slot = b.s[_FREE]
        b.s[_FREE] = b.orders[slot, _AFTER]
        b.s[_ID] += 1 + _below(b, 12)
        b.orders[slot, _OID] = b.s[_ID]
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
    b.orders[slot, _BEFORE], b.orders[slot, _AFTER] = last, -1
    if last < 0:
        b.head[side, tick] = slot
    else:
        b.orders[last, _AFTER] = slot
    b.tail[side, tick] = slot
    if side == 0:
        b.s[_BIDS] += 1
        b.s[_BID] = max(b.s[_BID], tick)
    else:
        b.s[_ASK] = min(b.s[_ASK], tick)
    return slot


@_kernel(_VOID(_BOOK, _INT))
def _unlink(b: Any, slot: int) -> None:
    """Take an order out of its level and find the best level again."""
    side, tick = b.orders[slot, _SIDE], b.orders[slot, _TICK]
    before, after = b.orders[slot, _BEFORE], b.orders[slot, _AFTER]
    if before < 0:
        b.head[side, tick] = after
    else:
        b.orders[before, _AFTER] = after
    if after < 0:
        b.tail[side, tick] = before
    else:
        b.orders[after, _BEFORE] = before
    if side == 0:
        b.s[_BIDS] -= 1
        while b.s[_BID] >= 0 and b.head[0, b.s[_BID]] < 0:
            b.s[_BID] -= 1
    else:
        while b.s[_ASK] < _TICKS and b.head[1, b.s[_ASK]] < 0:
            b.s[_ASK] += 1


@_kernel(_VOID(_BOOK, _INT))
def _free(b: Any, slot: int) -> None:
    """Forget an order that was unlinked."""
    position = b.orders[slot, _POS]
    b.s[_LIVE] -= 1
    moved = b.live[b.s[_LIVE]]
    b.live[position] = moved
    b.orders[moved, _POS] = position
    b.orders[slot, _OID] = 0
    b.orders[slot, _AFTER] = b.s[_FREE]
    b.s[_FREE] = slot


@_kernel(_INT(_BOOK, _INT, _INT))
def _behind(b: Any, side: int, distance: int) -> int:
    """The tick `distance` behind the latent price on a side, never across or at the other side's best."""
    latent = b.s[_LATENT] >> 16
    if side == 0:
        return int(max(1, min(latent, b.s[_ASK] - 1) - distance))
    return int(min(_TICKS - 2, max(latent + 1, b.s[_BID] + 1) + distance))


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
    slot = _insert(b, side, _behind(b, side, distance), size, reserve, -1)
    _emit(b, out, _A, side, b.orders[slot, _TICK], size, b.orders[slot, _OID])


@_kernel(_BOOL(_BOOK, _INT))
def _is_wall(b: Any, slot: int) -> bool:
    for w in range(_WALLS):  # noqa: SIM110 (numba compiles no generator)
        if b.walls[w, 0] == slot and b.walls[w, 1] == b.orders[slot, _OID]:
            return True
    return False


@_kernel(_INT(_BOOK))
def _any_order(b: Any) -> int:
    """A live order that is no wall, rather one far from the latent price; -1 if the draw fails."""
    first, second = b.live[_below(b, b.s[_LIVE])], b.live[_below(b, b.s[_LIVE])]
    latent = b.s[_LATENT] >> 16
    nearer = abs(b.orders[first, _TICK] - latent) < abs(b.orders[second, _TICK] - latent)
    slot = second if nearer and _below(b, 100) < 70 else first
    return -1 if _is_wall(b, slot) else slot


@_kernel(_VOID(_BOOK, _TABLE, _INT))
def _cancel(b: Any, out: np.ndarray, slot: int) -> None:
    removed = b.orders[slot, _SIZE]
    if removed > 1 and _below(b, 100) < 8:
        removed = 1 + _below(b, removed - 1)
    _emit(b, out, _C, b.orders[slot, _SIDE], b.orders[slot, _TICK], removed, b.orders[slot, _OID])
    b.orders[slot, _SIZE] -= removed
    if b.orders[slot, _SIZE] == 0:
        _unlink(b, slot)
        _free(b, slot)


@_kernel(_VOID(_BOOK, _TABLE, _INT))
def _retreat(b: Any, out: np.ndarray, side: int) -> None:
    """The newest order at the best level gives way, unless it is a wall or the last ones of its side."""
    best = b.s[_BID] if side == 0 else b.s[_ASK]
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
        _insert(b, side, tick, size, b.orders[slot, _RESERVE], slot)
    b.orders[slot, _SIZE] = size
    _emit(b, out, _M, side, tick, size, b.orders[slot, _OID])


@_kernel(_VOID(_BOOK, _TABLE, _INT))
def _sweep(b: Any, out: np.ndarray, side: int) -> None:
    """An aggressor that takes from `side`, first come first served; the T carries the aggressor's side."""
    left = 1 + _exponential(b, 4) if _below(b, 100) < 94 else 20 + _below(b, 120)
    for _ in range(_FILLS_MAX):
        best = b.s[_BID] if side == 0 else b.s[_ASK]
        few = b.s[_BIDS] < 20 if side == 0 else b.s[_LIVE] - b.s[_BIDS] < 20
        if left == 0 or few:
            return
        slot = b.head[side, best]
        fill = min(left, b.orders[slot, _SIZE])
        left -= fill
        _emit(b, out, _TR, 1 - side, best, fill, 0)
        _emit(b, out, _F, side, best, fill, b.orders[slot, _OID])
        b.orders[slot, _SIZE] -= fill
        if b.orders[slot, _SIZE] > 0:
            _emit(b, out, _M, side, best, b.orders[slot, _SIZE], b.orders[slot, _OID])
            return
        _emit(b, out, _C, side, best, fill, b.orders[slot, _OID])
        reserve = b.orders[slot, _RESERVE]
        _unlink(b, slot)
        _free(b, slot)
        if reserve > 0:
            shown = min(reserve, max(fill, 2))
            slot = _insert(b, side, best, shown, reserve - shown, -1)
            _emit(b, out, _A, side, best, shown, b.orders[slot, _OID])


@_kernel(_INT(_BOOK))
def _due_wall(b: Any) -> int:
    """A wall that shall be pulled now, as its place in the list; forgets walls that were filled; -1 if none."""
    for w in range(_WALLS):
        slot = b.walls[w, 0]
        if slot < 0:
            continue
        if b.orders[slot, _OID] != b.walls[w, 1]:
            b.walls[w, 0] = -1
            continue
        tick, side = b.orders[slot, _TICK], b.orders[slot, _SIDE]
        near = abs(tick - (b.s[_BID] if side == 0 else b.s[_ASK])) <= 1 and b.walls[w, 3] == 1
        if near or b.s[_EVENTS] >= b.walls[w, 2]:
            return w
    return -1


@_kernel(_BOOL(_BOOK, _TABLE))
def _wall(b: Any, out: np.ndarray) -> bool:
    """Put up a wall at a round price behind the market; whether there was room for it."""
    for w in range(_WALLS):
        if b.walls[w, 0] < 0:
            side = _below(b, 2)
            round_tick = _behind(b, side, 5 + _below(b, 35)) // 4 * 4
            tick = round_tick if side == 0 else round_tick + 4
            size = 150 + 50 * _below(b, 16)
            slot = _insert(b, side, min(tick, _TICKS - 2), size, 0, -1)
            b.walls[w, 0], b.walls[w, 1] = slot, b.orders[slot, _OID]
            b.walls[w, 2], b.walls[w, 3] = b.s[_EVENTS] + 800 + _below(b, 9000), _below(b, 100) < 65
            _emit(b, out, _A, side, b.orders[slot, _TICK], size, b.orders[slot, _OID])
            return True
    return False


@_kernel(_VOID(_BOOK))
def _drift(b: Any) -> None:
    """Move the latent price one event on; change volatility and mood from time to time."""
    if _below(b, 1500) == 0:
        b.s[_VOL] = (0, 0, 1, 1, 1, 2)[_below(b, 6)]
    if _below(b, 400) == 0:
        b.s[_MOOD] = (0, 1, 1, 1, 1, 2, 2, 2, 3, 3)[_below(b, 10)]
    latent = b.s[_LATENT] + ((_NORMAL[_below(b, 4096)] * _VOLS[b.s[_VOL]]) >> 16)
    low, high = (_TICKS // 4) << 16, (_TICKS * 3 // 4) << 16
    b.s[_LATENT] = min(max(latent, 2 * low - latent), 2 * high - latent)


@_kernel(_VOID(_BOOK, _TABLE))
def _ordinary(b: Any, out: np.ndarray) -> None:
    """A new order, a cancel or a modify; the more orders live, the more cancels."""
    draw = _below(b, 1000)
    slot = _any_order(b)
    crowd = min(900, 480 * b.s[_LIVE] // b.s[_TARGET])
    if draw < 70 and slot >= 0:
        _modify(b, out, slot)
    elif draw < 70 + crowd and slot >= 0:
        _cancel(b, out, slot)
    elif b.s[_LIVE] < _ORDERS_MAX - 64:
        _add(b, out, _below(b, 2))


@_kernel(_VOID(_BOOK, _TABLE))
def _event(b: Any, out: np.ndarray) -> None:
    """One event; its last record gets F_LAST."""
    b.s[_T] = b.s[_NEXT]
    b.s[_RECV] = max(b.s[_RECV], b.s[_T] + _LATENCY_MIN_NS + _below(b, 150_000))
    b.s[_SEQ] += 1
    b.s[_EVENTS] += 1
    b.s[_EXCITE] -= b.s[_EXCITE] >> 3
    _drift(b)
    asks = b.s[_LIVE] - b.s[_BIDS]
    above, below = b.s[_LATENT] > (b.s[_ASK] << 16), b.s[_LATENT] < (b.s[_BID] << 16)
    wall, start = _due_wall(b), b.s[_OUT]
    draw = _below(b, 10_000)
    if min(asks, b.s[_BIDS]) * 4 < b.s[_TARGET]:
        _add(b, out, 0 if b.s[_BIDS] < asks else 1)
    elif wall >= 0:
        slot = b.walls[wall, 0]
        b.walls[wall, 0] = -1
        _emit(b, out, _C, b.orders[slot, _SIDE], b.orders[slot, _TICK], b.orders[slot, _SIZE], b.orders[slot, _OID])
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
    if b.s[_OUT] == start:  # a draw that failed
        _add(b, out, _below(b, 2))
    out[b.s[_OUT] - 1, _ROW_FLAGS] = F_LAST
    gap = (b.s[_GAP] * _MOOD_GAPS[b.s[_MOOD]] // 64 << 16) // ((1 << 16) + b.s[_EXCITE])
    b.s[_NEXT] = b.s[_T] + 1 + _exponential(b, gap)


@_kernel(_VOID(_BOOK, _TABLE, _INT))
def _open(b: Any, out: np.ndarray, orders: int) -> None:
    """The opening snapshot: a clear, then the resting orders."""
    _emit(b, out, _R, 2, 0, 0, 0)
    out[0, _ROW_FLAGS] = F_SNAPSHOT | F_BAD_TS_RECV
    for i in range(orders):
        _add(b, out, i % 2)
        out[i + 1, _ROW_FLAGS] = F_SNAPSHOT | F_BAD_TS_RECV
        b.s[_CUR] = 0 if b.s[_CUR] > _WORDS - _EVENT_WORDS_MAX else b.s[_CUR]
    out[orders, _ROW_FLAGS] |= F_LAST


@_kernel(_BOOL(_BOOK, _TABLE, _INT))
def _advance(b: Any, out: np.ndarray, until_ns: int) -> bool:
    """Events before `until_ns` while there is room and randomness; whether time is up."""
    while b.s[_NEXT] < until_ns:
        if b.s[_OUT] > len(out) - _EVENT_RECORDS_MAX or b.s[_CUR] > len(b.words) - _EVENT_WORDS_MAX:
            return False
        _event(b, out)
    return True


def tables_sha256() -> str:
    """Hash of the quantile tables; another one than the test's means that `log` differs here by more than rounding."""
    return sha256(_EXPONENTIAL.astype("<i8").tobytes() + _NORMAL.astype("<i8").tobytes()).hexdigest()


class SyntheticInstrument:
    """One invented instrument; its records are a function of seed, number and start, however time is cut.

    Args:
        seed: of the whole market.
        number: the instrument, from 0; each has a random stream of its own.
        start_ns: time of the opening snapshot.
        records_per_s: mean rate of records.
        orders: orders in the snapshot, around which the book settles.
    """

    def __init__(
        self, seed: int, number: int, start_ns: int, records_per_s: float, orders: int = ORDERS_TARGET
    ) -> None:
        self._random = np.random.PCG64(np.random.SeedSequence([seed, number]))
        words = self._random.random_raw(_WORDS)
        free = np.full((_ORDERS_MAX, 8), -1, np.int64)
        free[:, _OID] = 0
        free[:-1, _AFTER] = np.arange(1, _ORDERS_MAX)
        empty = np.full((2, _TICKS), -1, np.int64)
        walls = np.full((_WALLS, 4), -1, np.int64)
        self._book = _Book(
            np.zeros(21, np.int64), free, np.zeros(_ORDERS_MAX, np.int64), empty, empty.copy(), walls, words
        )
        s = self._book.s
        s[_T] = s[_RECV] = start_ns
        s[_LATENT] = (_TICKS // 2 << 16) + _ONE // 2
        s[_BID], s[_ASK], s[_VOL], s[_MOOD] = -1, _TICKS, 1, 1
        s[_TARGET], s[_INSTRUMENT] = orders, number + 1
        s[_GAP] = max(1, round(NS_PER_SECOND / records_per_s / _GAP_SHARE))
        s[_BASE] = 4_000 * (5 + number) - _TICKS // 2
        s[_ID] = 1_000_000 * (number + 1)
        self._out = _rows(16_384)
        self._snapshot: np.ndarray | None = _rows(orders + 1)
        _open(self._book, self._snapshot, orders)
        s[_OUT] = 0
        s[_NEXT] = start_ns + 1 + int(s[_GAP])

    def until(self, t_ns: int) -> np.ndarray:
        """The next records, of all events before `t_ns`, `MBO_DTYPE`; the first call begins with the snapshot."""
        pieces = [] if self._snapshot is None else [self._snapshot]
        self._snapshot = None
        out = self._out
        done = False
        while not done:
            done = _advance(self._book, out, t_ns)
            pieces.append(out[: self._book.s[_OUT]].copy())
            self._book.s[_OUT] = 0
            if not done:
                self._refill()
        return self._records(np.concatenate(pieces))

    def deep_add(self) -> np.ndarray:
        """One more order far behind the market, at the present time; fills up a file to a wanted length."""
        out = _rows(1)
        self._refill()
        slot = _insert(self._book, 0, 1, 1, 0, -1)
        _emit(self._book, out, _A, 0, 1, 1, self._book.orders[slot, _OID])
        out[0, _ROW_FLAGS] = F_LAST
        self._book.s[_OUT] = 0
        return self._records(out)

    def _records(self, rows: np.ndarray) -> np.ndarray:
        """What kernels wrote, as DBN records."""
        out = np.zeros(len(rows), MBO_DTYPE)
        out["length"], out["rtype"], out["publisher_id"] = MBO_BYTES // 4, MBO_RTYPE, 1
        out["instrument_id"] = self._book.s[_INSTRUMENT]
        out["ts_event"], out["ts_recv"], out["sequence"] = rows[:, _ROW_T], rows[:, _ROW_RECV], rows[:, _ROW_SEQ]
        out["ts_in_delta"] = 12_000
        out["action"] = rows[:, _ROW_ACTION].astype(np.uint8).view("S1")
        out["side"] = _SIDES[rows[:, _ROW_SIDE]]
        out["price"] = (self._book.s[_BASE] + rows[:, _ROW_TICK]) * TICK_PX
        out["price"][out["action"] == b"R"] = UNDEF_PRICE
        out["size"], out["order_id"] = rows[:, _ROW_SIZE], rows[:, _ROW_ID]
        out["flags"] = rows[:, _ROW_FLAGS]
        return out

    def _refill(self) -> None:
        """Replace the random words that were used; unused ones keep their order, so cuts in time do not show."""
        used = int(self._book.s[_CUR])
        words = self._book.words
        words[: len(words) - used] = words[used:]
        words[len(words) - used :] = self._random.random_raw(used)
        self._book.s[_CUR] = 0


def _rows(count: int) -> np.ndarray:
    return np.zeros((count, 9), np.int64)


def _join(pieces: list[np.ndarray]) -> np.ndarray:
    """Records one after the other. As opaque bytes: NumPy would compare field by field, 40 µs each time."""
    opaque = np.dtype(f"V{MBO_BYTES}")
    return np.concatenate([piece.view(opaque) for piece in pieces if len(piece)] or [pieces[0].view(opaque)]).view(
        MBO_DTYPE
    )


class SyntheticMarket:
    """Several invented instruments, merged by ts_recv; each half as active as the one before, an eighth at least.

    Args:
        seed: of the market.
        instruments: how many.
        start_ns: time of the opening snapshots.
        records_per_s: mean rate of all together.
        orders: orders in the snapshot of each.
    """

    def __init__(
        self, seed: int, instruments: int, start_ns: int, records_per_s: float, orders: int = ORDERS_TARGET
    ) -> None:
        shares = [2.0 ** -min(n, 3) for n in range(instruments)]
        self._all = [
            SyntheticInstrument(seed, n, start_ns, records_per_s * share / sum(shares), orders)
            for n, share in enumerate(shares)
        ]
        self._held = np.zeros(0, MBO_DTYPE)

    def until(self, t_ns: int) -> np.ndarray:
        """The next records of all instruments, of events before `t_ns`, `MBO_DTYPE`, ts_recv never going back.

        A record that is received so late that one of a later event may be received before it is held for the next call.
        """
        together = _join([self._held, *(one.until(t_ns) for one in self._all)])
        together = together[np.argsort(together["ts_recv"], kind="stable")]
        ready = int(np.searchsorted(together["ts_recv"], np.uint64(t_ns + _LATENCY_MIN_NS), "left"))
        self._held = together[ready:]
        return together[:ready]

    def deep_adds(self, count: int, after: np.void) -> np.ndarray:
        """`count` more orders far behind the first instrument's market, at the times of the record `after`."""
        out = np.zeros(count, MBO_DTYPE)
        for n in range(count):
            out[n] = self._all[0].deep_add()[0]
        for name in ("ts_event", "ts_recv", "sequence"):
            out[name] = after[name]
        return out


def stream(
    seed: int, instruments: int, start_ns: int, *, records_per_s: float = 1000.0, step_ns: int = 10_000_000
) -> Iterator[tuple[int, np.ndarray]]:
    """A market without end: (time, records before it), every `step_ns` of event time; see `SyntheticMarket`."""
    market = SyntheticMarket(seed, instruments, start_ns, records_per_s)
    t_ns = start_ns
    while True:
        t_ns += step_ns
        yield t_ns, market.until(t_ns)
