"""Objects, manifests, endpoints, codecs: what lies on disk and what travels."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from moto.server import ThreadedMotoServer

from runtime import codec, object_store
from runtime.endpoints import Endpoints
from runtime.errors import InputError
from runtime.object_store import (
    FolderFullError,
    LocalObjectStore,
    ObjectStore,
    RemoteObjectStore,
    object_store_at,
)
from runtime.tapes import Alias, Instrument, Line, Source, TapeStore, manifest_from_json, new_tape
from schemas import trades
from schemas.columns import empty_table
from streams.checkpoints import Checkpoint, CheckpointStore


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server with an empty bucket, `bucket`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    assert httpx.put(f"{url}/bucket").status_code == 200
    yield url
    server.stop()


SECRET = "not-to-be-shown"


def remote(address: str, url: str = "s3://bucket/some/prefix") -> ObjectStore:
    return RemoteObjectStore(
        url, endpoint=address, access_key_id="k", secret_access_key=SECRET, region="us-east-1",
        client_options={"allow_http": True},
    )  # fmt: skip


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return LocalObjectStore(tmp_path)
    return remote(request.getfixturevalue("s3"), f"s3://bucket/{tmp_path.name}")


def test_objects(store: ObjectStore) -> None:
    assert store.get("a/b") is None
    store.put("a/b", b"1")
    store.put("a/b", b"2")
    assert store.get("a/b") == b"2"
    assert not store.put_new("a/b", b"3")
    assert store.get("a/b") == b"2"
    assert store.put_new("a/c", b"")
    assert store.get("a/c") == b""
    store.put("a/.b.half", b"torn")
    assert list(store.names("a/")) == ["a/b", "a/c"]
    assert list(store.names("a/c")) == ["a/c"]
    assert store.sizes("a/") == {"a/b": 1, "a/c": 0}
    assert list(store.names("nothing/")) == []
    store.delete("a/b")
    store.delete("a/b")
    assert list(store.names()) == ["a/c"]
    for name in ("../x", "a/../../x"):
        with pytest.raises(InputError, match="leads out of"):
            store.put(name, b"")


def test_an_object_is_swapped_only_for_what_it_was(store: ObjectStore) -> None:
    assert not store.swap("s", b"0", b"1")
    assert store.swap("s", None, b"1")
    assert not store.swap("s", None, b"2")
    assert store.swap("s", b"1", b"2")
    assert store.swap("s", b"1", b"2"), "done already: the answer to the first try was lost"
    assert not store.swap("s", b"1", b"3")
    assert store.get("s") == b"2"


def test_puts_that_were_given_up_are_swept(tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    store.put("a/x", b"1")
    for name in (".x.0123456789ab", ".y.0123456789ab", ".x.lock", "..z.0123456789ab.lock"):
        (tmp_path / "a" / name).write_bytes(b"")
        os.utime(tmp_path / "a" / name, (1, 1))
    os.utime(tmp_path / "a" / ".y.0123456789ab")
    assert store.sweep() == 1
    left = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert left == ["..z.0123456789ab.lock", ".x.lock", ".y.0123456789ab", "x"]


def test_names_with_odd_characters_come_back_as_they_were(store: ObjectStore) -> None:
    names = ["t/GLBX.MDP3:ESH4", "t/a b", "t/a%20b", "t/\u00fc", "t/x#y"]
    for name in names:
        store.put(name, name.encode())
    assert list(store.names("t/")) == sorted(names)
    assert [store.get(name) for name in names] == [name.encode() for name in names]


def test_only_one_of_many_puts_an_object_for_the_first_time(store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.put_new("one", b"%d" % n), range(16)))
    assert sum(won) == 1
    assert store.get("one") == b"%d" % won.index(True)


def test_checkpoints_in_a_bucket_and_a_damaged_one(s3: str) -> None:
    bucket = remote(s3, "s3://bucket/states")
    store = CheckpointStore(bucket, "checkpoints/t/main/books")
    for offset in range(5):
        store.save(0, Checkpoint(offset, offset + 10, "run", "topic", 1), {"X": b"%d" % offset, "Y": b"same"})
    loaded = CheckpointStore(bucket, "checkpoints/t/main/books").load(0)
    assert loaded is not None
    assert (loaded[0].offset, loaded[1]) == (4, {"X": b"4", "Y": b"same"})
    bucket.put(f"checkpoints/t/main/books/0/pieces/{loaded[0].pieces['X']}", b"flipped")
    before = store.load(0)
    assert before is not None
    assert (before[0].offset, before[1]) == (3, {"X": b"3", "Y": b"same"})


def test_a_bucket_that_cannot_be_asked_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "RETRY", {"max_retries": 0, "retry_timeout": timedelta(seconds=1)})
    gone = remote("http://127.0.0.1:9")
    for ask in (lambda: gone.get("x"), lambda: gone.put_new("x", b""), lambda: list(gone.names())):
        with pytest.raises(OSError, match="s3://bucket/some/prefix") as refused:
            ask()
        assert SECRET not in str(refused.value)


def test_a_store_is_found_by_its_address(tmp_path: Path) -> None:
    assert isinstance(object_store_at(tmp_path), LocalObjectStore)
    assert isinstance(object_store_at(f"file://{tmp_path}"), LocalObjectStore)
    assert isinstance(object_store_at("s3://bucket/prefix"), RemoteObjectStore)
    with pytest.raises(InputError, match="names no object store"):
        object_store_at("s3://")


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


def test_aliases_name_a_tape_and_line_for_readers(tmp_path: Path) -> None:
    tapes = TapeStore(LocalObjectStore(tmp_path))
    manifest = new_tape("t1").with_line("main", Line("a")).with_line("tuned", Line("b"))
    tapes.save(manifest)
    tapes.set_alias("best", Alias("t1"))
    assert tapes.resolve("best") == tapes.resolve("t1") == (manifest, "main")
    tapes.set_alias("best", Alias("t1", "tuned"))
    assert tapes.aliases() == {"best": Alias("t1", "tuned")}
    assert tapes.resolve("best") == (manifest, "tuned")
    assert tapes.resolve("best", "main") == (manifest, "main")
    for name, alias, told in (
        ("t1", Alias("t1"), "is the name of a tape"),
        ("A.b", Alias("t1"), "cannot name an alias"),
        ("x", Alias("t2"), "no tape 't2'"),
        ("x", Alias("t1", "none"), "no line 'none'"),
    ):
        with pytest.raises(InputError, match=told):
            tapes.set_alias(name, alias)
    with pytest.raises(InputError, match="no line 'none'"):
        tapes.resolve("best", "none")
    with pytest.raises(InputError, match="best is an alias of tape t1"):
        tapes.refuse_alias("best")
    tapes.refuse_alias("t2")
    tapes.delete("t1")
    with pytest.raises(InputError, match="alias best names tape t1, which is gone"):
        tapes.resolve("best")
    tapes.delete_alias("best")
    with pytest.raises(InputError, match=r"no alias 'best' \(known: none yet\)"):
        tapes.delete_alias("best")
    with pytest.raises(InputError, match="no tape 'best'"):
        tapes.resolve("best")


def test_a_damaged_alias_stops_nobody_but_its_own_readers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = LocalObjectStore(tmp_path)
    tapes = TapeStore(store)
    tapes.save(new_tape("t1").with_line("main", Line("r", {})))
    tapes.set_alias("good", Alias("t1"))
    for damage in (b"{", b"[1]", b'{"tap": "t1"}'):
        store.put("aliases/bad.json", damage)
        assert tapes.aliases() == {"good": Alias("t1")}
        assert "alias bad is damaged" in caplog.text
        assert tapes.resolve("good")[0].tape == "t1"
        with pytest.raises(InputError, match="alias bad is damaged"):
            tapes.resolve("bad")
    tapes.delete_alias("bad")
    with pytest.raises(InputError, match="no tape 'bad'"):
        tapes.resolve("bad")
    assert tapes.alias("../tapes/t1/manifest") is None
