"""What a stage does about poison, a trimmed log, another release, a quiet feed, and itself standing still."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from confluent_kafka import Producer, TopicPartition
from moto.server import ThreadedMotoServer

from connectors import dbn_replay
from connectors.blocks import CutRule
from control.arrival import Arrival
from control.cutover import NotCleanError, hand_over
from control.pipeline import LINE_CONFIG
from runtime.codec import decode_avro, decode_rows
from runtime.errors import InputError
from runtime.kafka import CheckedProducer, admin, consumer, read_range, watermarks
from runtime.object_store import LocalObjectStore, object_store_at
from runtime.settings import Settings
from runtime.tape_reader import TopicReader
from runtime.tapes import Line, Manifest, TapeStore
from schemas import topics
from schemas.envelope import Envelope
from schemas.message import Message, Outgoing
from schemas.topics import TopicSpec
from sinks.base import Batch, Entry, Lane
from sinks.lake import LakeSink
from sinks.tables import TABLES
from streams.build_books import books_stage
from streams.partition import PartitionState, Place
from streams.poison import PoisonStore
from tests.integration.conftest import ROOT, SAMPLE
from tests.integration.test_stage import SMALL_BLOCKS, first_of_each, make_tape

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

QUICK_WATCH = "import streams.watch as w; w.STALLED_S, w.LOOK_EVERY_S, w.QUIET_S = 10.0, 0.5, 1.5\n"
OLD_RELEASE = "import streams.run_id as r; r.code_hash = lambda: 'old'\n"

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(kafka: str, tmp_path: Path) -> Iterator[Start]:
    """Starts a worker, after some lines of Python; all end with the test. Their log is `worker.log`."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(tape: str, prelude: str = "") -> "subprocess.Popen[bytes]":
        code = f"{prelude}from control.cli import main; main()"
        place = ["stage", "--tape", tape, "--data", str(tmp_path), "--bootstrap-servers", kafka]
        env = {**os.environ, "BAROGRAPH_CHECKPOINT_MIN_S": "0.05"}
        with (tmp_path / "worker.log").open("ab") as log:
            started.append(
                subprocess.Popen([sys.executable, "-c", code, *place], cwd=ROOT, env=env, stdout=log, stderr=log)
            )
        return started[-1]

    yield start_one
    for worker in started:
        if worker.poll() is None:
            worker.kill()
            worker.wait()


def until(true: Callable[[], bool], worker: "subprocess.Popen[bytes]", log: Path, what: str) -> None:
    """Wait for something while a worker lives."""
    deadline = time.monotonic() + 60
    while not true():
        assert worker.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def computed(arrival: Arrival, wanted: int) -> Callable[[], bool]:
    return lambda: min(arrival.computed(spec) for spec in topics.DERIVED) >= wanted


def raw_messages(manifest: Manifest, reports: Any) -> list[Outgoing]:
    plan = dbn_replay.ReplayPlan(manifest.tape, reports, manifest.instruments, CutRule(**manifest.blocking))
    return list(dbn_replay.messages_of(plan))


def send(kafka: str, messages: list[Outgoing]) -> None:
    producer = CheckedProducer(kafka)
    for message in messages:
        producer.send(message)
    producer.flush()


def records(kafka: str, spec: TopicSpec, schema: str, tape: str) -> list[dict[str, Any]]:
    """The first of each id on a topic of records."""
    found = (decode_avro(schema, message.value) for message in read_range(kafka, spec.name(tape), 0))
    return list({record["id"]: record for record in found}.values())


def place_and_bytes(messages: list[Message] | list[Outgoing]) -> list[tuple[int, int, bytes, str]]:
    return [(m.envelope.seq, m.envelope.part, m.value, m.envelope.skipped) for m in messages]


