"""Gold as an object: what it refuses, what its settings hash to, when its series start again; and tanh."""

import math
import os
import struct
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from math import ulp

import numpy as np
import pytest

from engine import gold_rows
from engine.errors import ConfigError, SnapshotError
from engine.gold import BadBinsError, Gold, GoldConfig
from engine.hyperbolic import tanh
from schemas.columns import empty_table, slice_table
from schemas.gold import CODE_VECTORS, FLOAT_VECTORS, columns
from tests.naive.gold import bin_table

CELL = 100_000_000
UNIT = 250_000_000
RADIUS = 2
WIDTH = 5
SMALL = GoldConfig(windows_bins=(2, 4), window_weights=(1, 1), z_window_bins=6, z_min_bins=3)


def make(config=SMALL):
    return Gold(config, CELL, UNIT, RADIUS)


def table_of(*rows):
    return bin_table(rows, CELL, UNIT, RADIUS)


def noisy(count, seed=3, **given):
    """Rows in which adds and pulls change from bin to bin."""
    rng = np.random.default_rng(seed)
    return [
        {"v_add": rng.exponential(size=WIDTH), "v_pull": rng.exponential(size=WIDTH), **given} for _ in range(count)
    ]


# -- settings


def test_hash_is_what_its_docstring_says():
    names = ("c1_v_add", "c2_v_rest_up", "c3_a_add", "c4_v_pull", "c5_v_fill", "c6_v_rest_down", "c7_a_pull")
    numbers = dict(zip(names, ((1.0,), (0.5,), (0.3,), (1.0,), (1.5,), (0.5,), (0.3,)), strict=True))
    numbers |= {"windows_bins": (5, 10, 20, 40), "window_weights": (1, 1, 1, 1), "d_weights": (0.55, 0.3, 0.15)}
    numbers |= {"z_window_bins": (300,), "z_min_bins": (75,), "tanh_divisor": (3,), "state_threshold": (0.15,)}
    numbers |= {"scale_floor": (1e-7,), "mad_factor": (1.4826,)}
    lines = {name: ",".join(struct.pack(">d", x).hex() for x in values) for name, values in numbers.items()}
    lines["state_table"] = "symmetric"
    text = "barograph-gold/1\n" + "".join(f"{name}={lines[name]}\n" for name in sorted(lines))
    assert GoldConfig().hash() == sha256(text.encode()).hexdigest()
    assert GoldConfig().hash() == "b130b7595e28f84c6cf568677ccda560064a0ff73b302b08edb0b4a5037bdb37"


def test_equal_settings_hash_equally_however_they_are_written():
    written = GoldConfig(
        c1_v_add=1,
        c2_v_rest_up=np.float64(0.5),
        windows_bins=[5.0, 10, np.int64(20), 40],
        window_weights=[1, 1, 1, True],
        z_window_bins=300.0,
        tanh_divisor=3,
    )
    assert written == GoldConfig()
    assert written.hash() == GoldConfig().hash()
    assert GoldConfig(c1_v_add=-0.0).hash() == GoldConfig(c1_v_add=0).hash()


@pytest.mark.parametrize(
    "change",
    [
        {"c7_a_pull": 0.30000000000000004},
        {"windows_bins": (5, 10, 20, 41)},
        {"window_weights": (1, 1, 1, 2)},
        {"z_min_bins": 74},
        {"state_table": "original"},
    ],
    ids=str,
)
def test_another_setting_is_another_hash(change):
    assert replace(GoldConfig(), **change).hash() != GoldConfig().hash()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("c1_v_add", -0.1),
        ("c4_v_pull", math.nan),
        ("c4_v_pull", math.inf),
        ("c5_v_fill", "much"),
        ("c6_v_rest_down", None),
        ("c7_a_pull", 1e7),
        ("windows_bins", ()),
        ("windows_bins", (5, 5, 20, 40)),
        ("windows_bins", (0, 10, 20, 40)),
        ("windows_bins", (5, 10, 20, 40.5)),
        ("windows_bins", (5, 10, 20, 5000)),
        ("windows_bins", 5),
        ("windows_bins", tuple(range(1, 18))),
        ("window_weights", (1, 1, 1)),
        ("window_weights", (0, 0, 0, 0)),
        ("window_weights", (1, 1, 1, -1)),
        ("z_window_bins", 1),
        ("z_window_bins", 5000),
        ("z_window_bins", 300.5),
        ("z_min_bins", 0),
        ("z_min_bins", 301),
        ("d_weights", (1, 1)),
        ("d_weights", (0, 0, 0)),
        ("tanh_divisor", 0),
        ("mad_factor", -1),
        ("state_threshold", 0),
        ("state_threshold", 1.1),
        ("scale_floor", -1e-9),
        ("state_table", "other"),
    ],
)
def test_settings_out_of_range_are_named(setting, value):
    with pytest.raises(ConfigError, match=setting) as caught:
        GoldConfig(**{setting: value})
    assert caught.value.setting == setting


