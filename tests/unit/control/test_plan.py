"""What `run` does about a tape that is already there: every row of the table."""

from dataclasses import replace

import pytest

from control.plan import Decision, decide
from runtime.errors import InputError
from runtime.tapes import Line, Manifest, Source, new_tape

FILES = (Source("a.dbn", "aa", 3),)
OPEN = new_tape("t1", sources=FILES).with_line("main", Line("run1"))


def plan(
    existing: Manifest | None, *, files: tuple[Source, ...] = FILES, run: str = "run1", again: bool = False
) -> Decision:
    return decide(existing, "t1", "main", files, run, replace=again)


def test_decisions() -> None:
    assert plan(None) is Decision.CREATE
    assert plan(None, again=True) is Decision.CREATE
    assert plan(OPEN) is Decision.RESUME
    assert plan(OPEN, files=(Source("renamed.dbn", "aa", 3),)) is Decision.RESUME
    assert plan(OPEN, run="run2", again=True) is Decision.REPLACE
    done = replace(OPEN, state="finished").with_line("main", Line("run1", complete=True))
    assert plan(done, run="run2") is Decision.REPORT
    assert plan(done, again=True) is Decision.REPLACE
    assert plan(replace(OPEN, state="finished")) is Decision.RESUME, "published, but not yet arrived everywhere"
    assert plan(replace(OPEN, lines={})) is Decision.RESUME
    assert plan(replace(OPEN, state="deleted"), run="run2") is Decision.REPLACE


def test_other_files_are_refused() -> None:
    with pytest.raises(InputError, match=r"already holds a\.dbn.*--replace"):
        plan(OPEN, files=(Source("b.dbn", "bb", 3),))
    with pytest.raises(InputError, match="already holds a live feed"):
        plan(replace(OPEN, sources=()))


def test_another_run_is_refused() -> None:
    with pytest.raises(InputError, match=r"begun by run run1.*--line NEW"):
        plan(OPEN, run="run2")
