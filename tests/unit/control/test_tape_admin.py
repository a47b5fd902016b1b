"""Changes of a manifest that take long to come: what others changed meanwhile stays."""

from pathlib import Path

import pytest

from control.tape_admin import TapeAdmin
from runtime.settings import Settings
from runtime.tapes import Line, new_tape


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
