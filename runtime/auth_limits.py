"""How much one client may ask for, and who is refused: counts in windows of time, and the line in the log.

Counting is the library's (`limits`, sliding windows in memory): two numbers for each client and limit, forgotten when
the window has passed, so strangers with many addresses fill no memory for long. Limits count per process.

A refusal is one log line and one count. Neither names what was shown; repetitions from one address are held back, since
whoever floods us must not fill the disk too.
"""

import json
import logging
from typing import Final, Literal

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from runtime.telemetry import AUTH_REFUSED

audit = logging.getLogger("barograph.audit")

Kind = Literal["failures", "requests", "sql", "messages", "bytes", "lines"]

LIMITS: Final[dict[Kind, RateLimitItem]] = {
    "failures": RateLimitItemPerMinute(60, namespace="failures"),
    "requests": RateLimitItemPerMinute(1_200, namespace="requests"),
    "sql": RateLimitItemPerMinute(60, namespace="sql"),
    "messages": RateLimitItemPerMinute(6_000, namespace="messages"),
    "bytes": RateLimitItemPerMinute(4 << 20, namespace="bytes"),
    "lines": RateLimitItemPerMinute(20, namespace="lines"),
}
"""What may happen in a minute.

failures: refusals of one address; a person mistypes a few times, a guesser of keys needs more than there are atoms, and
    what he costs us is bounded. More would cost hashing, fewer would lock out an office behind one address.
requests, sql: of one user. A console asks some times a minute; a notebook may loop over queries of a second.
messages, bytes: that one user sends over all his sockets. A socket alone is held to `protocol.MESSAGES_PER_S`.
lines: of one address in the log.
"""


class Limiter:
    """Counts per client.

    Args:
        limits: what may happen in a minute; those of `LIMITS` if not given.
    """

    def __init__(self, limits: dict[Kind, RateLimitItem] | None = None) -> None:
        self._limits = {**LIMITS, **(limits or {})}
        self._windows = SlidingWindowCounterRateLimiter(MemoryStorage())

    def take(self, kind: Kind, who: str, cost: int = 1) -> bool:
        """Count something of somebody; False if it is too much and must not be done."""
        return self._windows.hit(self._limits[kind], who, cost=cost)

    def left(self, kind: Kind, who: str) -> bool:
        """Whether something could still be counted."""
        return self._windows.test(self._limits[kind], who)


def note_refusal(limiter: Limiter, part: Literal["gateway", "api"], reason: str, address: str, **known: str) -> None:
    """Count a refusal and write it down.

    Args:
        limiter: counts failures of the address, and its lines.
        part: who refused.
        reason: why: one of a fixed set of short words.
        address: of the client, without its port.
        known: what else is known and is no secret: the user, what he wanted.
    """
    AUTH_REFUSED.labels(part, reason).inc()
    if limiter.take("lines", address):
        audit.warning("%s", json.dumps({"event": "refused", "part": part, "reason": reason, "from": address, **known}))
