"""A tape copied to a new one with some of its raw messages corrected or left out.

A tape is never rewritten: what it holds is what everything derived from it was made of. So a correction is a tape of
its own, whose sources name the partitions that it was copied from, with the hash of what came out.

What is left out would be a silent hole in a book. Therefore the first record of the instrument's next whole block gets
the flag F_MAYBE_BAD_BOOK, DBN's own word for "a gap was detected upstream": the engine distrusts the book from there to
the next clear or snapshot, as it did on the old tape.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from connectors import raw_messages
from control.scan import PartitionInput
from runtime.codec import decode_avro
from runtime.errors import InputError
from runtime.kafka import CheckedProducer, consumer, read_raw, to_message, watermarks
from runtime.tapes import Manifest, Source
from schemas.envelope import UNREADABLE, crc32
from schemas.mbo import F_MAYBE_BAD_BOOK, MBO_DTYPE, RECORDS_PER_BLOCK_MAX
from schemas.message import Message, Outgoing
from schemas.topics import MBO

Edits = Mapping[tuple[int, int], bytes | None]
"""(partition, offset) → the value that replaces it, or None to leave the message out."""


def corrected(message: Message, value: bytes) -> Message:
    """A raw message with another value; count, checksum, times and sequences in its headers follow the value.

    Engine time, source and place in time stay. A message whose headers were unreadable becomes one of records.

    Raises:
        InputError: the value does not fit the message's kind.
    """
    envelope, where = message.envelope, f"the new value for offset {message.offset} of {message.topic}"
    if envelope.kind == "definition":
        decode_avro("definition", value)
        return replace(message, value=value, envelope=replace(envelope, crc32=crc32(value)))
    if envelope.kind != "data":
        raise InputError(f"{where} is not empty, but a message of kind {envelope.kind} is", remedy="leave it as it is")
    count, rest = divmod(len(value), MBO_DTYPE.itemsize)
    if rest or not 0 < count <= RECORDS_PER_BLOCK_MAX:
        raise InputError(
            f"{where} has {len(value)} bytes",
            remedy=f"give 1 to {RECORDS_PER_BLOCK_MAX} DBN MBO records of {MBO_DTYPE.itemsize} bytes",
        )
    records = np.frombuffer(value, MBO_DTYPE)
    made = raw_messages.data(
        message.topic,
        message.instrument,
        message.partition,
        records,
        t_ns=envelope.t,
        source=envelope.source,
        arrived=envelope.arrived,
    )
    return replace(message, value=made.value, envelope=replace(made.envelope, other=envelope.other))


def distrusted(message: Message) -> Message:
    """A data message whose first record says that something before it may be missing."""
    records = np.frombuffer(message.value, MBO_DTYPE).copy()
    records["flags"][0] |= F_MAYBE_BAD_BOOK
    return corrected(message, records.tobytes())


def _can_be_applied(message: Message) -> bool:
    """Whether a message is a block of records that a stage takes; one that is broken stays broken, bit for bit."""
    envelope, size = message.envelope, len(message.value)
    whole = envelope.kind == "data" and size == envelope.count * MBO_DTYPE.itemsize
    return whole and 0 < envelope.count <= RECORDS_PER_BLOCK_MAX and crc32(message.value) == envelope.crc32


def edit(messages: Iterator[Message], edits: Edits) -> Iterator[Message]:
    """The messages of one partition as the copy holds them.

    Raises:
        InputError: a new value does not fit, a definition or end is left out, or a message that stays is unreadable.
    """
    holes: set[str] = set()
    for message in messages:
        place, kind = (message.partition, message.offset), message.envelope.kind
        where = f"offset {message.offset} of {message.topic}[{message.partition}]"
        unreadable = message.envelope.schema == UNREADABLE
        if place in edits:
            value = edits[place]
            if value is None and kind in ("definition", "end"):
                raise InputError(f"{where} is the {kind} of {message.instrument}", remedy="replace it or let it stay")
            if value is None:
                holes.add(message.instrument)
                continue
            message = corrected(message, value)
        elif unreadable:
            raise InputError(
                f"{where} has unreadable headers and cannot be copied", remedy="replace it or leave it out"
            )
        if message.instrument in holes and _can_be_applied(message):
            message = distrusted(message)
            holes.discard(message.instrument)
        yield message


@dataclass(slots=True)
class TapeCopy:
    """A copy of a tape's raw topic under another name.

    Attributes:
        bootstrap_servers: Kafka.
        manifest: the tape that is copied; its present end is where the copy ends.
        edits: what is corrected or left out.
    """

    bootstrap_servers: str
    manifest: Manifest
    edits: Edits
    _ends: dict[int, int] = field(default_factory=dict)

    def sources(self) -> tuple[Source, ...]:
        """What a copy is made of, one source for each partition, hashed after the edits; nothing is written.

        Raises:
            InputError: see `edit`.
        """
        name, out = MBO.name(self.manifest.tape), []
        for partition in range(self.manifest.partitions):
            whole = PartitionInput(partition)
            for seq, message in enumerate(self._messages(partition)):
                whole.update(seq, message)
            out.append(Source(f"{name}[{partition}]", whole.to_dict()["sha256"], whole.records))
        return tuple(out)

    def publish(self, tape: str) -> int:
        """Write the copy to the raw topic of another tape, after what stands there of it already; messages written."""
        topic, producer = MBO.name(tape), CheckedProducer(self.bootstrap_servers)
        client = consumer(self.bootstrap_servers)
        try:
            standing = [watermarks(client, topic, p)[1] for p in range(self.manifest.partitions)]
        finally:
            client.close()
        for partition, stands in enumerate(standing):
            for number, message in enumerate(self._messages(partition)):
                if number >= stands:
                    producer.send(Outgoing(topic, partition, message.instrument, message.value, message.envelope))
        producer.flush()
        return producer.sent

    def _messages(self, partition: int) -> Iterator[Message]:
        """The partition as the copy holds it, up to the end that it had when it was first read."""
        topic = MBO.name(self.manifest.tape)
        if partition not in self._ends:
            client = consumer(self.bootstrap_servers)
            try:
                self._ends[partition] = watermarks(client, topic, partition)[1]
            finally:
                client.close()
        raw = read_raw(self.bootstrap_servers, topic, partition, 0, self._ends[partition])
        return edit(map(to_message, raw), self.edits)
