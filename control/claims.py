"""Who may work on a tape and line. All rights are locks on files, and die with the process that holds them.

The *claim* is the right to start the workers of a line: `up` and `run` hold it. A *slot* is the place of one worker
among those of the same stages: each worker holds its own, also one that was started by hand. So whoever wants to delete
or hand over a line sees everybody who works on it from this data folder.

The *lake's right* is that to rewrite objects of a tape: whoever joins them and whoever deletes from them would each
bring back what the other took away. Sinks only add objects, and do not need it.
"""

import fcntl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from control.embedded.folder_lock import FolderLock
from runtime.errors import FolderInUseError
from runtime.tapes import Manifest

_SLOTS: Final = "slots"


class Claim:
    """The right to start the workers of one tape and line.

    Args:
        state_dir: folder of states.
        manifest: the tape.
        line: the line.
    """

    def __init__(self, state_dir: Path, manifest: Manifest, line: str) -> None:
        self._lock = FolderLock(_folder(state_dir, manifest) / line, "a set of workers")
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


def worker_slot(state_dir: Path, manifest: Manifest, line: str, stages: Sequence[str], slot: int) -> FolderLock:
    """The place of one worker; to be held as long as it lives."""
    name = f"{'-'.join(stages)}-{slot}"
    return FolderLock(_folder(state_dir, manifest) / line / _SLOTS / name, f"worker {slot} of the same stages")


def held_slots(state_dir: Path, manifest: Manifest) -> list[Path]:
    """Locks of workers that live, on any line of a tape."""
    return [path for path in _folder(state_dir, manifest).glob(f"*/{_SLOTS}/*/.owner") if is_locked(path)]


def is_locked(path: Path) -> bool:
    """Whether another process holds a file's lock."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def lake_right(state_dir: Path, manifest: Manifest) -> FolderLock:
    """The right to rewrite a tape's objects in the lake; to be held as long as that takes."""
    return FolderLock(state_dir / "lake" / manifest.tape_id, f"a compaction or deletion of tape {manifest.tape}")


def _folder(state_dir: Path, manifest: Manifest) -> Path:
    return state_dir / "workers" / manifest.tape_id
