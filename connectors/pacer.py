"""When a block is due: event time against wall time. A rule without a clock; whoever owns the clock waits.

At speed N, N seconds of the market pass in one second; at `max` everything is due at once.
"""

import math
import re
from dataclasses import dataclass

from runtime.errors import InputError

MAX_SPEED = math.inf
"""Full speed: no waiting."""

FACTOR_MAX = 1e6
"""Largest multiple of real time: a day in a tenth of a second, which nothing reaches. The span of a paced block grows
with it, and far above would leave the range of times in ns; people mean `max` there."""


def parse_speed(text: str) -> float:
    """`max`, or a multiple of real time as `10x`, `0.5x` or `10`.

    Raises:
        InputError: neither.
    """
    if text.strip().lower() == "max":
        return MAX_SPEED
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)x?", text.strip().lower(), re.ASCII)
    if match is None or not 0 < float(match[1]) < FACTOR_MAX:
        raise InputError(f"{text!r} is no speed", remedy="give max, or a multiple of real time such as 10x")
    return float(match[1])


@dataclass(frozen=True, slots=True)
class Pacer:
    """Due times of a replay.

    Attributes:
        speed: market seconds per second; `MAX_SPEED` for no waiting.
        start_ns: event time that is due first.
        wall_start_s: monotonic time when it is due.
    """

    speed: float
    start_ns: int
    wall_start_s: float

    def due_s(self, t_ns: int) -> float:
        """Monotonic time when event time `t_ns` is due, seconds; never before the start."""
        if self.speed == MAX_SPEED:
            return self.wall_start_s
        return self.wall_start_s + max(0, t_ns - self.start_ns) / 1e9 / self.speed

    def wait_s(self, t_ns: int, now_s: float) -> float:
        """Seconds to wait at monotonic time `now_s` until `t_ns` is due; 0 if it is due already."""
        return max(0.0, self.due_s(t_ns) - now_s)