@pytest.mark.parametrize(("place", "setting"), tuple(enumerate(("cell_ns", "unit_px", "radius"))))
def test_frames_out_of_range_are_named(place, setting):
    frame = [CELL, UNIT, RADIUS]
    frame[place] = -1
    with pytest.raises(ConfigError, match=setting):
        Gold(SMALL, *frame)


# -- rows


def test_no_rows_give_no_rows():
    reducer = make()
    before = reducer.snapshot()
    out = reducer.apply(table_of())
    for column in columns(RADIUS):
        assert out[column.name].shape == ((0, WIDTH) if column.width else (0,))
        assert out[column.name].dtype == column.numpy_dtype
    assert list(out) == [column.name for column in columns(RADIUS)]
    assert reducer.snapshot() == before


def test_pressure_and_vacuum_by_their_formula():
    row = {"v_add": 2.0, "v_pull": 3.0, "v_fill": 5.0, "a_add": 7.0, "a_pull": 11.0}
    up = {"v_bid_depth": 13.0, "v_ask_depth": 4.0}
    down = {"v_bid_depth": -13.0, "v_ask_depth": -4.0}
    out = make().apply(table_of({**row, **up}, {**row, **down}, {**row, **up, "a_add": -7.0, "a_pull": -11.0}))
    assert out["pressure"][:, 0].tolist() == [2 + 8.5 + 0.3 * 7, 2 + 0.3 * 7, 2 + 8.5]
    assert out["vacuum"][:, 0].tolist() == [3 + 7.5 + 0.3 * 11, 3 + 7.5 + 8.5 + 0.3 * 11, 3 + 7.5]


def test_composite_and_differences_by_hand():
    """Comps 1, -1, 0, 1 over windows of 2 and 4; the third bin comes two bins late."""
    add, pull = np.eye(2) * 1e6  # so that the 1e-12 of the formula does not show
    amounts = [add, pull, (1.0, 1.0), add]
    rows = [{"v_add": a, "v_pull": p, "step": s} for (a, p), s in zip(amounts, (1, 1, 3, 1), strict=True)]
    out = make().apply(table_of(*rows))
    composite = [1, 0, (-0.5 + 0) / 2, (0.5 + 0.25) / 2]
    d1 = [0, -1 / 0.1, -0.25 / 0.3, 0.625 / 0.1]
    d2 = [0, 0, (d1[2] - d1[1]) / 0.3, (d1[3] - d1[2]) / 0.1]
    d3 = [0, 0, 0, (d2[3] - d2[2]) / 0.1]
    for name, expected in zip(FLOAT_VECTORS[2:6], (composite, d1, d2, d3), strict=True):
        assert out[name][:, 3] == pytest.approx(expected, rel=1e-12), name


def test_score_waits_for_enough_values():
    out = Gold(GoldConfig(), CELL, UNIT, RADIUS).apply(table_of(*noisy(80)))
    assert not out["flow_score"][:74].any()
    assert out["flow_score"][74:].any(axis=1).all()
    assert set(np.unique(out["flow_state"][74:])) == {-1, 0, 1}
    score = out["flow_score"]
    assert np.array_equal(out["flow_state"], (score >= 0.15).astype(int) - (score <= -0.15))


