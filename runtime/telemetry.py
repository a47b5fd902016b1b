"""What processes tell about themselves: Prometheus metrics and log lines, declared once.

Names follow Prometheus: one unit each, base units, `_total` for counters. Labels are bounded: never an order, a client
or an address.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, start_http_server
from prometheus_client import Enum as StateSet

from runtime.lag import Status

STAGE_RECORDS: Final = Counter("barograph_stage_records", "Records or rows that a stage took in", ["stage", "tape"])
STAGE_ROWS: Final = Counter("barograph_stage_rows", "Rows that a stage gave out", ["stage", "topic"])
STAGE_SECONDS: Final = Histogram(
    "barograph_stage_apply_seconds",
    "Time to apply one input message",
    ["stage"],
    buckets=(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)
STAGE_SEQ: Final = Gauge(
    "barograph_stage_seq", "Number of the last root message applied", ["stage", "tape", "partition"]
)
STAGE_REPEATS: Final = Counter("barograph_stage_repeats", "Input messages dropped as repeats", ["stage", "tape"])
STAGE_LAG_MESSAGES: Final = Gauge(
    "barograph_stage_lag_messages", "Input messages that wait", ["stage", "tape", "partition"]
)
STAGE_LAG_RECORDS: Final = Gauge(
    "barograph_stage_lag_records",
    "Records or rows in them, by what the messages taken lately held",
    ["stage", "tape", "partition"],
)
STAGE_LAG_SECONDS: Final = Gauge(
    "barograph_stage_lag_seconds",
    "Time between Kafka's timestamps of the newest input and of the last applied",
    ["stage", "tape", "partition"],
)
STAGE_IDLE_SECONDS: Final = Gauge(
    "barograph_stage_idle_seconds", "Time since a message was last taken", ["stage", "tape", "partition"]
)
STAGE_STATUS: Final = StateSet(
    "barograph_stage_status",
    "How a partition keeps up",
    ["stage", "tape", "partition"],
    states=[s.value for s in Status],
)
STAGE_SKIPS: Final = Counter("barograph_stage_skips", "Messages that were skipped as poison", ["stage", "tape"])
CHECKPOINT_SECONDS: Final = Histogram(
    "barograph_checkpoint_seconds",
    "Time to write a checkpoint",
    ["stage"],
    buckets=(0.005, 0.02, 0.05, 0.1, 0.25, 1, 5),
)
SINK_ROWS: Final = Counter("barograph_sink_rows", "Rows confirmed by a sink", ["sink", "table"])
SINK_SECONDS: Final = Histogram("barograph_sink_write_seconds", "Time to write one batch", ["sink"])
RECONCILE_MISSING: Final = Gauge(
    "barograph_reconcile_missing", "Rows, messages or records that a store lacks", ["tape", "line", "table"]
)
RECONCILE_DUPLICATE: Final = Gauge(
    "barograph_reconcile_duplicate", "Rows that a store has too many", ["tape", "line", "table"]
)
RECONCILE_WAITING: Final = Gauge("barograph_reconcile_waiting", "Rows before a sink", ["tape", "line", "table"])
RECONCILE_DAMAGED: Final = Gauge(
    "barograph_reconcile_damaged", "Objects of the lake that cannot be read", ["tape", "line", "table"]
)
RECONCILE_TIME: Final = Gauge(
    "barograph_reconcile_last_timestamp_seconds", "When stores were last compared, Unix time", ["tape", "line"]
)
RECONCILE_FAILURES: Final = Counter(
    "barograph_reconcile_failures", "Comparisons that could not be ended", ["tape", "line"]
)
AUTH_REFUSED: Final = Counter(
    "barograph_refused", "Requests, connections and messages that were refused", ["part", "reason"]
)


_CHATTY: Final = frozenset({"aiokafka", "faust", "mode"})
"""Libraries that say the same again and again while a broker is away: 80 lines a second for each worker."""

_KINDS_MAX: Final = 1_000
"""Kinds of lines that are counted; libraries that put numbers into their texts must not fill the memory."""

REPEATED_MAX: Final = 3
REPEATED_WINDOW_S: Final = 10.0
"""The same is said three times in ten seconds at most: enough to see what is wrong and since when, and in a whole night
without a broker a log grows by 10 MB, not by 400."""


class Throttle(logging.Filter):
    """Holds back repetitions of the chatty; the next line that is let through says how many were.

    Args:
        monotonic_s: the clock.
    """

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic_s = monotonic_s
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        if record.exc_info or record.name.partition(".")[0] not in _CHATTY:
            return True
        now_s, what = self._monotonic_s(), (record.name, str(record.msg)[:80])
        since_s, times = self._said.get(what, (now_s, 0))
        if now_s - since_s >= REPEATED_WINDOW_S:
            if times > REPEATED_MAX:
                record.msg = f"{record.msg} (and {times - REPEATED_MAX} more like it in {now_s - since_s:.0f} s)"
            since_s, times = now_s, 0
        if len(self._said) > _KINDS_MAX:
            self._said.clear()
        self._said[what] = since_s, times + 1
        return times < REPEATED_MAX


def configure_logging(level: str) -> None:
    """Plain lines on standard error, one per event, with UTC time; libraries that chatter are held back."""
    logging.basicConfig(
        level=level.upper(),
        format="%(asctime)s.%(msecs)03dZ %(levelname).1s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    logging.Formatter.converter = time.gmtime
    # websockets would write down every header at its most talkative, and tokens stand there
    for name in ("aiokafka", "numba", "asyncio", "httpx", "urllib3", "uvicorn", "websockets"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    for handler in logging.getLogger().handlers:
        handler.addFilter(Throttle())


def serve_metrics(port: int, host: str = "127.0.0.1") -> None:
    """Answer `/metrics` on `port` from a thread of its own; nothing happens for port 0."""
    if port:
        start_http_server(port, addr=host)
