"""Who works on a tape and line: one process at a time starts its workers.

`run` starts workers for its own tape, `up` for every open one; on one data folder both may meet. A second set of
workers would be turned away by the group and by the sinks' own locks, in confusing ways; so whoever starts workers
holds a lock that dies with its process, and the other waits for the result instead.
"""

import fcntl
import os
from pathlib import Path

from runtime.tapes import Manifest


class Claim:
    """The right to start the workers of one tape and line.

    Args:
        state_dir: folder of states.
        manifest: the tape.
        line: the line.
    """

    def __init__(self, state_dir: Path, manifest: Manifest, line: str) -> None:
        self._path = state_dir / "workers" / manifest.tape_id / f"{line}.lock"
        self._handle: int | None = None

    def take(self) -> bool:
        """Take it; False while another process holds it."""
        if self._handle is not None:
            return True
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)  # not inherited: workers must not keep it alive
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return False
        self._handle = handle
        return True

    def release(self) -> None:
        """Give it back; nothing happens if it is not held."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
