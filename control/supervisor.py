"""Runs named child processes: starts them in order, restarts what dies, stops them in reverse.

The decisions are `control.supervision`'s; here are the processes, the clock and the logs. Whoever runs a supervisor
calls `poll()` a few times a second from one thread. The children end with this process in any case
(`runtime.lifeline`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from control.supervision import (
    Action,
    Event,
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
from runtime.errors import ChildFailedError
from runtime.lifeline import Child, spawn

STOP_BUDGET_S: Final = 20.0
"""How long stopping everything may take. Someone waits after Ctrl-C; below some seconds a checkpoint in progress or the
broker's clean stop is cut off, and the next start pays for it."""

LOG_BYTES_MAX: Final = 10 << 20
"""A log larger than this is set aside (`.1`) when its process starts, so that a crash loop cannot fill the disk."""

_POLL_S: Final = 0.05


@dataclass(frozen=True)
class ProcessSpec:
    """A process to run.

    Args:
        name: unique; also the name of its log.
        argv: the command.
        env: additions to the environment.
        ready: says whether it answers, within some 100 ms; None: it is ready as soon as it runs.
        holds: whether later processes wait, at the first start, until it is ready.
        policy: how patient to be.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[], bool] | None = None
    holds: bool = True
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True)
class ProcessStatus:
    """How a process is; `pid` is None while it does not run, `seconds` the time since the last change of phase."""

    name: str
    phase: Phase
    pid: int | None
    restarts: int
    last_exit: int | None
    seconds: float
    log_path: Path


class Supervisor:
    """Keeps processes running.

    Args:
        processes: in the order of their start.
        log_dir: folder of their logs, `NAME.log`.
        on_event: told of each change of phase, in the thread that calls; default: nobody.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        processes: Sequence[ProcessSpec],
        log_dir: Path,
        on_event: Callable[[ProcessStatus], None] = lambda status: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runners = [_Runner(spec, log_dir / f"{spec.name}.log", on_event, clock) for spec in processes]
        self._clock = clock

    def start(self) -> None:
        """Start all and wait until every one is ready. A first start that fails is not repeated: nothing keeps running.

        Raises:
            ChildFailedError: one left or was not ready in time.
        """
        try:
            for runner in self._runners:
                runner.handle(StartRequested())
                if runner.spec.holds:
                    self._wait_until_ready()
            self._wait_until_ready()
        except BaseException:  # Ctrl-C too
            self.stop()
            raise

    def poll(self) -> None:
        """Look at every process once, restart what is due; does not wait."""
        for runner in self._runners:
            runner.poll()

    def stop(self, budget_s: float = STOP_BUDGET_S) -> None:
        """Stop all, the last started first. Each may take an equal share of the time that is left, then it is killed.

        Args:
            budget_s: time for all of them together; what one does not use is left to the others.
        """
        deadline = self._clock() + budget_s
        for left in range(len(self._runners), 0, -1):
            self._runners[left - 1].stop(max(0.0, deadline - self._clock()) / left)

    def statuses(self) -> list[ProcessStatus]:
        """How every process is, in the order of their start."""
        return [runner.status() for runner in self._runners]

    def _wait_until_ready(self) -> None:
        """Until every process that was started is ready or has ended with 0."""
        while any(runner.state.phase is Phase.STARTING for runner in self._runners):
            self.poll()
            for runner in self._runners:
                if runner.state.phase is Phase.BACKING_OFF:
                    raise ChildFailedError(runner.spec.name, runner.why_failed(), runner.log_path)
            time.sleep(_POLL_S)


class _Runner:
    """One process and its state."""

    def __init__(
        self,
        spec: ProcessSpec,
        log_path: Path,
        on_event: Callable[[ProcessStatus], None],
        clock: Callable[[], float],
    ) -> None:
        self.spec, self.log_path = spec, log_path
        self.state = ProcessState()
        self._on_event, self._clock = on_event, clock
        self._child: Child | None = None

    def handle(self, event: Event) -> None:
        """Take an event, carry out what follows, tell of a new phase."""
        before = self.state.phase
        self.state, action = advance(self.state, event, self._clock(), self.spec.policy)
        if action is Action.START:
            self._set_log_aside()
            self._child = spawn(self.spec.argv, log_path=self.log_path, name=self.spec.name, env=self.spec.env)
        elif action is Action.KILL and self._child is not None:
            self._child.terminate(0)
            self._child = None
        if self.state.phase is not before:
            self._on_event(self.status())

    def poll(self) -> None:
        """Exit, readiness, time: in this order, as a process that has left cannot be ready."""
        if self._child is not None and (code := self._child.poll()) is not None:
            self._child = None
            self.handle(Exited(code))
        elif self.state.phase is Phase.STARTING and (self.spec.ready is None or self.spec.ready()):
            self.handle(Ready())
        self.handle(Tick())

    def stop(self, timeout_s: float) -> None:
        """Stop the process; it stays stopped."""
        child, self._child = self._child, None
        if child is not None:
            child.terminate(timeout_s)
        self.handle(StopRequested())

    def status(self) -> ProcessStatus:
        """How it is."""
        state = self.state
        pid = self._child.pid if self._child is not None else None
        age_s = self._clock() - state.since_s
        return ProcessStatus(self.spec.name, state.phase, pid, state.restarts, state.last_exit, age_s, self.log_path)

    def why_failed(self) -> str:
        """The last failure in words."""
        if self.state.last_exit is None:
            return f"was not ready within {self.spec.policy.ready_timeout_s:g} s"
        return f"left with code {self.state.last_exit} before it was ready"

    def _set_log_aside(self) -> None:
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_BYTES_MAX:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
