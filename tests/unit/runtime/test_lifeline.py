"""Children end with their parent, whatever ends the parent, and not before."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runtime import launcher
from runtime.lifeline import ENV_FD, Child, spawn, watch_lifeline

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "State:\tZ" not in status.read_text()


def wait_gone(pid: int, timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while is_running(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            return False
        time.sleep(0.02)
    return True


def read_when_there(path: Path, timeout_s: float = 15.0) -> str:
    deadline = time.monotonic() + timeout_s
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.02)
    return path.read_text().strip()


PARENT = """
import sys, time
from pathlib import Path
from runtime.lifeline import spawn
code = sys.argv[1]
folder = Path(sys.argv[2])
child = spawn([sys.executable, "-c", code, sys.argv[2]], log_path=folder / "child.log", name="child")
(folder / "child").write_text(f"{child.pid}\\n")
time.sleep(60)
"""


def start_parent(code: str, folder: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", PARENT, code, str(folder)])


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_child_ends_when_its_parent_is_killed(by: signal.Signals, tmp_path: Path) -> None:
    parent = start_parent("import time; time.sleep(60)", tmp_path)
    child = int(read_when_there(tmp_path / "child"))
    assert is_running(child)
    parent.send_signal(by)
    parent.wait()
    assert wait_gone(child)


def test_a_grandchild_ends_as_well(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from runtime.lifeline import spawn
grandchild = spawn(["sleep", "60"], log_path=Path(sys.argv[1]) / "g.log", name="g")
(Path(sys.argv[1]) / "grandchild").write_text(f"{grandchild.pid}\\n")
time.sleep(60)
"""
    parent = start_parent(code, tmp_path)
    grandchild = int(read_when_there(tmp_path / "grandchild"))
    parent.kill()
    parent.wait()
    assert wait_gone(grandchild)


def test_a_child_survives_the_thread_that_started_it(tmp_path: Path) -> None:
    started: list[Child] = []
    thread = threading.Thread(target=lambda: started.append(spawn(SLEEPER, log_path=tmp_path / "log", name="s")))
    thread.start()
    thread.join()
    try:
        assert started[0].wait(0.5) is None
    finally:
        started[0].terminate(1)


def test_ctrl_c_in_the_terminal_does_not_reach_a_child(tmp_path: Path) -> None:
    child = spawn(SLEEPER, log_path=tmp_path / "log", name="s")
    try:
        assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
        assert os.getsid(child.pid) == child.pid
    finally:
        assert child.terminate(5) == -signal.SIGTERM


def test_terminate_kills_what_ignores_the_request_and_the_rest_of_its_group(tmp_path: Path) -> None:
    code = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
other = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, 1); time.sleep(60)"])
open(sys.argv[1], "w").write(f"{other.pid}\\n")
time.sleep(60)
"""
    child = spawn([sys.executable, "-c", code, str(tmp_path / "other")], log_path=tmp_path / "log", name="s")
    other = int(read_when_there(tmp_path / "other"))
    assert child.terminate(0.2) == -signal.SIGKILL
    assert wait_gone(other)
    assert child.terminate(0.2) == -signal.SIGKILL  # harmless when repeated


def test_output_environment_and_exit_code_come_back(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['COLOUR'], file=sys.stderr); sys.exit(7)"
    child = spawn([sys.executable, "-c", code], log_path=tmp_path / "a" / "log", name="s", env={"COLOUR": "blue"})
    assert child.wait(15) == 7
    assert child.log_path.read_text() == "blue\n"


def test_a_command_that_cannot_be_executed_says_so(tmp_path: Path) -> None:
    child = spawn([str(tmp_path / "nothing")], log_path=tmp_path / "log", name="s")
    assert child.wait(15) == launcher.CANNOT_START
    assert child.log_path.read_text() == f"cannot start {tmp_path / 'nothing'}: No such file or directory\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_parent_that_died_before_the_tie_is_noticed() -> None:
    script = [sys.executable, "-I", "-S", launcher.__file__, "1", "0", "--", "echo", "ran"]
    result = subprocess.run(script, capture_output=True, check=False)  # process 1 is not its parent
    assert result.stdout == b""
    assert result.returncode != 0


def test_the_guard_kills_its_child_when_the_lifeline_ends_and_else_gives_its_code() -> None:
    read_end, write_end = os.pipe()
    timer = threading.Timer(0.3, os.close, [write_end])
    timer.start()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert launcher.guard(SLEEPER, read_end) == -signal.SIGKILL
        read_end, write_end = os.pipe()
        assert launcher.guard([sys.executable, "-c", "raise SystemExit(5)"], read_end) == 5
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


WATCHER = """
import signal, sys, time
from pathlib import Path
from runtime.lifeline import watch_lifeline
def leave(*_):
    Path(sys.argv[1]).write_text("cleaned up\\n"); sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print(watch_lifeline(), flush=True)
time.sleep(60)
"""


def test_a_watching_child_cleans_up_when_the_pipe_ends(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", WATCHER, str(tmp_path / "note")],
        env={**os.environ, ENV_FD: str(read_end)},
        pass_fds=[read_end],
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"True\n"
        os.close(write_end)
        assert child.wait(10) == 0
    assert (tmp_path / "note").read_text() == "cleaned up\n"
    os.close(read_end)


def test_without_a_lifeline_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "nonsense", "999999"):
        monkeypatch.setenv(ENV_FD, value)
        assert watch_lifeline() is False
