"""What an operator does when something is stuck, on a real broker: lag, dlq, certify, aliases.

The topics are written here by their contracts, without any stage, so that each fault is exactly the one that is meant.
"""

import json
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer

from connectors import raw_messages
from control import certificate, cli
from control.certify import issue
from control.claims import Claim
from control.lag import Follower
from control.output import Output
from control.pipeline import LINE_CONFIG
from control.scan import scan_topic
from control.topic_admin import TopicAdmin
from runtime.codec import encode_avro, encode_rows
from runtime.kafka import CheckedProducer, read_range
from runtime.object_store import LocalObjectStore
from runtime.settings import Settings
from runtime.tapes import Instrument, Line, Manifest, TapeStore, new_tape
from schemas import bars, bins, topics, trades
from schemas.columns import empty_table
from schemas.envelope import Envelope, crc32
from schemas.mbo import F_MAYBE_BAD_BOOK, MBO_BYTES, MBO_DTYPE, MBO_RTYPE
from schemas.message import Outgoing
from sinks.reconcile import reconcile
from tests.integration.conftest import SAMPLE

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

ONE, TWO = "V:ONE", "V:TWO"
CONFIG = {**LINE_CONFIG, "radius": 2}
RUN = "0" * 16
COLUMNS = {"bins": bins.columns(2), "trades": trades.COLUMNS, "bars": bars.COLUMNS}


def records(*sequences: int) -> np.ndarray:
    made = np.zeros(len(sequences), MBO_DTYPE)
    made["rtype"], made["length"] = MBO_RTYPE, MBO_BYTES // 4
    made["sequence"], made["ts_event"] = sequences, np.array(sequences) * 10**9
    return made


def block(topic: str, name: str, *sequences: int) -> Outgoing:
    return raw_messages.data(topic, name, 0, records(*sequences), t_ns=sequences[-1] * 10**9, source=f"f:{sequences}")


@dataclass
class Desk:
    """A tape of two instruments, and the command line on its data folder."""

    kafka: str
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def tape(self, name: str) -> Manifest:
        known = {ONE: Instrument(0, 10), TWO: Instrument(0, 10)}
        manifest = new_tape(name, instruments=known, blocking={"records_max": 2})
        ids = TopicAdmin(self.kafka).apply(name, "main", 1)
        manifest = replace(manifest, topic_ids=ids, state="finished").with_line("main", Line(RUN, CONFIG))
        TapeStore(LocalObjectStore(self.folder / "state")).save(manifest)
        return manifest

    def publish(self, tape: str) -> int:
        """Definitions, three blocks, ends; number of messages."""
        topic = topics.MBO.name(tape)
        known = Instrument(0, 10)
        messages = [raw_messages.definition(topic, name, known, t_ns=10**9, source=f"d{name}") for name in (ONE, TWO)]
        messages += [block(topic, ONE, 1, 2), block(topic, ONE, 3, 4), block(topic, TWO, 5), block(topic, ONE, 6)]
        messages += [raw_messages.end(topic, name, 0, t_ns=6 * 10**9, source=f"e{name}") for name in (ONE, TWO)]
        self.send(messages)
        return len(messages)

    def send(self, messages: list[Outgoing]) -> None:
        producer = CheckedProducer(self.kafka)
        for message in messages:
            producer.send(message)
        producer.flush()

    def derive(self, tape: str, seqs: range, *, changed: int = -1, run: str = RUN) -> None:
        """What stages would make: a row of every stream for each root; in bins one value may be another one."""
        messages = []
        for spec in topics.DERIVED:
            for seq in seqs:
                rows = empty_table(COLUMNS[spec.stream], 2)
                if spec is topics.BINS:
                    rows["bin_seq"][:], rows["ts_end_ns"][:] = (seq * 2, seq * 2 + 1), seq * 10**9
                    rows["add_mass"][1, 3] = 1.5 if seq == changed else 1.0
                value = encode_rows(rows, COLUMNS[spec.stream])
                envelope = Envelope(
                    "data", spec.stream, count=2, crc32=crc32(value), t=seq * 10**9, seq=seq, run=run, summary=""
                )
                messages.append(Outgoing(spec.name(tape), 0, ONE if seq % 2 else TWO, value, envelope))
        self.send(messages)

    def call(self, *words: object) -> tuple[int, Any, str]:
        """Exit code, the first JSON document (the result comes before an error), standard error."""
        here = ("--json", "--data", self.folder, "--bootstrap-servers", self.kafka)
        self.monkeypatch.setattr(sys, "argv", ["barograph", *map(str, (*words, *here))])
        code = cli._run()
        printed = self.capsys.readouterr()
        return code, json.JSONDecoder().raw_decode(printed.out)[0], printed.err


@pytest.fixture
def desk(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[], Desk]:
    return lambda: Desk(kafka, tmp_path, monkeypatch, capsys)


