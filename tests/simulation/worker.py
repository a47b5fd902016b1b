"""A worker process: what `streams.worker`, `streams.faust_stage` and Faust do around the production shells.

From the group's side: join, load states, deliver, beat; give everything back when the group says so, and join again.
From the shell's: one actor per partition takes messages in order, a timer ticks, acknowledged offsets are committed
once a second, and a watchdog looks. As under Faust, a rebalance may cancel an actor in the middle of a message, what
was buffered before an assignment may come once more before the seek takes effect, and a failure in any of these ends
the process, with or without a last word.
"""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

from runtime.errors import BarographError
from runtime.lag import Sample
from streams.shell import StageShell
from streams.watch import LOOK_EVERY_S, Watched
from streams.worker import StageStores
from tests.simulation.group import HEARTBEAT_S
from tests.simulation.log import SimProducer
from tests.simulation.poison import PoisonedReducer
from tests.simulation.process import Process
from tests.simulation.stores import ProcessStore

TICK_S = 1.0
COMMIT_S = 2.0
"""Both longer than in production, where they are 0.25 s and 1 s: what a seed costs is the number of its steps."""

BUFFERED_MAX = 4
"""Messages from before an assignment that may still come."""

FETCHED_MAX = 8
"""Messages that the client holds in advance."""


class Client:
    """A shell's `Input`: delivers one topic, and keeps what was acknowledged."""

    def __init__(self, worker, broker, topic):
        self._worker, self._broker, self.topic, self.world = worker, broker, topic, worker.world
        self.acknowledged = {}
        self._actors, self._positions = [], {}
        self.shell = None

    async def log_starts(self, partitions):
        await self._worker.sleep(self.world.rng.random() * 0.01)
        await self._worker.wait(self._broker.up())
        return {number: self._broker.partition(self.topic, number).start for number in partitions}

    def acknowledge(self, delivery):
        self._worker.check()
        self.world.oracle.acknowledged(self.topic, delivery.partition, delivery.offset)
        self.acknowledged[delivery.partition] = delivery.offset + 1

    def start(self, starts):
        """Deliver from these offsets on."""
        for number, offset in self.seek(starts).items():
            self._actors.append(self._worker.spawn(self._act(number, offset)))

    def seek(self, starts):
        """Partition → where delivery really starts."""
        return dict(starts)

    def stop(self):
        """Deliver no more; an actor in the middle of a message is left there, or has ended by itself."""
        for actor in self._actors:
            actor.cancel()
        self._actors = []

    async def _act(self, number, start):
        """One partition's actor."""
        position = start
        if self.world.strikes("left over"):
            position = max(0, self._positions.get(number, start) + self.world.rng.randint(-BUFFERED_MAX, BUFFERED_MAX))
            for _ in range(self.world.rng.randint(1, BUFFERED_MAX)):
                if not await self._deliver(number, position):
                    break
                position += 1
            position = start
        log, fetched = self._broker.partition(self.topic, number), 0
        while True:
            if position >= log.end:
                await self._worker.wait(self._broker.more([log]))
            if position >= fetched:
                await self._worker.wait(self._broker.up())
                fetched = min(log.end, position + FETCHED_MAX)  # these come also while the broker is away
            if self.world.strikes("dead agent"):
                self.world.note(self._worker.name, "agent of", self.topic, number, "is silent")
                await self._worker.wait(self._worker.loop.create_future())
            await self._worker.sleep(self.world.rng.random() * self.world.pace_s)
            await self._deliver(number, position)
            position += 1
            self._positions[number] = position
            if self.world.strikes("again"):
                position = max(start, position - self.world.rng.randint(1, 5))
            elif self.world.strikes("drop"):
                position += 1

    async def _deliver(self, number, position):
        log = self._broker.partition(self.topic, number)
        if not log.start <= position < log.end:
            return False
        record = log.records[position]
        delivery = SimpleNamespace(
            topic=self.topic, partition=number, offset=position, timestamp=record.timestamp_ms / 1000,
            key=record.key, value=record.value, headers=list(record.headers),
        )  # fmt: skip
        self.world.note(self._worker.name, "gets", self.topic, number, position)
        await self.shell.take(delivery)
        return True


