"""Messages that anybody may have put on the raw topic: none of them may keep a stage from going on."""

import pytest

from runtime.codec import decode_avro
from schemas import topics
from schemas.envelope import Envelope, HeadersError, crc32, from_headers
from schemas.message import Message
from streams.build_books import books_stage
from streams.letters import Original, letters
from streams.partition import PartitionState, Place
from streams.poison import Skip

PLACE = Place("t1", "main", 0, 0, "run0")


def raw(offset: int, value: bytes = b"", **envelope: object) -> Message:
    """A clock message, unless told otherwise."""
    known = {"kind": "clock", "schema": "clock", "t": 10**18 + offset, "crc32": crc32(value), **envelope}
    return Message("t1.mbo.v1", 0, offset, 0, "X:Y", value, Envelope(**known))  # type: ignore[arg-type]


def letter_of(message: Message, original: Original) -> tuple[int, dict[str, object]]:
    """Size of the whole letter as Kafka counts it, and its record."""
    skip = Skip(message.offset, 0, "is broken", message.topic, message.offset, message.instrument, "", "", 1, "run0")
    letter, _ = letters(skip, message, original, "books", PLACE)
    headers = sum(len(name) + len(value) for name, value in letter.envelope.to_headers())
    return len(letter.value) + len(original.key) + headers, decode_avro("dead_letter", letter.value)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("count", b"-5"),
        ("count", b"1" + b"0" * 400),
        ("t", b"1" + b"0" * 30),
        ("t", str(2**63).encode()),
        ("ts_first", b"-1" + b"0" * 30),
        ("crc32", b"-1"),
        ("version", b"-1"),
        ("part", b"-1"),
    ],
)
def test_numbers_that_nobody_could_hand_on_are_no_headers(header: str, value: bytes) -> None:
    with pytest.raises(HeadersError) as refused:
        from_headers([("kind", b"clock"), ("schema", b"clock"), (header, value)])
    assert (refused.value.header, refused.value.value) == (header, value)


def test_the_largest_and_smallest_numbers_are_headers() -> None:
    known = from_headers([("kind", b"clock"), ("schema", b"x"), ("t", str(2**63 - 1).encode()), ("ts_first", b"-9")])
    assert (known.t, known.ts_first) == (2**63 - 1, -9)


def test_a_raw_message_is_the_last_of_its_root_whatever_its_headers_say() -> None:
    stage = books_stage({})
    state = PartitionState(stage, PLACE, stage.reducer(), 0)
    for offset in range(3):
        outbox = state.take(raw(offset, last=False, part=4), "is broken")
        assert outbox is not None
        assert [(m.envelope.seq, m.envelope.part, m.envelope.last) for m in outbox] == [(offset, 0, True)] * 2
    assert (state.sequence.next_seq, state.sequence.next_part) == (3, 0)


def test_a_header_without_a_value_stands_in_the_letter_as_an_empty_one() -> None:
    _, letter = letter_of(raw(0), Original(b"X:Y", (("none", None), ("some", b"1"))))
    assert letter["headers"] == [{"name": "none", "value": b""}, {"name": "some", "value": b"1"}]


@pytest.mark.parametrize("excess", [-(1 << 20), -100, 0, 42 << 20])
def test_a_letter_fits_whatever_it_is_of(excess: int) -> None:
    value = bytes(topics.MESSAGE_BYTES_MAX + excess)
    size, letter = letter_of(raw(0, value), Original(b"X:Y", (("kind", b"data"),)))
    kept = letter["value"]
    assert isinstance(kept, bytes)
    assert size < topics.MESSAGE_BYTES_MAX
    cut = len(value) - len(kept)
    assert cut <= max(0, excess + (1 << 20) + 100)
    assert letter["reason"] == (
        f"is broken (too large: the last {cut} bytes of the value are not here)" if cut else "is broken"
    )


def test_a_letter_with_large_headers_and_key_fits_too() -> None:
    key, headers = b"k" * (3 << 20), (("a", b"a" * (3 << 20)), ("b", b"b" * (2 << 20)), ("c", b"c"))
    size, letter = letter_of(raw(0), Original(key, headers))
    assert size < topics.MESSAGE_BYTES_MAX
    assert letter["value"] == b""
