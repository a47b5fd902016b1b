"""Bench `replay`: how fast a file becomes messages on a broker, and how well a paced replay keeps time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import numpy as np
import zstandard
from confluent_kafka import Producer

from connectors import dbn_replay, instruments
from connectors.blocks import CutRule, rule_for_speed
from connectors.dbn_verify import VerifyReport, verify_all
from connectors.pacer import MAX_SPEED, Pacer
from connectors.simulate import metadata
from control.bench.engine_runs import PER_BIN
from control.bench.measure import Bound, Figure, Row
from control.bench.oracle import WrongAnswerError
from control.bench.session import Case, Session
from control.bench.synthetic import START_NS, Shape, make
from control.topic_admin import TopicAdmin
from runtime.kafka import CheckedProducer, read_range
from runtime.tapes import Instrument, new_tape
from schemas.message import Outgoing
from schemas.topics import MBO
from schemas.units import NS_PER_SECOND

SPEED: Final = 100.0
_PACED_RATE: Final = 1_000
"""Records a market second of the paced stream; a hundred times that are offered a second of the wall."""


@dataclass(frozen=True, slots=True)
class File:
    """A verified file: what verification says, its instruments, the sha256 of its records."""

    reports: list[VerifyReport]
    known: dict[str, Instrument]
    records_sha256: str
    records: int

    def plan(self, tape: str, rule: CutRule) -> dbn_replay.ReplayPlan:
        """Its replay on a tape."""
        return dbn_replay.ReplayPlan(tape, self.reports, self.known, rule)


def synthetic_file(session: Session, name: str, shape: Shape) -> File:
    """A `.dbn.zst` of a stream, verified."""
    stream = make(shape)
    data = np.concatenate([stream.opening, stream.records]).tobytes()
    path = session.folder() / f"{name}.dbn.zst"
    end_ns = START_NS + shape.records // shape.per_bin * shape.cell_ns + NS_PER_SECOND
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    path.write_bytes(compressor.compress(metadata(1, START_NS, end_ns) + data))
    reports = verify_all([path])
    known, _ = instruments.resolve(reports, tick_px=stream.tick_px)
    return File(reports, known, sha256(data).hexdigest(), reports[0].mbo_records)


class Target:
    """Fresh tapes, one for each run.

    Args:
        session: whose broker.
        name: what their names begin with.
    """

    def __init__(self, session: Session, name: str) -> None:
        self.servers, self._name, self._count = session.kafka(), name, 0
        self._admin = TopicAdmin(self.servers)

    def tape(self) -> str:
        """The name of a new tape with empty topics."""
        self._count += 1
        name = new_tape(f"{self._name}-{self._count}").tape
        self._admin.apply(name, "main", 1)
        return name

    def check(self, row: str, tape: str, file: File) -> None:
        """Read a tape back; its records must be those of the file.

        Raises:
            WrongAnswerError: they are not.
        """
        found = sha256()
        for message in read_range(self.servers, MBO.name(tape), 0):
            if message.envelope.kind == "data":
                found.update(message.value)
        if found.hexdigest() != file.records_sha256:
            raise WrongAnswerError(row, "the records on the topic are not those of the file")
        self.drop(tape)

    def drop(self, tape: str) -> None:
        """Delete a tape's records: some runs of them are gigabytes."""
        self._admin.delete([MBO.name(tape)])


def produce_alone(servers: str, topic: str, messages: Sequence[Outgoing]) -> float:
    """Seconds to produce ready bytes with a bare client of the same settings, all of them acknowledged."""
    failed: list[str] = []
    config = {"enable.idempotence": True, "acks": "all", "compression.type": "lz4", "linger.ms": 2}
    config |= {"queue.buffering.max.kbytes": 65_536, "message.max.bytes": 8 << 20, "bootstrap.servers": servers}
    producer = Producer(config)
    begin_s = time.monotonic()
    for message in messages:
        while True:
            try:
                producer.produce(
                    topic, message.value, message.instrument, 0, lambda e, _: failed.append(str(e)) if e else None
                )
            except BufferError:
                producer.poll(0.1)
            else:
                break
        producer.poll(0)
    if producer.flush(120.0) or failed:
        raise WrongAnswerError("produce_alone", f"{len(failed)} message(s) were not acknowledged")
    return time.monotonic() - begin_s


def dbn_to_kafka(session: Session) -> list[Row]:
    """A verified file onto a topic, beside producing the same bytes alone."""
    shape = Shape(session.scaled(100_000, 3_000_000), levels=22, queue=session.scaled(40, 455), per_bin=PER_BIN)
    file, rule = synthetic_file(session, "flood", shape), rule_for_speed(MAX_SPEED)
    target = Target(session, "flood")
    ready = [m for m in dbn_replay.messages_of(file.plan("ready", rule)) if m.envelope.kind == "data"]

    def replay() -> float:
        tape = target.tape()
        begin_s = time.monotonic()
        dbn_replay.publish(file.plan(tape, rule), CheckedProducer(target.servers), {})
        taken = time.monotonic() - begin_s
        target.check("dbn_to_kafka", tape, file)
        return taken

    def alone() -> float:
        tape = target.tape()
        taken = produce_alone(target.servers, MBO.name(tape), ready)
        target.drop(tape)
        return taken

    ours, base = session.interleave([replay, alone])
    told = shape.conditions() | {"messages": len(ready), "records_in_all": file.records, "verification": "not timed"}
    return [
        Row(
            "dbn_to_kafka",
            ours.per_second(file.records),
            "records/s wall",
            "produce_same_bytes",
            base.per_second(file.records),
            gate=Bound(">=", 0.7),
            aim=Bound(">=", 1.5e6),
            conditions=told,
        )
    ]


@dataclass(slots=True)
class TimedSender:
    """A sender that notes when each message is handed to it."""

    sender: CheckedProducer
    sent: list[tuple[int, float]] = field(default_factory=list)

    def send(self, message: Outgoing) -> None:
        """Note (engine time, monotonic s), then send."""
        self.sent.append((message.envelope.t, time.monotonic()))
        self.sender.send(message)

    def flush(self) -> None:
        """Wait until every message is confirmed."""
        self.sender.flush()


def pacing_error(session: Session) -> list[Row]:
    """How far from its due time each message is sent, at a hundred times real time."""
    seconds = session.scaled(1, 5)
    shape = Shape(seconds * int(SPEED) * _PACED_RATE, levels=22, queue=20, per_bin=_PACED_RATE // 10, churn=0)
    file, rule = synthetic_file(session, "paced", shape), rule_for_speed(SPEED)
    target = Target(session, "paced")
    late, messages = [], 0
    for _ in range(session.runs):
        tape, timed = target.tape(), TimedSender(CheckedProducer(target.servers))
        dbn_replay.publish(file.plan(tape, rule), timed, {}, speed=SPEED)
        target.check("pacing_error", tape, file)
        pacer = Pacer(SPEED, *timed.sent[0])
        errors = [abs(at_s - pacer.due_s(t_ns)) * 1e3 for t_ns, at_s in timed.sent]
        late.append(float(np.percentile(errors, 99)))
        messages = len(errors)
    told = shape.conditions() | {"speed": SPEED, "messages": messages}
    return [Row("pacing_error", Figure(tuple(late)), "ms p99", aim=Bound("<=", 2.0), conditions=told)]


CASES: Final = (
    Case("dbn_to_kafka", ("dbn_to_kafka",), dbn_to_kafka),
    Case("pacing_error", ("pacing_error",), pacing_error),
)
