"""What faults strike: a broker, workers by slot, a publisher that goes on meanwhile, a watcher of what comes out.

Workers are processes as production starts them, and are started again half a second after they leave by themselves.
The publisher sends the messages of all partitions in proportion, at a steady rate; after an outage it goes on where the
raw topic ends. The watcher reads the trades topic, on which every root message shows.
"""

import contextlib
import itertools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from confluent_kafka import TopicPartition

from control.arrival import Arrival
from control.embedded.kafka import EmbeddedKafka
from control.topic_admin import TopicAdmin
from runtime.errors import BarographError
from runtime.kafka import CheckedProducer, consumer, to_message, watermarks
from runtime.lifeline import Child, spawn
from runtime.object_store import LocalObjectStore
from runtime.tapes import Manifest, TapeStore
from schemas import topics
from schemas.message import Outgoing
from tests.integration.conftest import ROOT

BACK_OFF_S: Final = 0.5
"""Pause before a worker that left by itself is started again; the first pause of the supervisor."""

PATIENCE_S: Final = 90.0
"""How long anything may take to go on before a run is called stuck; the group's rebalance time-out is 60 s."""


class StuckError(AssertionError):
    """What should have happened has not."""


class Processes:
    """Processes of ours, one per slot; one that leaves by itself is started again.

    Args:
        folder: of their logs, `NAME-SLOT.log`.
        argv: slot → arguments of `barograph`.
        env: additions to this process's environment.
        name: what they are.

    Attributes:
        left: (slot, exit code) of those that left without being asked.
        exits_s: seconds from SIGTERM to exit, of each that was stopped.
    """

    def __init__(self, folder: Path, argv: Callable[[Any], list[str]], env: dict[str, str], name: str) -> None:
        self.folder, self.left, self.exits_s = folder, list[tuple[Any, int]](), list[float]()
        self._argv, self._env, self._name = argv, env, name
        self._running: dict[Any, Child] = {}
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._tender = threading.Thread(target=self._tend, daemon=True)
        self._tender.start()

    @property
    def slots(self) -> list[Any]:
        return sorted(self._running)

    def pids(self) -> dict[Any, int]:
        return {slot: child.pid for slot, child in list(self._running.items())}

    def log(self, slot: Any) -> str:
        path = self.folder / f"{self._name}-{slot}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, slot: Any) -> None:
        with self._lock:
            self._start(slot)

    def kill(self, slot: Any) -> None:
        """SIGKILL, and wait for the end."""
        with self._lock:
            self._running.pop(slot).terminate(0)

    def signal(self, slot: Any, number: signal.Signals) -> None:
        os.kill(self._running[slot].pid, number)

    def stop(self, slot: Any) -> None:
        """SIGTERM, and wait for the end, which must be in order."""
        with self._lock:
            child = self._running.pop(slot)
        asked = time.monotonic()
        child.request_stop()
        code = child.wait(30)
        self.exits_s.append(time.monotonic() - asked)
        if code != 0:
            child.terminate(0)
            raise StuckError(f"slot {slot} left with {code} after SIGTERM: {self.log(slot)[-3000:]}")

    def close(self) -> None:
        """Kill whatever runs."""
        self._closed.set()
        self._tender.join()
        for slot in self.slots:
            with contextlib.suppress(ProcessLookupError):
                self.signal(slot, signal.SIGCONT)
            self.kill(slot)

    def _start(self, slot: Any) -> None:
        log = self.folder / f"{self._name}-{slot}.log"
        argv = [sys.executable, "-m", "control.cli", *self._argv(slot)]
        self._running[slot] = spawn(argv, log_path=log, name=str(slot), env=self._env, cwd=ROOT)

    def _tend(self) -> None:
        died: dict[Any, float] = {}
        while not self._closed.wait(0.05):
            with self._lock:
                for slot, child in self._running.items():
                    code = child.poll()
                    if code is None:
                        continue
                    if slot not in died:
                        died[slot] = time.monotonic()
                        self.left.append((slot, code))
                    elif time.monotonic() - died[slot] > BACK_OFF_S:
                        del died[slot]
                        self._start(slot)


class Workers(Processes):
    """Workers of one tape, by number."""

    def __init__(self, kafka: str, folder: Path, manifest: Manifest, checkpoint_min_s: float) -> None:
        stage = ["stage", "--tape", manifest.tape, "--data", str(folder), "--bootstrap-servers", kafka]
        env = {"BAROGRAPH_CHECKPOINT_MIN_S": str(checkpoint_min_s), "BAROGRAPH_LOG_LEVEL": "info"}
        super().__init__(folder, lambda slot: [*stage, "--slot", str(slot)], env, "worker")

    def assignments(self, slot: int) -> int:
        """How often a slot was given partitions of the books stage."""
        return len(re.findall(r"books owns \{\d", self.log(slot)))


