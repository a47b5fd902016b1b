"""The watchdog of a worker: an agent that stands still while input waits is a death, and the process leaves.

Agents of stream processors are known to stop without an error after days. Nothing inside the event loop can be trusted
to notice, so a thread with a Kafka client of its own looks: where each input partition ends, and how far the shell is.
A partition that has input beyond the last message taken, and has taken none for `STALLED_S`, ends the process; the
supervisor starts it again, and the attempt is counted (`streams.poison`). While the broker does not answer, nothing is
judged: an outage is waited out.

The same looks give the lag metrics, and say once of a partition that has had nothing to do for a while since when it
has been waiting: quiet and dead must not look alike.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from confluent_kafka import KafkaException

from runtime.clock import Clock
from runtime.errors import BarographError
from runtime.kafka import consumer, watermarks
from streams.shell import Owned, StageShell

log = logging.getLogger(__name__)

STALLED_S: Final = 60.0
"""How long a partition may stand still while input waits. The longest healthy pause is a restart of the broker after an
outage (some 20 s) or one giant gap in time; a dead agent is back within a minute."""

LOOK_EVERY_S: Final = 5.0
"""How often to look; lag metrics are as old as this at most."""

QUIET_S: Final = 15.0
"""Silence of an input after which the log says so, once. Live venues send clock messages every half second, so this is
a connector that stopped; replays fall silent at their end."""

EXIT_CODE: Final = 75
"""The code with which a stalled process leaves (EX_TEMPFAIL of sysexits.h): trying again may help."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a partition.

    Attributes:
        now_s: when, on the shell's clock.
        end: offset after the newest message of the input.
        position: offset that is taken next.
        moved_s: when a message was last taken, or the partition was assigned.
    """

    now_s: float
    end: int
    position: int
    moved_s: float

    @property
    def lag(self) -> int:
        """Messages that wait."""
        return max(0, self.end - self.position)


def stalled(looks: Sequence[Look]) -> bool:
    """Whether a partition stands still although input has been waiting all the time.

    Args:
        looks: the newest of one assignment, in order. Input must have been seen waiting at both ends of `STALLED_S`:
            a message that has just come after a quiet hour is not late.
    """
    last = looks[-1]
    since = [look for look in looks if look.now_s >= last.now_s - STALLED_S - LOOK_EVERY_S]
    waited_s = last.now_s - since[0].now_s
    return (
        last.now_s - last.moved_s >= STALLED_S
        and waited_s >= STALLED_S
        and all(look.lag > 0 and look.position == last.position for look in since)
    )


@dataclass(slots=True)
class Watched:
    """What is known of one partition of a stage.

    Attributes:
        looks: the newest, in order.
        quiet: whether the log says that it waits.
    """

    looks: list[Look] = field(default_factory=list)
    quiet: bool = False

    def add(self, look: Look) -> None:
        """Take a look; a partition that was given away and came back starts anew."""
        if self.looks and look.position < self.looks[-1].position:
            self.looks.clear()
        self.looks.append(look)
        del self.looks[: -int(2 * STALLED_S / LOOK_EVERY_S)]

    def fell_quiet(self) -> bool:
        """Whether the newest look is the first one that finds the input silent for long."""
        last, was_quiet = self.looks[-1], self.quiet
        self.quiet = last.lag == 0 and last.now_s - last.moved_s >= QUIET_S
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
        """Look until the process ends."""
        with closing(consumer(self._servers)) as client:
            while True:
                time.sleep(LOOK_EVERY_S)
                for shell in self._shells:
                    for owned in shell.owned():
                        self._look(shell, owned, lambda topic, number: watermarks(client, topic, number)[1])

    def _look(self, shell: StageShell, owned: Owned, end_of: Callable[[str, int], int]) -> None:
        key = (shell.topic, owned.partition)
        try:
            end = end_of(*key)
        except (BarographError, KafkaException):
            self._watched.clear()  # nothing is known: start anew once the broker answers
            return
        self.judge(shell.stage.name, key, Look(self._clock.monotonic_s(), end, owned.taken + 1, owned.moved_s))

    def judge(self, stage: str, key: tuple[str, int], look: Look) -> None:
        """Take a look at a partition, and do what follows from it."""
        watched = self._watched.setdefault(key, Watched())
        watched.add(look)
        topic, number = key
        idle_s = look.now_s - look.moved_s
        if watched.fell_quiet():
            since = datetime.fromtimestamp(self._clock.now_ns() / 1e9 - idle_s, UTC).isoformat(" ", "seconds")
            log.info("%s has all of %s[%d] and waits, since %s", stage, topic, number, since)
        if stalled(watched.looks):
            log.critical(
                "%s stands still at offset %d of %s[%d] for %.0f s while %d message(s) wait; leaving to be restarted",
                stage, look.position, topic, number, idle_s, look.lag,
            )  # fmt: skip
            self._leave(EXIT_CODE)
