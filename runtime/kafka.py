"""Kafka clients, configured once.

Everything outside Faust uses librdkafka through confluent-kafka: an idempotent producer whose every delivery is checked
(`flush()` alone returns 0 also when messages failed), and consumers that are assigned explicitly and read from exact
offsets, because progress is kept beside the data and not by the group coordinator.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from runtime.errors import BarographError, MissingServiceError
from schemas.envelope import from_headers
from schemas.message import Message, Outgoing
from schemas.topics import MESSAGE_BYTES_MAX

log = logging.getLogger(__name__)

DELIVERY_TIMEOUT_S: Final = 120.0
"""How long whoever waits for acknowledgements waits. A broker restart after a kill takes 5 to 15 s; below that a
restart would fail runs that could go on, far above it a dead broker looks like a slow one."""

ANSWER_TIMEOUT_S: Final = 10.0
"""How long a metadata question may take. A loaded single-node broker answers within 2 s."""

BATCH_MESSAGES: Final = 64
BATCH_WAIT_S: Final = 0.05
"""Messages taken from the client at once, and how long it may wait for that many: at the end of a log it does wait."""

_PASSING: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
    }
)
"""What a healthy cluster answers for a moment after a topic was made or a broker came back."""

_COMMON: Final[Mapping[str, Any]] = {
    "log_level": 2,  # 0..7 as in syslog: each failed connection attempt is level 3, 20 a second during an outage
    "socket.keepalive.enable": True,
}


class DeliveryError(BarographError):
    """The broker did not confirm a message."""

    def __init__(self, topic: str, partition: int, failed: int, reason: str) -> None:
        self.topic, self.partition, self.failed, self.reason = topic, partition, failed, reason
        super().__init__(
            f"{failed} message(s) for {topic}[{partition}] were not confirmed by the broker ({reason})",
            remedy="look at the broker's log and disk, then run the same command again: it resumes",
        )


def admin(bootstrap_servers: str) -> AdminClient:
    """A client for topics and cluster questions."""
    return AdminClient({**_COMMON, "bootstrap.servers": bootstrap_servers})


def ping(bootstrap_servers: str, timeout_s: float = ANSWER_TIMEOUT_S) -> str:
    """The cluster's id, as proof that a broker answers.

    Raises:
        MissingServiceError: nobody answers there.
    """
    try:
        return str(admin(bootstrap_servers).list_topics(timeout=timeout_s).cluster_id)
    except KafkaException as error:
        raise MissingServiceError(
            f"no Kafka broker answers at {bootstrap_servers}", remedy="start one, or correct --bootstrap-servers"
        ) from error


class CheckedProducer:
    """An idempotent producer that never loses a message silently, nor one from the middle.

    librdkafka by default drops each message that gets too old, and still writes those behind it: after an outage of two
    minutes a topic would have a hole that its consumers refuse for ever. So no message is given up; who waits for them
    loses patience instead, and leaves with all that is queued. What is in the log is then always a prefix of what was
    sent. Source: librdkafka, INTRODUCTION.md, "Message timeout considerations".

    Args:
        bootstrap_servers: where the cluster is.
        config: additions to the client's configuration.
    """

    def __init__(self, bootstrap_servers: str, config: Mapping[str, Any] | None = None) -> None:
        self._servers = bootstrap_servers
        self._producer = Producer(
            {
                **_COMMON,
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": 2,
                "message.max.bytes": MESSAGE_BYTES_MAX,
                "queue.buffering.max.kbytes": 65_536,
                "delivery.timeout.ms": 0,  # never
                "enable.gapless.guarantee": True,  # other failures stop the producer too
                **(config or {}),
            }
        )
        self._failures: list[tuple[str, int, str]] = []
        self.sent = self.confirmed = 0
        self.confirmed_bytes = 0

    def send(self, message: Outgoing) -> None:
        """Queue a message; waits while the queue is full.

        Raises:
            DeliveryError: an earlier message failed, or the queue stayed full for `DELIVERY_TIMEOUT_S`.
        """
        self._raise_failures()
        self.sent += 1
        waits_since_s, confirmed = time.monotonic(), self.confirmed
        while True:
            try:
                self._producer.produce(
                    message.topic,
                    value=message.value,
                    key=message.instrument.encode(),
                    partition=message.partition,
                    timestamp=message.timestamp_ms,
                    headers=[*message.envelope.to_headers()],
                    on_delivery=self._on_delivery,
                )
            except BufferError:
                self._producer.poll(0.1)
                self._raise_failures()
                if self.confirmed > confirmed:
                    waits_since_s, confirmed = time.monotonic(), self.confirmed
                elif time.monotonic() - waits_since_s > DELIVERY_TIMEOUT_S:
                    raise self._no_answer(DELIVERY_TIMEOUT_S) from None
            else:
                self._producer.poll(0)
                return

    def flush(self, timeout_s: float = DELIVERY_TIMEOUT_S) -> None:
        """Wait until every message is confirmed.

        Raises:
            DeliveryError: one failed, or is still unconfirmed after `timeout_s`.
        """
        left = self._producer.flush(timeout_s)
        self._raise_failures()
        if left or self.confirmed != self.sent:
            raise self._no_answer(timeout_s)

    def newest(self, topic: str, partition: int) -> tuple[int, int] | None:
        """The highest (`seq`, `part`) anywhere on a partition; see `newest_place`."""
        return newest_place(self._servers, topic, partition)

    def _no_answer(self, timeout_s: float) -> DeliveryError:
        return DeliveryError("all topics", -1, self.sent - self.confirmed, f"no answer for {timeout_s:g} s")

    def _on_delivery(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._failures.append((message.topic(), message.partition(), error.str()))
        else:
            self.confirmed += 1
            self.confirmed_bytes += len(message.value() or b"")

    def _raise_failures(self) -> None:
        if self._failures:
            topic, partition, reason = self._failures[0]
            raise DeliveryError(topic, partition, len(self._failures), reason)


def consumer(bootstrap_servers: str, config: Mapping[str, Any] | None = None) -> Consumer:
    """A consumer for explicit assignment: it commits nothing and never jumps on its own.

    Offsets out of range raise instead of jumping to an end of the log, so a trimmed topic is an error and not a gap.
    """
    return Consumer(
        {
            **_COMMON,
            "bootstrap.servers": bootstrap_servers,
            "group.id": "barograph-assigned",  # required by the client; never joined, nothing is committed
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": False,
            "fetch.message.max.bytes": MESSAGE_BYTES_MAX,
            "fetch.wait.max.ms": 20,
            "queued.max.messages.kbytes": 65_536,
            "isolation.level": "read_uncommitted",
            **(config or {}),
        }
    )


def to_message(raw: Any) -> Message:
    """A consumed message of ours, parsed.

    Raises:
        BarographError: the client reports an error in the message's place.
        ValueError: the headers are not ours.
    """
    if raw.error() is not None:
        raise BarographError(
            f"reading {raw.topic()}[{raw.partition()}] failed: {raw.error().str()}", remedy="look at the broker's log"
        )
    return Message(
        topic=raw.topic(),
        partition=raw.partition(),
        offset=raw.offset(),
        timestamp_ms=raw.timestamp()[1],
        instrument=(raw.key() or b"").decode(),
        value=raw.value() or b"",
        envelope=from_headers(raw.headers()),
    )


def watermarks(client: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """First offset of the log, and the offset after its end.

    A topic that was made a moment ago, or a broker that just restarted, answers "not the leader" at first; that is
    waited out.

    Raises:
        MissingServiceError: no such partition, or no answer within `ANSWER_TIMEOUT_S`.
    """
    deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
    while True:
        left_s = max(BATCH_WAIT_S, deadline_s - time.monotonic())
        try:
            low, high = client.get_watermark_offsets(TopicPartition(topic, partition), timeout=left_s)
        except KafkaException as error:
            if error.args[0].code() not in _PASSING or time.monotonic() > deadline_s:
                raise MissingServiceError(
                    f"the broker does not tell the ends of {topic}[{partition}] ({error.args[0].str()})",
                    remedy="look whether it runs and has the topic: `barograph topics list`",
                ) from error
            time.sleep(BATCH_WAIT_S)
        else:
            return int(low), int(high)


def read_range(
    bootstrap_servers: str, topic: str, partition: int, start: int = 0, stop: int | None = None
) -> Iterator[Message]:
    """Every message of a partition from offset `start` up to before `stop` (default: the end as it stands now).

    Raises:
        BarographError: an offset before the start of the log is asked for, or the broker stops answering.
        KafkaException: there is no such partition.
    """
    client = consumer(bootstrap_servers)
    with contextlib.closing(client):
        low, high = watermarks(client, topic, partition)
        end = high if stop is None else min(stop, high)
        if start < low:
            raise BarographError(
                f"offsets {start} to {low - 1} of {topic}[{partition}] are no longer in Kafka",
                remedy="read them from the lake",
            )
        client.assign([TopicPartition(topic, partition, start)])
        position, silent_s = start, 0.0
        while position < end:
            batch = client.consume(BATCH_MESSAGES, timeout=BATCH_WAIT_S)  # waits for a full batch, so briefly
            silent_s = 0.0 if batch else silent_s + BATCH_WAIT_S
            if silent_s > ANSWER_TIMEOUT_S:
                raise MissingServiceError(
                    f"the broker stopped answering at offset {position} of {topic}[{partition}]",
                    remedy="look at the broker's log",
                )
            for raw in batch:
                message = to_message(raw)
                if message.offset >= end:
                    return
                position = message.offset + 1
                yield message


def newest_place(bootstrap_servers: str, topic: str, partition: int) -> tuple[int, int] | None:
    """The highest (`seq`, `part`) anywhere on a partition of a derived topic; None if it is empty.

    The newest message need not hold it: whoever redoes work goes back. So the whole log is read, and this is for rare
    questions only.
    """
    with contextlib.closing(consumer(bootstrap_servers)) as client:
        low, _ = watermarks(client, topic, partition)
    places = (
        (message.envelope.seq, message.envelope.part)
        for message in read_range(bootstrap_servers, topic, partition, low)
    )
    return max(places, default=None)
