"""One holder at a time, also across processes; a dead holder holds nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from control.claims import Claim, held_slots, worker_slot
from runtime.errors import FolderInUseError
from runtime.tapes import Manifest, new_tape

HOLD = """
import sys
from pathlib import Path
from control.claims import Claim
from runtime.tapes import Manifest
print(Claim(Path(sys.argv[1]), Manifest("t", "id0"), "main").take(), flush=True)
input()
"""


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    tape = new_tape("t")
    first, second = Claim(tmp_path, tape, "main"), Claim(tmp_path, tape, "main")
    assert first.take()
    assert first.take()
    assert not second.take()
    assert Claim(tmp_path, tape, "other").take()
    first.release()
    first.release()
    assert second.take()


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    tape = Manifest("t", "id0")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    assert not Claim(tmp_path, tape, "main").take()
    holder.kill()
    holder.communicate()
    assert Claim(tmp_path, tape, "main").take()


def test_workers_are_seen_wherever_they_were_started(tmp_path: Path) -> None:
    manifest, other = new_tape("t"), new_tape("o")
    mine, second = (worker_slot(tmp_path, manifest, "main", ["books"], n) for n in (0, 1))
    assert Claim(tmp_path, manifest, "main").take()  # the claim is no worker
    mine.acquire()
    second.acquire()
    assert len(held_slots(tmp_path, manifest)) == 2
    assert held_slots(tmp_path, other) == []
    with pytest.raises(FolderInUseError):
        worker_slot(tmp_path, manifest, "main", ["books"], 0).acquire(0)
    worker_slot(tmp_path, manifest, "main", ["books", "bars"], 0).acquire()  # another group, another place
    mine.release()
    second.release()
    assert [path.parent.name for path in held_slots(tmp_path, manifest)] == ["books-bars-0"]
