"""A cursor, or a time, to the row it means: its place in every notation, and when it was.

A cursor names its row for ever, wherever the row lies now: Kafka, or the lake once it has left the log. A time is
looked for in Kafka, whose index knows the stamps of derived messages (engine time); the first row at or after it is
meant.
"""

from contextlib import closing
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from confluent_kafka import KafkaException, TopicPartition

from runtime.codec import decode_rows
from runtime.errors import InputError, MissingServiceError
from runtime.kafka import ANSWER_TIMEOUT_S, consumer, read_range
from runtime.object_store import ObjectStore
from runtime.sequence import Placed
from runtime.tape_reader import TapeReader, place_of, reader_at
from runtime.tapes import Manifest
from schemas.mbo import MBO_DTYPE
from schemas.message import Message
from schemas.names import Cursor
from schemas.topics import DERIVED, MBO, TopicSpec
from schemas.units import NS_PER_MS
from sinks.tables import TABLES

LOOKED_AT_MAX: Final = 20_000
"""Messages that are looked at for a time. Between two rows of an instrument lie those of the others of its partition;
beyond this an answer would take minutes, and a cursor of a nearer time finds it."""

GRID: Final = "grid"
"""The gateway's name of bins with vectors; their cursors are those of bins."""


def locate_cursor(cursor: Cursor, manifest: Manifest, servers: str, lake: ObjectStore | None) -> dict[str, Any]:
    """The row that a cursor names.

    Raises:
        InputError: the tape has no such place.
        BarographError: broker or lake do not answer, or it has left the log and there is no lake.
    """
    asked = Cursor(*asdict(cursor).values()) if cursor.stream != GRID else _of_bins(cursor)
    reader: TapeReader = reader_at(asked, manifest, bootstrap_servers=servers, lake=lake)
    with closing(iter(reader)) as messages:  # type: ignore[type-var]
        placed: Placed | None = next(messages, None)
    if placed is None or (placed.seq, placed.part) != (asked.seq, asked.part):
        raise InputError(f"nothing stands at {cursor} (yet)", remedy="see how far the tape is: `barograph lag`")
    if placed.message.instrument != asked.instrument:
        raise InputError(f"{cursor} is a message of {placed.message.instrument}", remedy="correct the instrument")
    return _told(cursor, reader.spec, reader.partition, placed.message)


def locate_time(
    at_ns: int, manifest: Manifest, line: str, stream: str, instrument: str, servers: str
) -> dict[str, Any]:
    """The first row of an instrument at or after a time.

    Raises:
        InputError: the tape has no such stream or instrument, or no row that late.
        MissingServiceError: the broker does not answer.
    """
    spec = next((s for s in DERIVED if s.stream == ("bins" if stream == GRID else stream)), None)
    known = manifest.instruments.get(instrument)
    if spec is None or known is None:
        what = f"stream {stream!r}" if spec is None else f"instrument {instrument!r}"
        raise InputError(f"tape {manifest.tape} has no {what} with times", remedy="see `barograph tape show`")
    topic = spec.name(manifest.tape, line)
    start = _offset_at(servers, topic, known.partition, at_ns)
    if start is not None:
        for message in read_range(servers, topic, known.partition, start, start + LOOKED_AT_MAX):
            if message.instrument != instrument or manifest.deletes(known.partition, message.envelope.seq, message):
                continue
            times = _times(spec, message)
            row = int(np.searchsorted(times, at_ns))
            if row < len(times):
                seq, part = place_of(message, spec, manifest)
                cursor = Cursor(manifest.tape, line, stream, instrument, seq, part, row)
                return _told(cursor, spec, known.partition, message)
    raise InputError(f"{instrument} has no row of {stream} at or after {at_ns}", remedy="give an earlier time")


def _of_bins(cursor: Cursor) -> Cursor:
    return Cursor(cursor.tape, cursor.line, "bins", cursor.instrument, cursor.seq, cursor.part, cursor.row)


def _offset_at(servers: str, topic: str, partition: int, at_ns: int) -> int | None:
    """The first offset whose stamp is that time or later; None if there is none."""
    with closing(consumer(servers)) as client:
        try:
            (found,) = client.offsets_for_times(
                [TopicPartition(topic, partition, max(0, at_ns // NS_PER_MS))], timeout=ANSWER_TIMEOUT_S
            )
        except KafkaException as error:
            raise MissingServiceError(
                f"the broker does not look up a time in {topic}[{partition}] ({error.args[0].str()})",
                remedy="look whether it runs and has the topic: `barograph topics list`",
            ) from error
    return int(found.offset) if found.offset >= 0 else None


def _times(spec: TopicSpec, message: Message) -> np.ndarray:
    """Time of each row of a message, ns."""
    if spec is MBO:
        rows = np.frombuffer(message.value, MBO_DTYPE) if message.envelope.kind == "data" else np.empty(0, MBO_DTYPE)
        return rows["ts_event"]
    table = TABLES[spec.stream]
    return decode_rows(message.value, table.columns)[table.time[0]]


def _told(cursor: Cursor, spec: TopicSpec, partition: int, message: Message) -> dict[str, Any]:
    times = _times(spec, message)
    if cursor.row >= max(1, len(times)):
        raise InputError(f"the message at {cursor} has {len(times)} rows", remedy="correct the row, counted from 0")
    return {
        "cursor": str(cursor),
        **{name: value for name, value in asdict(cursor).items()},
        "partition": partition,
        "kind": message.envelope.kind,
        "rows": len(times),
        "ts_ns": int(times[cursor.row]) if len(times) else None,
        "t_ns": message.envelope.t,
        "run": message.envelope.run,
    }
