"""Restart rules as a pure function, and the shell with real, short-lived processes."""

import sys
import time
from pathlib import Path

import pytest

from control.supervision import (
    Action,
    Exited,
    Phase,
    Policy,
    ProcessState,
    Ready,
    StartRequested,
    StopRequested,
    Tick,
    advance,
)
from control.supervisor import LOG_BYTES_MAX, ProcessSpec, ProcessStatus, Supervisor
from runtime.errors import ChildFailedError

POLICY = Policy(first_delay_s=1.0, max_delay_s=8.0, calm_s=100.0, ready_timeout_s=30.0)


def after(events: list[tuple[float, object]], state: ProcessState | None = None) -> tuple[ProcessState, list[Action]]:
    state, actions = state or ProcessState(), []
    for now_s, event in events:
        state, action = advance(state, event, now_s, POLICY)  # type: ignore[arg-type]
        actions.append(action)
    return state, actions


def test_a_good_life_starts_runs_and_stops() -> None:
    state, actions = after([(0, StartRequested()), (1, Ready()), (5, Tick()), (6, StopRequested())])
    assert state.phase is Phase.STOPPED
    assert actions == [Action.START, Action.NONE, Action.NONE, Action.STOP]
    assert (state.restarts, state.failures, state.last_exit) == (0, 0, None)


def test_delays_double_up_to_the_limit_and_each_is_kept_to_the_moment() -> None:
    state, _ = after([(0, StartRequested())])
    now_s, delays = 0.0, []
    for _ in range(6):
        state, _ = advance(state, Exited(1), now_s, POLICY)
        delays.append(state.retry_at_s - now_s)
        early, action = advance(state, Tick(), state.retry_at_s - 1e-9, POLICY)
        assert (early, action) == (state, Action.NONE)
        now_s = state.retry_at_s
        state, action = advance(state, Tick(), now_s, POLICY)
        assert (state.phase, action) == (Phase.STARTING, Action.START)
    assert delays == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert state.restarts == 6


@pytest.mark.parametrize(("lasted_s", "failures"), [(99.0, 3), (100.0, 1)])
def test_only_a_run_that_lasted_makes_the_next_failure_the_first(lasted_s: float, failures: int) -> None:
    running = ProcessState(phase=Phase.RUNNING, since_s=50.0, failures=2)
    state, _ = advance(running, Exited(-9), 50.0 + lasted_s, POLICY)
    assert (state.phase, state.failures, state.last_exit) == (Phase.BACKING_OFF, failures, -9)


def test_exit_code_0_is_the_end_and_not_a_failure() -> None:
    state, actions = after([(0, StartRequested()), (1, Ready()), (2, Exited(0)), (1000, Tick())])
    assert (state.phase, state.last_exit, state.restarts) == (Phase.STOPPED, 0, 0)
    assert actions[-1] is Action.NONE


def test_a_process_that_does_not_become_ready_is_killed_and_tried_again() -> None:
    state, actions = after([(0, StartRequested()), (29.9, Tick()), (30, Tick()), (31, Tick())])
    assert actions == [Action.START, Action.NONE, Action.KILL, Action.START]
    assert state.restarts == 1


def test_a_stop_during_back_off_needs_no_signal_and_nothing_starts_later() -> None:
    state, actions = after([(0, StartRequested()), (1, Exited(1)), (1.5, StopRequested()), (99, Tick())])
    assert state.phase is Phase.STOPPED
    assert actions == [Action.START, Action.NONE, Action.NONE, Action.NONE]


def test_late_events_of_a_process_that_is_gone_change_nothing() -> None:
    stopped = ProcessState(last_exit=1)
    for event in (Ready(), Exited(0), Exited(1), Tick(), StopRequested()):
        assert advance(stopped, event, 5.0, POLICY) == (stopped, Action.NONE)


def test_the_delay_is_finite_after_any_number_of_failures() -> None:
    assert POLICY.delay_s(1_000_000) == 8.0


