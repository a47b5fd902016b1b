"""Compaction: many small objects of a lane become one, with the same messages in the same order.

    1. choose a run of neighbouring small objects               `plan`, pure
    2. join their rows and indexes; hash both before and after  `join`, pure
    3. put the wide object, only if there is none of its name
    4. read it back, and compare its hash with that of the small ones
    5. delete the small ones

There is no moment in which a reader sees a message twice or not at all: while both stand, readers take the widest range
(`runtime.lake_format.objects`); one that listed before and asks for a small object afterwards lists again. A crash
between the steps leaves small objects beside the wide one, and the next pass deletes them. A DBN object
is deleted before the Parquet object of its range, so what a crash leaves can be found by the range that still stands.

Objects that differ in their columns, as those of two releases or of two widths of vectors, are not joined: they stay
side by side, and readers take each as it is.
"""

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runtime.errors import BarographError
from runtime.lake_format import (
    DamagedObjectError,
    ObjectRange,
    all_objects,
    beside,
    decode_index,
    encode_index,
    object_name,
    unpaired,
)
from runtime.object_store import ObjectStore
from runtime.sequence import followers
from sinks.base import Lane
from sinks.erase import put_dbn
from sinks.lake import DifferentObjectError, folder_of
from sinks.lake_object import as_text, write_parquet

log = logging.getLogger(__name__)

TARGET_BYTES: Final = 32 << 20
"""Size of a joined object, about. Scans like large objects; a put is one request and has to pass within 30 s, and an
object is joined in memory, three times over, so 32 MiB take 200 MiB of it. Much less would leave a year of a quiet
stream in thousands of files."""

SMALL_BYTES: Final = TARGET_BYTES // 2
"""Objects from this size on stay as they are: joining them again and again would rewrite the lake for nothing."""

FEWEST: Final = 4
"""Objects that are joined at least, unless the lane has ended: each byte is then rewritten a few times in its life."""


