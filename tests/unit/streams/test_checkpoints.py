"""Checkpoints that were damaged: the one before is used, and the next good one is not kept out by what is broken."""

import hashlib
from pathlib import Path

import pytest

from runtime.object_store import LocalObjectStore
from streams.checkpoints import Checkpoint, CheckpointStore


def store(folder: Path) -> CheckpointStore:
    """As another process opens it."""
    return CheckpointStore(LocalObjectStore(folder), "c")


def save(into: CheckpointStore, offset: int) -> None:
    """A checkpoint with an instrument that stays the same and one that changes."""
    pieces = {"quiet": b"the same", "busy": b"at %d" % offset}
    into.save(0, Checkpoint(offset, offset, "run0", "topic0", 1), pieces)


def newest(folder: Path) -> int | None:
    """Offset that a new owner goes on from."""
    loaded = store(folder).load(0)
    return None if loaded is None else loaded[0].offset


def test_a_damaged_piece_that_all_manifests_name_is_written_again(tmp_path: Path) -> None:
    first = store(tmp_path)
    for offset in (10, 20, 30):
        save(first, offset)
    (tmp_path / "c/0/pieces" / hashlib.sha256(b"the same").hexdigest()).write_bytes(b"not the same")
    again = store(tmp_path)
    assert again.load(0) is None, "the state is computed again"
    save(again, 40)
    assert newest(tmp_path) == 40


@pytest.mark.parametrize("damage", [b"", b"{", b'{"checkpoint": "{}", "sha256": "00"}'])
def test_a_damaged_manifest_does_not_keep_its_successor_out(damage: bytes, tmp_path: Path) -> None:
    first = store(tmp_path)
    for offset in (10, 20):
        save(first, offset)
    (tmp_path / "c/0/manifests" / f"{20:020d}.json").write_bytes(damage)
    again = store(tmp_path)
    loaded = again.load(0)
    assert loaded is not None
    assert loaded[0].offset == 10
    save(again, 20)
    assert newest(tmp_path) == 20, "a tape may end here: nothing larger will ever come"


def test_the_same_offset_again_brings_back_a_piece_that_is_missing(tmp_path: Path) -> None:
    first = store(tmp_path)
    for offset in (10, 20):
        save(first, offset)
    (tmp_path / "c/0/pieces" / hashlib.sha256(b"at 20").hexdigest()).unlink()
    again = store(tmp_path)
    loaded = again.load(0)
    assert loaded is not None
    assert loaded[0].offset == 10
    save(again, 20)
    assert newest(tmp_path) == 20


def test_a_smaller_offset_changes_nothing(tmp_path: Path) -> None:
    save(store(tmp_path), 20)
    save(store(tmp_path), 10)
    assert [path.name for path in (tmp_path / "c/0/manifests").iterdir()] == [f"{20:020d}.json"]
