"""`barograph grid` and `barograph book` on a simulated file: names, units, readers, memory."""

import json
import subprocess
import sys
from pathlib import Path

import databento_dbn
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from connectors import simulate
from connectors.dbn_file import DbnFile
from control import offline
from control.parquet_file import ParquetFile
from engine.engine import Engine, EngineConfig
from engine.gold import Gold, GoldConfig
from runtime.errors import InputError
from schemas import bins, gold
from schemas.columns import RowHash, hash_of_hashes

GRID = {"cell_ns": 100_000_000, "radius": 3, "emission": "active"}


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute of two instruments."""
    path = tmp_path_factory.mktemp("tape") / "made.dbn.zst"
    simulate.write(path, records=6_000, seed=3, instruments=2, hours=1 / 60)
    return path


def records_of(path: Path) -> np.ndarray:
    with DbnFile(path) as file:
        return np.concatenate([run.mbo() for run in file.runs()])


def test_grid_has_every_bin_and_polars_reads_it_lazily(tape: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    manifest = offline.write_grid(tape, tmp_path, GRID, on_progress=lambda *at: seen.append(at))
    frame = pl.scan_parquet(tmp_path / "bins.parquet").collect()
    assert frame.columns == ["instrument", *(c.name for c in bins.columns(3)), *bins.REST_VECTORS]
    assert frame.schema["v_rest_depth"] == pl.Array(pl.Float64, 7)
    assert frame.null_count().sum_horizontal().item() == 0
    rows = {name: told["bins"] for name, told in manifest["instruments"].items()}
    assert dict(frame.group_by("instrument").len().iter_rows()) == rows
    assert seen == sorted(seen)
    assert seen[-1][0] in (seen[-1][1] - 1, seen[-1][1])
    sums = json.loads((tmp_path / "checksums.json").read_text())
    assert sums == {name: offline._sha256(tmp_path / name) for name in ("bins.parquet", "manifest.json")}
    assert not list(tmp_path.glob(".*"))


def test_a_limit_stops_after_so_many_records(tape: Path, tmp_path: Path) -> None:
    manifest = offline.write_grid(tape, tmp_path, GRID, limit=4_321)
    assert sum(i["records"] for i in manifest["instruments"].values()) == 4_321
    found = pl.scan_parquet(tmp_path / "bins.parquet").select(pl.col("event_count").sum()).collect().item()
    assert found == 4_321, "the last bin is there too"


def test_values_survive_the_file_bit_for_bit(tape: Path, tmp_path: Path) -> None:
    offline.write_grid(tape, tmp_path, GRID)
    frame = pl.read_parquet(tmp_path / "bins.parquet").filter(pl.col("instrument").str.ends_with("SYN1"))
    records = records_of(tape)
    engine, start, tables = Engine(EngineConfig(tick_px=250_000_000, radius=3)), 0, []
    mine = np.ascontiguousarray(records[records["instrument_id"] == 2])
    while start < len(mine):
        output, start = engine.apply(mine, start)
        tables.append(output.bins)
    tables.append(engine.flush()[0].bins)
    for column in bins.engine_columns(3):
        expected = np.concatenate([t[column.name] for t in tables])
        assert frame[column.name].to_numpy().tobytes() == expected.tobytes(), column.name


def gold_of(path: Path, instrument_id: int, config: GoldConfig) -> dict[str, np.ndarray]:
    """Gold of one instrument, its records applied in pieces of another length than the file's."""
    records = records_of(path)
    mine = np.ascontiguousarray(records[records["instrument_id"] == instrument_id])
    engine, reducer, rows = Engine(EngineConfig(tick_px=250_000_000, radius=3)), None, []
    for piece in np.array_split(mine, 7):
        start = 0
        while start < len(piece):
            output, start = engine.apply(np.ascontiguousarray(piece), start)
            reducer = reducer or Gold(config, GRID["cell_ns"], 250_000_000, 3)
            rows.append(reducer.apply(output.bins))
    rows.append(reducer.apply(engine.flush()[0].bins))
    return {column.name: np.concatenate([table[column.name] for table in rows]) for column in gold.columns(3)}


@pytest.mark.parametrize("state_table", ["symmetric", "original"])
def test_gold_stands_beside_the_bins_and_leaves_them_alone(tape: Path, tmp_path: Path, state_table: str) -> None:
    config = GoldConfig(state_table=state_table)
    plain = offline.write_grid(tape, tmp_path / "plain", GRID)
    golden = offline.write_grid(tape, tmp_path / "gold", GRID, gold=config)
    frame, without = (pl.read_parquet(tmp_path / name / "bins.parquet") for name in ("gold", "plain"))
    added = [c.name for c in gold.columns(3) if c.name != "bin_seq"]
    assert frame.columns == [*without.columns, *added]
    assert frame.drop(added).equals(without)
    assert golden["bins_sha256"] == plain["bins_sha256"]
    assert "gold" not in plain
    assert "gold_sha256" not in plain
    expected = {n: gold_of(tape, i, config) for i, n in enumerate(sorted(golden["instruments"]), 1)}
    hashes = {}
    for name, columns in expected.items():
        mine, digest = frame.filter(pl.col("instrument") == name), RowHash(gold.columns(3))
        digest.update(columns)
        hashes[name] = digest.hexdigest()
        assert golden["instruments"][name]["gold_sha256"] == hashes[name]
        for column in gold.columns(3):
            assert mine[column.name].to_numpy().tobytes() == columns[column.name].tobytes(), column.name
        assert np.abs(columns["flow_score"]).max() > 0, "long enough for scores"
    told = json.loads((tmp_path / "gold" / "manifest.json").read_text())
    assert told["gold_sha256"] == golden["gold_sha256"] == hash_of_hashes(hashes)
    assert told["gold"]["config_sha256"] == config.hash()
    assert GoldConfig(**told["gold"]["config"]) == config


