"""Ctrl-C and SIGTERM at any moment leave no process, and a data folder that starts again and ends with the truth."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control.offline import write_grid
from tests.integration.conftest import ROOT, SAMPLE, left_over

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

MOMENTS_S = (0.5, 2.5, 4.0, 6.0)
"""Before anything runs, while the broker starts, while workers start, while they work; later ones may find it done."""


def gone(folder: Path, within_s: float = 10.0) -> list[str]:
    deadline = time.monotonic() + within_s
    while left_over(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left_over(folder)


def start(folder: Path) -> "subprocess.Popen[bytes]":
    argv = [sys.executable, "-m", "control.cli", "run", str(SAMPLE), "--data", str(folder)]
    with (folder / "out.log").open("ab") as log:
        return subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def test_a_run_that_is_interrupted_again_and_again(report: Callable[..., Any], tmp_path: Path) -> None:
    for moment_s, number in zip(MOMENTS_S, (signal.SIGINT, signal.SIGTERM) * 2, strict=True):
        running = start(tmp_path)
        time.sleep(moment_s)
        running.send_signal(number)
        code = running.wait(30)
        early = code == -number and not (tmp_path / "log").exists()  # before Python had begun: the system's own answer
        assert code in (0, 130) or early, (tmp_path / "out.log").read_text()[-3000:]
        assert gone(tmp_path) == []
    assert "Traceback" not in (tmp_path / "out.log").read_text()
    made = report("run", SAMPLE, "--data", tmp_path)
    grid = {"cell_ns": 100_000_000, "radius": 50, "emission": "active"}
    assert made["bins"]["sha256"] == write_grid(SAMPLE, tmp_path / "grid", grid)["bins_sha256"]
    assert made["reconcile"] == {"missing": 0, "duplicate": 0}


def test_a_run_that_is_interrupted_after_publishing(report: Callable[..., Any], tmp_path: Path) -> None:
    """Published is not arrived: the next run must go on, not report what is half computed."""
    tmp_path = tmp_path / "a földer"  # what people call their folders
    tmp_path.mkdir()
    running = start(tmp_path)
    deadline = time.monotonic() + 90
    while not any('"finished"' in p.read_text() for p in tmp_path.glob("state/tapes/*/manifest.json")):
        assert running.poll() is None, (tmp_path / "out.log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 130
    made = report("run", SAMPLE, "--data", tmp_path)
    grid = {"cell_ns": 100_000_000, "radius": 50, "emission": "active"}
    assert made["bins"]["sha256"] == write_grid(SAMPLE, tmp_path / "grid", grid)["bins_sha256"]
    assert made["instruments"]
    assert made["reconcile"] == {"missing": 0, "duplicate": 0}


def test_a_killed_run_takes_everything_with_it(tmp_path: Path) -> None:
    running = start(tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "log").is_dir() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    assert len(left_over(tmp_path)) > 1
    running.kill()
    running.wait()
    assert gone(tmp_path) == []


def test_demo_runs_and_reports(tmp_path: Path) -> None:
    ports = {"BAROGRAPH_API_PORT": "0", "BAROGRAPH_GATEWAY_PORT": "0"}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "control.cli", "demo", "--seconds", "6", "--headless"),
            *("--report", str(tmp_path / "r.json"), "--data", str(tmp_path / "d")),
        ],
        cwd=ROOT,
        env={**os.environ, **ports},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "r.json").read_text())
    assert made["complete"], made
    assert made["console"].startswith("http://127.0.0.1:")
    for rows in made["rows"].values():
        assert rows["mbo"] > 100
        assert rows["bins"] > 10
    assert gone(tmp_path) == []
