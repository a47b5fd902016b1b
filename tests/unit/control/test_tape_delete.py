"""What a deletion of a day means at its midnights, and what is left of one that breaks off."""

import json
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from control import tape_delete
from control.claims import lake_right
from control.commands.operations import broken_off
from control.output import Output
from control.tape_admin import TapeAdmin
from control.tape_delete import AUDIT, Across, DayRanges, Eraser, Wish, unfinished_records
from runtime.errors import FolderInUseError, InputError
from runtime.lake_format import all_objects, decode_object
from runtime.object_store import LocalObjectStore
from runtime.sequence import Placed
from runtime.settings import Settings
from runtime.tape_reader import TapeReader
from runtime.tapes import Manifest
from schemas.envelope import Envelope, crc32
from schemas.mbo import MBO_DTYPE
from schemas.message import Message
from schemas.topics import rooted
from sinks.base import Batch, Entry, Lane
from sinks.lake import LakeSink, folder_of
from sinks.tables import TABLES
from tests.unit.sinks.messages import BINS, RUN, encode_rows, manifest, rows

DAY_NS = 86_400_000_000_000
TAPE = replace(manifest(instruments=("X:A",)), state="finished")
RAW = Lane("t1", TAPE.tape_id, "main", TABLES["mbo"], 0)
DERIVED = Lane("t1", TAPE.tape_id, "main", TABLES["bins"], 0)

TIMES = [
    ("data", (0.5, 0.8)),  # 0
    ("data", (0.9, 1.2)),  # 1: enters day 1, with records of both
    ("data", (1.3, 1.4)),  # 2
    ("end", (1.4, 1.4)),  # 3: kept, wherever it is
    ("data", (1.5, 1.9)),  # 4
    ("clock", (2.0, 2.0)),  # 5: leaves it, on the stroke; the last bin of day 1 comes with it
    ("data", (2.1, 2.2)),  # 6
]
"""Kind, and engine time of first and last record in days."""


def message(topic: str, offset: int, envelope: Envelope, value: bytes) -> Message:
    return Message(topic, 0, offset, 0, "X:A", value, replace(envelope, crc32=crc32(value)))


def raw_messages() -> list[Message]:
    out = []
    for offset, (kind, days) in enumerate(TIMES):
        times = [int(day * DAY_NS) for day in days]
        records = np.zeros(2 if kind == "data" else 0, MBO_DTYPE)
        if len(records):
            records["length"], records["rtype"], records["action"], records["side"] = 14, 160, b"A", b"B"
            records["ts_event"] = records["ts_recv"] = times
        envelope = Envelope(kind, "mbo", count=len(records), t=times[-1])
        out.append(message("t1.mbo.v1", offset, envelope, records.tobytes()))
    return out


def placed(messages: list[Message]) -> list[Placed]:
    return [Placed(m, m.offset, 0) for m in messages]


def days_of(messages: list[Message], begin: float, end: float) -> DayRanges:
    day = DayRanges(int(begin * DAY_NS), int(end * DAY_NS))
    for one in placed(messages):
        day.take(one)
    return day


