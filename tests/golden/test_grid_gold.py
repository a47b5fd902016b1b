"""The columns that `barograph grid --gold` writes of real days, as another reader finds them, against known sums."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

pytestmark = pytest.mark.data

SUMS = {
    "esh4": {"pressure": 284460.249018, "vacuum": 292696.624800, "composite": 86600.7888771, "flow_score": -4732.21091},
    "aapl": {
        "pressure": 21203766.9258,
        "vacuum": 22700753.4630,
        "composite": -255259.678178,
        "flow_score": -3275.07241,
    },
}
STATES = {
    "esh4": {-2: 13000, -1: 9478, 0: 1054471, 1: 11300, 2: 14671},
    "aapl": {-2: 131350, -1: 93225, 0: 1059534, 1: 94100, 2: 143053},
}
TOLERANCE = {"pressure": 1e-11, "vacuum": 1e-11, "composite": 1e-11, "flow_score": 1e-8}
"""Relative, as far as the figures have digits; the flow score's have six that are certain, and agree in more."""
TICK = {"esh4": "0.25", "aapl": "0.01"}


@pytest.mark.parametrize("day", ["esh4", "aapl"])
def test_sums_of_the_written_columns(day: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    file = request.getfixturevalue(day)
    argv = [sys.executable, "-m", "control.cli", "grid", str(file), "--out", str(tmp_path), "--tick", TICK[day]]
    done = subprocess.run([*argv, "--gold", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    frame = pl.scan_parquet(tmp_path / "bins.parquet").select(*TOLERANCE, "state5", "gold_valid").collect()
    for name, tolerance in TOLERANCE.items():
        assert frame[name].explode().sum() == pytest.approx(SUMS[day][name], rel=tolerance), name
    counts = frame["state5"].explode().value_counts()
    assert dict(counts.iter_rows()) == STATES[day]
    assert (frame["gold_valid"] == 1).all()
    assert len(json.loads(done.stdout)["gold_sha256"]) == 64
