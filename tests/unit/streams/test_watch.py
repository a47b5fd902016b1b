"""The watchdog: what counts as standing still, and what does not."""

import logging
from collections.abc import Sequence

import pytest
from prometheus_client import REGISTRY

from runtime.clock import WallClock
from runtime.lag import Sample
from streams.watch import EXIT_CODE, LOOK_EVERY_S, QUIET_S, STALLED_S, Watch

KEY = ("t1.mbo.v1", 0)


Look = tuple[Sample, float]
"""A sample, and when the partition last moved."""


def look(now_s: float, end: int, position: int, moved_s: float) -> Look:
    return Sample(now_s, end, position), moved_s


def looks(
    *, seconds: float, end: int, position: Sequence[int] | int, moved_s: Sequence[float] | float = 0.0
) -> list[Look]:
    """One look each `LOOK_EVERY_S`; a number stands for the same at each."""

    def at(of: Sequence[float] | float, n: int) -> float:
        return of[n] if isinstance(of, Sequence) else of

    count = int(seconds / LOOK_EVERY_S) + 1
    return [look(n * LOOK_EVERY_S, end, int(at(position, n)), at(moved_s, n)) for n in range(count)]


def judged(given: list[Look]) -> list[int]:
    """The codes with which a watch would have left."""
    left: list[int] = []
    watch = Watch([], "", WallClock(), left.append)
    for sample, moved_s in given:
        watch.judge("books", "t1", KEY, sample, moved_s)
    return left


def test_standing_still_while_input_waits_ends_the_process() -> None:
    assert judged(looks(seconds=STALLED_S - LOOK_EVERY_S, end=9, position=3)) == []
    assert judged(looks(seconds=STALLED_S, end=9, position=3)) == [EXIT_CODE]


def test_a_quiet_input_is_no_stall() -> None:
    assert judged(looks(seconds=10 * STALLED_S, end=3, position=3)) == []


def test_a_message_that_comes_after_a_quiet_hour_is_not_late() -> None:
    quiet = looks(seconds=3600, end=3, position=3)
    assert judged([*quiet, look(3600 + LOOK_EVERY_S, 4, 3, 0.0)]) == []


def test_slow_progress_is_no_stall() -> None:
    count = int(300 / LOOK_EVERY_S) + 1
    moved = [n * LOOK_EVERY_S - 50.0 for n in range(count)]
    assert judged(looks(seconds=300, end=1000, position=list(range(count)), moved_s=moved)) == []


def test_an_assignment_starts_the_count_anew() -> None:
    before = looks(seconds=STALLED_S - LOOK_EVERY_S, end=9, position=3)
    after = [look(sample.time_s + STALLED_S, 9, 3, STALLED_S) for sample, _ in before]
    assert judged(before + after) == []


def test_metrics_say_how_a_partition_keeps_up() -> None:
    judged([look(0.0, 9, 3, 0.0), *((Sample(n * LOOK_EVERY_S, 9, 3, 2.5), 0.0) for n in range(1, 6))])
    labels = {"stage": "books", "tape": "t1", "partition": "0"}
    value = REGISTRY.get_sample_value
    assert value("barograph_stage_lag_messages", labels) == 6
    assert value("barograph_stage_lag_seconds", labels) == 2.5
    assert value("barograph_stage_idle_seconds", labels) == 5 * LOOK_EVERY_S
    assert value("barograph_stage_status", {**labels, "barograph_stage_status": "STALLED"}) == 1


def test_the_log_says_once_since_when_a_stage_waits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    judged(looks(seconds=4 * QUIET_S, end=3, position=3))
    assert [record.message.split(", since")[0] for record in caplog.records] == [
        "books has all of t1.mbo.v1[0] and waits"
    ]
