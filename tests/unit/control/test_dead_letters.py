"""Dead letters without a broker: one of each id, hexdump, what a choice changes, and the edited copy of a tape."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from connectors import raw_messages
from control.dead_letters import Letter, find, hexdump, letter_of, unique
from control.letter_replay import ALL, Choice, edits_of
from control.output import fields, plain, rows
from control.tape_copy import Edits, corrected, edit
from runtime.codec import encode_avro
from runtime.errors import InputError
from runtime.tapes import Instrument
from schemas.envelope import UNREADABLE, Envelope, crc32
from schemas.mbo import F_MAYBE_BAD_BOOK, MBO_DTYPE
from schemas.message import Message, Outgoing

TOPIC = "t.mbo.v1"
NAME = "V:S"


def letter(offset: int, *, number: str = "", topic: str = TOPIC, line: str = "main", stage: str = "books") -> Letter:
    number = number or f"{offset:04x}"
    return Letter(
        id=number,
        line=line,
        stage=stage,
        run="r",
        topic=topic,
        partition=0,
        offset=offset,
        seq=offset,
        timestamp_ms=1_700_000_000_123,
        key=b"V:\xff",
        value=b"\x00A" * 20,
        headers=(("kind", b"data"), ("strange", b"\xfe")),
        reason="does not match its CRC-32",
        error="BrokenMessageError",
        trace="Traceback\n  x",
        attempts=1,
    )


def test_a_letter_survives_the_wire() -> None:
    one = letter(7)
    record = {name: getattr(one, name) for name in one.__slots__}
    record["headers"] = [{"name": name, "value": value} for name, value in one.headers]
    assert letter_of(encode_avro("dead_letter", record)) == one
    full = one.full()
    assert full["headers"] == [{"name": "kind", "value": "data"}, {"name": "strange", "value": "\\xfe"}]
    assert (full["instrument"], full["bytes"], full["time"]) == ("V:\\xff", 40, "2023-11-14T22:13:20.123+00:00")
    assert full["trace"] == "Traceback\n  x"


def test_each_letter_once_in_order() -> None:
    seen = [letter(9), letter(3), letter(9), letter(4, line="other"), letter(5, stage="bars")]
    assert [found.offset for found in unique(seen)] == [3, 4, 5, 9]
    assert [found.offset for found in unique(seen, "main")] == [3, 5, 9]
    assert [found.offset for found in unique(seen, "main", "books")] == [3, 9]


def test_a_letter_is_found_by_its_first_digits() -> None:
    seen = [letter(1, number="abc1"), letter(2, number="abd2")]
    assert find(seen, "abc").offset == 1
    for beginning, told in (("ab", "2 dead letters"), ("x", "no dead letter"), ("", "no dead letter")):
        with pytest.raises(InputError, match=told):
            find(seen, beginning)


def test_hexdump() -> None:
    first, second = hexdump(b"\x00A~\x7f" * 5).splitlines()
    assert first == "00000000  00 41 7e 7f 00 41 7e 7f 00 41 7e 7f 00 41 7e 7f  .A~..A~..A~..A~."
    assert second == "00000010  00 41 7e 7f                                      .A~."
    assert hexdump(bytes(300)).splitlines()[-1] == "... 44 more bytes"
    assert hexdump(b"") == ""


def test_what_a_choice_changes(tmp_path: Path) -> None:
    fixed = tmp_path / "fixed.bin"
    fixed.write_bytes(b"fixed")
    seen = [letter(1, number="aa"), letter(2, number="bb"), letter(3, number="cc", topic="t.main.trades.v1")]
    assert edits_of(seen, Choice({}, ("bb",)), TOPIC) == {(0, 2): None}
    assert edits_of(seen, Choice({"aa": fixed}, (ALL,)), TOPIC) == {(0, 1): b"fixed", (0, 2): None}
    with pytest.raises(InputError, match="which a stage made"):
        edits_of(seen, Choice({"cc": fixed}), TOPIC)
    with pytest.raises(InputError, match="no such file"):
        edits_of(seen, Choice({"aa": tmp_path / "none"}), TOPIC)


def records(*sequences: int) -> np.ndarray:
    made = np.zeros(len(sequences), MBO_DTYPE)
    made["sequence"] = sequences
    made["ts_event"] = np.array(sequences) * 100
    return made


def stored(offset: int, sent: Outgoing) -> Message:
    return Message(TOPIC, 0, offset, sent.timestamp_ms, sent.instrument, sent.value, sent.envelope)


def data(offset: int, *sequences: int, name: str = NAME) -> Message:
    return stored(offset, raw_messages.data(TOPIC, name, 0, records(*sequences), t_ns=10**9, source=f"f:{offset}"))


def tape() -> list[Message]:
    definition = raw_messages.definition(TOPIC, NAME, Instrument(0, 10), t_ns=10**9, source="f:0")
    end = raw_messages.end(TOPIC, NAME, 0, t_ns=10**9, source="f:9")
    return [stored(0, definition), data(1, 1, 2), data(2, 3), data(3, 9, name="V:T"), data(4, 4, 5), stored(5, end)]


def edited(edits: Edits, messages: list[Message] | None = None) -> list[Message]:
    found: Iterator[Message] = edit(iter(messages or tape()), edits)
    return list(found)


def test_headers_follow_a_new_value() -> None:
    before, value = data(2, 3), records(7, 8).tobytes()
    after = corrected(before, value)
    e = after.envelope
    assert (after.value, e.count, e.crc32) == (value, 2, crc32(value))
    assert (e.ts_first, e.ts_last, e.sequence_first, e.sequence_last) == (700, 800, 7, 8)
    assert (e.t, e.source, after.offset) == (before.envelope.t, before.envelope.source, 2)


@pytest.mark.parametrize("value", [b"", b"x" * 55, bytes(56 * 4097)])
def test_a_new_value_must_be_records(value: bytes) -> None:
    with pytest.raises(InputError, match="DBN MBO records"):
        corrected(data(2, 3), value)


def test_an_edited_copy_changes_only_what_was_asked_for() -> None:
    whole = tape()
    assert edited({}) == whole
    value = records(7).tobytes()
    changed = edited({(0, 2): value})
    assert changed[2].value == value
    assert [*changed[:2], *changed[3:]] == [*whole[:2], *whole[3:]]


def test_a_message_left_out_makes_the_next_of_its_instrument_distrusted() -> None:
    whole, kept = tape(), edited({(0, 2): None})
    assert [m.offset for m in kept] == [0, 1, 3, 4, 5]
    after = np.frombuffer(kept[3].value, MBO_DTYPE)
    assert after["flags"].tolist() == [F_MAYBE_BAD_BOOK, 0]
    assert kept[3].envelope.crc32 == crc32(kept[3].value)
    assert kept[2] == whole[3], "another instrument's book has no hole"
    assert kept[4] == whole[5]


@pytest.mark.parametrize("offset", [0, 5])
def test_definitions_and_ends_are_not_left_out(offset: int) -> None:
    with pytest.raises(InputError, match=r"is the (definition|end) of"):
        edited({(0, offset): None})


def test_an_unreadable_message_must_be_decided_about() -> None:
    whole = tape()
    whole[2] = replace(whole[2], envelope=Envelope("data", UNREADABLE, t=10**9))
    with pytest.raises(InputError, match="unreadable headers"):
        edited({}, whole)
    assert [m.offset for m in edited({(0, 2): None}, whole)] == [0, 1, 3, 4, 5]
    (fixed,) = edited({(0, 2): records(3).tobytes()}, whole[2:3])
    assert (fixed.envelope.schema, fixed.envelope.count) == ("mbo", 1)


def test_a_broken_block_that_stays_is_not_made_whole_by_a_flag() -> None:
    broken = replace(data(2, 3), envelope=replace(data(2, 3).envelope, crc32=1))
    large = data(3, *range(4097))
    kept = edited({(0, 1): None}, [tape()[0], data(1, 1), broken, large, data(4, 4)])
    assert kept[1:3] == [broken, large]
    assert np.frombuffer(kept[3].value, MBO_DTYPE)["flags"][0] & F_MAYBE_BAD_BOOK


def test_what_strangers_wrote_is_shown_as_it_stands() -> None:
    file = io.StringIO()
    screen = Console(file=file, width=80)
    screen.print(rows(("key",), [(plain("a[/red]b[bold]\x1b[2J"),)]))
    screen.print(fields({"key": "a[/red]b[bold]\x1b[2J", "[/x]": 1}))
    shown = file.getvalue()
    assert shown.count("a[/red]b[bold]\\x1b[2J") == 2
    assert "[/x]" in shown
