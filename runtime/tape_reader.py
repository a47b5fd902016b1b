"""Reading a tape's topic as every consumer must: each message once, in order, with its place; a hole is an error.

Reports, the reconciler and certificates read whole topics again instead of believing what was remembered of them. This
is the one way in which they do.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from runtime.kafka import read_raw, to_message
from runtime.sequence import Sequence, Verdict
from runtime.tapes import Manifest
from schemas.message import Message
from schemas.topics import MBO, TopicSpec


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
        """
        base, raw_topic = self.manifest.base[self.partition], self.spec is MBO
        for raw in read_raw(self.bootstrap_servers, self.topic, self.partition):
            message = to_message(raw)
            envelope = message.envelope
            seq, part = (message.offset + base, 0) if raw_topic else (envelope.seq, envelope.part)
            if self.seq_to is not None and seq > self.seq_to:
                return
            last = raw_topic or envelope.last
            if self.sequence.check(seq, part, last=last, run=envelope.run, crc32=envelope.crc32) is Verdict.ACCEPT:
                yield Placed(message, seq, part)
