"""`make chaos-sinks`: every fault of the sinks, how fast a backlog falls, how fast a store is back and answers.

    python -m tests.integration.chaos.sink_course [faults] [backlog] [restart] [questions]

Writes docs/evidence/sinks.json and sinks.md; a part that was not asked for keeps its last result. Ends with 1 if
anything was lost, doubled or different, or a figure was missed. `CHAOS_KILLS` makes it shorter; `CHAOS_FAULTS` names,
with `|` between, the only faults to strike.
"""

import json
import logging
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

from control.embedded.kafka import EmbeddedKafka
from runtime.errors import BarographError
from sinks.clickhouse import connect
from tests.integration.chaos import sink_faults as faults
from tests.integration.chaos.evidence import commit, hash_of, head, keep, kept, merged, run_parts, say
from tests.integration.chaos.sink_check import reconciled
from tests.integration.chaos.sink_day import questions
from tests.integration.chaos.sink_faults import MEMORY_MB, Fault, Outcome
from tests.integration.chaos.sink_world import SinkWorld, opened, until
from tests.unit.sinks.s3 import S3Server

KILLS: Final = int(os.environ.get("CHAOS_KILLS", "25"))
"""Of each: the ClickHouse sink, the store."""

ONLY: Final = os.environ.get("CHAOS_FAULTS", "").split("|")

PLAN: Final[Sequence[tuple[Fault, int]]] = (
    (faults.NONE, 1),
    (faults.CUT, 10),
    (faults.BEYOND, 5),
    (faults.STORE_FULL, 2),
    (faults.LAKE_FULL, 2),
    (faults.KILL_SINK, KILLS),
    (faults.KILL_STORE, KILLS),
    (faults.S3_KILL, 5),
    (faults.S3_ERRORS, 3),
    (faults.S3_SILENT, 1),
    (faults.SILENT, 1),
    (faults.KILL_LAKE, 5),
    (faults.OUTAGE, 1),
    (faults.LONG_OUTAGE, 1),
)
"""Faults, and how often each strikes."""

OFFERED: Final = 100_000.0
"""Records a second while the backlog is measured."""

AWAY_S: Final = 30.0
"""How long the store is away before it."""

FALL: Final = 200_000.0
"""By how many records a second the backlog has to fall while as many as before come in."""

ROWS: Final = 20_000_000
"""What the store holds that is killed and started again."""

BACK_S: Final = 3.0
"""Within what time it has to answer."""

RESTARTS: Final = 5


