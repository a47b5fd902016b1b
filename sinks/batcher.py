"""When to write: enough rows, enough bytes, or old enough. A decision without input or output, time as a parameter.

Large batches are cheap for stores, small ones are fresh for readers. Size bounds memory; age bounds how long a row may
be invisible. An `end` of an instrument makes what is held due at once: nobody knows when more will come.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """When a batch is due.

    Attributes:
        rows: rows that make it due.
        bytes: bytes of message values that make it due; a batch exceeds it by one message (8 MiB) at most.
        age_s: seconds since its first message that make it due.
    """

    rows: int
    bytes: int
    age_s: float


@dataclass(slots=True)
class Batcher:
    """Counts what a batch holds.

    Attributes:
        limits: when it is due.
        rows, bytes: held so far.
        since_s: when its first message came; None while it is empty.
        urgent: whether an end was seen.
    """

    limits: Limits
    rows: int = 0
    bytes: int = 0
    since_s: float | None = None
    urgent: bool = False

    def add(self, rows: int, size_bytes: int, now_s: float, *, urgent: bool = False) -> None:
        """Count one message that came at `now_s` (any clock that does not go back)."""
        self.rows += rows
        self.bytes += size_bytes
        self.since_s = now_s if self.since_s is None else self.since_s
        self.urgent = self.urgent or urgent

    def full(self) -> bool:
        """Whether it must be written before another message is taken."""
        return self.rows >= self.limits.rows or self.bytes >= self.limits.bytes

    def due(self, now_s: float, age_min_s: float = 0.0) -> bool:
        """Whether it should be written now; for its age not before `age_min_s`."""
        if self.since_s is None:
            return False
        return self.urgent or self.full() or now_s - self.since_s >= max(self.limits.age_s, age_min_s)

    def clear(self) -> None:
        """Start the next batch."""
        self.rows = self.bytes = 0
        self.since_s = None
        self.urgent = False
