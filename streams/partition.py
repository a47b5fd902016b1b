"""One input partition of a stage, without I/O: what comes in, what goes out, what must be stored.

For each input message that the repeat rule accepts, the reducer's rows are joined per output stream and cut into
*parts* after a fixed number of rows that depends on the row's size alone, so neither block sizes in memory nor pauses
of the reducer show in the output. All parts of one root message carry its `seq`; the final one says `last`. A root that
gives no rows still gives one empty part, so that consumers can tell "nothing happened" from "not yet".

A stage that reads another stage's topic gets a root message in several parts. They are one input: rows wait from part
to part, output parts number on, and only the final input part closes the outputs. So the final output part has rows
unless the whole root gave none, and how the stage before cut its parts does not show. A state in the middle of a root
is never stored; whoever takes over starts the root again at part 0.

A message that cannot be applied is skipped: its outputs are closed as usual and carry `skipped` with the reason. A
later stage hands `skipped` through, so whoever reads it knows that something above is missing.
"""

from collections.abc import Sequence as List
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from runtime.errors import BarographError
from runtime.sequence import Sequence, Verdict
from schemas.columns import ArrowRows, Column, Table, concat_tables, row_dtype, slice_table, table_rows
from schemas.envelope import Envelope, crc32
from schemas.message import Message, Outgoing
from schemas.topics import MBO
from streams.outbox import Outbox, Part
from streams.reducer import BrokenMessageError, Reducer, Stage, Stamp

PART_BYTES_MAX: Final = 4 << 20
"""Rows of one part, bytes at most. Gateway and sinks hold whole parts; larger ones would raise everyone's latency and
approach the 8 MiB message limit, smaller ones repeat the Arrow schema more often."""

PART_ROWS_MAX: Final = 256
"""Rows of one part at most, for small rows: a consumer's unit of work stays below a millisecond."""


