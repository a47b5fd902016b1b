"""The stages in one worker on a real broker: the same bytes, whatever is killed."""

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from connectors import dbn_replay, instruments
from connectors.blocks import CutRule, rule_for_speed
from connectors.dbn_verify import VerifyReport, verify_all
from control.arrival import Arrival
from control.offline import write_grid
from control.pipeline import LINE_CONFIG
from control.scan import scan_topic
from control.topic_admin import TopicAdmin
from runtime.codec import decode_rows
from runtime.kafka import CheckedProducer, read_range
from runtime.object_store import LocalObjectStore
from runtime.tapes import Line, Manifest, TapeStore, new_tape
from schemas import topics
from schemas.message import Message
from schemas.topics import TopicSpec
from sinks.tables import TABLES
from streams.run_id import run_id
from tests.integration.conftest import ROOT, SAMPLE
from tests.naive.bars import bars_of

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

SMALL_BLOCKS = replace(rule_for_speed(math.inf), records_max=20)
"""Many messages of a small file, so that there is something to be killed in the middle of."""


def make_tape(name: str, file: Path, rule: CutRule, kafka: str, folder: Path) -> tuple[Manifest, list[VerifyReport]]:
    reports = verify_all([file])
    known, _ = instruments.resolve(reports)
    manifest = new_tape(name, instruments=known, blocking=rule.to_dict())
    ids = TopicAdmin(kafka).apply(name, "main", manifest.partitions)
    manifest = replace(manifest, topic_ids=ids).with_line("main", Line(run_id(LINE_CONFIG), LINE_CONFIG))
    TapeStore(LocalObjectStore(folder / "state")).save(manifest)
    return manifest, reports


def publish(manifest: Manifest, reports: list[VerifyReport], kafka: str) -> dbn_replay.ReplayResult:
    plan = dbn_replay.ReplayPlan(manifest.tape, reports, manifest.instruments, CutRule(**manifest.blocking))
    tails = dbn_replay.read_tails(kafka, plan.topic, manifest.partitions)
    return dbn_replay.publish(plan, CheckedProducer(kafka), tails)


def start_worker(tape: str, kafka: str, folder: Path) -> "subprocess.Popen[bytes]":
    argv = [sys.executable, "-m", "control.cli", "stage", "--tape", tape, "--data", str(folder)]
    env = {**os.environ, "BAROGRAPH_CHECKPOINT_MIN_S": "0.05"}
    with (folder / "worker.log").open("ab") as log:
        return subprocess.Popen([*argv, "--bootstrap-servers", kafka], cwd=ROOT, env=env, stdout=log, stderr=log)


def wait_for(arrival: Arrival, wanted: int, worker: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    while (computed := min(arrival.computed(spec) for spec in topics.DERIVED)) < wanted:
        assert worker.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, f"{computed} of {wanted}"
        time.sleep(0.1)


def wait_until_ready(log: Path, start: int) -> None:
    """Until a worker has said that it is ready, `start` bytes into the log or later."""
    deadline = time.monotonic() + 60
    while "Worker ready" not in log.read_bytes()[start:].decode():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)


def first_of_each(kafka: str, spec: TopicSpec, tape: str) -> list[Message]:
    """The messages of a topic without repeats, which must be byte-equal."""
    first: dict[tuple[int, int], Message] = {}
    for message in read_range(kafka, spec.name(tape), 0):
        known = first.setdefault((message.envelope.seq, message.envelope.part), message)
        assert (known.value, known.envelope) == (message.value, message.envelope), "a repeat differs from the first"
    return list(first.values())


def rows_of(kafka: str, spec: TopicSpec, tape: str) -> dict[str, list[dict[str, Any]]]:
    """Instrument → its rows on a topic, in order."""
    out: dict[str, list[dict[str, Any]]] = {}
    for message in first_of_each(kafka, spec, tape):
        table = decode_rows(message.value, TABLES[spec.stream].columns)
        rows = zip(*(column.tolist() for column in table.values()), strict=True)
        out.setdefault(message.instrument, []).extend(dict(zip(table, row, strict=True)) for row in rows)
    return out


