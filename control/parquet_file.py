"""Files of results: written in passing, by one process at a time, named together when all are complete.

Rows of a large Parquet file go in as they come. A full row group is encoded and compressed in a thread of its own while
the caller makes the next one (pyarrow releases the GIL), so that at most two groups are in memory, however long the
file gets.

Until its set is complete a file is a hidden `.NAME.part` beside its place, removed if anything fails. Only the holder
of the set's lock writes it; what a killed process left is cleared away by the next one that writes the same set.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from runtime.errors import InputError
from sinks.parquet import writer_options


class ResultSet:
    """Files of one folder that belong together; to be used in a `with` statement, ended by `publish`.

    The last name vouches for the others: where it stands, all are whole and of the same run.

    Args:
        folder: made if absent.
        names: the files, in the order in which they take their names; the first one also names the lock, so that
            two processes may write different sets into one folder.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder, self._names = folder, tuple(names)
        self._lock_path = folder / f".{self._names[0]}.lock"

    def __enter__(self) -> Self:
        """Take the lock, and clear away what a killed process left.

        Raises:
            InputError: another process writes this set, or the folder cannot be written to.
        """
        with _as_input_error(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        with _as_input_error(self._path(self._names[0])):
            self._lock = self._take_lock()
            try:
                self._remove_parts()
            except BaseException:
                os.close(self._lock)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._remove_parts()
            self._lock_path.unlink(missing_ok=True)
        finally:
            os.close(self._lock)

    def parquet(self, name: str, schema: pa.Schema, group_bytes: int) -> "ParquetFile":
        """One of the files, as Parquet, to be opened by `with`."""
        return ParquetFile(self._part(name), schema, group_bytes, place=self._path(name))

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """One of the files, as JSON.

        Raises:
            InputError: it cannot be written.
        """
        with _as_input_error(self._path(name)), self._part(name).open("w") as file:
            file.write(json.dumps(value, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def sha256(self, name: str) -> str:
        """Hash of a file that is complete but not yet named, in hex.

        Raises:
            InputError: it cannot be read back.
        """
        with _as_input_error(self._path(name)), self._part(name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def publish(self) -> None:
        """Give the files their names. All are complete, so a full disk has left the old set as it was.

        Old files but the first go before it is replaced, the one that vouches first of all: whenever this is
        interrupted, new files never stand beside old ones.

        Raises:
            InputError: a name cannot be taken.
        """
        for name in reversed(self._names[1:]):
            with _as_input_error(self._path(name)):
                self._path(name).unlink(missing_ok=True)
        for name in self._names:
            with _as_input_error(self._path(name)):
                os.replace(self._part(name), self._path(name))

    def _path(self, name: str) -> Path:
        return self._folder / name

    def _part(self, name: str) -> Path:
        return self._folder / f".{name}.part"

    def _remove_parts(self) -> None:
        for name in self._names:
            self._part(name).unlink(missing_ok=True)

    def _take_lock(self) -> int:
        """Descriptor of the lock. The lock is the system's and dies with its holder, whatever becomes of the file."""
        while True:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(descriptor, self._lock_path):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                    return descriptor
            except BlockingIOError:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace")
                os.close(descriptor)
                which = f"process {holder}" if holder.isdecimal() else "another process"
                raise InputError(
                    f"{self._path(self._names[0])} is being written by {which}",
                    remedy="wait until that ends, or give another --out",
                ) from None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(
                descriptor
            )  # its holder removed the file between our opening and locking it; there may be a new one


class ParquetFile:
    """One file, open for writing; to be used in a `with` statement, ended by `finish`.

    Args:
        path: where to write; a file there is replaced.
        schema: of every batch.
        group_bytes: Arrow bytes after which a row group ends.
        place: what errors call it.
    """

    def __init__(self, path: Path, schema: pa.Schema, group_bytes: int, *, place: Path) -> None:
        self._path, self._place = path, place
        self._schema, self._group_bytes = schema, group_bytes
        self._encoder = ThreadPoolExecutor(1, "parquet")
        self._encoding: Future[None] | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        with _as_input_error(self._place):
            self._writer = pq.ParquetWriter(self._path, self._schema, **writer_options(self._schema))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._encoder.shutdown(cancel_futures=True)
        with suppress(OSError):  # the reason to leave is already on its way up, or `finish` has closed the file before
            self._writer.close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows.

        Raises:
            InputError: the file cannot be written; it may tell of rows added before.
        """
        self._waiting.append(batch)
        self._bytes += batch.get_total_buffer_size()
        if self._bytes >= self._group_bytes:
            self._hand_over()

    def finish(self) -> None:
        """Complete the file, down to the disk.

        Raises:
            InputError: the file cannot be written.
        """
        if self._waiting:
            self._hand_over()
        self._wait()
        with _as_input_error(self._place):
            self._writer.close()
            with self._path.open("rb") as file:
                os.fsync(file.fileno())

    def _hand_over(self) -> None:
        """Give the waiting rows to the encoder, once it is done with those before."""
        self._wait()
        group = pa.Table.from_batches(self._waiting, self._schema)
        self._waiting, self._bytes = [], 0
        self._encoding = self._encoder.submit(self._writer.write_table, group, row_group_size=len(group))

    def _wait(self) -> None:
        if self._encoding is not None:
            with _as_input_error(self._place):
                self._encoding.result()


@contextmanager
def _as_input_error(place: Path) -> Iterator[None]:
    """Tell of a failing disk or folder as of bad input; the system names no file when a disk is full."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{place} cannot be written ({reason})", remedy="make room or give another --out") from error


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that has the name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
