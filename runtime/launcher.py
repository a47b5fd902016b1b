"""The first program of every child process: it ties the child's life to its parent's, then becomes the child.

Run by path, isolated (`python -I -S launcher.py PARENT_PID LIFELINE_FD -- COMMAND…`), so it may use the standard
library alone. It exists because the tie must be made inside the child, and doing that in `preexec_fn` would run Python
between fork and exec of a process full of threads, which can hang.

- Linux: the kernel kills the child when the parent dies (PR_SET_PDEATHSIG, which survives `exec`); no process is added.
- Elsewhere: this program stays as a guard. It waits for the end of the lifeline pipe, whose other end only the parent
  holds and the system closes for it however it dies, and then kills the child.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Final

PR_SET_PDEATHSIG: Final = 1
"""Option number of prctl(2): the signal that this process gets when its parent ends."""

CANNOT_START: Final = 127
"""Exit code when the command cannot be executed, as in a shell."""


def main(argv: Sequence[str]) -> int:
    """Tie, then run; returns only where exec is not used or failed.

    Args:
        argv: parent's pid, lifeline's descriptor, "--", command.
    """
    parent, lifeline, command = int(argv[0]), int(argv[1]), list(argv[3:])
    try:
        if sys.platform == "linux":
            if not tie_to_parent(parent):
                return -signal.SIGKILL
            os.execvp(command[0], command)
        return guard(command, lifeline)
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        return CANNOT_START


def tie_to_parent(parent: int) -> bool:
    """Ask the kernel to kill this process with its parent.

    Args:
        parent: pid of the process that should be the parent.

    Returns:
        False if that one was gone before the kernel was asked: it would then never send the signal.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")
    return os.getppid() == parent


def guard(command: Sequence[str], lifeline: int) -> int:
    """Run the command as a child of this process; kill it when the lifeline ends. Returns its exit code."""
    child = subprocess.Popen(command, pass_fds=(lifeline,))

    def kill_at_end() -> None:
        while os.read(lifeline, 1):
            pass
        child.kill()

    threading.Thread(target=kill_at_end, daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: child.send_signal(received))
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
