"""Several workers of one stage on a tape of several partitions: the same rows as one engine over the file."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from connectors import dbn_replay, instruments, simulate
from connectors.blocks import CutRule
from connectors.dbn_verify import verify_all
from control.arrival import Arrival
from control.offline import write_grid
from control.pipeline import LINE_CONFIG
from control.scan import scan_topic
from control.topic_admin import TopicAdmin
from runtime.kafka import CheckedProducer
from runtime.object_store import LocalObjectStore
from runtime.tapes import Line, Manifest, TapeStore, new_tape
from schemas import topics
from schemas.message import Outgoing
from streams.run_id import run_id
from tests.integration.conftest import ROOT
from tests.integration.test_stage import SMALL_BLOCKS

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

PARTITIONS = 3


class Workers:
    """Workers of the books stage of one tape, one per slot, each with a log of its own."""

    def __init__(self, kafka: str, folder: Path, tape: str) -> None:
        self.kafka, self.folder, self.tape = kafka, folder, tape
        self.running: dict[int, subprocess.Popen[bytes]] = {}

    def log(self, slot: int) -> str:
        path = self.folder / f"worker-{slot}.log"
        return path.read_text() if path.exists() else ""

    def owned(self, slot: int) -> list[set[int]]:
        """The partitions of each assignment that gave a slot any, in order."""
        found = re.findall(r"books owns \{(\d[^}]*)\}", self.log(slot))
        return [{int(item.partition(":")[0]) for item in items.split(",")} for items in found]

    def start(self, slot: int) -> None:
        """Start a slot and wait until it owns something."""
        before = len(self.owned(slot))
        argv = [sys.executable, "-m", "control.cli", "stage", "books", "--tape", self.tape, "--slot", str(slot)]
        argv += ["--data", str(self.folder), "--bootstrap-servers", self.kafka]
        env = {**os.environ, "BAROGRAPH_CHECKPOINT_MIN_S": "0.05"}
        with (self.folder / f"worker-{slot}.log").open("ab") as log:
            self.running[slot] = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=log, stderr=log)
        self.until(lambda: len(self.owned(slot)) > before, f"slot {slot} owns something")

    def until(self, reached: Callable[[], bool], what: str) -> None:
        """Wait while every worker lives."""
        deadline = time.monotonic() + 60
        while not reached():
            for slot, worker in self.running.items():
                assert worker.poll() is None, self.log(slot)[-3000:]
            assert time.monotonic() < deadline, f"not reached: {what}; {[self.log(s)[-1500:] for s in self.running]}"
            time.sleep(0.05)

    def kill(self, slot: int) -> None:
        self.running[slot].kill()
        self.running.pop(slot).wait()

    def stop(self) -> list[int]:
        """Exit codes after SIGTERM."""
        for worker in self.running.values():
            worker.send_signal(signal.SIGTERM)
        return [worker.wait(20) for worker in self.running.values()]


@pytest.fixture
def tape(kafka: str, tmp_path: Path) -> tuple[Manifest, list[Outgoing], Path]:
    """A tape of three instruments on three partitions, the messages that belong on it, and the file they are of."""
    file = tmp_path / "three.mbo.dbn.zst"
    simulate.write(file, records=3_000, instruments=3, hours=0.05)
    reports = verify_all([file])
    known, _ = instruments.resolve(reports, partitions=PARTITIONS)
    assert {instrument.partition for instrument in known.values()} == set(range(PARTITIONS))
    manifest = new_tape("group", partitions=PARTITIONS, instruments=known, blocking=SMALL_BLOCKS.to_dict())
    ids = TopicAdmin(kafka).apply(manifest.tape, "main", PARTITIONS)
    manifest = replace(manifest, topic_ids=ids).with_line("main", Line(run_id(LINE_CONFIG), LINE_CONFIG))
    TapeStore(LocalObjectStore(tmp_path / "state")).save(manifest)
    plan = dbn_replay.ReplayPlan(manifest.tape, reports, known, CutRule(**manifest.blocking))
    return manifest, list(dbn_replay.messages_of(plan)), file


@pytest.fixture
def workers(kafka: str, tape: tuple[Manifest, list[Outgoing], Path], tmp_path: Path) -> Iterator[Workers]:
    made = Workers(kafka, tmp_path, tape[0].tape)
    yield made
    for slot in list(made.running):
        made.kill(slot)


def test_two_workers_one_of_them_killed(
    kafka: str, tape: tuple[Manifest, list[Outgoing], Path], workers: Workers, tmp_path: Path
) -> None:
    """The second joins and is killed amid the messages; each in turn goes on from states that the other has stored."""
    manifest, messages, file = tape
    producer, fifth = CheckedProducer(kafka), len(messages) // 5
    published = 0

    def publish(count: int) -> None:
        nonlocal published
        for message in messages[published : published + count]:
            producer.send(message)
        producer.flush()
        published += count

    with closing(Arrival(kafka, manifest, "main", tmp_path / "state")) as arrival:

        def computed() -> bool:
            return all(arrival.computed(spec) >= min(published, len(messages)) for spec in (topics.BINS, topics.TRADES))

        publish(fifth)
        workers.start(0)
        workers.until(computed, "one worker alone")
        publish(fifth // 2)  # is under way while partitions move
        workers.start(1)
        publish(fifth // 2)
        workers.until(computed, "two workers")
        publish(fifth)
        workers.kill(1)
        publish(fifth)
        workers.start(1)
        publish(len(messages))
        workers.until(computed, "everything")
    shares = [workers.owned(slot)[-1] for slot in (0, 1)]
    assert shares[0] | shares[1] == set(range(PARTITIONS))
    assert not shares[0] & shares[1]
    assert workers.stop() == [0, 0]

    found = scan_topic(kafka, manifest, "main", topics.BINS)  # raises at a hole, and at repeats that differ
    wanted = write_grid(file, tmp_path / "grid", {"cell_ns": 100_000_000, "radius": 50, "emission": "active"})
    assert found.by_instrument() == {name: made["bins_sha256"] for name, made in wanted["instruments"].items()}
    assert found.messages == len(messages)
    assert found.summaries.keys() == manifest.instruments.keys()
    for name, summary in found.summaries.items():
        assert summary.items() <= wanted["instruments"][name].items()
    assert scan_topic(kafka, manifest, "main", topics.TRADES).messages == len(messages)
