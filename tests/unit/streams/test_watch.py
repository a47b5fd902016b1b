"""The watchdog: what counts as standing still, and what does not."""

import logging
from collections.abc import Sequence

import pytest

from runtime.clock import WallClock
from streams.watch import EXIT_CODE, LOOK_EVERY_S, QUIET_S, STALLED_S, Look, Watch, Watched, stalled

KEY = ("t1.mbo.v1", 0)


def looks(
    *, seconds: float, end: Sequence[int] | int, position: Sequence[int] | int, moved_s: Sequence[float] | float = 0.0
) -> list[Look]:
    """One look each `LOOK_EVERY_S`; a number stands for the same at each."""
    count = int(seconds / LOOK_EVERY_S) + 1

    def at(of: Sequence[float] | float, n: int) -> float:
        return of[n] if isinstance(of, Sequence) else of

    return [Look(n * LOOK_EVERY_S, int(at(end, n)), int(at(position, n)), at(moved_s, n)) for n in range(count)]


def judged(given: list[Look]) -> list[int]:
    """The codes with which a watch would have left."""
    left: list[int] = []
    watch = Watch([], "", WallClock(), left.append)
    for look in given:
        watch.judge("books", KEY, look)
    return left


def test_standing_still_while_input_waits_ends_the_process() -> None:
    assert judged(looks(seconds=STALLED_S - LOOK_EVERY_S, end=9, position=3)) == []
    assert judged(looks(seconds=STALLED_S, end=9, position=3)) == [EXIT_CODE]


def test_a_quiet_input_is_no_stall() -> None:
    assert judged(looks(seconds=10 * STALLED_S, end=3, position=3)) == []


def test_a_message_that_comes_after_a_quiet_hour_is_not_late() -> None:
    quiet = looks(seconds=3600, end=3, position=3)
    assert judged([*quiet, Look(3600 + LOOK_EVERY_S, 4, 3, 0.0)]) == []


def test_slow_progress_is_no_stall() -> None:
    count = int(300 / LOOK_EVERY_S) + 1
    moved = [n * LOOK_EVERY_S - 50.0 for n in range(count)]
    assert judged(looks(seconds=300, end=1000, position=list(range(count)), moved_s=moved)) == []


def test_an_assignment_starts_the_count_anew() -> None:
    before = looks(seconds=STALLED_S - LOOK_EVERY_S, end=9, position=3)
    after = [Look(look.now_s + STALLED_S, look.end, 0, STALLED_S) for look in before]
    assert judged(before + after) == []


def test_looks_are_forgotten_in_time() -> None:
    watched = Watched()
    for look in looks(seconds=3600, end=9, position=9):
        watched.add(look)
    assert len(watched.looks) <= 2 * STALLED_S / LOOK_EVERY_S
    assert not stalled(watched.looks)


def test_the_log_says_once_since_when_a_stage_waits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    judged(looks(seconds=4 * QUIET_S, end=3, position=3))
    assert [record.message.split(", since")[0] for record in caplog.records] == [
        "books has all of t1.mbo.v1[0] and waits"
    ]
