"""`make chaos`: every fault on a real broker, the determinism matrix and first starts under load, as a table.

    python -m tests.integration.chaos.course [faults] [matrix] [starts]

Writes docs/evidence/chaos.json and chaos.md; a part that was not asked for keeps its last result. Ends with 1 if
anything was lost, doubled or different. `CHAOS_KILLS` and `CHAOS_STARTS` make it shorter; `CHAOS_FAULTS` names, with
`|` between, the only faults to strike.
"""

import itertools
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from control.embedded.kafka import EmbeddedKafka
from runtime.errors import BarographError
from schemas.topics import DERIVED
from tests.integration.chaos import faults
from tests.integration.chaos.evidence import commit, hash_of, head, run_parts, say
from tests.integration.chaos.faults import Fault, Load, Outcome, compare, make_load
from tests.integration.chaos.tape import Content, blocks_of, make_content, sprinkled, stored
from tests.integration.chaos.world import opened
from tests.integration.conftest import ROOT

DATA: Final = Path(os.environ.get("BAROGRAPH_DATA", ROOT.parent / "shared" / "data"))
AAPL: Final = DATA / "derived" / "AAPL_20120621_lobster50.mbo.dbn.zst"
ESH4: Final = DATA / "dbn" / "esh4-glbx-mdp3-20231225.mbo.dbn.zst"

KILLS: Final = int(os.environ.get("CHAOS_KILLS", "100"))
ONLY: Final = os.environ.get("CHAOS_FAULTS", "").split("|")
STARTS: Final = int(os.environ.get("CHAOS_STARTS", "200"))
BLOCK_RECORDS: Final = 20
"""Small blocks: many messages for a fault to strike between."""

PLAN: Final[Sequence[tuple[Fault, int]]] = (
    (faults.NONE, 1),
    (faults.PAUSE, 3),
    (faults.SCALE, 2),
    (faults.BROKER, 5),
    (faults.DISK, 2),
    (faults.OUTAGE, 1),
    (faults.RESTART, 5),
    (faults.KILL_ONE_OF_TWO, 5),
    (faults.KILL, KILLS),
)
"""Faults, and how often each strikes."""

RATE: Final = 40.0
"""Raw messages per second while faults strike: ten in each partition, so that a gap is told to 0.1 s."""

OUTAGE_RATE: Final = 20.0
"""The same while the broker is away for minutes, that the load lasts."""

WORKERS: Final = (1, 2, 4)
BLOCKS: Final = (1, 100, 1_024)
AT_ONCE: Final = 3
"""First starts side by side: the machine is fully loaded."""


def whole_tape(folder: Path) -> Content:
    """ESH4, AAPL and six simulated instruments of 10,000 records each."""
    return make_content(folder, {AAPL: None, ESH4: None}, simulated_records=10_000, hours=0.1)


def small_tape(folder: Path) -> Content:
    """Heads of the same files; that of ESH4 goes beyond its opening snapshot."""
    return make_content(folder, {AAPL: 1_000, ESH4: 9_500}, simulated_records=300, hours=0.01)


def strike_all(broker: EmbeddedKafka, folder: Path) -> list[dict[str, Any]]:
    """Every fault, each on a tape of its own."""
    load, out = make_load(whole_tape(folder / "files"), blocks_of(BLOCK_RECORDS)), []
    say(f"{load.content.records} records in {[len(messages) for messages in load.raw]} messages")
    for fault, strikes in PLAN:
        if ONLY != [""] and fault.name not in ONLY:
            continue
        if fault is faults.DISK and not faults.can_mount():
            say(f"{fault.name}: skipped, no right to mount a small file system")
            continue
        total, tapes = Outcome(fault.name, 0, fault.workers), 0
        while total.strikes < strikes and not total.failure:
            tape = f"fault-{len(out)}-{tapes}"
            total.add(attempt(fault, strikes - total.strikes, load, broker, folder / tape, tape))
            tapes += 1
            say(json.dumps({**total.figures(), "tapes": tapes}, ensure_ascii=False))
        out.append({**total.figures(), "tapes": tapes, "commit": commit()})
    return out


def attempt(fault: Fault, strikes: int, load: Load, broker: EmbeddedKafka, folder: Path, tape: str) -> Outcome:
    """One run; what stopped it is part of the outcome."""
    made = Outcome(fault.name, strikes, fault.workers)
    rate = OUTAGE_RATE if fault is faults.OUTAGE else RATE
    try:
        faults.run(made, fault, load, broker, folder, tape=tape, rate=rate, seed=hash_of(tape))
    except (AssertionError, BarographError) as error:
        made.failure = f"{type(error).__name__}: {error}"
    return made


def matrix(broker: EmbeddedKafka, folder: Path) -> dict[str, Any]:
    """Every combination of workers, block size, restarts and clocks gives the same rows and books."""
    content = small_tape(folder / "files")
    loads = {records: make_load(content, blocks_of(records)) for records in BLOCKS}
    wanted, cases = loads[BLOCKS[0]].wanted, []
    for load in loads.values():
        assert not compare(load.wanted, wanted, bytes_too=False)
    for blocks, workers, restarts, clocks in itertools.product(BLOCKS, WORKERS, (False, True), (False, True)):
        tape = f"matrix-{len(cases)}"
        differs = case(loads[blocks], broker, folder / tape, tape, workers, restarts=restarts, clocks=clocks)
        cases.append([blocks, workers, restarts, clocks, differs])
        say(f"blocks of {blocks}, {workers} workers, restarts {restarts}, clocks {clocks}: {differs or 'equal'}")
    rows = {spec.stream: sum(1 for _ in wanted[spec].row_hashes) for spec in DERIVED}
    return {
        "records": content.records,
        "rows": {spec.stream: wanted[spec].rows for spec in DERIVED},
        "instruments": rows,
        "cases": len(cases),
        "equal": sum(not case[-1] for case in cases),
        "different": [case for case in cases if case[-1]],
    }


