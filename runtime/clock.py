"""Time as a parameter. Code that needs a clock takes one; the wall clock is made at the edge, by whoever owns `main`.

`now_ns` (UTC, may step) labels things for people and measures age against event time; `monotonic_s` measures
durations and time-outs. Neither ever enters a result: engine time comes from the records alone.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """What may be asked of time."""

    def now_ns(self) -> int:
        """Nanoseconds since the epoch, UTC."""

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment; never goes back."""


class WallClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        """Nanoseconds since the epoch, UTC."""
        return time.time_ns()

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        return time.monotonic()
