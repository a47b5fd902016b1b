"""How far a tape's stages are: the last message of each derived topic against the end of the raw topic."""

from confluent_kafka import Consumer, TopicPartition

from runtime.kafka import ANSWER_TIMEOUT_S, consumer, to_message, watermarks
from runtime.tapes import Manifest
from schemas import topics
from schemas.message import Message
from schemas.topics import TopicSpec


class TapeProgress:
    """Watches one tape and line.

    Args:
        bootstrap_servers: where the cluster is.
        manifest: the tape.
        line: the line.
    """

    def __init__(self, bootstrap_servers: str, manifest: Manifest, line: str) -> None:
        self._client: Consumer = consumer(bootstrap_servers)
        self._manifest, self._line = manifest, line

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def published(self) -> int:
        """Raw messages on the topic, over all partitions."""
        name = topics.MBO.name(self._manifest.tape, self._line)
        return sum(watermarks(self._client, name, p)[1] for p in range(self._manifest.partitions))

    def done(self, spec: TopicSpec) -> int:
        """Root messages whose outputs on a derived topic are complete, over all partitions."""
        total = 0
        for partition in range(self._manifest.partitions):
            last = self._last(spec.name(self._manifest.tape, self._line), partition)
            if last is not None:
                envelope = last.envelope
                total += envelope.seq - self._manifest.base[partition] + (1 if envelope.last else 0)
        return total

    def _last(self, topic: str, partition: int) -> Message | None:
        low, high = watermarks(self._client, topic, partition)
        if high == low:
            return None
        self._client.assign([TopicPartition(topic, partition, high - 1)])
        raw = self._client.poll(ANSWER_TIMEOUT_S)
        return None if raw is None else to_message(raw)
