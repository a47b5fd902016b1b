"""A tape for measurement: raw messages on the session's broker, a fresh line for each run, and what must come out.

Raw messages are published once and stay; every run works on a line of its own, whose topics are deleted after it. What
the stages must write is computed beforehand by the pure part of a stage (`streams.partition`) in this process, without
a broker, a worker or a thread: rows are compared by hash, books by the digest of a slow book.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from connectors import raw_messages
from connectors.dbn_stats import MAX_FUTURE_NS
from control.arrival import Arrival
from control.bench.oracle import WrongAnswerError
from control.bench.session import Session
from control.bench.synthetic import Stream
from control.pipeline import LINE_CONFIG
from control.processes import argv
from control.scan import row_of, scan_topic
from control.topic_admin import TopicAdmin
from engine.record_time import record_times
from runtime.codec import decode_rows
from runtime.errors import ChildFailedError
from runtime.kafka import CheckedProducer, consumer, watermarks
from runtime.lifeline import Child, spawn
from runtime.object_store import LocalObjectStore
from runtime.settings import Settings
from runtime.tapes import Instrument, Line, Manifest, TapeStore, new_tape
from schemas.columns import RowHash
from schemas.mbo import RECORDS_PER_BLOCK_MAX
from schemas.message import Message, Outgoing
from schemas.topics import MBO, TopicSpec
from streams.partition import PartitionState, Place
from streams.run_id import run_id
from streams.stages import STAGES

LOOK_EVERY_S: Final = 0.02
"""How often the end of a topic is looked at while a worker works: the error of times of seconds, a tenth of the longest
silence allowed. A look is one question to the broker; two hundred a second took a sixth of the worker's speed away."""

PATIENCE_S: Final = 120.0
"""How long nothing may move on a topic that a worker should write to. Workers start within 15 s on a full machine."""

NAME: Final = "SYNTH:BENCH"
_OWN: Final = {"BAROGRAPH_STATE_URL": "", "BAROGRAPH_METRICS_PORT": "0", "BAROGRAPH_REGISTRY_URL": ""}
"""Settings that must not come from the user's environment: they would lead out of the temporary folder."""


@dataclass(slots=True)
class Truth:
    """What a line must hold.

    Attributes:
        rows: stream → hash of the rows of each instrument.
        records: records of the root messages up to each message of the first stage's first stream.
        outgoing: every message of every stream, in order, if they were asked for.
    """

    rows: dict[str, dict[str, str]]
    records: np.ndarray
    outgoing: list[Outgoing] = field(default_factory=list)


