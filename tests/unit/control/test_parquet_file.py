"""A set of result files: one writer at a time, complete or not vouched for, nothing hidden left behind."""

import errno
import json
import os
import subprocess
import sys
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from control.parquet_file import ResultSet
from runtime.errors import InputError

NAMES = ("bins.parquet", "manifest.json", "checksums.json")
SCHEMA = pa.schema([pa.field("x", pa.int64(), nullable=False)])


def write(folder: Path, run: int) -> None:
    """A set whose every file tells its run."""
    with ResultSet(folder, NAMES) as results:
        with results.parquet("bins.parquet", SCHEMA, 1) as file:
            file.write(pa.RecordBatch.from_arrays([pa.array([run, run])], schema=SCHEMA))
            file.finish()
        results.write_json("manifest.json", {"run": run})
        results.write_json("checksums.json", {name: results.sha256(name) for name in NAMES[:-1]})
        results.publish()


def vouched(folder: Path) -> int | None:
    """The run that the folder is of, after a check of its checksums; None if nothing vouches for it."""
    if not (folder / "checksums.json").exists():
        return None
    sums = json.loads((folder / "checksums.json").read_text())
    assert sums == {name: sha256((folder / name).read_bytes()).hexdigest() for name in NAMES[:-1]}
    return int(json.loads((folder / "manifest.json").read_text())["run"])


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


class Dying:
    """Stands for the operations by which files come and go; the one of a given number does not happen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.at, self.count = at, 0
        for owner, name in ((os, "replace"), (os, "fsync"), (Path, "unlink")):
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name)))

    def _wrapped(self, real):
        def call(*args, **named):
            self.count += 1
            if self.count == self.at:
                raise KeyboardInterrupt
            return real(*args, **named)

        return call


def test_an_interruption_at_any_step_leaves_a_consistent_folder(tmp_path: Path) -> None:
    """Before the first removal the old set stands whole, after the last name the new one; nothing vouches between."""
    found: list[int | None] = []
    for at in range(1, 100):
        folder = tmp_path / str(at)
        write(folder, 1)
        with pytest.MonkeyPatch.context() as patch:
            dying = Dying(patch, at)
            with suppress(KeyboardInterrupt):
                write(folder, 2)
        if dying.count < at:
            break
        found.append(vouched(folder))
        if (folder / "manifest.json").exists():
            run = json.loads((folder / "manifest.json").read_text())["run"]
            assert pq.read_table(folder / "bins.parquet")["x"].to_pylist() == [run, run]
        write(folder, 3)
        assert vouched(folder) == 3
        assert names(folder) == sorted(NAMES), "what the interrupted run left is gone"
    old, between, new = (found.count(run) for run in (1, None, 2))
    assert found == [1] * old + [None] * between + [2] * new
    assert (between, old > 0, new > 0) == (4, True, True)


KILLED = """
import os, sys
from pathlib import Path
from control.parquet_file import ResultSet
results = ResultSet(Path(sys.argv[1]), ("bins.parquet", "manifest.json", "checksums.json")).__enter__()
results.write_json("bins.parquet", {})
results.write_json("manifest.json", {})
print("here", flush=True)
input()
"""


def test_one_writer_at_a_time_and_a_killed_one_leaves_nothing_for_long(tmp_path: Path) -> None:
    write(tmp_path, 1)
    argv = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "here\n"
        with pytest.raises(InputError, match=rf"bins\.parquet is being written by process {holder.pid}; wait"):
            write(tmp_path, 2)
        assert vouched(tmp_path) == 1
        with ResultSet(tmp_path, ("other.parquet",)):
            pass
        holder.kill()
        holder.wait()
    assert len(names(tmp_path)) == len(NAMES) + 3, "two parts and the lock"
    write(tmp_path, 2)
    assert vouched(tmp_path) == 2
    assert names(tmp_path) == sorted(NAMES)


def test_a_lock_whose_file_was_just_removed_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder leaves between the opening and the locking: two processes would hold two files of one name."""
    real, opened = os.open, []

    def open_and_lose(path: Path, *rest: int) -> int:
        descriptor = real(path, *rest)
        opened.append(descriptor)
        if len(opened) == 1:
            Path(path).unlink()
        return descriptor

    monkeypatch.setattr(os, "open", open_and_lose)
    with ResultSet(tmp_path, NAMES):
        assert len(opened) == 2
        with pytest.raises(InputError, match="is being written by"):
            ResultSet(tmp_path, NAMES).__enter__()


def test_a_full_disk_leaves_the_old_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for place in ("bins.parquet", "manifest.json"):
        with monkeypatch.context() as patch:
            real, left = os.fsync, [] if place == "bins.parquet" else [1]
            patch.setattr(os, "fsync", lambda fd, real=real, left=left: real(fd) if left and left.pop() else full(fd))
            with pytest.raises(InputError, match=rf"{place} cannot be written \(No space left on device\); make room"):
                write(tmp_path, 2)
        assert vouched(tmp_path) == 1
        assert names(tmp_path) == sorted(NAMES)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_is_full_when_json_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResultSet, "_part", lambda _self, _name: Path("/dev/full"))
    monkeypatch.setattr(ResultSet, "_remove_parts", lambda _self: None)
    with ResultSet(tmp_path, NAMES) as results, pytest.raises(InputError, match=r"manifest\.json cannot be written"):
        results.write_json("manifest.json", {"run": 1})


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    def fail_after_two_groups() -> None:
        with ResultSet(tmp_path, NAMES) as results, results.parquet("bins.parquet", SCHEMA, 1) as file:
            for run in (1, 2):
                file.write(pa.RecordBatch.from_arrays([pa.array([run])], schema=SCHEMA))
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_two_groups()
    assert names(tmp_path) == []


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file cannot be written \(File exists\)"):
        write(tmp_path / "file", 1)
