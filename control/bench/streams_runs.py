"""Rows of whole runs: `barograph run` on a real tape, everything embedded, from the command to the report."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from control.bench.engine_runs import real_tape
from control.bench.measure import Figure, Row, Skip
from control.bench.oracle import WrongAnswerError
from control.bench.session import Session
from control.offline import write_grid
from control.pipeline import LINE_CONFIG
from runtime.errors import MissingServiceError

RUNS_MAX: Final = 3
"""A run starts a broker and a store and takes half a minute; more of them tell nothing new."""


def run_tape(name: str) -> Callable[[Session], list[Row]]:
    """The row of one real tape."""
    row = f"run_{name}"

    def measure(session: Session) -> list[Row]:
        if session.quick:
            raise Skip(f"{row} takes longer than a quick bench may")
        path, tick_px = real_tape(session, name)
        config = {k: LINE_CONFIG[k] for k in ("cell_ns", "radius")} | {"emission": "active"}
        truth = write_grid(path, session.folder() / f"grid-{name}", config, tick_px=tick_px)["bins_sha256"]
        took, told = [], {}
        for _ in range(min(session.runs, RUNS_MAX)):
            begin_s = time.monotonic()
            told = _run(path, session.folder())
            took.append(time.monotonic() - begin_s)
            if told["bins"]["sha256"] != truth:
                raise WrongAnswerError(row, "its bins differ from those of the engine alone")
        conditions = {"tape": path.name, "topics": told["topics"], "seconds": told.get("seconds"), "sha256": truth}
        return [Row(row, Figure(tuple(took)), "s wall", conditions=conditions)]

    return measure


def _run(path: Path, folder: Path) -> dict[str, Any]:
    """`barograph run` in a folder of its own; its report.

    Raises:
        MissingServiceError: it failed.
    """
    with TemporaryDirectory(dir=folder) as data:
        argv = [sys.executable, "-m", "control.cli", "run", str(path), "--data", data, "--json"]
        root = Path(__file__).parent.parent.parent
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=root)
    if done.returncode:
        raise MissingServiceError(f"`barograph run {path.name}` failed", remedy=done.stderr.strip()[-500:])
    return dict(json.loads(done.stdout))
