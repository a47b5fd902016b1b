"""Several commands on one data folder: `up` in one terminal, the others beside it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import ROOT, SAMPLE, left_over

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@pytest.fixture
def up(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    ports = {"BAROGRAPH_API_PORT": "0", "BAROGRAPH_GATEWAY_PORT": "0"}
    argv = [sys.executable, "-m", "control.cli", "up", "--data", str(tmp_path)]
    with (tmp_path / "up.log").open("wb") as log:
        process = subprocess.Popen(argv, cwd=ROOT, env={**os.environ, **ports}, stdout=log, stderr=log)
    deadline = time.monotonic() + 90
    while "gateway" not in endpoints(tmp_path):
        assert process.poll() is None, (tmp_path / "up.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield process
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 130
    assert left_over(tmp_path) == []


def endpoints(folder: Path) -> dict[str, Any]:
    path = folder / "endpoints.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def test_run_replace_status_and_sql_beside_up(
    up: "subprocess.Popen[bytes]", report: Callable[..., Any], cli: Callable[..., Any], tmp_path: Path
) -> None:
    first = report("run", SAMPLE, "--tape", "t1", "--data", tmp_path)
    again = report("run", SAMPLE, "--tape", "t1", "--data", tmp_path, "--replace")
    assert again["bins"] == first["bins"]
    assert again["reconcile"] == {"missing": 0, "duplicate": 0}
    (row,) = report("sql", "SELECT count() AS n FROM mbo WHERE tape = 't1'", "--data", tmp_path)
    assert row["n"] == first["store"]["mbo"]
    seen = report("status", "--data", tmp_path)
    assert seen["services"]["kafka"]["answers"]
    assert seen["tapes"]["t1"]["main"]["lag"] == {"bins": 0, "trades": 0, "bars": 0}
    assert report("replay", SAMPLE, "--tape", "t2", "--speed", "max", "--data", tmp_path)["messages"] > 0
    deadline = time.monotonic() + 90
    while report("reconcile", "--tape", "t2", "--data", tmp_path)["missing"] if arrived(tmp_path, cli) else True:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert up.poll() is None


def arrived(folder: Path, cli: Callable[..., Any]) -> bool:
    """Whether both sinks say that all of tape t2 is written."""
    done = cli("status", "--data", folder, "--json")
    tape = json.loads(done.stdout)["tapes"]["t2"]["main"]
    return (
        tape["lag"] == {"bins": 0, "trades": 0, "bars": 0} and tape["rows"]["lake"] == tape["rows"]["clickhouse"] != {}
    )
