"""What may be subscribed to: every stream with its fields, made of the declarations in `schemas`.

    rows       what stages say: fields are the declared columns                     `bins`, `trades`, `bars`, ...
    records    what several producers say of a tape, one Avro record a message      `gaps`, `events`
    grid       rows of `bins` with vectors around the mid, cut to a radius

A new topic of rows becomes a stream by its entry in `schemas.streams`; nothing here has to know it.
"""

import json
from dataclasses import dataclass
from functools import cache
from typing import Final

from runtime.avro_schemas import latest
from schemas import bins
from schemas.columns import Column
from schemas.streams import DECLARED, StreamSpec
from schemas.topics import BINS, EVENTS, GAPS, TopicSpec

GRID: Final = "grid"

TEXT: Final = "text"
"""Element type of a column that holds texts; only records have such."""

TAPE_LINE: Final = "-"
"""Line of streams that a tape has once and not for each line, in cursors and channels."""

CURSOR: Final = (
    Column("seq", "i8", "count", "number of the root message: the row's cursor with part and row"),
    Column("part", "i4", "count", "message among those of this seq"),
    Column("row", "i4", "count", "row within the message"),
)
"""Columns of every batch; of records `seq` is the offset in their topic."""

GRID_ALWAYS: Final = ("spot_tick", "tick_px", "bucket")
"""Scalars of every grid batch: without them a vector has no prices."""

_GRID_DEFAULTS: Final = ("bin_seq", "ts_end_ns", "book_state", "best_bid_px", "best_ask_px", "rest_depth")
_REST: Final = tuple(Column(n, "f8", bins._vector_unit(n), "sum of bid and ask", 1) for n in bins.REST_VECTORS)
VECTORS: Final = {c.name: c for c in (*bins.engine_columns(0), *_REST) if c.width == 1}
"""Grid vectors by name. They stand here with width 1; the radius gives their width."""

SCALARS: Final = {c.name: c for c in (*bins.HEADER, *bins.SCALARS)}
_LEVELS: Final = {c.name: c for c in bins.LEVEL_COLUMNS}

_RECORDS: Final = {spec.stream: spec for spec in (GAPS, EVENTS)}
_RECORD_TIMES: Final = {"gaps": "ts_from", "events": "ts_event"}
_DTYPES: Final = {"string": TEXT, "int": "i4", "long": "i8", "float": "f4", "double": "f8"}


@dataclass(frozen=True, slots=True)
class Stream:
    """One thing that may be subscribed to.

    Attributes:
        name: as clients say it.
        topic: where its rows come from.
        fields: name → column of what may be asked for.
        defaults: fields of a subscription that names none.
        columns: of the decoded rows; empty where the value itself says them (bins: the radius).
        time: column by which a replay is paced.
    """

    name: str
    topic: TopicSpec
    fields: dict[str, Column]
    defaults: tuple[str, ...]
    columns: tuple[Column, ...]
    time: str

    @property
    def record(self) -> bool:
        """Whether its rows are Avro records."""
        return not self.topic.rooted

    @property
    def has_bins(self) -> bool:
        """Whether its rows are numbered bins, so that one may start at a bin and step by bins."""
        return "bin_seq" in self.fields

    def line(self, line: str) -> str:
        """The line as channels and cursors name it."""
        return TAPE_LINE if self.topic.scope == "tape" else line


@cache
def _grid() -> Stream:
    return Stream(GRID, BINS, {**SCALARS, **VECTORS}, _GRID_DEFAULTS, (), DECLARED["bins"].time)


@cache
def _record(name: str) -> Stream:
    topic = _RECORDS[name]
    fields = json.loads(latest(topic.avro).text)["fields"]
    columns = tuple(Column(f["name"], _DTYPES[f["type"]], _unit(f["name"]), f.get("doc", "")) for f in fields)
    known = {c.name: c for c in columns}
    return Stream(name, topic, known, tuple(known), columns, _RECORD_TIMES[name])


def _unit(name: str) -> str:
    return "ns" if name.startswith("ts_") else "1e-9" if name == "px" or name.endswith("_px") else ""


_MADE: Final[dict[str, tuple[StreamSpec, Stream]]] = {}
"""Streams of rows that were looked at, and the declarations that they were made of."""


def _rows(name: str) -> Stream:
    spec = DECLARED[name]
    made = _MADE.get(name)
    if made is None or made[0] is not spec:
        made = _MADE[name] = spec, _declared(name, spec)
    return made[1]


def _declared(name: str, spec: StreamSpec) -> Stream:
    if spec.topic is BINS:
        return Stream(name, BINS, {**SCALARS, **_LEVELS}, spec.defaults, (), spec.time)
    known = {c.name: c for c in spec.columns}
    scalars = tuple(c.name for c in spec.columns if not c.width)
    return Stream(name, spec.topic, known, spec.defaults or scalars, spec.columns, spec.time)


def names() -> tuple[str, ...]:
    """Every stream that there is."""
    return (*DECLARED, GRID, *_RECORDS)


def stream(name: str) -> Stream:
    """A stream by its name.

    Raises:
        KeyError: there is none.
    """
    return _grid() if name == GRID else _record(name) if name in _RECORDS else _rows(name)


def topics() -> tuple[TopicSpec, ...]:
    """The topics that all streams together need, each once."""
    return (*(spec.topic for spec in DECLARED.values()), *_RECORDS.values())


def of_topic(topic: TopicSpec) -> Stream:
    """The stream that holds a topic's rows as they are."""
    return stream(topic.stream)