class BenchTape:
    """A tape of one partition.

    Args:
        session: whose broker and folder are used.
        name: of the tape, unique in the session.
        config: semantic configuration of its lines, beside the default one.
        instruments: names; one if not given.
        tick_px: tick of them, 1e-9.
    """

    def __init__(
        self, session: Session, name: str, tick_px: int, *, instruments: Sequence[str] = (NAME,), **config: Any
    ) -> None:
        self.servers, self.folder = session.kafka(), session.folder()
        self.config = LINE_CONFIG | config
        known = {one: Instrument(0, tick_px) for one in instruments}
        self.manifest: Manifest = new_tape(name, instruments=known)
        self._admin, self._store = TopicAdmin(self.servers), TapeStore(LocalObjectStore(self.folder / "state"))
        self._numbers = itertools.count(1)
        self._admin.apply(name, "main", 1)

    @property
    def topic(self) -> str:
        """Its raw topic."""
        return MBO.name(self.manifest.tape)

    def publish(self, messages: Iterable[Outgoing]) -> None:
        """Put messages on their topics and wait until all are confirmed."""
        producer = CheckedProducer(self.servers)
        for message in messages:
            producer.send(message)
        producer.flush()

    def open_line(self) -> str:
        """Make a new line with empty topics; its name."""
        line = f"run{next(self._numbers)}"
        ids = self._admin.apply(self.manifest.tape, line, 1)
        known = Line(run_id(self.config), self.config)
        self.manifest = replace(self.manifest, topic_ids={**self.manifest.topic_ids, **ids}).with_line(line, known)
        self._store.save(self.manifest)
        return line

    def drop_line(self, line: str) -> None:
        """Delete the topics of a line: ten runs of bins are gigabytes."""
        self._admin.delete([spec.name(self.manifest.tape, line) for spec in self._specs()])

    def worker(self, line: str, *stages: str) -> Child:
        """Start a worker as `barograph stage` does."""
        settings = Settings(data_dir=self.folder)
        place = ("--tape", self.manifest.tape, "--line", line, "--bootstrap-servers", self.servers)
        return child(argv("stage", *stages, *place, settings=settings), self.folder, f"stage-{line}")

    def settle(self, line: str, stages: Sequence[str], wanted: int, worker: Child) -> None:
        """Wait until all outputs of `wanted` raw messages are on a line, however many came twice.

        Raises:
            ChildFailedError: the worker left, or does not finish within `PATIENCE_S`.
        """
        specs = [output.topic for name in stages for output in STAGES[name](self.config).outputs.values()]
        until_s = time.monotonic() + PATIENCE_S
        with closing(Arrival(self.servers, self.manifest, line, self.folder / "state")) as arrival:
            while min(arrival.computed(spec) for spec in specs) < wanted:
                if worker.poll() is not None or time.monotonic() > until_s:
                    raise lost(worker, "does not finish")
                time.sleep(LOOK_EVERY_S)

    def truth(self, raw: Iterable[Outgoing], names: Sequence[str], *, keep: bool = False) -> Truth:
        """What stages make of raw messages, computed here; stages in the order of `STAGES`."""
        first = STAGES[names[0]](self.config)
        counted = next(iter(first.outputs))
        records, hashes, kept = [0], {}, []
        inputs: Iterable[Outgoing] = raw
        for name in names:
            stage = STAGES[name](self.config)
            source = stage.source.name(self.manifest.tape)
            state = PartitionState(stage, Place(self.manifest.tape, "main", 0, 0, ""), stage.reducer(), 0)
            made: list[Outgoing] = []
            for offset, message in enumerate(one for one in inputs if one.topic == source):
                found = state.take(_delivered(message, offset)) or ()
                for out in found:
                    made.append(out)
                    if name == names[0] and out.envelope.schema == counted:
                        done = message.envelope.count if message.envelope.kind == "data" and out.envelope.last else 0
                        records.append(records[-1] + done)
            for stream, output in stage.outputs.items():
                hashes[stream] = _hash_rows((m for m in made if m.envelope.schema == stream), output.columns)
            inputs = made
            kept += made if keep else []
        return Truth(hashes, np.array(records[1:]), kept)

    def check(self, row: str, line: str, truth: Truth, digest: str = "") -> None:
        """Compare a line with the truth.

        Args:
            row: what is measured.
            line: where.
            truth: what must be there.
            digest: digest of the first instrument's book at its end; empty if it has no end.

        Raises:
            WrongAnswerError: rows or books differ.
        """
        for spec in self._specs():
            if spec.stream in truth.rows:
                found = scan_topic(self.servers, self.manifest, line, spec)
                if found.by_instrument() != truth.rows[spec.stream]:
                    raise WrongAnswerError(row, f"rows of {spec.stream} differ from those of the reducer alone")
                book = found.summaries.get(NAME, {}).get("book_digest", digest)
                if digest and book != digest:
                    raise WrongAnswerError(row, f"the book's digest is {book[:16]}, the slow book's is {digest[:16]}")

    def output(self, stage: str, line: str) -> str:
        """The topic of a stage's first stream on a line."""
        made = STAGES[stage](self.config)
        return next(iter(made.outputs.values())).topic.name(self.manifest.tape, line)

    def _specs(self) -> list[TopicSpec]:
        return [output.topic for make in STAGES.values() for output in make(self.config).outputs.values()]

    def columns(self, spec: TopicSpec) -> Any:
        """The row of a derived topic of this tape."""
        return row_of(spec, self.config)


