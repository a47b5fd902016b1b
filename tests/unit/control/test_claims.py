"""One holder at a time, also across processes; a dead holder holds nothing."""

import subprocess
import sys
from pathlib import Path

from control.claims import Claim
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
