"""The lake in a bucket, over real HTTP: what fails is done again, and everything is there once."""

import logging
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest

from runtime import object_store
from runtime.object_store import LocalObjectStore, ObjectStore
from sinks import retry
from sinks.base import Batch, Entry, Lane
from sinks.batcher import Limits
from sinks.lake import DifferentObjectError, LakeSink, object_name, objects_of
from sinks.lake_object import decode_object, encode_object
from sinks.progress import ForeignProgressError, Progress, ProgressStore, drop_progress
from sinks.runner import SinkReport, SinkRunner
from sinks.tables import TABLES
from tests.unit.sinks.messages import FakeConsumer, Made, first_of_each, make_tape, manifest
from tests.unit.sinks.s3 import S3Server

ROOT = Path(__file__).parent.parent.parent.parent
TAPE = manifest()
INSTRUMENTS = {name: known.partition for name, known in TAPE.instruments.items()}
SMALL = Limits(rows=60, bytes=8_000, age_s=1e9)


@pytest.fixture(scope="module", autouse=True)
def quiet_server() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    made = S3Server()
    yield made
    made.stop()


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    monkeypatch.setattr(object_store, "RETRY", {"max_retries": 0, "retry_timeout": timedelta(seconds=1)})
    monkeypatch.setattr(retry, "PAUSE_FIRST_S", 0.001)
    monkeypatch.setattr(retry, "PAUSE_MAX_S", 0.01)
    server.requests.clear()
    yield server
    server.fault = lambda method, path: ""


def drain(made: Made, store: ObjectStore, state: Path, limits: Limits = SMALL) -> SinkReport:
    """Run a lake sink over a made-up tape until it is drained."""
    stop, reports = Event(), list[SinkReport]()

    def tell(report: SinkReport) -> None:
        reports.append(report)
        if report.drained(INSTRUMENTS):
            stop.set()

    consumer, local = FakeConsumer(made), LocalObjectStore(state)
    runner = SinkRunner(LakeSink(store, limits), TAPE, "main", "", local, None, lambda _: consumer, progress=store)
    runner.run(stop, tell)
    return reports[-1]


def everything(made: Made, store: ObjectStore) -> None:
    """Every message is there once, in order, as it was."""
    for table in TABLES.values():
        lane = Lane(TAPE.tape, TAPE.tape_id, "main", table, 0)
        found = objects_of(store, lane)
        back = [e for o in found for e in decode_object(store.get(o.name) or b"", table, lane.topic, 0)]
        wanted = first_of_each(made.topics[lane.topic], table.raw)
        assert back == [Entry(m, *place) for place, m in wanted.items()], lane.topic


def a_batch(stop: int | None = None) -> Batch:
    lane = Lane(TAPE.tape, TAPE.tape_id, "main", TABLES["mbo"], 0)
    places = list(first_of_each(make_tape().topics[lane.topic], raw=True).items())[:stop]
    return Batch(lane, tuple(Entry(m, *place) for place, m in places))


def test_a_tape_arrives_and_its_progress_lies_in_the_bucket(s3: S3Server, tmp_path: Path) -> None:
    made, store = make_tape(repeats=True), s3.store("whole")
    drain(made, store, tmp_path / "one")
    everything(made, store)
    written = [path for method, path in s3.requests if method == "PUT" and ".parquet" in path]
    # Another machine, which has nothing of the first one's folder, finds that all is there.
    assert drain(made, store, tmp_path / "two").drained(INSTRUMENTS)
    assert [path for method, path in s3.requests if method == "PUT" and ".parquet" in path] == written
    assert any(name.startswith("sinks/lake-") for name in store.names())
    drop_progress(store, "id-of-another")
    assert any(name.startswith("sinks/lake-") for name in store.names())
    drop_progress(store, TAPE.tape_id)
    assert not any(name.startswith("sinks/lake-") for name in store.names())


