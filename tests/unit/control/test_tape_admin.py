"""Changes of a manifest that take long to come: what others changed meanwhile stays."""

from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from control import tape_admin
from control.tape_admin import TapeAdmin
from runtime.object_store import LocalObjectStore
from runtime.settings import Settings
from runtime.tapes import Deletion, Line, TapeStore, new_tape
from sinks.runner import SinkRunner, run_sink


def test_a_line_that_was_added_while_a_tape_was_published_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TapeAdmin, "_announce", lambda *_: None)
    admin = TapeAdmin(Settings(data_dir=tmp_path), "127.0.0.1:1")
    begun = new_tape("t").with_line("main", Line("run-1"))
    admin.tapes.save(begun)
    admin.tapes.save(begun.with_line("fixed", Line("run-2")))
    finished = admin.finish(begun)
    assert (finished.state, set(finished.lines)) == ("finished", {"main", "fixed"})
    assert admin.tapes.require("t") == finished
    done = admin.complete(begun, "main")
    assert (done.state, done.lines["main"].complete, done.lines["fixed"].complete) == ("finished", True, False)
    assert admin.tapes.require("t") == done
    handed = admin.hand_over(begun, "main", "run-3")
    assert (handed.state, handed.lines["main"], handed.lines["fixed"].run) == ("finished", Line("run-3"), "run-2")


@pytest.fixture
def admin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TapeAdmin:
    monkeypatch.setattr(TapeAdmin, "_announce", lambda *_: None)
    return TapeAdmin(Settings(data_dir=tmp_path), "127.0.0.1:1")


def test_every_change_reaches_the_copy_in_the_lake(tmp_path: Path, admin: TapeAdmin) -> None:
    lake = TapeStore(LocalObjectStore(tmp_path / "lake"))
    begun = new_tape("t").with_line("main", Line("run-1"))
    admin.save(begun)
    assert lake.names() == [], "a lake that has nothing of the tape needs no copy"
    assert lake.save_copy(begun)
    for change in (
        lambda: admin.finish(begun),
        lambda: admin.complete(begun, "main"),
        lambda: admin.hand_over(begun, "main", "run-2"),
        lambda: admin.save(replace(admin.tapes.require("t"), deletions=(Deletion("X", 0, 1, 2),))),
        lambda: admin.save(replace(admin.tapes.require("t"), state="open")),
    ):
        before = lake.require("t")
        change()
        assert lake.require("t") == admin.tapes.require("t") != before


def test_the_copy_of_another_tape_of_this_name_is_left_alone(tmp_path: Path, admin: TapeAdmin) -> None:
    lake, other = TapeStore(LocalObjectStore(tmp_path / "lake")), new_tape("t")
    lake.save(other)
    admin.save(new_tape("t"))
    assert lake.require("t") == other


def test_a_lake_that_is_away_keeps_no_tape_from_ending(
    admin: TapeAdmin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(place: str) -> Any:
        raise OSError("no route")

    begun = new_tape("t").with_line("main", Line("run-1"))
    monkeypatch.setattr(tape_admin, "object_store_at", away)
    admin.finish(begun)
    assert admin.tapes.require("t").state == "finished"
    assert "the lake's copy of the manifest of t stays as it was: no route" in caplog.text


def test_a_sink_never_replaces_a_copy_that_knows_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SinkRunner, "run", lambda *_: None)
    lake = TapeStore(LocalObjectStore(tmp_path / "lake"))
    begun = new_tape("t").with_line("main", Line("run-1"))
    finished = replace(begun, state="finished")
    deleted = replace(begun, deletions=(Deletion("X", 0, 1, 2),))

    def serve(manifest: Any) -> None:
        run_sink(
            "lake", manifest, "main", bootstrap_servers="127.0.0.1:1", target=str(tmp_path / "lake"),
            state_dir=tmp_path / "state", stop=Event(),
        )  # fmt: skip

    for first, then, stands in (
        (begun, finished, finished),
        (finished, begun, finished),
        (deleted, begun, deleted),
        (begun, deleted, deleted),
        (begun, again := begun.with_line("b", Line("run-2")), again),
        (finished, other := new_tape("t"), other),
    ):
        lake.save(first)
        serve(then)
        assert lake.require("t") == stands
