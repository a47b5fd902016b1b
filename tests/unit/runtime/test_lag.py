"""The lag rules: each row of the table by example, and what must hold of any window by property."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.lag import SAMPLES_MAX, SPAN_MIN_S, Sample, Status, Window, evaluate

EVERY_S = 2.0


def window(*looks: tuple[int, int]) -> Window:
    """A window of (end, position), a look every 2 s."""
    return Window(Sample(i * EVERY_S, end, position) for i, (end, position) in enumerate(looks))


def judged(*looks: tuple[int, int], later_s: float = 0.0) -> Status:
    return window(*looks).status((len(looks) - 1) * EVERY_S + later_s)


@pytest.mark.parametrize(
    ("looks", "later_s", "wanted"),
    [
        ((), 0, Status.UNKNOWN),
        (((5, 5),), 0, Status.OK),
        (((5, 5),), 1e6, Status.OK),  # at the end of the log silence is no fault
        (((5, 6),), 0, Status.OK),  # the end was read before the position
        (((9, 5),), 0, Status.UNKNOWN),
        (((9, 5),), SPAN_MIN_S + 1, Status.STOPPED),
        (((9, 5), (9, 5)), 0, Status.UNKNOWN),  # two quick looks
        (((9, 5), (9, 6)), 0, Status.OK),
        (((9, 5), (19, 6)), 0, Status.UNKNOWN),
        (((9, 5),) * 6, 0, Status.STALLED),
        (((9, 5), (10, 5), (11, 5), (12, 5), (13, 5), (14, 5)), 0, Status.STALLED),
        (((9, 9), (10, 9), (11, 9), (12, 9), (13, 9), (14, 9)), 0, Status.OK),  # was at the end a moment ago
        (((9, 5), (10, 6), (11, 7), (12, 8), (13, 9), (14, 10)), 0, Status.WARN),
        (((9, 5), (20, 6), (30, 7), (40, 8), (50, 9), (60, 10)), 0, Status.WARN),
        (((9, 5), (20, 6), (30, 27), (40, 28), (50, 29), (60, 30)), 0, Status.OK),  # shrank once
        (((9, 5), (20, 6), (30, 7), (40, 8), (50, 9), (60, 10)), SPAN_MIN_S + 1, Status.STOPPED),
        (((9, 9), (20, 9)), SPAN_MIN_S + 1, Status.STOPPED),  # an earlier zero does not excuse silence
    ],
)
def test_the_rules(looks: tuple[tuple[int, int], ...], later_s: float, wanted: Status) -> None:
    assert judged(*looks, later_s=later_s) is wanted


def test_a_position_that_goes_back_begins_anew() -> None:
    seen = window(*((20, 10),) * 6)
    assert seen.status(10) is Status.STALLED
    seen.add(Sample(12, 20, 4))
    assert seen.samples == (Sample(12, 20, 4),)
    assert seen.status(12) is Status.UNKNOWN


def test_an_older_sample_is_dropped() -> None:
    seen = window((9, 5), (9, 6))
    seen.add(Sample(1.0, 9, 9))
    assert seen.newest == Sample(EVERY_S, 9, 6)


def test_when_it_moved() -> None:
    assert window((9, 5), (9, 5)).moved_s() is None
    assert window((9, 5), (9, 6), (9, 6)).moved_s() == EVERY_S


looks = st.lists(
    st.tuples(st.floats(0.1, 30), st.integers(0, 50), st.integers(-3, 50)),
    min_size=1,
    max_size=25,
)
"""Steps between looks: seconds, messages that came, messages that were done; now and then a step back."""


@st.composite
def histories(draw: st.DrawFn) -> list[Sample]:
    time_s, end, position, out = 0.0, 0, 0, []
    for seconds, came, done in draw(looks):
        time_s, end = time_s + seconds, end + came
        position = max(0, min(end, position + done))
        out.append(Sample(time_s, end, position))
    return out


@given(histories(), st.floats(0, 1000))
def test_a_bad_word_is_never_said_without_reason(history: list[Sample], later_s: float) -> None:
    seen = Window(history)
    kept, now_s = seen.samples, history[-1].time_s + later_s
    status = seen.status(now_s)
    assert kept == tuple(history[-len(kept) :])
    assert len(kept) <= SAMPLES_MAX
    assert all(b.position >= a.position for a, b in pairwise(kept))
    if status in (Status.STALLED, Status.STOPPED, Status.WARN):
        assert kept[-1].lag > 0
        assert now_s - kept[0].time_s >= SPAN_MIN_S
    if status is Status.STALLED:
        assert len({sample.position for sample in kept}) == 1
        assert all(sample.lag for sample in kept)
    if status is Status.WARN:
        assert kept[-1].position > kept[0].position
        assert kept[-1].lag >= kept[0].lag
    if status is Status.STOPPED:
        assert later_s > SPAN_MIN_S


@given(histories(), st.floats(0, 1000))
def test_silence_with_input_waiting_always_ends_as_stopped(history: list[Sample], later_s: float) -> None:
    seen = Window(history)
    covered = seen.samples[-1].time_s - seen.samples[0].time_s
    long_after = history[-1].time_s + max(covered, SPAN_MIN_S) + 1 + later_s
    assert seen.status(long_after) is (Status.OK if history[-1].lag == 0 else Status.STOPPED)


@given(histories(), st.integers(1, 1000), st.floats(0, 100))
def test_only_differences_count(history: list[Sample], shift: int, later_s: float) -> None:
    """The same behaviour further on in a log and later in time has the same status."""
    moved = [Sample(s.time_s + shift, s.end + shift, s.position + shift) for s in history]
    now_s = round(history[-1].time_s + later_s)
    whole = [Sample(round(s.time_s), s.end, s.position) for s in history]
    later = [Sample(round(s.time_s) + shift, m.end, m.position) for s, m in zip(history, moved, strict=True)]
    assert Window(whole).status(now_s) is Window(later).status(now_s + shift)


@given(histories())
def test_the_window_says_what_the_rules_say(history: list[Sample]) -> None:
    seen = Window(history)
    assert seen.status(history[-1].time_s) is evaluate(seen.samples, history[-1].time_s)
