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
from confluent_kafka.admin._listoffsets import OffsetSpec

from runtime.errors import BarographError, MissingServiceError
from schemas.envelope import Envelope, read_headers
from schemas.message import Message, Outgoing
from schemas.topics import MESSAGE_BYTES_MAX

log = logging.getLogger(__name__)

FETCH_BYTES: Final = 1 << 20
"""Bytes that a consumer asks for at once, of each partition, as they are on the wire. A larger message comes whole. A
grid is eight times as long when it is unpacked: with 8 MiB here a sink of 14 partitions held 300 MiB more."""

AHEAD_BYTES: Final = 16 << 20
"""Bytes of messages that a consumer takes before they are asked for: some 0.1 s of the fastest reading. Less lets a
fast reader wait for the broker; more is memory only."""

DELIVERY_TIMEOUT_S: Final = 120.0
"""How long a producer waits while the broker confirms nothing. A broker restart after a kill takes 5 to 15 s; below
that a restart would fail runs that could go on, far above it a dead broker looks like a slow one."""

REPORTS_EVERY: Final = 16
"""Messages sent between two looks at delivery reports. A look gives the interpreter lock away and waits to get it back:
one for each message was a tenth of a stage's time. A failure is noticed by so many messages later, or by `flush`."""

FLUSH_LOOK_S: Final = 1.0
"""How often a flush that waits looks whether it has waited long enough."""

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
    "reconnect.backoff.max.ms": 1000,  # 10 s by default, waited in vain after the broker is back
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
    """An idempotent producer that never loses a message silently and never leaves one out.

    What stands in a partition is always a prefix of what was sent to it: the client gives no single message up. With a
    time-out of its own for each message, as is its default, it drops those that waited longest during an outage, then
    delivers the younger ones behind them, and the partition has a hole that nobody can fill. So messages wait without
    end there, and here it is measured whether any was confirmed lately. After a failure nothing more is sent.

    Args:
        bootstrap_servers: where the cluster is.
        config: additions to the client's configuration.
        timeout_s: how long to wait while nothing is confirmed.
    """

    def __init__(
        self, bootstrap_servers: str, config: Mapping[str, Any] | None = None, timeout_s: float = DELIVERY_TIMEOUT_S
    ) -> None:
        self._servers = bootstrap_servers
        self._producer = Producer(
            {
                **_COMMON,
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,
                "enable.gapless.guarantee": True,  # a message that is refused ends the producer: none may follow it
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": 2,
                "message.max.bytes": MESSAGE_BYTES_MAX,
                "queue.buffering.max.kbytes": 65_536,
                "delivery.timeout.ms": 0,  # none
                **(config or {}),
            }
        )
        self._timeout_s = timeout_s
        self._failures: list[tuple[str, int, str]] = []
        self._newest: dict[tuple[str, int], tuple[int, Envelope | None]] = {}  # offset read up to, and what was found
        self._moved_s = 0.0
        self.sent = self.confirmed = 0
        self.confirmed_bytes = 0

    def send(self, message: Outgoing) -> None:
        """Queue a message; waits while the queue is full.

        Raises:
            DeliveryError: an earlier message failed, or nothing was confirmed for `timeout_s`.
        """
        self._refuse_failures()
        if self.sent == self.confirmed:
            self._moved_s = time.monotonic()
        self.sent += 1
        while not self._produce(message):
            self._producer.poll(0.1)
            self._refuse_failures()
        if self.sent % REPORTS_EVERY == 0:
            self._producer.poll(0)

    def flush(self) -> None:
        """Wait until every message is confirmed.

        Raises:
            DeliveryError: one failed, or nothing was confirmed for `timeout_s`.
        """
        while self.confirmed != self.sent:
            self._producer.flush(min(FLUSH_LOOK_S, self._timeout_s))
            self._refuse_failures()

    def _produce(self, message: Outgoing) -> bool:
        """Hand a message to the client; False while its queue is full."""
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
            return False
        except KafkaException as error:
            self._failures.append((message.topic, message.partition, error.args[0].str()))
            self._refuse_failures()
        return True

    def newest(self, topic: str, partition: int) -> tuple[int, int] | None:
        """The highest (`seq`, `part`) anywhere on a partition; None if it is empty.

        Asked again it reads only what came since: one broken definition makes poison of all that follows it, and each
        of these asks.
        """
        start, known = self._newest.get((topic, partition), (0, None))
        end, newest = _newest_since(self._servers, topic, partition, start, known)
        self._newest[topic, partition] = end, newest
        return None if newest is None else (newest.seq, newest.part)

    def shown(self, topic: str, partition: int) -> int:
        """The root message that is complete with the last message of a partition; -1 if none is. One is read."""
        with contextlib.closing(consumer(self._servers)) as client:
            low, high = watermarks(client, topic, partition)
        for message in read_range(self._servers, topic, partition, max(low, high - 1), high):
            return message.envelope.seq - (not message.envelope.last)
        return -1

    def _on_delivery(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._failures.append((message.topic(), message.partition(), error.str()))
        else:
            self._moved_s = time.monotonic()
            self.confirmed += 1
            self.confirmed_bytes += len(message.value() or b"")

    def _stands_still(self) -> bool:
        return self.sent != self.confirmed and time.monotonic() - self._moved_s > self._timeout_s

    def _refuse_failures(self) -> None:
        if self._stands_still():
            self._producer.poll(0)  # whoever sends seldom has not looked at the reports since
        if not self._failures and self._stands_still():
            waiting = self.sent - self.confirmed
            self._failures = [("all topics", -1, f"no answer for {self._timeout_s:g} s")] * waiting
        if self._failures:
            topic, partition, reason = self._failures[0]
            failed = len(self._failures)
            self._producer.purge()  # what is queued would arrive beside what a successor sends again
            raise DeliveryError(topic, partition, failed, reason)


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
            "fetch.message.max.bytes": FETCH_BYTES,
            "fetch.wait.max.ms": 20,
            "queued.max.messages.kbytes": AHEAD_BYTES >> 10,
            "isolation.level": "read_uncommitted",
            **(config or {}),
        }
    )


