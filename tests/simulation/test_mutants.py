"""The simulator can fail: each rule of the production code, when it is broken on purpose, is missed within some seeds.

A mutant is a subclass of production code with one thing left out or done in the wrong order. If the simulator runs many
seeds of a mutant without a word, it is the simulator that is broken.
"""

from dataclasses import replace

import pytest

from sinks.base import Batch
from sinks.runner import SinkRunner
from streams import shell as shell_module
from streams.checkpoints import CheckpointStore
from streams.partition import PartitionState
from streams.shell import StageShell
from streams.worker import StageStores
from tests.simulation.log import GivesUp, SimProducer
from tests.simulation.sink import SinkProcess
from tests.simulation.worker import Client, Worker
from tests.simulation.world import Violation, World

SEEDS = 60
"""Seeds within which a mutant must be caught; most are in the first five."""


def caught(seeds=SEEDS, **mutant):
    """What the first seed that catches a mutant says."""
    for seed in range(seeds):
        try:
            World(seed, **mutant).run()
        except Violation as violation:
            return str(violation)
    pytest.fail(f"{seeds} seeds and not a word")


def worker(**classes):
    """A worker with other classes inside."""
    return type("Mutant", (Worker,), {f"{name}_class": one for name, one in classes.items()})


def stores(**methods):
    """A worker whose checkpoint store has other methods."""
    store = type("MutantStore", (CheckpointStore,), methods)

    class Stores(StageStores):
        def __init__(self, objects, below):
            super().__init__(objects, below)
            self.checkpoints = store(objects, f"checkpoints/{below}")

    return worker(stores=Stores)


class AcknowledgesFirst(StageShell):
    async def checkpoint(self, owned):
        for delivery in owned.held:
            self._source.acknowledge(delivery)
        await super().checkpoint(owned)


class StoresHalfARoot(StageShell):
    async def checkpoint(self, owned):
        owned.whole = True
        await super().checkpoint(owned)


class TriesSideBySide(StageShell):
    """Careful partitions try their messages at the same time, so a death is blamed on all of them."""

    async def take(self, delivery):
        if owned := self._owned.get(delivery.partition):
            async with owned.lock:
                if owned.generation == self._generation:
                    await self._take(owned, delivery)


class KnowsNoGeneration(StageShell):
    async def take(self, delivery):
        if owned := self._owned.get(delivery.partition):
            async with owned.lock:
                await self._take(owned, delivery)

    async def checkpoint(self, owned):
        owned.generation = self._generation
        await super().checkpoint(owned)


class NeverFlushes(SimProducer):
    def flush(self):
        self._process.step()


class KnowsNoOutputs(SimProducer):
    def newest(self, topic, partition):
        self._process.step()


class NeverSeeks(Client):
    """The consumer stays where its fetcher got to when the offset to seek to is 0."""

    def seek(self, starts):
        return {number: offset or self.world.rng.randint(1, 3) for number, offset in starts.items()}


class NoWatchdog(Worker):
    async def _watch(self):
        pass


class AdvancesFirst(SinkRunner):
    def _write(self, state, store, stop):
        place = state.sequence.next_seq, state.sequence.next_part
        store.save(state.lane, state.progress.after(Batch(state.lane, tuple(state.entries)), place))
        super()._write(state, store, stop)


class PlansNothing(SinkRunner):
    def _state_of(self, lane, store):
        state = super()._state_of(lane, store)
        state.progress = replace(state.progress, plan=None)
        return state


def sink(runner):
    """A sink process with another runner."""
    return type("MutantSink", (SinkProcess,), {"runner_class": runner})


def test_input_acknowledged_before_the_checkpoint():
    assert "no checkpoint holds" in caught(worker_class=worker(shell=AcknowledgesFirst), only=())


def test_state_stored_before_its_outputs_are_confirmed():
    assert "ends before" in caught(worker_class=worker(producer=NeverFlushes), only=("kill",))


def test_state_stored_in_the_middle_of_a_root():
    assert "seed" in caught(worker_class=worker(shell=StoresHalfARoot), only=("kill", "stop", "raises"))


def test_a_start_that_is_not_sought():
    assert "not done" in caught(worker_class=worker(client=NeverSeeks), only=())


def test_an_agent_that_died_and_nobody_watches():
    assert "not done" in caught(worker_class=NoWatchdog, only=("dead agent",))


def test_a_producer_that_gives_messages_up_one_by_one():
    assert "hole" in caught(worker_class=worker(producer=GivesUp), only=("long_outage",), pace_s=1.0)


def test_poison_that_was_applied_before_stays_and_is_never_skipped():
    """Production refuses, and stays down; a worker that does not look at the outputs writes a second truth."""
    only = ("turns", "kill", "stop")
    production = [violation_of(seed, only=only) for seed in range(12)]
    assert all(not wrong or "not done" in wrong for wrong in production)
    assert any(production)
    mutant = worker(producer=KnowsNoOutputs)
    assert any("innocent" in (violation_of(seed, only=only, worker_class=mutant) or "") for seed in range(12))


def violation_of(seed, **options):
    try:
        World(seed, **options).run()
    except Violation as violation:
        return str(violation)
    return ""


def test_work_of_an_older_generation_is_harmless():
    """No mutant to be caught: whoever does not know that it lost a partition writes the same bytes as its heir.

    The shell looks at the generation to save work; that outputs are a function of the input alone is what protects.
    """
    only = ("pause", "shake", "more", "left over", "again", "slow_disk")
    assert not any(violation_of(seed, only=only, worker_class=worker(shell=KnowsNoGeneration)) for seed in range(25))


def test_innocent_messages_that_are_blamed_for_the_death_of_their_process():
    wrong = caught(worker_class=worker(shell=TriesSideBySide), only=("kills",))
    assert "innocent" in wrong or "not done" in wrong


def test_repeats_that_are_applied_again(monkeypatch):
    monkeypatch.setattr(PartitionState, "is_repeat", lambda self, message: False)
    monkeypatch.setattr("tests.simulation.oracle._EXPECTED", {})
    assert "not what it must be" in caught(only=("again", "kill"))


def test_a_skip_without_its_letter(monkeypatch):
    monkeypatch.setattr(shell_module, "letters", lambda *_: [])
    assert "no letter" in caught(only=("raises",))


def test_a_damaged_state_that_is_believed():
    def believes(self, partition, name):
        checkpoint = self._read_manifest(name)
        if checkpoint is None:
            return None
        return checkpoint, {i: self._store.get(self._piece(partition, d)) for i, d in checkpoint.pieces.items()}

    assert "seed" in caught(worker_class=stores(_read=believes), only=("damage",))


def test_a_damaged_piece_that_is_never_written_again():
    def only_if_absent(self, name, data):
        self._store.put_new(name, data)

    assert "still damaged" in caught(worker_class=stores(_put=only_if_absent), only=("damage",))


def test_a_sink_that_advances_before_the_target_confirms():
    assert "sink" in caught(sink_class=sink(AdvancesFirst), only=("kill_sink", "sink: unknown"))


def test_a_sink_that_forgets_what_it_was_about_to_write():
    assert "sink" in caught(sink_class=sink(PlansNothing), only=("kill_sink", "sink: unknown"))