def test_a_silent_cell_scores_nothing():
    out = make().apply(table_of(*[{"v_add": 1.0}] * 20))
    assert not out["flow_score"].any()


@pytest.mark.parametrize("given", [{"book_state": 1}, {"book_state": 3}, {"bid": None}, {"ask": None}], ids=str)
def test_a_bin_that_cannot_be_trusted_is_as_if_it_had_not_been(given):
    rows = noisy(12)
    whole = make().apply(table_of(*rows[:6], {"step": 2, **rows[6]}, *rows[7:]))
    found = make().apply(table_of(*rows[:6], {**rows[0], **given, "bid_sign": 1}, *rows[6:]))
    assert found["gold_valid"].tolist() == [1] * 6 + [0] + [1] * 6
    for name in (*FLOAT_VECTORS, *CODE_VECTORS):
        assert not found[name][6].any()
        assert np.array_equal(np.delete(found[name], 6, axis=0), whole[name]), name


def test_a_partial_book_gets_gold():
    assert make().apply(table_of({"book_state": 0}))["gold_valid"].tolist() == [1]


@pytest.mark.parametrize("given", [{}, {"book_state": 1}, {"bid": None}], ids=str)
def test_a_reset_starts_everything_again(given):
    """Also when the bin of the reset gets no gold itself."""
    rows = noisy(10)
    reducer = make()
    reducer.apply(table_of(*noisy(9, seed=4)))
    reset = {"bins_since_reset": 0, "step": 20, **given}
    found = reducer.apply(table_of({**rows[0], **reset}, *rows[1:]))
    fresh = make().apply(table_of({**rows[0], "step": 20, **given}, *rows[1:]))
    for name, column in fresh.items():
        assert column.tobytes() == found[name].tobytes(), name


def test_values_that_are_not_finite_count_as_zero():
    with np.errstate(all="ignore"):
        huge = {"v_add": [1.7e308, np.nan, np.inf, 1e308, 3.0], "v_pull": [1.0, 1.0, 1.0, 1.7e308, -np.inf]}
        out = Gold(replace(SMALL, c1_v_add=2), CELL, UNIT, RADIUS).apply(table_of(huge, *noisy(8)))
    assert out["pressure"][0].tolist() == [0, 0, 0, 0, 6]
    assert out["vacuum"][0].tolist() == [1, 1, 1, 1.7e308, 0]
    assert out["composite"][0] == pytest.approx([-1, -1, -1, -1, 1])
    assert all(np.isfinite(out[name]).all() for name in FLOAT_VECTORS)


def test_zeros_have_no_sign():
    """A difference that underflows; windows would keep -0.0 and 0.0 in the order of their arrival."""
    rows = [{"v_add": x} for x in (0.0, 0.0, 0.0, 5e-324, 0.0, 5e-324, 0.0)]
    config = replace(SMALL, windows_bins=(1,), window_weights=(1,))
    day_ns = 86_400 * 10**9
    out = Gold(config, day_ns, UNIT, RADIUS).apply(bin_table(rows, day_ns, UNIT, RADIUS))
    assert (out["composite_d2"] < 0).any()
    assert not any(np.signbit(out[name][out[name] == 0]).any() for name in FLOAT_VECTORS)


SIDES = [
    # (bid, ask) in quarter ticks, the cells from spot - 2 to spot + 2 by side of the mid
    ((400, 404), (-1, -1, 1, 1, 1)),  # mid 100.5: halves go up, spot 101
    ((400, 408), (-1, -1, 0, 1, 1)),  # mid 101 exactly
    ((400, 407), (-1, -1, 1, 1, 1)),  # mid 100.875, spot 101
    ((400, 401), (-1, -1, -1, 1, 1)),  # mid 100.125, spot 100
    ((-408, -400), (-1, -1, 0, 1, 1)),
    ((404, 400), (-1, -1, 1, 1, 1)),  # crossed
]


