"""Reading a tape's topics from end to end: counts, content hashes, final states. What reports are made of.

The topics are the truth; a report reads them again instead of believing what the processes that wrote them said. Each
message is taken once, by the same rule as every consumer uses (`runtime.tape_reader`).

A partition of the raw topic is hashed over all that an effect may depend on, message by message in order:

    key TAB kind TAB t TAB length of the value LF value

`arrived` and `source` are outside. The records of each instrument are hashed beside it without any of that, so that two
tapes of one market can be compared although their blocks were cut differently.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from runtime.codec import decode_rows
from runtime.sequence import Placed
from runtime.tape_reader import TopicReader
from runtime.tapes import Manifest
from schemas import bins, topics
from schemas.columns import Column, RowHash, hash_of_hashes
from schemas.message import Message
from schemas.topics import TopicSpec
from sinks.tables import TABLES


@dataclass(slots=True)
class RecordsHash:
    """The raw records of one instrument: how many, and their sha256 in order, however they were cut into blocks."""

    records: int = 0
    _hash: Any = field(default_factory=sha256)

    def update(self, message: Message) -> None:
        """Take a raw message of kind `data`."""
        self.records += message.envelope.count
        self._hash.update(message.value)

    def to_dict(self) -> dict[str, Any]:
        """For certificates."""
        return {"records": self.records, "sha256": self._hash.hexdigest()}


@dataclass(slots=True)
class PartitionInput:
    """What one partition of the raw topic holds: range, counts, and the hash of the module's docstring."""

    partition: int
    seq_from: int = -1
    seq_to: int = -1
    messages: int = 0
    records: int = 0
    _hash: Any = field(default_factory=sha256)

    def update(self, seq: int, message: Message) -> None:
        """Take the next raw message."""
        envelope = message.envelope
        self.seq_from, self.seq_to = seq if self.messages == 0 else self.seq_from, seq
        self.messages += 1
        self.records += envelope.count if envelope.kind == "data" else 0
        self._hash.update(f"{message.instrument}\t{envelope.kind}\t{envelope.t}\t{len(message.value)}\n".encode())
        self._hash.update(message.value)

    def to_dict(self) -> dict[str, Any]:
        """For certificates; -1 for the range of an empty partition."""
        counts = {"messages": self.messages, "records": self.records}
        where = {"partition": self.partition, "seq_from": self.seq_from, "seq_to": self.seq_to}
        return {**where, **counts, "sha256": self._hash.hexdigest()}


@dataclass(slots=True)
class RunSpan:
    """Root messages, first to last inclusive, whose outputs in a partition carry one `run`."""

    partition: int
    run: str
    seq_from: int
    seq_to: int


@dataclass(slots=True)
class TopicScan:
    """What one topic holds after repeats are dropped.

    Attributes:
        messages, records, value_bytes: counts; records are rows on derived topics.
        repeats: messages that were dropped.
        hashes: instrument → running hash of its rows; empty for the raw topic.
        summaries: instrument → final state, from `end` messages.
        inputs, raw: what the raw topic holds, by partition and by instrument; empty for derived topics.
        runs: who computed a derived topic, from seq to seq; several in a partition where a line changed its run.
    """

    messages: int = 0
    records: int = 0
    value_bytes: int = 0
    repeats: int = 0
    hashes: dict[str, RowHash] = field(default_factory=dict)
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    inputs: list[PartitionInput] = field(default_factory=list)
    raw: dict[str, RecordsHash] = field(default_factory=dict)
    runs: list[RunSpan] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """The counts, as reports give them."""
        return {"messages": self.messages, "records": self.records, "bytes": self.value_bytes}

    def by_instrument(self) -> dict[str, str]:
        """Instrument → hash of its rows, in order of name."""
        return {name: self.hashes[name].hexdigest() for name in sorted(self.hashes)}

    def sha256(self) -> str:
        """Hash over all instruments' hashes."""
        return hash_of_hashes(self.by_instrument())


def row_of(spec: TopicSpec, config: Mapping[str, Any]) -> tuple[Column, ...]:
    """The row of a derived topic under a line's configuration; empty for the raw topic."""
    if spec is topics.BINS:
        return bins.columns(int(config.get("radius", bins.RADIUS_DEFAULT)))
    return TABLES[spec.stream].columns


def scan_topic(
    bootstrap_servers: str,
    manifest: Manifest,
    line: str,
    spec: TopicSpec,
    on_progress: Callable[[int], None] = lambda _: None,
    until: Mapping[int, int] | None = None,
) -> TopicScan:
    """Read a topic of a tape from its start to its present end, or to a root message, without what was deleted of it.

    Args:
        bootstrap_servers: where the cluster is.
        manifest: the tape.
        line: the line, for derived topics.
        spec: which topic.
        on_progress: called with the number of messages read so far.
        until: partition → last root message to read, -1 for none; None for all.

    Raises:
        HoleError, ConflictError: the topic is damaged.
    """
    row = row_of(spec, manifest.lines[line].config)
    scan = TopicScan()
    for partition in range(manifest.partitions):
        seq_to = None if until is None else until.get(partition, -1)
        reader = TopicReader(bootstrap_servers, manifest, line, spec, partition, seq_to)
        if spec is topics.MBO:
            scan.inputs.append(PartitionInput(partition))
        for placed in reader:
            if placed.deleted:
                continue
            _count(scan, placed.message, row)
            if spec is topics.MBO:
                _add_raw(scan, placed)
            else:
                _add_rows(scan, partition, placed, row)
            on_progress(scan.messages)
        scan.repeats += reader.sequence.dropped
    return scan


def _count(scan: TopicScan, message: Message, row: tuple[Column, ...]) -> None:
    scan.messages += 1
    scan.records += message.envelope.count if message.envelope.kind == "data" or row else 0
    scan.value_bytes += len(message.value)


def _add_raw(scan: TopicScan, placed: Placed) -> None:
    scan.inputs[-1].update(placed.seq, placed.message)
    if placed.message.envelope.kind == "data":
        scan.raw.setdefault(placed.message.instrument, RecordsHash()).update(placed.message)


def _add_rows(scan: TopicScan, partition: int, placed: Placed, row: tuple[Column, ...]) -> None:
    message, run = placed.message, placed.message.envelope.run
    scan.hashes.setdefault(message.instrument, RowHash(row)).update(decode_rows(message.value, row))
    if message.envelope.summary:
        scan.summaries[message.instrument] = json.loads(message.envelope.summary)
    newest = scan.runs[-1] if scan.runs else None
    if newest is None or (newest.partition, newest.run) != (partition, run):
        scan.runs.append(RunSpan(partition, run, placed.seq, placed.seq))
    else:
        newest.seq_to = placed.seq
