"""Dead letters: messages that a stage left out, with all their bytes, as `T.dead_letters.v1` keeps them.

A letter may stand there several times, because a worker that died after writing it writes it again; its id is a hash of
stage, topic, partition and offset, and the first one of an id counts.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from control.topic_admin import TopicAdmin
from runtime.codec import decode_avro
from runtime.errors import InputError
from runtime.kafka import read_raw
from runtime.tapes import Manifest
from schemas.topics import DEAD_LETTERS

ID_SHOWN: Final = 12
"""Digits of an id in tables; commands take any beginning that names one letter."""

BYTES_SHOWN: Final = 256
"""Bytes of a value that `show` prints: four records and a bit, 16 lines."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter; the fields are those of `schemas/avro/dead_letter.avsc`."""

    id: str
    line: str
    stage: str
    run: str
    topic: str
    partition: int
    offset: int
    seq: int
    timestamp_ms: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    reason: str
    error: str = ""
    trace: str = ""
    attempts: int = 1

    @property
    def instrument(self) -> str:
        """The key as text; bytes that are none are shown as such."""
        return self.key.decode(errors="backslashreplace")

    def brief(self) -> dict[str, Any]:
        """What `list` shows."""
        return {
            "id": self.id,
            "line": self.line,
            "stage": self.stage,
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "seq": self.seq,
            "instrument": self.instrument,
            "bytes": len(self.value),
            "reason": self.reason,
            "error": self.error,
            "attempts": self.attempts,
        }

    def full(self) -> dict[str, Any]:
        """What `show` shows: everything but the value; bytes that are no text are escaped."""
        body = {key: value for key, value in asdict(self).items() if key not in ("key", "value", "headers")}
        time = datetime.fromtimestamp(self.timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds")
        headers = [{"name": name, "value": value.decode(errors="backslashreplace")} for name, value in self.headers]
        return {**body, "instrument": self.instrument, "time": time, "bytes": len(self.value), "headers": headers}


def letter_of(value: bytes) -> Letter:
    """The letter that a message of `T.dead_letters.v1` holds.

    Raises:
        InputError: the value is no dead letter.
    """
    record = decode_avro("dead_letter", value)
    headers = tuple((header["name"], header["value"]) for header in record.pop("headers"))
    return Letter(**record, headers=headers)


def unique(letters: Iterable[Letter], line: str | None = None, stage: str | None = None) -> list[Letter]:
    """The first letter of each id, in order of topic, partition and offset; of one line or stage if given."""
    first: dict[str, Letter] = {}
    for letter in letters:
        if line in (None, letter.line) and stage in (None, letter.stage):
            first.setdefault(letter.id, letter)
    return sorted(first.values(), key=lambda found: (found.topic, found.partition, found.offset))


def read_letters(bootstrap_servers: str, manifest: Manifest) -> Iterator[Letter]:
    """Every letter of a tape as often as it was written; none if the tape has no such topic yet.

    Raises:
        MissingServiceError: the broker does not answer.
        InputError: something else was written to the topic.
    """
    topic = DEAD_LETTERS.name(manifest.tape)
    if topic not in TopicAdmin(bootstrap_servers).existing():
        return
    for partition in range(manifest.partitions):
        for raw in read_raw(bootstrap_servers, topic, partition):
            try:
                yield letter_of(raw.value() or b"")
            except (InputError, ValueError, EOFError, KeyError, TypeError, IndexError) as error:
                raise InputError(
                    f"offset {raw.offset()} of {topic}[{partition}] is no dead letter",
                    remedy="find out who writes there; only stages may",
                ) from error


def find(letters: list[Letter], beginning: str) -> Letter:
    """The letter whose id begins so.

    Raises:
        InputError: none does, or several do.
    """
    found = [letter for letter in letters if letter.id.startswith(beginning)] if beginning else []
    if len(found) != 1:
        count = "no dead letter" if not found else f"{len(found)} dead letters"
        raise InputError(
            f"{count} with an id that begins with {beginning!r}", remedy="see `barograph dlq list`, give more digits"
        )
    return found[0]


def hexdump(data: bytes, limit: int = BYTES_SHOWN) -> str:
    """The first bytes of a value, 16 a line: place, hex, and letters where they are printable ASCII."""
    lines = []
    for start in range(0, min(len(data), limit), 16):
        row = data[start : min(start + 16, limit)]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{start:08x}  {row.hex(' '):<47}  {text}")
    if len(data) > limit:
        lines.append(f"... {len(data) - limit} more bytes")
    return "\n".join(lines)
