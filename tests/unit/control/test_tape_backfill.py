"""Which topics are made again from the lake, and which are not touched; against topics that only have names and ids."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

import pytest

from control import tape_admin, tape_backfill
from control.output import Output
from control.tape_admin import TapeAdmin
from control.tape_backfill import Backfill, outgoing
from runtime.object_store import LocalObjectStore
from runtime.sequence import Placed
from runtime.settings import Settings
from runtime.tapes import TapeStore
from schemas.message import Outgoing
from schemas.topics import of_tape, rooted
from sinks.base import Batch, Entry, Lane
from sinks.lake import LakeSink
from sinks.tables import TABLES
from tests.unit.sinks.messages import first_of_each, make_tape, manifest

RECORDS = set(of_tape("t1")) - set(rooted("t1"))


@dataclass
class Topics:
    """Topics by name, with their ids; what was deleted and sent is noted."""

    ids: dict[str, str] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    sent: list[Outgoing] = field(default_factory=list)

    def existing(self) -> set[str]:
        return set(self.ids)

    def delete(self, names: list[str]) -> None:
        self.deleted |= set(names) & set(self.ids)
        self.ids = {name: number for name, number in self.ids.items() if name not in names}

    def apply(self, tape: str, line: str, partitions: int) -> dict[str, str]:
        for name in of_tape(tape, line):
            self.ids.setdefault(name, f"new-{name}")
        return {name: self.ids[name] for name in of_tape(tape, line)}

    def send(self, message: Outgoing) -> None:
        self.sent.append(message)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def topics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Topics:
    """A broker with a finished tape, all of which lies in the lake."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    found = Topics({name: f"old-{name}" for name in of_tape("t1")})
    for module in (tape_admin, tape_backfill):
        monkeypatch.setattr(module, "TopicAdmin", lambda servers: found)
    monkeypatch.setattr(tape_backfill, "consumer", lambda servers: found)
    monkeypatch.setattr(tape_backfill, "CheckedProducer", lambda servers: found)
    monkeypatch.setattr(tape_backfill, "watermarks", lambda client, topic, partition: (0, 0))
    monkeypatch.setattr(TapeAdmin, "_announce", lambda *_: None)
    known = replace(manifest(), state="finished", topic_ids=dict(found.ids))
    TapeStore(LocalObjectStore(tmp_path / "state")).save(known)
    made, lake = make_tape(blocks=20), LocalObjectStore(tmp_path / "lake")
    for table in TABLES.values():
        lane = Lane("t1", known.tape_id, "main", table, 0)
        messages = made.topics[table.topic_name("t1", "main")]
        entries = tuple(Entry(m, *place) for place, m in first_of_each(messages, table.raw).items())
        LakeSink(lake).write(Batch(lane, entries), Event())
    return found


def backfill(tmp_path: Path) -> Backfill:
    return Backfill(Settings(data_dir=tmp_path), "a:1", "t1", LocalObjectStore(tmp_path / "lake"), Output(as_json=True))


def test_topics_of_records_stay_as_they_are(tmp_path: Path, topics: Topics) -> None:
    backfill(tmp_path).run(replace_topics=True)
    assert topics.deleted == set(rooted("t1"))
    assert {message.topic for message in topics.sent} == set(rooted("t1"))
    known = TapeStore(LocalObjectStore(tmp_path / "state")).require("t1")
    assert known.topic_ids == {name: f"old-{name}" if name in RECORDS else f"new-{name}" for name in of_tape("t1")}
    assert known.restored == {}


def test_topics_of_records_that_are_gone_are_made_empty(tmp_path: Path, topics: Topics) -> None:
    topics.ids = {}
    backfill(tmp_path).run()
    assert {message.topic for message in topics.sent} == set(rooted("t1"))
    known = TapeStore(LocalObjectStore(tmp_path / "state")).require("t1")
    assert known.topic_ids == {name: f"new-{name}" for name in of_tape("t1")}
    assert known.restored == {}, "nothing was put into them, so what comes there is new"


def test_the_place_of_a_deleted_end_is_an_end_and_of_other_raw_messages_a_clock() -> None:
    raw = make_tape().topics["t1.mbo.v1"]
    for message in raw:
        held = outgoing(Placed(message, message.offset, 0, deleted=True), "t1.mbo.v1")
        assert held.envelope.kind == ("end" if message.envelope.kind == "end" else "clock")
        assert held.value == b""
