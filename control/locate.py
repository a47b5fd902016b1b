"""A cursor, or a time, to the row it means: its place in every notation, and when it was.

A cursor names its row for ever, wherever the row lies now: Kafka, or the lake once it has left the log. Of a time the
first row at or after it is meant. It is looked for in Kafka, whose index knows the stamps of derived messages (engine
time); a time at which the log begins, or before it, in the lake, whose objects know them too.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from typing import Any, Final

import numpy as np
from confluent_kafka import KafkaException, TopicPartition

from runtime.codec import decode_rows
from runtime.errors import InputError, MissingServiceError
from runtime.kafka import ANSWER_TIMEOUT_S, consumer, read_range, watermarks
from runtime.object_store import ObjectStore
from runtime.sequence import Placed
from runtime.tape_reader import TapeReader, first_seq, place_of, reader_at
from runtime.tapes import Manifest
from schemas.mbo import MBO_DTYPE
from schemas.message import Message
from schemas.names import Cursor
from schemas.topics import DERIVED, MBO, TopicSpec
from schemas.units import NS_PER_MS
from sinks.tables import TABLES
from ws_gateway.replay import has_topic, place_in_lake

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
    at_ns: int, manifest: Manifest, line: str, stream: str, instrument: str, servers: str, lake: ObjectStore | None
) -> dict[str, Any]:
    """The first row of an instrument at or after a time.

    Raises:
        InputError: the tape has no such stream or instrument, or no row that late.
        MissingServiceError: broker or lake do not answer.
    """
    spec = next((s for s in DERIVED if s.stream == ("bins" if stream == GRID else stream)), None)
    known = manifest.instruments.get(instrument)
    if spec is None or known is None:
        what = f"stream {stream!r}" if spec is None else f"instrument {instrument!r}"
        raise InputError(f"tape {manifest.tape} has no {what} with times", remedy="see `barograph tape show`")
    for placed in islice(_from_time(at_ns, manifest, line, spec, instrument, servers, lake), LOOKED_AT_MAX):
        if placed.message.instrument != instrument:
            continue
        times = _times(spec, placed.message)
        row = int(np.searchsorted(times, at_ns))
        if row < len(times):
            cursor = Cursor(manifest.tape, line, stream, instrument, placed.seq, placed.part, row)
            return _told(cursor, spec, known.partition, placed.message)
    raise InputError(f"{instrument} has no row of {stream} at or after {at_ns}", remedy="give an earlier time")


def _of_bins(cursor: Cursor) -> Cursor:
    return Cursor(cursor.tape, cursor.line, "bins", cursor.instrument, cursor.seq, cursor.part, cursor.row)


def _from_time(
    at_ns: int, manifest: Manifest, line: str, spec: TopicSpec, instrument: str, servers: str, lake: ObjectStore | None
) -> Iterator[Placed]:
    """Messages of the instrument's partition, from a place at or before the first row of that time, near it."""
    topic, partition = spec.name(manifest.tape, line), manifest.instruments[instrument].partition
    there = lake is None or _has(servers, topic)
    offset, behind_start = _offset_at(servers, topic, partition, at_ns) if there else (None, False)
    place = None
    if lake is not None and not behind_start:
        place = place_in_lake(lake, topic, manifest.tape_id, partition, instrument, at_ns)
    if place is not None:
        place = max(place, (first_seq(spec, manifest, partition), 0))
        yield from TapeReader(manifest, line, spec, partition, servers if there else "", lake, start=place)
    elif offset is not None:
        for message in read_range(servers, topic, partition, offset, offset + LOOKED_AT_MAX):
            if not manifest.deletes(partition, message.envelope.seq, message):
                yield Placed(message, *place_of(message, spec, manifest))


def _has(servers: str, topic: str) -> bool:
    try:
        return bool(servers) and has_topic(servers, topic)
    except KafkaException as error:
        raise _silent(topic, error) from error


def _offset_at(servers: str, topic: str, partition: int, at_ns: int) -> tuple[int | None, bool]:
    """The first offset whose stamp is that time or later, None if there is none; and whether the log has one before."""
    with closing(consumer(servers)) as client:
        try:
            (found,) = client.offsets_for_times(
                [TopicPartition(topic, partition, max(0, at_ns // NS_PER_MS))], timeout=ANSWER_TIMEOUT_S
            )
        except KafkaException as error:
            raise _silent(f"{topic}[{partition}]", error) from error
        low, high = watermarks(client, topic, partition)
    offset = int(found.offset)
    return (offset, offset > low or low == 0) if offset >= 0 else (None, low < high)


def _silent(where: str, error: KafkaException) -> MissingServiceError:
    return MissingServiceError(
        f"the broker does not look up a time in {where} ({error.args[0].str()})",
        remedy="look whether it runs and has the topic: `barograph topics list`",
    )


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
