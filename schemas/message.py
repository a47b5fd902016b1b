"""A message as the project handles it: Kafka's coordinates, key, bytes, and the parsed envelope."""

from dataclasses import dataclass

from schemas.envelope import Envelope


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a topic.

    Attributes:
        topic, partition, offset: Kafka's coordinates.
        timestamp_ms: Kafka's stamp, ms: engine time after the message; on the raw topic, the broker's own time.
        instrument: the key, decoded.
        value: the bytes; empty where the message has no rows.
        envelope: the headers.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    instrument: str
    value: bytes
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that is to be sent.

    Attributes:
        topic, partition: where to.
        instrument: the key.
        value: the bytes.
        envelope: the headers.
        timestamp_ms: Kafka's timestamp, ms: engine time of the instrument after the message; on the raw topic the
            broker's time.
    """

    topic: str
    partition: int
    instrument: str
    value: bytes
    envelope: Envelope

    @property
    def timestamp_ms(self) -> int:
        """Engine time in whole milliseconds, floor; Kafka refuses negative stamps, so 0 at least."""
        return max(0, self.envelope.t // 1_000_000)
