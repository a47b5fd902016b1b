"""Deleting an instrument or a day of a tape on demand, with a record of who asked for what and what went.

1. Nobody works on the tape, and it is finished: what is deleted under a running sink would be written again.
2. The ranges are found, in numbers of raw messages, and noted in the manifest. From here on readers expect nothing
   there, so nobody stumbles over half of the work, and repeating the command ends it.
3. Rows go from ClickHouse, rows and bytes from the lake.
4. Kafka deletes whole prefixes only. What stands behind a message that stays, stays on the broker until it is a prefix,
   or the tape goes; readers leave it out.
"""

import getpass
import json
import secrets
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from confluent_kafka import TopicPartition

from control.output import Output
from control.services import open_store
from control.tape_admin import TapeAdmin
from runtime.errors import InputError
from runtime.kafka import ANSWER_TIMEOUT_S, admin, consumer, read_raw, to_message, watermarks
from runtime.object_store import ObjectStore, object_store_at
from runtime.settings import Settings
from runtime.tape_reader import TapeReader, place_of
from runtime.tapes import KEPT_OF_A_DAY, Deletion, Manifest, TapeStore
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

    def find(self, wish: Wish) -> tuple[Deletion, ...]:
        """The ranges that a wish means, by instrument.

        Raises:
            InputError: the tape has no such instrument, or nothing of it on that day.
        """
        begin, end = wish.hours()
        if wish.instrument and wish.instrument not in self.manifest.instruments:
            known = ", ".join(self.manifest.instruments)
            raise InputError(
                f"tape {self.manifest.tape} has no instrument {wish.instrument!r} (known: {known})",
                remedy="see `barograph tape show`",
            )
        ranges: dict[tuple[int, str], list[int]] = {}
        for partition in range(self.manifest.partitions):
            for placed in self._raw(partition):
                name, envelope = placed.message.instrument, placed.message.envelope
                wanted = (not wish.instrument or name == wish.instrument) and begin <= envelope.t < end
                if wanted and not (wish.day and envelope.kind in KEPT_OF_A_DAY):
                    found = ranges.setdefault((partition, name), [placed.seq, placed.seq])
                    found[1] = placed.seq
        if not ranges:
            raise InputError(
                f"tape {self.manifest.tape} has nothing of {wish.instrument or 'any instrument'} "
                f"on {wish.day or 'any day'}",
                remedy="see its instruments with `barograph tape show`",
            )
        at = datetime.now(UTC).isoformat(timespec="seconds")
        return tuple(
            Deletion(name, partition, first, last, wish.day, at)
            for (partition, name), (first, last) in sorted(ranges.items())
        )

    def erase(self, found: tuple[Deletion, ...], store_url: str) -> dict[str, Any]:
        """Delete ranges everywhere; a record of it lies in the store of states before anything is touched.

        Returns:
            The record.

        Raises:
            InputError: somebody still works on the tape.
            MissingServiceError: broker or store is away.
            OSError: lake or state is away.
        """
        with self._admin.alone(self.manifest):
            self._note(found)
            record = begin_record(self._states, self.manifest, {"ranges": [asdict(d) for d in found]})
            with closing(open_store(store_url)) as client:
                erase_rows(client, self.manifest, self._kept)
            with self._out.bar("deleting in the lake", "objects") as advance:
                done = iter(range(1, 1 << 62))
                messages = erase_objects(self._lake, self.manifest, lambda: advance(next(done), 0))
            trimmed = self._trim()
        return end_record(self._states, record, {"lake_messages": messages, "kafka_trimmed_to": trimmed})

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

    def _kept(self, deletion: Deletion) -> list[int]:
        """Numbers in a range whose messages stay."""
        if not deletion.day:
            return []
        reader = self._raw(deletion.partition)
        kinds = ((p.seq, p.message.envelope.kind) for p in reader if p.message.instrument == deletion.instrument)
        return [s for s, kind in kinds if deletion.seq_first <= s <= deletion.seq_last and kind in KEPT_OF_A_DAY]

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


def end_record(states: ObjectStore, record: dict[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """Add to a record that it was done, and what went."""
    body = {**record, **result, "done": True, "ended": datetime.now(UTC).isoformat(timespec="seconds")}
    states.put(record["record"], json.dumps(body, indent=2).encode())
    return body
