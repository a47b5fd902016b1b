"""Objects, manifests, endpoints, codecs: what lies on disk and what travels."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import codec
from runtime.endpoints import Endpoints
from runtime.errors import InputError
from runtime.object_store import FolderFullError, LocalObjectStore
from runtime.tapes import Instrument, Line, Source, TapeStore, manifest_from_json, new_tape
from schemas import trades
from schemas.columns import empty_table


def test_objects(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    assert store.get("a/b") is None
    store.put("a/b", b"1")
    store.put("a/b", b"2")
    assert store.get("a/b") == b"2"
    assert not store.put_new("a/b", b"3")
    assert store.put_new("a/c", b"3")
    (tmp_path / "a" / ".b.half").write_bytes(b"torn")
    assert list(store.names("a/")) == ["a/b", "a/c"]
    assert list(store.names("a/c")) == ["a/c"]
    assert list(store.names("nothing/")) == []
    store.delete("a/b")
    store.delete("a/b")
    assert list(store.names()) == ["a/c"]
    with pytest.raises(InputError, match="leads out of"):
        store.put("../x", b"")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    store.put("a/x", b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        for put in (store.put, store.put_new):
            with pytest.raises(FolderFullError, match="takes no more data"):
                put("a/x", bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.get("a/x") == b"old"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]


def test_a_failed_put_leaves_the_old_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalObjectStore(tmp_path)
    store.put("x", b"old")

    def full(_: int) -> None:
        raise OSError(28, "disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FolderFullError, match="disk full"):
        store.put("x", b"new")
    assert store.get("x") == b"old"
    assert list(store.names()) == ["x"]


def test_manifest_survives_json(tmp_path: Path) -> None:
    manifest = new_tape(
        "t1",
        partitions=2,
        instruments={"GLBX.MDP3:ESH4": Instrument(1, 250_000_000)},
        sources=(Source("f", "00", 3),),
        blocking={"records_max": 4096},
    ).with_line("main", Line("abc", {"radius": 50}))
    assert manifest_from_json(manifest.to_json()) == manifest
    tapes = TapeStore(LocalObjectStore(tmp_path))
    tapes.save(manifest)
    assert tapes.names() == ["t1"]
    assert tapes.require("t1") == manifest
    with pytest.raises(InputError, match=r"no tape 'nope' \(known: t1\)"):
        tapes.require("nope")
    tapes.delete("t1")
    assert tapes.load("t1") is None


@pytest.mark.parametrize("name", ["", "A", "ref", "a.b", "x" * 41])
def test_illegal_tape_names(name: str) -> None:
    with pytest.raises(InputError, match="cannot name a tape"):
        new_tape(name)


def test_endpoints_of_dead_processes_are_not_given_out(tmp_path: Path) -> None:
    endpoints = Endpoints(tmp_path)
    assert endpoints.find("kafka") is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    endpoints.publish("kafka", "127.0.0.1:1", child.pid)
    endpoints.publish("store", "http://127.0.0.1:2")
    assert endpoints.all() == {"kafka": "127.0.0.1:1", "store": "http://127.0.0.1:2"}
    child.communicate()
    assert endpoints.find("kafka") is None
    endpoints.publish("api", "http://127.0.0.1:3", lasting=False)
    assert endpoints.find("api") == "http://127.0.0.1:3"
    assert endpoints.all(lasting=True) == {"store": "http://127.0.0.1:2"}
    endpoints.withdraw("store", "unknown", "api")
    assert endpoints.all() == {}


def test_rows_and_records_survive_the_wire() -> None:
    table = empty_table(trades.COLUMNS, 3)
    table["px"][:] = 1, 2, 3
    value = codec.encode_rows(table, trades.COLUMNS)
    assert value == codec.encode_rows(codec.decode_rows(value, trades.COLUMNS), trades.COLUMNS)
    assert codec.decode_rows(value, trades.COLUMNS)["px"].tolist() == [1, 2, 3]
    assert codec.encode_rows(empty_table(trades.COLUMNS), trades.COLUMNS) == b""
    assert codec.decode_rows(b"", trades.COLUMNS)["px"].shape == (0,)
    record = {
        "instrument": "V:S",
        "venue_symbol": "S",
        "tick_px": 10,
        "bucket": 1,
        "lot": "1",
        "partition": 0,
        "tick_source": "table",
    }
    encoded = codec.encode_avro("definition", record)
    assert encoded[:5] == b"\x00\x00\x00\x00\x01"
    assert codec.decode_avro("definition", encoded) == record
    with pytest.raises(InputError, match="is not a tape record"):
        codec.decode_avro("tape", encoded)


def test_every_avro_schema_has_an_id_of_its_own() -> None:
    ids = codec.avro_ids()
    files = {p.stem for p in (Path(codec.__file__).parent.parent / "schemas/avro").glob("*.avsc")}
    assert set(ids) == files
    assert len(set(ids.values())) == len(ids)
