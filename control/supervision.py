"""When to start, restart and give up on a process: a pure function of state, event and time.

                 Ready                       Exited(code != 0)
    STARTING ───────────► RUNNING ─────────────────────────────► BACKING_OFF ── Tick, delay over ──► STARTING
        │  └─ Exited(code != 0), or Tick when not ready in time ──────▲
        └──────────── Exited(0): its work is done; StopRequested from anywhere ──► STOPPED

The delay doubles with each failure in a row and starts again once a run has lasted. No I/O and no clock here; the shell
beside (`control.supervisor`) carries the actions out.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final


class Phase(StrEnum):
    """Where a process is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    BACKING_OFF = "backing-off"


class Action(StrEnum):
    """What the shell has to do now."""

    NONE = "none"
    START = "start"
    STOP = "stop"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class StartRequested:
    """The process shall run."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The process shall not run any more."""


@dataclass(frozen=True, slots=True)
class Ready:
    """It answers."""


@dataclass(frozen=True, slots=True)
class Exited:
    """It has left, with this code (negative: the signal that ended it)."""

    code: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = StartRequested | StopRequested | Ready | Exited | Tick


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient to be, in seconds.

    Args:
        first_delay_s: delay after the first failure; a stage that died is back within the 10 s session of its group.
        max_delay_s: longest delay; a cure from outside (disk freed, broker back) is noticed within it.
        calm_s: a run that lasted this long was good: the next failure counts as the first.
        ready_timeout_s: a process that is not ready after this time counts as failed.
    """

    first_delay_s: float = 0.5
    max_delay_s: float = 30.0
    calm_s: float = 60.0
    ready_timeout_s: float = 90.0

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after the n-th failure in a row (n >= 1)."""
        return min(self.max_delay_s, self.first_delay_s * 2.0 ** min(failures - 1, _MAX_DOUBLINGS))


_MAX_DOUBLINGS: Final = 60
"""Beyond this a float of any sensible first delay has passed every sensible limit; keeps 2**n finite for all n."""


@dataclass(frozen=True, slots=True)
class ProcessState:
    """State of one process.

    Args:
        phase: where it is.
        since_s: time of the last change of phase.
        failures: failures in a row.
        restarts: starts after the first, in all.
        retry_at_s: when to start again; means something in BACKING_OFF only.
        last_exit: code it last left with; None if it never did.
    """

    phase: Phase = Phase.STOPPED
    since_s: float = 0.0
    failures: int = 0
    restarts: int = 0
    retry_at_s: float = 0.0
    last_exit: int | None = None


def advance(state: ProcessState, event: Event, now_s: float, policy: Policy) -> tuple[ProcessState, Action]:
    """The next state and what to do.

    Args:
        state: as it was.
        event: what happened; one that makes no sense in this phase (a late Ready) changes nothing.
        now_s: time on any clock that does not go back.
        policy: the delays.
    """
    alive = state.phase in (Phase.STARTING, Phase.RUNNING)
    match event:
        case StartRequested() if state.phase is Phase.STOPPED:
            return replace(state, phase=Phase.STARTING, since_s=now_s, failures=0), Action.START
        case StopRequested() if state.phase is not Phase.STOPPED:
            return replace(state, phase=Phase.STOPPED, since_s=now_s), Action.STOP if alive else Action.NONE
        case Ready() if state.phase is Phase.STARTING:
            return replace(state, phase=Phase.RUNNING, since_s=now_s), Action.NONE
        case Exited(code=0) if alive:
            return replace(state, phase=Phase.STOPPED, since_s=now_s, last_exit=0), Action.NONE
        case Exited(code=code) if alive:
            return _failed(replace(state, last_exit=code), now_s, policy), Action.NONE
        case Tick() if state.phase is Phase.STARTING and now_s - state.since_s >= policy.ready_timeout_s:
            return _failed(state, now_s, policy), Action.KILL
        case Tick() if state.phase is Phase.BACKING_OFF and now_s >= state.retry_at_s:
            return replace(state, phase=Phase.STARTING, since_s=now_s, restarts=state.restarts + 1), Action.START
    return state, Action.NONE


def _failed(state: ProcessState, now_s: float, policy: Policy) -> ProcessState:
    was_good = state.phase is Phase.RUNNING and now_s - state.since_s >= policy.calm_s
    failures = 1 if was_good else state.failures + 1
    retry_at_s = now_s + policy.delay_s(failures)
    return replace(state, phase=Phase.BACKING_OFF, since_s=now_s, failures=failures, retry_at_s=retry_at_s)
