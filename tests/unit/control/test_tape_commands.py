"""Verbs on tapes that need the lake alone, and what the others say when they cannot begin."""

import json
import os
import sys
from pathlib import Path
from threading import Event
from typing import Any

import databento
import polars as pl
import pytest

from control import cli
from control.claims import lake_right
from runtime.object_store import LocalObjectStore
from runtime.tapes import TapeStore
from sinks.base import Batch, Entry, Lane
from sinks.lake import LakeSink
from sinks.tables import TABLES
from tests.unit.sinks.messages import Made, first_of_each, make_tape, manifest


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies keeps what it wrote; only power cuts need fsync, and hundreds of them take minutes."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command on the data folder; exit code, result and error."""

    def run(*words: str) -> tuple[int, Any, str]:
        monkeypatch.setattr(sys, "argv", ["barograph", *words, "--data", str(tmp_path), "--json"])
        code = cli._run()
        out, err = capsys.readouterr()
        return code, json.loads(out), err

    return run


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A tape in the lake, five messages in each object."""
    tape, lake = make_tape(seed=5, blocks=30), LocalObjectStore(tmp_path / "lake")
    TapeStore(LocalObjectStore(tmp_path / "state")).save(manifest())
    for table in TABLES.values():
        lane = Lane("t1", manifest().tape_id, "main", table, 0)
        entries = [Entry(m, *place) for place, m in first_of_each(tape.topics[lane.topic], table.raw).items()]
        for at in range(0, len(entries), 5):
            LakeSink(lake).write(Batch(lane, tuple(entries[at : at + 5])), Event())
    return tape


def test_objects_are_joined_and_streams_exported_from_the_lake_alone(call: Any, made: Made, tmp_path: Path) -> None:
    right = lake_right(tmp_path / "state", manifest())
    right.acquire()
    code, refused, _ = call("tape", "compact", "t1")
    assert (code, "a compaction or deletion of tape t1" in refused["error"]) == (2, True)
    right.release()
    code, joined, _ = call("tape", "compact", "t1")
    assert code == 0
    assert joined["t1.mbo.v1[0]"]["made"] == 1
    assert joined["t1.mbo.v1[0]"]["joined"] >= 6
    assert call("tape", "compact", "t1")[1] == {}
    out = tmp_path / "out"
    code, done, _ = call("tape", "export", "t1", "--from", "lake", "--out", str(out / "x.dbn.zst"))
    assert code == 0
    records = b"".join(m.value for m in made.topics["t1.mbo.v1"] if m.envelope.kind == "data")
    assert databento.DBNStore.from_file(out / "x.dbn.zst").to_ndarray().tobytes() == records
    code, done, _ = call(
        "tape", "export", "t1", "--from", "lake", "--stream", "trades", "--out", str(out / "t.parquet")
    )
    assert code == 0
    assert pl.read_parquet(out / "t.parquet").height == done["records"] > 0
    assert sorted(path.name for path in out.iterdir()) == ["t.parquet", "x.dbn.zst"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("tape", "export", "t1", "--from", "lake", "--out", "x.csv"), "x.csv names no format"),
        (("tape", "export", "t1", "--from", "lake", "--stream", "no", "--out", "x.parquet"), "no stream 'no'"),
        (("tape", "export", "t1", "--from", "lake", "--instrument", "Z", "--out", "x.dbn"), "has no 'Z'"),
        (("tape", "export", "t1", "--from", "disk", "--out", "x.dbn"), "--from disk is not known"),
        (("tape", "export", "t2", "--out", "x.dbn"), "there is no tape 't2'"),
        (("tape", "compact", "t2"), "there is no tape 't2'"),
        (("tape", "delete", "t2"), "there is no tape 't2'"),
        (("reconcile",), "--tape is missing"),
        (("tape", "backfill", "t2", "--from-lake", "x", "--bootstrap-servers", "127.0.0.1:9"), "no Kafka broker"),
        (("tape", "backfill", "A.b", "--from-lake", "x", "--bootstrap-servers", "127.0.0.1:9"), "cannot name a tape"),
    ],
)
def test_what_cannot_begin_is_one_sentence(call: Any, made: Made, words: tuple[str, ...], told: str) -> None:
    code, document, err = call(*words)
    assert code in (2, 3)
    assert told in document["error"]
    assert "Traceback" not in err


def test_a_damaged_object_ends_an_export_and_leaves_no_file(call: Any, made: Made, tmp_path: Path) -> None:
    lake = LocalObjectStore(tmp_path / "lake")
    name = next(n for n in lake.names("t1.mbo.v1/") if n.endswith(".parquet"))
    lake.put(name, b"PAR1 and no more")
    for out in ("x.dbn.zst", "x.parquet"):
        code, document, _ = call("tape", "export", "t1", "--from", "lake", "--out", str(tmp_path / "out" / out))
        assert (code, name in document["error"]) == (2, True)
    assert list((tmp_path / "out").iterdir()) == []
    code, document, _ = call("tape", "compact", "t1")
    assert (code, name in document["error"]) == (2, True)


def test_what_would_be_deleted_is_shown_first(call: Any, made: Made, tmp_path: Path) -> None:
    code, shown, _ = call("tape", "delete", "t1")
    assert (code, shown) == (0, {"tape": "t1", "would_delete": "all of it"})
    assert TapeStore(LocalObjectStore(tmp_path / "state")).names() == ["t1"]
