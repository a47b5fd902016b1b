"""The topic catalogue: every topic, once. `barograph topics apply` makes them so; docs/topics.md is generated from it.

Tables, lake, reconciler and commands follow from an entry: a stream of rows is declared here, with its columns, and
nowhere else.

Retention is off on every topic of a tape: a tape of last year would otherwise be deleted within minutes of being
published, because Kafka goes by the messages' own time. Kafka also refuses stamps more than an hour ahead of the
broker's clock unless told otherwise. Size is bounded by deleting tapes, not by time.
"""

from dataclasses import dataclass
from typing import Final, Literal

from schemas import bars, bins, trades
from schemas.columns import Column
from schemas.names import is_name

MESSAGE_BYTES_MAX: Final = 8 << 20
"""Largest message, bytes; broker, topics and every client agree on it. A part of bins is cut at 4 MiB of rows and a raw
block has 224 KiB at most, so twice the larger leaves room for headers; above it, brokers elsewhere would refuse."""

Scope = Literal["tape", "line", "global"]

_FOREVER: Final = {
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.after.max.ms": str((1 << 63) - 1),
    "max.message.bytes": str(MESSAGE_BYTES_MAX),
}


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One entry of the catalogue.

    Attributes:
        stream: name of the stream; the topic is `TAPE.STREAM.vN`, `TAPE.LINE.STREAM.vN` or `STREAM.vN` by scope.
        scope: whether a topic of it exists per tape, per tape and line, or once.
        version: N above; a new one is a new topic.
        key: what the key holds.
        value: what the value holds.
        producer: who writes it.
        consumers: who reads it.
        avro: its Avro record, `schemas/avro/NAME.avsc`; of `mbo`, what messages of kind `definition` hold; else empty.
        compacted: whether only the newest value of each key is kept.
        rooted: whether its messages descend from one raw message each and carry its `seq`; else several producers
            write it, and consumers are idempotent by the id in the record.
        columns: of a stream of Arrow rows, its columns.
        times: columns of it that hold times in ns, the one that orders rows first; records have theirs by name.
    """

    stream: str
    scope: Scope
    version: int
    key: str
    value: str
    producer: str
    consumers: tuple[str, ...]
    avro: str = ""
    compacted: bool = False
    rooted: bool = True
    columns: tuple[Column, ...] = ()
    times: tuple[str, ...] = ()

    @property
    def by_offset(self) -> bool:
        """Whether a message's number is its offset rather than a header of it: nobody derived it from another."""
        return self.scope == "tape"

    def name(self, tape: str = "", line: str = "main") -> str:
        """The topic's name on a tape and line."""
        scope = {"tape": f"{tape}.", "line": f"{tape}.{line}.", "global": ""}[self.scope]
        return f"{scope}{self.stream}.v{self.version}"

    def config(self) -> dict[str, str]:
        """Topic configuration that the broker must show.

        The raw topic is stamped by the broker. When it loads a log after a crash, Kafka forgets producers whose last
        stamp is a day old, and would store a message that is sent again twice; market time is older than that. What
        stages write may come twice: it is numbered.
        """
        stamp = "LogAppendTime" if self.stream == "mbo" else "CreateTime"
        policy = "compact" if self.compacted else "delete"
        return {**_FOREVER, "message.timestamp.type": stamp, "cleanup.policy": policy}


MBO: Final = TopicSpec(
    "mbo",
    "tape",
    1,
    "instrument",
    "by header kind: data = DBN MBO records of 56 bytes, at most 4,096 of one instrument; definition = Avro; "
    "clock and end = empty",
    "connectors",
    ("books stage", "sinks"),
    avro="definition",
    times=("ts_event", "ts_recv"),
)
BINS: Final = TopicSpec(
    "bins", "line", 1, "instrument", "Arrow IPC stream, one row per bin (schemas.bins)", "books stage",
    ("sinks", "gateway"), columns=bins.columns(), times=("ts_end_ns", "ts_start_ns"),
)  # fmt: skip
TRADES: Final = TopicSpec(
    "trades", "line", 1, "instrument", "Arrow IPC stream, one row per trade (schemas.trades)", "books stage",
    ("bars stage", "sinks", "gateway"), columns=trades.COLUMNS, times=("ts_ns",),
)  # fmt: skip
BARS: Final = TopicSpec(
    "bars", "line", 1, "instrument", "Arrow IPC stream, one row per bar (schemas.bars)", "bars stage",
    ("sinks",), columns=bars.COLUMNS, times=("ts_end_ns", "ts_start_ns"),
)  # fmt: skip
GAPS: Final = TopicSpec(
    "gaps", "tape", 1, "instrument", "Avro: a stretch of input without effect on the book (schemas/avro/gap.avsc)",
    "stages", ("operators", "sinks"), avro="gap", rooted=False,
)  # fmt: skip
EVENTS: Final = TopicSpec(
    "events", "tape", 1, "instrument",
    "Avro: what a venue says beside the book: mark price, funding, open interest, status (schemas/avro/event.avsc)",
    "connectors", ("sinks", "gateway"), avro="event", rooted=False,
)  # fmt: skip
DEAD_LETTERS: Final = TopicSpec(
    "dead_letters", "tape", 1, "as the original",
    "Avro: a message that could not be applied, with all its bytes (schemas/avro/dead_letter.avsc)",
    "stages", ("operators", "sinks"), avro="dead_letter", rooted=False,
)  # fmt: skip
TAPES: Final = TopicSpec(
    "ops.tapes", "global", 1, "tape", "Avro: the tape's manifest as it stands (schemas/avro/tape.avsc)", "control",
    ("operators", "sinks"), avro="tape", compacted=True, rooted=False,
)  # fmt: skip
RUNS: Final = TopicSpec(
    "ops.runs", "global", 1, "id of the cutover",
    "Avro: a line goes on under another run (schemas/avro/cutover.avsc)", "control",
    ("operators", "sinks"), avro="cutover", compacted=True, rooted=False,
)  # fmt: skip

CATALOGUE: Final = (MBO, BINS, TRADES, BARS, GAPS, EVENTS, DEAD_LETTERS, TAPES, RUNS)
"""All topics, in the order in which data flows."""

DERIVED: Final = tuple(spec for spec in CATALOGUE if spec.scope == "line")
"""What stages write: the topics that are made once for each line."""


def of_tape(tape: str, line: str = "main") -> dict[str, TopicSpec]:
    """Topic name → entry for every topic of a tape and line, raw first."""
    return {spec.name(tape, line): spec for spec in CATALOGUE if spec.scope != "global"}


def rooted(tape: str, line: str = "main") -> dict[str, TopicSpec]:
    """Topic name → entry for the raw topic and what stages make of it: what a replay gives again, byte for byte."""
    return {name: spec for name, spec in of_tape(tape, line).items() if spec.rooted}


def find(topic: str) -> TopicSpec | None:
    """The entry of a topic of any tape and line; None for a topic of someone else."""
    names = topic.split(".")[:2]
    for spec in CATALOGUE:
        if topic == spec.name(*names) and (spec.scope == "global" or all(map(is_name, names[: _NAMES[spec.scope]]))):
            return spec
    return None


_NAMES: Final[dict[Scope, int]] = {"tape": 1, "line": 2, "global": 0}
"""How many names stand before the stream: a tape, a tape and a line, or none."""
