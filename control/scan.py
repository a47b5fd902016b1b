"""Reading a tape's topics from end to end: counts, content hashes, final states. What reports are made of.

The topics are the truth; a report reads them again instead of believing what the processes that wrote them said. Each
derived message is taken once, by the same rule as every consumer uses.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.codec import decode_rows
from runtime.kafka import read_range
from runtime.sequence import Sequence, Verdict
from runtime.tapes import Manifest
from schemas import bins, topics
from schemas.columns import Column, RowHash, hash_of_hashes
from schemas.message import Message
from schemas.topics import TopicSpec
from sinks.tables import TABLES


@dataclass(slots=True)
class TopicScan:
    """What one topic holds after repeats are dropped.

    Attributes:
        messages, records, value_bytes: counts; records are rows on derived topics.
        repeats: messages that were dropped.
        hashes: instrument → running hash of its rows; empty for the raw topic.
        summaries: instrument → final state, from `end` messages.
    """

    messages: int = 0
    records: int = 0
    value_bytes: int = 0
    repeats: int = 0
    hashes: dict[str, RowHash] = field(default_factory=dict)
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)

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
) -> TopicScan:
    """Read a topic of a tape from its start to its present end.

    Args:
        bootstrap_servers: where the cluster is.
        manifest: the tape.
        line: the line, for derived topics.
        spec: which topic.
        on_progress: called with the number of messages read so far.

    Raises:
        HoleError, ConflictError: the topic is damaged.
    """
    name, row = spec.name(manifest.tape, line), row_of(spec, manifest.lines[line].config)
    scan = TopicScan()
    for partition in range(manifest.partitions):
        base = manifest.base[partition]
        sequence = Sequence(f"{name}[{partition}]", base)
        for message in read_range(bootstrap_servers, name, partition):
            envelope = message.envelope
            seq = message.offset + base if spec is topics.MBO else envelope.seq
            verdict = sequence.check(seq, envelope.part, last=envelope.last, run=envelope.run, crc32=envelope.crc32)
            if verdict is Verdict.REPEAT:
                scan.repeats += 1
                continue
            _add(scan, message, row)
            on_progress(scan.messages)
    return scan


def _add(scan: TopicScan, message: Message, row: tuple[Column, ...]) -> None:
    scan.messages += 1
    scan.records += message.envelope.count if message.envelope.kind == "data" or row else 0
    scan.value_bytes += len(message.value)
    if row:
        scan.hashes.setdefault(message.instrument, RowHash(row)).update(decode_rows(message.value, row))
    if message.envelope.summary:
        scan.summaries[message.instrument] = json.loads(message.envelope.summary)
