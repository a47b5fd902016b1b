"""One owner per folder, and a dead owner is none, once its child is gone."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from control.embedded.folder_lock import FolderLock
from runtime.errors import FolderInUseError

OWNER = """
import subprocess, sys
from pathlib import Path
from control.embedded.folder_lock import FolderLock
descriptor = FolderLock(Path(sys.argv[1]), "a broker").acquire()
child = subprocess.Popen(["sleep", sys.argv[2]], pass_fds=[descriptor])
print(child.pid, flush=True)
child.wait()
"""


def start_owner(folder: Path, child_lives_s: float) -> "subprocess.Popen[bytes]":
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(folder), str(child_lives_s)], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    owner.stdout.readline()
    return owner


def test_a_second_owner_is_refused_at_once_with_the_name_of_the_first(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path, "a broker"), FolderLock(tmp_path, "a broker")
    first.acquire()
    before = time.monotonic()
    with pytest.raises(FolderInUseError, match=rf"^a broker \(process {os.getpid()}\) already runs on "):
        second.acquire(patience_s=60)
    assert time.monotonic() - before < 30
    first.release()
    second.acquire()
    second.release()
    second.release()


def test_the_child_of_a_killed_owner_is_waited_for(tmp_path: Path) -> None:
    with start_owner(tmp_path, 1.5) as owner:
        owner.kill()
        owner.wait()
        with pytest.raises(FolderInUseError):
            FolderLock(tmp_path, "a broker").acquire(patience_s=0.2)
        lock = FolderLock(tmp_path, "a broker")
        lock.acquire(patience_s=30)
        lock.release()
