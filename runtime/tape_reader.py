"""Reading a tape's topic as every consumer must: each message once, in order, with its place; a hole is an error.

Reports, the reconciler and certificates read whole topics again instead of believing what was remembered of them. This
is the one way in which they do.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from runtime.kafka import read_raw, to_message
from runtime.sequence import Sequence, Verdict
from runtime.tapes import Manifest
from schemas.envelope import Envelope, crc32
from schemas.message import Message
from schemas.topics import MBO, TopicSpec

UNREADABLE: Final = "unreadable"
"""Schema of a raw message whose key or headers are not ours. It is a place in the log like any other and has no rows; a
reader that stopped at it would hide everything behind it."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A message with its place for ever.

    Attributes:
        message: the message.
        seq, part: number of its root message, and its number among those of this seq.
    """

    message: Message
    seq: int
    part: int


@dataclass(slots=True)
class TopicReader:
    """One partition of one topic of a tape, read from its start to its present end, repeats left out.

    Attributes:
        bootstrap_servers: Kafka.
        manifest: the tape.
        line: the line, for derived topics.
        spec: which topic.
        partition: which partition.
        seq_to: last root message to read; None for all that is there.
        sequence: the consumer's rule; counts the repeats that were dropped.
    """

    bootstrap_servers: str
    manifest: Manifest
    line: str
    spec: TopicSpec
    partition: int
    seq_to: int | None = None
    sequence: Sequence = field(init=False)

    def __post_init__(self) -> None:
        self.sequence = Sequence(f"{self.topic}[{self.partition}]", self.manifest.base[self.partition])

    @property
    def topic(self) -> str:
        """Name of the topic."""
        return self.spec.name(self.manifest.tape, self.line)

    def __iter__(self) -> Iterator[Placed]:
        """The messages in order of their places.

        Raises:
            HoleError, ConflictError: the topic is damaged.
            BarographError: the broker does not answer, or the topic was trimmed.
            ValueError: a derived message has headers that are not ours.
        """
        base, raw_topic = self.manifest.base[self.partition], self.spec is MBO
        for raw in read_raw(self.bootstrap_servers, self.topic, self.partition):
            message = lenient(raw) if raw_topic else to_message(raw)
            envelope = message.envelope
            seq, part = (message.offset + base, 0) if raw_topic else (envelope.seq, envelope.part)
            if self.seq_to is not None and seq > self.seq_to:
                return
            last = raw_topic or envelope.last
            if self.sequence.check(seq, part, last=last, run=envelope.run, crc32=envelope.crc32) is Verdict.ACCEPT:
                yield Placed(message, seq, part)


def lenient(raw: Any) -> Message:
    """A raw message; one with a key or headers that are not ours gets an envelope of schema `UNREADABLE`."""
    try:
        return to_message(raw)
    except ValueError:
        value = raw.value() or b""
        envelope = Envelope("data", UNREADABLE, crc32=crc32(value), t=raw.timestamp()[1] * 1_000_000)
        key = (raw.key() or b"").decode(errors="replace")
        return Message(raw.topic(), raw.partition(), raw.offset(), raw.timestamp()[1], key, value, envelope)