def case(
    load: Load, broker: EmbeddedKafka, folder: Path, tape: str, workers: int, *, restarts: bool, clocks: bool
) -> list[str]:
    """One run; what differs from the undisturbed result: rows and books, and bytes if the messages are the same."""
    rng, raw = random.Random(tape), load.named(tape)
    if clocks:
        raw = [list(sprinkled(messages, rng)) for messages in raw]
    manifest = load.content.manifest(tape, load.rule)
    with opened(broker, manifest, raw, folder, rate=sum(map(len, raw)) / 4, checkpoint_min_s=0.2) as world:
        for slot in range(workers):
            world.workers.start(slot)
        world.publisher.start()
        if restarts:
            world.watcher.wait_for_news(0)
            faults.kill_worker(world, rng)
        world.publisher.finish()
        world.wait_until_computed()
        if restarts:
            faults.kill_worker(world, rng)
            world.wait_until_computed()
        found = {spec: stored(broker.bootstrap_servers, world.manifest, spec) for spec in DERIVED}
    return compare(found, load.wanted, bytes_too=not clocks)


def first_starts(broker: EmbeddedKafka, folder: Path) -> dict[str, Any]:
    """New topics and a new group each time; the worker starts while the publisher writes; every message must show."""
    load = make_load(
        make_content(folder / "files", {AAPL: 500, ESH4: 500}, simulated_records=250, hours=0.005), blocks_of(5)
    )
    seconds: list[float] = []

    def start(number: int) -> list[str]:
        tape, began = f"first-{number}", time.monotonic()
        manifest = load.content.manifest(tape, load.rule)
        with opened(broker, manifest, load.named(tape), folder / tape, rate=load.messages / 5) as world:
            world.publisher.start()
            time.sleep(random.Random(number).random())
            world.workers.start(0)
            world.watcher.wait_for_news(0)
            seconds.append(time.monotonic() - began)
            world.publisher.finish()
            world.wait_until_computed()
            found = {spec: stored(broker.bootstrap_servers, world.manifest, spec) for spec in DERIVED}
        differs = compare(found, load.wanted)
        if differs or world.workers.left:
            say(f"{tape}: {differs} {world.workers.left}")
        return [*differs, *(f"left with {code}" for _, code in world.workers.left)]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(start, range(STARTS)))
    return {
        "starts": STARTS,
        "at_once": AT_ONCE,
        "messages_each": sum(load.wanted[spec].messages for spec in DERIVED),
        "exact": sum(not differs for differs in results),
        "different": {n: differs for n, differs in enumerate(results) if differs},
        "first_output_p50_s": round(statistics.median(seconds), 2),
        "first_output_max_s": round(max(seconds), 2),
    }


def table(made: dict[str, Any]) -> str:
    """The evidence as a page."""
    lines = [*head("Faults on a real broker", "chaos", "chaos"), ""]
    if "faults" in made:
        lines += [
            "ESH4, AAPL and six simulated instruments over 4 partitions, in blocks of 20 records, published while the",
            "faults strike. *Gap*: longest silence of the partition that is silent longest, beyond the time in which",
            "the broker was down or the disk full. *Repeats*: messages written again, which every consumer drops.",
            "*Exact*: rows by stream and instrument, books and message bytes equal those of an undisturbed",
            "computation. *SIGTERM*: longest time until the exit.",
            "",
            "| fault | strikes, tapes | gap p50, max s | down s | messages | repeats | lost | exact | SIGTERM s |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {f['fault']} | {f['strikes']}, {f['tapes']} | {f['gap_p50_s']}, {f['gap_max_s']} | {f['down_s']} "
            f"| {f['messages']} | {f['repeats_dropped']} | {f['lost']} | {'yes' if f['exact'] else '**no**'} "
            f"| {f['sigterm_to_exit_max_s']} |"
            for f in made["faults"]["result"]
        ]
    if "matrix" in made:
        m = made["matrix"]["result"]
        lines += [
            "",
            f"Determinism: {m['equal']} of {m['cases']} combinations of 1, 2, 4 workers, blocks of 1, 100, 1,024",
            "records, with and without kills, with and without clock messages give equal rows and books "
            f"({m['records']} records).",
        ]
    if "starts" in made:
        s = made["starts"]["result"]
        lines += [
            "",
            f"First starts under load, {s['at_once']} side by side: {s['exact']} of {s['starts']} exact "
            f"({s['messages_each']} messages each); first output of every partition after {s['first_output_p50_s']} s "
            f"(p50), {s['first_output_max_s']} s (max).",
        ]
    lines += ["", *(f"- {name}: commit {_commits(part)}{part.get('remark', '')}" for name, part in made.items())]
    return "\n".join(lines) + "\n"


def _commits(part: dict[str, Any]) -> str:
    """What a part was run at: faults may have been run one by one."""
    result = part["result"]
    each = result if isinstance(result, list) else []
    return ", ".join(dict.fromkeys(fault.get("commit", part["commit"]) for fault in each)) or str(part["commit"])


PARTS: Final[dict[str, Callable[[EmbeddedKafka, Path], Any]]] = {
    "faults": strike_all,
    "matrix": matrix,
    "starts": first_starts,
}


def is_good(name: str, result: Any) -> bool:
    if name == "faults":
        return all(fault["exact"] for fault in result)
    return bool(result["different"] == ({} if name == "starts" else []))


if __name__ == "__main__":
    sys.exit(run_parts("chaos", PARTS, PLAN, is_good, table))
