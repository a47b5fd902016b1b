"""A stream of a tape as one file: DBN for raw records, Parquet for every stream.

Messages come from Kafka as far back as its log goes, and from the lake before that. Those of several partitions are
merged by engine time. The file is complete or not there: it is written beside its place and renamed at the end.
"""

import heapq
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from runtime.errors import InputError
from runtime.object_store import ObjectStore
from runtime.sequence import Placed
from runtime.tape_reader import TapeReader
from runtime.tapes import Manifest
from schemas.mbo import MBO_DTYPE
from schemas.topics import MBO, TopicSpec
from sinks.base import Batch, Entry, Lane, rows_of
from sinks.lake_dbn import ZSTD_LEVEL, head
from sinks.lake_object import with_time
from sinks.parquet import writer_options
from sinks.rows import build_rows
from sinks.tables import tape_tables

BATCH_BYTES: Final = 16 << 20
"""Bytes of values that become rows at once: bounds memory; smaller row groups would make larger files."""


def export(
    manifest: Manifest,
    line: str,
    stream: str,
    out: Path,
    *,
    servers: str = "",
    lake: ObjectStore | None = None,
    instrument: str = "",
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Write a stream of a tape to a file.

    Args:
        manifest, line: the tape and line.
        stream: `mbo`, a derived one, or one of records; of those said again each is a row.
        out: `.dbn` or `.dbn.zst` (only `mbo`), or `.parquet`.
        servers: Kafka; empty: the lake alone is read.
        lake: the lake; None: Kafka alone is read.
        instrument: only this one; empty: all.
        on_progress: called with the number of messages read so far.

    Returns:
        `file`, `records`, `messages`, `bytes`.

    Raises:
        InputError: stream, instrument or file name do not fit, or the file cannot be written.
        HoleError, DamagedObjectError: lake or topic is damaged.
    """
    tables = {table.name: table for table in tape_tables()}
    if stream not in tables:
        raise InputError(f"there is no stream {stream!r}", remedy=f"use one of: {', '.join(tables)}")
    if instrument and instrument not in manifest.instruments:
        known = ", ".join(manifest.instruments)
        raise InputError(f"tape {manifest.tape} has no {instrument!r} (known: {known})", remedy="correct --instrument")
    write = _writer_for(out, stream)
    spec = tables[stream].topic
    readers = [
        TapeReader(manifest, line, spec, partition, servers, lake)
        for partition in range(manifest.partitions)
        if not instrument or manifest.instruments[instrument].partition == partition
    ]
    counts = {"messages": 0}

    def messages() -> Iterator[tuple[int, Placed]]:
        tagged = (_tagged(reader) for reader in readers)
        for _, partition, placed in heapq.merge(*tagged, key=lambda at: at[:2]):
            counts["messages"] += 1
            on_progress(counts["messages"])
            if not instrument or placed.message.instrument == instrument:
                yield partition, placed

    with _whole(out) as temporary:
        records = write(temporary, manifest, line, spec, messages())
    return {"file": str(out), "records": records, "bytes": out.stat().st_size, **counts}


_Messages = Iterator[tuple[int, Placed]]
_Write = Callable[[Path, Manifest, str, TopicSpec, _Messages], int]


def _tagged(reader: TapeReader) -> Iterator[tuple[int, int, Placed]]:
    """Messages with what they are merged by; within a partition the order is that of the log."""
    now = -(1 << 63)
    for placed in reader:
        now = max(now, placed.message.envelope.t)
        yield now, reader.partition, placed


def _writer_for(out: Path, stream: str) -> _Write:
    if out.name.endswith((".dbn", ".dbn.zst")):
        if stream != MBO.stream:
            raise InputError(f"stream {stream} holds no DBN records", remedy="name the file .parquet")
        return _write_dbn
    if out.suffix == ".parquet":
        return _write_parquet
    raise InputError(f"{out} names no format", remedy="let it end with .dbn.zst, .dbn or .parquet")


def _write_dbn(path: Path, manifest: Manifest, line: str, spec: TopicSpec, messages: _Messages) -> int:
    """Records first, into a file of their own, because the head tells their ids and times; then head and records."""
    body = path.with_name(f"{path.name}.body")
    symbols, venues, count = dict[int, str](), set[str](), 0
    first_ns, last_ns = int(np.iinfo(np.int64).max), 0
    compressed = path.name.endswith(".zst.part")
    try:
        with body.open("wb") as file, _compressing(file, compressed) as sink:
            for _, placed in messages:
                message = placed.message
                if not rows_of(message):
                    continue
                records = np.frombuffer(message.value, MBO_DTYPE)
                venue, _, symbol = message.instrument.partition(":")
                venues.add(venue)
                symbols.update(dict.fromkeys(np.unique(records["instrument_id"]).tolist(), symbol or venue))
                known = records["ts_recv"][records["ts_recv"] <= np.iinfo(np.int64).max]
                if len(known):
                    first_ns, last_ns = min(first_ns, int(known.min())), max(last_ns, int(known.max()))
                sink.write(message.value)
                count += len(records)
        with path.open("wb") as file:
            with _compressing(file, compressed) as sink:
                sink.write(head(venues, symbols, min(first_ns, last_ns), last_ns))
            with body.open("rb") as written:
                shutil.copyfileobj(written, file, 1 << 20)
    finally:
        body.unlink(missing_ok=True)
    return count


@contextmanager
def _compressing(file: Any, compressed: bool) -> Iterator[Any]:
    """Something to write to: a zstd frame with a checksum, or the file itself."""
    if not compressed:
        yield file
        return
    with zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).stream_writer(file, closefd=False) as sink:
        yield sink


def _write_parquet(path: Path, manifest: Manifest, line: str, spec: TopicSpec, messages: _Messages) -> int:
    table, count, writer = next(t for t in tape_tables() if t.topic is spec), 0, None
    try:
        for partition, entries in _batches(messages):
            lane = Lane(manifest.tape, manifest.tape_id, line, table, partition)
            rows = with_time(build_rows(Batch(lane, entries)), table)
            if writer is None:
                schema = rows.schema.remove_metadata()
                writer = pq.ParquetWriter(path, schema, **writer_options(schema))
            writer.write_table(rows.cast(writer.schema))
            count += rows.num_rows
        if writer is None:
            pq.write_table(pa.table({}), path)
    finally:
        if writer is not None:
            writer.close()
    return count


def _batches(messages: _Messages) -> Iterator[tuple[int, tuple[Entry, ...]]]:
    """Messages with rows, some at a time, of one partition each."""
    held: list[Entry] = []
    size, at = 0, -1
    for partition, placed in messages:
        entry = Entry(placed.message, placed.seq, placed.part)
        if held and (partition != at or size >= BATCH_BYTES):
            yield at, tuple(held)
            held, size = [], 0
        if entry.rows:
            held.append(entry)
            size, at = size + len(placed.message.value), partition
    if held:
        yield at, tuple(held)


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A file beside `out` that takes its name once it is whole and safe; nothing is left of it otherwise."""
    temporary = out.with_name(f"{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(out)
    except OSError as error:
        if error.errno is None:  # of a bucket that is read, not of the file that is written
            raise
        raise InputError(
            f"{out} cannot be written ({error.strerror or error})", remedy="choose another --out"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