def to_message(raw: Any) -> Message:
    """A consumed message, parsed; one whose headers are not ours has the schema `UNREADABLE`.

    Raises:
        BarographError: the client reports an error in the message's place.
    """
    refuse_error(raw)
    return Message(
        topic=raw.topic(),
        partition=raw.partition(),
        offset=raw.offset(),
        timestamp_ms=raw.timestamp()[1],
        instrument=(raw.key() or b"").decode(errors="replace"),
        value=raw.value() or b"",
        envelope=read_headers(raw.headers(), raw.value() or b"")[0],
    )


def refuse_error(raw: Any) -> None:
    """Raise what the client reports in a message's place.

    Raises:
        BarographError: it reports an error.
    """
    if raw.error() is not None:
        raise BarographError(
            f"reading {raw.topic()}[{raw.partition()}] failed: {raw.error().str()}", remedy="look at the broker's log"
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


def newest_of(client: AdminClient, topic: str, partition: int, timeout_s: float) -> tuple[int, int]:
    """Offset after the newest message of a partition, and the highest timestamp in it, ms; 0 and -1 if it is empty.

    Raises:
        KafkaException: no answer within `timeout_s`.
    """
    specs: Any = OffsetSpec
    answers: list[Any] = []
    for spec in (specs.latest(), specs.max_timestamp()):
        asked = client.list_offsets({TopicPartition(topic, partition): spec}, request_timeout=timeout_s)
        answers += [future.result() for future in asked.values()]
    return int(answers[0].offset), int(answers[1].timestamp)


def read_range(
    bootstrap_servers: str, topic: str, partition: int, start: int = 0, stop: int | None = None
) -> Iterator[Message]:
    """Every message of a partition from offset `start` up to before `stop` (default: the end as it stands now).

    Raises:
        BarographError: an offset before the start of the log is asked for, or the broker stops answering.
        ValueError: a message's headers are not ours.
        KafkaException: there is no such partition.
    """
    return map(to_message, read_raw(bootstrap_servers, topic, partition, start, stop))


def read_raw(
    bootstrap_servers: str, topic: str, partition: int, start: int = 0, stop: int | None = None
) -> Iterator[Any]:
    """What `read_range` reads, as the client gives it: for messages whose headers may be anything.

    Raises:
        BarographError, KafkaException: as `read_range`.
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
                refuse_error(raw)
                offset = raw.offset() or 0
                if offset >= end:
                    return
                position = offset + 1
                yield raw


def newest_envelope(bootstrap_servers: str, topic: str, partition: int) -> Envelope | None:
    """The headers with the highest (`seq`, `part`) anywhere on a partition of a derived topic; None if it is empty.

    The newest message need not hold them: whoever redoes work goes back. So the whole log is read, and this is for rare
    questions only.
    """
    return _newest_since(bootstrap_servers, topic, partition, 0, None)[1]


def _newest_since(
    bootstrap_servers: str, topic: str, partition: int, start: int, known: Envelope | None
) -> tuple[int, Envelope | None]:
    """Where a partition ends, and the newer of `known` and of what stands from offset `start` on."""
    with contextlib.closing(consumer(bootstrap_servers)) as client:
        low, high = watermarks(client, topic, partition)
    newest = known
    for message in read_range(bootstrap_servers, topic, partition, max(low, start), high):
        envelope = message.envelope
        if newest is None or (envelope.seq, envelope.part) > (newest.seq, newest.part):
            newest = envelope
    return high, newest
