"""The questions of docs/sql.md: each is asked of a simulated market, and answered from the same rows in another way."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from clickhouse_connect.driver.client import Client

from connectors.simulate import START_NS
from control.embedded.store import running_store
from schemas.units import NS_PER_SECOND, UNDEF_PRICE
from sinks.clickhouse import connect
from tests.integration import sql_tape
from tests.integration.sql_tape import FUNDING, SqlTape

pytestmark = pytest.mark.real

PAGE = (Path(__file__).parents[2] / "docs" / "sql.md").read_text()
QUESTIONS = dict(re.findall(r"^### (\d+)\. .*?```sql\n(.*?)\n```", PAGE, re.DOTALL | re.MULTILINE))
FROM_NS, TO_NS = START_NS + 600 * NS_PER_SECOND, START_NS + 1_800 * NS_PER_SECOND
Rows = list[tuple[Any, ...]]
Answer = Callable[["Market"], Rows]


class Market:
    """Rows of the asked instrument, by table."""

    def __init__(self, made: SqlTape) -> None:
        self.made, self.name = made, sorted(made.known)[0]
        self.bins, self.trades, self.mbo = (made.rows(table, self.name) for table in ("bins", "trades", "mbo"))
        self.tick_px = made.known[self.name].tick_px
        ids, counts = np.unique(self.mbo["order_id"][self.mbo["action"] != b"A"], return_counts=True)
        self.order_id = int(ids[counts.argmax()])

    def frame(self, table: str) -> pl.DataFrame:
        """Scalar columns as a polars frame, in order."""
        return pl.DataFrame({n: a for n, a in getattr(self, table).items() if a.ndim == 1 and a.dtype.kind != "S"})

    def bins_with_mid(self) -> pl.DataFrame:
        """Bins that have a mid."""
        return self.frame("bins").filter(pl.col("mid_px") != UNDEF_PRICE)


def start_of(ns: np.ndarray, seconds: int) -> np.ndarray:
    """Seconds since the epoch, floored to a multiple."""
    return ns // (seconds * NS_PER_SECOND) * seconds


def spread(m: Market) -> Rows:
    b = m.bins_with_mid().filter(pl.col("book_state") == 2)
    ticks = ((b["best_ask_px"] - b["best_bid_px"]) / m.tick_px).to_numpy()
    hours = start_of(b["ts_end_ns"].to_numpy(), 3600)
    out = []
    for hour in np.unique(hours):
        t = np.sort(ticks[hours == hour])
        out.append((int(hour), len(t), t.mean(), t[len(t) // 2], t[int(len(t) * 0.95)]))
    return out


def five_minutes(m: Market) -> Rows:
    out, start = [], start_of(m.trades["ts_ns"], 300)
    for at in np.unique(start):
        inside = {n: a[start == at] for n, a in m.trades.items()}
        px, sz = inside["px"], inside["sz"]
        vwap = sum(map(int, px * sz)) // int(sz.sum())
        prices = (px[0], px.max(), px.min(), px[-1], vwap)
        out.append((int(at) * NS_PER_SECOND, *(int(p) / 1e9 for p in prices), int(sz.sum())))
    return out


def heaviest(m: Market) -> Rows:
    t = m.frame("trades").with_columns(pl.col("px") // 250_000_000 * 250_000_000)
    found = t.group_by("px").agg(
        pl.col("sz").sum().alias("v"),
        pl.col("sz").filter(pl.col("side") == 1).sum().alias("b"),
        pl.col("sz").filter(pl.col("side") == -1).sum().alias("s"),
    )
    rows = found.sort(["v", "px"], descending=[True, False]).head(10)
    return [(px / 1e9, v, b, s) for px, v, b, s in rows.rows()]


def largest(m: Market) -> Rows:
    t = m.frame("trades").sort(["sz", "ts_ns", "seq", "row"], descending=[True, False, False, False]).head(10)
    out = []
    for r in t.iter_rows(named=True):
        stood = r["best_ask_sz"] if r["side"] == 1 else r["best_bid_sz"]
        out.append((r["ts_ns"], r["side"], r["sz"], r["px"] / 1e9, stood, r["sz"] > stood))
    return out


def aggressor(m: Market) -> Rows:
    out, minutes = [], start_of(m.trades["ts_ns"], 60)
    for minute in np.unique(minutes):
        side, sz = m.trades["side"][minutes == minute], m.trades["sz"][minutes == minute]
        bought, sold = int(sz[side == 1].sum()), int(sz[side == -1].sum())
        out.append((int(minute), bought, sold, (bought - sold) / (bought + sold) if bought + sold else 0))
    return out


def crossing(m: Market) -> Rows:
    t = {n: a.astype(float) for n, a in m.trades.items()}
    mid = (t["best_bid_px"] + t["best_ask_px"]) / 2
    good = (t["side"] != 0) & (m.trades["best_bid_px"] != UNDEF_PRICE) & (m.trades["best_ask_px"] != UNDEF_PRICE)
    out = []
    for name, low, high in (("1", 1, 2), ("2-4", 2, 5), ("5-19", 5, 20), ("20+", 20, 1 << 40)):
        at = good & (t["sz"] >= low) & (t["sz"] < high)
        if not at.any():
            continue
        sz, px, half = t["sz"][at], t["px"][at], (t["best_ask_px"] - t["best_bid_px"])[at] / 2
        effective = (sz * t["side"][at] * (px - mid[at]) / mid[at]).sum() / sz.sum() * 1e4
        out.append((name, int(at.sum()), effective, (sz * half / mid[at]).sum() / sz.sum() * 1e4))
    return out


def volatility(m: Market) -> Rows:
    mid, ends = m.bins["mid_px"], m.bins["ts_end_ns"]
    both = (mid[1:] != UNDEF_PRICE) & (mid[:-1] != UNDEF_PRICE)
    squares = np.log(mid[1:] / mid[:-1]) ** 2
    quarter = start_of(ends[1:], 900)
    return [(int(q), math.sqrt(squares[both & (quarter == q)].sum()) * 1e4) for q in np.unique(quarter[both])]


def imbalance(m: Market) -> Rows:
    b = m.bins_with_mid()
    moves, ofi = np.diff(b["mid_px"].to_numpy()) / m.tick_px, b["ofi"].to_numpy()
    own, following = np.append(0, moves), np.append(moves, 0)
    corr = [np.corrcoef(ofi, x)[0, 1] for x in (own, following)]
    return [(len(ofi), *corr, np.cov(ofi, own, bias=True)[0, 1] / ofi.var())]


def pulling(m: Market) -> Rows:
    b = m.bins
    moved = (b["best_bid_move"] != 0) | (b["best_ask_move"] != 0)
    before = [slice(max(0, at - 10), at) for at in range(len(moved))]
    pulled, added = (np.array([int(b[n][s].sum()) for s in before]) for n in ("cancel_count", "add_count"))
    return [
        (bool(v), int((moved == v).sum()), pulled[moved == v].sum() / added[moved == v].sum()) for v in (False, True)
    ]


def lives(m: Market) -> Rows:
    at = (m.mbo["ts_event"] >= FROM_NS) & (m.mbo["ts_event"] < TO_NS)
    orders: dict[int, dict[bytes, list[int]]] = {}
    for name, action, ns in zip(*(m.mbo[n][at].tolist() for n in ("order_id", "action", "ts_event")), strict=True):
        orders.setdefault(name, {}).setdefault(action, []).append(ns)
    found: dict[str, list[int]] = {}
    for seen in orders.values():
        gone = seen.get(b"C", []) + seen.get(b"F", [])
        if b"A" in seen and gone and max(gone) >= min(seen[b"A"]):
            found.setdefault("filled" if b"F" in seen else "cancelled", []).append(max(gone) - min(seen[b"A"]))
    out = []
    for ended, values in sorted(found.items()):
        values.sort()
        picked = (values[len(values) // 2], values[int(len(values) * 0.9)])
        out.append((ended, len(values), *(v / 1e9 for v in picked)))
    return out


def one_order(m: Market) -> Rows:
    at = m.mbo["order_id"] == m.order_id
    columns = [m.mbo[n][at].tolist() for n in ("ts_event", "action", "side", "price", "size", "sequence")]
    return [(t, a.decode(), s.decode(), p / 1e9, z, q) for t, a, s, p, z, q in zip(*columns, strict=True)]


def heatmap(m: Market) -> Rows:
    out = []
    for at in np.flatnonzero((m.bins["ts_end_ns"] > FROM_NS) & (m.bins["ts_end_ns"] <= TO_NS)):
        b = {n: a[at] for n, a in m.bins.items()}
        for k in range(-10, 11):
            bid, ask = b["bid_depth"][k + 10], b["ask_depth"][k + 10]
            out.append((int(b["ts_end_ns"]), k, int((b["spot_tick"] + k) * m.tick_px) / 1e9, bid, ask, bid + ask))
    return out


def sessions(m: Market) -> Rows:
    out = []
    for name in sorted(m.made.known):
        b = m.made.rows("bins", name)
        lasts = sql_tape.state_lasts_ns(b)
        valid, suspect = (lasts[b["book_state"] == state].sum() / 1e9 for state in (2, 3))
        known, gaps = lasts.sum() / 1e9, 2 if name == next(iter(m.made.known)) else 0
        clean = valid == known and not gaps
        out.append((name, "2024-01-02", known, valid / known, suspect, gaps, lasts.max() / 1e9, clean))
    return out


def levels(m: Market) -> Rows:
    valid = m.bins["book_state"] == 2
    return [
        (level + 1, m.bins["bid_sz"][valid, level].mean(), m.bins["ask_sz"][valid, level].mean()) for level in range(10)
    ]


def messages_a_trade(m: Market) -> Rows:
    out, hours = [], start_of(m.bins["ts_end_ns"], 3600)
    for hour in np.unique(hours):
        sums = [int(m.bins[f"{n}_count"][hours == hour].sum()) for n in ("add", "cancel", "modify", "trade")]
        out.append((int(hour), *sums, sum(sums[:3]) / sums[3] if sums[3] else 0))
    return out


def microstates(m: Market) -> Rows:
    b = m.bins_with_mid()
    following = np.append(np.diff(b["mid_px"].to_numpy()), 0) / m.tick_px
    state = b["microstate"].to_numpy()
    return [(int(s), int((state == s).sum()), following[state == s].mean()) for s in np.unique(state)]


def afterwards(m: Market) -> Rows:
    t, b = m.trades, m.bins_with_mid()
    good = (t["side"] != 0) & (t["best_bid_px"] != UNDEF_PRICE) & (t["best_ask_px"] != UNDEF_PRICE)
    at = np.searchsorted(b["ts_end_ns"].to_numpy(), t["ts_ns"] + 10 * NS_PER_SECOND, side="right") - 1
    good &= at >= 0
    mid = (t["best_bid_px"].astype(float) + t["best_ask_px"]) / 2
    moved = t["side"] * (b["mid_px"].to_numpy()[at] - mid) / m.tick_px
    return [(s, int((good & (t["side"] == s)).sum()), moved[good & (t["side"] == s)].mean()) for s in (-1, 1)]


def funding(m: Market) -> Rows:
    starts = np.array([START_NS + after * NS_PER_SECOND for _, after in FUNDING])
    at = np.searchsorted(starts, m.trades["ts_ns"], side="right") - 1
    found = {rate: at == number for number, (rate, _) in enumerate(FUNDING)}
    return sorted((rate, int(mask.sum()), int(m.trades["sz"][mask].sum())) for rate, mask in found.items())


def rising(m: Market) -> Rows:
    at = (m.bins["ts_end_ns"] > FROM_NS) & (m.bins["ts_end_ns"] <= TO_NS)
    up = at & (m.bins["chase_up"] == 1)
    add, pull = m.bins["v_add"], m.bins["v_pull"]
    means = (add[up].mean(0), pull[up].mean(0), add[at].mean(0), pull[at].mean(0))
    return [(k, *(x[k + 10] for x in means)) for k in range(-10, 11)]


def silence(m: Market) -> Rows:
    ends = m.bins["ts_end_ns"]
    found = sorted(zip(np.append(np.diff(ends), 0).tolist(), ends.tolist(), strict=True), key=lambda x: (-x[0], x[1]))
    return [(at, lasts / 1e9) for lasts, at in found[:10]]


ANSWERS: dict[str, Answer] = {
    "1": spread, "2": five_minutes, "3": heaviest, "4": largest, "5": aggressor, "6": crossing, "7": volatility,
    "8": imbalance, "9": pulling, "10": lives, "11": one_order, "12": heatmap, "13": sessions, "14": levels,
    "15": messages_a_trade, "16": microstates, "17": afterwards, "18": funding, "19": rising, "20": silence,
}  # fmt: skip


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return Market(sql_tape.make(tmp_path_factory.mktemp("market")))


@pytest.fixture(scope="module")
def client(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with running_store(tmp_path_factory.mktemp("questions")) as url:
        sql_tape.fill(url, market.made)
        client = connect(url)
        yield client
        client.close()


def plain(value: Any) -> Any:
    """Times as seconds since the epoch, days as text, truth as 0 or 1, everything else as it is."""
    if isinstance(value, bool | np.bool_):
        return int(value)
    if hasattr(value, "timestamp"):
        return int(value.timestamp())
    return value.isoformat() if hasattr(value, "isoformat") else value


def test_there_are_twenty_and_each_has_an_answer() -> None:
    assert list(QUESTIONS) == list(ANSWERS) == [str(n) for n in range(1, 21)]


@pytest.mark.parametrize("number", ANSWERS)
def test_the_answer_is_that_of_the_rows(number: str, market: Market, client: Client) -> None:
    parameters = {
        "tape": "sim", "line": "main", "instrument": market.name, "from_ns": FROM_NS, "to_ns": TO_NS,
        "order_id": market.order_id,
    }  # fmt: skip
    used = {name: value for name, value in parameters.items() if f"{{{name}:" in QUESTIONS[number]}
    found = [
        tuple(map(plain, row)) for row in client.query(QUESTIONS[number], parameters=used, tz_mode="aware").result_rows
    ]
    wanted = [tuple(map(plain, row)) for row in ANSWERS[number](market)]
    assert len(found) == len(wanted) > 0
    for mine, theirs in zip(found, wanted, strict=True):
        for got, due in zip(mine, theirs, strict=True):
            assert got == (due if isinstance(due, str) else pytest.approx(due, rel=1e-9, abs=1e-12)), (mine, theirs)