def strike_all(broker: EmbeddedKafka, folder: Path) -> list[dict[str, Any]]:
    """Every fault, each on a tape of its own."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server, out = S3Server(), []
    for number, (fault, strikes) in enumerate(PLAN):
        if ONLY != [""] and fault.name not in ONLY:
            continue
        if fault in (faults.STORE_FULL, faults.LAKE_FULL) and not faults.can_mount(folder / "mounts"):
            say(f"{fault.name}: skipped, no right to mount a small file system")
            continue
        made, tape = Outcome(fault.name, strikes), f"sinks-{number}"
        try:
            faults.run(
                made, fault, broker.bootstrap_servers, folder / tape, tape=tape, server=server, seed=hash_of(tape)
            )
        except (AssertionError, BarographError) as error:
            made.failure = f"{type(error).__name__}: {error}"
        out.append({**made.figures(), "commit": commit()})
        say(json.dumps(out[-1], ensure_ascii=False))
        keep("sinks", "faults", merged(PLAN, kept("sinks", "faults") or [], out), time.monotonic(), page)
    server.stop()
    return out


def backlog(broker: EmbeddedKafka, folder: Path) -> dict[str, Any]:
    """The store is away while records go on coming; how fast what has piled up falls once it is back."""
    with opened(broker.bootstrap_servers, folder, "backlog", rate=OFFERED, block=1_000, direct=True) as world:
        world.parts.start("clickhouse")
        world.feed.start()
        seen = world.gauge.seen["clickhouse"]
        until(lambda: seen[-1][2] > 5 * OFFERED, "the sink keeps up")
        world.parts.kill("store")
        time.sleep(AWAY_S)
        took_s = world.start_store()
        begun_s, offered, had = time.monotonic(), world.feed.records, seen[-1][2]
        before = _cpu_s(world)
        until(lambda: world.feed.records - seen[-1][2] < OFFERED, "the backlog is gone", 600)
        fell_s, came, wrote = time.monotonic() - begun_s, world.feed.records - offered, seen[-1][2] - had
        cpu = {name: round(taken - before[name], 1) for name, taken in _cpu_s(world).items()}
        peak_mb = world.gauge.memory_mb["clickhouse"]
        world.feed.finish()
        until(lambda: world.gauge.told("clickhouse")["drained"], "drained", 600)
        world.parts.start("lake")
        world.wait_until_drained()
        told = reconciled(world)
    return {
        "offered_per_s": round(came / fell_s),
        "away_s": round(AWAY_S + took_s, 1),
        "backlog_records": offered - had,
        "gone_after_s": round(fell_s, 2),
        "written_per_s": round(wrote / fell_s),
        "falls_by_per_s": round((wrote - came) / fell_s),
        "cpu_s": cpu,
        "memory_mb": peak_mb,
        "reconcile": told,
        "load_average": os.getloadavg()[0],
    }


def _cpu_s(world: SinkWorld) -> dict[str, float]:
    """CPU that the sink, the store and the whole machine have taken, s."""
    tick = os.sysconf("SC_CLK_TCK")
    out = {"machine": sum(map(int, Path("/proc/stat").read_text().split()[1:4])) / tick}
    for name, pid in world.parts.pids().items():
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        out[name] = (int(words[11]) + int(words[12])) / tick
    return out


def restart(broker: EmbeddedKafka, folder: Path) -> dict[str, Any]:
    """A store with 20 million rows, killed and started again; then a heavy query beside a sink at work."""
    with opened(broker.bootstrap_servers, folder, "restart", rate=20_000, block=400, direct=True) as world:
        _fill(world)
        took = []
        for _ in range(RESTARTS):
            world.parts.kill("store")
            took.append(round(world.start_store(), 2))
            say(f"back after {took[-1]} s")
        world.parts.start("clickhouse")
        world.feed.start()
        seen = world.gauge.seen["clickhouse"]
        until(lambda: seen[-1][2] > 100_000, "the sink keeps up")
        quiet = _rows_a_second(world, 10.0)
        ends: list[tuple[str, float]] = []
        threads = [threading.Thread(target=_heavy, args=(world, limit, ends)) for limit in LIMITS]
        for thread in threads:
            thread.start()
        beside = _rows_a_second(world, 10.0)
        for thread in threads:
            thread.join()
        world.feed.finish()
    return {
        "rows": ROWS,
        "back_s": took,
        "back_p50_s": statistics.median(took),
        "sink_rows_per_s_alone": quiet,
        "sink_rows_per_s_beside": beside,
        "heavy_queries": [{"limit": a, "seconds": round(b, 1)} for a, b in sorted(ends)],
        "load_average": os.getloadavg()[0],
    }


def _fill(world: SinkWorld) -> None:
    """Rows of another tape, made by the store itself."""
    with closing(connect(world.store_url, 600)) as client:
        client.command(
            "INSERT INTO mbo (tape, line, instrument, seq, row, order_id, price, size, ts_event, ts_recv, action, side)"
            " SELECT 'full', '-', 'X', intDiv(number, 1000), number % 1000, number, 1000 + sipHash64(number) % 100, 1,"
            f" number, number, 'A', 'B' FROM numbers({ROWS})"
        )


LIMITS: Final = ({"max_execution_time": "10"}, {"max_memory_usage": "300000000"})
"""What the heavy queries end at: code 159 after 10 s, code 241 at 300 MB."""

HEAVY: Final = "SELECT uniqExact(sipHash64(a.order_id, b.number)) FROM mbo a CROSS JOIN numbers(1000) b"


def _heavy(world: SinkWorld, limit: dict[str, str], ends: list[tuple[str, float]]) -> None:
    began = time.monotonic()
    try:
        with urlopen(f"{world.store_url}/?{urlencode({'query': HEAVY, **limit})}") as answer:
            answer.read()
            ends.append((f"{limit}: it ended by itself", time.monotonic() - began))
    except HTTPError as error:
        code = error.headers["X-ClickHouse-Exception-Code"]
        ends.append((f"{next(iter(limit))}: code {code}", time.monotonic() - began))


def _rows_a_second(world: SinkWorld, seconds: float) -> int:
    seen = world.gauge.seen["clickhouse"]
    begun_s, had = time.monotonic(), seen[-1][2]
    time.sleep(seconds)
    return round((seen[-1][2] - had) / (time.monotonic() - begun_s))


ANSWER_MS: Final = 300
"""An aim, not a gate: within what time a question should be answered over a day of 20 million records."""


def ask_all(broker: EmbeddedKafka, folder: Path) -> dict[str, Any]:
    """The twenty questions over a day in the store."""
    return {"asked": questions(folder, say), "load_average": os.getloadavg()[0]}


def is_good(name: str, result: Any) -> bool:
    if name == "faults":
        return all(fault["good"] for fault in result)
    if name == "backlog":
        return bool(result["falls_by_per_s"] >= FALL) and result["reconcile"]["missing"] == 0
    if name == "questions":
        return all(asked["rows"] for asked in result["asked"])
    return bool(result["back_p50_s"] <= BACK_S and result["sink_rows_per_s_beside"] > 0)


def page(made: dict[str, Any]) -> str:
    """The evidence as a page."""
    lines = [*head("Faults around the sinks", "chaos-sinks", "sinks"), ""]
    if "faults" in made:
        lines += [
            "Two instruments over two partitions, raw blocks with bins, trades and bars, sent at a steady rate by one",
            "process while broker, store and both sinks run as processes of their own; each fault has a tape of its",
            "own. *Back*: from the end of the strike until both sinks had confirmed something new. *Missing* and",
            "*duplicate*: `barograph reconcile`, run when everything had arrived, over ClickHouse and lake. *Equal*:",
            "sums of every column in ClickHouse, weighted by place, and every message of the lake are those of the",
            f"log. *Memory*: most that each sink held, MiB; the limit is {MEMORY_MB}. Progress never went back.",
            "",
            "| fault | strikes | down s | back p50, max s | records | missing | duplicate | equal | memory | left |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [_row(f) for f in made["faults"]["result"]]
        puts = [f["puts"] for f in made["faults"]["result"] if "puts" in f]
        if puts:
            parts, total = sum(p["in_parts"] for p in puts), sum(p["all"] for p in puts)
            lines += ["", f"Of {total} puts into the bucket {parts} were uploads in parts: the project makes none."]
    if "backlog" in made:
        b = made["backlog"]["result"]
        lines += [
            "",
            f"Backlog: {b['offered_per_s']:,} records/s offered, store away for {b['away_s']} s, "
            f"{b['backlog_records']:,} records behind; gone after {b['gone_after_s']} s: {b['written_per_s']:,} "
            f"written a second, the backlog falls by {b['falls_by_per_s']:,} records/s (wanted: {FALL:,.0f}), "
            f"{b['memory_mb']} MiB. CPU meanwhile: sink {b['cpu_s']['clickhouse']} s, store {b['cpu_s']['store']} s, "
            f"all programs of the machine {b['cpu_s']['machine']} s. "
            f"Load average {b['load_average']:.1f}.",
        ]
    if "restart" in made:
        r = made["restart"]["result"]
        ends = "; ".join(f"{e['limit']} after {e['seconds']} s" for e in r["heavy_queries"])
        lines += [
            "",
            f"Restart: kill -9 of a store with {r['rows']:,} rows, until it answers: {r['back_s']} s (wanted: "
            f"{BACK_S:g}). Beside two heavy queries ({ends}) the sink wrote {r['sink_rows_per_s_beside']:,} rows/s, "
            f"alone {r['sink_rows_per_s_alone']:,}, of 20,000 offered. Load average {r['load_average']:.1f}.",
        ]
    if "questions" in made:
        lines += _answers(made["questions"]["result"])
    return "\n".join(lines) + "\n"


def _answers(result: dict[str, Any]) -> list[str]:
    within = sum(asked["p50_ms"] <= ANSWER_MS for asked in result["asked"])
    rows = ((f"{a['number']}. {a['question']}", a["rows"], f"{a['p50_ms']}, {a['least_ms']}") for a in result["asked"])
    return [
        "",
        "Questions of docs/sql.md over a day of 20,000,000 records, 1,000,000 trades and 864,000 bins, warm, median of",
        f"6, the client's time included: {within} of {len(result['asked'])} within {ANSWER_MS} ms. "
        f"Load average {result['load_average']:.1f}.",
        "",
        "| question | rows | p50, least ms |",
        "|---|---|---|",
        *(f"| {' | '.join(map(str, row))} |" for row in rows),
    ]


def _row(f: dict[str, Any]) -> str:
    said, memory = f["reconcile"], f["memory_mb"]
    left = ", ".join(f"{name} {code}" for name, code in f["left_by_themselves"]) or "-"
    equal = "yes" if not f["differs"] and not f.get("failure") else "**no**"
    back = f"{f['back_p50_s']}, {f['back_max_s']}"
    held = f"{memory.get('clickhouse', '?')}, {memory.get('lake', '?')}"
    counts = f"{said.get('missing', '?')} | {said.get('duplicate', '?')}"
    cells = [f["fault"], f["strikes"], f["down_max_s"], back, f"{f['records']:,}", counts, equal, held, left]
    return f"| {' | '.join(map(str, cells))} |"


PARTS: Final[dict[str, Callable[[EmbeddedKafka, Path], Any]]] = {
    "faults": strike_all,
    "backlog": backlog,
    "restart": restart,
    "questions": ask_all,
}


if __name__ == "__main__":
    sys.exit(run_parts("sinks", PARTS, PLAN, is_good, page))
