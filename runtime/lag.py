"""How a consumer keeps up, judged from a short window of samples: no thresholds, no I/O, no clock.

A lag of 10,000 messages is nothing to a consumer that eats 5,000 a second and an outage to one that stands still. So
what is judged is behaviour over time, by the consumer lag evaluation rules that LinkedIn published with Burrow. A
sample is taken while the consumer is known to be alive: its position, and the end of the log at that moment.

| in this order | status |
|---|---|
| no sample | UNKNOWN |
| the newest sample has no lag | OK |
| no sample for longer than the window covers | STOPPED: nobody works, input waits |
| some sample had no lag | OK: it reached the end not long ago |
| the window covers too little time | OK if the lag shrank, else UNKNOWN |
| the position is the same all over the window | STALLED: alive, input waits, nothing moves |
| it moves, and the lag never shrinks from one sample to the next | WARN: it falls behind |
| it moves, and the lag shrinks now and then | OK |

Two things are ours. A position that goes back begins a new window: the work was taken over from an older checkpoint,
and what was seen before belonged to another owner. And a window must cover `SPAN_MIN_S` before it can say anything
bad, or two quick looks at a consumer that is in the middle of a large message would call it stalled.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Final

SAMPLES_MAX: Final = 10
"""Samples in a window, as Burrow has it. Fewer judge a hiccup; with more, a stall is told later."""

SPAN_MIN_S: Final = 10.0
"""Time that a window must cover before it says WARN, STALLED or STOPPED. A worker that starts compiles and loads for
some seconds, and so long may one large message take; below that, each start would raise an alarm. Operators wait for
at least this long; a watchdog that ends processes waits longer (60 s)."""


class Status(Enum):
    """How a consumer keeps up."""

    OK = "OK"
    WARN = "WARN"
    STALLED = "STALLED"
    STOPPED = "STOPPED"
    UNKNOWN = "UNKNOWN"

    @property
    def bad(self) -> bool:
        """Whether somebody should look: input waits and nothing is done about it."""
        return self in (Status.STALLED, Status.STOPPED)


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a consumer of one partition.

    Attributes:
        time_s: when, on any clock that does not go back, s.
        end: end of its input: number of the message after the last one.
        position: number of the message that it takes next.
        event_lag_s: newest event time of the input less that of what was made of it, s; None if unknown.
    """

    time_s: float
    end: int
    position: int
    event_lag_s: float | None = None

    @property
    def lag(self) -> int:
        """Messages that wait; 0 where the position was read after the end and is already beyond it."""
        return max(0, self.end - self.position)


class Window:
    """The newest samples of one consumer and partition.

    Args:
        samples: to begin with, in order.
        size: samples kept.
        span_min_s: time that must be covered before anything bad is said, s.
    """

    def __init__(
        self, samples: Iterable[Sample] = (), *, size: int = SAMPLES_MAX, span_min_s: float = SPAN_MIN_S
    ) -> None:
        self._samples: deque[Sample] = deque(maxlen=size)
        self._span_min_s = span_min_s
        for sample in samples:
            self.add(sample)

    def add(self, sample: Sample) -> None:
        """Take a sample; one older than the newest is dropped, one with an earlier position begins a new window."""
        newest = self.newest
        if newest is not None and sample.time_s < newest.time_s:
            return
        if newest is not None and sample.position < newest.position:
            self._samples.clear()
        self._samples.append(sample)

    @property
    def newest(self) -> Sample | None:
        """The sample taken last; None without any."""
        return self._samples[-1] if self._samples else None

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What is in the window, oldest first."""
        return tuple(self._samples)

    def moved_s(self) -> float | None:
        """When the position was first seen where it is now; None if it was never seen to move."""
        changes = [b.time_s for a, b in pairwise(self._samples) if b.position != a.position]
        return changes[-1] if changes else None

    def status(self, now_s: float) -> Status:
        """Judge by the table above.

        Args:
            now_s: the present, on the clock of the samples.
        """
        return evaluate(self.samples, now_s, self._span_min_s)


def evaluate(samples: tuple[Sample, ...], now_s: float, span_min_s: float = SPAN_MIN_S) -> Status:
    """The rules of the table above on samples in order of time, positions never going back."""
    if not samples:
        return Status.UNKNOWN
    first, last = samples[0], samples[-1]
    span_s = last.time_s - first.time_s
    if last.lag == 0:
        return Status.OK
    if now_s - last.time_s > max(span_s, span_min_s):
        return Status.STOPPED
    if any(sample.lag == 0 for sample in samples):
        return Status.OK
    if span_s < span_min_s:
        return Status.OK if last.lag < first.lag else Status.UNKNOWN
    if last.position == first.position:
        return Status.STALLED
    if all(b.lag >= a.lag for a, b in pairwise(samples)):
        return Status.WARN
    return Status.OK
