"""The tape of the fault runs: ESH4, AAPL and six simulated instruments over four partitions, and what must come of it.

What must come of it is computed here without a broker, by the pure reducers over the same raw messages. The rows of a
bin are narrow (`RADIUS`): a fault does not care how wide they are, and a hundred runs have to be read back.
"""

import hashlib
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import zstandard

from connectors import dbn_replay, instruments, raw_messages, simulate
from connectors.blocks import CutRule
from connectors.dbn_stats import MAX_FUTURE_NS
from connectors.dbn_verify import VerifyReport, verify_all
from control.pipeline import LINE_CONFIG
from control.scan import row_of
from engine.record_time import record_times
from runtime.codec import decode_rows
from runtime.kafka import read_range
from runtime.sequence import Sequence as Order
from runtime.sequence import Verdict
from runtime.tapes import Instrument, Line, Manifest, new_tape
from schemas import topics
from schemas.columns import RowHash
from schemas.mbo import F_LAST, MBO_DTYPE
from schemas.message import Message, Outgoing
from schemas.topics import DERIVED, TopicSpec
from streams.partition import PartitionState, Place
from streams.run_id import run_id
from streams.stages import STAGES

PARTITIONS: Final = 4
SIMULATED: Final = 6
RADIUS: Final = 5
CONFIG: Final[dict[str, Any]] = {**LINE_CONFIG, "radius": RADIUS}
WITHOUT_SPAN: Final = 1 << 60
"""Blocks are cut by number of records alone, so that their size is what a test says."""


def blocks_of(records: int) -> CutRule:
    """The rule that cuts blocks of this many records, fewer where an event ends."""
    return CutRule(records_max=records, span_ns=WITHOUT_SPAN)


def head(source: Path, target: Path, records: int) -> Path:
    """The first records of a DBN file of nothing but MBO records, as a file of its own."""
    with source.open("rb") as file:
        raw = zstandard.ZstdDecompressor().stream_reader(file).read()
    start = 8 + int.from_bytes(raw[4:8], "little")
    target.write_bytes(raw[: start + records * MBO_DTYPE.itemsize])
    return target


@dataclass(frozen=True)
class Content:
    """Files, and what a tape of them knows of their instruments."""

    reports: Sequence[VerifyReport]
    known: dict[str, Instrument]

    @property
    def records(self) -> int:
        return sum(report.mbo_records for report in self.reports)

    def manifest(self, tape: str, rule: CutRule) -> Manifest:
        """The manifest of a tape with this content, without topics."""
        made = new_tape(tape, partitions=PARTITIONS, instruments=self.known, blocking=rule.to_dict())
        return made.with_line("main", Line(run_id(CONFIG), CONFIG))

    def messages(self, tape: str, rule: CutRule) -> list[list[Outgoing]]:
        """The raw messages of each partition, in order."""
        out: list[list[Outgoing]] = [[] for _ in range(PARTITIONS)]
        for message in dbn_replay.messages_of(dbn_replay.ReplayPlan(tape, self.reports, self.known, rule)):
            out[message.partition].append(message)
        return out


