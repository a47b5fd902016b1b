"""Deleting an instrument or a day of a tape on demand, with a record of who asked for what and what went.

1. Nobody works on the tape, and it is finished: what is deleted under a running sink would be written again.
2. The ranges are found, in numbers of raw messages. A record of who asked is written, and then they are noted in the
   manifest. From here on readers expect nothing there, so nobody stumbles over half of the work, and repeating the
   command, or another deletion of the tape, ends it.
3. Rows go from ClickHouse, rows and bytes from the lake.
4. Kafka deletes whole prefixes only. What stands behind a message that stays, stays on the broker until it is a prefix,
   or the tape goes; readers leave it out.

A message, raw or derived, goes whole or stays whole: that it is the same everywhere is what readers and the reconciler
rely on. So of a day those raw messages go whose records all lie in it, and what was computed from them. The raw message
with which an instrument enters the day may hold records of the day before, and carries that day's last bins and bars;
the one with which it leaves carries the last of this day. Both stay, and are told.
"""

import getpass
import json
import secrets
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import numpy as np
from confluent_kafka import TopicPartition

from control.output import Output
from control.services import open_store
from control.tape_admin import TapeAdmin
from engine.record_time import record_times
from runtime.errors import InputError
from runtime.kafka import ANSWER_TIMEOUT_S, admin, consumer, read_raw, to_message, watermarks
from runtime.object_store import ObjectStore, object_store_at
from runtime.sequence import Placed
from runtime.settings import Settings
from runtime.tape_reader import TapeReader, place_of
from runtime.tapes import KEPT_OF_A_DAY, Deletion, Manifest, TapeStore
from schemas.mbo import MBO_DTYPE
from schemas.message import Message
from schemas.topics import MBO, rooted
from schemas.units import NS_PER_SECOND
from sinks.erase import erase_objects, erase_rows

AUDIT: Final = "audit/deletions"
"""Where records of deletions lie, beside the manifests. They outlive the tapes."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What shall go: an instrument, a UTC day, or of an instrument a day.

    Attributes:
        instrument: its name; empty: of all instruments.
        day: `2024-01-02`; empty: of all days.
    """

    instrument: str = ""
    day: str = ""

    def hours(self) -> tuple[int, int]:
        """First ns of the day, and first ns after it; everything without a day.

        Raises:
            InputError: the day is none.
        """
        if not self.day:
            return -(1 << 63), 1 << 63
        try:
            begin = datetime.combine(date.fromisoformat(self.day), datetime.min.time(), UTC)
        except ValueError as error:
            raise InputError(f"{self.day!r} is no day", remedy="write for example 2024-01-02") from error
        seconds = [int(moment.timestamp()) for moment in (begin, begin + timedelta(days=1))]
        return seconds[0] * NS_PER_SECOND, seconds[1] * NS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Across:
    """A raw message across a midnight of the day that is deleted: it stays, and what was computed when it came.

    Attributes:
        instrument, partition, seq: which message.
        way: `enters` the day, which it may hold records of, or `leaves` it, or both.
    """

    instrument: str
    partition: int
    seq: int
    way: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a wish means: ranges that go, and messages that stay because they lie in two days."""

    ranges: tuple[Deletion, ...]
    across: tuple[Across, ...] = ()


class DayRanges:
    """Which raw messages of one instrument lie in a day as a whole; pure, fed in order.

    Args:
        begin, end: first ns of the day, and first ns after it.
        whole: whether everything goes, whatever its time and kind.

    Attributes:
        ranges: first and last seq of neighbouring messages that do.
        across: seq of each message that lies in two days of which this is one, and which way it goes.
    """

    def __init__(self, begin: int, end: int, *, whole: bool = False) -> None:
        self.ranges: list[tuple[int, int]] = []
        self.across: list[tuple[int, str]] = []
        self._begin, self._end, self._whole = begin, end, whole
        self._before: int | None = None
        self._goes_on = False

    def take(self, placed: Placed) -> None:
        """The instrument's next message. Its engine time is that after it; the one before says where it begins."""
        envelope = placed.message.envelope
        if not self._whole and envelope.kind in KEPT_OF_A_DAY:
            return
        start = self._before if self._before is not None else _first_t(placed.message)
        self._before = envelope.t
        inside = self._whole or (self._begin <= start and envelope.t < self._end)
        ways = [
            way for way, midnight in (("enters", self._begin), ("leaves", self._end)) if start < midnight <= envelope.t
        ]
        if inside:
            first = self.ranges.pop()[0] if self._goes_on else placed.seq
            self.ranges.append((first, placed.seq))
        elif ways:
            self.across.append((placed.seq, " and ".join(ways)))
        self._goes_on = inside


