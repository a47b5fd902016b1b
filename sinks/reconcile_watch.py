"""The reconciler as a service: looks at tapes again and again, cheaply, and tells Prometheus what it sees.

What was found right in a lane is not read again, so a look costs as much as came since the last one. What was right may
be lost later, by a disk or a person; so now and then everything is read from the start.
"""

import logging
from dataclasses import dataclass, field
from typing import Final

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import KafkaException

from runtime.errors import BarographError
from runtime.object_store import ObjectStore
from runtime.sequence import Place
from runtime.tapes import Manifest
from runtime.telemetry import (
    RECONCILE_DAMAGED,
    RECONCILE_DUPLICATE,
    RECONCILE_FAILURES,
    RECONCILE_MISSING,
    RECONCILE_TIME,
    RECONCILE_WAITING,
)
from sinks.reconcile import LaneKey, ReconcileReport, reconcile

log = logging.getLogger(__name__)

WHOLE_EVERY_S: Final = 3600.0
"""How often everything is read from its start: the longest time in which a loss of old data stays unseen. A day of a
busy instrument takes minutes to compare, so much more often the reconciler would do nothing else."""


@dataclass(slots=True)
class TapeWatch:
    """One tape and line under watch.

    Attributes:
        tape, line: which.
        report: what was seen last; None before the first look that succeeded.
        failure: why the last look did not succeed; empty if it did.
    """

    tape: str
    line: str
    report: ReconcileReport | None = None
    failure: str = ""
    _tape_id: str = ""
    _starts: dict[LaneKey, Place] = field(default_factory=dict)
    _whole_s: float = 0.0

    def look(
        self, manifest: Manifest, bootstrap_servers: str, client: Client | None, lake: ObjectStore | None, now_s: float
    ) -> None:
        """Compare what came since the last look, or everything if that is long ago.

        Args:
            manifest: the tape as it is now.
            bootstrap_servers, client, lake: what is compared, see `sinks.reconcile`.
            now_s: time, for metrics and for when to look at everything.
        """
        if manifest.tape_id != self._tape_id or now_s - self._whole_s >= WHOLE_EVERY_S:
            self._starts, self._whole_s, self._tape_id = {}, now_s, manifest.tape_id
        place = self.tape, self.line
        ongoing = not manifest.lines[self.line].complete
        try:
            self.report = reconcile(
                manifest, self.line, bootstrap_servers, client=client, lake=lake, ongoing=ongoing, starts=self._starts
            )
        except (BarographError, ClickHouseError, KafkaException, OSError) as error:
            # A part restarts, or a topic is damaged: it is said and counted, and looked at again.
            self.failure = " ".join(str(error).split())[:300]
            RECONCILE_FAILURES.labels(*place).inc()
            log.warning("tape %s, line %s: %s", *place, self.failure)
            return
        self.failure = ""
        RECONCILE_TIME.labels(*place).set(now_s)
        for name, table in self.report.tables.items():
            wrong = table.missing + table.lake_messages_missing + table.dbn_missing
            RECONCILE_MISSING.labels(*place, name).set(wrong)
            RECONCILE_DUPLICATE.labels(*place, name).set(table.duplicate)
            RECONCILE_WAITING.labels(*place, name).set(table.waiting)
            RECONCILE_DAMAGED.labels(*place, name).set(len(table.damaged))
        if not self.report.clean:
            log.error(
                "tape %s, line %s: %d missing, %d duplicate, %d damaged",
                *place, self.report.missing, self.report.duplicate, len(self.report.damaged),
            )  # fmt: skip

    def forget(self) -> None:
        """The tape or line is gone: its metrics go too."""
        for gauge in (RECONCILE_MISSING, RECONCILE_DUPLICATE, RECONCILE_WAITING, RECONCILE_DAMAGED):
            for table in self.report.tables if self.report else ():
                gauge.remove(self.tape, self.line, table)
        if self.report:
            RECONCILE_TIME.remove(self.tape, self.line)