@pytest.fixture
def workers() -> Iterator[list["subprocess.Popen[bytes]"]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for worker in started:
        if worker.poll() is None:
            worker.kill()
            worker.wait()


def test_killed_workers_leave_the_same_bytes(
    kafka: str, tmp_path: Path, workers: list["subprocess.Popen[bytes]"]
) -> None:
    manifest, reports = make_tape("kills", SAMPLE, SMALL_BLOCKS, kafka, tmp_path)
    publish(manifest, reports, kafka)
    chance = random.Random(1)
    with closing(Arrival(kafka, manifest, "main", tmp_path / "state")) as arrival:
        published = arrival.published()
        for part in (1, 2, 3):
            workers.append(start_worker(manifest.tape, kafka, tmp_path))
            wait_for(arrival, part * published // 5, workers[-1], tmp_path / "worker.log")
            time.sleep(chance.random() / 20)
            workers[-1].kill()
            workers[-1].wait()
        start = (tmp_path / "worker.log").stat().st_size
        workers.append(start_worker(manifest.tape, kafka, tmp_path))
        wait_for(arrival, published, workers[-1], tmp_path / "worker.log")
        wait_until_ready(tmp_path / "worker.log", start)  # the one before may have done all there was
    workers[-1].send_signal(signal.SIGTERM)
    assert workers[-1].wait(20) == 0
    found = scan_topic(kafka, manifest, "main", topics.BINS)
    wanted = write_grid(SAMPLE, tmp_path / "grid", {"cell_ns": 100_000_000, "radius": 50, "emission": "active"})
    assert found.sha256() == wanted["bins_sha256"]
    assert set(found.summaries) == set(manifest.instruments)
    first_of_each(kafka, topics.BINS, manifest.tape)
    trade_rows, bar_rows = (rows_of(kafka, spec, manifest.tape) for spec in (topics.TRADES, topics.BARS))
    assert set(bar_rows) == set(trade_rows) == set(manifest.instruments)
    for name, rows in trade_rows.items():
        assert bar_rows[name] == bars_of(rows, LINE_CONFIG["intervals_ns"])


def test_a_lost_state_is_computed_again_from_the_start(
    kafka: str, tmp_path: Path, workers: list["subprocess.Popen[bytes]"]
) -> None:
    """The group's committed offset then stands at the end; without the explicit seek nothing would be read again."""
    manifest, reports = make_tape("lost", SAMPLE, SMALL_BLOCKS, kafka, tmp_path)
    publish(manifest, reports, kafka)
    with closing(Arrival(kafka, manifest, "main", tmp_path / "state")) as arrival:
        workers.append(start_worker(manifest.tape, kafka, tmp_path))
        wait_for(arrival, arrival.published(), workers[-1], tmp_path / "worker.log")
        workers[-1].send_signal(signal.SIGTERM)
        assert workers[-1].wait(20) == 0
        first = scan_topic(kafka, manifest, "main", topics.BINS)
        shutil.rmtree(tmp_path / "state" / "checkpoints")
        workers.append(start_worker(manifest.tape, kafka, tmp_path))
        deadline = time.monotonic() + 60
        while (again := scan_topic(kafka, manifest, "main", topics.BINS)).repeats < first.messages:
            assert workers[-1].poll() is None, (tmp_path / "worker.log").read_text()[-3000:]
            assert time.monotonic() < deadline, f"{again.repeats} of {first.messages} came again"
            time.sleep(0.2)
    assert again.sha256() == first.sha256()


def test_a_replay_that_stopped_goes_on_after_its_last_block(kafka: str, tmp_path: Path) -> None:
    manifest, reports = make_tape("resume", SAMPLE, SMALL_BLOCKS, kafka, tmp_path)
    plan = dbn_replay.ReplayPlan(manifest.tape, reports, manifest.instruments, SMALL_BLOCKS)
    whole = [(m.instrument, m.value, m.envelope) for m in dbn_replay.messages_of(plan)]
    producer = CheckedProducer(kafka)
    for message in list(dbn_replay.messages_of(plan))[:37]:
        producer.send(message)
    producer.flush()
    publish(manifest, reports, kafka)
    publish(manifest, reports, kafka)
    stored = read_range(kafka, topics.MBO.name(manifest.tape), 0)
    assert [(m.instrument, m.value, m.envelope) for m in stored] == whole


@pytest.mark.data
def test_a_tape_of_2012_outlives_the_retention_check(kafka: str, aapl: Path, tmp_path: Path) -> None:
    """The broker looks for old segments every second here; Kafka's own default would delete this tape at once."""
    manifest, reports = make_tape("old", aapl, rule_for_speed(math.inf), kafka, tmp_path)
    publish(manifest, reports, kafka)
    time.sleep(3)
    stored = list(read_range(kafka, topics.MBO.name(manifest.tape), 0))
    assert sum(m.envelope.count for m in stored if m.envelope.kind == "data") == 100_176
    assert stored[0].envelope.t < 1_400_000_000 * 10**9