def letter(tape: str, offset: int, value: bytes, *, topic: str = "") -> Outgoing:
    topic = topic or topics.MBO.name(tape)
    record = {
        "id": sha256(f"books/{topic}/0/{offset}".encode()).hexdigest(),
        "line": "main",
        "stage": "books",
        "run": RUN,
        "topic": topic,
        "partition": 0,
        "offset": offset,
        "seq": offset,
        "timestamp_ms": 0,
        "key": ONE.encode(),
        "value": value,
        "headers": [{"name": "kind", "value": b"data"}, {"name": "x", "value": b"\xff"}],
        "reason": "does not match its CRC-32",
        "error": "BrokenMessageError",
        "trace": "Traceback (most recent call last):\n  ...",
        "attempts": 1,
    }
    encoded = encode_avro("dead_letter", record)
    envelope = Envelope("data", "dead_letter", count=1, crc32=crc32(encoded))
    return Outgoing(topics.DEAD_LETTERS.name(tape), 0, ONE, encoded, envelope)


def test_dead_letters_are_listed_shown_and_replayed(desk: Callable[[], Desk], tmp_path: Path) -> None:
    here = desk()
    here.tape("dead")
    here.publish("dead")
    bad = records(3, 4).tobytes()
    here.send([letter("dead", 3, bad), letter("dead", 4, b"?"), letter("dead", 3, bad)])
    here.send([letter("dead", 1, b"", topic="dead.main.trades.v1")])
    code, found, _ = here.call("dlq", "list", "--tape", "dead", "--stage", "books")
    assert (code, [(f["topic"], f["offset"]) for f in found]) == (
        0,
        [("dead.main.trades.v1", 1), ("dead.mbo.v1", 3), ("dead.mbo.v1", 4)],
    )
    third, fourth = (f["id"] for f in found[1:])
    out = tmp_path / "value.bin"
    code, shown, _ = here.call("dlq", "show", third[:10], "--tape", "dead", "--value", out)
    assert (code, out.read_bytes(), shown["headers"][1]["value"]) == (0, bad, "\\xff")
    assert shown["trace"].startswith("Traceback")

    code, made, _ = here.call("dlq", "replay", "--tape", "dead", "--to-line", "fixed")
    assert (code, made["line"], made["from_line"], made["same_run"]) == (0, "fixed", "main", False)
    assert here.call("dlq", "replay", "--tape", "dead", "--to-line", "fixed")[0] == 2
    line = TapeStore(LocalObjectStore(tmp_path / "state")).require("dead").lines["fixed"]
    assert (line.config, line.complete) == (CONFIG, False)

    (tmp_path / "fixed.bin").write_bytes(records(3, 4, 5).tobytes())
    edits = ("--replace-value", f"{fourth[:9]}={tmp_path / 'fixed.bin'}", "--leave-out", third[:9])
    words = ("dlq", "replay", "--tape", "dead", "--to-tape", "dead-2", *edits)
    code, made, _ = here.call(*words)
    assert (code, made) == (
        0,
        {
            "tape": "dead-2",
            "line": "main",
            "state": "finished",
            "messages": 7,
            "replaced": 1,
            "left_out": 1,
            "kept": 0,
        },
    )
    before = list(read_range(here.kafka, "dead.mbo.v1", 0))
    after = list(read_range(here.kafka, "dead-2.mbo.v1", 0))
    assert [(m.instrument, m.envelope.kind, m.envelope.t) for m in after] == [
        (m.instrument, m.envelope.kind, m.envelope.t) for m in before if m.offset != 3
    ]
    assert (after[3].value, after[3].envelope.count) == (records(3, 4, 5).tobytes(), 3)
    assert np.frombuffer(after[4].value, MBO_DTYPE)["flags"].tolist() == [F_MAYBE_BAD_BOOK]
    code, error, _ = here.call(*words)
    assert (code, error["error"]) == (2, "there is a tape dead-2 already")
    assert here.call("dlq", "replay", "--tape", "dead", "--to-tape", "dead-3")[0] == 2
    assert here.call("dlq", "replay", "--tape", "dead")[0] == 2


def test_lag_says_who_stands_and_how_far(desk: Callable[[], Desk]) -> None:
    here = desk()
    manifest = here.tape("late")
    published = here.publish("late")
    code, rows, told = here.call("lag", "--tape", "late")
    assert code == 1
    stages = {r["stream"]: r for r in rows if r["consumer"].startswith("stage")}
    assert {(r["lag"], r["lag_s"], r["status"], r["alive"]) for r in stages.values()} == {
        (published, None, "STOPPED", False)
    }
    assert "stage books of tape late is stopped" in told
    claim = Claim(here.folder / "state", manifest, "main")
    assert claim.take()  # its workers may be starting
    code, rows, _ = here.call("lag", "--tape", "late")
    assert (code, {(r["alive"], r["status"]) for r in rows if r["lag"]}) == (0, {(None, "UNKNOWN")})
    claim.release()
    here.derive("late", range(5))
    settings = Settings(data_dir=here.folder)
    with closing(Follower(here.kafka, manifest, "main", settings)) as follower:
        (row, *_) = follower.look(0.0)
        assert (row["end"], row["position"], row["lag"], row["lag_s"]) == (published, 5, published - 5, 2.0)
        assert row["lag_records"] == 1  # a block of one record, and two ends
        here.derive("late", range(5, published))
        (row, *_) = follower.look(1.0)
        assert (row["lag"], row["lag_records"], row["lag_s"], row["status"]) == (0, 0, 0.0, "OK")