def rows_per_part(columns: List[Column]) -> int:
    """Rows after which a part is cut: a function of the row's size only."""
    return max(1, min(PART_ROWS_MAX, PART_BYTES_MAX // row_dtype(columns).itemsize))


@dataclass(frozen=True, slots=True)
class Place:
    """Which partition of which tape and line, and in whose name it is computed."""

    tape: str
    line: str
    partition: int
    base: int
    run: str


@dataclass(slots=True)
class PartCutter:
    """Cuts the rows of one output stream into parts.

    Attributes:
        columns: the stream's row.
        part: number of the next part of the current root message.
    """

    columns: tuple[Column, ...]
    part: int = 0
    _waiting: list[Table] = field(default_factory=list)
    _rows: int = 0
    _size: int = field(init=False)
    _arrow: ArrowRows = field(init=False)

    def __post_init__(self) -> None:
        self._size, self._arrow = rows_per_part(self.columns), ArrowRows(self.columns)

    def add(self, table: Table) -> list[tuple[int, bytes, int]]:
        """Take rows; returns the full parts that are certain not to be the last: (part, value, rows)."""
        self._waiting.append(table)
        self._rows += table_rows(table)
        size, out = self._size, []
        if self._rows > size:
            joined = concat_tables(self._waiting, self.columns)
            start = 0
            while self._rows - start > size:
                out.append(self._encode(slice_table(joined, start, start + size)))
                start += size
            self._waiting = [slice_table(joined, start, self._rows)]
            self._rows -= start
        return out

    def close(self) -> tuple[int, bytes, int]:
        """The final part of a root message: the rest of the rows, or none, so that the root is seen to end."""
        rest = self._encode(concat_tables(self._waiting, self.columns) if self._rows else {})
        self._waiting, self._rows, self.part = [], 0, 0
        return rest

    def _encode(self, table: Table) -> tuple[int, bytes, int]:
        self.part += 1
        rows = table_rows(table)
        return self.part - 1, self._arrow.stream(table) if rows else b"", rows


class PartitionState:
    """A reducer with its place in the input.

    Args:
        stage: what is computed.
        place: where.
        reducer: the state, already restored if there was one.
        next_seq: number of the root message that is expected next.
    """

    def __init__(self, stage: Stage, place: Place, reducer: Reducer, next_seq: int) -> None:
        self.stage, self.place, self.reducer = stage, place, reducer
        self.source = stage.source.name(place.tape, place.line)
        self.sequence = Sequence(f"{self.source}[{place.partition}]", next_seq)
        self._cutters = {name: PartCutter(output.columns) for name, output in stage.outputs.items()}

    def seq_of(self, message: Message) -> int:
        """Number of the root message of `message`."""
        if self.stage.source is MBO:
            return message.offset + self.place.base
        return message.envelope.seq

    def place_of(self, message: Message) -> tuple[int, int]:
        """(`seq`, `part`) of a message of the input."""
        return self.seq_of(message), 0 if self.stage.source is MBO else message.envelope.part

    def is_last(self, message: Message) -> bool:
        """Whether a message is the final one of its root. A raw message always is, whatever its headers say."""
        return self.stage.source is MBO or message.envelope.last

    def is_repeat(self, message: Message) -> bool:
        """Whether a message came before.

        Raises:
            HoleError: messages before it are missing.
            ConflictError: it came before with other bytes.
        """
        verdict = self.sequence.judge(*self.place_of(message), run=message.envelope.run, crc32=message.envelope.crc32)
        return verdict is Verdict.REPEAT

    def next_outputs(self, message: Message) -> dict[str, tuple[int, int]]:
        """Topic → (`seq`, `part`) of the first output that `message` will give there."""
        place, seq = self.place, self.seq_of(message)
        return {
            self.stage.outputs[name].topic.name(place.tape, place.line): (seq, cutter.part)
            for name, cutter in self._cutters.items()
        }

    def take(self, message: Message, skip: str = "") -> Outbox | None:
        """Apply one message, or go on without it; its outputs in order, or None for a repeat.

        Args:
            message: the input.
            skip: why it must not be applied; empty to apply it.

        Raises:
            HoleError: messages before it are missing; nothing has changed.
            BrokenMessageError: it can never be applied; nothing has changed, and it may be skipped.
            ConflictError: it came before with other bytes.
            Exception: whatever the reducer fails with; the state must not be used any more.
        """
        if self.is_repeat(message):
            return None
        envelope, (seq, part), last = message.envelope, self.place_of(message), self.is_last(message)
        outbox = Outbox()
        try:
            self._fill(outbox, message, seq, skip)
        except BaseException:
            outbox.close()
            raise
        self.sequence.accept(seq, part, last=last, run=envelope.run, crc32=envelope.crc32)
        return outbox

    def _fill(self, outbox: Outbox, message: Message, seq: int, skip: str) -> None:
        """Run the reducer; what it gives, cut into parts."""
        reducer = self.reducer
        began = False
        try:
            for rows in reducer.skip(message, skip) if skip else reducer.apply(message):
                began = True
                for part, value, count in self._cutters[rows.stream].add(rows.table):
                    outbox.add(Part(rows.stream, part, value, count, last=False))
        except BrokenMessageError as error:
            if began:  # by the contract it may only come before the first row
                raise BarographError(f"{self.stage.name} gave rows of a message, then refused it: {error}") from error
            raise
        stamp = reducer.stamp(message)
        if self.is_last(message):
            for name, cutter in self._cutters.items():
                part, value, count = cutter.close()
                outbox.add(Part(name, part, value, count, last=True))
        outbox.to_message = partial(self._outgoing, message, seq, stamp, skip)

    def _outgoing(self, message: Message, seq: int, stamp: Stamp, skip: str, part: Part) -> Outgoing:
        root, topic = message.envelope, self.stage.outputs[part.stream].topic
        envelope = Envelope(
            kind=root.kind,
            schema=part.stream,
            version=topic.version,
            count=part.rows,
            crc32=crc32(part.value),
            t=stamp.t,
            ts_first=root.ts_first,
            ts_last=root.ts_last,
            sequence_first=root.sequence_first,
            sequence_last=root.sequence_last,
            arrived=root.arrived,
            source=root.source,
            seq=seq,
            part=part.part,
            last=part.last,
            run=self.place.run,
            summary=stamp.summary.get(part.stream, "") if part.last else "",
            skipped=skip or root.skipped,
        )
        name = topic.name(self.place.tape, self.place.line)
        return Outgoing(name, self.place.partition, message.instrument, part.value, envelope)
