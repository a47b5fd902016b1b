"""A large Parquet file, written in passing.

Rows go in as they come. A full row group is encoded and compressed in a thread of its own while the caller makes the
next one (pyarrow releases the GIL), so that at most two groups are in memory, however long the file gets. The file
takes its name when it is complete; until then it is a hidden `.part` beside it, removed if anything fails.
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from runtime.errors import InputError
from sinks.parquet import writer_options


class ParquetFile:
    """One file, open for writing; to be used in a `with` statement, ended by `finish`.

    Args:
        path: its name; a file of that name is replaced.
        schema: of every batch.
        group_bytes: Arrow bytes after which a row group ends.
    """

    def __init__(self, path: Path, schema: pa.Schema, group_bytes: int) -> None:
        self._path, self._part = path, path.with_name(f".{path.name}.part")
        self._schema, self._group_bytes = schema, group_bytes
        self._encoder = ThreadPoolExecutor(1, "parquet")
        self._encoding: Future[None] | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        try:
            self._writer = pq.ParquetWriter(self._part, self._schema, **writer_options(self._schema))
        except OSError as error:
            raise self._unwritable(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._encoder.shutdown(cancel_futures=True)
        try:
            self._writer.close()
        except OSError:  # the reason to leave is already on its way up, or `finish` has closed the file before
            pass
        finally:
            self._part.unlink(missing_ok=True)

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
        """Complete the file and give it its name.

        Raises:
            InputError: the file cannot be written.
        """
        if self._waiting:
            self._hand_over()
        self._wait()
        try:
            self._writer.close()
            with self._part.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(self._part, self._path)
        except OSError as error:
            raise self._unwritable(error) from error

    def _hand_over(self) -> None:
        """Give the waiting rows to the encoder, once it is done with those before."""
        self._wait()
        group = pa.Table.from_batches(self._waiting, self._schema)
        self._waiting, self._bytes = [], 0
        self._encoding = self._encoder.submit(self._writer.write_table, group, row_group_size=len(group))

    def _wait(self) -> None:
        if self._encoding is not None:
            try:
                self._encoding.result()
            except OSError as error:
                raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> InputError:
        reason = error.strerror or str(error)
        return InputError(f"{self._path} cannot be written ({reason})", remedy="make room or give another --out")
