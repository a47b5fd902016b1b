"""A world of one seed: tape, log, disk, group, workers, sink, faults, and the oracle that watches them.

    world = World(seed)
    world.run()               raises Violation with the command that repeats it

The first part of a run is for safety: faults strike while the tape is published, and no rule of the oracle may break at
any moment. Then faults stop, and liveness is asked: within `BOUND_S` everything must be done, without anybody's help.
"""

import asyncio
import hashlib
import logging
import random
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from streams import partition
from streams.build_bars import bars_stage
from streams.build_books import books_stage
from streams.shell import Timing
from tests.simulation import faults
from tests.simulation.group import Group
from tests.simulation.log import Broker
from tests.simulation.loop import StuckError, VirtualLoop
from tests.simulation.oracle import Oracle
from tests.simulation.poison import KILLS, RAISES, STUMBLES, TURNS
from tests.simulation.sink import SinkProcess, Target, lake_into, supervise_sink
from tests.simulation.stores import Disk
from tests.simulation.tape import CONFIG, TOPIC, VARIANTS, tape
from tests.simulation.worker import Slot, Worker

BOUND_S = 120.0
"""How long everything may take to be done once faults have stopped."""

POISON_BOUND_S = 240.0
"""The same where a message kills its process: ten deaths and their restarts come first."""

PART_ROWS = 3
"""Rows of a part: so few that ordinary roots have several."""

STAGES = {"books": books_stage(CONFIG), "bars": bars_stage(CONFIG)}


class Violation(AssertionError):
    """A rule was broken."""


