"""The bench as a user runs it: quick, complete, and valid JSON. No figure is judged here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from control.bench.engine_bench import CASES
from control.bench.engine_runs import TAPES

ROOT = Path(__file__).parent.parent.parent


def bench(*argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "BAROGRAPH_DATA"} | variables
    command = [sys.executable, "-m", "control.cli", "bench", *argv]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def quick() -> dict[str, Any]:
    done = bench("engine", "--quick", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_every_row_is_measured_or_told_as_skipped(quick: dict[str, Any]) -> None:
    measured = [row["row"] for row in quick["rows"]]
    skipped = [s["row"] for s in quick["skipped"]]
    assert sorted(measured + skipped) == sorted(row for case in CASES for row in case.rows)
    assert all(s["reason"] for s in quick["skipped"])
    real = {f"{row}_{name}" for row in ("book_physics", "grid") for name in TAPES}
    real |= {f"grid_{name}_engine" for name in TAPES}
    assert set(skipped) <= real | {"book_l3_vs_nautilus", "book_l3_vs_hftbacktest"}


def test_the_document_has_its_shape(quick: dict[str, Any]) -> None:
    assert quick["bench"] == "engine"
    assert quick["machine"]["cpus"] >= 1
    assert quick["calibration"]["touch_ns"] > 0
    assert quick["calibration"]["load_ns"] > 0
    assert isinstance(quick["noisy"], bool)
    for row in quick["rows"]:
        assert row["value"] > 0
        assert row["min"] <= row["value"] <= row["max"]
        assert (row["ratio"] is None) == (row["baseline"] is None)
        assert not row["judged"]
    deep = next(row for row in quick["rows"] if row["row"] == "book_l3_deep")
    assert deep["baseline"] == "book_l3"
    assert deep["gate"] == {"relation": ">=", "limit": 0.8}
    assert deep["conditions"]["live_orders"] == 200_000
    assert len(deep["conditions"]["digest"]) == 64


@pytest.mark.data
def test_real_tapes_are_measured(data_dir: Path) -> None:
    done = bench("engine", "--quick", "--json", "--row", "book_physics_aapl", BAROGRAPH_DATA=str(data_dir))
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert row["conditions"]["records"] == 100_176


@pytest.mark.data
def test_a_grid_file_is_measured_beside_its_rows_alone(data_dir: Path) -> None:
    done = bench("engine", "--quick", "--json", "--row", "grid_esh4", "--market-data", str(data_dir))
    assert done.returncode == 0, done.stderr
    grid, engine = json.loads(done.stdout)["rows"]
    assert (grid["row"], grid["baseline"], grid["gate"]["limit"]) == ("grid_esh4", "parquet_alone", 2.0)
    assert (engine["row"], engine["aim"]["limit"]) == ("grid_esh4_engine", 0.3)
    assert grid["conditions"]["bins"] == 10_920
    assert engine["value"] < grid["value"]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("nothing",), "bench nothing is not known; use engine, streams, replay"),
        (("engine", "--row", "book_l4"), "bench engine has no row book_l4"),
        (("engine", "--quick", "--runs", "3"), "exclude each other"),
    ],
)
def test_wrong_usage_is_one_sentence(argv: tuple[str, ...], told: str) -> None:
    done = bench(*argv)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