def _first_t(message: Message) -> int:
    """Engine time of the first record of an instrument's first message, at the earliest; without one, the message's."""
    records = np.frombuffer(message.value if message.envelope.kind == "data" else b"", MBO_DTYPE)
    first: list[int] = record_times(records[:1], None, 0).tolist()
    return min([message.envelope.t, *first])


class Eraser:
    """Deletes parts of a tape.

    Args:
        settings: where states and lake are.
        manifest: the tape.
        servers: Kafka.
        out: for progress.

    Raises:
        InputError: the tape is still written to.
    """

    def __init__(self, settings: Settings, manifest: Manifest, servers: str, out: Output) -> None:
        if manifest.state != "finished":
            raise InputError(
                f"tape {manifest.tape} is {manifest.state}: what is deleted now would be written again",
                remedy="let `barograph up` or `run` finish it, or delete the whole tape",
            )
        self._admin = TapeAdmin(settings, servers)
        self._states = object_store_at(settings.state_location)
        self._lake = object_store_at(settings.lake_location)
        self._servers, self._out = servers, out
        self.manifest = manifest

    def find(self, wish: Wish) -> Found:
        """The ranges that a wish means, by instrument.

        Raises:
            InputError: the tape has no such instrument, or nothing of it as a whole on that day.
        """
        hours = wish.hours()
        if wish.instrument and wish.instrument not in self.manifest.instruments:
            known = ", ".join(self.manifest.instruments)
            raise InputError(
                f"tape {self.manifest.tape} has no instrument {wish.instrument!r} (known: {known})",
                remedy="see `barograph tape show`",
            )
        at = datetime.now(UTC).isoformat(timespec="seconds")
        ranges: list[Deletion] = []
        across: list[Across] = []
        for partition in range(self.manifest.partitions):
            days: dict[str, DayRanges] = {}
            for placed in self._raw(partition):
                name = placed.message.instrument
                if not wish.instrument or name == wish.instrument:
                    days.setdefault(name, DayRanges(*hours, whole=not wish.day)).take(placed)
            for name, day in sorted(days.items()):
                ranges += [Deletion(name, partition, first, last, wish.day, at) for first, last in day.ranges]
                across += [Across(name, partition, seq, way) for seq, way in day.across]
        if not ranges:
            told = f", only messages across midnight (seq {', '.join(str(a.seq) for a in across)})" if across else ""
            raise InputError(
                f"tape {self.manifest.tape} has nothing of {wish.instrument or 'any instrument'} "
                f"on {wish.day or 'any day'}{told}",
                remedy="see its instruments with `barograph tape show`",
            )
        return Found(tuple(ranges), tuple(across))

    def erase(self, found: Found, store_url: str) -> dict[str, Any]:
        """Delete ranges everywhere; a record of it lies in the store of states before anything is touched.

        What an earlier deletion noted and did not end is ended too.

        Returns:
            The record.

        Raises:
            InputError: somebody still works on the tape.
            MissingServiceError: broker or store is away.
            OSError: lake or state is away.
        """
        with self._admin.rewriting(self.manifest), self._admin.alone(self.manifest):
            left = [r for r in unfinished_records(self._states, self.manifest) if self._is_noted(r)]
            what = {"ranges": [asdict(d) for d in found.ranges], "across_midnight": [asdict(a) for a in found.across]}
            record = begin_record(self._states, self.manifest, what)
            self._note(found.ranges)
            work = self._work(found.ranges, left)
            with closing(open_store(store_url)) as client:
                erase_rows(client, self.manifest, work, self._kept(work))
            with self._out.bar("deleting in the lake", "objects") as advance:
                done = iter(range(1, 1 << 62))
                messages = erase_objects(self._lake, self.manifest, work, lambda: advance(next(done), 0))
            trimmed = self._trim()
            for other in left:
                end_record(self._states, other, {"ended_by": record["record"]})
            return end_record(self._states, record, {"lake_messages": messages, "kafka_trimmed_to": trimmed})

    def _is_noted(self, record: Mapping[str, Any]) -> bool:
        """Whether a record's ranges stand in the manifest; otherwise it was broken off before anything was touched."""
        noted = {replace(d, at="") for d in self._admin.tapes.require(self.manifest.tape).deletions}
        return all(replace(Deletion(**d), at="") in noted for d in record["ranges"])

    def _work(self, found: Collection[Deletion], left: Collection[Mapping[str, Any]]) -> list[Deletion]:
        """What has to go now: the ranges of this call, and those that stand in the manifest and were not ended."""
        open_ones = {replace(Deletion(**d), at="") for record in left for d in record["ranges"]}
        open_ones |= {replace(d, at="") for d in found}
        return [d for d in self.manifest.deletions if replace(d, at="") in open_ones]

    def _note(self, found: tuple[Deletion, ...]) -> None:
        """The ranges into the manifest, in the state store and in the lake's copy of it."""
        known = self._admin.tapes.require(self.manifest.tape)
        bare = {replace(d, at="") for d in known.deletions}
        new = tuple(d for d in found if replace(d, at="") not in bare)
        self.manifest = replace(known, deletions=(*known.deletions, *new))
        self._admin.save(self.manifest)
        TapeStore(self._lake).save(self.manifest)

    def _raw(self, partition: int) -> TapeReader:
        return TapeReader(self.manifest, "", MBO, partition, self._servers, self._lake, deleted=True)

    def _kept(self, deletions: Collection[Deletion]) -> list[tuple[int, int]]:
        """(partition, seq) within deleted days whose messages stay; each partition is read once."""
        days = [d for d in deletions if d.day]
        return [
            (partition, placed.seq)
            for partition in sorted({d.partition for d in days})
            for placed in self._raw(partition)
            if placed.message.envelope.kind in KEPT_OF_A_DAY
            and any(replace(d, day="").covers(partition, placed.seq, placed.message.instrument, "") for d in days)
        ]

    def _trim(self) -> Mapping[str, int]:
        """Delete the longest prefix of each partition in Kafka that holds nothing but what is deleted; new starts."""
        wanted = []
        for line in self.manifest.lines:
            for topic, spec in rooted(self.manifest.tape, line).items():
                for partition in range(self.manifest.partitions):
                    with closing(consumer(self._servers)) as client:
                        low, high = watermarks(client, topic, partition)
                    start = low
                    for message in map(to_message, read_raw(self._servers, topic, partition, low, high)):
                        if not self.manifest.deletes(partition, place_of(message, spec, self.manifest)[0], message):
                            break
                        start = message.offset + 1
                    if start > low:
                        wanted.append(TopicPartition(topic, partition, start))
        unique = {(w.topic, w.partition): w for w in wanted}
        if unique:
            cluster = admin(self._servers)  # kept: the answers of a client that is gone never come
            asked = cluster.delete_records(list(unique.values()), request_timeout=ANSWER_TIMEOUT_S)
            for future in asked.values():
                future.result()
        return {f"{w.topic}[{w.partition}]": int(w.offset) for w in unique.values()}


