"""Random rows of bins through the kernels of gold and through the slow oracle: both must say the same.

The number of examples is ENGINE_EXAMPLES (150; CI takes 2,000), as for the engine.
"""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import sorted_window
from engine.gold import Gold, GoldConfig
from schemas.columns import concat_tables, slice_table
from schemas.gold import columns
from tests.naive.gold import NaiveGold, bin_table

pytestmark = pytest.mark.timeout(36_000)  # thousands of examples take minutes where the machine is busy

EXAMPLES = int(os.environ.get("ENGINE_EXAMPLES", "150"))
common = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

SECOND = 10**9
INPUTS = ("v_add", "v_pull", "v_fill", "v_bid_depth", "v_ask_depth", "a_add", "a_pull")

FEW = np.array([0.0, 0.0, 1.0, 2.0, -1.0])
EXTREME = np.array([1.7e308, -1.7e308, 1e300, 5e-324, -1e-300, np.inf, np.nan, 0.0, 3.0])

PALETTES = {
    "nothing": lambda rng, n: np.zeros(n),
    "few": lambda rng, n: FEW[rng.integers(len(FEW), size=n)],
    "many": lambda rng, n: rng.normal(size=n) * 10.0 ** rng.integers(-3, 4, n),
    "steady": lambda rng, n: 5.0 + 1e-4 * rng.normal(size=n),
    "negative zero": lambda rng, n: np.full(n, -0.0),
    "extreme": lambda rng, n: EXTREME[rng.integers(len(EXTREME), size=n)],
}
PALETTE = ("nothing", "few", "few", "many", "many", "many", "steady", "negative zero", "extreme")

configs = st.tuples(
    st.sampled_from((((5, 10, 20, 40), (1, 1, 1, 1)), ((1,), (3,)), ((2, 3), (0, 1)), ((1, 2, 7), (0.1, 0.2, 0.7)))),
    st.sampled_from(((2, 1), (2, 2), (3, 3), (4, 2), (9, 5), (16, 1))),
    st.sampled_from((0.5, 0.0, 7)),
    st.sampled_from(((0.55, 0.30, 0.15), (1, 0, 0), (0, 0, 2.5))),
    st.sampled_from(("symmetric", "original")),
).map(
    lambda drawn: GoldConfig(
        windows_bins=drawn[0][0],
        window_weights=drawn[0][1],
        z_window_bins=drawn[1][0],
        z_min_bins=drawn[1][1],
        c2_v_rest_up=drawn[2],
        d_weights=drawn[3],
        state_table=drawn[4],
    )
)
frames = st.tuples(
    st.sampled_from((1_000, 7_000_000, 100_000_000, 100_000_000, 60 * SECOND, 86_400 * SECOND)),  # cell_ns
    st.sampled_from((1, 3, 10, 250_000_000, 2**61)),  # unit_px
    st.sampled_from((0, 1, 3)),  # radius
)
NEAR = [(bid, ask) for bid in range(-5, 6) for ask in range(-5, 6)]  # crossed and locked books too
FAR = [(None, 4), (4, None), (None, None), (-(2**63), 2**63 - 2), (2**63 - 3, 2**63 - 2), (0, -(2**63))]
KINDS = (
    [(1, 1, 2)] * 40  # bins since the row before, bins_since_reset, book_state
    + [(1, 1, 0), (1, 1, 1), (1, 1, 3), (1, 0, 2), (1, 0, 1), (2, 1, 2), (2, 0, 0), (10, 1, 2), (600, 1, 2)]
)
SIGNS = [(bid, ask) for bid in (-1, 0, 1) for ask in (-1, 0, 1)]

BESTS = NEAR + 2 * FAR


def make_row(drawn):
    """
    (kind, best prices, signs, palette, seed of the vectors) of nine bytes.

    One draw of bytes instead of five: drawing took longer than kernels and oracle together. Each byte still shrinks by
    itself.
    """
    kind, best, more, sign, palette, *seed = drawn
    return (
        KINDS[kind % len(KINDS)],
        BESTS[(best + 256 * more) % len(BESTS)],
        SIGNS[sign % len(SIGNS)],
        PALETTE[palette % len(PALETTE)],
        int.from_bytes(seed, "little"),
    )


rows = st.binary(min_size=9, max_size=9).map(make_row)
plans = st.sampled_from((1, 20, 60)).flatmap(lambda n: st.lists(rows, min_size=n, max_size=n + 30))


