"""A replay's clock, moment by moment."""

from hypothesis import given
from hypothesis import strategies as st

from ws_gateway.clock import FOREVER, NEVER, ReplayClock
from ws_gateway.request import Start

S = 1_000_000_000


def test_without_a_pace_everything_may_go():
    clock = ReplayClock()
    assert clock.limit_ns(5) == FOREVER
    assert clock.due_ns(7) == 0


def test_a_pace_counts_from_the_first_row():
    clock = ReplayClock()
    clock.set_speed(10, 0)
    assert clock.limit_ns(99) == NEVER
    clock.begin(1000 * S, 5 * S)
    assert clock.limit_ns(6 * S) == 1010 * S
    assert clock.due_ns(1020 * S) == 7 * S + 1


def test_a_pace_taken_up_on_the_way_goes_on_from_the_newest_row_shown():
    clock = ReplayClock()
    clock.shown(50 * S)
    clock.set_speed(2, 7 * S)
    assert clock.limit_ns(8 * S) == 52 * S
    clock.set_speed(0.5, 8 * S)
    assert clock.limit_ns(10 * S) == 53 * S
    clock.set_speed(None, 10 * S)
    assert clock.limit_ns(10 * S) == FOREVER


def test_a_pause_takes_no_time():
    clock = ReplayClock()
    clock.set_speed(1, 0)
    clock.begin(100 * S, 0)
    clock.pause(2 * S)
    assert clock.limit_ns(90 * S) == 102 * S
    assert clock.due_ns(103 * S) == 0
    clock.step_to(105 * S)
    assert clock.limit_ns(90 * S) == 105 * S
    clock.resume(91 * S)
    assert clock.limit_ns(92 * S) == 106 * S


def test_a_seek_moves_everyone_and_live_ends_pace_and_pause():
    clock, told = ReplayClock(shared=True), []
    clock.listeners.add(lambda: told.append(clock.turn))
    clock.set_speed(3, 0)
    clock.begin(1, 1)
    clock.pause(2)
    clock.seek(Start("time", value=9))
    assert (clock.limit_ns(10), clock.paused, clock.factor) == (NEVER, True, 3)
    clock.seek(Start())
    assert (clock.limit_ns(10), clock.paused, clock.factor) == (FOREVER, False, None)
    assert told[-1] == 2


@given(
    st.lists(
        st.tuples(st.sampled_from(["wait", "speed", "pause", "resume", "step"]), st.integers(1, 1000)), max_size=30
    )
)
def test_the_limit_never_goes_back_but_by_a_change_of_mind(steps):
    clock, now, before = ReplayClock(), 0, NEVER
    clock.set_speed(1.0, 0)
    clock.begin(0, 0)
    for what, amount in steps:
        now += amount
        before = clock.limit_ns(now)
        if what == "speed":
            clock.set_speed(amount / 100, now)
        elif what == "step":
            clock.step_to(before + amount if clock.paused else NEVER)
        elif what != "wait":
            getattr(clock, what)(now)
        after = clock.limit_ns(now)
        assert after >= before
        if not clock.paused and after != FOREVER:
            due = clock.due_ns(after + 5000)
            assert clock.limit_ns(due) >= after + 5000 - 1
