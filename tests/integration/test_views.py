"""Views over real rows, against the same rows computed in NumPy and by the definition one trade at a time."""

from collections.abc import Iterator

import numpy as np
import pytest
from clickhouse_connect.driver.client import Client

from control.embedded.store import running_store
from schemas.bins import CHAINS
from schemas.columns import empty_table
from schemas.trades import COLUMNS as TRADE_COLUMNS
from schemas.units import NS_PER_SECOND, UNDEF_PRICE
from sinks.clickhouse import connect
from tests.integration import sql_tape
from tests.integration.sql_tape import SqlTape
from tests.naive.bars import bars_of

pytestmark = pytest.mark.real

CLASSIC = (
    "k", "add_mass", "pull_mass", "fill_mass", "rest_depth", "bid_depth", "ask_depth",
    *(f"{o}_{name}" for o in "vaj" for name in ("add", "pull", "fill", "rest_depth", "bid_depth", "ask_depth")),
    "last_event_id", "best_ask_move_ticks", "best_bid_move_ticks", "ask_reprice_sign", "bid_reprice_sign",
    "microstate_id", "chase_up_flag", "chase_down_flag",
)  # fmt: skip
OWN_NAMES = {
    "best_ask_move_ticks": "best_ask_move", "best_bid_move_ticks": "best_bid_move", "ask_reprice_sign": "ask_sign",
    "bid_reprice_sign": "bid_sign", "microstate_id": "microstate", "chase_up_flag": "chase_up",
    "chase_down_flag": "chase_down",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SqlTape:
    return sql_tape.make(tmp_path_factory.mktemp("market"))


@pytest.fixture(scope="module")
def client(made: SqlTape, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with running_store(tmp_path_factory.mktemp("views")) as url:
        sql_tape.fill(url, made)
        client = connect(url)
        yield client
        client.close()


def name_of(made: SqlTape, number: int = 0) -> str:
    return sorted(made.known)[number]


def test_grid_long_has_the_classic_columns_with_the_values_of_the_bins(made: SqlTape, client: Client) -> None:
    assert len(CLASSIC) == 33
    name = name_of(made)
    found = client.query_arrow(
        f"SELECT {', '.join(CLASSIC)}, px FROM grid_long WHERE instrument = {{name:String}} ORDER BY bin_seq, k",
        parameters={"name": name},
    )
    bins = made.rows("bins", name)
    width = bins["add_mass"].shape[1]
    k = np.arange(width) - width // 2
    assert np.array_equal(found["k"].to_numpy(), np.tile(k, len(bins["bin_seq"])))
    for column in CLASSIC[1:]:
        if "rest_depth" in column:
            cells = bins[column.replace("rest", "bid")] + bins[column.replace("rest", "ask")]
        elif column in OWN_NAMES:
            cells = np.repeat(bins[OWN_NAMES[column]], width)
        else:
            cells = bins[column]
        assert found[column].to_numpy().tobytes() == cells.astype(found[column].to_numpy().dtype).tobytes(), column
    px = (bins["spot_tick"][:, None] + k) * (bins["tick_px"] * bins["bucket"])[:, None]
    assert np.array_equal(found["px"].to_numpy(), px.reshape(-1))
    assert {c.split("_", 1)[1] for c in CLASSIC if c[:2] == "v_"} == {*CHAINS, "rest_depth"}


@pytest.mark.parametrize("interval_ns", [NS_PER_SECOND, 60 * NS_PER_SECOND, 777_777_777])
def test_bars_of_any_width_are_those_of_the_definition(made: SqlTape, client: Client, interval_ns: int) -> None:
    name = name_of(made)
    trades = made.rows("trades", name)
    one_by_one = [
        dict(zip(trades, row, strict=True)) for row in zip(*(a.tolist() for a in trades.values()), strict=True)
    ]
    compare(client, name, one_by_one, interval_ns)


def compare(client: Client, name: str, trades: list[dict[str, int]], interval_ns: int) -> None:
    found = client.query(
        "SELECT * FROM bars_of(interval_ns = {width:Int64}) WHERE instrument = {name:String} ORDER BY ts_end_ns",
        parameters={"width": interval_ns, "name": name},
    )
    wanted = bars_of(trades, [interval_ns])
    assert len(wanted) == len(found.result_rows) > 0
    for row, bar in zip(found.named_results(), wanted, strict=True):
        notional = bar.pop("trade_notional")
        assert {column: row[column] for column in bar} == bar
        assert row["trade_notional"] == pytest.approx(notional, rel=1e-15)


def test_bars_of_hold_at_the_ends_of_the_integers(client: Client) -> None:
    """Negative times and prices, prices that are missing, sums beyond 64 bits."""
    rng = np.random.default_rng(4)
    rows = empty_table(TRADE_COLUMNS, 300)
    rows["ts_ns"] = np.sort(rng.integers(-50_000_000_000, 50_000_000_000, 300))
    rows["px"] = rng.choice(np.array([UNDEF_PRICE, UNDEF_PRICE - 1, -(1 << 63), -7, 11, 5_000_000_000_001]), 300)
    rows["sz"] = rng.choice(np.array([0, 1, 3, (1 << 32) - 2]), 300)
    rows["side"] = rng.integers(-1, 2, 300)
    names = ["tape", "line", "instrument", "seq", "row", *rows]
    body = [["far", "main", "X", 0, at, *(int(rows[c][at]) for c in rows)] for at in range(300)]
    client.insert("trades", body, column_names=names)
    one_by_one = [dict(zip(names[3:], row[3:], strict=True)) for row in body]
    compare(client, "X", one_by_one, 7 * NS_PER_SECOND)


def test_volume_profile_adds_up(made: SqlTape, client: Client) -> None:
    name = name_of(made)
    trades = made.rows("trades", name)
    tick = made.known[name].tick_px
    found = client.query(
        "SELECT from_px, volume_sz, trade_buy_sz, trade_count FROM volume_profile(interval_ns = {w:Int64}, "
        "bucket_px = {b:Int64}) WHERE instrument = {name:String} AND ts_start_ns = {t:Int64} ORDER BY from_px",
        parameters={"w": 3600 * NS_PER_SECOND, "b": 4 * tick, "name": name, "t": 1_704_204_000 * NS_PER_SECOND},
    ).result_rows
    inside = trades["ts_ns"] // (3600 * NS_PER_SECOND) == 1_704_204_000 // 3600
    px = trades["px"][inside] // (4 * tick) * 4 * tick
    wanted = [
        (int(p), int(trades["sz"][inside][px == p].sum()),
         int(trades["sz"][inside][(px == p) & (trades["side"][inside] == 1)].sum()), int((px == p).sum()))
        for p in np.unique(px)
    ]  # fmt: skip
    assert found == wanted
    assert 1 < len(found) < inside.sum()


def test_trades_see_only_bins_that_had_ended(made: SqlTape, client: Client) -> None:
    name = name_of(made, 1)
    trades, bins = made.rows("trades", name), made.rows("bins", name)
    found = client.query_arrow(
        "SELECT * FROM trades_as_of WHERE instrument = {name:String} ORDER BY seq, part, row", parameters={"name": name}
    )
    at = np.searchsorted(bins["ts_end_ns"], trades["ts_ns"], side="right") - 1
    known = at >= 0
    assert np.array_equal(found["bin_seq"].to_numpy(), np.where(known, bins["bin_seq"][at], 0))
    assert np.array_equal(found["age_ns"].to_numpy(), np.where(known, trades["ts_ns"] - bins["ts_end_ns"][at], -1))
    assert np.array_equal(found["mid_px"].to_numpy(), np.where(known, bins["mid_px"][at], 0))
    assert (found["age_ns"].to_numpy()[known] >= 0).all()
    assert known.any()


def test_a_trade_at_the_very_end_of_a_bin_knows_it(client: Client) -> None:
    columns = ["tape", "line", "instrument", "bin_seq", "ts_end_ns"]
    client.insert("bins", [["edge", "main", "X", 1, 100], ["edge", "main", "X", 2, 200]], column_names=columns)
    times = [[99], [100], [199], [200], [10**18]]
    client.insert(
        "trades", [["edge", "main", "X", *t] for t in times], column_names=["tape", "line", "instrument", "ts_ns"]
    )
    found = client.query(
        "SELECT ts_ns, bin_seq, age_ns FROM trades_as_of WHERE tape = 'edge' ORDER BY ts_ns"
    ).result_rows
    assert found == [(99, 0, -1), (100, 1, 0), (199, 1, 99), (200, 2, 0), (10**18, 2, 10**18 - 200)]


def test_the_calendar_says_how_long_a_book_was_in_which_state(made: SqlTape, client: Client) -> None:
    for number in (0, 1):
        name = name_of(made, number)
        bins = made.rows("bins", name)
        lasts = sql_tape.state_lasts_ns(bins)
        seconds = {state: lasts[np.isin(bins["book_state"], codes)].sum() / 1e9
                   for state, codes in (("valid_s", [2]), ("suspect_s", [3]), ("partial_s", [0, 1]))}  # fmt: skip
        (row,) = client.query(
            "SELECT * FROM quality_calendar WHERE tape = 'sim' AND instrument = {name:String}",
            parameters={"name": name},
        ).named_results()
        assert {state: row[state] for state in seconds} == seconds
        assert row["bins"] == len(lasts)
        assert row["records"] == bins["event_count"].sum()
        assert row["longest_silence_s"] == lasts.max() / 1e9
        assert row["coverage"] == seconds["valid_s"] / sum(seconds.values())
        wanted = (2, 4.0) if name == next(iter(made.known)) else (0, 0.0)
        assert (row["gaps"], row["gaps_s"]) == wanted, "the line's own and those of all lines"
    suspects = client.command("SELECT countIf(suspect_s > 0) FROM quality_calendar WHERE tape = 'sim'")
    assert suspects == 1


def test_a_full_day_is_one_day_and_a_weekend_is_no_part_of_friday(client: Client) -> None:
    friday, width = 19_723 * 86_400 * 10**9, 21_600 * 10**9  # 2024-01-01, and bins of six hours
    starts = [friday + n * width for n in (0, 1, 2, 3, 12, 13, 14, 15)]  # four on a day, two days off, four on a day
    client.insert(
        "bins",
        [["days", "main", "X", at, start, start + width, 10, 2] for at, start in enumerate(starts)],
        column_names=["tape", "line", "instrument", "bin_seq", "ts_start_ns", "ts_end_ns", "event_count", "book_state"],
    )
    found = client.query(
        "SELECT day, bins, records, known_s, coverage, longest_silence_s FROM quality_calendar WHERE tape = 'days' "
        "ORDER BY day"
    )
    hours = 18 * 3_600.0, 1.0, 6 * 3_600.0
    assert [(str(r[0]), *r[1:]) for r in found.result_rows] == [
        ("2024-01-01", 4, 40, *hours), ("2024-01-04", 4, 40, *hours)
    ]  # fmt: skip


def test_a_state_ends_at_midnight_also_if_its_bin_goes_on(client: Client) -> None:
    midnight, hour = 19_724 * 86_400 * 10**9, 3_600 * 10**9
    bins = [(midnight - 6 * hour, midnight - 5 * hour), (midnight - hour // 2, midnight + hour // 2)]
    client.insert(
        "bins",
        [["cut", "main", "X", at, *times, 1, 2] for at, times in enumerate(bins)],
        column_names=["tape", "line", "instrument", "bin_seq", "ts_start_ns", "ts_end_ns", "event_count", "book_state"],
    )
    found = client.query("SELECT day, bins, known_s FROM quality_calendar WHERE tape = 'cut'")
    assert [(str(r[0]), *r[1:]) for r in found.result_rows] == [("2024-01-01", 2, 5 * 3_600.0)]


def test_a_day_that_has_only_a_gap_stands_in_the_calendar(client: Client) -> None:
    client.insert(
        "gaps", [["sim", "SYNTH.BARO:SYN0", "lone", "main", 86_400 * 10**9, 2 * 86_400 * 10**9]],
        column_names=["tape", "instrument", "id", "of_line", "ts_from", "ts_to"],
    )  # fmt: skip
    found = client.query(
        "SELECT day, bins, gaps, gaps_s, coverage FROM quality_calendar WHERE tape = 'sim' AND toYear(day) = 1970"
    )
    assert [(str(r[0]), *r[1:]) for r in found.result_rows] == [("1970-01-02", 0, 1, 86_400.0, 0.0)]
    client.command("ALTER TABLE gaps DELETE WHERE id = 'lone' SETTINGS mutations_sync = 1")
