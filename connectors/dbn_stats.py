"""What one pass over MBO records tells of each instrument: counts, times, prices, the tick that fits them all.

An accumulator: feed it records in pieces of any size, in file order; memory depends on the number of instruments only.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from connectors.dbn_metadata import InstrumentNames
from schemas.mbo import F_SNAPSHOT
from schemas.units import NS_PER_SECOND, UNDEF_PRICE, UNDEF_TIMESTAMP

NO_TIME: Final = -1
"""A time that no record gave."""

TIME_LIMIT_NS: Final = 1 << 62
"""Times from here on (year 2116) count as missing, as in the engine."""

MAX_FUTURE_NS: Final = NS_PER_SECOND
"""How far `ts_event` may lie after `ts_recv` before it is held for wrong, ns; the engine's own default. Clocks of venue
and capture differ by milliseconds; a second is a broken stamp, and believing it would stop the instrument's time."""

_LATEST: Final = np.iinfo(np.int64).max


def index_times(records: np.ndarray) -> np.ndarray:
    """Time of each record by itself, int64 ns, -1 where missing: engine time before it is lifted to never go back.

    That is ts_event, but ts_recv for a snapshot, and where ts_event is missing or lies more than a second after a
    defined ts_recv.
    """
    event, received = records["ts_event"], records["ts_recv"]
    late = event - np.minimum(event, received) > np.uint64(MAX_FUTURE_NS)
    snapshot = (records["flags"] & F_SNAPSHOT).astype(bool)
    use_received = snapshot | (event == UNDEF_TIMESTAMP) | (late & (received != UNDEF_TIMESTAMP))
    times = np.where(use_received, received, event)
    missing = times >= np.uint64(TIME_LIMIT_NS)
    return np.where(missing, NO_TIME, times.astype(np.int64))


@dataclass(frozen=True, slots=True)
class InstrumentStats:
    """One instrument of a file.

    Attributes:
        records: its records.
        first_ns, last_ns: smallest and largest record time; -1 if no record has one.
        low_px, high_px: range of prices of adds and modifies; UNDEF_PRICE if there are none.
        tick_px: greatest common divisor of those prices; 0 if there are none.
        first_sequence, last_sequence: venue's sequence of its first and last record.
    """

    records: int
    first_ns: int
    last_ns: int
    low_px: int
    high_px: int
    tick_px: int
    first_sequence: int
    last_sequence: int


class MboStats:
    """Accumulates `InstrumentStats`.

    Args:
        names: numbers the instruments; shared with whoever else reads the same pass.
    """

    def __init__(self, names: InstrumentNames) -> None:
        self.names = names
        self._records = np.zeros(0, np.int64)
        self._first = np.zeros(0, np.int64)
        self._last = np.zeros(0, np.int64)
        self._low = np.zeros(0, np.int64)
        self._high = np.zeros(0, np.int64)
        self._tick = np.zeros(0, np.int64)
        self._sequence_first = np.zeros(0, np.int64)
        self._sequence_last = np.zeros(0, np.int64)

    def add(self, records: np.ndarray) -> None:
        """Take the next records of the file."""
        if not len(records):
            return
        codes = self.names.codes(records)
        self._grow(len(self.names.names))
        sequences = records["sequence"].astype(np.int64)
        fresh, at = np.unique(codes, return_index=True)
        newly = self._records[fresh] == 0
        self._sequence_first[fresh[newly]] = sequences[at[newly]]
        self._sequence_last[codes] = sequences  # the last assignment to an index stands
        np.add.at(self._records, codes, 1)
        times = index_times(records)
        timed = times != NO_TIME
        np.minimum.at(self._first, codes[timed], times[timed])
        np.maximum.at(self._last, codes[timed], times[timed])
        self._add_prices(records, codes)

    def _add_prices(self, records: np.ndarray, codes: np.ndarray) -> None:
        action, price = records["action"], records["price"]
        quoted = ((action == b"A") | (action == b"M")) & (price != UNDEF_PRICE) & (price > -UNDEF_PRICE)
        codes, price = codes[quoted], price[quoted]
        np.minimum.at(self._low, codes, price)
        np.maximum.at(self._high, codes, price)
        # The common divisor settles within the first records; only prices that break it need arithmetic.
        tick = self._tick[codes]
        breaks = np.where(tick == 0, price != 0, price % np.where(tick == 0, 1, tick) != 0)
        np.gcd.at(self._tick, codes[breaks], np.abs(price[breaks]))

    def _grow(self, size: int) -> None:
        more = size - len(self._records)
        if more <= 0:
            return
        starts = {"_first": _LATEST, "_last": NO_TIME, "_low": _LATEST, "_high": -_LATEST}
        for name in ("_records", "_first", "_last", "_low", "_high", "_tick", "_sequence_first", "_sequence_last"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.full(more, starts.get(name, 0), np.int64)]))

    def by_instrument(self) -> dict[str, InstrumentStats]:
        """Name → statistics, in order of first appearance."""
        out = {}
        for code in range(len(self._records)):
            quoted = self._high[code] >= self._low[code]
            out[self.names.names[code]] = InstrumentStats(
                records=int(self._records[code]),
                first_ns=int(self._first[code]) if self._last[code] != NO_TIME else NO_TIME,
                last_ns=int(self._last[code]),
                low_px=int(self._low[code]) if quoted else UNDEF_PRICE,
                high_px=int(self._high[code]) if quoted else UNDEF_PRICE,
                tick_px=int(self._tick[code]),
                first_sequence=int(self._sequence_first[code]),
                last_sequence=int(self._sequence_last[code]),
            )
        return out
