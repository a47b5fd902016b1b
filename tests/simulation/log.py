"""The log: topics in memory, and a producer that writes to them as librdkafka's idempotent producer does.

What a healthy Kafka cluster with acks=all can do to our messages, and what it cannot:

    can      accept a message and let the answer get lost; the client asks again, the broker knows its number, and it
             stands in the log once, later
    can      take a message of a dead or frozen process that was already on its way, after its successor's
    can      be away for minutes; nothing is written meanwhile, and clients wait
    can      fail a producer for good (an epoch that is not valid any more), with what was on its way in the log or not;
             nothing that it queued behind is written
    cannot   write one producer's messages of a partition twice, in another order, or with one left out in the middle
    cannot   lose a message that it confirmed

So in the log, repeats and jumps back come only from several producers: one per process and stage, and any of them may
be a zombie. One thing librdkafka *does* do, unless told never to give a message up (`delivery.timeout.ms`): it drops
messages one by one as they grow old, and those behind them are written. `GivesUp` has that fault.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from runtime.kafka import DELIVERY_TIMEOUT_S, DeliveryError
from schemas.message import Message

BATCH_MAX = 6
"""Messages in one request."""


@dataclass(frozen=True, slots=True)
class Record:
    """A message in the log."""

    offset: int
    key: bytes
    value: bytes
    headers: list
    timestamp_ms: int
    envelope: object = None

    def message(self, topic, partition):
        """As the project's readers see it."""
        return Message(topic, partition, self.offset, self.timestamp_ms, self.key.decode(), self.value, self.envelope)


def record_of(offset, outgoing):
    """The record that a message becomes."""
    return Record(
        offset,
        outgoing.instrument.encode(),
        outgoing.value,
        outgoing.envelope.to_headers(),
        outgoing.timestamp_ms,
        outgoing.envelope,
    )


@dataclass
class Partition:
    """One partition: records by offset; those below `start` are gone."""

    records: list = field(default_factory=list)
    start: int = 0
    waiting: list = field(default_factory=list)

    @property
    def end(self):
        return len(self.records)


class Broker:
    """All topics, and whether anybody answers."""

    def __init__(self, world, partitions):
        self.world, self._partitions = world, partitions
        self.topics = {}
        self._up = None

    def partition(self, topic, number):
        """A partition; topics are made when first used."""
        if topic not in self.topics:
            self.topics[topic] = [Partition() for _ in range(self._partitions)]
        return self.topics[topic][number]

    def append(self, topic, number, record_at):
        """Write one message; `record_at` makes the record of its offset."""
        log = self.partition(topic, number)
        record = record_at(log.end)
        log.records.append(record)
        self.world.oracle.appended(topic, number, record)
        waiting, log.waiting = log.waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def more(self, logs):
        """A future that is done as soon as one of some partitions grows."""
        waiter = asyncio.get_running_loop().create_future()
        for log in logs:
            log.waiting = [known for known in log.waiting if not known.done()]
            log.waiting.append(waiter)
        return waiter

    @property
    def is_up(self):
        return self._up is None

    def set_up(self, up):
        """Stop answering, or answer again."""
        if up and self._up is not None:
            self._up.set_result(None)
            self._up = None
        elif not up and self._up is None:
            self._up = asyncio.get_running_loop().create_future()

    async def up(self):
        """Wait until it answers."""
        while self._up is not None:
            await asyncio.shield(self._up)


class SimProducer:
    """The double of `runtime.kafka.CheckedProducer`: queues by partition, one request of each on its way."""

    def __init__(self, process, broker):
        self._process, self._broker, self._world = process, broker, process.world
        self._queues = {}
        self._sent = self._confirmed = 0
        self._failed = ""
        self._flushing = []

    def send(self, message):
        self._process.step(0.0005)
        self._raise_failed()
        self._sent += 1
        key = message.topic, message.partition
        if key not in self._queues:
            self._queues[key] = deque()
            self._process.spawn(self._pump(key))
        self._queues[key].append((message, self._process.loop.time()))

    def flush(self):
        deadline_s = self._process.loop.time() + DELIVERY_TIMEOUT_S
        self._process.step()
        while self._confirmed < self._sent and not self._failed:
            if self._process.loop.time() >= deadline_s:
                raise DeliveryError("all topics", -1, self._sent - self._confirmed, "no answer")
            self._process.until(self._process.wait(self._change(deadline_s)))
        self._raise_failed()

    def newest(self, topic, partition):
        self._process.step()
        records = self._broker.partition(topic, partition).records
        return max(((r.envelope.seq, r.envelope.part) for r in records), default=None)

    def shown(self, topic, partition):
        self._process.step()
        records = self._broker.partition(topic, partition).records
        return records[-1].envelope.seq - (not records[-1].envelope.last) if records else -1

    def fail(self, why):
        """The client has met an error that stays."""
        self._failed = why
        for queue in self._queues.values():
            queue.clear()
        self._changed()

    def _raise_failed(self):
        if self._failed:
            raise DeliveryError("a topic", 0, self._sent - self._confirmed, self._failed)

    def _change(self, deadline_s):
        future = self._process.loop.create_future()
        self._flushing.append(future)
        self._process.loop.call_at(deadline_s, lambda: future.done() or future.set_result(None))
        return future

    def _changed(self):
        flushing, self._flushing = self._flushing, []
        for future in flushing:
            if not future.done():
                future.set_result(None)

    def _take(self, queue):
        """The next messages to be written together."""
        return [queue.popleft()[0] for _ in range(min(len(queue), self._world.rng.randint(1, BATCH_MAX)))]

    async def _pump(self, key):
        """Write a partition's queue, batch by batch."""
        queue = self._queues[key]
        await self._process.sleep(self._world.rng.random() * 0.004)
        while queue:
            fatal = self._world.strikes("producer")
            batch = self._take(queue)
            answer = self._process.loop.create_future()
            self._world.tally["writes of zombies"] += len(batch) * self._process.is_zombie
            if not fatal or self._world.rng.random() < 0.5:
                self._world.spawn(self._request(key, batch, answer))  # it is on its way whatever becomes of us
            if fatal:
                await self._process.sleep(self._world.rng.random())
                self._world.note(self._process.name, "producer fails")
                self.fail("the broker does not know this producer any more")
                return
            await self._process.wait(answer)
            self._confirmed += len(batch)
            self._changed()
        del self._queues[key]

    async def _request(self, key, batch, answer):
        """The broker's side of a write."""
        rng = self._world.rng
        await asyncio.sleep(rng.random() * (1.5 if rng.random() < 0.03 else 0.006))
        await self._broker.up()
        for message in batch:
            self._broker.append(*key, lambda offset, m=message: record_of(offset, m))
        await asyncio.sleep(
            rng.random() * (1.5 if rng.random() < 0.03 else 0.006)
        )  # or the answer was lost and asked for
        await self._broker.up()
        answer.set_result(None)


class GivesUp(SimProducer):
    """A producer that drops each message when it is too old, as librdkafka does by default."""

    def _take(self, queue):
        while queue and self._process.loop.time() - queue[0][1] > DELIVERY_TIMEOUT_S:
            queue.popleft()
            self._failed = self._failed or "a message timed out"
            self._changed()
        return super()._take(queue)

    async def _pump(self, key):
        await self._process.wait(self._broker.up())  # messages wait in the queue, not on the wire
        await super()._pump(key)