@pytest.fixture(autouse=True, scope="module")
def silence():
    """Kernels that run as Python warn of overflows that are meant."""
    with np.errstate(all="ignore"):
        yield


def make_table(plan, frame):
    cell_ns, unit_px, radius = frame
    given_rows = []
    for (step, since, state), (bid, ask), (bid_sign, ask_sign), palette, seed in plan:
        rng = np.random.default_rng(seed)
        row = {"step": step, "bins_since_reset": since, "book_state": state, "bid": bid, "ask": ask}
        row.update(bid_sign=bid_sign, ask_sign=ask_sign)
        row.update({name: PALETTES[palette](rng, 2 * radius + 1) for name in INPUTS})
        given_rows.append(row)
    return bin_table(given_rows, cell_ns, unit_px, radius)


def assert_equal(found, rows, config, cell_ns):
    """Exact for codes; for floats what rounding of composite (1e-15) grows to in the differences, and in z at worst."""
    expected = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    for name, values in expected.items():
        if name == "flow_state":
            clear = np.abs(np.abs(expected["flow_score"]) - config.state_threshold) > 1e-5
            assert np.array_equal(found[name][clear], values[clear]), name
        elif name in ("bin_seq", "gold_valid", "state5"):
            assert np.array_equal(found[name], values), name
        else:
            order = {"composite_d1": 1, "composite_d2": 2, "composite_d3": 3}.get(name, 0)
            noise = 2e-6 if name == "flow_score" else 1e-13 / (cell_ns / 1e9) ** order
            assert (np.abs(found[name] - values) <= noise + 1e-9 * np.abs(values)).all(), name


@common
@given(configs, frames, plans)
def test_gold_says_what_the_oracle_says(config, frame, plan):
    table = make_table(plan, frame)
    found = Gold(config, *frame).apply(table)
    assert_equal(found, NaiveGold(config, *frame).apply(table), config, frame[0])
    for column in columns(frame[2]):
        assert found[column.name].dtype == column.numpy_dtype
        assert np.isfinite(found[column.name]).all()
    for name in ("composite", "flow_score"):
        assert np.abs(found[name]).max(initial=0) <= 1


@common
@given(configs, frames, plans, st.integers(1, 9), st.booleans())
def test_cuts_and_restores_do_not_show(config, frame, plan, cut, restore):
    table = make_table(plan, frame)
    whole = Gold(config, *frame)
    expected = whole.apply(table)
    pieces, outputs = Gold(config, *frame), []
    for start in range(0, len(plan), cut):
        outputs.append(pieces.apply(slice_table(table, start, start + cut)))
        if restore:
            pieces = Gold.restore(pieces.snapshot())
    found = concat_tables(outputs, columns(frame[2]))
    for name, column in expected.items():
        assert column.tobytes() == found[name].tobytes(), name
    assert whole.snapshot() == pieces.snapshot()


@common
@given(frames, plans)
def test_state5_of_the_mirrored_market_is_negated(frame, plan):
    plan = [row for row in plan if row[1] in NEAR]
    mirrored = [(kind, (-a, -b), (-up, -down), *rest) for kind, (b, a), (down, up), *rest in plan]
    by_tick = []
    for side in (plan, mirrored):
        table = make_table(side, frame)
        codes = Gold(GoldConfig(), *frame).apply(table)["state5"]
        ticks = table["spot_tick"][:, None] + np.arange(-frame[2], frame[2] + 1)
        by_tick.append([dict(zip(*pair, strict=True)) for pair in zip(ticks.tolist(), codes.tolist(), strict=True)])
    for here, there in zip(*by_tick, strict=True):
        for tick, code in here.items():
            assert there.get(-tick, -code) == -code


values = st.one_of(
    st.floats(-1e300, 1e300).map(lambda x: x + 0.0),
    st.integers(-3, 3).map(float),
)


@common
@given(st.lists(values, min_size=1, max_size=80), st.integers(1, 30))
def test_windows_say_what_sorting_says(series, room):
    window = np.zeros(room)
    for i, x in enumerate(series):
        if i < room:
            sorted_window.insert(window, i, x)
        else:
            sorted_window.replace(window, room, series[i - room], x)
        last = np.array(series[max(0, i + 1 - room) : i + 1])
        n = len(last)
        assert window[:n].tolist() == sorted(last.tolist())
        centre = sorted_window.median(window, n)
        assert centre == np.median(last)
        assert sorted_window.mad(window, n, centre) == np.median(np.abs(last - centre))
