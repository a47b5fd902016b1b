"""Every error has a sentence and the exit code that scripts branch on."""

from pathlib import Path

import pytest

from runtime.errors import (
    AnswerIsNo,
    BarographError,
    ChildFailedError,
    FolderInUseError,
    InputError,
    MissingServiceError,
    PortTakenError,
    UsageError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BarographError("m"), 1),
        (AnswerIsNo("m"), 1),
        (InputError("m"), 2),
        (UsageError("m"), 2),
        (PortTakenError("127.0.0.1", 1), 2),
        (FolderInUseError(Path("d"), "a broker"), 2),
        (MissingServiceError("m"), 3),
        (ChildFailedError("c", "left", Path("l")), 3),
    ],
)
def test_exit_codes(error: BarographError, code: int) -> None:
    assert error.exit_code == code


def test_the_sentence_is_what_is_wrong_then_the_remedy() -> None:
    assert (
        str(InputError("block 7 of f.dbn is cut", remedy="fetch it again")) == "block 7 of f.dbn is cut; fetch it again"
    )
    assert str(InputError("block 7 of f.dbn is cut")) == "block 7 of f.dbn is cut"
    assert str(FolderInUseError(Path("d"), "a broker", 12)).startswith("a broker (process 12) already runs on d; ")