class Worker(Process):
    """One worker of a slot, from start to end."""

    producer_class, client_class, stores_class, shell_class = SimProducer, Client, StageStores, StageShell

    def __init__(self, world, slot, life):
        super().__init__(world, f"{slot}.{life}")
        self.slot = slot
        self._broker, self._group = world.broker, world.group
        self._generation, self._assignment = -1, 0
        self._looks = {}
        store = ProcessStore(self, world.disk)
        self.producers, self._clients = [], []
        alone = asyncio.Lock()
        for stage in world.stages:
            name, tape = stage.name, world.manifest
            own = replace(stage, reducer=lambda s=stage: PoisonedReducer(s.reducer(), s.name, self))
            client = self.client_class(self, self._broker, stage.source.name(tape.tape, "main"))
            producer = self.producer_class(self, self._broker)
            stores = self.stores_class(store, f"{tape.tape_id}/main/{name}")
            client.shell = self.shell_class(
                own, tape, "main", client, producer, stores, self, world.timing, self.thread(), self.thread(), alone
            )
            self.producers.append(producer)
            self._clients.append(client)
        self.spawn(self._live())

    # -- life --------------------------------------------------------------------------------------------------------

    async def _live(self):
        await self.sleep(0.5 + self.world.rng.random())
        if not self._broker.is_up:
            raise BarographError("no Kafka broker answers")
        self.world.note(self.name, "begins")
        for client in self._clients:
            self.spawn(self._tick(client.shell))
        self.spawn(self._commit_now_and_then())
        self.spawn(self._watch())
        while True:
            self._generation, mine = await self.wait(self._group.join(self.slot, self))
            self._assignment += 1
            self.spawn(self._assigned(self._assignment, mine))
            while True:
                await self.sleep(HEARTBEAT_S * (0.8 + 0.2 * self.world.rng.random()))
                await self.sleep(self.world.rng.random() * 0.5)  # who wakes up works on until the answer comes
                await self.wait(self._broker.up())
                answer = self._group.heartbeat(self.slot, self, self._generation)
                if answer != "ok":
                    break
            self.world.note(self.name, "is told", answer)
            await self._leave()
            if self.world.rng.random() < 0.5:
                await self._commit()

    async def stop(self, *, says_so):
        """SIGTERM: store what was done, then end; with or without telling the group."""
        try:
            await self._leave()
            await self._commit()
            if says_so:
                self._group.leave(self.slot, self)
        finally:
            self.kill("stopped")

    async def fails(self, error):
        """An exception escaped: the app crashes, and may or may not get round to its last words."""
        self.world.tally["workers failed"] += 1
        self.world.note(self.name, "fails", type(error).__name__, error)
        self.world.oracle.failed(self, error)
        if self.world.rng.random() < 0.5:
            try:
                await self._leave()
            except Exception as worse:
                self.world.note(self.name, "fails again", worse)
        await self.sleep(self.world.rng.random() * 2)  # an app takes a while to stop, and its producers go on
        self.kill(f"{type(error).__name__}")

    async def _leave(self):
        """Partitions go away: before or after the actors stop, and all shells in turn."""
        self._assignment += 1
        stop_first = self.world.rng.random() < 0.5
        for client in self._clients:
            if stop_first:
                client.stop()
            await client.shell.leaving()
            client.stop()

    async def _assigned(self, assignment, mine):
        for client in self._clients:
            starts = await client.shell.assigned(mine)
            if assignment != self._assignment:
                return
            offsets = {(client.topic, number): offset for number, offset in starts.items()}
            client.acknowledged = {}
            self._group.commit(self.slot, self, self._generation, offsets)
            client.start(starts)

    @property
    def is_zombie(self):
        """Whether it works on although the group has given its partitions away."""
        return self._generation != -1 and not self._group.is_current(self.slot, self, self._generation)

    # -- timers ------------------------------------------------------------------------------------------------------

    async def _tick(self, shell):
        while True:
            await self.sleep(TICK_S)
            await shell.tick()

    async def _commit_now_and_then(self):
        while True:
            await self.sleep(COMMIT_S)
            if any(client.acknowledged for client in self._clients):
                await self.wait(self._broker.up())
                await self._commit()

    async def _commit(self):
        self.check()
        for client in self._clients:
            offsets = {(client.topic, number): offset for number, offset in client.acknowledged.items()}
            client.acknowledged = {}
            if offsets and not self._group.commit(self.slot, self, self._generation, offsets):
                self.world.note(self.name, "may not commit any more")
                self.world.tally["commits refused"] += 1

    async def _watch(self):
        """`streams.watch.Watch` without its thread and its client."""
        while True:
            await self.sleep(LOOK_EVERY_S)
            if not self._broker.is_up:
                self._looks.clear()
                continue
            for client in self._clients:
                for owned in client.shell.owned():
                    end = self._broker.partition(client.topic, owned.partition).end
                    watched = self._looks.setdefault((client.topic, owned.partition), Watched())
                    watched.add(Sample(self.monotonic_s(), end, owned.taken + 1))
                    if watched.stalled(self.monotonic_s(), owned.moved_s):
                        self.world.tally["ended by the watchdog"] += 1
                        self.kill("the watchdog: it stands still")


class Slot:
    """A worker slot with its supervisor: whatever ends is started again with back-off, while it is wanted."""

    BACKOFF_MAX_S = 4.0

    def __init__(self, world, name, worker_class):
        self._world, self.name, self._class = world, name, worker_class
        self.process, self._life, self._wanted = None, 0, None
        self._backoff_s = 0.5

    async def supervise(self):
        """Keep a worker running."""
        while True:
            if self._wanted is not None:
                await self._wanted
            began_s = self._world.loop.time()
            self._life += 1
            self.process = self._class(self._world, self.name, self._life)
            await self.process.exited
            lived_s = self._world.loop.time() - began_s
            self._backoff_s = 0.5 if lived_s > 10 else min(self.BACKOFF_MAX_S, self._backoff_s * 2)
            await self._world.sleep(self._backoff_s)

    @property
    def running(self):
        """The worker, if one runs."""
        return self.process if self.process is not None and self.process.alive else None

    def park(self):
        """Start no other one when this one has ended."""
        self._wanted = self._wanted or self._world.loop.create_future()

    def want(self):
        """Start one if none runs."""
        if self._wanted is not None:
            self._wanted.set_result(None)
            self._wanted = None
