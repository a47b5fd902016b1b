"""The faults of the sinks, and the one course that every run with one takes.

topics, store ─► sinks ─► load goes on ─► [ strike ─► until both sinks confirm something new ] × n ─► ends ─► drained
`barograph reconcile`: 0 missing, 0 duplicate ─► sums of every column equal the log's ─► lake equals the log ─► SIGTERM
"""

import contextlib
import random
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from sinks.clickhouse import connect
from sinks.ddl import drop_tape
from tests.integration.chaos.sink_check import differences, reconciled
from tests.integration.chaos.sink_world import SINKS, SinkWorld, opened, until
from tests.unit.sinks.s3 import S3Server

MEMORY_MB: Final = 700
"""What a sink may hold at most, MiB: 250 of interpreter and libraries, 64 of the client's queue, what its lanes hold,
and three times the block under way."""

FULL_S: Final = 8.0
"""How long a disk stays full."""

STORE_DISK: Final = 256 << 20
LAKE_DISK: Final = 96 << 20

Do = Callable[[SinkWorld, random.Random], float]
"""Strikes and undoes it; returns for how long nothing could work whatever the product does, s."""


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: what people call it.
        do: strikes.
        bucket: whether the lake is a bucket.
        prepare: changes the data folder before anything runs.
        rate: of the load, records a second.
        leaves: whether a process may leave by itself and be started again.
    """

    name: str
    do: Do
    bucket: bool = False
    prepare: Callable[[Path], contextlib.AbstractContextManager[None]] = lambda folder: contextlib.nullcontext()
    rate: float = 10_000.0
    leaves: bool = False


def kill(world: SinkWorld, rng: random.Random, part: str) -> float:
    """A sink, killed and started again."""
    world.parts.kill(part)
    world.parts.start(part)
    return 0.0


def kill_store(world: SinkWorld, rng: random.Random, down_s: float = 0.0) -> float:
    """Killed, away for a while, started again on the same folder and port."""
    world.parts.kill("store")
    struck = time.monotonic()
    time.sleep(down_s)
    world.start_store()
    return time.monotonic() - struck


def keep_answers(world: SinkWorld, rng: random.Random, silence_s: float = 0.0) -> float:
    """Some inserts are done and nobody learns of it."""
    count, had, struck = 1 if silence_s else rng.randint(1, 3), len(world.relay.kept), time.monotonic()
    world.relay.keep(count, silence_s=silence_s)
    until(lambda: len(world.relay.kept) >= had + count, "answers were kept")
    time.sleep(silence_s)
    return time.monotonic() - struck


WINDOW: Final = 20
"""Blocks whose tokens the tables remember in that fault, instead of 10,000."""


def exceed_window(world: SinkWorld, rng: random.Random) -> float:
    """An insert is done and nobody learns of it; before it is repeated, its token is gone."""
    had, struck = len(world.relay.kept), time.monotonic()
    with closing(connect(world.store_url)) as client:
        for table in ("mbo", "bins", "trades", "bars"):
            client.command(f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = {WINDOW}")
        world.relay.keep(1, then_shut=True)
        until(lambda: len(world.relay.kept) > had, "an answer was kept")
        table = world.relay.kept[-1]
        for number in range(WINDOW + 5):
            client.command(f"INSERT INTO {table} (tape, line, instrument, seq) VALUES ('others', 'x', 'X', {number})")
        world.relay.open()
        drop_tape(client, "others")
    return time.monotonic() - struck


def fill(world: SinkWorld, rng: random.Random, folder: str) -> float:
    """No room for a while."""
    ballast, started = world.folder / folder / "ballast", time.monotonic()
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    time.sleep(FULL_S)
    ballast.unlink()
    return time.monotonic() - started


@contextmanager
def small_disk(folder: Path, name: str, size_bytes: int) -> Iterator[None]:
    """A part of the data folder lies on a file system of its own; needs the right to mount one."""
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def can_mount(folder: Path) -> bool:
    try:
        with small_disk(folder, "probe", 1 << 20):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def _bucket(world: SinkWorld) -> S3Server:
    assert world.bucket is not None
    return world.bucket


def bucket_errors(world: SinkWorld, rng: random.Random) -> float:
    """One request in two fails for a while, before or after its work, and the lake sink is killed meanwhile."""
    struck, dice = time.monotonic(), random.Random(rng.random())
    _bucket(world).fault = lambda method, path: dice.choice(["", "", "", "before", "busy", "after"])
    time.sleep(3 + 4 * rng.random())
    kill(world, rng, "lake")
    time.sleep(6)
    _bucket(world).fault = lambda method, path: ""
    return time.monotonic() - struck


def bucket_silent(world: SinkWorld, rng: random.Random, silent_s: float) -> float:
    """Requests are taken and not answered, longer than the client waits."""
    struck, over = time.monotonic(), threading.Event()

    def fault(method: str, path: str) -> str:
        over.wait(silent_s)
        return "before"

    _bucket(world).fault = fault
    time.sleep(silent_s)
    _bucket(world).fault = lambda method, path: ""
    over.set()
    return time.monotonic() - struck


def kill_in_upload(world: SinkWorld, rng: random.Random) -> float:
    """The lake sink dies while an object is on its way: the bucket has a part of it, or all, and nobody knows."""
    begun, dead, had_all = threading.Event(), threading.Event(), rng.random() < 0.5

    def fault(method: str, path: str) -> str:
        if method != "PUT" or ".parquet" not in path or begun.is_set():
            return ""
        begun.set()
        dead.wait(30)
        return "after" if had_all else "before"

    _bucket(world).fault = fault
    until(begun.is_set, "an object is put")
    time.sleep(0.05)
    world.parts.kill("lake")
    dead.set()
    world.parts.start("lake")
    _bucket(world).fault = lambda method, path: ""
    return 0.0


def in_turn(*all_of: Do) -> Do:
    """One after the other, one at each strike."""
    left = iter(all_of)
    return lambda world, rng: next(left)(world, rng)


NONE: Final = Fault("nothing", lambda world, rng: time.sleep(1) or 0.0)
OUTAGE: Final = Fault("store down for 2 minutes", partial(kill_store, down_s=120.0))
LONG_OUTAGE: Final = Fault("store down for 10 minutes", partial(kill_store, down_s=600.0), rate=5_000)
CUT: Final = Fault("insert done, connection cut before the answer", keep_answers)
SILENT: Final = Fault("insert done, no answer for 65 s: time-out", partial(keep_answers, silence_s=65.0))
BEYOND: Final = Fault("insert done, answer lost, token gone before the repeat", exceed_window)
KILL_SINK: Final = Fault("ClickHouse sink kill -9", partial(kill, part="clickhouse"))
KILL_STORE: Final = Fault("store kill -9", kill_store)
KILL_LAKE: Final = Fault("lake sink kill -9", partial(kill, part="lake"))
S3_ERRORS: Final = Fault("bucket: 500, 503, and lake sink kill -9 meanwhile", bucket_errors, bucket=True)
S3_SILENT: Final = Fault("bucket gives no answer for 40 s", partial(bucket_silent, silent_s=40.0), bucket=True)
S3_KILL: Final = Fault("lake sink kill -9 in the middle of an upload", kill_in_upload, bucket=True)
STORE_FULL: Final = Fault(
    "disk full for the store", partial(fill, folder="store"), rate=5_000, leaves=True,
    prepare=partial(small_disk, name="store", size_bytes=STORE_DISK),
)  # fmt: skip
LAKE_FULL: Final = Fault(
    "disk full for the lake", partial(fill, folder="lake"), rate=5_000,
    prepare=partial(small_disk, name="lake", size_bytes=LAKE_DISK),
)  # fmt: skip


@dataclass
class Outcome:
    """What a run with a fault gave.

    Attributes:
        fault: its name.
        strikes: how often it struck.
        down_s: for each strike, for how long nothing could work.
        back_s: for each strike, from its end until both sinks had confirmed something new.
        records: raw records offered.
        reconcile: what the command said.
        differs: columns and streams that are not the log's.
        memory_mb: sink → most memory held.
        back: how often a sink said that it had less than before.
        left: parts that left by themselves, with their exit codes.
        kept: answers to inserts that were lost.
        uploads: requests of the bucket: all puts, and those of uploads in parts.
        exits_s: seconds from SIGTERM to exit.
        seconds: duration of it all.
        failure: why the run did not come to its end.
    """

    fault: str
    strikes: int
    down_s: list[float] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)
    records: int = 0
    reconcile: dict[str, Any] = field(default_factory=dict)
    differs: list[str] = field(default_factory=list)
    memory_mb: dict[str, int] = field(default_factory=dict)
    back: int = 0
    left: list[tuple[str, int]] = field(default_factory=list)
    kept: int = 0
    uploads: dict[str, int] = field(default_factory=dict)
    exits_s: list[float] = field(default_factory=list)
    seconds: float = 0.0
    failure: str = ""
    may_leave: bool = False

    @property
    def good(self) -> bool:
        """Whether everything arrived once, in bounded memory, and nothing left that should not."""
        counts = [self.reconcile.get(name) for name in ("exit", "missing", "duplicate")]
        memory = all(self.memory_mb.get(name, 1 << 20) <= MEMORY_MB for name in SINKS)
        stayed = self.may_leave or not self.left
        whole = not (self.differs or self.failure or self.back or self.uploads.get("in_parts"))
        return bool(self.records) and counts == [0, 0, 0] and memory and stayed and whole

    def figures(self) -> dict[str, Any]:
        """As the evidence gives it."""
        return {
            "fault": self.fault,
            "strikes": self.strikes,
            "down_max_s": round(max(self.down_s, default=0.0), 1),
            "back_p50_s": round(statistics.median(self.back_s), 2) if self.back_s else None,
            "back_max_s": round(max(self.back_s), 2) if self.back_s else None,
            "records": self.records,
            "reconcile": self.reconcile,
            "differs": self.differs,
            "memory_mb": self.memory_mb,
            "progress_went_back": self.back,
            "left_by_themselves": self.left,
            "answers_lost": self.kept,
            **({"puts": self.uploads} if self.uploads else {}),
            "sigterm_to_exit_max_s": round(max(self.exits_s), 2) if self.exits_s else None,
            "seconds": round(self.seconds, 1),
            "good": self.good,
            **({"failure": self.failure} if self.failure else {}),
        }


def run(
    out: Outcome, fault: Fault, kafka: str, folder: Path, *, tape: str, server: S3Server | None = None, seed: int = 1
) -> Outcome:
    """One run; fills and returns `out`.

    Raises:
        StuckError: something does not go on.
        BarographError: a topic is damaged.
    """
    rng, started = random.Random(seed), time.monotonic()
    out.may_leave = fault.leaves
    bucket = server if fault.bucket else None
    asked = len(bucket.requests) if bucket else 0
    with (
        fault.prepare(folder),
        opened(kafka, folder, tape, rate=fault.rate, block=int(fault.rate / 50), bucket=bucket) as world,
    ):
        for name in SINKS:
            world.parts.start(name)
        world.feed.start()
        world.gauge.wait_for_news(0)
        for _ in range(out.strikes):
            time.sleep(1.5 * rng.random())
            strike(fault, world, rng, out)
        world.feed.finish()
        world.wait_until_drained()
        out.records, out.memory_mb, out.back = world.feed.records, dict(world.gauge.memory_mb), world.gauge.back
        for name in SINKS:
            world.parts.stop(name)
        out.left, out.exits_s, out.kept = list(world.parts.left), world.parts.exits_s, len(world.relay.kept)
        out.reconcile, out.differs = reconciled(world), differences(world)
    if bucket:
        puts = [path for method, path in bucket.requests[asked:] if method in ("PUT", "POST")]
        out.uploads = {"all": len(puts), "in_parts": sum("upload" in path for path in puts)}
        out.uploads["in_parts"] += len(bucket.client.list_multipart_uploads(Bucket="bucket").get("Uploads", []))
    out.seconds = time.monotonic() - started
    return out


def strike(fault: Fault, world: SinkWorld, rng: random.Random, out: Outcome) -> None:
    """Strike once under load, and wait until both sinks go on."""
    out.down_s.append(fault.do(world, rng))
    undone = time.monotonic()
    world.gauge.wait_for_news(undone)
    out.back_s.append(time.monotonic() - undone)
