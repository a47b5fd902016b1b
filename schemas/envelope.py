"""The envelope: what the headers of every message on a tape's topics say about its bytes.

Headers are ASCII text under fixed names, so that any client in any language can read them. A raw message carries what
its connector knows; a derived message also carries its place (`seq`, `part`, `last`) and the `run` that made it, and
hands `kind`, `t`, `arrived` and `source` of its root through. `arrived` and `source` tell where a message came from;
they are outside every equality and hash. Unknown headers are kept in `other`, so that nothing is lost on the way.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Final, Literal, cast

Kind = Literal["data", "definition", "clock", "end"]
KINDS: Final = ("data", "definition", "clock", "end")
"""Every kind there is. A new one is a new version of each topic that carries it: a reader cannot pass over a message of
a kind it does not know, since it cannot know what that message would have done."""


class HeadersError(ValueError):
    """Headers that are not an envelope: something is missing, or is not of its form.

    Args:
        header: name of the header.
        value: what stands there; None if nothing does.
    """

    def __init__(self, header: str, value: bytes | None) -> None:
        self.header, self.value = header, value
        super().__init__(f"message headers name {header} {value!r}")


class UnknownKindError(HeadersError):
    """A message of a kind that this release does not know: of a newer producer, or not ours."""


UNREADABLE: Final = "unreadable"
"""Schema of a message whose headers are not ours. It has no rows; its bytes and headers are kept as they are."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """Headers of one message.

    Attributes:
        kind: `data` rows or records; `definition` of an instrument; `clock`: time passed; `end` of the instrument.
        schema, version: what the value holds: `mbo`, `definition`, `bins`, `trades`; empty value with `clock`, `end`.
        count: records or rows in the value.
        crc32: CRC-32 (zlib) of the value.
        t: engine time of the instrument after this message, ns.
        ts_first, ts_last: first and last `ts_event` of the records, ns; -1 without records.
        sequence_first, sequence_last: venue's sequence of the first and last record; -1 without records.
        arrived: connector's clock when the newest record was received, ns; -1 in replays.
        source: session and block number (live), or file hash and record index (replay).
        seq: number of the root message; -1 on raw messages, whose number is their offset plus the partition's base.
        part: 0, 1, ... among the messages of this seq on this topic.
        last: whether this is the final message of its seq on this topic.
        run: identity of code and configuration that made it; empty on raw messages.
        summary: JSON about the instrument's final state, on `end` messages of the bins stream; else empty.
        skipped: reason, when the root message was skipped as poison; else empty.
        other: headers this release does not know, unchanged.
    """

    kind: Kind
    schema: str
    version: int = 1
    count: int = 0
    crc32: int = 0
    t: int = 0
    ts_first: int = -1
    ts_last: int = -1
    sequence_first: int = -1
    sequence_last: int = -1
    arrived: int = -1
    source: str = ""
    seq: int = -1
    part: int = 0
    last: bool = True
    run: str = ""
    summary: str = ""
    skipped: str = ""
    other: tuple[tuple[str, bytes], ...] = field(default=())

    def to_headers(self) -> list[tuple[str, bytes]]:
        """Kafka headers; fields at their "absent" value (-1 or empty) are left out. Unreadable ones stay."""
        if self.schema == UNREADABLE:
            return list(self.other)
        out: list[tuple[str, bytes]] = []
        for name in _NAMES:
            value = getattr(self, name)
            if value == "" or (value == -1 and name != "t"):
                continue
            out.append((name, str(int(value) if isinstance(value, bool) else value).encode()))
        return out + list(self.other)


_NAMES: Final = tuple(f.name for f in fields(Envelope) if f.name != "other")
_TEXT: Final = frozenset({"kind", "schema", "source", "run", "summary", "skipped"})
_COUNTS: Final = frozenset({"version", "count", "crc32", "part"})
"""Numbers that are never below 0."""

_NUMBER_BITS: Final = 63
"""Bits of a number beside its sign. Avro, Arrow and Kafka's stamps hold no more, so a larger one could be read here and
then neither be handed on nor be written into a dead letter."""


def from_headers(headers: Iterable[tuple[str, bytes | None]] | None) -> Envelope:
    """The envelope that Kafka headers spell.

    Raises:
        UnknownKindError: `kind` is none of `KINDS`.
        HeadersError: `kind` or `schema` is missing, a number is not one or is out of range, or a text is not UTF-8.
    """
    known: dict[str, object] = {}
    other: list[tuple[str, bytes]] = []
    for name, raw in headers or ():
        value = raw or b""
        if name not in _NAMES:
            other.append((name, value))
            continue
        try:
            known[name] = value.decode() if name in _TEXT else _number(name, value)
        except ValueError as error:
            raise HeadersError(name, raw) from error
    for name in ("kind", "schema"):
        if name not in known:
            raise HeadersError(name, None)
    if known["kind"] not in KINDS:
        raise UnknownKindError("kind", str(known["kind"]).encode())
    known["last"] = bool(known.get("last", True))
    return Envelope(**cast("dict[str, str]", known), other=tuple(other))  # type: ignore[arg-type]


def _number(name: str, value: bytes) -> int:
    number = int(value)
    if number.bit_length() > _NUMBER_BITS or (number < 0 and name in _COUNTS):
        raise ValueError(f"{name} is out of range")
    return number


def read_headers(headers: Iterable[tuple[str, bytes | None]] | None, value: bytes) -> tuple[Envelope, str]:
    """The envelope of a message that anybody may have sent, and what is wrong with its headers; empty if nothing is."""
    known = list(headers or ())
    try:
        return from_headers(known), ""
    except ValueError as error:
        other = tuple((name, content or b"") for name, content in known)
        return Envelope(kind="data", schema=UNREADABLE, crc32=crc32(value), other=other), str(error)


def crc32(value: bytes | memoryview) -> int:
    """CRC-32 of a value, as zlib and every other language's standard library give it."""
    return zlib.crc32(value)
