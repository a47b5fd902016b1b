"""Physics per tick, slow and obvious: every tick is stepped at every bin end, with the C library's exp."""

import copy
import math
from dataclasses import dataclass, field
from functools import lru_cache

MASSES = ("add", "pull", "fill")
CHAINS = ("add", "pull", "fill", "bid_depth", "ask_depth")


@dataclass
class Tick:
    last_t: int
    dt_last: int
    mass: dict = field(default_factory=lambda: dict.fromkeys(MASSES, 0.0))
    depth: dict = field(default_factory=lambda: {"B": 0, "A": 0})
    chain: dict = field(default_factory=lambda: {c: (0.0, 0.0, 0.0) for c in CHAINS})
    last_event_id: int = 0


@lru_cache  # nearly all steps are one bin long
def alpha(tau, dt):
    return -math.expm1(-dt / tau)


@lru_cache
def decay(tau, dt):
    return math.exp(-dt / tau)


class NaivePhysics:
    """All ticks inside the window; before there is a centre, all ticks."""

    def __init__(self, config):
        self.config = config
        self.centre = None
        self.ticks: dict[int, Tick] = {}
        self.blank = Tick(0, 0)  # what a tick that was never touched looks like
        self.largest = {f"{order}_{name}": 0.0 for order in "vaj" for name in CHAINS}  # ever, as scale of rounding

    def start(self, bin_start):
        self.blank = Tick(bin_start, self.config.cell_ns)

    def reset(self, t):
        self.ticks = {}
        self.blank = Tick(t, 0)

    def inside(self, tick):
        half = self.config.n_ticks // 2
        return self.centre is None or self.centre - half <= tick < self.centre + half

    def at(self, tick):
        if tick not in self.ticks:
            self.ticks[tick] = copy.deepcopy(self.blank)
        return self.ticks[tick]

    def step(self, tick, dt_ns, flow, depth_change):
        c = self.config
        dt = dt_ns / 1e9
        alpha_v, alpha_a, alpha_j = alpha(c.tau_v_s, dt), alpha(c.tau_a_s, dt), alpha(c.tau_j_s, dt)
        for name in MASSES:
            tick.mass[name] = tick.mass[name] * decay(c.tau_mass_s, dt) + flow.get(name, 0)
        for name in CHAINS:
            delta = depth_change.get(name, 0) if "depth" in name else flow.get(name, 0)
            rate = delta / dt
            v, a, j = tick.chain[name]
            v1 = alpha_v * rate + (1 - alpha_v) * v
            a1 = alpha_a * (v1 - v) / dt + (1 - alpha_a) * a
            j1 = alpha_j * (a1 - a) / dt + (1 - alpha_j) * j
            tick.chain[name] = (v1, a1, j1)

    def join(self, tick, flow, depth_change):
        c = self.config
        for name in MASSES:
            tick.mass[name] += flow.get(name, 0)
        if tick.dt_last == 0:
            return
        dt = tick.dt_last / 1e9
        for name in CHAINS:
            delta = depth_change.get(name, 0) if "depth" in name else flow.get(name, 0)
            v, a, j = tick.chain[name]
            dv = alpha(c.tau_v_s, dt) * delta / dt
            da = alpha(c.tau_a_s, dt) * dv / dt
            dj = alpha(c.tau_j_s, dt) * da / dt
            tick.chain[name] = (v + dv, a + da, j + dj)

    def touch(self, index, t, event_id, flow, new_depth):
        """Input at a tick: flow in lots by name, and what the depths are now."""
        if not self.inside(index):
            return
        tick = self.at(index)
        change = {"bid_depth": new_depth["B"] - tick.depth["B"], "ask_depth": new_depth["A"] - tick.depth["A"]}
        tick.depth = dict(new_depth)
        tick.last_event_id = event_id
        if t > tick.last_t:
            self.step(tick, t - tick.last_t, flow, change)
            tick.dt_last = t - tick.last_t
            tick.last_t = t
        else:
            self.join(tick, flow, change)
        for name in CHAINS:
            for order, value in zip("vaj", tick.chain[name], strict=True):
                self.largest[f"{order}_{name}"] = max(self.largest[f"{order}_{name}"], abs(value))

    def set_depth(self, index, depth):
        if self.inside(index):
            self.at(index).depth = dict(depth)

    def advance(self, end):
        for tick in (*self.ticks.values(), self.blank):
            dt = end - tick.last_t
            self.step(tick, dt, {}, {})
            tick.last_t = end
            tick.dt_last = dt

    def follow(self, spot, depths):
        """Move the window; `depths` gives the depth of a tick, or is empty while a snapshot comes in."""
        if self.centre is not None and abs(spot - self.centre) <= self.config.n_ticks // 4:
            return
        first = self.centre is None
        old_inside = {i for i in depths if self.inside(i)}
        self.centre = spot
        self.ticks = {i: tick for i, tick in self.ticks.items() if self.inside(i)}
        if not first:
            for index, depth in depths.items():
                if self.inside(index) and index not in old_inside:
                    self.set_depth(index, depth)