def child(command: Sequence[str], folder: Path, name: str) -> Child:
    """Start a process that ends with this one, its output in a log of the folder."""
    root = Path(__file__).parent.parent.parent
    return spawn(command, log_path=folder / "log" / f"{name}.log", name=f"the process {name}", env=_OWN, cwd=root)


def lost(process: Child, reason: str) -> ChildFailedError:
    """The error about a process that does not do its work, with the last line of its log: the folder will be gone."""
    lines = process.log_path.read_text(errors="replace").strip().splitlines()
    code = process.poll()
    told = f"left with code {code}" if code is not None else reason
    return ChildFailedError(process.name, f"{told} (last said: {lines[-1] if lines else 'nothing'})", process.log_path)


def messages_of(stream: Stream, topic: str, block: int, *, ended: bool = True) -> tuple[list[Outgoing], int]:
    """A stream as raw messages: a definition, the opening in blocks of any length, the records in blocks, an `end`.

    Returns:
        The messages, and how many stand before the first one that is measured.
    """
    known = Instrument(0, stream.tick_px)
    first_ns = int(record_times(stream.opening[:1], None, MAX_FUTURE_NS)[0])
    out = [raw_messages.definition(topic, NAME, known, t_ns=first_ns, source="bench")]
    t_ns: int | None = None
    begin = 0
    for records, length in ((stream.opening, RECORDS_PER_BLOCK_MAX), (stream.records, block)):
        begin = len(out)
        for start in range(0, len(records), length):
            part = records[start : start + length]
            t_ns = int(record_times(part, t_ns, MAX_FUTURE_NS)[-1])
            out.append(raw_messages.data(topic, NAME, 0, part, t_ns=t_ns, source=f"bench:{len(out)}"))
    if ended:
        out.append(raw_messages.end(topic, NAME, 0, t_ns=t_ns or 0, source="bench"))
    return out, begin


@dataclass(frozen=True, slots=True)
class Progress:
    """How a topic grew: times on the monotonic clock, s, and messages at each; only looks at which it had grown."""

    times_s: np.ndarray
    counts: np.ndarray

    @property
    def silence_s(self) -> float:
        """The longest time without a new message."""
        return float(np.diff(self.times_s).max(initial=0.0))


def follow(
    servers: str,
    topic: str,
    wanted: int,
    worker: Child,
    *,
    begin: int = 1,
    on_growth: Callable[[], object] | None = None,
) -> Progress:
    """Look at the end of a topic until it holds `wanted` messages.

    Args:
        servers: Kafka.
        topic: of one partition.
        wanted: messages in all.
        worker: who writes them.
        begin: messages after which progress counts.
        on_growth: called at each look that finds more.

    Raises:
        ChildFailedError: the worker left, or nothing moved for `PATIENCE_S`.
    """
    seen: list[tuple[float, int]] = []
    moved_s, last = time.monotonic(), 0
    with closing(consumer(servers)) as client:
        while last < wanted:
            if worker.poll() is not None:
                raise lost(worker, "left")
            _, high = watermarks(client, topic, 0)
            now_s = time.monotonic()
            if high > last:
                last, moved_s = high, now_s
                if high >= begin:
                    seen.append((now_s, high))
                if on_growth is not None:
                    on_growth()
            elif now_s > moved_s + PATIENCE_S:
                raise lost(worker, f"wrote nothing for {PATIENCE_S:g} s")
            time.sleep(LOOK_EVERY_S)
    times, counts = zip(*seen, strict=True)
    return Progress(np.array(times), np.array(counts))


def _delivered(message: Outgoing, offset: int) -> Message:
    return Message(
        message.topic, message.partition, offset, message.timestamp_ms, message.instrument, message.value,
        message.envelope,
    )  # fmt: skip


def _hash_rows(messages: Iterator[Outgoing], columns: Any) -> dict[str, str]:
    hashes: dict[str, RowHash] = {}
    for message in messages:
        hashes.setdefault(message.instrument, RowHash(columns)).update(decode_rows(message.value, columns))
    return {name: hashes[name].hexdigest() for name in sorted(hashes)}
