"""Gold, slow and obvious: whole histories, a sort for every median, the C library's tanh, prices as Python ints.

Vectors of a row are NumPy arrays over the cells; what a row needs is computed from the lists of all earlier rows.
"""

import math

import numpy as np

from engine.ticks import tick_of
from schemas.bins import engine_columns, with_rest_depth
from schemas.columns import empty_table
from schemas.gold import columns
from schemas.units import UNDEF_PRICE

SNAPSHOT, SUSPECT = 1, 3
FLOATS = [c.name for c in columns(0) if c.width and c.dtype == "f8"]
CODES = [c.name for c in columns(0) if c.width and c.dtype == "i1"]

SYMMETRIC = {
    # (ask sign, bid sign): above the mid, below it
    (1, 1): (2, 1),
    (0, 1): (2, 1),
    (-1, -1): (-1, -2),
    (-1, 0): (-1, -2),
    (1, 0): (2, 0),
    (0, -1): (0, -2),
    (0, 0): (0, 0),
    (-1, 1): (0, 0),
    (1, -1): (0, 0),
}
ORIGINAL = {**SYMMETRIC, (1, 0): (-1, -2), (1, -1): (-1, -2), (0, -1): (-1, -2)}
TABLES = {"symmetric": SYMMETRIC, "original": ORIGINAL}


def finite(x):
    return np.where(np.isfinite(x), x, 0.0)


class NaiveGold:
    def __init__(self, config, cell_ns, unit_px, radius):
        self.config, self.cell_ns, self.unit_px, self.radius = config, cell_ns, unit_px, radius
        self.restart()

    def restart(self):
        self.seqs, self.comps, self.composites = [], [], []
        self.differences = [[], [], []]

    def apply(self, table):
        """Rows of gold, as a list of dicts."""
        table = with_rest_depth(table)
        with np.errstate(all="ignore"):
            return [self.step({name: a[i] for name, a in table.items()}) for i in range(len(table["bin_seq"]))]

    def step(self, row):
        width = 2 * self.radius + 1
        if row["bins_since_reset"] == 0:
            self.restart()
        out = {"bin_seq": int(row["bin_seq"]), "gold_valid": 0}
        out.update({name: np.zeros(width) for name in FLOATS})
        out.update({name: np.zeros(width, int) for name in CODES})
        if row["mid_px"] == UNDEF_PRICE or row["book_state"] in (SNAPSHOT, SUSPECT):
            return out
        out["gold_valid"] = 1
        out["pressure"], out["vacuum"] = self.pressure_and_vacuum(row)
        out["composite"] = self.composite(out["pressure"], out["vacuum"])
        dt = (out["bin_seq"] - self.seqs[-1]) * self.cell_ns / 1e9 if self.seqs else None
        self.seqs.append(out["bin_seq"])
        for i, d in enumerate(self.difference(dt)):
            out[f"composite_d{i + 1}"] = d
        out["flow_score"] = self.flow_score()
        threshold = self.config.state_threshold
        out["flow_state"] = (out["flow_score"] >= threshold) * 1 - (out["flow_score"] <= -threshold) * 1
        out["state5"] = np.array([self.state5(row, k) for k in range(-self.radius, self.radius + 1)])
        return out

    def pressure_and_vacuum(self, row):
        c = self.config
        up, down = np.fmax(row["v_rest_depth"], 0), np.fmax(-row["v_rest_depth"], 0)
        p = c.c1_v_add * row["v_add"] + c.c2_v_rest_up * up + c.c3_a_add * np.fmax(row["a_add"], 0)
        v = c.c4_v_pull * row["v_pull"] + c.c5_v_fill * row["v_fill"] + c.c6_v_rest_down * down
        return finite(p), finite(v + c.c7_a_pull * np.fmax(row["a_pull"], 0))

    def composite(self, p, v):
        self.comps.append(finite((p - v) / (np.abs(p) + np.abs(v) + 1e-12)))
        means = [np.mean(self.comps[-n:], axis=0) for n in self.config.windows_bins]
        self.composites.append(np.average(means, axis=0, weights=self.config.window_weights))
        return self.composites[-1]

    def difference(self, dt):
        series = [self.composites, *self.differences]
        for i in range(3):
            enough = len(self.composites) >= i + 2
            d = (series[i][-1] - series[i][-2]) / dt if enough else np.zeros(2 * self.radius + 1)
            self.differences[i].append(d)
            yield d

    def flow_score(self):
        c = self.config
        cell_s = self.cell_ns / 1e9
        total = np.zeros(2 * self.radius + 1)
        for i, series in enumerate(self.differences):
            window = np.array(series[-c.z_window_bins :])
            if len(window) < c.z_min_bins:
                continue
            median = np.median(window, axis=0)
            scale = c.mad_factor * np.median(np.abs(window - median), axis=0)
            z = np.where(scale <= c.scale_floor / cell_s ** (i + 1), 0.0, (window[-1] - median) / scale)
            total += c.d_weights[i] * np.array([math.tanh(x / c.tanh_divisor) for x in z])
        return total / sum(c.d_weights)

    def state5(self, row, k):
        price = (int(row["spot_tick"]) + k) * self.unit_px
        offset = 2 * price - (int(row["best_bid_px"]) + int(row["best_ask_px"]))
        above, below = TABLES[self.config.state_table][int(row["ask_sign"]), int(row["bid_sign"])]
        return above if offset > 0 else (below if offset < 0 else 0)


def bin_table(rows, cell_ns, unit_px, radius):
    """Rows of bins as an engine might give them, from dicts of what is not usual.

    A row without keys is the bin after the row before, VALID, bid and ask one tick apart, nothing moving anywhere.
    """
    table = empty_table(engine_columns(radius), len(rows))
    seq = 1_700_000_000_000_000_000 // cell_ns
    for i, given in enumerate(rows):
        given = {"book_state": 2, "bins_since_reset": 1, "bid": 100 * unit_px, "ask": 101 * unit_px, **given}
        seq += given.pop("step", 1)
        bid, ask = given.pop("bid"), given.pop("ask")
        table["bin_seq"][i] = seq
        table["ts_start_ns"][i], table["ts_end_ns"][i] = seq * cell_ns, (seq + 1) * cell_ns
        both = bid is not None and ask is not None
        table["best_bid_px"][i] = UNDEF_PRICE if bid is None else bid
        table["best_ask_px"][i] = UNDEF_PRICE if ask is None else ask
        table["mid_px"][i] = mid = (bid + ask) // 2 if both else UNDEF_PRICE
        table["spot_tick"][i] = tick_of(mid, unit_px) if both else 0
        for name, value in given.items():
            table[name][i] = value
    return table
