"""The outputs of one input message, until all of them exist.

Nothing is sent before `apply` has ended: a reducer that fails half-way must not have said half of it. Nearly always
the outputs are a few kilobytes; but one message may close a million bins (an instrument wakes up after a month), so
beyond a limit values wait in a temporary file and memory stays flat.
"""

import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Final, NamedTuple

from schemas.message import Outgoing

MEMORY_BYTES_MAX: Final = 32 << 20
"""Values of one input that are held in memory. Eight full parts; much less would send ordinary bursts through the disk,
much more would add up over the partitions of a worker."""


class Part(NamedTuple):
    """One output message without its headers: stream, number among those of its seq, value, rows, whether the last."""

    stream: str
    part: int
    value: bytes
    rows: int
    last: bool


class Outbox:
    """Parts in order; iterating gives them as messages, and may be done once.

    Args:
        memory_bytes_max: values beyond this wait in a file.

    Attributes:
        to_message: makes a message of a part; set when what all headers need is known.
    """

    to_message: Callable[[Part], Outgoing]

    def __init__(self, memory_bytes_max: int = MEMORY_BYTES_MAX) -> None:
        self._left_bytes = memory_bytes_max
        self._parts: list[tuple[Part, int]] = []  # with the size of the value in the file, -1 if it is here
        self._file: IO[bytes] | None = None

    def add(self, part: Part) -> None:
        """Take one more part."""
        self._left_bytes -= len(part.value)
        if self._left_bytes >= 0:
            self._parts.append((part, -1))
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="barograph-outputs-")  # noqa: SIM115  (closed when read)
        self._file.write(part.value)
        self._parts.append((part._replace(value=b""), len(part.value)))

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Outgoing]:
        """The messages, in the order in which their parts came."""
        if self._file is not None:
            self._file.seek(0)
        for part, size in self._parts:
            if size >= 0 and self._file is not None:
                part = part._replace(value=self._file.read(size))
            yield self.to_message(part)
        self.close()

    @property
    def spilled(self) -> bool:
        """Whether some values are in a file."""
        return self._file is not None

    def close(self) -> None:
        """Forget the file; it has no name and would vanish with the process anyway."""
        if self._file is not None:
            self._file.close()
            self._file = None