# --- the shell -------------------------------------------------------------------------------------------------------


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def until(supervisor: Supervisor, condition: object, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, supervisor.statuses()
        supervisor.poll()
        time.sleep(0.02)


def test_starts_in_order_and_stops_in_reverse(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    code = """
import signal, sys, time
def say(text): open(sys.argv[1], "a").write(text + chr(10))
def leave(*_): say("stop " + sys.argv[2]); sys.exit(0)
signal.signal(signal.SIGTERM, leave)
say("start " + sys.argv[2])
time.sleep(60)
"""
    names = ["broker", "store", "stage"]
    specs = [
        ProcessSpec(
            n, [*python(code), str(trace), n], ready=lambda n=n: trace.exists() and f"start {n}" in trace.read_text()
        )
        for n in names
    ]
    supervisor = Supervisor(specs, tmp_path / "log")
    supervisor.start()
    assert [s.phase for s in supervisor.statuses()] == [Phase.RUNNING] * 3
    supervisor.stop()
    assert trace.read_text().splitlines() == [f"start {n}" for n in names] + [f"stop {n}" for n in reversed(names)]
    assert [(s.phase, s.pid) for s in supervisor.statuses()] == [(Phase.STOPPED, None)] * 3


def test_what_dies_is_started_again_and_what_ends_is_not(tmp_path: Path) -> None:
    code = """
import pathlib, sys, time
starts = pathlib.Path(sys.argv[1])
before = len(list(starts.iterdir()))
(starts / str(before)).touch()
while not pathlib.Path(sys.argv[2]).exists():
    time.sleep(0.01)
sys.exit(3) if before < 2 else time.sleep(60)
"""
    starts, may_die = tmp_path / "starts", tmp_path / "may die"
    starts.mkdir()
    seen: list[ProcessStatus] = []
    supervisor = Supervisor(
        [
            ProcessSpec("frail", [*python(code), str(starts), str(may_die)], policy=Policy(first_delay_s=0.01)),
            ProcessSpec("short", python("pass")),
        ],
        tmp_path / "log",
        seen.append,
    )
    supervisor.start()  # a process that died during the very first start would be an error of its own
    may_die.touch()
    try:
        until(supervisor, lambda: len(list(starts.iterdir())) == 3 and supervisor.statuses()[1].last_exit == 0)
        frail, short = supervisor.statuses()
        assert (frail.restarts, frail.last_exit) == (2, 3)
        assert (short.phase, short.restarts) == (Phase.STOPPED, 0)
        assert [s.phase for s in seen if s.name == "frail"].count(Phase.BACKING_OFF) == 2
    finally:
        supervisor.stop()


def test_a_failed_first_start_stops_the_others_and_names_the_log(tmp_path: Path) -> None:
    supervisor = Supervisor(
        [
            ProcessSpec("good", python("import time; time.sleep(60)")),
            ProcessSpec("bad", python("raise SystemExit('no such market')"), ready=lambda: False),
        ],
        tmp_path / "log",
    )
    with pytest.raises(
        ChildFailedError, match=r"bad left with code 1 before it was ready; its log is .*bad\.log"
    ) as caught:
        supervisor.start()
    assert "no such market" in caught.value.log_path.read_text()
    assert [s.pid for s in supervisor.statuses()] == [None, None]


def test_a_process_that_ignores_the_request_does_not_eat_the_time_of_the_others(tmp_path: Path) -> None:
    wait = "; print('here', flush=True); time.sleep(60)"
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + wait
    polite = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))" + wait
    log = tmp_path / "log"

    def says(name: str, word: str) -> bool:
        path = log / f"{name}.log"
        return path.exists() and word in path.read_text()

    supervisor = Supervisor(
        [
            ProcessSpec("polite", python(polite), ready=lambda: says("polite", "here")),
            ProcessSpec("stubborn", python(stubborn), ready=lambda: says("stubborn", "here")),
        ],
        log,
    )
    supervisor.start()
    exits = {runner.spec.name: runner._child for runner in supervisor._runners}
    supervisor.stop(budget_s=2.0)
    assert exits["stubborn"] is not None
    assert exits["polite"] is not None
    assert (exits["stubborn"].poll(), exits["polite"].poll()) == (-9, 0)


def test_a_large_log_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "p.log").write_bytes(b"x" * (LOG_BYTES_MAX + 1))
    supervisor = Supervisor([ProcessSpec("p", python("print('new')"))], tmp_path)
    supervisor.start()
    until(supervisor, lambda: supervisor.statuses()[0].last_exit == 0)
    assert (tmp_path / "p.log").read_text() == "new\n"
    assert (tmp_path / "p.log.1").stat().st_size == LOG_BYTES_MAX + 1