class World:
    """One run.

    Args:
        seed: what decides everything.
        worker_class, sink_class: processes to run; tests put faults into subclasses.
        only: names of faults to draw from, all by default; those with a rate then always strike.
        pace_s: how long a worker takes for a message at most; drawn by default.
        trace: whether to keep what happens in `trace`.
    """

    def __init__(self, seed, *, worker_class=Worker, sink_class=SinkProcess, only=None, pace_s=None, trace=False):
        self._pace_s = pace_s
        self.seed, self.worker_class, self.sink_class, self._only = seed, worker_class, sink_class, only
        self.rng = random.Random(seed)
        self.tally, self.trace, self._tracing = Counter(), [], trace
        self._digest = hashlib.sha256()
        self.faulty, self.violation, self.refusal = True, "", None
        self.rates, self.poison = {}, {}
        self.disk, self.sink_disk, self.lake, self.sink = Disk(), Disk(), None, None
        self.raw_topic = TOPIC

    # -- what parts of the world ask ---------------------------------------------------------------------------------

    def note(self, *words):
        """Something happened."""
        line = (round(self.loop.time(), 6), *words)
        self._digest.update(repr(line).encode())
        if self._tracing:
            self.trace.append(line)

    @property
    def digest(self):
        """Hash of everything that happened."""
        return self._digest.hexdigest()

    def violated(self, what):
        """A rule is broken: the run ends here."""
        self.note("VIOLATION", what)
        if not self.violation:
            self.violation = what
            self._end()

    def refused(self, error):
        """A stage refuses to go on, because its input has left the log; right only if that is so."""
        self.refusal = error
        self.tally["refused"] += 1
        below = next(stage.name for stage in self.stages if stage.source.name("t", "main") == error.topic)
        if (below, error.partition) not in self.oracle.damaged:
            self.violated(f"an undamaged state is refused: {error}")
        elif error.last != self.broker.partition(error.topic, error.partition).start - 1:
            self.violated(f"the missing range is wrong: {error}")
        self._end()

    def _end(self):
        if not self.over.done():
            self.over.set_result(None)

    def strikes(self, kind):
        """Whether a fault with a rate strikes now."""
        rate = self.rates.get(kind, 0.0) if self.faulty else 0.0
        if rate and self.rng.random() < rate:
            self.tally[kind] += 1
            self.note("fault", kind)
            return True
        return False

    def seq_of(self, message):
        """Number of the root of an input message."""
        if message.topic == self.raw_topic:
            return message.offset + self.manifest.base[message.partition]
        return message.envelope.seq

    def spawn(self, coroutine):
        """Run something that belongs to no process."""
        task = self.loop.create_task(coroutine)
        self._tasks.append(task)
        return task

    async def sleep(self, seconds):
        """Time passes."""
        await asyncio.sleep(seconds)

    # -- a run -------------------------------------------------------------------------------------------------------

    def run(self):
        """From the first message to the end.

        Raises:
            Violation: a rule was broken.
        """
        self.loop = VirtualLoop()
        self._tasks = []
        with _small_parts(), _quiet(), tempfile.TemporaryDirectory(prefix="simulation-") as folder:
            self.folder = Path(folder)
            self.loop.set_exception_handler(self._lost)
            try:
                self.loop.run_until_complete(self._main())
            except StuckError as error:
                self.violation = self.violation or str(error)
            finally:
                self._clear()
        if self.violation:
            raise Violation(f"seed {self.seed}: {self.violation}\n  again: {self.command}")
        return self

    @property
    def command(self):
        """What repeats this run."""
        return f"python -m tests.simulation.run --seed {self.seed} --trace"

    async def _main(self):
        self.over = self.loop.create_future()
        self._draw()
        self.spawn(self.group.watch_sessions(self.broker))
        for slot in self.slots:
            self.spawn(slot.supervise())
        if self._with_sink:
            self.spawn(supervise_sink(self))
        story = self.spawn(self._story())
        await asyncio.wait([story, self.over], return_when=asyncio.FIRST_COMPLETED)
        if story.done() and not story.cancelled() and story.exception():
            raise story.exception()

    def _draw(self):
        """Everything that the seed decides beforehand."""
        rng = self.rng
        self.tape = tape(rng.randrange(VARIANTS))
        self.manifest = self.tape.manifest
        self.stages = [STAGES["books"]] if rng.random() < 0.4 else list(STAGES.values())
        self.timing = Timing(rng.choice((0.2, 1.0, 3.0)), rng.choice((2.0, 10.0, 30.0)))
        pace_s = rng.choice((0.01, 0.01, 0.01, 1.0))
        self.pace_s = self._pace_s or pace_s
        self.oracle = Oracle(self)
        self.broker, self.group = Broker(self, self.manifest.partitions), Group(self, self.manifest.partitions)
        self.target = Target(self)
        self._with_sink = rng.random() < 0.6
        self.lake = Disk() if rng.random() < 0.04 else None
        self._draw_poison()
        known = [fault for fault in faults.FAULTS if self._only is None or fault.__name__ in self._only]
        chosen = rng.choices(known, [faults.FAULTS[fault] for fault in known], k=rng.randint(1, 6)) if known else []
        if rng.random() < 0.01 if self._only is None else "long_outage" in self._only:
            chosen.append(faults.long_outage)
        self.pause_s = rng.choice((0.05, 0.5, 1.5))
        while_s = len(self.tape.messages) * self.pause_s / 2 + 4
        self.chosen = [(1 + rng.random() * while_s, fault) for fault in chosen]
        for kind, rate in faults.RATES.items():
            if kind in self._only if self._only is not None else rng.random() < 0.25:
                self.rates[kind] = rate
        self.first_slots = rng.randint(1, 3)
        self.slots = [Slot(self, f"w{number}", self.worker_class) for number in range(self.first_slots)]

    def _draw_poison(self):
        rng = self.rng
        for plan, chance in ((RAISES, 0.12), (KILLS, 0.02), (STUMBLES, 0.1), (TURNS, 0.0)):
            if rng.random() >= chance if self._only is None else plan not in self._only:
                continue
            number = rng.randrange(self.manifest.partitions)
            seq = self.manifest.base[number] + rng.randrange(self.tape.counts[number])
            times = 1 if plan == TURNS else rng.randint(1, 2)
            self.poison[rng.choice(self.stages).name, number, seq] = plan, times

    async def _story(self):
        """Publish, let faults strike, then ask whether everything comes to its end."""
        feed = self.spawn(self._publish())
        running = [self.spawn(self._strike(at_s, fault)) for at_s, fault in self.chosen]
        await feed
        for fault in running:
            await fault
        await self.sleep(self.rng.random() * 5)
        faults.calm(self)
        self.note("faults stop")
        await self._until_done()
        if self.oracle.damaged:
            await self._again()
        if self.lake is not None and self._with_sink:
            lake_into(self.target, self)
        self.oracle.check_letters()

    async def _until_done(self):
        poisoned = any(plan == KILLS for plan, _ in self.poison.values())
        deadline_s = self.loop.time() + (POISON_BOUND_S if poisoned else BOUND_S)
        while missing := self._missing():
            if self.loop.time() > deadline_s:
                self.violated(f"not done after {deadline_s:.0f} s: {missing[0]}, {len(missing) - 1} more")
                return
            await self.sleep(1.0)

    def _missing(self):
        missing = self.oracle.missing()
        if self._with_sink and self.lake is None:
            missing += self.target.missing()
        elif self._with_sink:
            missing += self._not_in_lake()
        return missing

    def _not_in_lake(self):
        ends = {}
        for name in self.lake.names():
            words = name.split("/")
            if len(words) == 4:
                ends[words[0], int(words[2])] = int(words[3].split("-")[1].split(".")[0]) + 1
        short = [f"the lake is at {ends.get(k)} of {k}" for k, end in self.target.ends().items() if ends.get(k) != end]
        return short

    async def _again(self):
        """After damage: all workers start again, and what they store then can be read."""
        for slot in self.slots:
            if slot.running:
                slot.running.kill("started again")
        await self.sleep(5)
        await self._until_done()
        await self.sleep(max(self.timing.max_s, 10) + 5)
        for stage in self.stages:
            for number in range(self.manifest.partitions):
                if not self.oracle.newest_is_good(stage, number):
                    self.violated(f"the newest checkpoint of {stage.name}[{number}] is still damaged")

    async def _strike(self, at_s, fault):
        await self.sleep(at_s)
        self.tally[fault.__name__] += 1
        self.note("fault", fault.__name__)
        await fault(self)

    async def _publish(self):
        """The connector: not what is tested here, so it simply waits while the broker is away."""
        for number, record in self.tape.messages:
            await self.sleep(self.rng.random() * self.pause_s)
            await self.broker.up()
            self.broker.append(self.raw_topic, number, lambda _, r=record: r)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _lost(self, _loop, context):
        error = context.get("exception")
        self.violation = self.violation or f"{context['message']}: {error!r}"

    def _clear(self):
        """End every process and task, so that nothing of this world outlives it."""
        for process in [slot.process for slot in getattr(self, "slots", ())] + [self.sink]:
            if process is not None:
                process.kill("the end")
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        if left:
            self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self.loop.close()


@contextmanager
def _small_parts():
    known, partition.PART_ROWS_MAX = partition.PART_ROWS_MAX, PART_ROWS
    try:
        yield
    finally:
        partition.PART_ROWS_MAX = known


@contextmanager
def _quiet():
    known = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(known)
