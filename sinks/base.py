"""What a sink is made of: the lane it reads, the batch it writes, and what it promises.

A *lane* is one partition of one stream. Its accepted messages are cut into *batches*, contiguous ranges of places; a
*place* is (`seq`, `part`), the number of a message for ever. A sink promises two things about a batch: when `write`
returns, its rows survive a crash; writing the same batch again changes nothing. On these two everything else rests.

    config      `Limits` and what a sink is constructed with
    builder     pure: `sinks.rows` makes rows of a batch; a sink makes its request or object of them
    service     the sink's `write`: I/O, with a table of what is retried and why
    pipeline    `sinks.runner`: consume, judge, batch, plan, write, advance
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from threading import Event
from typing import Final, Protocol

import numpy as np

from runtime.sequence import Place
from schemas.envelope import UNREADABLE, crc32
from schemas.mbo import MBO_BYTES, MBO_DTYPE, MBO_RTYPE
from schemas.message import Message
from schemas.topics import MBO
from sinks.batcher import Limits
from sinks.records import is_record
from sinks.tables import RECORDS, TableSpec

_RECORDS: Final = frozenset(table.topic.avro for table in RECORDS.values())


@dataclass(frozen=True, slots=True)
class Lane:
    """One partition of one stream of a tape and line.

    Attributes:
        tape, tape_id: the tape's name, and its random id, new when the tape is replaced.
        line: the line that is served; raw streams belong to none.
        table: what its rows are.
        partition: the partition.
    """

    tape: str
    tape_id: str
    line: str
    table: TableSpec
    partition: int

    @property
    def topic(self) -> str:
        """The topic it reads."""
        return self.table.topic_name(self.tape, self.line)

    @property
    def row_line(self) -> str:
        """What its rows carry as line."""
        return self.table.line(self.line)


@dataclass(frozen=True, slots=True)
class Entry:
    """A message that was accepted, with its place.

    Attributes:
        message: the message.
        seq, part: its place.
        deleted: whether it was deleted on demand: only its place is kept.
        rows: rows that it gives (`rows_of`); none if it is deleted.
    """

    message: Message
    seq: int
    part: int
    deleted: bool = False
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", 0 if self.deleted else rows_of(self.message))


def rows_of(message: Message) -> int:
    """Rows that a message gives.

    Raw definitions, clocks and ends have none; nor has a raw block that is not what its headers say, or whose headers
    are not ours: stages skip it, and its bytes stay in the lake's message index and in the dead letter. Derived
    messages have as many as their headers say; one that has not is an error of its own (`sinks.rows`). A record has
    one, if it can be read.
    """
    envelope = message.envelope
    if not message.value or envelope.schema in ("definition", UNREADABLE):
        return 0
    if envelope.schema in _RECORDS:
        return int(is_record(message, envelope.schema))
    return envelope.count if envelope.schema != MBO.stream or is_whole(message) else 0


def is_whole(message: Message) -> bool:
    """Whether a raw block holds the records that its headers say."""
    value, envelope = message.value, message.envelope
    if len(value) != envelope.count * MBO_BYTES or crc32(value) != envelope.crc32:
        return False
    records = np.frombuffer(value, MBO_DTYPE)
    return bool(((records["rtype"] == MBO_RTYPE) & (records["length"] == MBO_BYTES // 4)).all())


@dataclass(frozen=True, slots=True)
class Batch:
    """A contiguous range of a lane's messages; never empty.

    Attributes:
        lane: which lane.
        entries: the messages.
        repeat: whether it may have been written before: a plan for it was found, and nothing says how that ended.
    """

    lane: Lane
    entries: Sequence[Entry]
    repeat: bool = field(default=False, compare=False)

    @property
    def first(self) -> Place:
        """Place of the first message."""
        return self.entries[0].seq, self.entries[0].part

    @property
    def last(self) -> Place:
        """Place of the last message."""
        return self.entries[-1].seq, self.entries[-1].part

    @property
    def rows(self) -> int:
        """Rows in all messages."""
        return sum(entry.rows for entry in self.entries)

    @property
    def token(self) -> str:
        """Name of the batch, equal whenever it is written: `tape_id:stream:partition:first-last:schema`.

        The stream is named with its line, and the schema by its version and a hash of the columns, so that two lines
        and two declarations never share a token.
        """
        table = self.lane.table
        columns = sha256(repr(table.shape).encode()).hexdigest()[:8]
        (seq, part), (last_seq, last_part) = self.first, self.last
        return (
            f"{self.lane.tape_id}:{self.lane.row_line}.{table.name}:{self.lane.partition}:"
            f"{seq}.{part}-{last_seq}.{last_part}:v{table.topic.version}-{columns}"
        )


class Sink(Protocol):
    """A store that batches are written to."""

    name: str
    limits: Limits

    def open(self, stop: Event) -> str:
        """Wait until the target can be used, make what it needs, and give its identity.

        The identity is random and lies in the target: progress is kept under it, so a target that was emptied or
        exchanged is filled from the start.
        """

    def write(self, batch: Batch, stop: Event) -> None:
        """Write a batch durably; no effect if it is already there.

        Raises:
            StoppedError: `stop` was set before it was confirmed.
            BarographError: the target refuses it for good.
        """

    def close(self) -> None:
        """Let go of the target."""


class StoppedError(Exception):
    """The sink was asked to stop while it waited; what it was doing will be done again."""
