"""The workers of one tape and line: started once, looked after, known to have finished.

`run` has a crew for its own tape, `up` one for every open tape; on one data folder both may meet. A second set of
workers would be turned away by the group and by the sinks' own locks, in confusing ways; so a crew works only while it
holds the tape's claim, a lock that dies with its process. Without it, it waits for the other's result and takes over if
the other leaves.
"""

import time
from collections.abc import Callable
from typing import Final

from control.arrival import Arrival
from control.claims import Claim
from control.processes import tape_specs
from control.supervisor import Supervisor
from runtime.errors import ChildFailedError
from runtime.settings import Settings
from runtime.tapes import Manifest

RESTARTS_MAX: Final = 5
"""Restarts of one process after which a `run` gives up. A message at which a stage fails three times is skipped by its
fourth start; whatever kills it more often than that stays."""

LOOK_EVERY_S: Final = 0.25
"""How often processes are looked at: a dead one is noticed within this time, before its back-off even begins."""


class Crew:
    """Stages and sinks of one tape and line.

    Args:
        manifest: the tape.
        line: the line.
        settings: data folder and lake.
        servers: Kafka brokers.
        store_url: ClickHouse over HTTP.

    Attributes:
        arrival: how far the tape has come.
    """

    def __init__(self, manifest: Manifest, line: str, settings: Settings, servers: str, store_url: str) -> None:
        self._specs = tape_specs(manifest.tape, line, settings, servers, store_url)
        self._log_dir = settings.data_dir / "log"
        self._claim = Claim(settings.state_dir, manifest, line)
        self._supervisor: Supervisor | None = None
        self._looked_s = 0.0
        self.arrival = Arrival(servers, manifest, line, settings.state_dir)

    @property
    def works(self) -> bool:
        """Whether this crew has the claim; else another process has a crew on the tape."""
        return self._supervisor is not None

    def poll(self) -> None:
        """Start if nobody else works, restart what died; as often as one likes, it looks only now and then."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        if self._supervisor is None and self._claim.take():
            self._supervisor = Supervisor(self._specs, self._log_dir)
            self._supervisor.start()
        elif self._supervisor is not None:
            self._supervisor.poll()

    def refuse_failure(self) -> None:
        """Raise when a process dies again and again: whoever waits for a result must not wait for ever.

        Raises:
            ChildFailedError: one died `RESTARTS_MAX` times.
        """
        for status in self._supervisor.statuses() if self._supervisor is not None else ():
            if status.restarts >= RESTARTS_MAX:
                raise ChildFailedError(status.name, f"died {status.restarts} times", status.log_path)

    def wait(self, done: Callable[[], bool]) -> None:
        """Keep working until `done`.

        Raises:
            ChildFailedError: a process cannot be kept alive.
        """
        while not done():
            self.poll()
            self.refuse_failure()
            time.sleep(LOOK_EVERY_S)

    def stop(self) -> None:
        """Stop the processes, then give the claim back."""
        self.arrival.close()
        if self._supervisor is not None:
            self._supervisor.stop()
            self._supervisor = None
        self._claim.release()