def test_poison_is_skipped_with_letter_gap_and_marker_and_the_rest_is_exact(
    kafka: str, tmp_path: Path, start: Start
) -> None:
    manifest, reports = make_tape("poison", SAMPLE, SMALL_BLOCKS, kafka, tmp_path)
    messages = raw_messages(manifest, reports)
    broken = replace(messages[30], value=messages[30].value[:-1] + b"!")
    send(kafka, [*messages[:30], broken, *messages[30:60]])
    foreign = Producer({"bootstrap.servers": kafka})
    foreign.produce(topics.MBO.name("poison"), b"hello", key=b"\xff", partition=0, headers=[("from", b"elsewhere")])
    assert foreign.flush(30) == 0
    send(kafka, messages[60:])

    worker = start("poison")
    with closing(Arrival(kafka, manifest, "main", tmp_path / "state")) as arrival:
        until(computed(arrival, len(messages) + 2), worker, tmp_path / "worker.log", "all is computed")
    worker.terminate()
    assert worker.wait(20) == 0

    skips = PoisonStore(LocalObjectStore(tmp_path / "state"), f"{manifest.tape_id}/main/books/0").skips()
    assert sorted(skips) == [(30, 0), (61, 0)]
    letters = records(kafka, topics.DEAD_LETTERS, "dead_letter", "poison")
    assert [(x["seq"], x["stage"], x["value"], x["key"]) for x in letters] == [
        (30, "books", broken.value, broken.instrument.encode()),
        (61, "books", b"hello", b"\xff"),
    ]
    assert letters[1]["headers"] == [{"name": "from", "value": b"elsewhere"}]
    gaps = records(kafka, topics.GAPS, "gap", "poison")
    assert (gaps[0]["seq_from"], gaps[0]["instrument"]) == (30, broken.instrument)

    stage = books_stage(LINE_CONFIG)
    state = PartitionState(stage, Place("poison", "main", 0, 0, manifest.lines["main"].run), stage.reducer(), 0)
    expected: dict[str, list[Outgoing]] = {}
    for message in read_range(kafka, topics.MBO.name("poison"), 0):
        skip = skips.get((message.offset, 0))
        for outgoing in state.take(message, skip.reason if skip else "") or ():
            expected.setdefault(outgoing.topic, []).append(outgoing)
    for spec in (topics.BINS, topics.TRADES):
        assert place_and_bytes(first_of_each(kafka, spec, "poison")) == place_and_bytes(expected[spec.name("poison")])
    suspect = [
        decode_rows(m.value, stage.outputs["bins"].columns)["book_state"].tolist()
        for m in first_of_each(kafka, topics.BINS, "poison")
        if m.instrument == broken.instrument and m.envelope.seq > 30 and m.value
    ]
    assert suspect[0][0] == 3, "the instrument is SUSPECT after a message of it was left out"


def test_a_trimmed_log_is_refused_with_the_missing_range(kafka: str, tmp_path: Path, start: Start) -> None:
    manifest, reports = make_tape("trimmed", SAMPLE, SMALL_BLOCKS, kafka, tmp_path)
    send(kafka, raw_messages(manifest, reports))
    topic = topics.MBO.name("trimmed")
    client = admin(kafka)
    for future in client.delete_records([TopicPartition(topic, 0, 12)]).values():
        future.result(30)
    worker = start("trimmed")
    assert worker.wait(60) == 2
    said = (tmp_path / "worker.log").read_text()
    assert f"offsets 0 to 11 of {topic}[0] have left the log" in said
    assert "Traceback" not in said


def to_lake(kafka: str, manifest: Manifest, spec: TopicSpec, lake: LocalObjectStore) -> None:
    """A stream's messages into the lake, a few in each object."""
    lane = Lane(manifest.tape, manifest.tape_id, "main", TABLES[spec.stream], 0)
    entries = [Entry(p.message, p.seq, p.part) for p in TopicReader(kafka, manifest, "main", spec, 0)]
    for at in range(0, len(entries), 7):
        LakeSink(lake).write(Batch(lane, tuple(entries[at : at + 7])), Event())


