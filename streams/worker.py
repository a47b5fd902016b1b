"""The process of a stage: a Faust worker with one shell in it, until SIGTERM or Ctrl-C."""

import logging
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

GROUP: Final = "barograph-{tape_id}-{line}-{stage}"
"""Consumer group of a stage. The tape's random id keeps a replaced tape from meeting the old one's commits."""


def run_stage(name: str, tape: str, line: str, settings: Settings, *, slot: int = 0) -> None:
    """Run a stage on a tape and line; ends the process.

    Args:
        name: of the stage.
        tape, line: what to work on; the tape must exist and hold the line.
        settings: `bootstrap_servers` must be set.
        slot: number of this worker among those of the stage; each has one of its own.

    Raises:
        InputError: no such tape or line, or a checkpoint of another run.
        MissingServiceError: no broker.
    """
    ping(settings.bootstrap_servers)
    store = LocalObjectStore(settings.state_dir)
    manifest = TapeStore(store).require(tape)
    stage = STAGES[name](manifest.require_line(line).config)
    warm()
    group = GROUP.format(tape_id=manifest.tape_id, line=line, stage=name)
    app = make_app(group, settings.bootstrap_servers, settings.data_dir / "faust" / group, member=f"{group}-{slot}")
    StageShell(
        app,
        stage,
        manifest,
        line,
        CheckedProducer(settings.bootstrap_servers),
        CheckpointStore(store, f"checkpoints/{manifest.tape_id}/{line}/{name}"),
        WallClock(),
        Timing(settings.checkpoint_min_s, settings.checkpoint_max_s),
    )
    serve_metrics(settings.metrics_port)
    level = logging.getLevelName(logging.getLogger().level).lower()
    faust.Worker(app, loglevel=level, redirect_stdouts=False, override_logging=False).execute_from_commandline()
