"""Deleting ranges of a tape from the lake and from ClickHouse, so that nothing else moves.

A deleted message keeps its place in the message index of its object; its rows and bytes are gone, also from the DBN
object beside it. So readers still see that nothing is missing, and the manifest says why there is nothing. An object is
replaced by one put, and doing it again changes nothing, so an interrupted deletion is ended by repeating it.
"""

import io
import logging
from collections.abc import Callable, Collection, Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from clickhouse_connect.driver.client import Client

from runtime.lake_format import DamagedObjectError, all_objects, decode_index, decode_object, encode_index
from runtime.object_store import ObjectStore
from runtime.tapes import Deletion, Manifest
from sinks.base import Lane
from sinks.lake import folder_of
from sinks.lake_dbn import encode_dbn, read_records
from sinks.lake_object import write_parquet
from sinks.tables import TABLES, TableSpec

log = logging.getLogger(__name__)

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


def erase_objects(lake: ObjectStore, manifest: Manifest, on_object: Callable[[], None] = lambda: None) -> int:
    """Take everything that the manifest deletes out of the lake's objects; how many messages that were.

    Raises:
        DamagedObjectError: an object that may hold some of it cannot be read.
        OSError: the lake is away.
    """
    count = 0
    for lane in lanes(manifest):
        gone = _gone(manifest.deletions, lane.partition)
        ranges = [(d.seq_first, d.seq_last) for d in manifest.deletions if d.partition == lane.partition]
        for item in all_objects(lake, folder_of(lane)):
            if any(first <= item.last[0] and item.first[0] <= last for first, last in ranges):
                count += _erase_object(lake, lane, item.name, gone)
                on_object()
    return count


def lanes(manifest: Manifest, tables: Iterable[TableSpec] | None = None) -> Iterator[Lane]:
    """Every lane of a tape, those of no line once; of some tables, or of all that hold rows."""
    for table in TABLES.values() if tables is None else tables:
        for line in manifest.lines if table.topic.scope == "line" else ("-",):
            for partition in range(manifest.partitions):
                yield Lane(manifest.tape, manifest.tape_id, line, table, partition)


def _gone(deletions: Collection[Deletion], partition: int) -> Gone:
    return lambda seq, instrument, kind: any(d.covers(partition, seq, instrument, kind) for d in deletions)


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
    beside = name.removesuffix("parquet") + "dbn.zst"
    if not whole:
        lake.delete(beside)
        return
    held = lake.get(beside)
    if held is None or read_records(held) != b"".join(m.value for m in whole):
        lake.put(beside, encode_dbn(whole))


def erase_rows(client: Client, manifest: Manifest, kept: Callable[[Deletion], Collection[int]]) -> None:
    """Take everything that the manifest deletes out of ClickHouse.

    Insert tokens stay known to the store, so a sink that repeats a batch does not bring rows back.

    Args:
        client: ClickHouse.
        manifest: the tape.
        kept: numbers within a deletion's range whose messages stay.
    """
    for deletion in manifest.deletions:
        stays = sorted(kept(deletion))
        for table in TABLES.values():
            client.command(
                f"ALTER TABLE {table.name} DELETE WHERE tape = {{tape:String}} AND instrument = {{instrument:String}} "
                "AND partition = {partition:Int32} AND seq >= {first:Int64} AND seq <= {last:Int64} "
                "AND NOT has({kept:Array(Int64)}, seq)",
                parameters={
                    "tape": manifest.tape,
                    "instrument": deletion.instrument,
                    "partition": deletion.partition,
                    "first": deletion.seq_first,
                    "last": deletion.seq_last,
                    "kept": stays,
                },
                settings={"mutations_sync": 2},
            )
