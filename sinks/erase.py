"""Deleting ranges of a tape from the lake and from ClickHouse, so that nothing else moves.

A deleted message keeps its place in the message index of its object; its rows and bytes are gone, also from the DBN
object beside it. So readers still see that nothing is missing, and the manifest says why there is nothing. An object is
replaced by one put, and doing it again changes nothing, so an interrupted deletion is ended by repeating it.

A message goes whole or not at all, the same in every place: rows that readers and the reconciler miss would be losses.
"""

import io
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from clickhouse_connect.driver.client import Client

from runtime.lake_format import (
    DamagedObjectError,
    ObjectRange,
    all_objects,
    beside,
    decode_index,
    decode_object,
    encode_index,
    unpaired,
)
from runtime.object_store import ObjectStore
from runtime.tapes import Deletion, Manifest
from sinks.base import Lane
from sinks.lake import folder_of
from sinks.lake_dbn import encode_dbn, read_records
from sinks.lake_object import write_parquet
from sinks.tables import TABLES, TableSpec

log = logging.getLogger(__name__)

RANGES_MAX: Final = 500
"""Ranges of one mutation. They travel in the address of a request, which may be a MiB long; each has 100 bytes."""

_ERASE: Final = """
ALTER TABLE {table} DELETE WHERE tape = {{tape:String}} AND arrayExists(
    (i, p, first, last, day) -> instrument = i AND partition = p AND seq >= first AND seq <= last AND NOT (day AND
        arrayExists((q, s) -> partition = q AND seq = s, {{kept_partitions:Array(Int32)}}, {{kept_seqs:Array(Int64)}})),
    {{instruments:Array(String)}}, {{partitions:Array(Int32)}},
    {{firsts:Array(Int64)}}, {{lasts:Array(Int64)}}, {{days:Array(UInt8)}})
"""

Gone = Callable[[int, str, str], bool]
"""(seq, instrument, kind) → whether that message is deleted."""


def without(data: bytes, name: str, gone: Gone) -> tuple[bytes, int] | None:
    """An object without the rows and bytes of some messages, and the number of these; None if it held none of them.

    Raises:
        DamagedObjectError: it cannot be read.
    """
    try:
        rows = pq.read_table(io.BytesIO(data))
        index = decode_index(rows.schema.metadata).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedObjectError(name, str(error).splitlines()[0]) from error
    keep, count = [], 0
    for at in index:
        here = not at["deleted"] and gone(at["seq"], at["instrument"], at["kind"])
        keep.append(np.full(at["rows"], not here))
        if here:
            headers = [h for h in at["headers"] if h["name"] != "summary"]
            at.update(rows=0, value=None, deleted=True, headers=headers)
            count += 1
    if not count:
        return None
    left = rows.filter(pa.array(np.concatenate(keep)))
    return write_parquet(left, encode_index(index)), count


def erase_objects(
    lake: ObjectStore, manifest: Manifest, deletions: Collection[Deletion], on_object: Callable[[], None] = lambda: None
) -> int:
    """Take deleted ranges out of the lake's objects; how many messages that were. The caller works alone on the lake.

    Args:
        lake: the lake.
        manifest: the tape.
        deletions: what goes, of those of the manifest.
        on_object: called after each object that was looked into.

    Raises:
        DamagedObjectError: an object that may hold some of it cannot be read.
        OSError: the lake is away.
    """
    count = 0
    for lane in lanes(manifest):
        mine = [d for d in deletions if d.partition == lane.partition]
        count += _erase_lane(lake, lane, mine, on_object) if mine else 0
    return count


def _erase_lane(lake: ObjectStore, lane: Lane, deletions: Collection[Deletion], on_object: Callable[[], None]) -> int:
    """One lane: listed again until no object is new, since one may come from another machine meanwhile."""
    count, seen = 0, set[str]()
    while fresh := [
        o.name for o in all_objects(lake, folder_of(lane)) if o.name not in seen and _touches(o, deletions)
    ]:
        for name in fresh:
            count += _erase_object(lake, lane, name, _gone(deletions))
            seen.add(name)
            on_object()
    for lone in unpaired(lake, folder_of(lane)):  # a sink that died before the Parquet object: it holds deleted bytes
        lake.delete(lone.name)
    return count


def _touches(item: ObjectRange, deletions: Collection[Deletion]) -> bool:
    return any(d.seq_first <= item.last[0] and item.first[0] <= d.seq_last for d in deletions)


def lanes(manifest: Manifest, tables: Iterable[TableSpec] | None = None) -> Iterator[Lane]:
    """Every lane of a tape, those of no line once; of some tables, or of all that hold rows."""
    for table in TABLES.values() if tables is None else tables:
        for line in manifest.lines if table.topic.scope == "line" else ("-",):
            for partition in range(manifest.partitions):
                yield Lane(manifest.tape, manifest.tape_id, line, table, partition)


def _gone(deletions: Collection[Deletion]) -> Gone:
    return lambda seq, instrument, kind: any(d.covers(d.partition, seq, instrument, kind) for d in deletions)


def _erase_object(lake: ObjectStore, lane: Lane, name: str, gone: Gone) -> int:
    data = lake.get(name)
    if data is None:
        return 0
    edited = without(data, name, gone)
    if edited is not None:
        data = edited[0]
        lake.put(name, data)
    if lane.table.raw:
        put_dbn(lake, lane, name, data)
    return 0 if edited is None else edited[1]


def put_dbn(lake: ObjectStore, lane: Lane, name: str, data: bytes) -> None:
    """Make the DBN object beside a raw object hold exactly its records; without records there is none."""
    messages = [p.message for p in decode_object(data, name, lane.topic, lane.partition)]
    index = decode_index(pq.ParquetFile(io.BytesIO(data)).schema_arrow.metadata)
    whole = [m for m, rows in zip(messages, index.column("rows").to_pylist(), strict=True) if rows]
    dbn = beside(name)
    if not whole:
        lake.delete(dbn)
        return
    held = lake.get(dbn)
    if held is None or read_records(held) != b"".join(m.value for m in whole):
        lake.put(dbn, encode_dbn(whole))


def erase_rows(
    client: Client, manifest: Manifest, deletions: Sequence[Deletion], kept: Collection[tuple[int, int]] = ()
) -> None:
    """Take deleted ranges out of ClickHouse, by one mutation of each table: each rewrites the parts that it touches.

    Insert tokens stay known to the store, so a sink that repeats a batch does not bring rows back.

    Args:
        client: ClickHouse.
        manifest: the tape.
        deletions: what goes, of those of the manifest.
        kept: (partition, seq) of messages within deleted days that stay.
    """
    for at in range(0, len(deletions), RANGES_MAX):
        some = deletions[at : at + RANGES_MAX]
        values: dict[str, object] = {
            "tape": manifest.tape,
            "instruments": [d.instrument for d in some],
            "partitions": [d.partition for d in some],
            "firsts": [d.seq_first for d in some],
            "lasts": [d.seq_last for d in some],
            "days": [int(bool(d.day)) for d in some],
            "kept_partitions": [partition for partition, _ in kept],
            "kept_seqs": [seq for _, seq in kept],
        }
        for table in TABLES.values():
            client.command(_ERASE.format(table=table.name), parameters=values, settings={"mutations_sync": 2})
