"""The faults, and the one course that every run with one takes.

undisturbed result (computed without a broker)
topics ─► workers ─► publisher goes ─► [ strike ─► until every partition shows something new ] × n ─► rest ─► SIGTERM
read everything back ─► equal? lost? twice?
"""

import contextlib
import os
import random
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from connectors.blocks import CutRule
from control.embedded.kafka import EmbeddedKafka
from schemas.message import Outgoing
from schemas.topics import DERIVED, TopicSpec
from tests.integration.chaos.tape import Content, Stream, expected, raw_differences, stored
from tests.integration.chaos.world import World, opened

SESSION_S: Final = 10.0
"""Session time-out of the stages' group: a paused worker loses its partitions after it."""

IN_FLIGHT_S: Final = 0.3
"""What a killed worker had handed to the system may still arrive within this time; it is no sign of life."""

RESERVE: Final = 0.15
"""Share of the load that must be left for a strike, so that every partition has work while it goes on."""

Do = Callable[[World, random.Random], float]
"""Strikes and undoes it; returns for how long nothing could work whatever the product does, s."""


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: what people call it.
        do: strikes.
        workers: slots that run before.
        prepare: changes the world before anything runs.
    """

    name: str
    do: Do
    workers: int = 1
    prepare: Callable[[World], contextlib.AbstractContextManager[None]] = lambda world: contextlib.nullcontext()


def kill_worker(world: World, rng: random.Random) -> float:
    slot = rng.choice(world.workers.slots)
    world.workers.kill(slot)
    world.workers.start(slot)
    return 0


def pause_worker(world: World, rng: random.Random) -> float:
    """Paused beyond its session: others take over; then it wakes up with what it had in hand."""
    slot = rng.choice(world.workers.slots)
    world.workers.signal(slot, signal.SIGSTOP)
    time.sleep(SESSION_S + 2 + 2 * rng.random())
    world.workers.signal(slot, signal.SIGCONT)
    return 0


def one_three_one(world: World, rng: random.Random) -> float:
    """Two workers join, work, and leave in order."""
    others = [slot for slot in range(3) if slot not in world.workers.slots]
    for slot in others:
        before = world.workers.assignments(slot)
        world.workers.start(slot)
        world.until(lambda s=slot, b=before: world.workers.assignments(s) > b, f"slot {slot} owns something")  # type: ignore[misc]
    time.sleep(1 + rng.random())
    for slot in others:
        world.workers.stop(slot)
    return 0


def restart_worker(world: World, rng: random.Random) -> float:
    slot = rng.choice(world.workers.slots)
    world.workers.stop(slot)
    world.workers.start(slot)
    return 0


def kill_broker(world: World, rng: random.Random, down_s: float = 1.0) -> float:
    """Killed, down for a while, started again on the same folder and port; down until it answers again."""
    pid = world.broker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    struck = time.monotonic()
    time.sleep(down_s)
    world.broker.stop()
    world.broker.start()
    return time.monotonic() - struck


def fill_disk(world: World, rng: random.Random) -> float:
    """No room for checkpoints for a while."""
    started = time.monotonic()
    ballast = world.checkpoints / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    time.sleep(6 + 2 * rng.random())
    ballast.unlink()
    return time.monotonic() - started


DISK_BYTES: Final = 64 << 20


@contextmanager
def small_disk(world: World) -> Iterator[None]:
    """The checkpoints lie on a file system of their own; needs the right to mount one."""
    world.checkpoints.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", world.checkpoints], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", world.checkpoints], check=True)


def can_mount() -> bool:
    return os.geteuid() == 0 and os.access("/proc/mounts", os.R_OK)


def in_turn(*all_of: Do) -> Do:
    """One after the other, one at each strike."""
    left = iter(all_of)
    return lambda world, rng: next(left)(world, rng)


NONE: Final = Fault("nothing", lambda world, rng: time.sleep(1) or 0.0)
KILL: Final = Fault("worker kill -9", kill_worker)
KILL_ONE_OF_TWO: Final = Fault("kill -9 of one of two workers", kill_worker, workers=2)
PAUSE: Final = Fault("worker paused beyond its session, then awake", pause_worker, workers=2)
SCALE: Final = Fault("1 → 3 → 1 workers", one_three_one)
RESTART: Final = Fault("worker SIGTERM and start", restart_worker)
BROKER: Final = Fault("broker kill -9, down 1 s", kill_broker)
OUTAGE: Final = Fault("broker down for 5 minutes", partial(kill_broker, down_s=300.0))
DISK: Final = Fault("disk full for checkpoints", fill_disk, prepare=small_disk)


@dataclass
class Outcome:
    """What a run with a fault gave.

    Attributes:
        fault: its name.
        strikes: how often it struck.
        workers: slots before.
        gaps_s: for each strike, the longest silence of the partition that was silent longest, less the time in which
            nothing could work.
        down_s: for each strike, that time.
        raw, messages, rows: raw messages; messages and rows of all derived topics, without repeats.
        repeats: messages that were written again and are dropped by consumers.
        lost: messages that are missing.
        differs: streams whose rows, books or bytes differ from the undisturbed ones, with what differs.
        left: exit codes of workers that left by themselves.
        publishing: errors after which the publisher went on from the end of the raw topic.
        exits_s: seconds from SIGTERM to exit.
        seconds: duration of it all.
        failure: why the run did not come to its end.
    """

    fault: str
    strikes: int
    workers: int
    gaps_s: list[float] = field(default_factory=list)
    down_s: list[float] = field(default_factory=list)
    raw: int = 0
    messages: int = 0
    rows: int = 0
    repeats: int = 0
    lost: int = 0
    differs: list[str] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    publishing: list[str] = field(default_factory=list)
    exits_s: list[float] = field(default_factory=list)
    seconds: float = 0.0
    failure: str = ""

    @property
    def exact(self) -> bool:
        return bool(self.messages) and not (self.lost or self.differs or self.failure)

    def add(self, other: "Outcome") -> None:
        """Count another run of the same fault in."""
        for name in (
            "strikes",
            "gaps_s",
            "down_s",
            "raw",
            "messages",
            "rows",
            "repeats",
            "lost",
            "differs",
            "left",
            "publishing",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.exits_s, self.seconds = self.exits_s + other.exits_s, self.seconds + other.seconds
        self.failure = self.failure or other.failure

    def figures(self) -> dict[str, Any]:
        """As the evidence gives it."""
        return {
            "fault": self.fault,
            "strikes": self.strikes,
            "workers": self.workers,
            "gap_p50_s": round(statistics.median(self.gaps_s), 2) if self.gaps_s else None,
            "gap_max_s": round(max(self.gaps_s), 2) if self.gaps_s else None,
            "down_s": round(max(self.down_s, default=0.0), 1),
            "raw_messages": self.raw,
            "messages": self.messages,
            "rows": self.rows,
            "repeats_dropped": self.repeats,
            "lost": self.lost,
            "differs": self.differs,
            "exact": self.exact,
            "left_by_themselves": self.left,
            "publisher_failures": self.publishing,
            "sigterm_to_exit_max_s": round(max(self.exits_s), 2) if self.exits_s else None,
            "seconds": round(self.seconds, 1),
            **({"failure": self.failure} if self.failure else {}),
        }


def compare(found: dict[TopicSpec, Stream], wanted: dict[TopicSpec, Stream], *, bytes_too: bool = True) -> list[str]:
    """Streams that differ, and in what."""
    kinds = ["row_hashes", "books", *(["byte_hashes", "messages"] if bytes_too else [])]
    return [
        f"{spec.stream}: {kind}"
        for spec in DERIVED
        for kind in kinds
        if getattr(found[spec], kind) != getattr(wanted[spec], kind)
    ]


@dataclass(frozen=True)
class Load:
    """A content as it is published, and what must come of it."""

    content: Content
    rule: CutRule
    raw: list[list[Outgoing]]
    wanted: dict[TopicSpec, Stream]

    @property
    def messages(self) -> int:
        return sum(map(len, self.raw))

    def named(self, tape: str) -> list[list[Outgoing]]:
        return self.content.messages(tape, self.rule)


def make_load(content: Content, rule: CutRule) -> Load:
    raw = content.messages("wanted", rule)
    return Load(content, rule, raw, expected(raw, "wanted"))


def run(
    out: Outcome,
    fault: Fault,
    load: Load,
    broker: EmbeddedKafka,
    folder: Path,
    *,
    tape: str,
    rate: float,
    seed: int = 1,
    checkpoint_min_s: float = 1.0,
) -> Outcome:
    """One run: load, strikes as long as it lasts, and what stands in the topics in the end; fills and returns `out`.

    Raises:
        StuckError: something does not go on.
        HoleError, ConflictError: a topic is damaged.
    """
    rng, started = random.Random(seed), time.monotonic()
    manifest = load.content.manifest(tape, load.rule)
    with (
        opened(broker, manifest, load.named(tape), folder, rate=rate, checkpoint_min_s=checkpoint_min_s) as world,
        fault.prepare(world),
    ):
        for slot in range(fault.workers):
            world.workers.start(slot)
        world.publisher.start()
        world.watcher.wait_for_news(0)
        for struck in range(out.strikes):
            if world.publisher.left < RESERVE * load.messages and struck:
                out.strikes = struck
                break
            time.sleep(1.2 * rng.random())
            strike(fault, world, rng, out)
        world.publisher.finish()
        world.wait_until_computed()
        for slot in world.workers.slots:
            world.workers.stop(slot)
        out.left = [code for _, code in world.workers.left]
        out.exits_s = world.workers.exits_s
        out.publishing = world.publisher.failures
        raw_differs = raw_differences(broker.bootstrap_servers, world.manifest, load.raw)
        found = {spec: stored(broker.bootstrap_servers, world.manifest, spec) for spec in DERIVED}
    out.raw, out.messages = load.messages, sum(s.messages for s in found.values())
    out.rows, out.repeats = sum(s.rows for s in found.values()), sum(s.repeats for s in found.values())
    out.lost = sum(s.messages for s in load.wanted.values()) - out.messages
    out.differs, out.seconds = raw_differs + compare(found, load.wanted), time.monotonic() - started
    return out


def strike(fault: Fault, world: World, rng: random.Random, out: Outcome) -> None:
    """Strike once under load, and wait until every partition goes on."""
    struck = time.monotonic()
    down = fault.do(world, rng)
    undone = time.monotonic()
    world.watcher.wait_for_news(undone + IN_FLIGHT_S)
    settled = time.monotonic()
    silences = world.watcher.silences(struck, settled)
    out.down_s.append(down)
    out.gaps_s.append(max(0.0, max(silences) - down))
