"""Handing a line over to another run: a new release or configuration goes on where the old one stopped.

A cutover is made only where nothing of the old run is left half done. For each stage and partition:

1. nobody works on the line;
2. the newest checkpoint is of the run that the manifest names, or was handed to it and nothing came since;
3. the tail of every output topic is complete and ends at the checkpoint's seq, anywhere in the log, because whoever
   redoes work goes back. A clean stop (SIGTERM) of the old release leaves it so.

Then the place is written down, announced on `ops.runs.v1`, and the manifest names the new run. Rows on both sides of
the place carry the run that made them.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from control.claims import Claim, held_slots
from control.groups import stages_at_work
from control.tape_admin import TIMEOUT_S, WORKERS_TIMEOUT_S, TapeAdmin
from runtime.codec import encode_avro
from runtime.errors import InputError
from runtime.kafka import CheckedProducer, admin, newest_envelope
from runtime.object_store import object_store_at
from runtime.settings import Settings
from runtime.tapes import Manifest, TapeStore
from schemas.envelope import Envelope, crc32
from schemas.message import Outgoing
from schemas.topics import RUNS
from streams.checkpoints import CheckpointStore
from streams.cutover import Cutover, Cutovers, checkpoint_hash
from streams.reducer import Stage
from streams.run_id import run_id
from streams.stages import STAGES


@dataclass(frozen=True, slots=True)
class Handover:
    """A cutover with where it is."""

    stage: str
    partition: int
    cutover: Cutover


class NotCleanError(InputError):
    """A line cannot be handed over where it stands.

    Args:
        place: stage and partition.
        reason: what is half done.
    """

    def __init__(self, place: str, reason: str) -> None:
        self.place, self.reason = place, reason
        super().__init__(
            f"{place} cannot be handed over: {reason}",
            remedy="let the old release finish and stop it with SIGTERM, or start a new line and move the alias to it",
        )


def hand_over(settings: Settings, servers: str, tape: str, line: str) -> tuple[Manifest, list[Handover]]:
    """Hand a line to the run of this release.

    Args:
        settings: where the states are.
        servers: Kafka.
        tape, line: what to hand over.

    Returns:
        The manifest as it stands now, and the cutovers that were made; none if the run is the same.

    Raises:
        InputError: somebody works on the line, and still does after `WORKERS_TIMEOUT_S`.
        NotCleanError: the old run left something half done.
    """
    objects = object_store_at(settings.state_location)
    tapes = TapeStore(objects)
    manifest = tapes.require(tape)
    known = manifest.require_line(line)
    to_run = run_id(known.config)
    if known.run == to_run:
        return manifest, []
    with _nobody_works(settings, servers, manifest, line):
        stages = [make(known.config) for make in STAGES.values()]
        made = [
            found
            for stage in stages
            for partition in range(manifest.partitions)
            if (found := _judge(objects, servers, manifest, line, stage, partition, to_run)) is not None
        ]
        for handover in made:
            below = f"{manifest.tape_id}/{line}/{handover.stage}"
            Cutovers(objects, below).write(handover.partition, handover.cutover)
        _announce(servers, manifest, line, made)
        done = TapeAdmin(settings, servers).hand_over(manifest, line, to_run)
    return done, made


def _judge(
    objects: Any, servers: str, manifest: Manifest, line: str, stage: Stage, partition: int, to_run: str
) -> Handover | None:
    """The cutover of one partition; None if the old run never did anything there."""
    place = f"{stage.name} on partition {partition} of tape {manifest.tape}, line {line},"
    loaded = CheckpointStore(objects, f"checkpoints/{manifest.tape_id}/{line}/{stage.name}").load(partition)
    for output in stage.outputs.values():
        topic = output.topic.name(manifest.tape, line)
        newest = newest_envelope(servers, topic, partition)
        if loaded is None:
            if newest is not None:
                raise NotCleanError(place, f"{topic} has rows and there is no checkpoint")
            continue
        checkpoint = loaded[0]
        if newest is None or (newest.seq, newest.last) != (checkpoint.seq, True):
            ends = "is empty" if newest is None else f"ends at seq {newest.seq}.{newest.part}"
            raise NotCleanError(place, f"its checkpoint is at seq {checkpoint.seq}, {topic} {ends}")
    if loaded is None:
        return None
    checkpoint = loaded[0]
    from_run, known = manifest.lines[line].run, Cutovers(objects, f"{manifest.tape_id}/{line}/{stage.name}")
    if not known.allows(partition, checkpoint, from_run):
        raise NotCleanError(place, f"its checkpoint is of run {checkpoint.run}, not {from_run}")
    stage.migrate(loaded[1], checkpoint.state_format)  # refuses what this release cannot read
    cutover = Cutover(checkpoint.seq, from_run, to_run, checkpoint_hash(checkpoint))
    return Handover(stage.name, partition, cutover)


@contextmanager
def _nobody_works(settings: Settings, servers: str, manifest: Manifest, line: str) -> Iterator[None]:
    """Keep `up` and `run` from starting workers here, and wait until none is left anywhere."""
    state_dir = settings.state_dir
    claim = Claim(state_dir, manifest, line)
    if not claim.take():
        raise InputError(
            f"workers run on tape {manifest.tape}, line {line}", remedy="stop `barograph up` or `run` first"
        )
    client, deadline_s = admin(servers), time.monotonic() + WORKERS_TIMEOUT_S
    try:
        while (busy := stages_at_work(client, manifest, line)) or busy is None or held_slots(state_dir, manifest):
            if time.monotonic() > deadline_s:
                whose = f" of {', '.join(sorted(busy))}" if busy else ""
                raise InputError(
                    f"a worker{whose} {'runs' if busy is not None else 'may run'} on tape {manifest.tape}, line {line}",
                    remedy="stop it with SIGTERM, wherever it runs, then try again",
                )
            time.sleep(0.5)
        yield
    finally:
        claim.release()


def _announce(servers: str, manifest: Manifest, line: str, made: list[Handover]) -> None:
    producer = CheckedProducer(servers, timeout_s=TIMEOUT_S)
    for handover in made:
        cutover = handover.cutover
        name = f"{manifest.tape_id}/{line}/{handover.stage}/{handover.partition}/{cutover.seq}"
        place = {"tape": manifest.tape, "tape_id": manifest.tape_id, "line": line}
        record = {"id": name, **place, "stage": handover.stage, "partition": handover.partition, **asdict(cutover)}
        value = encode_avro("cutover", record)
        envelope = Envelope(kind="data", schema="cutover", count=1, crc32=crc32(value))
        producer.send(Outgoing(RUNS.name(), 0, name, value, envelope))
    producer.flush()
