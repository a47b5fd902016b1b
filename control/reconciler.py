"""Comparing topics, store and lake for a command: once, or as a service that looks at all tapes."""

import time
from contextlib import closing
from threading import Event

from rich.table import Table

from control.arrival import Arrival
from control.output import Output, rows
from control.services import Services, open_store
from runtime.errors import MissingServiceError
from runtime.object_store import object_store_at
from runtime.settings import Settings
from runtime.tapes import Manifest, TapeStore
from schemas.topics import DERIVED
from sinks.reconcile import ReconcileReport, reconcile
from sinks.reconcile_watch import TapeWatch


def compare(manifest: Manifest, line: str, settings: Settings, services: Services) -> tuple[ReconcileReport, int]:
    """Compare a tape and line once; also the raw messages that a stage still has before it.

    Raises:
        BarographError: a part is away, or a topic is damaged.
    """
    lake = object_store_at(settings.lake_location)
    with closing(open_store(services.store())) as client:
        report = reconcile(manifest, line, services.kafka(), client=client, lake=lake)
    with closing(Arrival(services.kafka(), manifest, line, settings.state_dir)) as arrival:
        pending = max(arrival.published() - arrival.computed(spec) for spec in DERIVED)
    return report, pending


class Reconciler:
    """The service: every tape and line under watch.

    Args:
        settings: where states and lake are.
        servers: Kafka.
        store_url: ClickHouse over HTTP.
        out: on a terminal, a table after each look.
    """

    def __init__(self, settings: Settings, servers: str, store_url: str, out: Output) -> None:
        self._tapes = TapeStore(object_store_at(settings.state_location))
        self._lake = object_store_at(settings.lake_location)
        self._servers, self._store_url, self._out = servers, store_url, out
        self._watched: dict[tuple[str, str], TapeWatch] = {}

    def watch(self, tape: str | None, line: str | None, every_s: float, stop: Event) -> None:
        """Look at a tape, or at all of them, until `stop` is set."""
        while not stop.is_set():
            self.look(tape, line, time.time())
            if not self._out.as_json:
                self._out.console.print(self.table())
            stop.wait(every_s)

    def look(self, tape: str | None, line: str | None, now_s: float) -> list[TapeWatch]:
        """Look at every tape and line once; what the store cannot answer now is looked at again next time."""
        places = self._places(tape, line)
        for key in set(self._watched) - set(places):
            self._watched.pop(key).forget()
        try:
            with closing(open_store(self._store_url)) as client:
                for key, manifest in places.items():
                    one = self._watched.setdefault(key, TapeWatch(*key))
                    one.look(manifest, self._servers, client, self._lake, now_s)
        except MissingServiceError as error:
            for key in places:
                self._watched.setdefault(key, TapeWatch(*key)).failure = str(error)
        return list(self._watched.values())

    def table(self) -> Table:
        """What was seen last."""
        body = []
        for one in self._watched.values():
            found = one.report
            cells = (found.missing, found.duplicate, found.waiting, len(found.damaged)) if found else ("-",) * 4
            state = one.failure or ("[green]clean[/green]" if found and found.clean else "[red]differs[/red]")
            body.append((f"{one.tape}/{one.line}", *cells, state))
        return rows(("tape/line", "missing", "duplicate", "waiting", "damaged", ""), body)

    def _places(self, tape: str | None, line: str | None) -> dict[tuple[str, str], Manifest]:
        if tape is not None:
            manifest, named = self._tapes.resolve(tape, line)
            return {(manifest.tape, named): manifest}
        found = [m for name in self._tapes.names() if (m := self._tapes.load(name)) is not None]
        return {(m.tape, name): m for m in found for name in m.lines if line in (None, name) and m.state != "deleted"}
