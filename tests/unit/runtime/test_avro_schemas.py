"""Schemas change over years: every pair of an old and a new producer and consumer, and the check that guards it."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import avro_schemas, codec
from runtime.avro_schemas import UnknownSchemaError, fingerprint
from runtime.codec import WrongValueError, decode_avro, encode_avro
from tests.unit.runtime.schema_histories import OURS, faults, release, write

OLD_ID, NEW_ID = 41, 42
STATE = {
    "type": "record",
    "name": "State",
    "namespace": "barograph",
    "doc": "of a venue",
    "fields": [
        {"name": "venue", "type": "string", "doc": "which"},
        {"name": "since", "type": "long", "doc": "ns"},
        {"name": "note", "type": "string", "default": ""},
    ],
}


def changed(**fields: Any) -> dict[str, Any]:
    """The schema with fields replaced, added, or (None) removed."""
    new: dict[str, Any] = copy.deepcopy(STATE)
    kept = [f for f in new["fields"] if f["name"] not in fields]
    new["fields"] = kept + [{"name": n, **spec} for n, spec in fields.items() if spec is not None]
    return new


OPTIONAL = changed(level={"type": "int", "default": -1})
REMOVED_OPTIONAL = changed(note=None)
REMOVED_REQUIRED = changed(since=None)
REQUIRED = changed(level={"type": "int"})
RETYPED = changed(since={"type": "string"})
WIDENED = changed(since={"type": "double"})
SYMBOLS = changed(state={"type": {"type": "enum", "name": "Code", "symbols": ["OPEN"]}, "default": "OPEN"})
MORE_SYMBOLS = changed(state={"type": {"type": "enum", "name": "Code", "symbols": ["OPEN", "HALT"]}, "default": "OPEN"})

RECORD = {"venue": "X", "since": 7, "note": "n"}


class Pair:
    """An old release and a new one, whose schemas differ."""

    def __init__(self, folder: Path, old: Any, new: Any) -> None:
        self._texts = {OLD_ID: json.dumps(old), NEW_ID: json.dumps(new)}
        self._old = write(folder / "old", {"state": [(OLD_ID, old)]})
        self._new = write(folder / "new", {"state": [(OLD_ID, old), (NEW_ID, new)]})
        self.faults = faults(self._new)

    def old_to_new(self, record: dict[str, Any]) -> dict[str, Any]:
        with release(self._old):
            value = encode_avro("state", record)
        with release(self._new):
            return decode_avro("state", value)

    def new_to_old(self, record: dict[str, Any], *, registry: bool = True) -> dict[str, Any]:
        with release(self._new):
            value = encode_avro("state", record)
        with release(self._old, self._texts if registry else None):
            return decode_avro("state", value)


def test_a_new_optional_field_has_its_default_for_the_new_and_is_passed_over_by_the_old(tmp_path: Path) -> None:
    pair = Pair(tmp_path, STATE, OPTIONAL)
    assert pair.old_to_new(RECORD) == {**RECORD, "level": -1}
    assert pair.new_to_old({**RECORD, "level": 3}) == RECORD
    assert pair.faults == []


def test_a_removed_field_is_passed_over_by_the_new_and_has_its_default_for_the_old(tmp_path: Path) -> None:
    pair = Pair(tmp_path, STATE, REMOVED_OPTIONAL)
    assert pair.old_to_new(RECORD) == {"venue": "X", "since": 7}
    assert pair.new_to_old({"venue": "X", "since": 7}) == {**RECORD, "note": ""}
    assert pair.faults == []


def test_a_removed_field_without_a_default_is_an_error_for_the_old_and_never_released(tmp_path: Path) -> None:
    pair = Pair(tmp_path, STATE, REMOVED_REQUIRED)
    assert pair.old_to_new(RECORD) == {"venue": "X", "note": "n"}
    with pytest.raises(WrongValueError, match="written with schema id 42, which cannot be read as one"):
        pair.new_to_old({"venue": "X", "note": "n"})
    assert pair.faults == ["state 1 and 2: reader_field_missing_default_value at /fields/1"]


@pytest.mark.parametrize("new", [REQUIRED, RETYPED], ids=["a new required field", "another type"])
def test_an_incompatible_change_is_an_error_and_never_released(tmp_path: Path, new: Any) -> None:
    pair = Pair(tmp_path, STATE, new)
    with pytest.raises(WrongValueError) as caught:
        pair.old_to_new(RECORD)
    assert (caught.value.name, caught.value.schema_id) == ("state", OLD_ID)
    if new is RETYPED:
        with pytest.raises(WrongValueError):
            pair.new_to_old({**RECORD, "since": "7"})
    else:
        assert pair.new_to_old({**RECORD, "level": 1}) == RECORD
    assert len(pair.faults) == 1 + (new is RETYPED)


def test_a_widened_number_is_read_by_the_new_alone_so_it_is_never_released(tmp_path: Path) -> None:
    pair = Pair(tmp_path, STATE, WIDENED)
    assert pair.old_to_new(RECORD)["since"] == 7.0
    with pytest.raises(WrongValueError):
        pair.new_to_old({**RECORD, "since": 7.5})
    assert len(pair.faults) == 1


def test_an_unknown_symbol_of_an_enum_is_an_error_and_an_enum_is_never_released(tmp_path: Path) -> None:
    pair = Pair(tmp_path, SYMBOLS, MORE_SYMBOLS)
    assert pair.old_to_new({**RECORD, "state": "OPEN"})["state"] == "OPEN"
    assert pair.new_to_old({**RECORD, "state": "OPEN"})["state"] == "OPEN"
    with pytest.raises(WrongValueError):
        pair.new_to_old({**RECORD, "state": "HALT"})
    assert [f for f in pair.faults if "has an enum" in f]


def test_an_unknown_word_in_a_string_stays_as_it_is() -> None:
    """Where a set of words may grow, we have strings: nobody reads another word than was written."""
    tape = {"tape": "t", "tape_id": "i", "state": "paused", "partitions": 1, "manifest": "{}"}
    assert decode_avro("tape", encode_avro("tape", tape))["state"] == "paused"


def test_a_schema_that_nobody_knows_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnknownSchemaError, match="id 42 is known neither here nor in the registry; set BAROGRAPH_REG"):
        Pair(tmp_path, STATE, OPTIONAL).new_to_old({**RECORD, "level": 3}, registry=False)


def test_three_versions_all_read_each_other(tmp_path: Path) -> None:
    folder = write(tmp_path, {"state": [(41, STATE), (45, OPTIONAL), (43, REMOVED_OPTIONAL)]})
    with release(folder):
        assert [(v.version, v.id) for v in avro_schemas.history()["state"]] == [(1, 41), (2, 45), (3, 43)]
        assert encode_avro("state", {"venue": "X", "since": 7})[:5] == b"\0\0\0\0\x2b"
    assert faults(folder) == []


# ---- the schemas of this release


def test_the_schemas_of_this_release_obey_their_rules() -> None:
    """Fails when a schema changes in place: keep the old file as NAME.N.avsc and list the new one under a new id."""
    assert faults(OURS) == []


def test_a_schema_that_was_changed_in_place_is_found(tmp_path: Path) -> None:
    for path in OURS.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    gap = json.loads((tmp_path / "gap.avsc").read_text())
    (tmp_path / "gap.avsc").write_text(json.dumps({**gap, "doc": "said better", "fields": gap["fields"]}, indent=9))
    assert faults(tmp_path) == []
    gap["fields"].append({"name": "more", "type": "string", "default": ""})
    (tmp_path / "gap.avsc").write_text(json.dumps(gap))
    (tmp_path / "forgotten.avsc").write_text("{}")
    assert faults(tmp_path) == ["files and list differ", "gap version 1 changed: give it a new version and id"]


def test_fingerprints_go_by_meaning() -> None:
    plain, told = {"name": "x", "type": "int"}, {"type": "int", "doc": "what", "name": "x"}
    assert fingerprint(plain) == fingerprint(told) != fingerprint({**plain, "default": 1})
    assert fingerprint({"name": "doc"}) != fingerprint({"name": "dog"})


# ---- damaged values

GAP = {"id": "a", "instrument": "V:S", "line": "", "stage": "x", "topic": "t", "partition": 0, "seq_from": 0,
       "seq_to": 1, "ts_from": -1, "ts_to": -1, "cause": "c", "epoch": -1}  # fmt: skip
VALUE = encode_avro("gap", GAP)


@given(st.lists(st.tuples(st.integers(0, len(VALUE) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(VALUE)))
def test_a_damaged_value_is_a_record_or_a_typed_error(flips: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(VALUE)
    for place, byte in flips:
        damaged[place] = byte
    try:
        record = decode_avro("gap", bytes(damaged[:cut]))
    except (WrongValueError, UnknownSchemaError):  # any other error is a fault
        return
    assert set(record) == set(GAP)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "it does not start with a zero byte and a schema id"),
        (b"\x01" + VALUE[1:], "it does not start with a zero byte and a schema id"),
        (VALUE + b"x", "1 bytes are left after it"),
        (VALUE[:-3], r"its bytes do not follow schema id 3 \(EOFError\)"),
        (codec.encode_avro("tape", dict.fromkeys(("tape", "tape_id", "state", "manifest"), "") | {"partitions": 1}),
         "it was written with schema id 2, which cannot be read as one"),
    ],
)  # fmt: skip
def test_a_value_that_is_no_gap_says_why(value: bytes, reason: str) -> None:
    with pytest.raises(WrongValueError, match=f"bytes is not a gap record: {reason}; "):
        decode_avro("gap", value)
