"""Certificates: the seal, what counts as a difference, and what a broken file is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from control import certificate
from control.certificate import Difference, differences
from control.scan import PartitionInput, RecordsHash, RunSpan, TopicScan
from control.skips import skips_of
from runtime.errors import AnswerIsNo, InputError
from runtime.object_store import LocalObjectStore
from runtime.tapes import Line, Manifest, Source, new_tape
from schemas import trades
from schemas.columns import RowHash, empty_table
from schemas.envelope import Envelope
from schemas.message import Message

NAME = "V:S"


def raw(value: bytes, *, t: int = 5, kind: Any = "data", source: str = "", arrived: int = -1) -> Message:
    envelope = Envelope(kind, "mbo", count=len(value) // 2, t=t, source=source, arrived=arrived)
    return Message("t.mbo.v1", 0, 0, 0, NAME, value, envelope)


def tape() -> Manifest:
    manifest = new_tape("t", sources=(Source("f", "00", 4),))
    return manifest.with_line("main", Line("run-1", {"radius": 2}))


def scans(*blocks: bytes, rows: int = 3, px: int = 7) -> dict[str, TopicScan]:
    mbo = TopicScan(inputs=[PartitionInput(0)], raw={NAME: RecordsHash()})
    for seq, block in enumerate(blocks):
        mbo.inputs[0].update(seq, raw(block))
        mbo.raw[NAME].update(raw(block))
    table = empty_table(trades.COLUMNS, rows)
    table["px"][:] = px
    made = TopicScan(hashes={NAME: RowHash(trades.COLUMNS)}, runs=[RunSpan(0, "run-1", 0, len(blocks) - 1)])
    made.hashes[NAME].update(table)
    bins = TopicScan(summaries={NAME: {"book_digest": "d1"}})
    return {"mbo": mbo, "trades": made, "bins": bins}


def issued(*blocks: bytes, **known: Any) -> dict[str, Any]:
    return certificate.certificate(tape(), "main", scans(*blocks, **known), [])


def test_a_certificate_holds_ranges_runs_and_hashes() -> None:
    body = issued(b"abcd", b"ef")
    assert body["inputs"][0] | {"sha256": ""} == {
        "partition": 0,
        "seq_from": 0,
        "seq_to": 1,
        "messages": 2,
        "records": 3,
        "sha256": "",
    }
    assert body["runs"]["trades"] == [{"partition": 0, "run": "run-1", "seq_from": 0, "seq_to": 1}]
    assert body["books"] == {NAME: "d1"}
    assert body["sha256"] == certificate.seal(body)


def test_other_blocks_of_the_same_records_are_identical() -> None:
    one, two = issued(b"abcd", b"ef"), issued(b"ab", b"cdef")
    assert one["inputs"] != two["inputs"]
    assert differences(one, two) == []


@pytest.mark.parametrize("change", ["t", "kind", "value", "key"])
def test_the_hash_of_a_partition_covers_what_an_effect_depends_on(change: str) -> None:
    def hashed(message: Message) -> str:
        part = PartitionInput(0)
        part.update(0, message)
        return str(part.to_dict()["sha256"])

    base = hashed(raw(b"ab"))
    assert base == hashed(raw(b"ab", source="elsewhere", arrived=99))
    other = {
        "t": raw(b"ab", t=6),
        "kind": raw(b"ab", kind="clock"),
        "value": raw(b"aB"),
        "key": Message("t.mbo.v1", 0, 0, 0, "V:T", b"ab", raw(b"ab").envelope),
    }[change]
    assert hashed(other) != base


def test_differences_name_stream_and_instrument() -> None:
    one, two = issued(b"abcd"), issued(b"abcx", px=8)
    found = differences(one, two)
    assert [(d.what, d.name) for d in found] == [("outputs.trades", NAME), ("records", NAME)]
    lacking = {**one, "outputs": {"bins": {}}}
    assert differences(one, lacking) == [Difference("outputs.trades", NAME, one["outputs"]["trades"][NAME], "")]


def test_a_certificate_of_the_raw_side_is_compared_by_records_alone() -> None:
    whole, other = scans(b"ab"), issued(b"ax")
    raw_only = certificate.certificate(tape(), "main", {"mbo": whole["mbo"]}, [])
    assert certificate.compared(raw_only, other) == ["records"]
    assert [d.what for d in differences(raw_only, other)] == ["records"]
    assert differences(raw_only, issued(b"ab", px=99)) == []


def test_an_older_version_is_compared_by_what_it_has() -> None:
    new = issued(b"ab")
    old = {key: new[key] for key in ("outputs", "books", "run", "config")}
    assert certificate.compared(old, new) == ["outputs.bins", "outputs.trades", "books"]
    assert differences(old, new) == []


def test_other_skips_are_a_difference() -> None:
    body = issued(b"ab")
    left = {**body, "skips": [{"stage": "books", "partition": 0, **SKIP}]}
    assert differences(left, body) == [Difference("skips", "books[0] seq 12.0", "bad", "")]


def test_skips_of_two_parts_of_one_root_are_two() -> None:
    body = issued(b"ab")
    both = [{"stage": "bars", "partition": 0, **SKIP, "part": part} for part in (0, 1)]
    found = differences({**body, "skips": both}, {**body, "skips": both[1:]})
    assert found == [Difference("skips", "bars[0] seq 12.0", "bad", "")]


def test_what_was_left_out_beyond_what_was_read_does_not_count() -> None:
    """A tape that goes on is verified as far as its certificate goes."""
    skips = [{"stage": "books", "partition": p, **SKIP, "seq": seq} for p, seq in ((0, 0), (0, 1), (0, 2), (1, 0))]
    body = certificate.certificate(tape(), "main", scans(b"ab", b"cd"), skips)
    assert [(skip["partition"], skip["seq"]) for skip in body["skips"]] == [(0, 0), (0, 1)]
    bars = [{"stage": "bars", "partition": 0, **SKIP, "seq": 0}]
    assert certificate.certificate(tape(), "main", scans(b"ab"), bars)["skips"] == []


def test_a_report_or_a_bare_certificate_is_read(tmp_path: Path) -> None:
    body = issued(b"ab")
    for name, document in (("bare.json", body), ("report.json", {"tape": "t", "certificate": body})):
        (tmp_path / name).write_text(json.dumps(document, indent=2))
        assert certificate.read(tmp_path / name) == body


def test_an_edit_is_noticed(tmp_path: Path) -> None:
    body = issued(b"ab")
    body["books"][NAME] = "d2"
    (tmp_path / "c.json").write_text(json.dumps(body))
    with pytest.raises(AnswerIsNo, match="does not match its seal"):
        certificate.read(tmp_path / "c.json")


@pytest.mark.parametrize("lacking", ["outputs", "records", "tape_id", "runs"])
def test_a_sealed_file_without_a_part_is_no_certificate(lacking: str, tmp_path: Path) -> None:
    body = {key: value for key, value in issued(b"ab").items() if key not in (lacking, "sha256")}
    (tmp_path / "c.json").write_text(json.dumps({**body, "sha256": certificate.seal(body)}))
    with pytest.raises(InputError, match="holds no certificate"):
        certificate.read(tmp_path / "c.json")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no JSON document"),
        ('{"tape": "t"', "is no JSON document"),
        ("[1]", "holds no certificate"),
        ('{"certificate": 5}', "holds no certificate"),
        ('{"certificate": {"version": 99, "sha256": "x"}}', "holds no certificate"),
        ("\x00\xff", "is no JSON document"),
    ],
)
def test_a_file_that_is_none(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=told):
        certificate.read(tmp_path / "c.json")


def test_a_file_that_is_absent(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        certificate.read(tmp_path / "none.json")


SKIP = {
    "seq": 12,
    "part": 0,
    "offset": 12,
    "topic": "t.mbo.v1",
    "instrument": NAME,
    "reason": "bad",
    "error": "X",
    "trace": "/a/b.py",
    "attempts": 1,
    "run": "r",
}


def test_skips_come_in_order_and_without_traces(tmp_path: Path) -> None:
    store, manifest = LocalObjectStore(tmp_path), tape()
    for stage, seq in (("books", 12), ("bars", 3), ("books", 2)):
        body = json.dumps({**SKIP, "seq": seq}).encode()
        store.put_new(f"skips/{manifest.tape_id}/main/{stage}/0/{seq:020d}.json", body)
    found = skips_of(store, manifest, "main")
    assert [(s["stage"], s["seq"]) for s in found] == [("bars", 3), ("books", 2), ("books", 12)]
    assert all("trace" not in skip for skip in found)
    assert skips_of(store, manifest, "other") == []
    store.put(f"skips/{manifest.tape_id}/main/books/0/{2:020d}.json", b"{")
    with pytest.raises(InputError, match="is damaged"):
        skips_of(store, manifest, "main")
