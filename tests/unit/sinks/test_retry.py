"""What is waited for, and what nobody would ever free."""

from pathlib import Path
from threading import Event

import pytest

from runtime.errors import InputError
from runtime.object_store import LocalObjectStore
from sinks.base import StoppedError
from sinks.retry import patiently


def test_what_may_pass_is_tried_again_until_it_succeeds() -> None:
    failures = [OSError(28, "No space left on device"), ConnectionResetError()]

    def work() -> str:
        if failures:
            raise failures.pop(0)
        return "done"

    assert patiently(work, "writing", Event()) == "done"


def test_a_stop_ends_the_waiting() -> None:
    stop = Event()

    def work() -> None:
        stop.set()
        raise PermissionError

    with pytest.raises(StoppedError):
        patiently(work, "writing", stop)


def test_a_file_in_the_place_of_the_lake_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("somebody's notes")
    lake = LocalObjectStore(tmp_path / "lake")
    with pytest.raises(InputError, match=r"writing a batch: .*Not a directory"):
        patiently(lambda: lake.put("a/b", b"x"), "writing a batch", Event())
