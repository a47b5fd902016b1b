"""Lake sink: a batch becomes one Parquet object, named by its range.

    config    limits below, the store of objects
    builder   `object_name` and `sinks.lake_object`, pure
    service   `LakeSink.write`: one conditional put, all or nothing, retried when the disk or the bucket says no

The name says topic, tape id, partition and range, so it is known before the object is written: a repeat after a crash
makes the same bytes under the same name, and finds that they are there. Objects of a partition sort by name in the
order of their messages:

    TOPIC/TAPE_ID/PARTITION/SEQ.PART-SEQ.PART.parquet      numbers padded with zeros
                            SEQ.PART-SEQ.PART.dbn.zst      raw records again, for readers of DBN; written first
    tapes/TAPE/manifest.json                               the manifest as it was when a sink last started
"""

import secrets
from collections.abc import Callable
from threading import Event
from typing import Any, Final

from runtime import lake_format
from runtime.errors import InputError
from runtime.lake_format import ObjectRange
from runtime.object_store import LocalObjectStore, ObjectStore
from runtime.tapes import TapeStore
from sinks.base import Batch, Lane
from sinks.batcher import Limits
from sinks.lake_dbn import encode_dbn, read_records
from sinks.lake_object import content_of, encode_object
from sinks.retry import patiently

LIMITS: Final = Limits(rows=1_000_000, bytes=48 << 20, age_s=5.0)
"""Objects are for scans: 48 MiB of values are about 20 MB of Parquet. Age is what a reader of the lake waits; below
some seconds a quiet tape would fill the lake with files of a few rows."""

IDENTITY: Final = "identity"
"""Object that holds the lake's random identity."""


def folder_of(lane: Lane) -> str:
    """Prefix of the names of a lane's objects."""
    return lake_format.folder(lane.topic, lane.tape_id, lane.partition)


def object_name(batch: Batch, kind: str = "parquet") -> str:
    """The name of a batch's object."""
    return lake_format.object_name(folder_of(batch.lane), batch.first, batch.last, kind)


def objects_of(store: ObjectStore, lane: Lane) -> list[ObjectRange]:
    """A lane's objects, in the order of their messages."""
    return lake_format.objects(store, folder_of(lane))


def drop_tape(store: ObjectStore, tape: str, line: str | None = None) -> None:
    """Delete the objects of a tape and its manifest's copy, or of one of its lines (the raw ones then stay)."""
    for name in list(store.names()):
        words = name.split("/")[0].split(".")  # TAPE.STREAM.vN or TAPE.LINE.STREAM.vN
        if len(words) in (3, 4) and words[0] == tape and (line is None or (len(words) == 4 and words[1] == line)):
            store.delete(name)
    if line is None:
        TapeStore(store).delete(tape)


class DifferentObjectError(InputError):
    """An object of this name stands in the lake and holds other messages: two writers cut one lane differently.

    Args:
        name: the object.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"lake object {name} holds other messages than those of its range",
            remedy="look who else writes this lake; then delete the object, and start the sink again",
        )


class LakeSink:
    """Batches into a store of objects.

    Args:
        store: where objects are put.
        limits: when a batch is due.
    """

    name = "lake"

    def __init__(self, store: ObjectStore, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self._store = store

    def open(self, stop: Event) -> str:
        """Give the lake's identity, made if it has none; what unfinished puts left in a folder goes."""
        if isinstance(self._store, LocalObjectStore):
            self._store.sweep()
        return patiently(self._identity, IDENTITY, stop)

    def write(self, batch: Batch, stop: Event) -> None:
        """Put a batch's objects unless they are there.

        Raises:
            DifferentObjectError: another object of this name is there.
        """
        whole = [entry.message for entry in batch.entries if entry.rows]
        if batch.lane.table.raw and whole:
            records, dbn = object_name(batch, "dbn.zst"), encode_dbn(whole)
            patiently(lambda: put_once(self._store, records, dbn, read_records), records, stop)
        name, data = object_name(batch), encode_object(batch)
        patiently(lambda: put_once(self._store, name, data), name, stop)

    def close(self) -> None:
        """Nothing is held."""

    def _identity(self) -> str:
        self._store.put_new(IDENTITY, secrets.token_hex(8).encode())
        return (self._store.get(IDENTITY) or b"").decode()


def put_once(store: ObjectStore, name: str, data: bytes, content_of: Callable[[bytes], Any] = content_of) -> None:
    """Put an object under a name that stands for its content: a repeat changes nothing, and damage is mended.

    Another release of Parquet or zstd may write the same messages as other bytes, so what is there is compared by its
    content; what has none is damaged.

    Raises:
        DifferentObjectError: an object with other content is there.
    """
    if store.put_new(name, data):
        return
    held = store.get(name)
    if held == data:
        return
    if held is not None and (content := content_of(held)) is not None:
        if content != content_of(data):
            raise DifferentObjectError(name)
        return
    store.put(name, data)