def make_content(folder: Path, real: Mapping[Path, int | None], *, simulated_records: int, hours: float) -> Content:
    """Real files, whole or so many of their first records, with six simulated instruments; no partition is empty."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [head(f, folder / f"{f.name.split('.')[0]}.dbn", count) if count else f for f, count in real.items()]
    files.append(folder / "simulated.dbn")
    simulate.write(files[-1], records=SIMULATED * simulated_records, instruments=SIMULATED, hours=hours)
    reports = verify_all(files)
    known, _ = instruments.resolve(reports, partitions=PARTITIONS)
    assert {i.partition for i in known.values()} == set(range(PARTITIONS)), "a partition is empty"
    assert len(known) == SIMULATED + len(files) - 1
    return Content(reports, known)


def sprinkled(messages: Sequence[Outgoing], rng: random.Random, share: float = 0.5) -> Iterator[Outgoing]:
    """Messages of a partition with clocks between them, each after an event and before the next of its instrument.

    Amid an event, or amid a snapshot, the next record has an effect on bins that a clock would already close.
    """
    engine_ns: dict[str, int] = {}
    between: dict[str, bool] = {}
    clocks = itertools.count()
    for message in messages:
        name, before = message.instrument, engine_ns.get(message.instrument)
        if message.envelope.kind == "data":
            records = np.frombuffer(message.value, MBO_DTYPE)
            times = record_times(records, before, MAX_FUTURE_NS)
            if before is not None and between[name] and rng.random() < share:
                t_ns = rng.randint(before, int(times[0]))
                source = f"clock:{next(clocks)}"
                yield raw_messages.clock(message.topic, name, message.partition, t_ns=t_ns, source=source, arrived=-1)
            engine_ns[name] = int(times[-1])
            between[name] = bool(records["flags"][-1] & F_LAST)
        yield message


@dataclass
class Stream:
    """What one derived topic holds, repeats dropped.

    Attributes:
        messages, rows: counts.
        repeats: messages that came again.
        row_hashes: instrument → hash of its rows.
        byte_hashes: partition → hash of keys, headers and values of its messages, in order.
        books: instrument → digest of its final book; on bins.
    """

    messages: int = 0
    rows: int = 0
    repeats: int = 0
    row_hashes: dict[str, str] = field(default_factory=dict)
    byte_hashes: dict[int, str] = field(default_factory=dict)
    books: dict[str, str] = field(default_factory=dict)


def fold(partitions: Sequence[Iterable[Message | Outgoing]], spec: TopicSpec, repeats: int = 0) -> Stream:
    """What messages without repeats hold."""
    row, out, hashes = row_of(spec, CONFIG), Stream(repeats=repeats), dict[str, RowHash]()
    for partition, messages in enumerate(partitions):
        digest = hashlib.sha256()
        for message in messages:
            out.messages += 1
            out.rows += message.envelope.count
            hashes.setdefault(message.instrument, RowHash(row)).update(decode_rows(message.value, row))
            digest.update(repr((message.instrument, message.envelope.to_headers())).encode())
            digest.update(message.value)
            if message.envelope.summary:
                out.books[message.instrument] = message.envelope.summary
        out.byte_hashes[partition] = digest.hexdigest()
    out.row_hashes = {name: hashes[name].hexdigest() for name in sorted(hashes)}
    return out


def stored(kafka: str, manifest: Manifest, spec: TopicSpec) -> Stream:
    """What a derived topic of a tape holds on the broker.

    Raises:
        HoleError: a message is lost. ConflictError: two writers disagree.
    """
    repeats = 0

    def first_ones(partition: int) -> Iterator[Message]:
        nonlocal repeats
        name = spec.name(manifest.tape, "main")
        order = Order(f"{name}[{partition}]", manifest.base[partition])
        for message in read_range(kafka, name, partition):
            e = message.envelope
            if order.check(e.seq, e.part, last=e.last, run=e.run, crc32=e.crc32) is Verdict.REPEAT:
                repeats += 1
            else:
                yield message

    out = fold([first_ones(partition) for partition in range(manifest.partitions)], spec)
    return replace(out, repeats=repeats)


def raw_sources(messages: Iterable[Message | Outgoing]) -> list[str]:
    """What tells the raw messages of a partition apart, in order."""
    return [f"{m.instrument} {m.envelope.kind} {m.envelope.source} {m.envelope.crc32}" for m in messages]


def raw_differences(kafka: str, manifest: Manifest, raw: Sequence[Sequence[Outgoing]]) -> list[str]:
    """Where the raw topic is not what was to be published."""
    out = []
    for partition, wanted in enumerate(map(raw_sources, raw)):
        found = raw_sources(read_range(kafka, topics.MBO.name(manifest.tape), partition))
        if found != wanted:
            pairs = enumerate(zip(found, wanted, strict=False))
            place = next((i for i, (a, b) in pairs if a != b), min(len(found), len(wanted)))
            again = wanted.index(found[place]) if place < len(found) and found[place] in wanted else None
            out.append(f"mbo[{partition}]: {len(found)} of {len(wanted)}, at {place} stands message {again}")
    return out


def expected(
    raw: Sequence[Sequence[Outgoing]], tape: str, restart: random.Random | None = None
) -> dict[TopicSpec, Stream]:
    """What the stages make of raw messages, without a broker.

    Args:
        raw: messages of each partition.
        tape: its name; no output depends on it.
        restart: where it says so, a partition's state is stored and a new reducer goes on from it.
    """
    made: dict[TopicSpec, list[list[Message]]] = {topics.MBO: [_as_read(messages) for messages in raw]}
    for make in STAGES.values():
        stage = make(CONFIG)
        inputs = made[stage.source]
        for output in stage.outputs.values():
            made[output.topic] = []
        for partition, messages in enumerate(inputs):
            place = Place(tape, "main", partition, 0, run_id(CONFIG))
            found = _computed(stage, place, messages, restart)
            for output in stage.outputs.values():
                name = output.topic.name(tape, "main")
                made[output.topic].append(_as_read([m for m in found if m.topic == name]))
    return {spec: fold(made[spec], spec) for spec in DERIVED}


def _computed(stage: Any, place: Place, messages: list[Message], restart: random.Random | None) -> list[Outgoing]:
    state, out = PartitionState(stage, place, stage.reducer(), 0), list[Outgoing]()
    for message in messages:
        out += state.take(message) or ()
        if restart is not None and message.envelope.last and restart.random() < 8 / len(messages):
            reducer = stage.reducer()
            reducer.restore(state.reducer.snapshot())
            state = PartitionState(stage, place, reducer, state.sequence.next_seq)
    return out


def _as_read(messages: Iterable[Outgoing]) -> list[Message]:
    return [
        Message(m.topic, m.partition, offset, m.timestamp_ms, m.instrument, m.value, m.envelope)
        for offset, m in enumerate(messages)
    ]
