"""Child processes that never outlive their parent, also when the parent is killed with `kill -9`.

    parent ── spawn() ──► launcher.py ── exec ──► child
       └────── lifeline: a pipe that nobody writes to ──────┘

A dying parent cannot clean up, so the system must: the kernel's parent-death signal where there is one (Linux), a
guard process elsewhere, see `runtime.launcher`. On top of that a Python child calls `watch_lifeline()`, which leaves
when the pipe ends; so a child that nobody's kernel kills still goes. Grandchildren follow, as every level is tied to
the one above.

Each child leads a session of its own: Ctrl-C in a terminal reaches the parent only, which stops its children in order.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any, Final

from runtime import launcher

ENV_FD: Final = "BAROGRAPH_LIFELINE_FD"
"""Environment variable that tells a child the descriptor of its lifeline."""

GRACE_S: Final = 5.0
"""How long a child that lost its parent may clean up. The ports and folders it holds are what a restarted parent waits
for; below a second a checkpoint in progress would be cut off for nothing."""


class Child:
    """A running child process.

    Args:
        name: its name in messages.
        log_path: file that takes its standard output and error.
        process: the process.
    """

    def __init__(self, name: str, log_path: Path, process: "subprocess.Popen[bytes]") -> None:
        self.name, self.log_path, self._process = name, log_path, process

    @property
    def pid(self) -> int:
        """Process id, also the id of its session and process group."""
        return self._process.pid

    def poll(self) -> int | None:
        """Exit code, negative for the signal that ended it; None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> int | None:
        """Wait for its end; the exit code, None if it still runs after `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def request_stop(self) -> None:
        """Send SIGTERM and do not wait."""
        if self.poll() is None:
            self._process.terminate()

    def terminate(self, timeout_s: float) -> int:
        """Stop it: SIGTERM, then SIGKILL for whatever of its process group is left after `timeout_s`.

        Returns:
            Its exit code.
        """
        self.request_stop()
        self.wait(timeout_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS answers "permission" for a zombie
            os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()


def spawn(
    argv: Sequence[str],
    *,
    log_path: Path,
    name: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Start a process that ends with this one.

    Args:
        argv: command; the first is looked up in PATH.
        log_path: file that takes its output (appended; its folder is made).
        name: its name in messages.
        env: additions to this process's environment.
        cwd: its folder; default: this process's.
        pass_fds: further descriptors that it inherits.

    A command that cannot be executed shows as a child that leaves at once with `launcher.CANNOT_START`.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    lifeline = _lifeline(os.getpid())
    tied = [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), str(lifeline), "--", *argv]
    with log_path.open("ab") as log:
        process = _in_lasting_thread(
            lambda: subprocess.Popen(
                tied,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {}), ENV_FD: str(lifeline)},
                cwd=cwd,
                pass_fds=(lifeline, *pass_fds),
                start_new_session=True,
            )
        )
    return Child(name, log_path, process)


def watch_lifeline(on_end: Callable[[], None] | None = None, grace_s: float = GRACE_S) -> bool:
    """In a child: leave when the parent dies. A daemon thread waits, so this costs nothing.

    Args:
        on_end: what to do then; default: SIGTERM to this process, so that its own clean-up runs.
        grace_s: this long after, the process is ended in any case.

    Returns:
        False if this process has no lifeline (it was not started by `spawn`); nothing is watched then.
    """
    descriptor = os.environ.get(ENV_FD, "")
    if not descriptor.isdigit() or not _is_open(int(descriptor)):
        return False

    def leave() -> None:
        while os.read(int(descriptor), 1):
            pass
        (on_end or _terminate_self)()
        time.sleep(grace_s)
        os._exit(1)

    threading.Thread(target=leave, name="lifeline", daemon=True).start()
    return True


def _terminate_self() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@cache
def _lifeline(_pid: int) -> int:
    """Read end of the pipe of this process (per pid: a fork has its own).

    The write end stays open here, unnamed and not inheritable, until the process ends.
    """
    read_end, _write_end = os.pipe()
    return read_end


def _in_lasting_thread(call: Callable[[], Any]) -> Any:
    """Run `call` in a thread that lives as long as the process.

    The kernel sends the parent-death signal when the *thread* that started the child ends: a child of a thread of a
    pool would die in the middle of its work. A daemon thread ends with the process and not before.
    """
    answer: Future[Any] = Future()
    _spawner(os.getpid()).put((call, answer))
    return answer.result()


@cache
def _spawner(_pid: int) -> "queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]]":
    calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()

    def work() -> None:
        while True:
            call, answer = calls.get()
            try:
                answer.set_result(call())
            except BaseException as error:  # handed to the caller, whatever it is
                answer.set_exception(error)

    threading.Thread(target=work, name="spawner", daemon=True).start()
    return calls