def test_only_messages_that_lie_in_a_day_as_a_whole_go() -> None:
    day = days_of(raw_messages(), 1, 2)
    assert (day.ranges, day.across) == ([(2, 4)], [(1, "enters"), (5, "leaves")])
    day = days_of(raw_messages(), 0, 1)
    assert (day.ranges, day.across) == ([(0, 0)], [(1, "leaves")])
    day = days_of(raw_messages(), 2, 3)
    assert (day.ranges, day.across) == ([(6, 6)], [(5, "enters")])
    assert days_of(raw_messages(), 1.25, 1.28).ranges == []
    assert days_of(raw_messages(), 1.25, 1.28).across == [(2, "enters and leaves")]
    assert days_of(raw_messages()[1:], 1, 2).across == [(1, "enters"), (5, "leaves")], "its first records tell"
    everything = DayRanges(-(1 << 63), 1 << 63, whole=True)
    for one in placed(raw_messages()):
        everything.take(one)
    assert (everything.ranges, everything.across) == ([(0, 6)], [])


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalObjectStore:
    """A lake with a tape across two midnights, and no broker."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(TapeAdmin, "_announce", lambda *_: None)
    monkeypatch.setattr(TapeAdmin, "alone", lambda *_: nullcontext())
    monkeypatch.setattr(Eraser, "_trim", lambda _: {})
    monkeypatch.setattr(tape_delete, "open_store", lambda _: nullcontext())
    monkeypatch.setattr(tape_delete, "closing", lambda opened: opened)
    monkeypatch.setattr(tape_delete, "erase_rows", lambda *_: None)
    store, rng = LocalObjectStore(tmp_path / "lake"), np.random.default_rng(1)
    raw = raw_messages()
    derived = []
    for seq, root in enumerate(raw):
        value = encode_rows(rows(rng, BINS, 2), BINS)
        envelope = Envelope(root.envelope.kind, "bins", count=2, t=root.envelope.t, seq=seq, part=0, last=True, run=RUN)
        derived.append(message("t1.main.bins.v1", seq, envelope, value))
    for lane, messages in ((RAW, raw), (DERIVED, derived)):
        LakeSink(store).write(Batch(lane, tuple(Entry(m, at, 0) for at, m in enumerate(messages))), Event())
    TapeAdmin(Settings(data_dir=tmp_path), "").tapes.save(TAPE)
    return store


def eraser(folder: Path) -> Eraser:
    settings = Settings(data_dir=folder)
    known = TapeAdmin(settings, "").tapes.require("t1")
    return Eraser(settings, known, "", Output(as_json=True))


def standing(lake: LocalObjectStore, known: Manifest, stream: str) -> list[int]:
    spec = next(spec for spec in rooted("t1").values() if spec.stream == stream)
    return [p.seq for p in TapeReader(known, "main", spec, 0, lake=lake)]


def audit(folder: Path) -> list[dict[str, object]]:
    states = LocalObjectStore(folder / "state")
    return [json.loads(states.get(name) or b"") for name in states.names(f"{AUDIT}/")]


def test_a_day_of_a_tape_across_midnight(tmp_path: Path, lake: LocalObjectStore) -> None:
    """The last bins of the day before stay with the message that enters, those of the day with the one that leaves."""
    one = eraser(tmp_path)
    found = one.find(Wish(day="1970-01-02"))
    assert [(d.seq_first, d.seq_last) for d in found.ranges] == [(2, 4)]
    assert found.across == (Across("X:A", 0, 1, "enters"), Across("X:A", 0, 5, "leaves"))
    record = one.erase(found, "")
    assert (record["done"], record["lake_messages"]) == (True, 4)
    assert [a["seq"] for a in record["across_midnight"]] == [1, 5]
    for stream in ("mbo", "bins"):
        assert standing(lake, one.manifest, stream) == [0, 1, 3, 5, 6]
    assert one._kept(one.manifest.deletions) == [(0, 3)]
    again = eraser(tmp_path)
    assert again.find(Wish(day="1970-01-02")).ranges[0].seq_last == 4
    with pytest.raises(InputError, match="nothing of any instrument on 1970-01-05"):
        again.find(Wish(day="1970-01-05"))


def test_a_record_stands_before_the_manifest_changes(
    tmp_path: Path, lake: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise SystemExit

    one = eraser(tmp_path)
    found = one.find(Wish(day="1970-01-02"))
    with monkeypatch.context() as broken:
        broken.setattr(Eraser, "_note", die)
        with pytest.raises(SystemExit):
            one.erase(found, "")
    assert [r["done"] for r in audit(tmp_path)] == [False]
    assert eraser(tmp_path).manifest.deletions == ()
    assert standing(lake, eraser(tmp_path).manifest, "mbo") == list(range(7))
    # What nothing was noted of is not done by another deletion, and not called done.
    other = eraser(tmp_path)
    other.erase(other.find(Wish(day="1970-01-03")), "")
    assert standing(lake, other.manifest, "mbo") == [0, 1, 2, 3, 4, 5]
    assert sorted(bool(r["done"]) for r in audit(tmp_path)) == [False, True]


def test_a_deletion_ends_what_another_left_and_nothing_that_is_done(
    tmp_path: Path, lake: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked: list[list[int]] = []
    monkeypatch.setattr(tape_delete, "erase_rows", lambda _c, _m, work, _k: worked.append([d.seq_first for d in work]))

    def die(*_: object) -> None:
        raise SystemExit

    one = eraser(tmp_path)
    one.erase(one.find(Wish(day="1970-01-01")), "")
    with monkeypatch.context() as broken:
        broken.setattr(tape_delete, "erase_objects", die)
        with pytest.raises(SystemExit):
            one.erase(one.find(Wish(day="1970-01-02")), "")
    states = LocalObjectStore(tmp_path / "state")
    assert len(unfinished_records(states, TAPE)) == 1
    assert broken_off(states, one.manifest)
    assert not broken_off(states, TAPE), "what the manifest does not have was touched by nobody"
    last = eraser(tmp_path)
    last.erase(last.find(Wish(day="1970-01-03")), "")
    assert worked == [[0], [2], [2, 6]]
    assert unfinished_records(states, TAPE) == []
    assert not broken_off(states, last.manifest)
    (item,) = all_objects(lake, folder_of(RAW))
    found = list(decode_object(lake.get(item.name) or b"", item.name, RAW.topic, 0))
    assert [p.seq for p in found if p.deleted] == [0, 2, 4, 6]


def test_who_joins_objects_and_who_deletes_keep_each_other_out(tmp_path: Path, lake: LocalObjectStore) -> None:
    one = eraser(tmp_path)
    found = one.find(Wish(day="1970-01-02"))
    right = lake_right(tmp_path / "state", TAPE)
    right.acquire()
    admin = TapeAdmin(Settings(data_dir=tmp_path), "")
    for work in (lambda: one.erase(found, ""), lambda: admin.delete(TAPE, "")):
        with pytest.raises(FolderInUseError, match="a compaction or deletion of tape t1"):
            work()
    assert (audit(tmp_path), admin.tapes.require("t1").state) == ([], "finished")
    right.release()
    with admin.rewriting(TAPE):
        pass