def begin_record(states: ObjectStore, manifest: Manifest, what: Mapping[str, Any]) -> dict[str, Any]:
    """Write down, before it is done, what is deleted, of which tape, when and by whom.

    Raises:
        OSError: the store is away.
    """
    at = datetime.now(UTC)
    name = f"{AUDIT}/{at.strftime('%Y%m%dT%H%M%S')}-{manifest.tape}-{secrets.token_hex(4)}.json"
    body = {
        "record": name,
        "at": at.isoformat(timespec="seconds"),
        "by": getpass.getuser(),
        "tape": manifest.tape,
        "tape_id": manifest.tape_id,
        **what,
        "done": False,
    }
    states.put_new(name, json.dumps(body, indent=2).encode())
    return body


def unfinished_records(states: ObjectStore, manifest: Manifest) -> list[dict[str, Any]]:
    """Records of deletions of parts of a tape that were begun and not ended.

    Raises:
        OSError: the store is away.
    """
    found = (json.loads(states.get(name) or b"{}") for name in list(states.names(f"{AUDIT}/")))
    mine = (record for record in found if record.get("tape_id") == manifest.tape_id and not record["done"])
    return [record for record in mine if isinstance(record["ranges"], list)]


def end_record(states: ObjectStore, record: dict[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """Add to a record that it was done, and what went."""
    body = {**record, **result, "done": True, "ended": datetime.now(UTC).isoformat(timespec="seconds")}
    states.put(record["record"], json.dumps(body, indent=2).encode())
    return body