class CompactionError(BarographError):
    """A joined object does not hold what the small ones hold; nothing was deleted.

    Args:
        name: the joined object.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"lake object {name} differs from those it was joined of", remedy="keep them, and report this as a fault"
        )


@dataclass(frozen=True, slots=True)
class Joined:
    """What a pass did: objects that were joined, objects that came of it, and bytes that were read."""

    joined: int = 0
    made: int = 0
    read_bytes: int = 0


def plan(sizes: Sequence[tuple[ObjectRange, int]], fewest: int = FEWEST) -> Iterator[list[ObjectRange]]:
    """Runs of neighbours that are to be joined, in order.

    Over a hole nothing is joined: the name of the wide object would promise what it lacks, and readers would take it
    instead of the lost object when that is brought back.

    Args:
        sizes: objects that stand, in order, with their bytes.
        fewest: shortest run.
    """
    run: list[ObjectRange] = []
    total = 0
    for item, size in [*sizes, (None, SMALL_BYTES)]:
        near = item is not None and (not run or item.first in followers(run[-1].last))
        if item is not None and near and size < SMALL_BYTES and total + size <= TARGET_BYTES:
            run.append(item)
            total += size
            continue
        if len(run) >= fewest:
            yield run
        fits = item is not None and size < SMALL_BYTES
        run, total = ([item], size) if item is not None and fits else ([], 0)


def content_hash(parts: Sequence[bytes]) -> str:
    """Hash of the messages and rows of objects in order, however they were cut into objects.

    Raises:
        ValueError, OSError, ArrowException: one cannot be read.
    """
    tables = [pq.read_table(io.BytesIO(part)) for part in parts]
    found = sha256()
    for table in tables:
        for at in decode_index(table.schema.metadata).to_pylist():
            found.update(repr(at).encode())
    rows = pa.concat_tables([as_text(table) for table in _with_rows(tables)])
    for name in rows.schema.names:
        found.update(f"{name} {rows.schema.field(name).type} {rows.num_rows}".encode())
        _hash_column(found, pa.concat_arrays(rows.column(name).chunks) if rows.num_rows else pa.array([]))
    return found.hexdigest()


def _with_rows(tables: Sequence[pa.Table]) -> Sequence[pa.Table]:
    """Those that have rows: an object of empty messages does not know how wide vectors are."""
    return [table for table in tables if table.num_rows] or tables[:1]


def _hash_column(found: Any, column: pa.Array) -> None:
    """Add the values of a column in order, as they are; what lies below a missing one does not count."""
    if len(column) == 0:
        return
    found.update(column.is_valid().to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_fixed_size_list(column.type):
        found.update(column.flatten().to_numpy(zero_copy_only=False).tobytes())
    elif pa.types.is_string(column.type):
        whole = pc.fill_null(column, "")
        found.update(pc.binary_length(whole).to_numpy(zero_copy_only=False).tobytes())
        found.update(pc.binary_join(pa.ListArray.from_arrays([0, len(whole)], whole), "")[0].as_py().encode())
    elif pa.types.is_nested(column.type) or pa.types.is_binary(column.type) or pa.types.is_boolean(column.type):
        found.update(repr(column.to_pylist()).encode())  # fields of records, which are rare
    else:
        plain = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
        found.update(pc.fill_null(plain, 0).to_numpy(zero_copy_only=False).tobytes())


def join(parts: Sequence[bytes]) -> bytes:
    """One object with the rows and messages of several, in order.

    Raises:
        ValueError, OSError, ArrowException: one cannot be read, or their columns differ (`alike` tells before).
    """
    tables = [pq.read_table(io.BytesIO(part)) for part in parts]
    index = [row for table in tables for row in decode_index(table.schema.metadata).to_pylist()]
    found = [table.replace_schema_metadata(None) for table in _with_rows(tables)]
    if len({table.schema for table in found}) > 1:  # another release wrote text as text
        found = [as_text(table) for table in found]
    rows = pa.concat_tables(found)
    return write_parquet(rows, encode_index(index))


def alike(
    run: Sequence[ObjectRange], parts: Sequence[bytes], *, raw: bool
) -> Iterator[list[tuple[ObjectRange, bytes]]]:
    """Neighbours whose rows have the same columns, in order. Those without rows go with any.

    Whether an object that ends with part 3 of a root goes on in one that starts with the next root, names do not say;
    its index does.

    Raises:
        DamagedObjectError: one cannot be read.
    """
    group: list[tuple[ObjectRange, bytes]] = []
    columns: pa.Schema | None = None
    next_root = True
    for item, part in zip(run, parts, strict=True):
        try:
            file = pq.ParquetFile(io.BytesIO(part))
            mine = file.schema_arrow.remove_metadata() if file.metadata.num_rows else None
            final = raw or bool(decode_index(file.schema_arrow.metadata).column("last")[-1].as_py())
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DamagedObjectError(item.name, str(error).splitlines()[0]) from error
        hole = group and (item.first[1] == 0) != next_root
        if hole or (mine is not None and columns is not None and not mine.equals(columns, check_metadata=True)):
            yield group
            group, columns = [], None
        group.append((item, part))
        columns, next_root = columns or mine, final
    yield group


def compact(store: ObjectStore, lane: Lane, fewest: int = FEWEST) -> Joined:
    """Join the small objects of a lane; its sink and other compactions may go on meanwhile.

    A sink that repeats a batch whose object was joined already puts it again, within the range of the wide one: nobody
    reads it, and the next pass deletes it.

    Args:
        store: the lake.
        lane: which lane.
        fewest: shortest run that is joined, 2 at least.

    Raises:
        DamagedObjectError: an object cannot be read; it and those of its run stay.
        CompactionError: what was joined is not the same; nothing was deleted.
        DifferentObjectError: another object of the joined name stands there.
        OSError: the lake is away.
    """
    sizes_bytes = store.sizes(folder_of(lane))
    sizes = [(item, sizes_bytes.get(item.name, 0)) for item in _clear(store, lane)]
    joined = made = read_bytes = 0
    for run in plan(sizes, fewest):
        parts = [data for item in run if (data := store.get(item.name)) is not None]
        if len(parts) < len(run):
            continue  # somebody else joins this lane
        read_bytes += sum(map(len, parts))
        for group in alike(run, parts, raw=lane.table.raw):
            if len(group) >= fewest:
                _join_run(store, lane, [item for item, _ in group], [part for _, part in group])
                joined, made = joined + len(group), made + 1
    return Joined(joined, made, read_bytes)


def _clear(store: ObjectStore, lane: Lane) -> list[ObjectRange]:
    """Delete what a wider object that can be read holds already, and give what stands.

    A DBN object without its Parquet object goes if messages of its range stand: whoever wrote it died. One beyond
    them may be of the batch that a sink writes now.
    """
    standing: list[ObjectRange] = []
    for item in all_objects(store, folder_of(lane)):
        if not standing or item.last > standing[-1].last:
            standing.append(item)
            continue
        wide, narrow = store.get(standing[-1].name), store.get(item.name)
        if wide is not None and narrow is not None and not _holds(wide, narrow):
            raise CompactionError(standing[-1].name)
        _delete(store, item)
    for lone in unpaired(store, folder_of(lane)):
        if any(lone.first <= item.last and item.first <= lone.last for item in standing):
            store.delete(lone.name)
    return standing


def _holds(wide: bytes, narrow: bytes) -> bool:
    """Whether every message of an object is in the wider one, with the same rows, or was deleted there."""
    try:
        have = decode_index(pq.ParquetFile(io.BytesIO(wide)).schema_arrow.metadata).to_pylist()
        wanted = decode_index(pq.ParquetFile(io.BytesIO(narrow)).schema_arrow.metadata).to_pylist()
    except (pa.ArrowException, OSError, ValueError):
        return False
    known = {(at["seq"], at["part"]): at for at in have}
    return all(_same(known.get((at["seq"], at["part"])), at) for at in wanted)


def _same(wide: dict[str, object] | None, narrow: dict[str, object]) -> bool:
    return wide is not None and (bool(wide["deleted"]) or wide == narrow)


def _join_run(store: ObjectStore, lane: Lane, run: Sequence[ObjectRange], parts: Sequence[bytes]) -> None:
    name = object_name(folder_of(lane), run[0].first, run[-1].last)
    try:
        before, data = content_hash(parts), join(parts)
    except (pa.ArrowException, OSError, ValueError) as error:
        damaged = _damaged(run, parts)
        if damaged is None:  # each can be read, but not with the others; none of them is at fault
            raise CompactionError(name) from error
        raise DamagedObjectError(damaged, str(error).splitlines()[0]) from error
    if lane.table.raw:
        put_dbn(store, lane, name, data)
    if not store.put_new(name, data) and content_hash([store.get(name) or b""]) != before:
        raise DifferentObjectError(name)
    if content_hash([store.get(name) or b""]) != before:
        store.delete(name)
        raise CompactionError(name)
    for item in run:
        _delete(store, item)
    log.info("%s: %d objects joined", name, len(run))


def _damaged(run: Sequence[ObjectRange], parts: Sequence[bytes]) -> str | None:
    """The first object that cannot be read, if there is one."""
    for item, part in zip(run, parts, strict=True):
        try:
            content_hash([part])
        except (pa.ArrowException, OSError, ValueError):
            return item.name
    return None


def _delete(store: ObjectStore, item: ObjectRange) -> None:
    store.delete(beside(item.name))
    store.delete(item.name)
