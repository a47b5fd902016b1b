"""Rows of a backlog: how fast a worker eats what is already there, and whether it ever pauses."""

import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from control.bench.engine_runs import PER_BIN
from control.bench.measure import Bound, Figure, Row, Skip
from control.bench.oracle import WrongAnswerError
from control.bench.session import Session
from control.bench.stream_peers import Marks, loop
from control.bench.stream_tape import BenchTape, Truth, child, follow, lost, messages_of
from control.bench.synthetic import Shape, Stream
from runtime.codec import decode_rows, encode_rows
from runtime.kafka import CheckedProducer
from schemas.message import Outgoing
from schemas.topics import BINS, MBO

BLOCKS: Final = {4_096: 4_000_000, 1_024: 2_000_000, 64: 300_000}
"""Records in a block, and in the backlog of it: a few seconds of work each."""
_QUICK: Final = 20
"""A quick backlog is this many times smaller."""
_QUICK_BLOCK: Final = 1_024
_AIMS: Final = {4_096: 4e6, 1_024: 1.5e6, 64: 0.1e6}
_GATES: Final = {4_096: 0.5, 1_024: 0.35}
SILENCE_MAX_S: Final = 0.25
"""A viewer sees a pause of a quarter of a second; a second was what the unmended consumer slept."""

_NUMBERS: Final = itertools.count(1)


class Backlog:
    """A stream on a tape, waiting; and what a books stage must make of it.

    Args:
        session: whose broker.
        row: what is measured.
        stream: what is on the tape.
        digest: of the book at its end.
        block: records in a message.
    """

    def __init__(self, session: Session, row: str, stream: Stream, digest: str, block: int) -> None:
        self.row, self.digest = row, digest
        self.tape = BenchTape(session, row.replace("_", "-"), stream.tick_px, cell_ns=stream.cell_ns)
        self.raw, self.begin = messages_of(stream, self.tape.topic, block)
        self.tape.publish(self.raw)
        self.records = len(stream.records)
        self.silences: list[float] = []

    def truth(self, *, keep: bool = False) -> Truth:
        """What must come out."""
        return self.tape.truth(self.raw, ["books"], keep=keep)

    def stage(self, truth: Truth, begin: int) -> float:
        """Run a worker over the backlog on a fresh line; seconds for `records`, by the growth of the bins topic.

        Args:
            truth: what must come out.
            begin: messages of the bins topic after which time counts.
        """
        line = self.tape.open_line()
        worker = self.tape.worker(line, "books")
        try:
            progress = follow(
                self.tape.servers, self.tape.output("books", line), len(truth.records), worker, begin=begin
            )
            self.tape.settle(line, ["books"], len(self.raw), worker)
        finally:
            worker.terminate(0)
        self.tape.check(self.row, line, truth, self.digest)
        self.tape.drop_line(line)
        self.silences.append(progress.silence_s)
        seconds = float(progress.times_s[-1] - progress.times_s[0])
        done = truth.records[-1] - truth.records[progress.counts[0] - 1]
        return seconds * self.records / max(1, int(done))

    def noop(self) -> float:
        """Run a Faust agent that only acknowledges over the same messages; its seconds."""
        return noop_run(self.tape, self.begin, len(self.raw)).seconds

    def loop(self) -> float:
        """Consume the same messages with confluent-kafka alone; its seconds."""
        return loop(self.tape.servers, self.tape.topic, self.begin, len(self.raw)).seconds


def noop_run(tape: BenchTape, begin: int, wanted: int) -> Marks:
    """The marks of a no-op agent's process over the first `wanted` messages of a tape.

    Raises:
        ChildFailedError: it left without them.
    """
    report = tape.folder / f"noop{next(_NUMBERS)}.json"
    words = ("noop", tape.servers, tape.topic, str(tape.folder), str(begin), str(wanted), str(report))
    process = child((sys.executable, "-m", "control.bench.stream_peers", *words), tape.folder, report.stem)
    try:
        if process.wait(120.0) != 0:
            raise lost(process, "did not finish")
        return Marks(**json.loads(report.read_bytes()))
    finally:
        process.terminate(0)


def stage(block: int) -> Callable[[Session], list[Row]]:
    """The rows of the books stage on blocks of one length."""
    name = f"stage_{block}"

    def measure(session: Session) -> list[Row]:
        if session.quick and block != _QUICK_BLOCK:
            raise Skip(f"{name} runs the same code as stage_{_QUICK_BLOCK}, and a quick bench must be quick")
        records = BLOCKS[block] // (_QUICK if session.quick else 1)
        shape = Shape(records, levels=22, queue=session.scaled(40, 455), per_bin=PER_BIN, churn=20_000)
        stream, digest = session.stream(shape)
        backlog = Backlog(session, name, stream, digest, block)
        truth = backlog.truth()
        ours, faust, plain = session.interleave(
            [lambda: backlog.stage(truth, backlog.begin), backlog.noop, backlog.loop]
        )
        told = shape.conditions() | {"block": block, "digest": digest, "checkpoint_min_s": 1.0, "partitions": 1}
        rate, gate = ours.per_second(records), _GATES.get(block)
        silence = Figure(tuple(backlog.silences[-session.runs :]))
        return [
            Row(
                name,
                rate,
                "records/s wall",
                "noop_faust_agent",
                faust.per_second(records),
                gate=Bound(">=", gate) if gate else None,
                aim=Bound(">=", _AIMS[block]),
                conditions=told,
            ),
            Row(
                f"{name}_vs_loop", rate, "records/s wall", "confluent_loop", plain.per_second(records), conditions=told
            ),
            Row(f"{name}_silence", silence, "s longest", gate=Bound("<=", SILENCE_MAX_S), conditions=told),
        ]

    return measure


def bins_emitted(session: Session) -> list[Row]:
    """Six records a bin, as in a real stock's tape, beside encoding and producing the same rows alone."""
    bins = session.scaled(500, 16_000)
    shape = Shape(6 * bins, levels=100, queue=20, per_bin=6, churn=20_000)
    stream, digest = session.stream(shape)
    block = 1_024
    backlog = Backlog(session, "bins_emitted", stream, digest, block)
    truth = backlog.truth(keep=True)
    columns = backlog.tape.columns(BINS)
    messages = [m for m in truth.outgoing if m.envelope.schema == BINS.stream and m.envelope.count]
    tables = [(m, decode_rows(m.value, columns)) for m in messages]
    side = BenchTape(session, "bins-alone", stream.tick_px)
    rows = sum(m.envelope.count for m in messages)

    def alone() -> float:
        producer, begin_s = CheckedProducer(side.servers), time.monotonic()
        for message, table in tables:
            value = encode_rows(table, columns)
            if len(value) != len(message.value):
                raise WrongAnswerError("bins_emitted", "encoding the same rows gives other bytes")
            producer.send(Outgoing(MBO.name(side.manifest.tape), 0, message.instrument, value, message.envelope))
        producer.flush()
        return time.monotonic() - begin_s

    begin = 1 + sum(1 for count in truth.records if count < truth.records[-1] - len(stream.records))
    ours, base = session.interleave([lambda: backlog.stage(truth, begin), alone])
    told: dict[str, Any] = shape.conditions() | {
        "block": block,
        "digest": digest,
        "radius": 50,
        "bytes_per_bin": sum(len(m.value) for m in messages) // rows,
    }
    return [
        Row(
            "bins_emitted",
            ours.per_second(rows),
            "bins/s wall",
            "encode_and_produce",
            base.per_second(rows),
            gate=Bound(">=", 0.5),
            aim=Bound(">=", 4e3),
            conditions=told,
        )
    ]