@pytest.mark.parametrize(("quotes", "sides"), SIDES, ids=str)
@pytest.mark.parametrize("table", ["symmetric", "original"])
def test_state5_by_side_of_the_mid(quotes, sides, table):
    bid, ask = (quarter * UNIT // 4 for quarter in quotes)
    rows = [
        {"bid": bid, "ask": ask, "ask_sign": a, "bid_sign": b} for a, b in ((1, 1), (-1, 0), (1, 0), (0, -1), (1, -1))
    ]
    out = make(replace(SMALL, state_table=table)).apply(table_of(*rows))["state5"]
    others = (-1, -2)
    codes = [(2, 1), others, (2, 0), (0, -2), (0, 0)] if table == "symmetric" else [(2, 1), *[others] * 4]
    for row, (above, below) in zip(out.tolist(), codes, strict=True):
        assert row == [above if side > 0 else (below if side < 0 else 0) for side in sides]


def test_state5_half_a_price_unit_beside_the_cell():
    """The mean of the quotes lies half of 1e-9 above the cell, which `mid_px`, a floor, does not show."""
    rows = [{"bid": 100 * UNIT, "ask": 100 * UNIT + odd, "ask_sign": 1, "bid_sign": 1} for odd in (0, 1)]
    assert make().apply(table_of(*rows))["state5"].tolist() == [[1, 1, 0, 2, 2], [1, 1, 1, 2, 2]]


# -- what is refused


def refused(table, match, index):
    reducer = make()
    reducer.apply(table_of(*noisy(4)))
    before = reducer.snapshot()
    with pytest.raises(BadBinsError, match=match) as caught:
        reducer.apply(table)
    assert caught.value.index == index
    assert caught.value.what in str(caught.value)
    assert reducer.snapshot() == before


LATER = [{"step": 100}, {}, {}]


def test_columns_that_do_not_fit():
    good = table_of(*LATER)
    refused({name: column for name, column in good.items() if name != "v_fill"}, "v_fill is missing", -1)
    refused({}, "is missing", -1)
    refused({**good, "v_add": good["v_add"].astype(np.float32)}, "v_add is float32", -1)
    refused({**good, "a_pull": good["a_pull"][:2]}, r"a_pull is float64 of shape \(2, 5\)", -1)
    refused(bin_table(LATER, CELL, UNIT, RADIUS + 1), r"of radius 2 have float64 of shape \(3, 5\)", -1)
    refused({**good, "mid_px": good["mid_px"].astype(">i8")}, "mid_px is >i8", -1)


def test_rows_that_do_not_fit():
    refused(table_of({}), "row 0: bin_seq 17000000001 does not follow", 0)
    again = table_of(*LATER)
    again["bin_seq"][2] = again["bin_seq"][1]
    refused(again, "row 2: bin_seq", 2)
    refused(bin_table(LATER, CELL // 10, UNIT, RADIUS), "cell_ns", 0)
    shifted = table_of(*LATER)
    shifted["ts_start_ns"][1] += 1
    refused(shifted, "row 1: bin .* cell_ns", 1)
    refused(bin_table(LATER, CELL, UNIT // 2, RADIUS), "row 0: spot_tick 101 .* tick_px", 0)
    for name, sign in (("bid_sign", 2), ("ask_sign", -128)):
        refused(table_of({"step": 100}, {name: sign}), "row 1: signs", 1)


def test_rows_without_a_mid_need_no_tick():
    assert make().apply(table_of({"bid": None, "spot_tick": 77}))["gold_valid"].tolist() == [0]


def test_columns_may_be_views_and_read_only():
    rows = table_of(*noisy(9))
    wide = {name: np.repeat(column, 2, axis=0)[::2] for name, column in rows.items()}
    for column in wide.values():
        column.flags.writeable = False
    for name, column in make().apply(rows).items():
        assert column.tobytes() == make().apply(wide)[name].tobytes()


# -- snapshots


@pytest.mark.parametrize("rows", [0, 1, 3, 11, 12, 13, 40])
def test_a_restored_gold_goes_on_bit_for_bit(rows):
    table = table_of(*noisy(rows + 20))
    whole = make()
    whole.apply(slice_table(table, 0, rows))
    restored = Gold.restore(whole.snapshot())
    assert restored.snapshot() == whole.snapshot()
    assert np.array_equal(restored._memory.sorted, whole._memory.sorted)
    assert (restored.config, restored.cell_ns, restored.unit_px, restored.radius) == (SMALL, CELL, UNIT, RADIUS)
    later = slice_table(table, rows, rows + 20)
    expected, found = whole.apply(later), restored.apply(later)
    for name, column in expected.items():
        assert column.tobytes() == found[name].tobytes(), name
    assert restored.snapshot() == whole.snapshot()


def test_a_snapshot_remembers_the_last_row_even_if_it_had_no_gold():
    reducer = make()
    reducer.apply(table_of({}, {"book_state": 3}))
    with pytest.raises(BadBinsError, match="does not follow"):
        Gold.restore(reducer.snapshot()).apply(table_of({"step": 2}))


def test_a_snapshot_holds_the_last_updates_only():
    """A day or an hour behind it: the same bytes to store."""
    reducer = make()
    reducer.apply(table_of(*noisy(50)))
    size = len(reducer.snapshot())
    reducer.apply(table_of(*noisy(70, seed=5, step=100)))
    assert len(reducer.snapshot()) == size


def test_bytes_that_are_no_snapshot():
    reducer = make()
    reducer.apply(table_of(*noisy(5)))
    data = reducer.snapshot()
    with pytest.raises(SnapshotError, match="no snapshot of barograph's gold"):
        Gold.restore(b"")
    with pytest.raises(SnapshotError, match="no snapshot of barograph's gold"):
        Gold.restore(b"barograph-engine" + data[16:])
    with pytest.raises(SnapshotError, match="format 9"):
        Gold.restore(data[:16] + b"\x09" + data[17:])
    for damaged in (data[:-1], data[:60] + bytes([data[60] ^ 1]) + data[61:], data + b"\0"):
        with pytest.raises(SnapshotError, match="damaged"):
            Gold.restore(damaged)


# -- the contract


def test_vectors_of_the_contract_are_those_of_the_kernels():
    names = [column.name for column in columns(RADIUS)]
    assert names == ["bin_seq", "gold_valid", *FLOAT_VECTORS, *CODE_VECTORS]
    assert (gold_rows.D1, gold_rows.D2, gold_rows.D3) == (3, 4, 5)  # kernels count on their being neighbours
    assert empty_table(columns(RADIUS), 2)["state5"].shape == (2, WIDTH)
    assert [c.width for c in columns()][2:] == [101] * 9


# -- tanh

POINTS = np.concatenate([np.logspace(-300, -9, 100), np.logspace(-9, np.log10(23), 3000), np.linspace(0.1, 1, 900)])


def test_tanh_against_the_c_library():
    """Which is within 2 ulp itself."""
    worst = max(abs(tanh(x) - math.tanh(x)) / ulp(math.tanh(x)) for x in POINTS.tolist())
    assert worst <= 4
    assert all(tanh(-x) == -tanh(x) for x in POINTS.tolist())


def test_tanh_at_its_edges():
    assert [tanh(x) for x in (0.0, 22.5, 1e300, math.inf, -math.inf)] == [0.0, 1.0, 1.0, 1.0, -1.0]
    assert math.copysign(1, tanh(-0.0)) == -1
    assert math.isnan(tanh(math.nan))
    assert max(tanh(x) for x in np.linspace(17, 23, 999)) == 1.0


PROGRAM = """
import hashlib
import numpy as np
from engine.hyperbolic import tanh
xs = np.random.default_rng(5).normal(size=5000) * 3
print(hashlib.sha256(np.array([tanh(x) for x in xs]).tobytes()).hexdigest())
"""


def test_bits_of_tanh_do_not_depend_on_the_processor(tmp_path):
    hashes = set()
    for processor in ("host", "generic"):
        env = dict(os.environ, NUMBA_CPU_NAME=processor, NUMBA_CACHE_DIR=str(tmp_path / processor))
        if processor == "generic":
            env["NUMBA_CPU_FEATURES"] = ""
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True)
        hashes.add(done.stdout)
    assert len(hashes) == 1
