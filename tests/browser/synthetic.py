"""A small synthetic market that fills bins and trades by the contracts of `schemas`, for tests without a pipeline.

Depth rests on a ladder of ticks and thins out by cancels; arrivals are likelier near the quotes; a few big orders rest
at round prices; market orders eat the best level, which moves the mid. Velocities are exponentially weighted as the
engine does it, so the picture behaves like the real one. All values are deterministic in the seed.
"""

import asyncio
import threading
import time
from dataclasses import dataclass, field

import numpy as np

from schemas import bins, trades
from schemas.columns import empty_table
from schemas.units import NS_PER_MS, UNDEF_PRICE
from ws_gateway.fanout import Hub, Name, Tape
from ws_gateway.frames import Block

LADDER = 4096
CELL_S = 0.1

TAPE_ID = "0" * 16
"""Identity of the synthetic tape, in the hub and in the api's manifest."""


@dataclass
class Market:
    radius: int = 50
    seed: int = 1
    tick_px: int = 250_000_000
    first_tick: int = 17_192
    bin_seq: int = 17_034_624_000
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.base = self.first_tick * 1 + 2048
        self.last_trade_px = UNDEF_PRICE
        self.depth = np.zeros(LADDER)
        self.bid = 2047
        distance = np.abs(np.arange(LADDER) - 2047.5)
        self.depth[:] = self.rng.poisson(60 * np.exp(-distance / 400) * (1 - np.exp(-(distance + 1) / 4)))
        self.walls = {int(t): 1.0 for t in range(0, LADDER, 20)}
        self.mass = {k: np.zeros(LADDER) for k in ("add", "pull", "fill")}
        self.v = {k: np.zeros(LADDER) for k in bins.CHAINS}
        self.a = {k: np.zeros(LADDER) for k in bins.CHAINS}
        self.drift = 0.0
        self.events = 0

    def step(self):
        """One bin: its row as a table, and its trades as a table."""
        rng, ask = self.rng, self.bid + 1
        old_bid, old_ask = self._sides()
        ticks = np.arange(LADDER)
        distance = np.where(ticks <= self.bid, self.bid - ticks, ticks - ask)
        add = rng.poisson(0.05 + 3.0 * np.exp(-distance / 9.0) + 1.2 * np.exp(-distance / 60.0)).astype(float)
        for tick in (20 * rng.integers(0, LADDER // 20, 6)).tolist():
            if distance[tick] < 80:
                add[tick] += rng.integers(40, 220)
        rate = 0.02 + 0.05 * np.exp(-distance / 6.0)
        pull = np.minimum(self.depth, rng.binomial(self.depth.astype(int), rate))
        if rng.random() < 0.02:
            tick = self.bid - int(rng.integers(-30, 30))
            pull[tick] = self.depth[tick] * 0.9
        fill = np.zeros(LADDER)
        self.depth += add - pull
        self.drift = 0.97 * self.drift + rng.normal(0, 0.12)
        done = self._trade(fill)
        self._settle()
        new_bid, new_ask = self._sides()
        self._physics(add, pull, fill, new_bid - old_bid, new_ask - old_ask)
        self.events += int(add.sum() + pull.sum() + fill.sum()) % 997 + 1
        return self._row(new_bid, new_ask, done), self._trades(done)

    def _sides(self):
        bid, ask = self.depth.copy(), self.depth.copy()
        bid[self.bid + 1 :] = 0
        ask[: self.bid + 1] = 0
        return bid, ask

    def _trade(self, fill):
        done = []
        for _ in range(self.rng.poisson(1.4)):
            buys = self.rng.random() < 0.5 + np.clip(self.drift, -0.4, 0.4)
            size = int(self.rng.pareto(1.6) * 6) + 1
            tick = self.bid + 1 if buys else self.bid
            while size > 0 and 100 < tick < LADDER - 100:
                eaten = min(size, self.depth[tick])
                self.depth[tick] -= eaten
                fill[tick] += eaten
                size -= eaten
                if eaten:
                    done.append((tick, int(eaten), 1 if buys else -1))
                tick += 1 if buys else -1
                if len(done) > 8:
                    break
        return done

    def _settle(self):
        while self.depth[self.bid] <= 4 and self.bid > 200 and self.drift < 0:
            self.depth[self.bid] = 0
            self.bid -= 1
            self.depth[self.bid + 1] += self.rng.integers(4, 12)
        while self.depth[self.bid + 1] <= 4 and self.bid < LADDER - 200 and self.drift >= 0:
            self.depth[self.bid + 1] = 0
            self.bid += 1
            self.depth[self.bid] += self.rng.integers(4, 12)
        self.depth[self.bid] = max(self.depth[self.bid], 1)
        self.depth[self.bid + 1] = max(self.depth[self.bid + 1], 1)

    def _physics(self, add, pull, fill, d_bid, d_ask):
        for key, delta in (("add", add), ("pull", pull), ("fill", fill)):
            self.mass[key] = self.mass[key] * np.exp(-CELL_S / 30) + delta
        av, aa = -np.expm1(-CELL_S / 2), -np.expm1(-CELL_S / 5)
        deltas = {"add": add, "pull": pull, "fill": fill, "bid_depth": d_bid, "ask_depth": d_ask}
        for key, delta in deltas.items():
            v1 = av * delta / CELL_S + (1 - av) * self.v[key]
            self.a[key] = aa * (v1 - self.v[key]) / CELL_S + (1 - aa) * self.a[key]
            self.v[key] = v1

    def _row(self, bid, ask, done):
        table = empty_table(bins.columns(self.radius), 1)
        best_bid, best_ask = self.bid + self.base - 2048, self.bid + 1 + self.base - 2048
        spot = best_ask
        centre = self.bid + 1
        window = slice(centre - self.radius, centre + self.radius + 1)
        scalars = {
            "tick_px": self.tick_px, "bucket": 1, "bin_seq": self.bin_seq,
            "ts_start_ns": self.bin_seq * 100 * NS_PER_MS, "ts_end_ns": (self.bin_seq + 1) * 100 * NS_PER_MS,
            "event_id": self.events, "event_count": 1 + len(done), "book_state": 2,
            "best_bid_px": best_bid * self.tick_px, "best_ask_px": best_ask * self.tick_px,
            "best_bid_sz": int(bid[self.bid]), "best_ask_sz": int(ask[self.bid + 1]),
            "mid_px": (best_bid + best_ask) * self.tick_px // 2, "spot_tick": spot,
            "trade_count": len(done),
            "trade_buy_sz": sum(s for _, s, side in done if side > 0),
            "trade_sell_sz": sum(s for _, s, side in done if side < 0),
            "last_trade_px": self.last_trade_px,
        }  # fmt: skip
        for name, value in scalars.items():
            table[name][0] = value
        vectors = {f"{k}_mass": m for k, m in self.mass.items()}
        vectors |= {"bid_depth": bid, "ask_depth": ask}
        vectors |= {f"v_{k}": v for k, v in self.v.items()} | {f"a_{k}": a for k, a in self.a.items()}
        for name, values in vectors.items():
            table[name][0] = values[window]
        self.bin_seq += 1
        return table

    def _trades(self, done):
        table = empty_table(trades.COLUMNS, len(done))
        for i, (tick, size, side) in enumerate(done):
            px = (tick + self.base - 2048) * self.tick_px
            self.last_trade_px = px
            table["ts_ns"][i] = (self.bin_seq - 1) * 100 * NS_PER_MS + i * NS_PER_MS
            table["px"][i], table["sz"][i], table["side"][i] = px, size, side
        return table


@dataclass
class SyntheticFeeder:
    """Feeds a hub from synthetic markets, as the Kafka feeder would: one bin of each instrument per period."""

    instruments: tuple[str, ...] = ("GLBX.MDP3:ESH4",)
    tape: str = "synthetic"
    period_s: float = 0.1
    radius: int = 50
    history: int = 0
    paused: threading.Event = field(default_factory=threading.Event)
    ready: bool = True
    sent: int = 0

    def start(self, hub: Hub, on_failure=None) -> None:
        self.hub = hub
        hub.set_tapes({self.tape: Tape(TAPE_ID, ("main",), self.instruments)})
        self.markets = {
            name: Market(self.radius, seed=i + 1, first_tick=17_192 + 9_000 * i, tick_px=250_000_000 // (1 + 4 * i))
            for i, name in enumerate(self.instruments)
        }
        for _ in range(self.history):
            self.publish()
        self.task = asyncio.get_running_loop().create_task(self._run()) if self.period_s else None

    def stop(self) -> None:
        if self.task is not None:
            self.task.get_loop().call_soon_threadsafe(self.task.cancel)

    def publish(self) -> None:
        for name, market in self.markets.items():
            row, done = market.step()
            seq, now_ns = market.bin_seq, time.monotonic_ns()
            arrived_ns = time.time_ns()
            t_ns = int(row["ts_end_ns"][0])
            nbytes = sum(a.nbytes for a in row.values())
            block = Block(seq, 0, row, nbytes, arrived_ns, t_ns, "run-1")
            self.hub.publish(Name(self.tape, "main", "bins", name), block, now_ns)
            block = Block(seq, 0, done, 100 * len(done["px"]), arrived_ns, t_ns, "run-1")
            self.hub.publish(Name(self.tape, "main", "trades", name), block, now_ns)
        self.sent += 1

    async def _run(self) -> None:
        due = time.monotonic()
        while True:
            due += self.period_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if not self.paused.is_set():
                self.publish()
