"""How fast is this machine just now? Two kernels that never change, timed again and again during a bench.

*touch* reads one word of each 56-byte record of a long array: what it costs to see a record at all, bound by the
bandwidth of the memory. *load* follows a random cycle through a table of 8 MiB: what one access costs that has to wait
for the one before it, as a look-up in a table of orders does. Together they notice a slower clock, a busy neighbour and
a crowded cache.
"""

from functools import cache
from statistics import median
from time import process_time_ns
from typing import Any, Final

import numpy as np
from numba import njit

from schemas.mbo import MBO_DTYPE

TOUCH_QUIET_NS: Final = 5.5
"""Touch of one record on the quiet reference machine."""
LOAD_QUIET_NS: Final = 18.0
"""One dependent load on the quiet reference machine."""
NOISY_ABOVE: Final = 1.5
"""Slower than quiet by more than this: gates are not judged. Below, ordinary scatter between boots would forbid every
judgement; above, a machine of which a neighbour has half would pass as quiet."""

_TOUCH_RECORDS: Final = 1 << 20
"""56 MiB: more than any cache of the machines in question, so that the memory is what is timed."""
_LOAD_ENTRIES: Final = 1 << 20
_LOADS: Final = 1 << 18


@njit(cache=True, nogil=True)
def touch(records: np.ndarray) -> int:
    """Sum of one field over records of `schemas.mbo.MBO_DTYPE`, to have read each of them."""
    total = np.uint64(0)
    for i in range(len(records)):
        total += records[i].order_id
    return int(total)


@njit(cache=True, nogil=True)
def _chase(table: np.ndarray, steps: int) -> int:
    """Follow a cycle of indices."""
    at = np.int64(0)
    for _ in range(steps):
        at = table[at]
    return int(at)


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Records to touch, and one random cycle through all entries of a table of 8 MiB."""
    records = np.zeros(_TOUCH_RECORDS, MBO_DTYPE)
    records["order_id"] = np.arange(_TOUCH_RECORDS)
    order = np.random.default_rng(1).permutation(_LOAD_ENTRIES)
    cycle = np.empty(_LOAD_ENTRIES, np.int64)
    cycle[order] = np.roll(order, -1)
    touch(records[:1])
    _chase(cycle, 1)
    return records, cycle


def touch_ns(records: np.ndarray) -> float:
    """Process CPU time per record of one pass over the records, ns."""
    begin = process_time_ns()
    touch(records)
    return (process_time_ns() - begin) / len(records)


class Calibration:
    """Samples of both kernels, taken whenever `sample` is called."""

    def __init__(self) -> None:
        self.touch_ns: list[float] = []
        self.load_ns: list[float] = []

    def sample(self) -> None:
        """Time both kernels once; about 20 ms."""
        records, cycle = _tables()
        self.touch_ns.append(touch_ns(records))
        cycle.sum()  # brings the table back into the cache, from which the records have driven it
        begin = process_time_ns()
        _chase(cycle, _LOADS)
        self.load_ns.append((process_time_ns() - begin) / _LOADS)

    @property
    def slowdown(self) -> float:
        """How much slower than quiet, by the worse of both medians; 1.0 without samples."""
        return slowdown(self.touch_ns, self.load_ns)

    @property
    def noisy(self) -> bool:
        """Whether gates cannot be judged."""
        return self.slowdown > NOISY_ABOVE

    def document(self, cpus: int) -> dict[str, Any]:
        """What the result tells about the machine's mood; times in ns."""
        kernels = (("touch", self.touch_ns, TOUCH_QUIET_NS), ("load", self.load_ns, LOAD_QUIET_NS))
        told: dict[str, Any] = {"cpus": cpus, "samples": len(self.touch_ns), "slowdown": round(self.slowdown, 3)}
        for name, samples, quiet in kernels:
            told[f"{name}_ns"] = round(median(samples), 3) if samples else None
            told[f"{name}_ns_min"] = round(min(samples), 3) if samples else None
            told[f"{name}_ns_max"] = round(max(samples), 3) if samples else None
            told[f"{name}_ns_quiet"] = quiet
        return told


def slowdown(touch: list[float], load: list[float]) -> float:
    """Samples of both kernels as one factor against the quiet machine; 1.0 without samples."""
    if not touch or not load:
        return 1.0
    return max(median(touch) / TOUCH_QUIET_NS, median(load) / LOAD_QUIET_NS)