def test_book_is_a_data_frame_of_dbn(tape: Path, tmp_path: Path) -> None:
    """Same names, order, types and units as `DBNStore.to_df(price_type="fixed", pretty_ts=False)`."""
    told = offline.write_book(tape, tmp_path / "book.parquet")
    frame = pl.read_parquet(tmp_path / "book.parquet")
    assert frame.columns == ["instrument", *databento_dbn.MBP10Msg._ordered_fields]
    for name, kind in databento_dbn.MBP10Msg._dtypes:
        if name in frame.columns:
            assert frame.schema[name] == (pl.String if kind == "S1" else pl.from_numpy(np.zeros(1, kind)).dtypes[0]), (
                name
            )
    assert len(frame) == told["rows"] > 1_000
    assert set(frame["action"]) <= set("ACMTFRN")
    last = frame.filter(pl.col("instrument") == frame["instrument"][-1])[-1]
    end = told["instruments"][last["instrument"].item()]
    assert (last["bid_px_00"].item(), last["ask_px_00"].item()) == (end["best_bid_px"], end["best_ask_px"])
    assert "bins" not in end


def test_book_rows_do_not_depend_on_how_little_physics_is_kept(tape: Path, tmp_path: Path) -> None:
    offline.write_book(tape, tmp_path / "book.parquet")
    frame = pl.read_parquet(tmp_path / "book.parquet").filter(pl.col("instrument").str.ends_with("SYN0"))
    records = records_of(tape)
    engine, start, rows = Engine(EngineConfig(tick_px=250_000_000, mbp10=True)), 0, []
    mine = np.ascontiguousarray(records[records["instrument_id"] == 1])
    while start < len(mine):
        output, start = engine.apply(mine, start)
        rows.append(output.mbp10)
    expected = np.concatenate(rows)
    assert len(frame) == len(expected)
    for name in ("ts_event", "price", "size", "sequence", "flags", "bid_px_09", "ask_sz_04", "bid_ct_00"):
        assert np.array_equal(frame[name].to_numpy(), expected[name]), name


def test_a_place_that_cannot_be_written_is_named(tape: Path, tmp_path: Path) -> None:
    (tmp_path / "bins.parquet").mkdir()
    with pytest.raises(InputError, match=r"bins\.parquet cannot be written"):
        offline.write_grid(tape, tmp_path, GRID, limit=2_000)
    assert [p.name for p in tmp_path.iterdir()] == ["bins.parquet"]


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("x", pa.int64(), nullable=False)])
    rows = pa.RecordBatch.from_arrays([pa.array([1, 2, 3])], schema=schema)

    def fail_after_two_groups() -> None:
        with ParquetFile(tmp_path / "x.parquet", schema, 1) as file:
            file.write(rows)
            file.write(rows)
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_two_groups()
    assert list(tmp_path.iterdir()) == []


def test_row_groups_keep_order_and_a_file_may_be_empty(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("x", pa.int64(), nullable=False)])
    with ParquetFile(tmp_path / "x.parquet", schema, 8 * 1000) as file:
        for first in range(0, 10_000, 100):
            file.write(pa.RecordBatch.from_arrays([pa.array(np.arange(first, first + 100))], schema=schema))
        file.finish()
    assert pl.read_parquet(tmp_path / "x.parquet")["x"].to_list() == list(range(10_000))
    with ParquetFile(tmp_path / "none.parquet", schema, 1) as file:
        file.finish()
    assert pl.read_parquet(tmp_path / "none.parquet").shape == (0, 1)


PEAK = """
import resource, sys
from pathlib import Path
from control.offline import write_grid
grid = {"cell_ns": int(sys.argv[3]), "radius": 50, "emission": "dense"}
bins = [i["bins"] for i in write_grid(Path(sys.argv[1]), Path(sys.argv[2]), grid)["instruments"].values()]
print(*bins, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_bins_of_a_file(tmp_path: Path) -> None:
    """One file, ten times as many bins: 80 MB and 800 MB of rows in the same memory."""
    tape = tmp_path / "made.dbn.zst"
    simulate.write(tape, records=2_000, seed=3, hours=0.25)
    found = []
    for cell_ns in (225_000_000, 22_500_000):
        argv = [sys.executable, "-c", PEAK, str(tape), str(tmp_path / "grid"), str(cell_ns)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        found.append(tuple(map(int, done.stdout.split())))
    (few, small_mb), (many, large_mb) = found
    assert 9 * few < many
    assert large_mb - small_mb < 60, found
