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

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from connectors.synthetic import LATENCY_MIN_NS, TICK_PX
from schemas.mbo import F_LAST, MBO_BYTES, MBO_DTYPE, MBO_RTYPE
from schemas.units import NS_PER_SECOND, UNDEF_PRICE

ORDERS_TARGET: Final = 1_500
"""Live orders around which a book settles."""

_GAP_SHARE: Final = 0.55
"""Mean gap between records, in mean gaps of the normal mood: moods, excitation and records per event together. Measured
once; it only makes `hours` come out about right."""


def _kernels() -> Any:
    """The compiled part. Imported when a market is made, so that nobody else waits for the compiler."""
    from connectors import market_kernels

    return market_kernels


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
        k = self._k = _kernels()
        self._random = np.random.PCG64(np.random.SeedSequence([seed, number]))
        words = self._random.random_raw(k.WORDS)
        free = np.full((k.ORDERS_MAX, 8), -1, np.int64)
        free[:, k.OID] = 0
        free[:-1, k.AFTER] = np.arange(1, k.ORDERS_MAX)
        empty = np.full((2, k.TICKS), -1, np.int64)
        walls = np.full((k.WALLS, 4), -1, np.int64)
        self._book = k.Book(
            np.zeros(21, np.int64), free, np.zeros(k.ORDERS_MAX, np.int64), empty, empty.copy(), walls, words
        )
        s = self._book.s
        s[k.T] = s[k.RECV] = start_ns
        s[k.LATENT] = (k.TICKS // 2 << 16) + k.ONE // 2
        s[k.BID], s[k.ASK], s[k.VOL], s[k.MOOD] = -1, k.TICKS, 1, 1
        s[k.TARGET], s[k.INSTRUMENT] = orders, number + 1
        s[k.GAP] = max(1, round(NS_PER_SECOND / records_per_s / _GAP_SHARE))
        s[k.BASE] = 4_000 * (5 + number) - k.TICKS // 2
        s[k.ID] = 1_000_000 * (number + 1)
        self._out = _rows(16_384)
        self._snapshot: np.ndarray | None = _rows(orders + 1)
        k.open_book(self._book, self._snapshot, orders)
        s[k.OUT] = 0
        s[k.NEXT] = start_ns + 1 + int(s[k.GAP])

    def until(self, t_ns: int) -> np.ndarray:
        """The next records, of all events before `t_ns`, `MBO_DTYPE`; the first call begins with the snapshot."""
        k = self._k
        pieces = [] if self._snapshot is None else [self._snapshot]
        self._snapshot = None
        out = self._out
        done = False
        while not done:
            done = k.advance(self._book, out, t_ns)
            pieces.append(out[: self._book.s[k.OUT]].copy())
            self._book.s[k.OUT] = 0
            if not done:
                self._refill()
        return self._records(np.concatenate(pieces))

    def deep_add(self) -> np.ndarray:
        """One more order far behind the market, at the present time; fills up a file to a wanted length."""
        k = self._k
        out = _rows(1)
        self._refill()
        slot = k.insert(self._book, 0, 1, 1, 0, -1)
        k.emit(self._book, out, k.ADD, 0, 1, 1, self._book.orders[slot, k.OID])
        out[0, k.ROW_FLAGS] = F_LAST
        self._book.s[k.OUT] = 0
        return self._records(out)

    def _records(self, rows: np.ndarray) -> np.ndarray:
        """What kernels wrote, as DBN records."""
        k = self._k
        out = np.zeros(len(rows), MBO_DTYPE)
        out["length"], out["rtype"], out["publisher_id"] = MBO_BYTES // 4, MBO_RTYPE, 1
        out["instrument_id"] = self._book.s[k.INSTRUMENT]
        out["ts_event"], out["ts_recv"], out["sequence"] = rows[:, k.ROW_T], rows[:, k.ROW_RECV], rows[:, k.ROW_SEQ]
        out["ts_in_delta"] = 12_000
        out["action"] = rows[:, k.ROW_ACTION].astype(np.uint8).view("S1")
        out["side"] = k.SIDES[rows[:, k.ROW_SIDE]]
        out["price"] = (self._book.s[k.BASE] + rows[:, k.ROW_TICK]) * TICK_PX
        out["price"][out["action"] == b"R"] = UNDEF_PRICE
        out["size"], out["order_id"] = rows[:, k.ROW_SIZE], rows[:, k.ROW_ID]
        out["flags"] = rows[:, k.ROW_FLAGS]
        return out

    def _refill(self) -> None:
        """Replace the random words that were used; unused ones keep their order, so cuts in time do not show."""
        k = self._k
        used = int(self._book.s[k.CUR])
        words = self._book.words
        words[: len(words) - used] = words[used:]
        words[len(words) - used :] = self._random.random_raw(used)
        self._book.s[k.CUR] = 0


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
        ready = int(np.searchsorted(together["ts_recv"], np.uint64(t_ns + LATENCY_MIN_NS), "left"))
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
