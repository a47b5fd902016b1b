"""Verification: what is whole passes with its truth, everything else is one sentence."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import databento_dbn
import numpy as np
import pytest
import zstandard

from connectors.dbn_errors import (
    DamagedFileError,
    DbnError,
    ManifestMismatchError,
    NoRecordsError,
    NotDbnError,
    TruncatedFileError,
    UnreadableFileError,
    UnsupportedFileError,
    WrongSchemaError,
)
from connectors.dbn_file import DbnFile
from connectors.dbn_records import SIZES
from connectors.dbn_verify import Expected, load_manifest, require_mbo, verify, verify_all
from runtime.errors import InputError
from schemas.mbo import MBO_DTYPE

Make = Callable[..., bytes]
Orders = Callable[..., np.ndarray]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.dbn.zst"


def test_a_whole_file_is_described(path: Path, make_dbn: Make, make_orders: Orders) -> None:
    rows = make_orders(5000)
    data = make_dbn(rows, frames=4)
    path.write_bytes(data)
    seen: list[tuple[int, int]] = []
    report = verify(path, on_progress=lambda done, of: seen.append((done, of)))
    assert (report.version, report.schema, report.dataset) == (3, "mbo", "XTST.TEST")
    assert (report.records, report.frames, report.bytes) == (5000, 4, len(data))
    assert report.sha256 == hashlib.sha256(data).hexdigest()
    assert (report.first_ns, report.last_ns) == (rows["ts_event"][0], rows["ts_event"][-1])
    stats = report.instruments["XTST.TEST:TEST"]
    assert (stats.records, stats.tick_px) == (5000, 250_000_000)
    assert (stats.low_px, stats.high_px) == (rows["price"].min(), rows["price"].max())
    assert (stats.first_sequence, stats.last_sequence) == (0, 4999)
    assert seen[-1] == (len(data), len(data))
    require_mbo(report)
    json.dumps(report.to_dict())


@pytest.mark.parametrize("frames", [1, 3])
def test_a_compressed_file_cut_at_each_byte_is_refused_or_a_valid_shorter_one(
    path: Path, make_dbn: Make, make_orders: Orders, make_metadata: Make, frames: int
) -> None:
    rows = make_orders(40)
    data = make_dbn(rows, frames=frames)
    pack = zstandard.ZstdCompressor(level=3, write_checksum=True).compress
    head = len(pack(make_metadata()))
    edges = {} if frames == 1 else {head: 0, head + len(pack(rows[:20].tobytes())): 20}
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        if cut in edges:
            assert verify(path).records == edges[cut]
            manifest = {path.name: Expected(records=40)}
            with pytest.raises(ManifestMismatchError):
                verify(path, manifest=manifest)
        else:
            with pytest.raises((TruncatedFileError, NotDbnError)) as caught:
                verify(path)
            assert "\n" not in str(caught.value)
    path.write_bytes(data)
    assert verify(path, manifest={path.name: Expected(records=40)}).records == 40


def test_a_plain_file_cut_at_each_byte_is_refused_or_ends_at_a_record(
    tmp_path: Path, make_dbn: Make, make_orders: Orders, make_metadata: Make
) -> None:
    path, data, head = tmp_path / "a.dbn", make_dbn(make_orders(3)), len(make_metadata())
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        if cut >= head and (cut - head) % 56 == 0:
            assert verify(path).records == (cut - head) // 56
        else:
            with pytest.raises((TruncatedFileError, NotDbnError)):
                verify(path)


def test_a_file_that_ends_with_its_metadata_is_empty_and_not_replayed(path: Path, make_metadata: Make) -> None:
    path.write_bytes(make_metadata())
    report = verify(path)
    assert report.is_empty
    assert report.records == 0
    with pytest.raises(NoRecordsError, match="nothing to replay"):
        require_mbo(report)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, 0, "damaged record 2 at byte .*: its length is 0 bytes"),
        (0, 13, "damaged record 2 at byte .*: its length is 52 bytes"),
        (1, 7, "damaged record 2 at byte .*: its type 7 does not exist"),
    ],
)
def test_damaged_record_headers_are_named(
    path: Path, make_dbn: Make, make_orders: Orders, make_metadata: Make, at: int, value: int, message: str
) -> None:
    data = bytearray(make_dbn(make_orders(5)))
    data[len(make_metadata()) + 2 * 56 + at] = value
    path.write_bytes(data)
    with pytest.raises(DamagedFileError, match=message) as caught:
        verify(path)
    assert caught.value.record == 2
    assert caught.value.offset == len(make_metadata()) + 2 * 56


def test_a_foreign_record_in_an_mbo_file_is_refused(path: Path, make_metadata: Make, make_orders: Orders) -> None:
    trade = bytes([12, 0]) + bytes(46)
    path.write_bytes(make_metadata() + make_orders(2).tobytes() + trade)
    with pytest.raises(DamagedFileError, match=r"record 2 .* type trades in a file of schema mbo"):
        verify(path)


def test_trailing_garbage_is_refused(path: Path, make_dbn: Make, make_orders: Orders) -> None:
    path.write_bytes(make_dbn(make_orders(5), frames=2) + b"garbage")
    with pytest.raises(DamagedFileError, match="other bytes after its last zstd frame"):
        verify(path)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", NotDbnError, "is empty"),
        (b"hello, this is text", NotDbnError, "is not a DBN file"),
        (b"hi", NotDbnError, "is not a DBN file"),
        (zstandard.compress(b""), NotDbnError, "holds no bytes"),
        (zstandard.compress(b"hello, text"), NotDbnError, "is not a DBN file"),
        (b"DBN\x07" + bytes(100), UnsupportedFileError, "DBN version 7"),
        (b"DBN\x03\xff\xff\xff\xff" + bytes(100), UnsupportedFileError, "bytes of metadata"),
        (b"DBN\x03\x10\0\0\0" + bytes(100), DamagedFileError, "metadata that does not decode"),
        (bytes([14, 160]) + bytes(54), NotDbnError, "fragment"),
        (b"\x50\x2a\x4d\x18\x90\0\0\0DBZ\x01" + bytes(200), NotDbnError, "legacy .dbz"),
    ],
)
def test_what_is_not_a_dbn_file_gets_one_sentence(
    path: Path, content: bytes, error: type[DbnError], message: str
) -> None:
    path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        verify(path)
    assert caught.value.exit_code == 2
    assert caught.value.remedy
    assert str(path) in str(caught.value)


def test_missing_files_and_folders_get_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="does not exist"):
        verify(tmp_path / "none.dbn")
    with pytest.raises(UnreadableFileError, match="is a folder"):
        verify(tmp_path)


def test_other_schemas_are_whole_but_not_replayed(path: Path, make_metadata: Make) -> None:
    path.write_bytes(make_metadata(schema="mbp-1") + (bytes([20, 1]) + bytes(78)) * 3)
    report = verify(path)
    assert report.by_rtype == {"mbp-1": 3}
    with pytest.raises(WrongSchemaError, match="holds mbp-1 records; barograph replays mbo"):
        require_mbo(report)


def test_a_live_session_of_mbo_with_housekeeping_is_replayed(
    path: Path, make_metadata: Make, make_orders: Orders
) -> None:
    mapping = np.zeros(1, np.dtype(databento_dbn.SymbolMappingMsg._dtypes))
    mapping["length"], mapping["rtype"], mapping["instrument_id"] = 44, 22, 7
    mapping["stype_out_symbol"] = b"LIVE1"
    rows = make_orders(4)
    path.write_bytes(make_metadata(symbols={}, schema=None) + mapping.tobytes() + rows.tobytes())
    report = verify(path)
    assert report.by_rtype == {"mbo": 4, "symbol mapping": 1}
    require_mbo(report)
    assert list(report.instruments) == ["XTST.TEST:LIVE1"]


def test_sending_times_at_the_end_of_records_are_dropped(path: Path, make_metadata: Make, make_orders: Orders) -> None:
    rows = make_orders(3)
    wide = np.zeros((3, 64), np.uint8)
    wide[:, :56] = rows.view(np.uint8).reshape(3, 56)
    wide[:, 0] = 16
    path.write_bytes(make_metadata(ts_out=True) + wide.tobytes())
    with DbnFile(path) as file:
        got = np.concatenate([run.mbo() for run in file.runs()])
    assert got.tobytes() == rows.tobytes()


def test_manifests_of_both_forms(path: Path, make_dbn: Make, make_orders: Orders, tmp_path: Path) -> None:
    data = make_dbn(make_orders(10), frames=2)
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    theirs = {"job_id": "x", "files": [{"filename": path.name, "size": len(data), "hash": f"sha256:{digest}"}]}
    ours = {path.name: {"sha256": digest, "records": 10}}
    for raw in (theirs, ours):
        (tmp_path / "manifest.json").write_text(json.dumps(raw))
        assert verify(path, manifest=load_manifest(tmp_path / "manifest.json")).records == 10
    for wrong in (Expected(sha256="0" * 64), Expected(size_bytes=1), Expected(records=9)):
        with pytest.raises(ManifestMismatchError, match="manifest says"):
            verify(path, manifest={path.name: wrong})
    with pytest.raises(ManifestMismatchError, match="not in the manifest"):
        verify(path, manifest={})


@pytest.mark.parametrize("text", ["", "[]", "7", '{"files": [{}]}', '{"a": 1}', '{"a": {"sha256": "xyz"}}'])
def test_manifests_that_are_none_get_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(InputError, match="is not a file list"):
        load_manifest(tmp_path / "m.json")


def test_files_are_ordered_by_time_and_overlaps_refused(tmp_path: Path, make_dbn: Make, make_orders: Orders) -> None:
    early, late = make_orders(10), make_orders(10, seed=2)
    late["ts_event"] += 10**10
    late["ts_recv"] += 10**10
    for name, rows in (("a", late), ("b", early), ("c", early[:9])):
        (tmp_path / name).write_bytes(make_dbn(rows))
    reports = verify_all([tmp_path / "a", tmp_path / "b"])
    assert [Path(r.path).name for r in reports] == ["b", "a"]
    with pytest.raises(InputError, match="no file was given"):
        verify_all([])
    with pytest.raises(InputError, match="are the same file"):
        verify_all([tmp_path / "a", tmp_path / "a"])
    with pytest.raises(InputError, match=r"overlap by 0\.\d+ s of XTST.TEST:TEST"):
        verify_all([tmp_path / "a", tmp_path / "b", tmp_path / "c"])
    late["ts_event"][0] = late["ts_recv"][0] = early["ts_event"][0] + 5
    (tmp_path / "d").write_bytes(make_dbn(np.concatenate([early, late])))
    late["ts_event"][0] += 10**9
    (tmp_path / "e").write_bytes(make_dbn(np.concatenate([late, late])))
    with pytest.raises(InputError, match=r"overlap by 9\.\d+ s of XTST.TEST:TEST"):
        verify_all([tmp_path / "d", tmp_path / "e"])


def test_names_follow_the_days_of_the_map(path: Path, make_dbn: Make, make_orders: Orders) -> None:
    rows = make_orders(6, ids=(7, 8, 9))
    path.write_bytes(make_dbn(rows, symbols={"AA": 7, "BB B": 8}))
    names = {7: "XTST.TEST:AA", 8: "XTST.TEST:BB B", 9: "XTST.TEST:9"}
    report = verify(path)
    assert {n: s.records for n, s in report.instruments.items()} == {
        names[int(i)]: int(c) for i, c in zip(*np.unique(rows["instrument_id"], return_counts=True), strict=True)
    }
    assert list(report.instruments) == list(dict.fromkeys(names[i] for i in rows["instrument_id"].tolist()))


def test_record_sizes_are_those_of_the_library() -> None:
    ours = {size for _, sizes in SIZES.values() for size in sizes}
    names = [n for n in dir(databento_dbn) if n.endswith(("Msg", "MsgV1", "MsgV2")) and n != "DBNRecord"]
    theirs = {np.dtype(getattr(databento_dbn, n)._dtypes).itemsize for n in names}
    assert theirs == ours
    assert {int(r.value) for r in databento_dbn.RType.variants()} == set(SIZES)
    assert np.dtype(databento_dbn.MBOMsg._dtypes) == MBO_DTYPE
