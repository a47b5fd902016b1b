"""The fault below Faust that our own seek is for, on a real broker: an offset of 0 is not sought.

When these fail, the library is mended, and `Consumer.seek_to_committed` of `streams.faust_consumer` can go.
"""

import asyncio
from collections.abc import Mapping

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic
from faust.types import TP

from runtime.kafka import admin
from streams.faust_consumer import Consumer

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]

MESSAGES, AHEAD = 8, 5
PLACE = TopicPartition("mends", 0)


@pytest.fixture(scope="module")
def topic(kafka: str) -> str:
    """A topic of some messages."""
    client = admin(kafka)  # kept: its answers end with it
    for created in client.create_topics([NewTopic(PLACE.topic, 1, 1)]).values():
        created.result(20)
    producer = Producer({"bootstrap.servers": kafka})
    for number in range(MESSAGES):
        producer.produce(PLACE.topic, value=b"%d" % number)
    assert producer.flush(20) == 0
    return kafka


class OnAiokafka(Consumer):
    """Our consumer directly over aiokafka's, without Faust's thread between."""

    def __init__(self, client: AIOKafkaConsumer) -> None:
        self._thread = _Thread(client)  # type: ignore[assignment]
        self._read_offset: dict[TP, int | None] = {}


class _Thread:
    """What Faust's thread hands on to the client."""

    def __init__(self, client: AIOKafkaConsumer) -> None:
        self._client = client

    def assignment(self) -> set[TP]:
        return {TP(place.topic, place.partition) for place in self._client.assignment()}

    async def seek_to_committed(self) -> Mapping[TP, int]:
        committed = await self._client.seek_to_committed()
        return {TP(place.topic, place.partition): offset for place, offset in committed.items()}

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        for place, offset in partitions.items():
            self._client.seek(TopicPartition(place.topic, place.partition), offset)


async def first_value(kafka: str, group: str, committed: int, start_at: int | None) -> bytes:
    """What a client that had got ahead reads after it sought `committed`, or with `start_at` after our consumer did."""
    client = AIOKafkaConsumer(bootstrap_servers=kafka, group_id=group, enable_auto_commit=False)
    await client.start()
    try:
        client.assign([PLACE])
        await client.commit({PLACE: committed})
        client.seek(PLACE, AHEAD)
        assert (await client.getone()).value == b"%d" % AHEAD
        if start_at is None:
            assert (await client.seek_to_committed())[PLACE] == committed
        else:
            Consumer.start_at = {TP(*PLACE): start_at}
            assert await OnAiokafka(client).seek_to_committed() == {TP(*PLACE): start_at}
        value: bytes = (await client.getone()).value
        return value
    finally:
        await client.stop()


def test_the_library_seeks_to_a_committed_offset_unless_it_is_0(topic: str) -> None:
    assert asyncio.run(first_value(topic, "mends-2", 2, None)) == b"2"
    assert asyncio.run(first_value(topic, "mends-0", 0, None)) == b"%d" % (AHEAD + 1), "aiokafka is mended"


@pytest.mark.parametrize("start_at", [0, 3])
def test_our_consumer_seeks_to_where_the_stage_goes_on(
    topic: str, monkeypatch: pytest.MonkeyPatch, start_at: int
) -> None:
    monkeypatch.setattr(Consumer, "start_at", {})
    value = asyncio.run(first_value(topic, f"mends-own-{start_at}", 0, start_at))
    assert value == b"%d" % start_at