@pytest.mark.parametrize("seed", range(4))
def test_answers_of_500_before_and_after_the_work_lose_and_double_nothing(
    s3: S3Server, tmp_path: Path, seed: int
) -> None:
    made, store, dice = make_tape(seed, repeats=True), s3.store(f"faults-{seed}"), random.Random(seed)
    faults: list[str] = []

    def fault(method: str, path: str) -> str:
        kind = dice.choice(["", "", "before", "after"])
        faults.append(kind)
        return kind

    s3.fault = fault
    drain(made, store, tmp_path)
    s3.fault = lambda method, path: ""
    everything(made, store)
    assert {"before", "after"} <= set(faults)


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_repeat_puts_nothing_and_damage_is_mended(s3: S3Server, tmp_path: Path, kind: str) -> None:
    store: ObjectStore = LocalObjectStore(tmp_path) if kind == "folder" else s3.store("once")
    batch, sink = a_batch(), LakeSink(store)
    name, stop = object_name(batch), Event()
    sink.write(batch, stop)
    first = store.get(name)
    assert first == encode_object(batch)
    sink.write(batch, stop)
    assert store.get(name) == first
    store.put(name, first[: len(first) // 2])
    sink.write(batch, stop)
    assert store.get(name) == first
    other = replace(batch.entries[1].message, instrument="X:Z")
    changed = Batch(batch.lane, (batch.entries[0], replace(batch.entries[1], message=other), *batch.entries[2:]))
    with pytest.raises(DifferentObjectError, match="holds other messages"):
        sink.write(changed, stop)
    assert store.get(name) == first


def test_a_bucket_is_found_by_the_environment_alone(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    store = object_store.object_store_at("s3://bucket/by-environment")
    assert store.put_new("a", b"1")
    assert s3.store("by-environment").get("a") == b"1"


def test_two_machines_cannot_both_plan(s3: S3Server, tmp_path: Path) -> None:
    store, lane = s3.store("two"), a_batch().lane
    one, two = (ProgressStore(store, "lake", "x", LocalObjectStore(tmp_path / name)) for name in "ab")
    assert one.load(lane) is None
    assert two.load(lane) is None
    one.save(lane, Progress().planning(a_batch(3)))
    with pytest.raises(ForeignProgressError, match="another lake sink has written"):
        two.save(lane, Progress().planning(a_batch(5)))
    one.save(lane, Progress(offset=3))
    two.load(lane)
    two.save(lane, Progress(offset=5))
    with pytest.raises(ForeignProgressError):
        one.save(lane, Progress(offset=4))


def test_a_lost_answer_to_a_conditional_change_is_no_conflict(s3: S3Server, tmp_path: Path) -> None:
    store, lane = s3.store("lost"), a_batch().lane
    progress = ProgressStore(store, "lake", "x", LocalObjectStore(tmp_path))
    kinds = iter(["after", "", "", "", "after", "", "", ""])
    s3.fault = lambda method, path: next(kinds, "") if method == "PUT" else ""
    progress.save(lane, Progress(offset=1))
    progress.save(lane, Progress(offset=2))
    s3.fault = lambda method, path: ""
    assert ProgressStore(store, "lake", "x", LocalObjectStore(tmp_path)).load(lane) == Progress(offset=2)


def test_a_large_object_is_one_request_and_a_bucket_that_is_away_is_waited_for(s3: S3Server, tmp_path: Path) -> None:
    store = s3.store("large")
    s3.requests.clear()
    assert store.put_new("big", os.urandom(24 << 20))
    store.put("other", bytes(24 << 20))
    assert len([path for method, path in s3.requests if method in ("PUT", "POST")]) == 2
    s3.fault = lambda method, path: "before"
    stop, failures = Event(), list[BaseException]()

    def write() -> None:
        try:
            LakeSink(store).write(a_batch(), stop)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    s3.fault = lambda method, path: ""
    thread.join(10)
    assert not thread.is_alive()
    assert failures == []
    assert store.get(object_name(a_batch())) is not None


KILLED = """
import os, sys
from runtime.object_store import object_store_at
store = object_store_at(sys.argv[1])
data = os.urandom(32 << 20)
print("ready", flush=True)
for number in range(1000):
    store.put_new(f"object-{number}", data)
"""


def test_a_kill_in_mid_upload_leaves_neither_object_nor_parts(s3: S3Server) -> None:
    """The process is killed at four moments of a put of 32 MiB."""
    store = s3.store("killed")
    for moment in range(4):
        argv = [sys.executable, "-c", KILLED, f"s3://bucket/killed/{moment}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **s3.environment}
        process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        Event().wait(0.02 + 0.05 * moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    for name in store.names():
        assert len(store.get(name) or b"") == 32 << 20, name
    assert not s3.client.list_multipart_uploads(Bucket="bucket").get("Uploads")
    assert all("uploads" not in path for method, path in s3.requests if method == "POST")
