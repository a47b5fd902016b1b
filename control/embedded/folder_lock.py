"""One owner per data folder: a lock that dies with whoever holds it.

The lock is the system's (`flock`), so no crash leaves one behind. A child that inherits the descriptor holds it too:
after `kill -9` of the owner the folder counts as taken until its child is gone as well.
"""

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from runtime.errors import FolderInUseError

ORPHAN_PATIENCE_S: Final = 10.0
"""How long to wait for the child of a dead owner to end. The kernel kills it at once, but a process of half a GB that
writes to a slow disk takes a second or two to vanish; longer than this means that it hangs."""

_POLL_S: Final = 0.05


class FolderLock:
    """The exclusive right to a folder.

    Args:
        folder: the folder; made if absent.
        owner: what wants it, in words ("a Kafka broker").
    """

    def __init__(self, folder: Path, owner: str) -> None:
        self._folder, self._owner = folder, owner
        self._descriptor: int | None = None

    def acquire(self, patience_s: float = ORPHAN_PATIENCE_S) -> int:
        """Take the folder.

        Args:
            patience_s: how long to wait if the owner is dead and only its child still holds on.

        Returns:
            The descriptor, to be inherited by a child that uses the folder.

        Raises:
            FolderInUseError: a living process owns it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder / ".owner", os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + patience_s
        while not _try_lock(descriptor):
            owner = _read_pid(descriptor)
            if _is_alive(owner) or time.monotonic() > deadline:
                os.close(descriptor)
                raise FolderInUseError(self._folder, self._owner, owner)
            time.sleep(_POLL_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._descriptor = descriptor
        return descriptor

    def release(self) -> None:
        """Give the folder back; nothing happens if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_pid(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    return int(text) if text.isdigit() else None


def _is_alive(pid: int | None) -> bool:
    if pid is None:
        return False  # the owner is between taking the lock and writing its name
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