def test_what_has_left_the_log_is_computed_from_the_lake(kafka: str, tmp_path: Path, start: Start) -> None:
    manifest, reports = make_tape("from-lake", SAMPLE, SMALL_BLOCKS, kafka, tmp_path)
    messages, lake = raw_messages(manifest, reports), LocalObjectStore(tmp_path / "lake")
    send(kafka, messages)
    to_lake(kafka, manifest, topics.MBO, lake)
    stage = books_stage(LINE_CONFIG)
    state = PartitionState(stage, Place("from-lake", "main", 0, 0, manifest.lines["main"].run), stage.reducer(), 0)
    expected: dict[str, list[Outgoing]] = {}
    for message in read_range(kafka, topics.MBO.name("from-lake"), 0):
        for outgoing in state.take(message) or ():
            expected.setdefault(outgoing.topic, []).append(outgoing)
    trim(kafka, topics.MBO.name("from-lake"), len(messages) // 2)

    def compute() -> None:
        worker = start("from-lake")
        with closing(Arrival(kafka, manifest, "main", tmp_path / "state")) as arrival:
            until(computed(arrival, len(messages)), worker, tmp_path / "worker.log", "all is computed")
        worker.terminate()
        assert worker.wait(20) == 0

    compute()
    for spec in (topics.BINS, topics.TRADES):
        assert place_and_bytes(first_of_each(kafka, spec, "from-lake")) == place_and_bytes(
            expected[spec.name("from-lake")]
        )
    # A later stage too: its input is cut in half, its state is lost, and it says the same again.
    bars = first_of_each(kafka, topics.BARS, "from-lake")
    to_lake(kafka, manifest, topics.TRADES, lake)
    with closing(consumer(kafka)) as client:
        ends = [watermarks(client, spec.name("from-lake"), 0)[1] for spec in (topics.TRADES, topics.BARS)]
    trim(kafka, topics.TRADES.name("from-lake"), ends[0] // 2)
    shutil.rmtree(tmp_path / "state" / "checkpoints" / manifest.tape_id / "main" / "bars")
    worker = start("from-lake")

    def said_again() -> bool:
        with closing(consumer(kafka)) as client:
            return watermarks(client, topics.BARS.name("from-lake"), 0)[1] >= 2 * ends[1]

    until(said_again, worker, tmp_path / "worker.log", "bars are said again")
    worker.terminate()
    assert worker.wait(20) == 0
    assert place_and_bytes(first_of_each(kafka, topics.BARS, "from-lake")) == place_and_bytes(bars)
    again = [p.message for p in TopicReader(kafka, manifest, "main", topics.BARS, 0)]
    assert place_and_bytes(again) == place_and_bytes(bars), "and what came twice is equal"


def trim(kafka: str, topic: str, offset: int) -> None:
    client = admin(kafka)
    for future in client.delete_records([TopicPartition(topic, 0, offset)]).values():
        future.result(30)


def test_another_release_takes_a_line_over_only_by_a_cutover(
    kafka: str, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, reports = make_tape("handed", SAMPLE, SMALL_BLOCKS, kafka, tmp_path)
    new_run = manifest.lines["main"].run
    tapes = TapeStore(LocalObjectStore(tmp_path / "state"))
    old_run = subprocess.run(
        [sys.executable, "-c", f"{OLD_RELEASE}from control.pipeline import LINE_CONFIG\nprint(r.run_id(LINE_CONFIG))"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    tapes.save(manifest.with_line("main", Line(old_run, LINE_CONFIG)))
    messages = raw_messages(manifest, reports)
    half = len(messages) // 2
    send(kafka, messages[:half])
    settings = Settings(data_dir=tmp_path)

    old = start("handed", OLD_RELEASE)
    with closing(Arrival(kafka, manifest, "main", tmp_path / "state")) as arrival:
        until(computed(arrival, half), old, tmp_path / "worker.log", "half is computed")
        refused = start("handed")
        assert refused.wait(60) == 2
        assert "barograph tape cutover handed" in (tmp_path / "worker.log").read_text()
        twin = start("handed", OLD_RELEASE)
        assert twin.wait(60) == 2
        assert "worker 0 of the same stages" in (tmp_path / "worker.log").read_text()
        with monkeypatch.context() as patch:
            patch.setattr("control.cutover.WORKERS_TIMEOUT_S", 0.0)
            with pytest.raises(InputError, match="a worker of bars, books runs on tape"):
                hand_over(settings, kafka, "handed", "main")
        old.terminate()
        assert old.wait(20) == 0

        last = sorted((tmp_path / "state").glob("checkpoints/*/main/books/0/manifests/*"))[-1]
        kept = last.read_bytes()
        last.unlink()
        with pytest.raises(NotCleanError, match="handed over"):
            hand_over(settings, kafka, "handed", "main")
        last.write_bytes(kept)

        handed, made = hand_over(settings, kafka, "handed", "main")
        assert handed.lines["main"].run == new_run
        assert {(h.stage, h.cutover.seq, h.cutover.from_run, h.cutover.to_run) for h in made} == {
            (stage, half - 1, old_run, new_run) for stage in ("books", "bars")
        }
        assert hand_over(settings, kafka, "handed", "main")[1] == []
        announced = [decode_avro("cutover", m.value) for m in read_range(kafka, topics.RUNS.name(), 0)]
        assert {r["to_run"] for r in announced if r["tape_id"] == manifest.tape_id} == {new_run}

        send(kafka, messages[half:])
        new = start("handed")
        until(computed(arrival, len(messages)), new, tmp_path / "worker.log", "the rest is computed")
    for spec in topics.DERIVED:
        found = first_of_each(kafka, spec, "handed")
        assert [m.envelope.run for m in found if m.envelope.seq < half] != []
        assert {m.envelope.run for m in found if m.envelope.seq < half} == {old_run}
        assert {m.envelope.run for m in found if m.envelope.seq >= half} == {new_run}


def test_clocks_close_bins_and_a_stage_that_waits_says_since_when(kafka: str, tmp_path: Path, start: Start) -> None:
    manifest, reports = make_tape("quiet", SAMPLE, SMALL_BLOCKS, kafka, tmp_path)
    messages = [m for m in raw_messages(manifest, reports) if m.envelope.kind != "end"][:40]
    send(kafka, messages)
    worker = start("quiet", QUICK_WATCH)
    log = tmp_path / "worker.log"
    with closing(Arrival(kafka, manifest, "main", tmp_path / "state")) as arrival:
        until(computed(arrival, len(messages)), worker, log, "all is computed")
        until(lambda: "has all of quiet.mbo.v1[0] and waits, since 2" in log.read_text(), worker, log, "it says so")
        latest = max(messages, key=lambda m: m.envelope.t)
        cell_ns = LINE_CONFIG["cell_ns"]
        for n in (1, 2):
            t = (latest.envelope.t // cell_ns + n) * cell_ns
            clock = Outgoing(latest.topic, 0, latest.instrument, b"", Envelope(kind="clock", schema="mbo", t=t))
            send(kafka, [clock])
            until(computed(arrival, len(messages) + n), worker, log, "the clock went through")
    closed = [m for m in first_of_each(kafka, topics.BINS, "quiet") if m.envelope.kind == "clock"]
    columns = books_stage(LINE_CONFIG).outputs["bins"].columns
    ends_ns = [decode_rows(m.value, columns)["ts_end_ns"].tolist() for m in closed if m.value]
    assert ends_ns[0] == [(latest.envelope.t // cell_ns + 1) * cell_ns], "the open bin, by the first clock at its end"


def test_an_agent_that_stands_still_while_input_waits_ends_the_process(
    kafka: str, tmp_path: Path, start: Start
) -> None:
    manifest, reports = make_tape("still", SAMPLE, SMALL_BLOCKS, kafka, tmp_path)
    send(kafka, raw_messages(manifest, reports))
    hang = (
        "import time, streams.build_books as b; apply = b.BooksReducer.apply\n"
        "b.BooksReducer.apply = lambda self, m: time.sleep(999) if m.offset == 20 else apply(self, m)\n"
    )
    worker = start("still", QUICK_WATCH + hang)
    assert worker.wait(150) == 75, (tmp_path / "worker.log").read_text()[-2000:]
    assert "stands still at offset" in (tmp_path / "worker.log").read_text()
    again = start("still", QUICK_WATCH)
    with closing(Arrival(kafka, manifest, "main", tmp_path / "state")) as arrival:
        until(computed(arrival, arrival.published()), again, tmp_path / "worker.log", "the next one does it all")


def test_states_in_a_bucket(kafka: str, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifest and checkpoints in S3: the second worker, on an empty data folder, goes on where the first was."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        assert httpx.put(f"http://{host}:{port}/states").status_code == 200
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "BAROGRAPH_STATE_URL": "s3://states/here",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        manifest, reports = make_tape("bucket", SAMPLE, SMALL_BLOCKS, kafka, tmp_path)
        bucket = object_store_at("s3://states/here")
        TapeStore(bucket).save(manifest)
        shutil.rmtree(tmp_path / "state")
        messages = raw_messages(manifest, reports)
        with closing(Arrival(kafka, manifest, "main", tmp_path / "state")) as arrival:
            for part in (messages[:40], messages[40:]):
                send(kafka, part)
                worker = start("bucket")
                until(computed(arrival, arrival.published()), worker, tmp_path / "worker.log", "all is computed")
                worker.terminate()
                assert worker.wait(20) == 0
                shutil.rmtree(tmp_path / "faust")
        assert list(bucket.names(f"checkpoints/{manifest.tape_id}/main/books/0/manifests/"))
        assert not (tmp_path / "state" / "checkpoints").exists()
        with closing(consumer(kafka)) as client:
            assert watermarks(client, topics.BINS.name("bucket"), 0)[1] == len(
                first_of_each(kafka, topics.BINS, "bucket")
            )
    finally:
        server.stop()


def test_a_run_that_differs_is_refused_before_anything_is_written(kafka: str, tmp_path: Path, start: Start) -> None:
    manifest, _ = make_tape("foreign", SAMPLE, SMALL_BLOCKS, kafka, tmp_path)
    TapeStore(LocalObjectStore(tmp_path / "state")).save(manifest.with_line("main", Line("0" * 16, LINE_CONFIG)))
    worker = start("foreign")
    assert worker.wait(60) == 2
    assert "is of run 0000000000000000" in (tmp_path / "worker.log").read_text()
    assert not (tmp_path / "state" / "checkpoints").exists()
