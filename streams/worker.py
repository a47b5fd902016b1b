"""The process of one or more stages: a Faust worker with a shell for each, until SIGTERM or Ctrl-C.

Stages in one process share the app (one consumer, one group) and nothing else: each has its own thread, producer and
checkpoints. So a stage that gets a worker of its own goes on from the states it stored in a common one.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from threading import Thread, Timer
from typing import Any, Final

import faust

from engine.warm import warm
from runtime.clock import WallClock
from runtime.errors import InputError
from runtime.kafka import CheckedProducer, consumer, ping, watermarks
from runtime.object_store import ObjectStore, object_store_at
from runtime.settings import Settings
from runtime.tapes import Manifest, TapeStore
from runtime.telemetry import serve_metrics
from streams.checkpoints import CheckpointStore
from streams.cutover import Cutovers
from streams.faust_app import make_app
from streams.faust_stage import FaustInput, attach, threads
from streams.poison import PoisonStore
from streams.run_id import run_id
from streams.shell import StageShell, Timing
from streams.stages import STAGES
from streams.watch import EXIT_CODE, Watch

LEAVE_S: Final = 5.0
"""How long an orderly end may take. With a broker it takes 2 s; without one its last confirmations would be waited for
until `DELIVERY_TIMEOUT_S`. Whoever comes next redoes what was not confirmed, as after a `kill -9`. Much shorter would
cut checkpoints of a busy machine, longer than 10 s meets the patience of supervisors."""

SWITCH_S: Final = 0.001
"""How long the event loop may keep the interpreter lock from a stage's thread that comes back from a kernel. Python's
own 5 ms are longer than the work on a message; a tenth of this costs more in switches than it saves."""


class StageStores:
    """What a stage keeps beside the topics, in one object store.

    Args:
        store: where it lies.
        below: `TAPE_ID/LINE/STAGE`.
    """

    def __init__(self, store: ObjectStore, below: str) -> None:
        self._store, self._below = store, below
        self.checkpoints = CheckpointStore(store, f"checkpoints/{below}")
        self.cutovers = Cutovers(store, below)

    def poison(self, partition: int) -> PoisonStore:
        """Skips and attempts of a partition."""
        return PoisonStore(self._store, f"{self._below}/{partition}")


def run_stages(
    names: Sequence[str],
    tape: str,
    line: str,
    settings: Settings,
    *,
    slot: int = 0,
    admit: Callable[[Manifest], object] = lambda manifest: None,
) -> None:
    """Run stages on a tape and line; ends the process.

    Args:
        names: of the stages, in any order; all if empty.
        tape, line: what to work on; the tape must exist and hold the line.
        settings: `bootstrap_servers` must be set.
        slot: number of this worker among those of these stages; each has one of its own.
        admit: called with the tape when nothing about it speaks against a start; may refuse by raising.

    Raises:
        InputError: no such tape or line, or it is of another run.
        MissingServiceError: no broker.
    """
    ping(settings.bootstrap_servers)
    store = object_store_at(settings.state_location)
    manifest = TapeStore(store).require(tape)
    known = manifest.require_line(line)
    _refuse_another_run(manifest, line, known.run, run_id(known.config))
    admit(manifest)
    config = known.config
    stages = [make(config) for name, make in STAGES.items() if name in names or not names]
    group = manifest.group(line, [stage.name for stage in stages])
    app = make_app(group, settings.bootstrap_servers, settings.data_dir / "faust" / group, member=f"{group}-{slot}")
    alone = asyncio.Lock()
    clock, timing = WallClock(), Timing(settings.checkpoint_min_s, settings.checkpoint_max_s)
    shells = [
        StageShell(
            stage,
            manifest,
            line,
            FaustInput(app, stage.source.name(tape, line)),
            CheckedProducer(settings.bootstrap_servers),
            StageStores(store, f"{manifest.tape_id}/{line}/{stage.name}"),
            clock,
            timing,
            threads(f"{stage.name}-apply"),
            threads(f"{stage.name}-load"),
            alone,
        )
        for stage in stages
    ]
    for shell in shells:
        _refuse_what_cannot_go_on(shell, settings.bootstrap_servers)
        attach(app, shell)
    watch = Watch(shells, settings.bootstrap_servers, clock)
    Thread(target=_warm, args=(watch,), name="warm", daemon=True).start()
    serve_metrics(settings.metrics_port)
    level = logging.getLevelName(logging.getLogger().level).lower()
    worker = Worker(app, loglevel=level, redirect_stdouts=False, override_logging=False)
    worker.shells = shells
    sys.setswitchinterval(SWITCH_S)
    worker.execute_from_commandline()


def _warm(watch: Watch) -> None:
    """Load the kernels while Faust waits to join its group; where they must be compiled, nobody calls that a stall."""
    try:
        warm()
    finally:
        watch.start()


class Worker(faust.Worker):
    """Faust's worker, which leaves in time: an orderly end waits for the broker, and one that is away never answers.

    When all services have ended, it waits a second for tasks that never end, and another until they are cancelled. Here
    they are cancelled at once, and waited for only as long as that takes.

    Attributes:
        shells: the stages that it runs.
    """

    shells: Sequence[StageShell] = ()

    def _schedule_shutdown(self, signal: Any) -> None:
        for seconds, leave in ((LEAVE_S, self._give_up), (LEAVE_S + 2, os._exit)):
            deadline = Timer(seconds, leave, (EXIT_CODE,))
            deadline.daemon = True
            deadline.start()
        super()._schedule_shutdown(signal)

    def _give_up(self, code: int) -> None:
        for shell in self.shells:
            shell.give_up()
        os._exit(code)

    def _gather_all(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()

    async def _sentinel_task(self) -> None:
        if cancelled := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(cancelled, timeout=1.0)


def _refuse_another_run(manifest: Manifest, line: str, theirs: str, ours: str) -> None:
    """Rows carry the run of their line: another release must never write them in its name."""
    if theirs != ours:
        raise InputError(
            f"line {line} of tape {manifest.tape} is of run {theirs}, this release is run {ours}",
            remedy=f"hand it over with `barograph tape cutover {manifest.tape} --line {line}`, start a new line, "
            "or make the tape again with --replace",
        )


def _refuse_what_cannot_go_on(shell: StageShell, bootstrap_servers: str) -> None:
    """Say before anything starts, in one sentence, that a state is foreign or its input has left the log."""
    with closing(consumer(bootstrap_servers)) as client:
        for partition in range(shell.manifest.partitions):
            low, _ = watermarks(client, shell.topic, partition)
            stored = shell.stored(partition)  # looked at, not restored: most partitions belong to other workers
            shell.refuse_trimmed(partition, stored[0].offset if stored else -1, low)