def test_certificates_of_equal_and_of_different_tapes(desk: Callable[[], Desk], tmp_path: Path) -> None:
    here = desk()
    objects, out = LocalObjectStore(tmp_path / "state"), Output(as_json=True)
    for name, changed in (("same-1", -1), ("same-2", -1), ("other", 5)):
        manifest = here.tape(name)
        published = here.publish(name)
        here.derive(name, range(4))
        here.derive(name, range(2, published), changed=changed, run=RUN if name == "same-1" else "1" * 16)
        body = issue(manifest, "main", here.kafka, objects, out)
        (tmp_path / f"{name}.json").write_text(json.dumps({"certificate": body}))
    one, two, other = (tmp_path / f"{name}.json" for name in ("same-1", "same-2", "other"))
    runs = certificate.read(two)["runs"]["bins"]
    assert [(span["run"], span["seq_from"], span["seq_to"]) for span in runs] == [(RUN, 0, 3), ("1" * 16, 4, 7)]

    code, made, _ = here.call("certify", one)
    assert (code, set(made["streams"].values())) == (0, {"ok"})
    code, made, _ = here.call("certify", one, two)
    assert (code, made["identical"]) == (0, True)
    code, made, told = here.call("certify", one, other)
    assert code == 1
    assert "outputs.bins of V:ONE" in told
    first = made["first"]
    assert (first["stream"], first["instrument"], first["bin_seq"], first["ts_ns"]) == ("bins", ONE, 11, 5 * 10**9)
    (column,) = first["columns"]
    assert column == {"column": "add_mass", "element": 3, "elements": 1, "left": 1.0, "right": 1.5}

    here.send([block("same-1.mbo.v1", ONE, 7)])
    assert here.call("certify", one)[0] == 0, "what came later does not count"
    code, _, told = here.call("certify", "same-1", two, "--out", tmp_path / "longer.json")
    assert code == 1
    assert "records of V:ONE" in told
    assert certificate.read(tmp_path / "longer.json")["inputs"][0]["seq_to"] == 8
    code, made, _ = here.call("certify", "same-2/main", two)
    assert (code, made["identical"]) == (0, True)
    body = certificate.read(two)
    body["outputs"]["trades"][ONE] = "0" * 64
    two.write_text(json.dumps({**body, "sha256": certificate.seal(body)}))
    code, made, told = here.call("certify", two)
    assert (code, made["streams"]["trades"], made["streams"]["bins"]) == (1, "differs", "ok")
    assert "is not as" in told
    (tmp_path / "state" / "tapes" / "same-1" / "manifest.json").unlink()
    code, made, _ = here.call("certify", one)
    assert (code, made["seal"]) == (0, "ok")
    one.write_text(one.read_text().replace(RUN, "2" * 16, 1))
    assert here.call("certify", one)[0] == 1


def test_a_message_of_strangers_is_a_place_in_the_log_and_no_end_of_it(desk: Callable[[], Desk]) -> None:
    here = desk()
    manifest = here.tape("alien")
    here.publish("alien")
    producer = Producer({"bootstrap.servers": here.kafka})
    producer.produce("alien.mbo.v1", value=b"hello", key=b"\xff", partition=0)
    assert producer.flush(30) == 0
    here.send([block("alien.mbo.v1", ONE, 8)])
    found = scan_topic(here.kafka, manifest, "main", topics.MBO)
    assert (found.messages, found.records) == (10, 7)
    assert reconcile(manifest, "main", here.kafka).tables["mbo"].topic_rows == 7


def test_an_alias_is_followed_by_readers_and_refused_as_a_tape(desk: Callable[[], Desk]) -> None:
    here = desk()
    here.tape("real")
    tapes = TapeStore(LocalObjectStore(here.folder / "state"))
    here.monkeypatch.setattr(sys, "argv", ["barograph", "tape", "alias", "best", "real", "--data", str(here.folder)])
    assert cli._run() == 0
    here.capsys.readouterr()
    assert here.call("dlq", "list", "--tape", "best") == (0, [], "")
    code, error, _ = here.call("replay", SAMPLE, "--tape", "best")
    assert code == 2
    assert "best is an alias of tape real" in error["error"]
    assert tapes.names() == ["real"]
