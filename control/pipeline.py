"""The main job: DBN files through the broker, the stages and the sinks, and a report when everything has arrived.

1. Verify every file; nothing is published unless all are whole.
2. Decide what to do about the tape (`control.plan`).
3. Find or start broker and store.
4. Make the tape: manifest, topics, line.
5. Start the stages and the sinks as processes; publish; wait until the `end` of every instrument has left them.
6. Stop what was started, read everything back, report.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from connectors import dbn_replay, instruments
from connectors.blocks import CutRule, rule_for_speed
from connectors.dbn_verify import Expected, VerifyReport, load_manifest, verify_all
from connectors.pacer import MAX_SPEED
from control import health, report
from control.arrival import SINKS, Arrival
from control.certify import issue
from control.crew import Crew
from control.embedded.folder_lock import FolderLock
from control.output import Output
from control.plan import Decision, decide
from control.services import Services
from control.tape_admin import TapeAdmin
from runtime.errors import InputError
from runtime.kafka import CheckedProducer
from runtime.object_store import object_store_at
from runtime.settings import Settings
from runtime.tapes import Line, Manifest, Source, TapeStore, new_tape
from schemas.names import tape_of_file
from schemas.topics import DERIVED
from streams.run_id import run_id

LINE_CONFIG: Final[dict[str, Any]] = {
    "cell_ns": 100_000_000,
    "radius": 50,
    "n_ticks": 8192,
    "intervals_ns": [1_000_000_000, 60_000_000_000],
}
"""Semantic configuration of a line unless told otherwise; part of its `run`."""


WAIT_EVERY_S: Final = 0.25
"""How often `replay --wait` looks how far the stages are; one look asks the broker a few questions."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What the user asked for.

    Attributes:
        files: DBN files, in any order.
        tape: name of the tape; None to take the first file's.
        line: the line.
        tick_px: tick of all instruments, 1e-9; None to find it out.
        speed: multiple of real time; infinite for full speed.
        replace: whether an existing tape may be made again.
        expected: what a manifest says of the files.
        partitions: of a new tape; None for the setting's.
        block_records: records of a raw message at most; None for as many as it may hold.
    """

    files: Sequence[Path]
    tape: str | None = None
    line: str = "main"
    tick_px: int | None = None
    speed: float = MAX_SPEED
    replace: bool = False
    expected: Mapping[str, Expected] | None = None
    partitions: int | None = None
    block_records: int | None = None


@dataclass(slots=True)
class Stopwatch:
    """Seconds since the start, and of named phases."""

    started_s: float = field(default_factory=time.monotonic)
    phases: dict[str, float] = field(default_factory=dict)

    def mark(self, phase: str) -> None:
        """End a phase that began at the last mark."""
        self.phases[phase] = time.monotonic() - self.started_s - sum(self.phases.values())

    def seconds(self) -> dict[str, float]:
        """Total first, then the phases."""
        return {"total": time.monotonic() - self.started_s, **self.phases}


@dataclass(frozen=True, slots=True)
class Job:
    """A request after its files were verified and its tape was looked at; nothing was changed yet.

    Attributes:
        request: what the user asked for.
        reports: the files, in time order.
        tape: name of the tape.
        existing: its manifest; None if there is no such tape.
        run: identity of what would compute the line.
        decision: what to do about the tape.
    """

    request: RunRequest
    reports: Sequence[VerifyReport]
    tape: str
    existing: Manifest | None
    run: str
    decision: Decision

    @property
    def sources(self) -> tuple[Source, ...]:
        """The files as a manifest names them."""
        return _sources(self.reports)


def prepare(request: RunRequest, settings: Settings, out: Output) -> Job:
    """Verify the files and decide what to do about the tape.

    Raises:
        DbnError, InputError: a file or the tape is not fit.
        MissingServiceError: the disk is nearly full.
    """
    health.require_disk(settings)
    with out.bar("verifying", "bytes") as advance:
        reports = verify_all(request.files, manifest=request.expected, on_progress=advance)
    tape, identity = request.tape or tape_of_file(Path(reports[0].path).name), run_id(LINE_CONFIG)
    tapes = TapeStore(object_store_at(settings.state_location))
    tapes.refuse_alias(tape)
    existing = tapes.load(tape)
    decision = decide(existing, tape, request.line, _sources(reports), identity, replace=request.replace)
    if existing is not None and decision is not Decision.REPLACE:
        _refuse_other_tick(existing, request.tick_px)
        _refuse_other_shape(existing, request)
    return Job(request, reports, tape, existing, identity, decision)


def open_tape(job: Job, admin: TapeAdmin, services: Services, settings: Settings, out: Output) -> Manifest:
    """Make the tape ready to be published on, deleting the old one if that was decided."""
    manifest = job.existing
    if job.decision is Decision.REPLACE and manifest is not None:
        admin.delete(manifest, services.store())
        manifest = None
    manifest = manifest or _plan_tape(job, settings, out)
    return admin.open(manifest, job.request.line, Line(job.run, LINE_CONFIG))


def run(request: RunRequest, settings: Settings, out: Output) -> dict[str, Any]:
    """Do the main job and return its report.

    Raises:
        DbnError, InputError: a file or the tape is not fit; nothing was published.
        MissingServiceError: a part cannot be had or died.
    """
    watch = Stopwatch()
    job = prepare(request, settings, out)
    with only_one(job.tape, settings), Services(settings, out, lasting=True) as services:
        servers, store_url = services.kafka(), services.store()
        manifest = job.existing
        if job.decision is not Decision.REPORT or manifest is None:
            admin = TapeAdmin(settings, servers)
            manifest = open_tape(job, admin, services, settings, out)
            watch.mark("startup")
            manifest = _process(job, manifest, admin, services, settings, out)
            watch.mark("drain")
        places = settings.lake_location, settings.state_location
        return report.build(manifest, request.line, servers, store_url, *places, watch.seconds, out)


def replay(
    request: RunRequest, settings: Settings, out: Output, *, wait: bool = False, certified: bool = False
) -> dict[str, Any]:
    """Publish the files of a request on its tape, for whoever works on it; the tape is made if there is none.

    Args:
        request: what to publish.
        settings: broker and data folder.
        out: for progress.
        wait: whether to stay until the stages have computed all of it.
        certified: whether to add a certificate: of the raw side, with `wait` of the outputs too.

    Raises:
        DbnError, InputError: a file or the tape is not fit; nothing was published.
        MissingServiceError: no broker.
    """
    job = prepare(request, settings, out)
    made: dict[str, Any] = {"tape": job.tape, "messages": 0, "records": 0}
    if job.decision is Decision.REPORT:
        out.note(f"tape {job.tape} is finished already; nothing was published")
        if not certified:
            return made
    with only_one(job.tape, settings), Services(settings, out, lasting=True) as services:
        servers, manifest = services.kafka(), job.existing
        if job.decision is not Decision.REPORT or manifest is None:
            admin = TapeAdmin(settings, servers)
            manifest = open_tape(job, admin, services, settings, out)
            with out.bar("publishing", "records") as advance:
                result = _publish(job, manifest, servers, advance)
            manifest = admin.finish(manifest)
            made |= {"messages": result.messages, "records": result.records}
        if wait:
            _wait_for_stages(manifest, request.line, servers, settings, out)
        if certified:
            objects = object_store_at(settings.state_location)
            made["certificate"] = issue(manifest, request.line, servers, objects, out, raw_only=not wait)
    return made


def _wait_for_stages(manifest: Manifest, line: str, servers: str, settings: Settings, out: Output) -> None:
    """Until every output of every raw message stands on the topics; somebody else runs the stages."""
    with closing(Arrival(servers, manifest, line, settings.state_dir)) as arrival:
        for title, done, total in _steps(arrival)[: len(DERIVED)]:
            with out.bar(title, "messages") as advance:
                while not _reached(done, total, advance):
                    time.sleep(WAIT_EVERY_S)


@contextmanager
def only_one(tape: str, settings: Settings) -> Iterator[None]:
    """The exclusive right to publish on a tape: two producers would interleave two replays in one topic.

    Raises:
        FolderInUseError: another `run` or `replay` of it is going on.
    """
    lock = FolderLock(settings.state_dir / "tapes" / tape, f"a run or replay of tape {tape}")
    lock.acquire(patience_s=0)
    try:
        yield
    finally:
        lock.release()


def load_expected(path: Path | None) -> Mapping[str, Expected] | None:
    """What a manifest file says of DBN files; None without one."""
    return None if path is None else load_manifest(path)


def _sources(reports: Sequence[VerifyReport]) -> tuple[Source, ...]:
    return tuple(Source(Path(r.path).name, r.sha256, r.mbo_records) for r in reports)


def _plan_tape(job: Job, settings: Settings, out: Output) -> Manifest:
    """The manifest of a tape that does not exist yet."""
    partitions = job.request.partitions or settings.partitions
    known, notices = instruments.resolve(job.reports, tick_px=job.request.tick_px, partitions=partitions)
    for notice in notices:
        out.note(notice)
    rule = rule_for_speed(job.request.speed, job.request.block_records).to_dict()
    return new_tape(job.tape, partitions=partitions, instruments=known, sources=job.sources, blocking=rule)


def _publish(job: Job, manifest: Manifest, servers: str, on_progress: Any) -> dbn_replay.ReplayResult:
    """Publish what is not on the raw topic yet, by the manifest's own cutting rule."""
    plan = dbn_replay.ReplayPlan(manifest.tape, job.reports, manifest.instruments, CutRule(**manifest.blocking))
    tails = dbn_replay.read_tails(servers, plan.topic, manifest.partitions)
    producer = CheckedProducer(servers)
    return dbn_replay.publish(plan, producer, tails, speed=job.request.speed, on_progress=on_progress)


