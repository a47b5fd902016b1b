"""What is done about an error of ClickHouse: the table, and why.

An insert whose outcome is unknown is repeated: same block, same token, so a first success makes the repeat a no-op. So
everything that may pass by itself is retried for ever, with growing pauses; the consumer then reads no further, and
Kafka keeps what waits. What can never succeed with the same block stops the sink instead: its supervisor restarts it,
and people see why.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import Final, TypeVar

from runtime.errors import InputError
from sinks.base import StoppedError

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRIED: Final = {
    159: "TIMEOUT_EXCEEDED: the outcome is unknown, the token makes the repeat safe",
    202: "TOO_MANY_SIMULTANEOUS_QUERIES: others are first",
    203: "NO_FREE_CONNECTION: a replica or disk is busy",
    209: "SOCKET_TIMEOUT: the outcome is unknown",
    210: "NETWORK_ERROR: the outcome is unknown",
    225: "NO_ZOOKEEPER: the cluster's coordinator is away",
    236: "ABORTED: the server is stopping",
    241: "MEMORY_LIMIT_EXCEEDED: a heavy query will end",
    242: "TABLE_IS_READ_ONLY: the cluster's coordinator is away",
    243: "NOT_ENOUGH_SPACE: an operator or a merge will free some",
    252: "TOO_MANY_PARTS: merges must catch up; pushing on would make it worse",
    285: "TOO_FEW_LIVE_REPLICAS: one will come back",
    290: "LIMIT_EXCEEDED: a quota that refills",
    319: "UNKNOWN_STATUS_OF_INSERT: says so itself",
    373: "SESSION_IS_LOCKED: an earlier try still runs",
    394: "QUERY_WAS_CANCELLED: somebody, or the server leaving, cancelled it",
    425: "SYSTEM_ERROR: an operating system call failed, e.g. while the disk was full",
    439: "CANNOT_SCHEDULE_TASK: no free thread",
    999: "KEEPER_EXCEPTION: the cluster's coordinator is away",
}
"""Error code → why it may pass. Codes are stable across versions of the server (src/Common/ErrorCodes.cpp)."""

FATAL: Final = {
    16: "NO_SUCH_COLUMN_IN_TABLE: the tables are older than this release",
    27: "CANNOT_PARSE_INPUT: the same bytes will not parse next time",
    33: "CANNOT_READ_ALL_DATA: the same bytes will not parse next time",
    53: "TYPE_MISMATCH: the tables are not those declared",
    60: "UNKNOWN_TABLE: somebody dropped it",
    81: "UNKNOWN_DATABASE: it was never made, or dropped",
    117: "INCORRECT_DATA: the same bytes stay incorrect",
    164: "READONLY: this login may not write",
    192: "UNKNOWN_USER: the login is wrong",
    193: "WRONG_PASSWORD: the login is wrong",
    497: "ACCESS_DENIED: this login may not write",
    516: "AUTHENTICATION_FAILED: the login is wrong",
}
"""Error code → why waiting does not help. Every code in neither table counts as fatal: better seen than hidden."""

PAUSE_FIRST_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0
"""Longest pause between two tries: how late, at most, a sink notices that the store is back."""


@dataclass(slots=True)
class Backoff:
    """Pauses that double from `PAUSE_FIRST_S` to `PAUSE_MAX_S`."""

    tries: int = 0

    def next_s(self) -> float:
        """The pause before the next try, seconds."""
        pause = min(PAUSE_MAX_S, PAUSE_FIRST_S * float(1 << min(self.tries, 16)))
        self.tries += 1
        return pause


def patiently(work: Callable[[], T], what: str, stop: Event) -> T:
    """Do something that a disk or a bucket may refuse for a while, until it succeeds; its result.

    Args:
        work: what to do; may be done again after any failure. An `OSError` may pass: the disk is full, the folder away,
            the bucket unreachable; not a file where a folder must be. Everything else is the caller's.
        what: what is tried, for the log.
        stop: ends the waiting.

    Raises:
        StoppedError: `stop` was set before it succeeded.
        InputError: it can never succeed.
    """
    backoff = Backoff()
    while True:
        try:
            return work()
        except (NotADirectoryError, IsADirectoryError) as error:
            raise InputError(
                f"{what}: {error}", remedy="something else has the place of the folder; move it"
            ) from error
        except OSError as error:
            pause_s = backoff.next_s()
            if backoff.tries in (1, 5) or backoff.tries % 20 == 0:
                log.warning("%s: try %d failed: %s", what, backoff.tries, error)
            if stop.wait(pause_s):
                raise StoppedError from error


def may_pass(code: int | None) -> bool:
    """Whether to try again: a code from the table, or no code at all (the connection failed, outcome unknown)."""
    return code is None or code in RETRIED
