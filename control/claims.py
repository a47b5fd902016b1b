"""The right to start the workers of a tape and line: one process at a time holds it, and it dies with that process."""

from pathlib import Path

from control.embedded.folder_lock import FolderLock
from runtime.errors import FolderInUseError
from runtime.tapes import Manifest


class Claim:
    """The right to start the workers of one tape and line.

    Args:
        state_dir: folder of states.
        manifest: the tape.
        line: the line.
    """

    def __init__(self, state_dir: Path, manifest: Manifest, line: str) -> None:
        self._lock = FolderLock(state_dir / "workers" / manifest.tape_id / line, "a set of workers")
        self._held = False

    def take(self) -> bool:
        """Take it; False while another process holds it."""
        if not self._held:
            try:
                self._lock.acquire(patience_s=0)
            except FolderInUseError:
                return False
            self._held = True
        return True

    def release(self) -> None:
        """Give it back; nothing happens if it is not held."""
        self._lock.release()
        self._held = False
