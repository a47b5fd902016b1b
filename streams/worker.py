"""The process of one or more stages: a Faust worker with a shell for each, until SIGTERM or Ctrl-C.

Stages in one process share the app (one consumer, one group) and nothing else: each has its own thread, producer and
checkpoints. So a stage that gets a worker of its own goes on from the states it stored in a common one.
"""

import logging
from collections.abc import Sequence
from typing import Final

import faust

from engine.warm import warm
from runtime.clock import WallClock
from runtime.kafka import CheckedProducer, ping
from runtime.object_store import LocalObjectStore
from runtime.settings import Settings
from runtime.tapes import TapeStore
from runtime.telemetry import serve_metrics
from streams.checkpoints import CheckpointStore
from streams.faust_app import make_app
from streams.shell import StageShell, Timing
from streams.stages import STAGES

GROUP: Final = "barograph-{tape_id}-{line}-{stages}"
"""Consumer group of the workers of the same stages. The tape's random id keeps a replaced tape from meeting the old
one's commits."""


def run_stages(names: Sequence[str], tape: str, line: str, settings: Settings, *, slot: int = 0) -> None:
    """Run stages on a tape and line; ends the process.

    Args:
        names: of the stages, in any order; all if empty.
        tape, line: what to work on; the tape must exist and hold the line.
        settings: `bootstrap_servers` must be set.
        slot: number of this worker among those of these stages; each has one of its own.

    Raises:
        InputError: no such tape or line, or a checkpoint of another run.
        MissingServiceError: no broker.
    """
    ping(settings.bootstrap_servers)
    store = LocalObjectStore(settings.state_dir)
    manifest = TapeStore(store).require(tape)
    config = manifest.require_line(line).config
    stages = [make(config) for name, make in STAGES.items() if name in names or not names]
    warm()
    group = GROUP.format(tape_id=manifest.tape_id, line=line, stages="-".join(stage.name for stage in stages))
    app = make_app(group, settings.bootstrap_servers, settings.data_dir / "faust" / group, member=f"{group}-{slot}")
    for stage in stages:
        StageShell(
            app,
            stage,
            manifest,
            line,
            CheckedProducer(settings.bootstrap_servers),
            CheckpointStore(store, f"checkpoints/{manifest.tape_id}/{line}/{stage.name}"),
            WallClock(),
            Timing(settings.checkpoint_min_s, settings.checkpoint_max_s),
        )
    serve_metrics(settings.metrics_port)
    level = logging.getLevelName(logging.getLogger().level).lower()
    faust.Worker(app, loglevel=level, redirect_stdouts=False, override_logging=False).execute_from_commandline()
