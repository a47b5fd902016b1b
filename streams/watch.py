"""The watchdog of a worker: an agent that stands still while input waits is a death, and the process leaves.

Agents of stream processors are known to stop without an error after days. Nothing inside the event loop can be trusted
to notice, so a thread with a Kafka client of its own looks: where each input partition ends, and how far the shell is.
A partition that has input beyond the last message taken, and has taken none for `STALLED_S`, ends the process; the
supervisor starts it again, and the attempt is counted (`streams.poison`). While the broker does not answer, nothing is
judged: an outage is waited out.

The same looks give the lag metrics (`runtime.lag` judges them), and say once of a partition that has had nothing to do
for a while since when it has been waiting: quiet and dead must not look alike.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from confluent_kafka import KafkaException

from runtime.clock import Clock
from runtime.kafka import admin, newest_of
from runtime.lag import Sample, Status, Window
from runtime.telemetry import (
    STAGE_IDLE_SECONDS,
    STAGE_LAG_MESSAGES,
    STAGE_LAG_RECORDS,
    STAGE_LAG_SECONDS,
    STAGE_STATUS,
)
from streams.shell import StageShell

log = logging.getLogger(__name__)

STALLED_S: Final = 60.0
"""How long a partition may stand still while input waits. The longest healthy pause is a restart of the broker after an
outage (some 20 s) or one giant gap in time; a dead agent is back within a minute."""

LOOK_EVERY_S: Final = 5.0
"""How often to look; lag metrics are as old as this at most."""

ASK_TIMEOUT_S: Final = 5.0
"""How long the broker may take to say where a partition ends. Without an answer nothing is judged, so a time-out that a
busy machine exceeds would blind the watchdog."""

QUIET_S: Final = 15.0
"""Silence of an input after which the log says so, once. Live venues send clock messages every half second, so this is
a connector that stopped; replays fall silent at their end."""

EXIT_CODE: Final = 75
"""The code with which a stalled process leaves (EX_TEMPFAIL of sysexits.h): trying again may help."""


@dataclass(slots=True)
class Watched:
    """What is known of one partition of a stage.

    Attributes:
        recent: a minute of samples, for the status that is shown.
        long: samples that cover `STALLED_S`.
        quiet: whether the log says that it waits.
    """

    recent: Window = field(default_factory=Window)
    long: Window = field(default_factory=lambda: Window(size=int(STALLED_S / LOOK_EVERY_S) + 2, span_min_s=STALLED_S))
    quiet: bool = False

    def add(self, sample: Sample) -> None:
        """Take a sample."""
        self.recent.add(sample)
        self.long.add(sample)

    def stalled(self, now_s: float, moved_s: float) -> bool:
        """Whether input has been waiting all the time while nothing moved.

        Args:
            now_s: the present.
            moved_s: when a message was last taken, or the partition was assigned.
        """
        return now_s - moved_s >= STALLED_S and self.long.status(now_s) is Status.STALLED

    def fell_quiet(self, now_s: float, moved_s: float) -> bool:
        """Whether this is the first time that the input is found silent for long."""
        newest, was_quiet = self.recent.newest, self.quiet
        self.quiet = newest is not None and newest.lag == 0 and now_s - moved_s >= QUIET_S
        return self.quiet and not was_quiet


class Watch(threading.Thread):
    """Looks at the partitions of a worker's shells.

    Args:
        shells: the worker's stages.
        bootstrap_servers: Kafka.
        clock: the shells' clock.
        leave: what to do about a stall; leaves the process by default.
    """

    def __init__(
        self,
        shells: Sequence[StageShell],
        bootstrap_servers: str,
        clock: Clock,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        super().__init__(name="watch", daemon=True)
        self._shells, self._servers, self._clock, self._leave = shells, bootstrap_servers, clock, leave
        self._watched: dict[tuple[str, int], Watched] = {}

    def run(self) -> None:
        """Look until the process ends; a process without its watchdog must not go on."""
        try:
            self._look_for_ever()
        except Exception:
            log.critical("the watchdog itself failed; leaving to be restarted", exc_info=True)
            self._leave(EXIT_CODE)

    def _look_for_ever(self) -> None:
        client = admin(self._servers)
        while True:
            time.sleep(LOOK_EVERY_S)
            for shell in self._shells:
                for owned in shell.owned():
                    if shell.confirming:  # it waits for the broker, which has a patience of its own
                        self._watched.pop((shell.topic, owned.partition), None)
                        continue
                    try:
                        end, newest_ms = newest_of(client, shell.topic, owned.partition, ASK_TIMEOUT_S)
                    except KafkaException:
                        self._watched.clear()  # nothing is known: start anew once the broker answers
                        continue
                    behind_ms = newest_ms - owned.timestamp_ms if owned.timestamp_ms >= 0 else None
                    lag_s = None if behind_ms is None else max(0, behind_ms) / 1000
                    sample = Sample(self._clock.monotonic_s(), end, owned.taken + 1, lag_s)
                    stage, tape = shell.stage.name, shell.manifest.tape
                    STAGE_LAG_RECORDS.labels(stage, tape, str(owned.partition)).set(round(sample.lag * owned.records))
                    self.judge(stage, tape, (shell.topic, owned.partition), sample, owned.moved_s)

    def judge(self, stage: str, tape: str, key: tuple[str, int], sample: Sample, moved_s: float) -> None:
        """Take a sample of a partition, and do what follows from it."""
        watched, (topic, number), now_s = self._watched.setdefault(key, Watched()), key, sample.time_s
        watched.add(sample)
        labels = stage, tape, str(number)
        STAGE_LAG_MESSAGES.labels(*labels).set(sample.lag)
        if sample.event_lag_s is not None:
            STAGE_LAG_SECONDS.labels(*labels).set(sample.event_lag_s if sample.lag else 0.0)
        STAGE_IDLE_SECONDS.labels(*labels).set(now_s - moved_s)
        STAGE_STATUS.labels(*labels).state(watched.recent.status(now_s).value)
        if watched.fell_quiet(now_s, moved_s):
            since = datetime.fromtimestamp(self._clock.now_ns() / 1e9 - (now_s - moved_s), UTC)
            log.info("%s has all of %s[%d] and waits, since %s", stage, topic, number, since.isoformat(" ", "seconds"))
        if watched.stalled(now_s, moved_s):
            log.critical(
                "%s stands still at offset %d of %s[%d] for %.0f s while %d message(s) wait; leaving to be restarted",
                stage, sample.position, topic, number, now_s - moved_s, sample.lag,
            )  # fmt: skip
            self._leave(EXIT_CODE)