class Publisher:
    """Sends all messages in proportion of the partitions at a steady rate, whatever happens to the broker."""

    def __init__(self, kafka: str, manifest: Manifest, partitions: Sequence[Sequence[Outgoing]], rate: float) -> None:
        self._kafka, self._manifest, self._partitions, self._rate = kafka, manifest, partitions, rate
        places = [((i + 0.5) / len(of), p, i) for p, of in enumerate(partitions) for i in range(len(of))]
        self._order = [(p, i) for _, p, i in sorted(places)]
        self._hurry, self._closed = threading.Event(), threading.Event()
        self.sent, self.failures = 0, list[str]()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def left(self) -> int:
        return len(self._order) - self.sent

    def finish(self) -> None:
        """Send the rest at full speed; returns when all is confirmed."""
        self._hurry.set()
        self._thread.join(600)
        if self._thread.is_alive() or self.left:
            raise StuckError(f"{self.left} raw messages are not published")

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _work(self) -> None:
        while self.left and not self._closed.is_set():
            try:
                self._send_all(CheckedProducer(self._kafka))
            except BarographError as error:
                self.failures.append(str(error))
                self._closed.wait(1)

    def _send_all(self, producer: CheckedProducer) -> None:
        """Everything that is not on the topic yet."""
        name = topics.MBO.name(self._manifest.tape)
        with closing(consumer(self._kafka)) as client:
            ends = [watermarks(client, name, p)[1] for p in range(self._manifest.partitions)]
        due_s = time.monotonic()
        for done, (partition, index) in enumerate(self._order):
            self.sent = done
            if index < ends[partition]:
                continue
            due_s += 1 / self._rate
            if not self._hurry.is_set():
                self._closed.wait(max(0.0, due_s - time.monotonic()))
            if self._closed.is_set():
                return
            producer.send(self._partitions[partition][index])
        producer.flush()
        self.sent = len(self._order)


class Watcher:
    """When which partition showed something new on the trades topic."""

    def __init__(self, kafka: str, manifest: Manifest) -> None:
        self.times: list[list[float]] = [[] for _ in range(manifest.partitions)]
        self._client = consumer(kafka, {"reconnect.backoff.max.ms": 100, "auto.offset.reset": "earliest"})
        name = topics.TRADES.name(manifest.tape, "main")
        self._client.assign([TopicPartition(name, p, 0) for p in range(manifest.partitions)])
        self._newest = [(-1, -1)] * manifest.partitions
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self._client.close()

    def silences(self, since_s: float, until_s: float) -> list[float]:
        """Longest time without anything new, of each partition."""
        out = []
        for times in self.times:
            points = [since_s, *(t for t in times[:] if since_s < t < until_s), until_s]
            out.append(max(b - a for a, b in itertools.pairwise(points)))
        return out

    def wait_for_news(self, after_s: float) -> None:
        """Until every partition showed something new after a time."""
        deadline = time.monotonic() + PATIENCE_S
        while not all(times and times[-1] > after_s for times in self.times):
            if time.monotonic() > deadline:
                late = [p for p, times in enumerate(self.times) if not (times and times[-1] > after_s)]
                raise StuckError(f"partitions {late} show nothing new for {PATIENCE_S:g} s")
            time.sleep(0.01)

    def _work(self) -> None:
        while not self._closed.is_set():
            raw = self._client.poll(0.1)
            if raw is None or raw.error() is not None:
                continue
            message = to_message(raw)
            place = (message.envelope.seq, message.envelope.part)
            if place > self._newest[message.partition]:
                self._newest[message.partition] = place
                self.times[message.partition].append(time.monotonic())


@dataclass
class World:
    """Everything that a fault may strike.

    Attributes:
        broker: the broker; its port stays the same from start to start.
        checkpoints: folder of the checkpoints.
    """

    broker: EmbeddedKafka
    manifest: Manifest
    folder: Path
    workers: Workers
    publisher: Publisher
    watcher: Watcher

    @property
    def checkpoints(self) -> Path:
        return self.folder / "state" / "checkpoints"

    def wait_until_computed(self) -> None:
        """Until every stage has answered every raw message."""
        moved_s, before = time.monotonic(), -1
        with closing(Arrival(self.broker.bootstrap_servers, self.manifest, "main", self.folder / "state")) as arrival:
            published = arrival.published()
            while (done := min(arrival.computed(spec) for spec in topics.DERIVED)) < published:
                if done > before:
                    moved_s, before = time.monotonic(), done
                if time.monotonic() - moved_s > PATIENCE_S:
                    logs = [self.workers.log(slot)[-2000:] for slot in self.workers.slots]
                    raise StuckError(f"{done} of {published} for {PATIENCE_S:g} s; {logs}")
                time.sleep(0.1)

    def until(self, reached: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not reached():
            if time.monotonic() > deadline:
                raise StuckError(f"not reached: {what}")
            time.sleep(0.02)


@contextmanager
def opened(
    broker: EmbeddedKafka,
    manifest: Manifest,
    partitions: Sequence[Sequence[Outgoing]],
    folder: Path,
    *,
    rate: float,
    checkpoint_min_s: float = 1.0,
) -> Iterator[World]:
    """A world with topics and a tape, without workers; its processes, topics and threads end with it."""
    servers = broker.bootstrap_servers
    folder.mkdir(parents=True, exist_ok=True)
    ids = TopicAdmin(servers).apply(manifest.tape, "main", manifest.partitions)
    manifest = replace(manifest, topic_ids=ids)
    TapeStore(LocalObjectStore(folder / "state")).save(manifest)
    workers = Workers(servers, folder, manifest, checkpoint_min_s)
    publisher, watcher = Publisher(servers, manifest, partitions, rate), Watcher(servers, manifest)
    try:
        yield World(broker, manifest, folder, workers, publisher, watcher)
    finally:
        workers.close()
        publisher.close()
        watcher.close()
        with contextlib.suppress(BarographError):
            TopicAdmin(servers).delete(list(ids))
