"""Tapes made up in memory: raw and derived messages with true headers, and a consumer that reads them.

Shared by the sinks' unit tests and by those against a real engine and broker.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from runtime.codec import encode_avro, encode_rows
from runtime.tapes import Instrument, Line, Manifest
from schemas import bars, bins, trades
from schemas.columns import Column, empty_table
from schemas.envelope import Envelope, crc32
from schemas.mbo import MBO_DTYPE
from schemas.message import Message, Outgoing

RADIUS = 2
BINS = bins.columns(RADIUS)
RUN = "run-1"


def manifest(tape: str = "t1", instruments: Sequence[str] = ("X:A", "X:B")) -> Manifest:
    """A tape of one partition; its id goes with its name."""
    known = {name: Instrument(partition=0, tick_px=250_000_000) for name in instruments}
    return Manifest(tape, f"id-{tape}", instruments=known, lines={"main": Line(RUN)})


def records(rng: np.random.Generator, count: int) -> np.ndarray:
    """Records of any content: every bit pattern but length and type, extremes among them."""
    out = np.frombuffer(rng.bytes(count * MBO_DTYPE.itemsize), MBO_DTYPE).copy()
    out["length"], out["rtype"] = 14, 160
    out["action"] = rng.choice(np.array([b"A", b"C", b"M", b"R", b"T", b"F", b"N"]), count)
    out["side"] = rng.choice(np.array([b"A", b"B", b"N"]), count)
    if count:
        out[0]["order_id"], out[0]["price"] = (1 << 64) - 1, (1 << 63) - 1
        out[0]["ts_event"], out[0]["size"] = (1 << 64) - 1, (1 << 32) - 1
        out[-1]["price"], out[-1]["ts_in_delta"] = -(1 << 63), -(1 << 31)
    return out


def rows(rng: np.random.Generator, columns: Sequence[Column], count: int) -> dict[str, np.ndarray]:
    """Rows of any content, infinities among them."""
    table = empty_table(columns, count)
    for column in columns:
        cells = table[column.name]
        if column.dtype == "f8":
            cells[...] = rng.choice(np.array([0.0, -0.0, 1.5, np.inf, 5e-324]), cells.shape) * rng.random(cells.shape)
        else:
            limits = np.iinfo(column.dtype)
            cells[...] = rng.integers(limits.min, limits.max, cells.shape, endpoint=True)
    return table


@dataclass
class Made:
    """Topic → its messages in order."""

    topics: dict[str, list[Message]]

    def outgoing(self) -> Iterable[Outgoing]:
        """The same messages, to be sent to a broker."""
        for name, messages in self.topics.items():
            for m in messages:
                yield Outgoing(name, m.partition, m.instrument, m.value, m.envelope)


def make_tape(
    seed: int = 7,
    blocks: int = 12,
    instruments: Sequence[str] = ("X:A", "X:B"),
    tape: str = "t1",
    repeats: bool = False,
) -> Made:
    """Definition, data and clocks, end of each instrument; derived streams from each, in one or more parts.

    Args:
        seed: of the content.
        blocks: raw data blocks and clocks.
        instruments: names.
        tape: name of the tape.
        repeats: whether the producer of the derived topics went back now and then, as after a crash.
    """
    rng = np.random.default_rng(seed)
    raw: list[tuple[str, Envelope, bytes]] = []
    for name in instruments:
        known: dict[str, object] = {
            "instrument": name,
            "venue_symbol": name,
            "tick_px": 1,
            "bucket": 1,
            "lot": "1",
            "partition": 0,
        }
        known["tick_source"] = "option"
        raw.append((name, Envelope("definition", "definition", count=1, t=1), encode_avro("definition", known)))
    for number in range(blocks):
        name = instruments[int(rng.integers(len(instruments)))]
        if rng.random() < 0.15:
            raw.append((name, Envelope("clock", "mbo", t=number), b""))
            continue
        block = records(rng, int(rng.integers(1, 40)))
        raw.append((name, Envelope("data", "mbo", count=len(block), t=number, arrived=5), block.tobytes()))
    raw += [(name, Envelope("end", "mbo", t=blocks), b"") for name in instruments]
    messages = [_message(f"{tape}.mbo.v1", at, *item) for at, item in enumerate(raw)]
    derived = {
        f"{tape}.main.bins.v1": _derived(rng, messages, BINS, "bins", repeats),
        f"{tape}.main.trades.v1": _derived(rng, messages, trades.COLUMNS, "trades", repeats),
        f"{tape}.main.bars.v1": _derived(rng, messages, bars.COLUMNS, "bars", repeats),
    }
    named = {topic: [_message(topic, at, *item) for at, item in enumerate(items)] for topic, items in derived.items()}
    return Made({f"{tape}.mbo.v1": messages, **named})


def make_derived(
    made: Made, tape: str, stream: str, columns: Sequence[Column], seed: int = 7
) -> dict[str, list[Message]]:
    """One more stream that descends from the raw one of a tape: topic → messages."""
    topic = f"{tape}.main.{stream}.v1"
    items = _derived(np.random.default_rng(seed), made.topics[f"{tape}.mbo.v1"], columns, stream, True)
    return {topic: [_message(topic, at, *item) for at, item in enumerate(items)]}


def make_records(tape: str = "t1", count: int = 7) -> Made:
    """Gaps, events and dead letters, each said twice by two producers, the second time in other words."""
    topics: dict[str, list[Message]] = {}
    for stream, schema, record in (
        ("gaps", "gap", gap_record),
        ("events", "event", event_record),
        ("dead_letters", "dead_letter", letter_record),
    ):
        topic = f"{tape}.{stream}.v1"
        values = [encode_avro(schema, record(at, again)) for again in (0, 1) for at in range(count)]
        items = [("X:A", Envelope("data", schema, count=1, t=at), value) for at, value in enumerate(values)]
        topics[topic] = [_message(topic, at, *item) for at, item in enumerate(items)]
    return Made(topics)


def gap_record(at: int, again: int = 0) -> dict[str, object]:
    """A gap; its id does not depend on who says it."""
    return {
        "id": f"gap-{at}", "instrument": "X:A", "line": "main", "stage": "books", "topic": "t1.mbo.v1", "partition": 0,
        "seq_from": at, "seq_to": at + again, "ts_from": -(1 << 63), "ts_to": (1 << 63) - 1,
        "cause": "it's a \\ \"gap\"\n", "epoch": again,
    }  # fmt: skip


def event_record(at: int, again: int = 0) -> dict[str, object]:
    """A funding rate."""
    return {
        "id": f"event-{at}", "instrument": "X:A", "kind": "funding", "ts_event": at, "ts_recv": at + again,
        "px": (1 << 63) - 1, "value": "0.000100000000000000001", "side": -1, "ts_next": -1, "text": "é",
    }  # fmt: skip


def letter_record(at: int, again: int = 0) -> dict[str, object]:
    """A dead letter whose bytes are no text."""
    headers = [{"name": "kind", "value": b"data"}, {"name": "kind", "value": b"\xff\x00"}]
    return {
        "id": f"letter-{at}", "line": "main", "stage": "books", "run": "run-9", "topic": "t1.mbo.v1", "partition": 3,
        "offset": at, "seq": at + 1_000, "timestamp_ms": 5, "key": b"\xfe", "value": bytes(range(256)) * at,
        "headers": headers[: at % 3], "reason": "bad", "error": "", "trace": "", "attempts": 1 + again,
    }  # fmt: skip


def _derived(
    rng: np.random.Generator, roots: Sequence[Message], columns: Sequence[Column], schema: str, repeats: bool
) -> list[tuple[str, Envelope, bytes]]:
    out: list[tuple[str, Envelope, bytes]] = []
    for seq, root in enumerate(roots):
        parts = int(rng.integers(1, 4))
        for part in range(parts):
            count = int(rng.integers(0, 9))
            value = encode_rows(rows(rng, columns, count), columns)
            last = part == parts - 1
            envelope = Envelope(
                root.envelope.kind, schema, count=count, t=root.envelope.t, seq=seq, part=part, last=last, run=RUN,
                summary='{"orders": 1}' if last and root.envelope.kind == "end" else "",
            )  # fmt: skip
            out.append((root.instrument, envelope, value))
        if repeats and rng.random() < 0.3:
            out += out[-int(rng.integers(1, 10)) :]
    return out


def _message(topic: str, offset: int, instrument: str, envelope: Envelope, value: bytes) -> Message:
    envelope = replace(envelope, crc32=crc32(value))
    return Message(topic, 0, offset, max(0, envelope.t // 1_000_000), instrument, value, envelope)


@dataclass(frozen=True)
class Raw:
    """A message as the Kafka client hands it over."""

    message: Message

    def error(self) -> None:
        return None

    def topic(self) -> str:
        return self.message.topic

    def partition(self) -> int:
        return self.message.partition

    def offset(self) -> int:
        return self.message.offset

    def timestamp(self) -> tuple[int, int]:
        return 1, self.message.timestamp_ms

    def key(self) -> bytes:
        return self.message.instrument.encode()

    def value(self) -> bytes:
        return self.message.value

    def headers(self) -> list[tuple[str, bytes]]:
        return self.message.envelope.to_headers()


class FakeConsumer:
    """Reads made-up topics as the Kafka client would, a few messages at a time, topics in turn."""

    def __init__(self, made: Made) -> None:
        self._made = made
        self._next: dict[str, int] = {}

    def assign(self, partitions: Sequence[Any]) -> None:
        self._next = {p.topic: max(0, p.offset) for p in partitions}

    def consume(self, count: int, timeout: float) -> list[Raw]:
        out: list[Raw] = []
        for topic, position in self._next.items():
            found = self._made.topics.get(topic, [])[position : position + max(1, count // 3)]
            self._next[topic] += len(found)
            out += [Raw(message) for message in found]
        return out

    def get_watermark_offsets(self, place: Any, timeout: float) -> tuple[int, int]:
        return 0, len(self._made.topics.get(place.topic, []))

    def close(self) -> None:
        self._next = {}


def first_of_each(messages: Iterable[Message], raw: bool) -> dict[tuple[int, int], Message]:
    """Place → the message that counts."""
    out: dict[tuple[int, int], Message] = {}
    for m in messages:
        out.setdefault((m.offset, 0) if raw else (m.envelope.seq, m.envelope.part), m)
    return out
