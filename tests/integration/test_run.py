"""The main job on real market data, as a user runs it: the report against what is known of the files."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control.offline import write_grid
from control.pipeline import LINE_CONFIG
from schemas.units import PRICE_SCALE
from tests.integration.conftest import left_over

pytestmark = [pytest.mark.real, pytest.mark.data, pytest.mark.timeout(600)]

GRID = {"cell_ns": 100_000_000, "radius": 50, "emission": "active"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def esh4_report(report: Callable[..., Any], esh4: Path, folder: Path) -> dict[str, Any]:
    made: dict[str, Any] = report("run", esh4, "--tape", "t1", "--data", folder, "--report", folder / "r.json")
    return made


NOTHING_SAID = {"gaps": 0, "events": 0, "dead_letters": 0}
"""Records of a tape without a fault."""


def test_esh4_report(esh4_report: dict[str, Any], folder: Path) -> None:
    (file,) = esh4_report["input"]["files"]
    assert file["records"] == 68_792
    es = esh4_report["instruments"]["GLBX.MDP3:ESH4"]
    assert (es["bid_levels"], es["ask_levels"], es["orders"]) == (922, 565, 11_217)
    assert (es["best_bid_px"], es["best_ask_px"]) == (4_810_000_000_000, 4_810_250_000_000)
    assert (es["last_sequence"], es["records"]) == (59_585, 68_792)
    assert not any(es["counters"].values())
    assert es["book_digest"] == "d07527ebc365eacd62e88be4a937ea176c2e6e3c5d503799dd0929de946ed9c6"
    assert esh4_report["bins"]["emitted"] == 10_920
    rows = {"mbo": 68_792, "bins": 10_920, "trades": 2_973, "bars": 1_048}
    assert {name.split(".")[-2]: t["records"] for name, t in esh4_report["topics"].items()} == rows
    assert esh4_report["store"] == esh4_report["lake"] == rows | NOTHING_SAID
    assert esh4_report["reconcile"] == {"missing": 0, "duplicate": 0}
    assert (folder / "r.json").is_file()
    assert left_over(folder) == []


def test_run_and_grid_give_the_same_bins(esh4_report: dict[str, Any], esh4: Path, tmp_path: Path) -> None:
    manifest = write_grid(esh4, tmp_path, GRID)
    assert manifest["bins_sha256"] == esh4_report["bins"]["sha256"]
    by_instrument = {name: i["bins_sha256"] for name, i in manifest["instruments"].items()}
    assert by_instrument == esh4_report["bins"]["by_instrument"]


def test_sql_answers_from_bins_and_trades(
    esh4_report: dict[str, Any], report: Callable[..., Any], cli: Callable[..., Any], folder: Path
) -> None:
    (row,) = report("sql", "SELECT count() AS n, sum(sz) AS lots FROM trades WHERE tape = 't1'", "--data", folder)
    assert row == {"n": 2_973, "lots": 5_322 + 4_526 + 44}
    (row,) = report("sql", "SELECT max(best_bid_px) AS px, count() AS n FROM bins", "--data", folder)
    assert row["n"] == 10_920
    out = folder / "answer.parquet"
    assert (
        cli("sql", "SELECT * FROM bins LIMIT 5", "--format", "parquet", "--out", out, "--data", folder).returncode == 0
    )
    assert out.stat().st_size > 0
    drop = cli("sql", "DROP TABLE trades", "--data", folder)
    assert (drop.returncode, drop.stderr.count("\n")) == (2, 1), drop.stderr
    assert report("sql", "SELECT count() AS n FROM trades", "--data", folder) == [{"n": 2_973}]
    bad = cli("sql", "SELECT nonsense FROM bins", "--data", folder)
    assert bad.returncode == 2
    assert "nonsense" in bad.stderr


@pytest.mark.parametrize("width", LINE_CONFIG["intervals_ns"])
def test_bars_are_what_sql_gives_from_the_trades(
    esh4_report: dict[str, Any], report: Callable[..., Any], folder: Path, width: int
) -> None:
    """Equal in every bar and column; the notional as the double next to the exact sum, which SQL gives as text."""
    wanted = f"""
        SELECT instrument, intDiv(ts_ns, {width}) * {width} AS ts_start_ns, ts_start_ns + {width} AS ts_end_ns,
            argMin(px, (seq, part, row)) AS open_px, max(px) AS high_px, min(px) AS low_px,
            argMax(px, (seq, part, row)) AS close_px, toInt64(intDiv(sum(toInt128(px) * sz), sum(sz))) AS vwap_px,
            sum(sz) AS volume_sz, sumIf(sz, side = 1) AS trade_buy_sz, sumIf(sz, side = -1) AS trade_sell_sz,
            sumIf(sz, side = 0) AS trade_none_sz, count() AS trade_count, toString(sum(toInt128(px) * sz)) AS notional
        FROM trades WHERE tape = 't1' GROUP BY instrument, ts_start_ns ORDER BY instrument, ts_start_ns"""
    made = report("sql", " ".join(wanted.split()), "--data", folder)
    for bar in made:
        bar["trade_notional"] = int(bar.pop("notional")) / PRICE_SCALE
    columns = ", ".join(made[0])
    stored = f"SELECT {columns} FROM bars WHERE interval_ns = {width} ORDER BY instrument, seq, part, row"
    assert report("sql", stored, "--data", folder) == made
    assert sum(bar["trade_count"] for bar in made) == 2_973


def test_a_finished_tape_gives_its_report_again(
    esh4_report: dict[str, Any], report: Callable[..., Any], esh4: Path, folder: Path
) -> None:
    again = report("run", esh4, "--tape", "t1", "--data", folder)
    assert {**again, "seconds": 0} == {**esh4_report, "seconds": 0}
    assert "drain" not in again["seconds"], "no stage may start"


def test_a_tape_of_other_files_is_refused(
    esh4_report: dict[str, Any], cli: Callable[..., Any], data_dir: Path, folder: Path
) -> None:
    other = data_dir / "dbn" / "esh4-glbx-mdp3-20231224.mbo.dbn.zst"
    done: subprocess.CompletedProcess[str] = cli("run", other, "--tape", "t1", "--data", folder)
    assert done.returncode == 2
    assert "already holds esh4-glbx-mdp3-20231225" in done.stderr
    assert "--replace" in done.stderr


def test_aapl_of_2012(report: Callable[..., Any], aapl: Path, tmp_path: Path) -> None:
    made = report("run", aapl, "--data", tmp_path)
    assert made["tape"] == "aapl-20120621-lobster50-mbo"
    stock = made["instruments"]["XNAS.ITCH:AAPL"]
    assert (stock["bid_levels"], stock["ask_levels"], stock["orders"]) == (148, 130, 442)
    assert stock["book_digest"] == "0ba3b7f77c98c8852d2beaa89d252be53a9694d27841b8dd3aa2373eb6037762"
    rows = {"mbo": 100_176, "bins": 15_062, "trades": 6_268, "bars": 1_396}
    assert made["store"] == made["lake"] == rows | NOTHING_SAID
    assert made["reconcile"] == {"missing": 0, "duplicate": 0}
    assert write_grid(aapl, tmp_path / "grid", GRID)["bins_sha256"] == made["bins"]["sha256"]
    assert left_over(tmp_path) == []
