"""Everything that goes wrong, one function each. A seed draws some of them and when.

Faults that last are undone by `calm`: after it nothing goes wrong any more, and whatever was begun must come to its end
without anybody's help. What strikes message by message has a rate instead of a moment (`RATES`).
"""

from runtime.kafka import DELIVERY_TIMEOUT_S
from sinks.progress import progress_from_json
from tests.simulation.worker import Slot

RATES = {
    "again": 0.1,  # the client goes back a few messages: duplicates
    "drop": 0.02,  # the client leaves a message out
    "left over": 0.3,  # an assignment begins with messages from before the seek
    "dead agent": 0.01,  # an actor takes no more, without a word
    "producer": 0.02,  # a producer fails for good, its last request written or not
    "sink: refused": 0.15,
    "sink: unknown": 0.1,  # no answer; the insert lands now, later, or never
    "sink: slow": 0.1,
}


def _some_worker(world):
    running = [slot.running for slot in world.slots if slot.running]
    return world.rng.choice(running) if running else None


def _at_some_step(world, process, action):
    """Do it in the middle of something if there is work, else within two seconds."""
    process.arm(world.rng.randint(1, 60), action)
    world.loop.call_later(world.rng.random() * 2, lambda: process.arm(0, action))


async def kill(world):
    """kill -9 between any two steps of a worker."""
    if process := _some_worker(world):
        _at_some_step(world, process, lambda: process.kill("killed"))
        await world.sleep(3)
        process.kill("killed")


async def pause(world):
    """SIGSTOP at any step, SIGCONT after up to 25 s: within the session, or long after it."""
    if process := _some_worker(world):
        frozen = []
        _at_some_step(world, process, lambda: frozen or (world.faulty and (frozen.append(1), process.freeze())))
        await world.sleep(world.rng.random() * 25)
        process.thaw()


async def stop(world):
    """A worker is stopped in order; its slot stays empty for a while."""
    if process := _some_worker(world):
        slot = next(slot for slot in world.slots if slot.process is process)
        slot.park()
        process.spawn(process.stop(says_so=world.rng.random() < 0.5))
        await world.sleep(world.rng.random() * 15)
        slot.want()


async def more(world):
    """Another worker joins, and is gone again after a while: 1 → 2 → 1."""
    slot = Slot(world, f"w{len(world.slots)}", world.worker_class)
    world.slots.append(slot)
    world.spawn(slot.supervise())
    await world.sleep(5 + world.rng.random() * 15)
    slot.park()
    if process := slot.running:
        process.spawn(process.stop(says_so=True))
        await world.sleep(5)
        process.kill("killed")


async def shake(world):
    """The coordinator asks everybody to join again, several times in a row: a storm of rebalances."""
    for _ in range(world.rng.randint(1, 4)):
        if world.group.members:
            world.group.shake()
        await world.sleep(world.rng.random() * 4)


async def outage(world):
    """The broker is away for a while."""
    world.broker.set_up(False)
    await world.sleep(world.rng.random() * 20)
    world.broker.set_up(True)


async def long_outage(world):
    """The broker is away for about as long as anybody waits for a confirmation, or for longer."""
    world.broker.set_up(False)
    await world.sleep(DELIVERY_TIMEOUT_S + world.rng.choice((8, 60)) * (world.rng.random() - 0.2))
    world.broker.set_up(True)


async def full_disk(world):
    """No room for checkpoints, skips, notes and the progress of sinks."""
    world.disk.full = world.sink_disk.full = True
    await world.sleep(world.rng.random() * 10)
    world.disk.full = world.sink_disk.full = False


async def slow_disk(world):
    """Each operation of the store takes half a second."""
    world.disk.slow_s = 0.5
    await world.sleep(world.rng.random() * 10)
    world.disk.slow_s = 0.0


async def damage(world):
    """Something of the checkpoints is altered, cut off, or gone: a manifest, a piece, or a whole folder."""
    names = world.disk.names("checkpoints/")
    if not names:
        return
    name = world.rng.choice(names)
    words = name.split("/")
    world.oracle.damaged.add((words[3], int(words[4])))
    way, data = world.rng.randrange(4), world.disk.objects[name]
    if way == 0:
        at = world.rng.randrange(len(data))
        world.disk.objects[name] = data[:at] + bytes([data[at] ^ (1 << world.rng.randrange(8))]) + data[at + 1 :]
    elif way == 1:
        world.disk.objects[name] = data[: world.rng.randrange(len(data))]
    elif way == 2:
        del world.disk.objects[name]
    else:
        for lost in world.disk.names("/".join(words[:5])):
            del world.disk.objects[lost]
        attempts = f"attempts/{'/'.join(words[1:5])}.json"
        world.disk.objects.pop(attempts, None)
    world.note("disk", "damages", name, way)
    if process := _some_worker(world):  # so that somebody reads it
        process.kill("killed")


def _noted_by_sink(world, partition):
    """The raw message that the sink goes on with, as its progress file says: its target may be further."""
    name = f"/-/mbo-{partition:05d}.json"
    found = [data for path, data in world.sink_disk.objects.items() if path.endswith(name)]
    return progress_from_json(found[0]).seq if found else world.manifest.base[partition]


async def trim(world):
    """The log loses what every kept checkpoint and every sink has behind it."""
    for stage in world.stages:
        topic = stage.source.name("t", "main")
        for partition in range(world.manifest.partitions):
            below = f"checkpoints/{world.manifest.tape_id}/main/{stage.name}/{partition}/manifests/"
            kept = [int(name.removeprefix(below).removesuffix(".json")) for name in world.disk.names(below)]
            taken = _noted_by_sink(world, partition) - world.manifest.base[partition]
            if not kept or topic != world.raw_topic or world.lake is not None:
                continue
            log = world.broker.partition(topic, partition)
            log.start = max(log.start, min(min(kept) + 1, taken if world.sink is not None else log.end))
            world.note("log", "begins at", topic, partition, log.start)


async def kill_sink(world):
    """kill -9 of the sink at any step."""
    if world.sink is not None:
        process = world.sink
        _at_some_step(world, process, lambda: process.kill("killed"))
        await world.sleep(3)
        process.kill("killed")


async def pause_sink(world):
    """SIGSTOP and SIGCONT of the sink."""
    if world.sink is not None:
        process = world.sink
        _at_some_step(world, process, lambda: world.faulty and process.freeze())
        await world.sleep(world.rng.random() * 15)
        process.thaw()


FAULTS = {
    kill: 6, pause: 5, stop: 2, more: 2, shake: 2, outage: 2, full_disk: 2, slow_disk: 1, damage: 3, trim: 1,
    kill_sink: 3, pause_sink: 1,
}  # fmt: skip
"""Fault → how often it is drawn."""


def calm(world):
    """No more faults: what stands still goes on, what is away comes back."""
    world.faulty = False
    world.broker.set_up(True)
    world.disk.full = world.sink_disk.full = False
    world.disk.slow_s = 0.0
    for slot in world.slots:
        if slot.running:
            slot.running.thaw()
    if world.sink is not None:
        world.sink.thaw()
    for slot in world.slots[: world.first_slots]:
        slot.want()
