"""Cutovers without a broker: a quiet line is handed on again and again at one place."""

from pathlib import Path
from typing import Any

import pytest

from control import cutover
from control.cutover import NotCleanError
from runtime.errors import BarographError, InputError
from runtime.object_store import LocalObjectStore
from runtime.tapes import Line, Manifest, new_tape
from schemas.envelope import Envelope
from streams.build_bars import bars_stage
from streams.checkpoints import Checkpoint, CheckpointStore
from streams.cutover import Cutover, Cutovers, checkpoint_hash

STORED = Checkpoint(4, 4, "run-1", "topic", 1)


def judged(store: LocalObjectStore, manifest: Manifest, run: str, to_run: str) -> Cutover:
    handed = manifest.with_line("main", Line(run))
    found = cutover._judge(store, "", handed, "main", bars_stage({}), 0, to_run)
    assert found is not None
    return found.cutover


def test_a_line_that_got_nothing_since_is_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tail = Envelope("data", "bars", seq=4, last=True)
    monkeypatch.setattr(cutover, "newest_envelope", lambda *_: tail)
    store, tape = LocalObjectStore(tmp_path), new_tape("t")
    checkpoints = CheckpointStore(store, f"checkpoints/{tape.tape_id}/main/bars")
    checkpoints.save(0, STORED, {})
    known = Cutovers(store, f"{tape.tape_id}/main/bars")
    for run, to_run in (("run-1", "run-2"), ("run-2", "run-3"), ("run-3", "run-4")):
        found = judged(store, tape, run, to_run)
        assert (found.from_run, found.to_run) == (run, to_run)
        known.write(0, found)
        known.write(0, found)  # a cutover that was interrupted is made again
    (loaded, _), other = checkpoints.load(0) or (STORED, {}), Checkpoint(4, 4, "run-1", "another", 1)
    assert [known.allows(0, loaded, f"run-{n}") for n in (1, 2, 3, 4, 5)] == [True, True, True, True, False]
    assert not known.allows(0, other, "run-2")
    with pytest.raises(InputError, match="handed to run run-2 at seq 4 already"):
        known.write(0, Cutover(4, "run-1", "run-9", checkpoint_hash(loaded)))
    with pytest.raises(NotCleanError, match="is of run run-1, not run-9"):
        judged(store, tape, "run-9", "run-10")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"seq": 4}'])
def test_a_damaged_cutover_is_one_sentence(damage: bytes, tmp_path: Path) -> None:
    store = LocalObjectStore(tmp_path)
    known: Any = Cutovers(store, "x")
    known.write(0, Cutover(4, "run-1", "run-2", checkpoint_hash(STORED)))
    (name,) = store.names("cutovers/")
    store.put(name, damage)
    with pytest.raises(BarographError, match="is damaged"):
        known.allows(0, STORED, "run-2")
