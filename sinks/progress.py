"""How far a sink has come in a lane, kept durably beside the data and not by Kafka's group coordinator.

The file of a lane is written twice per batch, each time whole and atomically:

    1. the *plan*: first and last place of the batch that is about to be written
    2. the *position* after it, when the target has confirmed the data; the plan is gone

After a crash between the two, the plan is read back, the same messages are read again, and the same batch is written
under the same name, which the target recognises. Without the plan, the second cut would fall elsewhere (batches are cut
by age too), and half of a batch would be there twice.

Files are kept under the identity of the target and the tape's random id; Kafka's offset is a short cut that holds only
while the topic is the same (`topic_id`). What counts is the next expected place.

Two writers of one lane would cut it differently. So a lane is claimed with a lock that dies with its process. The raw
lane of a tape belongs to no line: whichever line's sink comes first writes it, the others only look how far it is.

A lock holds on one machine only. The progress of a lake in a bucket lies in the bucket, and every change of it is
conditional: it replaces exactly what this writer read or wrote last. A second writer elsewhere therefore fails at the
plan, before it wrote anything; and one that slept and wakes up can only write an object that is already there.
"""

import fcntl
import json
import os
from dataclasses import asdict, dataclass, field, replace
from threading import Event
from typing import Any, Final, cast

from runtime.errors import BarographError
from runtime.object_store import LocalObjectStore, ObjectStore
from runtime.sequence import Place
from sinks.base import Batch, Lane
from sinks.retry import patiently

_ROOT: Final = "sinks"


@dataclass(frozen=True, slots=True)
class Progress:
    """State of one lane.

    Attributes:
        offset: Kafka offset after the last message that is confirmed.
        seq, part: the place expected next.
        topic_id: Kafka's id of the topic that `offset` belongs to; empty if unknown.
        rows: rows confirmed so far.
        ended: instruments whose `end` is confirmed.
        plan: first and last place of a batch that may or may not have been written; None if none is under way.
    """

    offset: int = 0
    seq: int = 0
    part: int = 0
    topic_id: str = ""
    rows: int = 0
    ended: frozenset[str] = field(default=frozenset())
    plan: tuple[Place, Place] | None = None

    @property
    def next_place(self) -> Place:
        """The place expected next."""
        return self.seq, self.part

    def planning(self, batch: Batch) -> "Progress":
        """With a batch about to be written."""
        return replace(self, plan=(batch.first, batch.last))

    def after(self, batch: Batch, next_place: Place) -> "Progress":
        """With a batch confirmed; `next_place` is what follows it."""
        ended = set(self.ended)
        for entry in batch.entries:
            envelope = entry.message.envelope
            if envelope.kind == "end" and envelope.last:
                ended.add(entry.message.instrument)
            elif envelope.kind != "end":
                ended.discard(entry.message.instrument)
        return replace(
            self,
            offset=batch.entries[-1].message.offset + 1,
            seq=next_place[0],
            part=next_place[1],
            rows=self.rows + batch.rows,
            ended=frozenset(ended),
            plan=None,
        )

    def to_json(self) -> bytes:
        """The progress as JSON."""
        return json.dumps({**asdict(self), "ended": sorted(self.ended)}).encode()


def progress_from_json(text: bytes) -> Progress:
    """The progress that `to_json` wrote."""
    raw: dict[str, Any] = json.loads(text)
    plan = raw["plan"]
    raw["plan"] = None if plan is None else (tuple(plan[0]), tuple(plan[1]))
    raw["ended"] = frozenset(raw["ended"])
    return Progress(**raw)


class ForeignProgressError(BarographError):
    """The progress of a lane was changed by another writer.

    Args:
        lane: the lane.
    """

    def __init__(self, sink: str, lane: Lane) -> None:
        self.lane = lane
        super().__init__(
            f"another {sink} sink has written {lane.topic}[{lane.partition}] meanwhile",
            remedy="let one machine serve a tape and line; this one goes on from there when it is started again",
        )


class ProgressStore:
    """The progress files of one sink and target.

    Args:
        objects: where they lie.
        sink: the sink's name.
        identity: identity of its target.
        local: folder of locks, and of a copy for those who only look; None: `objects`.
        stop: ends the waiting for a store that is away.
    """

    def __init__(
        self,
        objects: ObjectStore,
        sink: str,
        identity: str,
        local: LocalObjectStore | None = None,
        stop: Event | None = None,
    ) -> None:
        if local is None and not isinstance(objects, LocalObjectStore):
            raise TypeError("progress in a bucket needs a local folder for its locks")
        self._objects, self._local = objects, local or cast("LocalObjectStore", objects)
        self._sink = sink
        self._prefix = f"{_ROOT}/{sink}-{identity}"
        self._claims: list[int] = []
        self._known: dict[str, bytes | None] = {}
        self._stop = stop or Event()

    def claim(self, lane: Lane) -> bool:
        """Become the only writer of a lane on this machine until `close`; whether that worked.

        Raises:
            StoppedError: the disk is full, and `stop` was set.
        """
        folder, _, name = self._name(lane).rpartition("/")
        path = self._local.path(f"{folder}/.{name}.lock")

        def opened() -> int:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

        handle = patiently(opened, f"claim of {lane.topic}[{lane.partition}]", self._stop)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return False
        self._claims.append(handle)
        return True

    def close(self) -> None:
        """Give all claims back."""
        while self._claims:
            os.close(self._claims.pop())

    def load(self, lane: Lane) -> Progress | None:
        """A lane's progress; None if it never was written.

        Raises:
            StoppedError: the store is away, and `stop` was set.
        """
        name = self._name(lane)
        data = self._known[name] = patiently(lambda: self._objects.get(name), name, self._stop)
        return None if data is None else progress_from_json(data)

    def save(self, lane: Lane, progress: Progress) -> None:
        """Write a lane's progress durably.

        Raises:
            ForeignProgressError: it is not what this writer read or wrote last.
            StoppedError: the store is away, and `stop` was set.
        """
        name, data = self._name(lane), progress.to_json()
        known = self._known.get(name)
        if not patiently(lambda: self._objects.swap(name, known, data), name, self._stop):
            raise ForeignProgressError(self._sink, lane)
        self._known[name] = data
        if self._local is not self._objects:
            patiently(lambda: self._local.put(name, data), f"copy of {name}", self._stop)

    def _name(self, lane: Lane) -> str:
        return f"{self._prefix}/{lane.tape_id}/{lane.row_line}/{lane.table.name}-{lane.partition:05d}.json"


def drop_progress(objects: ObjectStore, tape_id: str) -> None:
    """Delete all progress on a tape."""
    for name in list(objects.names(f"{_ROOT}/")):
        if name.split("/")[2:3] == [tape_id]:
            objects.delete(name)