def _process(
    job: Job, manifest: Manifest, admin: TapeAdmin, services: Services, settings: Settings, out: Output
) -> Manifest:
    """Workers on, publish, wait until everything has arrived, workers off; where `up` has workers on, those work."""
    servers, line = services.kafka(), job.request.line
    crew = Crew(manifest, line, settings, servers, services.store())
    try:
        with out.bar("publishing", "records") as advance:

            def on_progress(done: int, total: int) -> None:
                advance(done, total)
                crew.poll()

            crew.poll()
            _publish(job, manifest, servers, on_progress)
        manifest = admin.finish(manifest)
        for title, done, total in _steps(crew.arrival):
            with out.bar(title, "messages") as advance:
                crew.wait(partial(_reached, done, total, advance))
        crew.wait(crew.arrival.complete)
    finally:
        crew.stop()
    return admin.complete(manifest, line)


def _steps(arrival: Arrival) -> Sequence[tuple[str, Callable[[], int], int]]:
    """What a tape passes after it was published: title, root messages done, root messages in all."""
    published = arrival.published()
    steps = [(f"{spec.producer}: {spec.stream}", partial(arrival.computed, spec), published) for spec in DERIVED]
    streams = len(DERIVED) + 1
    return steps + [(f"sink: {sink}", partial(_messages, arrival, sink), published * streams) for sink in SINKS]


def _messages(arrival: Arrival, sink: str) -> int:
    return int(arrival.written(sink)["messages"])


def _reached(done: Callable[[], int], total: int, advance: Callable[[int, int], None]) -> bool:
    now = done()
    advance(now, total)
    return now >= total


def _refuse_other_tick(manifest: Manifest, tick_px: int | None) -> None:
    for name, instrument in manifest.instruments.items():
        if tick_px is not None and instrument.tick_px != tick_px:
            raise InputError(
                f"tape {manifest.tape} was made with a tick of {instrument.tick_px / 1e9:g} for {name}",
                remedy="leave --tick away, or make the tape again with --replace",
            )


def _refuse_other_shape(existing: Manifest, request: RunRequest) -> None:
    """Partitions and block size are part of what a tape is; they are set when it is made."""
    for option, wanted, has, what in (
        ("--partitions", request.partitions, existing.partitions, "partitions"),
        ("--block-records", request.block_records, existing.blocking.get("records_max"), "records in a block"),
    ):
        if wanted is not None and wanted != has:
            raise InputError(
                f"tape {existing.tape} was made with {has} {what}, not {wanted}",
                remedy=f"leave {option} away, or make the tape again with --replace",
            )
