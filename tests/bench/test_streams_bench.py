"""Benches `streams`, `replay`, `sinks` and `gateway` as a user runs them, quick, on a real broker; unjudged."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control.bench import gateway_bench, replay_bench, sinks_bench, streams_bench
from control.bench.measure import Bound, Figure, Row
from control.bench.oracle import WrongAnswerError, book_of
from control.bench.session import Case, Session, run
from control.bench.stream_peers import Marks
from control.bench.stream_tape import NAME, BenchTape, messages_of
from control.bench.streams_live import CELL_NS, FLUSH_RECORDS, live_blocks
from control.bench.synthetic import START_NS, Shape, Stream, make
from tests.integration.conftest import left_over

ROOT = Path(__file__).parent.parent.parent
LEFT_OUT = ("run_", "stage_4096", "stage_64")
"""Rows that a quick bench leaves out: real tapes, and what runs the same code as another row."""
SHAPE = Shape(6_000, levels=5, queue=4, per_bin=500, cell_ns=CELL_NS, churn=100)


def rows_of(bench: str, folder: Path) -> dict[str, Any]:
    environment = {k: v for k, v in os.environ.items() if k != "BAROGRAPH_DATA"} | {"TMPDIR": str(folder)}
    command = [sys.executable, "-m", "control.cli", "bench", bench, "--quick", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == [], "what a bench wrote is gone with it"
    assert left_over(folder) == []
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.real
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("bench", "cases"),
    [
        ("streams", streams_bench.CASES),
        ("replay", replay_bench.CASES),
        ("sinks", sinks_bench.CASES),
        ("gateway", gateway_bench.CASES),
    ],
)
def test_every_row_is_measured_but_those_of_real_tapes(bench: str, cases: tuple[Case, ...], tmp_path: Path) -> None:
    told = rows_of(bench, tmp_path)
    skipped = {row for row in (s["row"] for s in told["skipped"]) if row.startswith(LEFT_OUT)}
    assert {s["row"] for s in told["skipped"]} == skipped
    assert sorted(row["row"] for row in told["rows"]) == sorted(r for c in cases for r in c.rows if r not in skipped)
    for row in told["rows"]:
        may_be_nothing = row["row"] == "resume_beyond_start" or row["row"].endswith("_silence")  # all at one look
        assert row["value"] > 0 or (may_be_nothing and row["value"] > -60)
        assert (row["ratio"] is None) == (row["baseline"] is None)
        assert not row["judged"]
        assert (row["gate_met"] is None) == (row["gate"] is None)


def test_a_gate_without_a_baseline_is_about_the_value() -> None:
    row = Row("r", Figure((0.3,)), "s", gate=Bound("<=", 0.25))
    assert row.document(judged=True)["gate_met"] is False
    assert replace(row, gate=Bound("<=", 0.35)).document(judged=True)["gate_met"] is True


def test_a_live_block_ends_with_the_record_that_crosses_the_end_of_a_bin() -> None:
    stream = make(SHAPE)
    feed = live_blocks("t.mbo.v1", NAME, stream.records, CELL_NS)
    assert b"".join(due.message.value for due in feed) == stream.records.tobytes()
    assert max(due.message.envelope.count for due in feed) <= FLUSH_RECORDS
    closed = [due.closes_ns for due in feed if due.closes_ns >= 0]
    assert closed == [START_NS + (n + 1) * CELL_NS for n in range(SHAPE.records // SHAPE.per_bin - 1)]
    assert all(0 <= due.t_ns - due.closes_ns < CELL_NS // 100 for due in feed if due.closes_ns >= 0)


def test_marks_count_from_the_first_message_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 11.0, 11.5, 13.0])
    monkeypatch.setattr("control.bench.stream_peers.time.monotonic", lambda: next(times))
    marks = Marks(begin=1, wanted=4)
    assert [marks.add() for _ in range(4)] == [False, False, False, True]
    assert (marks.first_s, marks.seconds, marks.silence_s) == (10.0, 2.0, 1.5)


@pytest.mark.real
def test_a_wrong_row_is_refused(kafka: str, tmp_path: Path) -> None:
    session = Session(runs=1, quick=True, market_data=None, peers=tmp_path, _servers=kafka)
    stream = make(SHAPE)
    with session:
        tape = BenchTape(session, "wrong", stream.tick_px, cell_ns=CELL_NS)
        raw, begin = messages_of(stream, tape.topic, 512)
        truth = tape.truth(raw, ["books", "bars"], keep=True)
        assert truth.records[-1] == len(stream.opening) + len(stream.records)
        assert truth.records[begin - 1] == len(stream.opening)
        line = tape.open_line()
        made = [replace(m, topic=m.topic.replace(".main.", f".{line}.")) for m in truth.outgoing]
        tape.publish(made)
        tape.check("right", line, truth, digest_of(stream))
        with pytest.raises(WrongAnswerError, match="book"):
            tape.check("other_book", line, truth, "0" * 64)
        tape.drop_line(line)
        line = tape.open_line()
        one = next(i for i, m in enumerate(made) if m.envelope.schema == "bins" and m.envelope.count)
        made[one] = replace(made[one], value=b"", envelope=replace(made[one].envelope, count=0))
        tape.publish([replace(m, topic=m.topic.replace(".run1.", f".{line}.")) for m in made])
        with pytest.raises(WrongAnswerError, match="rows of bins"):
            tape.check("other_rows", line, truth)


def digest_of(stream: Stream) -> str:
    return book_of([stream.opening, stream.records]).digest(stream.tick_px)


def test_cases_of_a_quick_bench_run_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "kafka", lambda _: "")
    both = threading.Barrier(2, timeout=10)

    def measure(_: Session) -> list[Row]:
        both.wait()
        return [Row("r", Figure((1.0,)), "s")]

    cases = [Case("a", ("r",), measure, alone=False), Case("b", ("r",), measure, alone=False)]
    with Session(runs=1, quick=True, market_data=None, peers=Path()) as session:
        assert len(run(cases, session, lambda *_: None).rows) == 2
