"""Every real DBN file at hand: whole, with the counts that Databento's own reader gives, or refused by name."""

from pathlib import Path

import databento
import numpy as np
import pytest

from connectors.dbn_errors import DbnError, NotDbnError, WrongSchemaError
from connectors.dbn_file import DbnFile
from connectors.dbn_records import Run
from connectors.dbn_verify import require_mbo, verify
from schemas.mbo import MBO_RTYPE

pytestmark = pytest.mark.data


def test_every_file_is_whole_or_refused_by_name(data_dir: Path) -> None:
    seen = 0
    for path in sorted([*data_dir.glob("dbn*/**/*.db*"), *data_dir.glob("derived/*.dbn*")]):
        seen += 1
        if ".frag" in path.name or path.suffix == ".dbz":
            with pytest.raises(NotDbnError, match=r"fragment|legacy"):
                verify(path)
            continue
        report = verify(path)
        theirs = sum(1 for _ in databento.DBNStore.from_file(path)) if report.bytes < 30_000 else report.records
        assert (path.name, report.records) == (path.name, theirs)
    assert seen > 150


@pytest.mark.parametrize(
    ("name", "records", "tick_px"),
    [
        ("dbn/esh4-glbx-mdp3-20231225.mbo.dbn.zst", 68_792, 250_000_000),
        ("dbn/esh4-glbx-mdp3-20231224.mbo.dbn.zst", 8_725, 250_000_000),
        ("derived/AAPL_20120621_lobster50.mbo.dbn.zst", 100_176, 10_000_000),
    ],
)
def test_records_are_byte_equal_to_databentos_reader(data_dir: Path, name: str, records: int, tick_px: int) -> None:
    path = data_dir / name
    report = verify(path)
    require_mbo(report)
    assert report.records == records
    (stats,) = report.instruments.values()
    assert stats.tick_px == tick_px
    with DbnFile(path) as file:
        got = np.concatenate([run.mbo() for run in file.runs()])
    assert got.tobytes() == databento.DBNStore.from_file(path).to_ndarray().tobytes()


def test_a_live_session_of_several_schemas_is_walked_and_not_replayed(data_dir: Path) -> None:
    path = data_dir / "dbn_official" / "databento-python" / "LIVE" / "test_data.live.dbn.zst"
    report = verify(path)
    assert report.by_rtype["symbol mapping"] == 20
    with DbnFile(path) as file:
        runs: list[Run] = list(file.runs())
    assert sum(len(r) for r in runs if r.rtype == MBO_RTYPE) == report.by_rtype["mbo"] == 5
    assert not any(name.split(":")[1].isdigit() for name in report.instruments)
    with pytest.raises(WrongSchemaError, match="barograph replays mbo alone"):
        require_mbo(report)


def test_an_mbp_file_is_not_replayed(data_dir: Path) -> None:
    with pytest.raises(WrongSchemaError, match="holds mbp-1 records; barograph replays mbo"):
        require_mbo(verify(data_dir / "dbn" / "naut_futures_mbp-1_20240701.dbn.zst"))


def test_an_official_file_cut_at_each_byte_is_refused(data_dir: Path, tmp_path: Path) -> None:
    data = (data_dir / "dbn_official" / "dbn" / "test_data.mbo.v3.dbn.zst").read_bytes()
    path = tmp_path / "cut.dbn.zst"
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        with pytest.raises(DbnError):
            verify(path)


def test_a_real_file_cut_anywhere_is_refused_unless_it_ends_with_its_metadata(data_dir: Path, tmp_path: Path) -> None:
    data = (data_dir / "dbn" / "esh4-glbx-mdp3-20231224.mbo.dbn.zst").read_bytes()
    path = tmp_path / "cut.dbn.zst"
    empty = []
    for cut in [*range(60, 140), *range(200, len(data), 1009), len(data) - 1]:
        path.write_bytes(data[:cut])
        try:
            assert verify(path).is_empty
        except DbnError:
            continue
        empty.append(cut)
    assert empty == [91], "only the edge between metadata and records is a valid shorter file"
