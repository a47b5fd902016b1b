"""The rule for repeats and holes, against a model: a consumer sees each message once, in order, or an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import sequence
from runtime.sequence import ConflictError, HoleError, Sequence, Verdict


def log_of(parts: list[int]) -> list[tuple[int, int, bool]]:
    return [(seq, part, part == count - 1) for seq, count in enumerate(parts) for part in range(count)]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=20), st.data())
def test_a_log_that_steps_back_is_seen_once(parts: list[int], data: st.DataObject) -> None:
    log = log_of(parts)
    state, position, seen = Sequence("t[0]"), 0, []
    for _ in range(60):
        if position == len(log):
            break
        seq, part, last = log[position]
        if state.check(seq, part, last=last, run="r", crc32=position) is Verdict.ACCEPT:
            seen.append((seq, part, last))
        position = data.draw(st.integers(0, position)) if data.draw(st.booleans()) else position + 1
    assert seen == log[: len(seen)]


@given(st.lists(st.integers(1, 3), min_size=2, max_size=10), st.data())
def test_a_hole_names_the_missing_range_and_changes_nothing(parts: list[int], data: st.DataObject) -> None:
    log = log_of(parts)
    missing = data.draw(st.integers(0, len(log) - 2))
    state = Sequence("t[0]")
    for seq, part, last in log[:missing]:
        state.check(seq, part, last=last)
    seq, part, last = log[missing + 1]
    with pytest.raises(HoleError) as caught:
        state.check(seq, part, last=last)
    assert caught.value.expected == log[missing][:2]
    assert caught.value.got == (seq, part)
    first = log[missing]
    assert state.check(first[0], first[1], last=first[2]) is Verdict.ACCEPT


def test_two_writers_that_disagree_are_found() -> None:
    state = Sequence("t[0]")
    state.check(0, 0, last=True, run="a", crc32=1)
    assert state.check(0, 0, last=True, run="a", crc32=1) is Verdict.REPEAT
    assert state.check(0, 0, last=True, run="b", crc32=2) is Verdict.REPEAT
    assert state.dropped == 2
    with pytest.raises(ConflictError, match=r"seq 0 part 0 came twice"):
        state.check(0, 0, last=True, run="a", crc32=2)


def test_memory_of_checksums_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence, "REMEMBERED", 10)
    state = Sequence("t[0]")
    for seq in range(100):
        state.check(seq, 0, last=True, run="a", crc32=seq)
    assert len(state._seen) == 10
    assert state.check(0, 0, last=True, run="a", crc32=99) is Verdict.REPEAT
