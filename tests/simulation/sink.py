"""A sink process around the production pipeline, and a target that is slow, refuses, and forgets to answer.

`sinks.runner.SinkRunner` runs as it is, with its batcher, its plans and its progress files: only the Kafka client and
the target are doubles. The target keeps blocks by token, as ClickHouse does within its deduplication window: a repeat
of a token changes nothing. An insert may land although its writer was told otherwise, and it may land late.
"""

import asyncio

from confluent_kafka import OFFSET_BEGINNING

from runtime.object_store import ObjectStore
from sinks.base import StoppedError
from sinks.batcher import Limits
from sinks.lake import LakeSink
from sinks.lake_object import decode_object
from sinks.retry import Backoff
from sinks.runner import SinkRunner
from sinks.tables import TABLES
from tests.simulation.process import Process
from tests.simulation.stores import ProcessStore

IDLE_S = 1.0
"""How long the client waits for messages. Production asks every 50 ms; a slow machine does not."""


class Raw:
    """A message as confluent-kafka gives it."""

    def __init__(self, topic, partition, record):
        self._topic, self._partition, self._record = topic, partition, record

    def error(self):
        return None

    def topic(self):
        return self._topic

    def partition(self):
        return self._partition

    def offset(self):
        return self._record.offset

    def timestamp(self):
        return 1, self._record.timestamp_ms

    def key(self):
        return self._record.key

    def value(self):
        return self._record.value

    def headers(self):
        return list(self._record.headers)


class SimConsumer:
    """The client of a sink: explicit partitions, in order, a few at a time."""

    def __init__(self, process, broker):
        self._process, self._broker = process, broker
        self._next = {}

    def assign(self, partitions):
        for p in partitions:
            low = self._broker.partition(p.topic, p.partition).start
            self._next[p.topic, p.partition] = low if p.offset == OFFSET_BEGINNING else p.offset

    def consume(self, count, timeout):
        process = self._process
        process.step()
        logs = {key: self._broker.partition(*key) for key in self._next}
        if all(self._next[key] >= log.end for key, log in logs.items()):
            future = self._broker.more(logs.values())
            process.loop.call_later(IDLE_S, lambda: future.done() or future.set_result(None))
            process.until(process.wait(future))
        if not self._broker.is_up:
            process.until(process.wait(self._broker.up()))
        out = []
        for key, log in logs.items():
            for record in log.records[self._next[key] : self._next[key] + count - len(out)]:
                out.append(Raw(*key, record))
                self._next[key] += 1
        return out

    def close(self):
        self._next = {}


class Target:
    """A store of blocks by token; judges each as it comes.

    Attributes:
        rows: confirmed rows by lane.
        next_place: what each lane must get next.
    """

    def __init__(self, world):
        self._world = world
        self._blocks = {}
        self.next_place = {
            (table.topic_name("t", "main"), p): (world.manifest.base[p], 0)
            for table in TABLES.values()
            for p in range(world.manifest.partitions)
        }

    def insert(self, token, lane, entries):
        """Take a block, once."""
        if token in self._blocks:
            self._world.tally["sink: repeats"] += 1
            if self._blocks[token] != entries:
                self._world.violated(f"the sink gives {token} another content")
            return
        self._blocks[token] = entries
        key = lane.topic, lane.partition
        for entry in entries:
            if (entry.seq, entry.part) != self.next_place[key]:
                self._world.violated(
                    f"the sink writes {entry.seq}.{entry.part} of {key}, due is {self.next_place[key]}"
                )
            last = entry.message.envelope.last or lane.table.raw
            self.next_place[key] = (entry.seq + 1, 0) if last else (entry.seq, entry.part + 1)
        self._world.note("target", "takes", token)

    def ends(self):
        """Lane → seq after its last, of every lane that something is written to."""
        world = self._world
        served = {world.raw_topic, *world.oracle.outputs}
        return {k: world.manifest.base[k[1]] + world.tape.counts[k[1]] for k in self.next_place if k[0] in served}

    def missing(self):
        """Lanes that are not complete."""
        short = {key: self.next_place[key] for key, end in self.ends().items() if self.next_place[key] != (end, 0)}
        return [f"the sink is at {place} of {key}" for key, place in short.items()]


class TableSink:
    """What `sinks.clickhouse` does, to a target in memory: insert, and again until it is confirmed."""

    name = "table"

    def __init__(self, process, target, limits):
        self._process, self._target, self.limits, self._world = process, target, limits, process.world

    def open(self, stop):
        return "identity"

    def write(self, batch, stop):
        backoff = Backoff()
        block = batch.token, batch.lane, list(batch.entries)
        while not self._insert(block):
            if stop.wait(backoff.next_s()):
                raise StoppedError

    def _insert(self, block):
        """One try; whether it was confirmed."""
        self._process.step()
        if self._world.strikes("sink: refused"):
            return False
        if self._world.strikes("sink: unknown"):
            if self._world.rng.random() < 0.7:
                self._world.spawn(self._later(block))
            self._process.until(self._process.sleep(self._world.rng.random() * 2))
            return False
        if self._world.strikes("sink: slow"):
            self._process.until(self._process.sleep(self._world.rng.random() * 5))
        self._target.insert(*block)
        self._process.step()
        return True

    async def _later(self, block):
        await asyncio.sleep(self._world.rng.random() * 4)
        self._target.insert(*block)

    def close(self):
        pass


class Stop:
    """`threading.Event` in virtual time."""

    def __init__(self, process):
        self._process, self._set = process, False

    def set(self):
        self._set = True

    def is_set(self):
        return self._set

    def wait(self, seconds):
        self._process.until(self._process.sleep(seconds))
        return self._set


class SinkProcess(Process):
    """One life of a sink."""

    sink_class, runner_class = TableSink, SinkRunner

    def __init__(self, world, life):
        super().__init__(world, f"sink.{life}")
        self.stop_event = Stop(self)
        limits = Limits(rows=world.rng.choice((5, 20, 200)), bytes=20_000, age_s=world.rng.choice((0.2, 1.0, 3.0)))
        if world.lake is None:
            sink = self.sink_class(self, world.target, limits)
        else:
            lake: ObjectStore = ProcessStore(self, world.lake)
            sink = LakeSink(lake, limits)
        state = ProcessStore(self, world.sink_disk, world.folder)
        runner = self.runner_class(
            sink, world.manifest, "main", "", state, self, lambda _: SimConsumer(self, world.broker)
        )
        self.spawn(self._serve(runner))

    async def _serve(self, runner):
        await self.sleep(self.world.rng.random())
        await self.thread()(runner.run, self.stop_event, None)
        self.kill("stopped")

    async def fails(self, error):
        self.world.oracle.failed(self, error)
        await super().fails(error)


async def supervise_sink(world):
    """Keep a sink running."""
    life = 0
    while True:
        life += 1
        world.sink = world.sink_class(world, life)
        await world.sink.exited
        await world.sleep(1.0)


def lake_into(target, world):
    """Show a target what the objects of a lake hold, in the order of their names."""
    for name in world.lake.names(""):
        if not name.endswith(".parquet"):
            continue
        topic, _, number, _ = name.split("/")
        table = next(t for t in TABLES.values() if t.topic_name("t", "main") == topic)
        entries = list(decode_object(world.lake.objects[name], table, topic, int(number)))
        lane = _Seen(topic, int(number), table)
        target.insert(name, lane, entries)


class _Seen:
    """As much of a lane as the target looks at."""

    def __init__(self, topic, partition, table):
        self.topic, self.partition, self.table = topic, partition, table
