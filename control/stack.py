"""Everything on: broker, store, api, gateway, and the workers of every open tape. What `up` and `demo` keep running.

The broker, the store and the two servers are one supervisor; each open tape has one of its own, started when the tape
appears (a replay in another terminal makes one) and stopped when it is finished and has arrived everywhere.
"""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from control import health
from control.arrival import Arrival
from control.claims import Claim
from control.embedded.kafka_jars import ensure_jars
from control.embedded.kafka_lock import read_lock
from control.output import Output
from control.processes import argv, serving_specs, tape_specs
from control.supervisor import ProcessSpec, Supervisor
from runtime.endpoints import Endpoints
from runtime.kafka import ping
from runtime.object_store import LocalObjectStore
from runtime.settings import Settings
from runtime.tapes import Manifest, TapeStore

POLL_S: Final = 0.25
"""How often processes are looked at: a dead one is noticed within this time, before its back-off even begins."""

TAPES_EVERY_S: Final = 2.0
"""How often new and finished tapes are looked for; gateway and store list tapes every 5 s."""


@dataclass(frozen=True, slots=True)
class _Workers:
    """The workers of one tape and line: their processes, how far they are, the right to run them."""

    supervisor: Supervisor
    arrival: Arrival
    claim: Claim

    def stop(self) -> None:
        self.arrival.close()
        self.supervisor.stop()
        self.claim.release()


class Stack:
    """The running parts of one data folder; a context manager.

    Args:
        settings: ports, addresses, data folder.
        out: for progress and notices.
        only: names of the tapes to work on; None for every open one.
    """

    def __init__(self, settings: Settings, out: Output, only: frozenset[str] | None = None) -> None:
        self._settings, self._out, self._only = settings, out, only
        self._endpoints = Endpoints(settings.data_dir)
        self._tapes = TapeStore(LocalObjectStore(settings.state_dir))
        self._workers: dict[tuple[str, str], _Workers] = {}
        self._base = Supervisor([], settings.data_dir / "log")
        self._looked_s = 0.0
        self.bootstrap_servers = settings.bootstrap_servers
        self.store_url = settings.clickhouse_url

    def __enter__(self) -> Self:
        health.require_disk(self._settings)
        specs: list[ProcessSpec] = []
        if self.bootstrap_servers:
            ping(self.bootstrap_servers)
        else:
            with self._out.bar("Apache Kafka (first time)", "bytes") as advance:
                ensure_jars(read_lock(), on_progress=advance)
            port = self._settings.kafka_port or _free_port()
            self.bootstrap_servers = f"127.0.0.1:{port}"
            specs.append(self._spec("broker", "kafka", "--port", str(port)))
        if not self.store_url:
            port = self._settings.store_port or _free_port()
            self.store_url = f"http://127.0.0.1:{port}"
            specs.append(self._spec("store", "store", "--port", str(port)))
        for spec in serving_specs(self._settings, self.bootstrap_servers):
            specs.append(ProcessSpec(spec.name, spec.argv, ready=self._answers(spec.name)))
        self._base = Supervisor(specs, self._settings.data_dir / "log")
        self._base.start()
        return self

    def __exit__(self, *_: object) -> None:
        for workers in self._workers.values():
            workers.stop()
        self._base.stop()

    @property
    def console_url(self) -> str:
        """Where the console is."""
        return self._endpoints.find("api") or ""

    def poll(self) -> None:
        """Look at every process and, every 2 s, at the tapes; call a few times a second."""
        self._base.poll()
        for workers in self._workers.values():
            workers.supervisor.poll()
        if time.monotonic() - self._looked_s >= TAPES_EVERY_S:
            self._looked_s = time.monotonic()
            self._look_at_tapes()

    def run(self, until: Callable[[], bool]) -> None:
        """Keep everything running until `until` says so."""
        while not until():
            self.poll()
            time.sleep(POLL_S)

    def _look_at_tapes(self) -> None:
        wanted: dict[tuple[str, str], Manifest] = {}
        for name in self._tapes.names():
            manifest = self._tapes.load(name)
            if manifest is None or manifest.state == "deleted":
                continue
            if self._only is None or name in self._only:
                wanted.update({(manifest.tape_id, line): manifest for line in manifest.lines})
        for key in set(self._workers) - set(wanted):
            self._workers.pop(key).stop()  # the tape was deleted or replaced
        for (tape_id, line), manifest in wanted.items():
            workers = self._workers.get((tape_id, line))
            if workers is None and manifest.state == "open":
                self._start_workers(manifest, line)
            elif workers is not None and manifest.state == "finished" and workers.arrival.complete():
                self._workers.pop((tape_id, line)).stop()

    def _start_workers(self, manifest: Manifest, line: str) -> None:
        claim = Claim(self._settings.state_dir, manifest, line)
        if not claim.take():
            return  # a `run` works on it
        specs = tape_specs(manifest.tape, line, self._settings, self.bootstrap_servers, self.store_url)
        supervisor = Supervisor(specs, self._settings.data_dir / "log")
        supervisor.start()
        arrival = Arrival(self.bootstrap_servers, manifest, line, self._settings.state_dir)
        self._workers[manifest.tape_id, line] = _Workers(supervisor, arrival, claim)
        self._out.note(f"working on tape {manifest.tape}, line {line}")

    def _spec(self, verb: str, endpoint: str, *words: str) -> ProcessSpec:
        return ProcessSpec(verb, argv(verb, *words, settings=self._settings), ready=self._answers(endpoint))

    def _answers(self, endpoint: str) -> Callable[[], bool]:
        return lambda: self._endpoints.find(endpoint) is not None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
