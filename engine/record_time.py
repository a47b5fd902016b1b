"""The time of a record.

1. `ts_event`; for a record of a snapshot `ts_recv`, since its ts_event is that of the order's birth.
2. If that is missing, or more than `max_future_ns` after a defined ts_recv: `ts_recv`, and the record counts as
   `bad_timestamp`. If ts_recv is missing too: the engine's time; before the first time there is, such a record is
   ignored altogether.
3. Engine time never goes back: a record before it is lifted to it and counts as `late_record`.

A time from 2^62 ns (year 2116) on counts as missing: it would stop the clock for good.
"""

from typing import Final

import numpy as np

from engine._jit import i64, inlined
from engine.state import Record
from schemas.mbo import F_SNAPSHOT

TIME_LIMIT_NS: Final = 1 << 62
"""Times from here on count as missing; sums of a time and a bin or a session gap stay below 2^63."""

NO_TIME: Final = -1
"""A record without a time of its own."""


@inlined
def _defined(value: np.uint64) -> int:
    """A wire time as int64, or NO_TIME."""
    time = i64(value)
    return time if 0 <= time < TIME_LIMIT_NS else NO_TIME


@inlined
def own_time(record: Record, max_future_ns: int) -> tuple[int, bool]:
    """A record's own time, rules 1 and 2.

    Returns:
        Time in ns or NO_TIME, and whether the record counts as `bad_timestamp`.
    """
    received = _defined(record.ts_recv)
    value = received if record.flags & F_SNAPSHOT else _defined(record.ts_event)
    if value == NO_TIME or (received != NO_TIME and value > received + max_future_ns):
        return received, True
    return value, False


def record_times(records: np.ndarray, last_t_ns: int | None, max_future_ns: int) -> np.ndarray:
    """Engine time that each record would get, without clock messages in between.

    Args:
        records: Array of `schemas.mbo.MBO_DTYPE`.
        last_t_ns: Engine time before the first record, ns; None at the start of a stream.
        max_future_ns: How far a time may lie after ts_recv, ns.

    Returns:
        int64 array, ns, never falling; 0 for records at the start of a stream that are ignored for want of a time.
    """

    def defined(values: np.ndarray) -> np.ndarray:
        times = values.astype(np.int64)
        return np.where((times >= 0) & (times < TIME_LIMIT_NS), times, NO_TIME)

    received = defined(records["ts_recv"])
    value = np.where(records["flags"] & F_SNAPSHOT, received, defined(records["ts_event"]))
    bad = (value == NO_TIME) | ((received != NO_TIME) & (value > received + max_future_ns))
    value = np.where(bad, received, value)
    return np.maximum.accumulate(np.maximum(value, 0 if last_t_ns is None else last_t_ns))
