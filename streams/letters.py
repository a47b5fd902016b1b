"""What is said of a skipped message: a dead letter with all its bytes, and a gap record for its instrument.

Both are idempotent by id: whoever redoes the work says the same again, and readers take the first of each id.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from runtime.codec import encode_avro
from schemas import topics
from schemas.envelope import Envelope, crc32
from schemas.message import Message, Outgoing
from schemas.topics import MESSAGE_BYTES_MAX, TopicSpec
from streams.partition import Place
from streams.poison import Skip

ORIGINAL_BYTES_MAX: Final = MESSAGE_BYTES_MAX - (1 << 20)
"""Key, headers and value of the original in a letter. A message may be as large as any, and its letter says more than
it; a letter that no broker takes would keep the stage down for ever. What is cut off stands in the message's own topic.
The rest of a MiB is for traceback and envelope."""


@dataclass(frozen=True, slots=True)
class Original:
    """Key and headers of a message as they came, which is more than it knows of itself if they cannot be read.

    A header without a value (None) is told as an empty one.
    """

    key: bytes
    headers: tuple[tuple[str, bytes | None], ...]


def letters(skip: Skip, message: Message, original: Original, stage: str, place: Place) -> list[Outgoing]:
    """The dead letter and the gap record of a skipped message, to be sent in this order.

    Args:
        skip: what was written down about it.
        message: it, with its value.
        original: its key and headers.
        stage: who skipped it.
        place: partition, line and run that do so now.
    """
    where = (place.line, stage, message.topic, message.partition)
    key, headers, value = _fitting(original, message.value)
    cut = len(message.value) - len(value)
    letter = {
        "id": _id(*where, message.offset),
        "line": place.line,
        "stage": stage,
        "run": skip.run,
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "seq": skip.seq,
        "timestamp_ms": message.timestamp_ms,
        "key": key,
        "value": value,
        "headers": headers,
        "reason": f"{skip.reason} (too large: the last {cut} bytes of the value are not here)" if cut else skip.reason,
        "error": skip.error,
        "trace": skip.trace,
        "attempts": skip.attempts,
    }
    gap = {
        "id": _id(*where, skip.seq, skip.reason),
        "instrument": message.instrument,
        "line": place.line,
        "stage": stage,
        "topic": message.topic,
        "partition": message.partition,
        "seq_from": skip.seq,
        "seq_to": skip.seq,
        "ts_from": message.envelope.ts_first,
        "ts_to": message.envelope.ts_last,
        "cause": skip.reason,
        "epoch": -1,
    }
    return [
        _record(topics.DEAD_LETTERS, "dead_letter", letter, message, place),
        _record(topics.GAPS, "gap", gap, message, place),
    ]


def _fitting(original: Original, value: bytes) -> tuple[bytes, list[dict[str, Any]], bytes]:
    """Key, headers and value as far as they fit a letter, whose own key is that of the message once more."""
    key = original.key[: ORIGINAL_BYTES_MAX // 4]
    room = ORIGINAL_BYTES_MAX - len(key) - len(original.key)
    headers = []
    for name, content in original.headers:
        room -= len(name.encode()) + len(content or b"")
        if room >= 0:
            headers.append({"name": name, "value": content or b""})
    return key, headers, value[: max(room, 0)]


def _record(spec: TopicSpec, schema: str, record: dict[str, Any], message: Message, place: Place) -> Outgoing:
    value = encode_avro(schema, record)
    envelope = Envelope(kind="data", schema=schema, count=1, crc32=crc32(value), t=message.envelope.t)
    return Outgoing(spec.name(place.tape, place.line), place.partition, message.instrument, value, envelope)


def _id(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
