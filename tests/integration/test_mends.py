"""The faults below Faust that `streams.faust_consumer` mends, on a real broker: beside each, what happens without it.

When what the library does alone is right, it is mended, and our own method can go.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import Consumer as PlainConsumer
from confluent_kafka import Producer
from confluent_kafka import TopicPartition as Position
from confluent_kafka.admin import NewTopic
from faust.types import TP

from runtime.kafka import admin
from streams.faust_consumer import Consumer
from tests.integration.conftest import ROOT

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

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


def app_reads(kafka: str, topic: str, whose: str, *more: str) -> dict[str, Any]:
    """What a Faust app with our consumer, or the library's, tells of a topic; see `chaos.plain_app`."""
    argv = [sys.executable, "-m", "tests.integration.chaos.plain_app", kafka, topic, f"{topic}-{whose}", whose, *more]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True)
    told: dict[str, Any] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return told


def filled(kafka: str, topic: str, counts: list[int], size: int) -> None:
    """A new topic with so many messages in each partition."""
    client = admin(kafka)
    for created in client.create_topics([NewTopic(topic, len(counts), 1)]).values():
        created.result(20)
    producer = Producer({"bootstrap.servers": kafka, "linger.ms": 50})
    for number in range(max(counts)):
        for partition in (p for p, count in enumerate(counts) if number < count):
            producer.produce(topic, value=bytes(size), partition=partition)
        producer.poll(0)
    assert producer.flush(30) == 0


@pytest.mark.parametrize(("whose", "first", "seen"), [("theirs", 50, 50), ("ours", 0, 100)])
def test_a_stage_that_lost_its_states_reads_everything_again(kafka: str, whose: str, first: int, seen: int) -> None:
    """Half was committed, then 0 was, as a stage does whose checkpoints are gone: the library loses that half."""
    topic = f"mends-back-{whose}"
    filled(kafka, topic, [100] * 4, 1_000)
    group = PlainConsumer({"bootstrap.servers": kafka, "group.id": f"{topic}-{whose}"})
    group.commit(offsets=[Position(topic, p, 50) for p in range(4)], asynchronous=False)
    group.close()
    told = app_reads(kafka, topic, whose, "back to 0")
    assert told["first"] == dict.fromkeys("0123", first)
    assert told["seen"] == dict.fromkeys("0123", seen)


@pytest.mark.parametrize(("counts", "wait"), [([400], "full"), ([800, 20], "drained")])
def test_without_the_mend_a_busy_partition_waits_for_seconds(kafka: str, counts: list[int], wait: str) -> None:
    """Buffers of 32 messages: a second of sleep while all are full, and of waiting for one that is drained."""
    topic = f"mends-{wait}"
    filled(kafka, topic, counts, 50_000)
    assert app_reads(kafka, topic, "theirs")[wait] > 0, "the library is mended"
    assert app_reads(kafka, topic, "ours")[wait] == 0


@pytest.mark.parametrize(("whose", "stops"), [("theirs", True), ("ours", False)])
def test_a_partition_that_stands_still_does_not_stop_the_others(kafka: str, whose: str, stops: bool) -> None:
    """Small messages: one fetch brings more of the stuck partition than its buffer holds, and Faust waits for it."""
    topic = f"mends-stuck-{whose}"
    filled(kafka, topic, [2_000, 500], 20)
    told = app_reads(kafka, topic, whose, "stuck")
    assert told["seen"]["0"] == 1
    assert (told["seen"]["1"] < 500) is stops
