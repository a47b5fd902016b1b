"""A day of 20 million records in the store, and how long each question of docs/sql.md takes over it.

The store makes the rows itself from hashes of their numbers: in minutes, and in the widths that a line has by default
(864,000 bins of 100 ms, vectors of 101). Four of the vectors are full, those that the questions read; the rest is zero,
as most of a grid is. That the answers are right is shown elsewhere, over a small tape through the real stages.
"""

import re
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from clickhouse_connect.driver.client import Client

from control.embedded.store import running_store
from schemas.units import NS_PER_SECOND
from sinks.clickhouse import connect
from sinks.ddl import apply_ddl

RECORDS: Final = 20_000_000
TRADES: Final = 1_000_000
BINS: Final = 864_000

ASKED: Final = 7
"""How often each question is asked; the first answer warms and is not counted."""

START_NS: Final = 1_704_153_600 * NS_PER_SECOND
DAY_NS: Final = 86_400 * NS_PER_SECOND
NOON_NS: Final = START_NS + DAY_NS // 2

QUESTION: Final = re.compile(r"^### (\d+)\. (.*?)\n.*?```sql\n(.*?)\n```", re.DOTALL | re.MULTILINE)
PARAMETERS: Final = {
    "tape": "day",
    "line": "main",
    "instrument": "GLBX.MDP3:ESH4",
    "from_ns": NOON_NS,
    "to_ns": NOON_NS + 3_600 * NS_PER_SECOND,
    "order_id": 10_000_000,
}
SLICE_NS: Final = 60 * NS_PER_SECOND
"""Of question 12, the slice of the heatmap: what a screen shows, not an hour."""

_PLACE: Final = "tape, line, instrument, partition, seq, part, row, run"
_WHERE: Final = "'day', '{line}', 'GLBX.MDP3:ESH4', 0, intDiv({at}, 4096), 0, ({at}) % 4096, '{run}'"


def fill(client: Client, say: Callable[[str], None]) -> None:
    """Make the rows, some hundred thousand at a time."""
    for name, rows, step, query in (
        ("mbo", RECORDS, 1_000_000, _mbo()),
        ("trades", TRADES, TRADES, _trades()),
        ("bins", BINS, 36_000, _bins()),
    ):
        began = time.monotonic()
        for first in range(0, rows, step):
            client.command(query.replace("NUMBERS", f"numbers({first}, {step})"))
        say(f"{rows:,} rows of {name} after {time.monotonic() - began:.0f} s")


def _mbo() -> str:
    """Every second record adds an order; the others cancel, change or fill one of the last 20,000."""
    earlier = "number - 1 - 2 * (sipHash64(number) % 20000)"
    return (
        f"INSERT INTO mbo ({_PLACE}, rtype, publisher_id, instrument_id, ts_event, order_id, price, size, flags,"
        " channel_id, action, side, ts_recv, ts_in_delta, sequence) SELECT "
        f"{_WHERE.format(line='-', at='number', run='')}, 160, 1, 7,"
        f" toUInt64({START_NS} + number * {DAY_NS // RECORDS} + sipHash64(number) % 1000),"
        f" if(number % 2 = 0, number, if(number > 40002, {earlier}, 0)),"
        " 5000000000000 + toInt64((sipHash64(number, 1) % 41) - 20) * 250000000, 1 + sipHash64(number, 2) % 20, 128, 0,"
        " multiIf(number % 2 = 0, 'A', number % 19 = 0, 'F', number % 5 = 0, 'M', 'C'),"
        f" if(sipHash64(number, 3) % 2 = 0, 'B', 'A'), toUInt64({START_NS} + number * {DAY_NS // RECORDS} + 2000), 100,"
        " number FROM NUMBERS"
    )


def _trades() -> str:
    mid = "5000000000000 + toInt64(intDiv(number, 4000) % 200) * 250000000"
    return (
        f"INSERT INTO trades ({_PLACE}, ts_ns, px, sz, side, sequence, best_bid_px, best_bid_sz, best_ask_px,"
        f" best_ask_sz) SELECT {_WHERE.format(line='main', at='number * 20', run='r')},"
        f" {START_NS} + number * {DAY_NS // TRADES}, {mid} + toInt64(sipHash64(number) % 2) * 250000000,"
        " 1 + sipHash64(number, 1) % 30, if(sipHash64(number) % 2 = 0, -1, 1), number,"
        f" {mid}, 1 + sipHash64(number, 2) % 99, {mid} + 250000000, 1 + sipHash64(number, 3) % 99 FROM NUMBERS"
    )


def _bins() -> str:
    names = "v_add, v_pull, bid_depth, ask_depth"
    vectors = [f"arrayMap(i -> toFloat64(sipHash64(number, i, {n}) % 64) / 8, range(101))" for n in range(4)]
    sizes = [f"arrayMap(i -> toInt64(sipHash64(number, i, {n}) % 500), range(10))" for n in range(2)]
    cell_ns = DAY_NS // BINS
    return (
        f"INSERT INTO bins ({_PLACE}, tick_px, bucket, bin_seq, ts_start_ns, ts_end_ns, event_id, event_count,"
        " book_state, best_bid_px, best_ask_px, mid_px, spot_tick, best_bid_move, best_ask_move, microstate, chase_up,"
        " ofi, add_count, cancel_count, modify_count, fill_count, trade_count, bid_sz, ask_sz, last_event_id,"
        f" {names}) SELECT {_WHERE.format(line='main', at='number * 23', run='r')}, 250000000, 1,"
        f" {START_NS // cell_ns} + number, {START_NS} + number * {cell_ns}, {START_NS} + (number + 1) * {cell_ns},"
        " number * 23, 23, 2, 5000000000000 + m * 250000000 AS bid, bid + 250000000, bid + 125000000, 20000 + m,"
        " number % 7 = 0, number % 11 = 0, number % 9, number % 77 = 0, toFloat64(sipHash64(number) % 21) - 10,"
        f" 10 + number % 5, 8 + number % 3, 3, 1, 1, {', '.join(sizes)},"
        f" arrayMap(i -> toInt64(number * 23), range(101)), {', '.join(vectors)}"
        " FROM (SELECT number, toInt64(sipHash64(intDiv(number, 5)) % 8) AS m FROM NUMBERS)"
    )


def ask(client: Client, page: str) -> list[dict[str, Any]]:
    """Every question of the page, warm: its number and words, rows of the answer, median and least milliseconds."""
    out = []
    for number, words, query in QUESTION.findall(page):
        used = {name: value for name, value in PARAMETERS.items() if f"{{{name}:" in query}
        if number == "12":
            used["to_ns"] = NOON_NS + SLICE_NS
        took = []
        for _ in range(ASKED):
            began = time.perf_counter()
            rows = len(client.query(query, parameters=used).result_rows)
            took.append((time.perf_counter() - began) * 1e3)
        p50, least = statistics.median(took[1:]), min(took)
        out.append(
            {"number": int(number), "question": words, "rows": rows, "p50_ms": round(p50), "least_ms": round(least)}
        )
    return out


def questions(folder: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Fill a store of its own and ask."""
    folder.mkdir(parents=True)
    page = (Path(__file__).parents[3] / "docs" / "sql.md").read_text()
    with running_store(folder) as url, closing(connect(url, 3_600)) as client:
        apply_ddl(client)
        fill(client, say)
        return ask(client, page)
