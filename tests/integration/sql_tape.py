"""A simulated market through the real stages into tables, without a broker: what SQL is tested on.

Everything is as the pipeline makes it (verified file, raw messages, reducers, rows, inserts); only Kafka is left out.
The same rows are handed back as NumPy tables, so that answers can be computed a second way.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from connectors import dbn_replay, instruments, simulate
from connectors.blocks import CutRule
from connectors.dbn_verify import verify_all
from runtime.codec import decode_rows, encode_avro, encode_rows
from runtime.tapes import Instrument, Line, Manifest
from schemas.columns import concat_tables
from schemas.envelope import Envelope, crc32
from schemas.mbo import MBO_DTYPE
from schemas.message import Message
from schemas.topics import TAPES
from schemas.units import NS_PER_SECOND
from sinks.base import Batch, Entry, Lane
from sinks.clickhouse import ClickHouseSink, connect
from sinks.registers import insert_rows, register_rows
from sinks.tables import RECORDS, REGISTERS, TABLES
from streams.stages import STAGES

CONFIG = {"cell_ns": NS_PER_SECOND, "radius": 10, "n_ticks": 512, "intervals_ns": [NS_PER_SECOND, 60 * NS_PER_SECOND]}
RUN = "run-sql"
DAY_NS = 86_400 * NS_PER_SECOND


@dataclass(frozen=True)
class SqlTape:
    """Messages by table name, and the same rows as arrays: instrument → table → column → array."""

    tape: str
    known: dict[str, Instrument]
    messages: dict[str, list[Message]]

    def rows(self, table: str, instrument: str) -> dict[str, np.ndarray]:
        """Rows of an instrument in order, `seq` and `row` among them."""
        found, seqs, numbers = [], [], []
        columns = {o.topic.stream: o.columns for s in _stages() for o in s.outputs.values()}.get(table, ())
        for m in self.messages[table]:
            if m.instrument != instrument or not m.value or (table == "mbo" and m.envelope.kind != "data"):
                continue
            if table == "mbo":
                records = np.frombuffer(m.value, MBO_DTYPE)
                found.append({name: records[name] for name in MBO_DTYPE.names or ()})
            else:
                found.append(decode_rows(m.value, columns))
            seqs.append(np.full(m.envelope.count, m.offset if table == "mbo" else m.envelope.seq))
            numbers.append(np.arange(m.envelope.count))
        if table == "mbo":
            out = {name: np.concatenate([f[name] for f in found]) for name in found[0]}
        else:
            out = dict(concat_tables(found, columns))
        return {**out, "seq": np.concatenate(seqs), "row": np.concatenate(numbers)}


def state_lasts_ns(bins: dict[str, np.ndarray]) -> np.ndarray:
    """How long the state at each bin's end lasted: to the next end, at most to the midnight after the bin's start."""
    ends, midnights = bins["ts_end_ns"], (bins["ts_start_ns"] // DAY_NS + 1) * DAY_NS
    return np.array([
        max(0, min(int(after), int(midnight)) - int(end))
        for end, after, midnight in zip(ends, [*ends[1:], ends[-1]], midnights, strict=True)
    ])  # fmt: skip


def _stages() -> list[Any]:
    return [make(CONFIG) for make in STAGES.values()]


def make(folder: Path, tape: str = "sim", *, records: int = 60_000, hours: float = 1.2, count: int = 2) -> SqlTape:
    """Simulate a market and run the stages over it; with some gaps, funding rates and a suspect stretch."""
    file = folder / "sim.mbo.dbn.zst"
    simulate.write(file, records=records, seed=5, instruments=count, hours=hours)
    reports = verify_all([file])
    known, _ = instruments.resolve(reports)
    plan = dbn_replay.ReplayPlan(tape, reports, known, CutRule())
    raw = [
        Message(m.topic, 0, at, m.timestamp_ms, m.instrument, m.value, m.envelope)
        for at, m in enumerate(dbn_replay.messages_of(plan))
    ]
    messages = {"mbo": raw}
    for stage in _stages():
        for output in stage.outputs:
            messages[output] = []
        reducer = stage.reducer()
        for message in messages[stage.source.stream]:
            _apply(stage, reducer, message, tape, messages)
    made = SqlTape(tape, known, messages)
    messages["gaps"], messages["events"] = _gaps(made), _events(made)
    return made


def _apply(stage: Any, reducer: Any, message: Message, tape: str, messages: dict[str, list[Message]]) -> None:
    seq = message.offset if stage.source.stream == "mbo" else message.envelope.seq
    skipped = stage.source.stream == "mbo" and seq in _suspect(messages["mbo"])
    found = list(reducer.skip(message, "test") if skipped else reducer.apply(message))
    stamp = reducer.stamp(message)
    for name, output in stage.outputs.items():
        table = concat_tables([r.table for r in found if r.stream == name], output.columns)
        value = encode_rows(table, output.columns)
        count = len(next(iter(table.values())))
        envelope = Envelope(message.envelope.kind, name, count=count, crc32=crc32(value), t=stamp.t, seq=seq, run=RUN)
        topic = output.topic.name(tape, "main")
        messages[name].append(Message(topic, 0, seq, 0, message.instrument, value, envelope))


def _suspect(raw: list[Message]) -> set[int]:
    """One data block in the last fifth is skipped, as poison would be: its book is SUSPECT from there on."""
    data = [m.offset for m in raw if m.envelope.kind == "data"]
    return {data[len(data) * 4 // 5]}


def _gaps(made: SqlTape) -> list[Message]:
    """A gap of the line, one of another line, one of all lines."""
    name, start_ns = next(iter(made.known)), simulate.START_NS
    common = {"instrument": name, "stage": "books", "topic": "sim.mbo.v1", "partition": 0, "seq_from": 1, "seq_to": 2}
    times = {"ts_from": start_ns + 10**9, "ts_to": start_ns + 3 * 10**9, "cause": "test", "epoch": -1}
    lines = ("main", "other", "")
    return [
        record(made, "gap", at, name, {"id": f"g{at}", "line": line, **common, **times})
        for at, line in enumerate(lines)
    ]


FUNDING = (("0.0001", -5), ("-0.00025", 1_200), ("0.0003", 2_500))
"""Rates and the seconds after the start from which they hold."""


def _events(made: SqlTape) -> list[Message]:
    """Funding rates of the first instrument."""
    name = next(iter(made.known))
    return [
        record(
            made, "event", at, name,
            {
                "id": f"e{at}", "instrument": name, "kind": "funding", "ts_event": simulate.START_NS + after * 10**9,
                "ts_recv": -1, "px": (1 << 63) - 1, "value": rate, "side": 0, "ts_next": -1, "text": "",
            },
        )
        for at, (rate, after) in enumerate(FUNDING)
    ]  # fmt: skip


def fill(url: str, made: SqlTape) -> None:
    """Insert everything, in two batches a table."""
    sink, stop = ClickHouseSink(url), Event()
    sink.open(stop)
    for name, table in {**TABLES, **RECORDS}.items():
        entries = [Entry(m, m.offset if table.by_offset else m.envelope.seq, 0) for m in made.messages.get(name, [])]
        lane = Lane(made.tape, f"id-{made.tape}", "main", table, 0)
        half = len(entries) // 2
        for part in (entries[:half], entries[half:]):
            if part:
                sink.write(Batch(lane, tuple(part)), stop)
    sink.close()


def record(made: SqlTape, schema: str, at: int, instrument: str, content: dict[str, object]) -> Message:
    """A message of a stream of records."""
    value = encode_avro(schema, content)
    envelope = Envelope("data", schema, count=1, t=1, crc32=crc32(value))
    return Message(f"{made.tape}.{schema}s.v1", 0, at, 0, instrument, value, envelope)


def again(message: Message, at: int) -> Message:
    """The same record said again, at the end of its topic."""
    return replace(message, offset=at)


def announce(url: str, made: SqlTape) -> None:
    """The manifest, as its register has it."""
    manifest = Manifest(made.tape, f"id-{made.tape}", instruments=made.known)
    manifest = replace(manifest, state="finished").with_line("main", Line(RUN, dict(CONFIG), True))
    content = {
        "tape": made.tape, "tape_id": manifest.tape_id, "state": "finished", "partitions": 1,
        "manifest": manifest.to_json(),
    }  # fmt: skip
    value = encode_avro("tape", content)
    envelope = Envelope("definition", "tape", count=1, crc32=crc32(value))
    message = Message(TAPES.name(), 0, 0, 1_700_000_000_000, made.tape, value, envelope)
    client = connect(url)
    insert_rows(client, REGISTERS["ops_tapes"], register_rows([message], REGISTERS["ops_tapes"]))
    client.close()
