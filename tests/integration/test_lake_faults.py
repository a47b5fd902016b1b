"""The lake sink killed at random moments, with a bucket that answers 500 and a disk that is full: 0 lost, 0 twice."""

import json
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import NewTopic

from runtime.kafka import CheckedProducer, admin
from runtime.object_store import LocalObjectStore, ObjectStore
from runtime.tape_reader import TapeReader
from runtime.tapes import Manifest
from schemas.topics import of_tape, rooted
from sinks.reconcile import reconcile
from tests.unit.sinks.messages import Made, first_of_each, make_tape, manifest
from tests.unit.sinks.s3 import S3Server

pytestmark = pytest.mark.real
ROOT = Path(__file__).parent.parent.parent


class Forks:
    """A parent of sinks; one sink at a time."""

    def __init__(self, environment: dict[str, str]) -> None:
        argv = [sys.executable, "-m", "tests.integration.sink_forks"]
        known = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        self._process = subprocess.Popen(
            argv, cwd=ROOT, env=known, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = 0

    def start(self, **order: Any) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        self.pid = int(self._process.stdout.readline())
        self._exit: list[int] = []
        self._waiter = threading.Thread(target=lambda: self._exit.append(int(self._process.stdout.readline())))
        self._waiter.start()

    def ended(self, patience_s: float) -> int | None:
        """Its exit code; None if it still runs after this time."""
        self._waiter.join(patience_s)
        return self._exit[0] if self._exit else None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self.ended(30) is not None

    def close(self) -> None:
        if self.pid and self.ended(0) is None:
            self.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    made = S3Server()
    yield made
    made.stop()


@pytest.fixture
def forks(server: S3Server) -> Iterator[Forks]:
    made = Forks(server.environment)
    yield made
    made.close()
    server.fault = lambda method, path: ""


def publish(servers: str, tape: str, blocks: int) -> Made:
    """A tape on the broker; its derived topics hold repeats, as after crashes of a stage."""
    made = make_tape(seed=blocks, blocks=blocks, tape=tape, repeats=True)
    client = admin(servers)
    topics = [NewTopic(name, 1, 1, config=spec.config()) for name, spec in of_tape(tape).items()]
    for future in client.create_topics(topics).values():
        future.result(30)
    producer = CheckedProducer(servers)
    for message in made.outgoing():
        producer.send(message)
    producer.flush()
    return made


def everything_once(made: Made, known: Manifest, servers: str, lake: ObjectStore) -> None:
    """The reconciler finds nothing, and every message is there byte for byte."""
    report = reconcile(known, "main", servers, lake=lake)
    assert (report.missing, report.duplicate, report.damaged) == (0, 0, ()), report
    for topic, spec in rooted(known.tape).items():
        raw = spec.stream == "mbo"
        wanted = [replace(m, timestamp_ms=0) for m in first_of_each(made.topics[topic], raw).values()]
        found = [replace(p.message, timestamp_ms=0) for p in TapeReader(known, "main", spec, 0, lake=lake)]
        assert found == wanted, topic


def order(known: Manifest, servers: str, lake: str, state: Path, rows: int = 60, file_bytes: int = 0) -> dict[str, Any]:
    return {
        "manifest": known.to_json(),
        "servers": servers,
        "lake": lake,
        "state": str(state),
        "rows": rows,
        "file_bytes": file_bytes,
    }


@pytest.mark.parametrize("where", ["folder", "bucket"])
@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=[pytest.mark.long, pytest.mark.timeout(1_800)])])
def test_a_sink_that_is_killed_at_random_moments_loses_and_doubles_nothing(
    kafka: str, server: S3Server, forks: Forks, tmp_path: Path, where: str, kills: int
) -> None:
    tape, dice = f"killed-{where}-{kills}", random.Random(kills)
    made, known = publish(kafka, tape, 60 * kills), manifest(tape)
    lake: ObjectStore = LocalObjectStore(tmp_path / "lake") if where == "folder" else server.store(tape)
    target = str(tmp_path / "lake") if where == "folder" else f"s3://bucket/{tape}"
    # Before the work, after the work (the answer is lost), or not at all.
    server.fault = lambda method, path: dice.choice(["", "", "", "", "before", "after"])
    struck = in_work = 0
    while struck < kills:
        before = len(list(tmp_path.rglob("*"))) if where == "folder" else len(server.requests)
        forks.start(**order(known, kafka, target, tmp_path / "state"))
        code = forks.ended(dice.uniform(0.1, 1.0))
        if code == 0:
            break
        assert code is None, "it left by itself"
        forks.kill()
        struck += 1
        after = len(list(tmp_path.rglob("*"))) if where == "folder" else len(server.requests)
        in_work += after > before
    server.fault = lambda method, path: ""
    forks.start(**order(known, kafka, target, tmp_path / "state"))
    assert forks.ended(240 if kills < 50 else 1_200) == 0
    everything_once(made, known, kafka, lake)
    assert in_work >= min(3, kills), f"of {struck} kills, {in_work} fell into work"
    assert not server.client.list_multipart_uploads(Bucket="bucket").get("Uploads")


def test_a_full_disk_is_waited_for(kafka: str, forks: Forks, tmp_path: Path) -> None:
    made, known = publish(kafka, "full", 200), manifest("full")
    forks.start(**order(known, kafka, str(tmp_path / "lake"), tmp_path / "state", rows=2_000, file_bytes=9_000))
    lake = LocalObjectStore(tmp_path / "lake")
    deadline_s = time.monotonic() + 60
    while not list((tmp_path / "state").rglob("*.json")):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    assert forks.ended(3) is None, "it waits"
    memory = Path(f"/proc/{forks.pid}/status").read_text()
    assert int(memory.split("VmRSS:")[1].split()[0]) < 600_000
    assert not [name for name in lake.names("full.mbo.v1/") if name.endswith(".parquet")]
    resource.prlimit(forks.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert forks.ended(120) == 0
    everything_once(made, known, kafka, lake)


def test_a_bucket_that_is_away_for_a_while_is_waited_for(
    kafka: str, server: S3Server, forks: Forks, tmp_path: Path
) -> None:
    made, known = publish(kafka, "outage", 100), manifest("outage")
    server.fault = lambda method, path: "before"
    forks.start(**order(known, kafka, "s3://bucket/outage", tmp_path / "state"))
    assert forks.ended(5) is None, "it waits"
    server.fault = lambda method, path: ""
    assert forks.ended(120) == 0
    everything_once(made, known, kafka, server.store("outage"))
