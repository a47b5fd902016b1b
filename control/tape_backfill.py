"""A tape made again on a broker from the lake: every raw message, what was derived of it, and records.

The tape keeps its random id, its numbers and its runs. So sinks and readers go on where they were: what was written is
recognised, and nothing is written twice. New are the topics and their ids; a raw message that was number `seq` stands
at offset `seq - base`. Kafka's stamp on the raw topic is the broker's, so it is new too; everything else is equal, byte
for byte.

Records (gaps, events, dead letters) descend from no raw message, so nothing makes them again: their topics stay as they
are, with their ids. Where one is gone it is made, and sinks give what comes there numbers of its own.

What was deleted on demand stays deleted. At the front of a partition it moves `base`; between messages that stay, its
place is taken by a message without content and with the header `deleted`, because offsets count.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, Final

from control.output import Output
from control.tape_admin import TapeAdmin
from control.topic_admin import TopicAdmin
from runtime.errors import InputError
from runtime.kafka import CheckedProducer, consumer, read_range, watermarks
from runtime.object_store import ObjectStore, object_store_at
from runtime.sequence import Place, Placed
from runtime.settings import Settings
from runtime.tape_reader import TapeReader, first_seq, place_of
from runtime.tapes import Manifest, State, TapeStore
from schemas.envelope import Envelope, crc32
from schemas.message import Outgoing
from schemas.topics import MBO, TopicSpec, of_tape

DELETED: Final = ("deleted", b"1")
"""Header of a message that stands for a deleted one."""


class Backfill:
    """Makes one tape again.

    Args:
        settings: where states are.
        servers: Kafka.
        name: the tape.
        lake: where it is read from.
        out: for progress.

    Raises:
        InputError: neither the data folder nor the lake knows the tape.
    """

    def __init__(self, settings: Settings, servers: str, name: str, lake: ObjectStore, out: Output) -> None:
        self._states = object_store_at(settings.state_location)
        self._admin, self._topics = TapeAdmin(settings, servers), TopicAdmin(servers)
        self._servers, self._lake, self._out = servers, lake, out
        known = self._admin.tapes.load(name) or TapeStore(lake).load(name)
        if known is None:
            there = ", ".join(TapeStore(lake).names()) or "none"
            raise InputError(
                f"neither the data folder nor the lake knows a tape {name!r} (in the lake: {there})",
                remedy="correct --from-lake or --data",
            )
        self.manifest: Manifest = known
        self._ends: dict[tuple[str, int], Place] = {}

    def run(self, *, replace_topics: bool = False) -> dict[str, Any]:
        """Read the lake to its end, then write the topics.

        Args:
            replace_topics: whether topics of the tape that hold messages are deleted first.

        Returns:
            Counts of messages by stream, and the tape's state.

        Raises:
            HoleError, DamagedObjectError: the lake does not hold the whole tape; nothing was changed.
            InputError: the topics hold messages, or somebody works on the tape.
        """
        base, ended = self._look()
        if self.manifest.state == "finished" and not ended:
            raise InputError(
                f"tape {self.manifest.tape} is finished, but the lake does not hold all of it",
                remedy="let its lake sink write the rest first, or give another --from-lake",
            )
        names = self._to_make()
        with self._admin.alone(self.manifest):
            if not replace_topics:
                self._refuse_full(names)
            self._refuse_behind(names)
            self._admin.save(replace(self.manifest, state="open"))
            self._topics.delete(names)
            self._drop_checkpoints()
            made = self._make(base, names)
            counts = self._publish(made, names)
            state: State = "finished" if ended else "open"
            lines = {name: replace(line, complete=line.complete or ended) for name, line in made.lines.items()}
            self._admin.save(replace(made, state=state, lines=lines))
        return {"tape": made.tape, "tape_id": made.tape_id, "base": base, "state": state, "messages": counts}

    def _to_make(self) -> list[str]:
        """Topics that are made: raw and derived ones; of records those that are gone, or that were filled by us."""
        known, existing = self.manifest, self._topics.existing()
        specs = {name: spec for line in known.lines for name, spec in of_tape(known.tape, line).items()}
        ours = {name for name, number in known.topic_ids.items() if number in known.restored}
        return sorted(name for name, spec in specs.items() if spec.rooted or name in ours or name not in existing)

    def _look(self) -> tuple[tuple[int, ...], bool]:
        """The base of each partition, and whether every instrument has ended in every stream.

        Everything is read once before anything is changed, and every checksum with it.
        """
        base, ended = list(self.manifest.base), True
        for spec, line, partition in self._lanes():
            open_ones = {name for name, i in self.manifest.instruments.items() if i.partition == partition}
            first, reader = True, self._reader(spec, line, partition)
            with self._out.bar(f"reading {spec.stream}", "messages") as advance:
                for count, placed in enumerate(reader):
                    if spec is MBO and first and not placed.deleted:
                        base[partition], first = placed.seq, False
                    if placed.message.envelope.kind == "end":
                        open_ones.discard(placed.message.instrument)
                    advance(count + 1, 0)
            ended = ended and not (open_ones and spec.rooted)
            topic = spec.name(self.manifest.tape, line)
            self._ends[topic, partition] = reader.sequence.next_seq, reader.sequence.next_part
        return tuple(base), ended

    def _lanes(self) -> Iterator[tuple[TopicSpec, str, int]]:
        for spec in of_tape("").values():
            for line in self.manifest.lines if spec.scope == "line" else ("-",):
                for partition in range(self.manifest.partitions):
                    yield spec, line, partition

    def _reader(self, spec: TopicSpec, line: str, partition: int) -> TapeReader:
        return TapeReader(self.manifest, line, spec, partition, lake=self._lake, deleted=True)

    def _refuse_full(self, names: list[str]) -> None:
        existing = self._topics.existing()
        with closing(consumer(self._servers)) as client:
            for name in names:
                if name in existing and any(watermarks(client, name, p)[1] for p in range(self.manifest.partitions)):
                    raise InputError(
                        f"topic {name} holds messages", remedy="give --replace to delete the tape's topics first"
                    )

    def _refuse_behind(self, names: list[str]) -> None:
        """What stands on the topics that are made again and not in the lake would be lost."""
        existing = self._topics.existing()
        with closing(consumer(self._servers)) as client:
            for spec, line, partition in self._lanes():
                topic = spec.name(self.manifest.tape, line)
                there = topic in existing and topic in names
                low, high = watermarks(client, topic, partition) if there else (0, 0)
                for message in read_range(self._servers, topic, partition, high - 1, high) if low < high else ():
                    if place_of(message, spec, self.manifest) >= self._ends[topic, partition]:
                        raise InputError(
                            f"topic {topic}[{partition}] holds messages that the lake does not",
                            remedy="let its lake sink write them first",
                        )

    def _drop_checkpoints(self) -> None:
        """States of stages name the offsets and the id of the old topics; whoever goes on computes from the start."""
        for name in list(self._states.names(f"checkpoints/{self.manifest.tape_id}/")):
            self._states.delete(name)

    def _make(self, base: tuple[int, ...], names: list[str]) -> Manifest:
        """Topics, and the manifest that names them; no reader sees a message under an old base."""
        ids: dict[str, str] = {}
        for line in self.manifest.lines:
            ids |= self._topics.apply(self.manifest.tape, line, self.manifest.partitions)
        filled = {topic for (topic, _), end in self._ends.items() if end > (0, 0)}
        records = {spec.name(self.manifest.tape, line) for spec, line, _ in self._lanes() if not spec.rooted}
        parts = range(self.manifest.partitions)
        restored = {
            ids[name]: tuple(self._ends[name, part][0] for part in parts) for name in names if name in records & filled
        }
        made = replace(self.manifest, base=base, topic_ids=ids, state="open", restored=restored)
        self._admin.save(made)
        return made

    def _publish(self, made: Manifest, names: list[str]) -> dict[str, int]:
        counts = dict.fromkeys((spec.stream for spec in of_tape("").values()), 0)
        producer = CheckedProducer(self._servers)
        for spec, line, partition in self._lanes():
            if spec.name(made.tape, line) not in names:
                continue  # records that stand there still
            with self._out.bar(f"writing {spec.stream}", "messages") as advance:
                for placed in self._reader(spec, line, partition):
                    if placed.seq >= first_seq(spec, made, partition):
                        producer.send(outgoing(placed, spec.name(made.tape, line)))
                        counts[spec.stream] += 1
                        advance(counts[spec.stream], 0)
        producer.flush()
        return counts


def outgoing(placed: Placed, topic: str) -> Outgoing:
    """The message to be sent for one that was read: itself, or what holds the place of a deleted one."""
    message, envelope = placed.message, placed.message.envelope
    if not placed.deleted:
        return Outgoing(topic, message.partition, message.instrument, message.value, envelope)
    raw = envelope.seq < 0
    held = Envelope(
        kind=envelope.kind if envelope.kind == "end" or not raw else "clock",  # without ends no sink ever arrives
        schema=envelope.schema,
        crc32=crc32(b""),
        t=envelope.t,
        seq=envelope.seq,
        part=envelope.part,
        last=envelope.last,
        run=envelope.run,
        other=(DELETED,),
    )
    return Outgoing(topic, message.partition, message.instrument, b"", held)
