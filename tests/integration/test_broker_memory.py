"""A broker that was killed still knows what a producer sent: a raw message that is sent again is not stored twice.

Kafka forgets producers whose last *stamp* is a day old when it loads a log. Stamps of market time are years old, so the
raw topic carries the broker's own; the second case shows what happens otherwise.
"""

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from confluent_kafka.admin import NewTopic

from control.embedded.kafka import EmbeddedKafka
from runtime.kafka import admin, consumer, watermarks
from schemas import topics

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

OF_2012_MS = 1_340_285_400_000


async def stored_of_three(broker: EmbeddedKafka, topic: str) -> int:
    """Send three messages, kill the broker, send the third again under its old number; how many stand there."""
    producer, place = AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers, enable_idempotence=True), 0
    await producer.start()
    try:
        for _ in range(3):
            await producer.send_and_wait(topic, b"x", partition=place, timestamp_ms=OF_2012_MS)
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGKILL)
        broker.stop()
        broker.start()
        producer._txn_manager._sequence_numbers[TopicPartition(topic, place)] -= 1
        await producer.send_and_wait(topic, b"x", partition=place, timestamp_ms=OF_2012_MS)
    finally:
        await producer.stop()
    with closing(consumer(broker.bootstrap_servers)) as client:
        return watermarks(client, topic, place)[1]


@pytest.mark.parametrize(
    ("config", "stored"),
    [(topics.MBO.config(), 3), ({**topics.MBO.config(), "message.timestamp.type": "CreateTime"}, 4)],
)
def test_a_repeat_after_a_kill_is_stored_once(tmp_path: Path, config: Mapping[str, str], stored: int) -> None:
    with EmbeddedKafka(tmp_path) as broker:
        client = admin(broker.bootstrap_servers)  # kept: its answers end with it
        for created in client.create_topics([NewTopic("memory", 1, 1, config=dict(config))]).values():
            created.result(20)
        assert asyncio.run(stored_of_three(broker, "memory")) == stored
