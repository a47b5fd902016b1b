"""Errors that a user meets: one clear sentence, with the place, the remedy and the exit code of the command.

    BarographError              1  the work could not be ended (base; catch this one at the top of a process)
    ├── AnswerIsNo              1  the question was understood, and the answer is no (a check failed, hashes differ)
    ├── InputError              2  a file, message, value or setting is bad
    │   ├── UsageError          2  the command was called wrongly
    │   ├── PortTakenError      2  another process listens on the port that was asked for
    │   └── FolderInUseError    2  another process owns the data folder
    └── MissingServiceError     3  a broker, database, registry or child process does not answer
        └── ChildFailedError    3  a process that we started left, or was not ready in time

A package adds leaves of its own below one of these beside the code that raises them, with its data as attributes, so
that callers decide by type and attribute and never by the text. Whatever else escapes is a fault of the program: it
keeps its traceback and is nobody's "error message".
"""

from pathlib import Path
from typing import ClassVar


class BarographError(Exception):
    """What is wrong, where, and what to do about it.

    Args:
        message: what is wrong and where; no capital, no full stop, values as the user wrote them.
        remedy: what the user can do; empty if there is nothing.

    `str()` is both in one sentence: `message; remedy`.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        self.message, self.remedy = message, remedy
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class AnswerIsNo(BarographError):  # noqa: N818  (an answer, not an error: scripts branch on exit code 1)
    """The question was understood and the answer is no."""


class InputError(BarographError):
    """A file, message, value or setting is bad."""

    exit_code: ClassVar[int] = 2


class UsageError(InputError):
    """The command was called wrongly: options that contradict each other, something required is absent."""


class PortTakenError(InputError):
    """Another process listens on the port that was asked for.

    Args:
        host: address that was to be bound.
        port: the port.
        option: command line option that chooses another one.
    """

    def __init__(self, host: str, port: int, option: str = "--port") -> None:
        self.host, self.port = host, port
        super().__init__(
            f"port {port} of {host} is taken by another process",
            remedy=f"stop that process, or choose another port with {option} (0 takes a free one)",
        )


class FolderInUseError(InputError):
    """Another process owns the folder.

    Args:
        folder: the folder.
        owner: what owns it, in words ("a broker").
        pid: its process id; None if unknown.
    """

    def __init__(self, folder: Path, owner: str, pid: int | None = None) -> None:
        self.folder, self.owner, self.pid = folder, owner, pid
        which = f" (process {pid})" if pid else ""
        super().__init__(
            f"{owner}{which} already runs on {folder}", remedy="use that one, stop it, or give another --data"
        )


class MissingServiceError(BarographError):
    """A broker, database, registry or child process does not answer."""

    exit_code: ClassVar[int] = 3


class ChildFailedError(MissingServiceError):
    """A process that we started left, or was not ready in time.

    Args:
        name: its name.
        reason: what happened ("left with code 1 before it was ready").
        log_path: where its output stands.
    """

    def __init__(self, name: str, reason: str, log_path: Path) -> None:
        self.name, self.reason, self.log_path = name, reason, log_path
        super().__init__(f"{name} {reason}", remedy=f"its log is {log_path}")
