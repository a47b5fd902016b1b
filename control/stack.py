"""Everything on: broker, store, api, gateway, and the workers of every open tape. What `up` and `demo` keep running.

The broker, the store and the two servers are one supervisor; each open tape has one of its own, started when the tape
appears (a replay in another terminal makes one) and stopped when it is finished and has arrived everywhere.
"""

import logging
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, Self

from control import health
from control.crew import LOOK_EVERY_S, Crew
from control.embedded.folder_lock import FolderLock
from control.embedded.kafka import is_free
from control.embedded.kafka_jars import ensure_jars
from control.embedded.kafka_lock import read_lock
from control.output import Output
from control.processes import argv, reconciling, serving
from control.supervisor import ProcessSpec, Supervisor
from control.tape_admin import TapeAdmin
from runtime.endpoints import Endpoints
from runtime.errors import MissingServiceError, PortTakenError
from runtime.kafka import ping
from runtime.object_store import object_store_at
from runtime.settings import Settings
from runtime.tapes import Manifest, TapeStore

log = logging.getLogger(__name__)

TAPES_EVERY_S: Final = 2.0
"""How often new and finished tapes are looked for; gateway and store list tapes every 5 s."""


class Stack:
    """The running parts of one data folder; a context manager.

    Args:
        settings: ports, addresses, data folder.
        out: for progress and notices.
        only: names of the tapes to work on; None for every open one.
        before_serving: called when broker and store answer and nobody can look yet; the demo makes its tape then.
    """

    def __init__(
        self,
        settings: Settings,
        out: Output,
        only: frozenset[str] | None = None,
        before_serving: "Callable[[Stack], None]" = lambda _: None,
    ) -> None:
        self._settings, self._out, self._only = settings, out, only
        self._endpoints = Endpoints(settings.data_dir)
        self._tapes = TapeStore(object_store_at(settings.state_location))
        self._crews: dict[tuple[str, str], Crew] = {}
        self._base: list[Supervisor] = []
        self._before_serving = before_serving
        self._lock = FolderLock(settings.data_dir, "`barograph up` or `demo`")
        self._looked_s = 0.0
        self.bootstrap_servers = settings.bootstrap_servers
        self.store_url = settings.clickhouse_url

    def __enter__(self) -> Self:
        health.require_disk(self._settings)
        for name in ("api_port", "gateway_port"):
            port = getattr(self._settings, name)
            if port and not is_free(port):
                raise PortTakenError(self._settings.host, port, f"BAROGRAPH_{name.upper()}")
        self._lock.acquire(patience_s=0)
        try:
            self._start()
        except BaseException:  # Ctrl-C too
            self._stop()
            raise
        return self

    def _start(self) -> None:
        """Use what is given by address or runs for itself on this folder; start the rest."""
        settings, specs = self._settings, list[ProcessSpec]()
        self.bootstrap_servers = self.bootstrap_servers or self._endpoints.find("kafka", lasting=True) or ""
        if self.bootstrap_servers:
            ping(self.bootstrap_servers)
        else:
            with self._out.bar("Apache Kafka (first time)", "bytes") as advance:
                ensure_jars(read_lock(), on_progress=advance)
            port = settings.kafka_port or _free_port()
            self.bootstrap_servers = f"127.0.0.1:{port}"
            specs.append(self._spec("broker", "kafka", self.bootstrap_servers, "--port", str(port)))
        self.store_url = self.store_url or self._endpoints.find("store", lasting=True) or ""
        if not self.store_url:
            port = settings.store_port or _free_port()
            self.store_url = f"http://127.0.0.1:{port}"
            specs.append(self._spec("store", "store", self.store_url, "--port", str(port)))
        self._run(specs)
        self.admin = TapeAdmin(settings, self.bootstrap_servers)
        self._before_serving(self)
        ports = {name: getattr(settings, name) or _free_port() for name in ("api_port", "gateway_port")}
        servers = serving(settings.model_copy(update=ports), self.bootstrap_servers)
        self._run([ProcessSpec(name, words, ready=self._answers(name, address)) for name, address, words in servers])
        if settings.reconcile_every_s:
            self._run([reconciling(settings, self.bootstrap_servers, self.store_url)])

    def _run(self, specs: list[ProcessSpec]) -> None:
        supervisor = Supervisor(specs, self._settings.data_dir / "log")
        self._base.append(supervisor)
        supervisor.start()

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        """Workers first, then the servers, broker and store last; one that fails to stop does not keep the others."""
        with ExitStack() as stack:
            stack.callback(self._lock.release)
            for supervisor in self._base:
                stack.callback(supervisor.stop)
            for crew in self._crews.values():
                stack.callback(crew.stop)

    @property
    def console_url(self) -> str:
        """Where the console is."""
        return self._endpoints.find("api") or ""

    def poll(self) -> None:
        """Look at every process and, every 2 s, at the tapes; call a few times a second."""
        for supervisor in self._base:
            supervisor.poll()
        for crew in self._crews.values():
            crew.poll()
        if time.monotonic() - self._looked_s >= TAPES_EVERY_S:
            self._looked_s = time.monotonic()
            self._look_at_tapes()

    def run(self, until: Callable[[], bool]) -> None:
        """Keep everything running until `until` says so."""
        while not until():
            self.poll()
            time.sleep(LOOK_EVERY_S)

    def _look_at_tapes(self) -> None:
        wanted: dict[tuple[str, str], Manifest] = {}
        for name in self._tapes.names():
            manifest = self._tapes.load(name)
            if manifest is None or manifest.state == "deleted":
                continue
            if self._only is None or name in self._only:
                wanted.update({(manifest.tape_id, line): manifest for line in manifest.lines})
        for key in set(self._crews) - set(wanted):
            self._crews.pop(key).stop()  # the tape was deleted or replaced
        for (tape_id, line), manifest in wanted.items():
            crew = self._crews.get((tape_id, line))
            if crew is None and not manifest.lines[line].complete:
                self._crews[tape_id, line] = Crew(
                    manifest, line, self._settings, self.bootstrap_servers, self.store_url
                )
                self._out.note(f"working on tape {manifest.tape}, line {line}")
            elif crew is not None and manifest.state == "finished" and self._arrived(crew):
                self._crews.pop((tape_id, line)).stop()
                self.admin.complete(self._tapes.require(manifest.tape), line)

    @staticmethod
    def _arrived(crew: Crew) -> bool:
        try:
            return crew.arrival.complete()
        except MissingServiceError as error:  # the broker restarts; the next look tells
            log.warning("%s", error)
            return False

    def _spec(self, verb: str, endpoint: str, address: str, *words: str) -> ProcessSpec:
        return ProcessSpec(verb, argv(verb, *words, settings=self._settings), ready=self._answers(endpoint, address))

    def _answers(self, endpoint: str, address: str) -> Callable[[], bool]:
        """Whether the part that we started answers, and not another one of the same name."""
        return lambda: self._endpoints.find(endpoint) == address


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
