"""Whether a lock is held is seen without trying it."""

from pathlib import Path

import pytest

from control import lag
from control.claims import Claim
from runtime.tapes import Manifest


def test_a_held_lock_is_seen_and_stays_free_to_take(tmp_path: Path) -> None:
    tape = Manifest("t", "id0")
    place = tmp_path / "workers" / "id0" / "main" / ".owner"
    assert lag.is_held(place) is False
    claim = Claim(tmp_path, tape, "main")
    assert claim.take()
    assert lag.is_held(place) is True
    claim.release()
    assert lag.is_held(place) is False
    assert Claim(tmp_path, tape, "main").take()


def test_a_system_without_a_list_of_locks_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lag, "_LOCKS", tmp_path / "none")
    assert lag.is_held(tmp_path) is None


def test_a_checkpoint_that_goes_away_during_a_look_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "1.json").touch()
    (tmp_path / "2.json").symlink_to(tmp_path / "gone")  # listed, and not there when it is asked for
    idle_s = lag._idle_s(tmp_path)
    assert idle_s is not None
    assert idle_s < 60
    (tmp_path / "1.json").unlink()
    assert lag._idle_s(tmp_path) is None


def test_lines_whose_names_begin_alike_have_groups_of_their_own() -> None:
    tape = Manifest("t", "id0")
    assert tape.group("a", ["books", "bars"]) != tape.group("a-books", ["bars"])
    assert not tape.group("main-fixed", ["books"]).startswith(tape.group("main", ()))
    assert tape.group("main", ["books", "bars"]).removeprefix(tape.group("main", ())).split("-") == ["books", "bars"]
