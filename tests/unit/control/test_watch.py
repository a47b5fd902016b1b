"""The ladder as text, and the verb `watch` against a real gateway with synthetic rows."""

import asyncio
import contextlib
import io
import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from control import ladder
from control.app import app
from control.commands import watch
from runtime.errors import InputError, MissingServiceError
from schemas.units import UNDEF_PRICE
from tests.browser.synthetic import SyntheticFeeder
from ws_gateway.server import Gateway

RADIUS = 5


def row(**given):
    known = {
        "bin_seq": 7, "ts_end_ns": 1_700_000_000_100_000_000, "book_state": 2, "best_bid_px": 100_250_000_000,
        "best_ask_px": 100_500_000_000, "trade_count": 3, "ofi": 1.0, "spot_tick": 401, "tick_px": 250_000_000,
        "bucket": 1,
    }  # fmt: skip
    vectors = {name: np.zeros(2 * RADIUS + 1) for name in ladder.VECTORS}
    return {name: np.asarray(value) for name, value in (known | vectors | given).items()}


def vector(**at):
    out = np.zeros(2 * RADIUS + 1)
    for where, value in at.items():
        out[RADIUS + int(where.replace("m", "-").strip("k"))] = value
    return out


def text(of, link=None, height=9):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(ladder.picture(of, link or ladder.Link("SIM:ES"), height))
    return console.export_text()


def test_forces_are_those_of_the_engine_before_smoothing():
    found = ladder.forces(row(v_add=vector(km1=10.0), v_pull=vector(k2=4.0), v_fill=vector(k2=2.0)))
    assert found.p_below == pytest.approx(10 * np.exp(-1 / 12))
    assert found.v_above == pytest.approx((4 + 1.5 * 2) * np.exp(-2 / 12))
    assert found.net == 1.0
    assert ladder.forces(row()).net == 0.0
    assert ladder.forces(row(v_rest_depth=vector(k1=-2.0, km1=-2.0))).net == pytest.approx(0.0)


def test_the_ladder_shows_prices_sizes_and_how_the_stream_is():
    shown = text(row(bid_depth=vector(km1=40.0), ask_depth=vector(k1=20.0)), ladder.Link("SIM:ES", age_us=4200, gaps=2))
    assert "100.25" in shown.splitlines()[1]
    price = next(line for line in shown.splitlines() if "100.00 " in line)
    assert price.split()[1] == "40"
    assert "█" * ladder.BAR_CELLS in price
    assert "2023-11-14 22:13:20.1" in shown
    assert "age 4 ms" in shown
    assert "gaps 2" in shown
    assert "reconnects" not in shown


def test_what_is_wrong_is_said():
    shown = text(row(book_state=3, best_bid_px=UNDEF_PRICE), ladder.Link("SIM:ES", stale_ms=5000))
    assert "SUSPECT" in shown
    assert "STALE 5 s" in shown
    assert "NO CONNECTION" in text(row(), ladder.Link("SIM:ES", stale_ms=5000, lost=True))
    assert "–" in shown


@pytest.mark.parametrize(("share", "cells"), [(0, 0), (1, ladder.BAR_CELLS), (2, ladder.BAR_CELLS), (-1, 0)])
def test_bars_stay_in_their_place(share, cells):
    for mirrored in (False, True):
        made = ladder.bar(share, mirrored=mirrored)
        assert len(made) == ladder.BAR_CELLS
        assert made.count("█") == cells


@contextlib.contextmanager
def gateway(**known):
    ready, done = threading.Event(), threading.Event()
    port = []

    async def main():
        stop = asyncio.Event()
        task = asyncio.create_task(
            Gateway(SyntheticFeeder(**{"period_s": 0.005, "history": 5, **known})).run(
                "127.0.0.1", 0, stop, port.append
            )
        )
        while not port:
            await asyncio.sleep(0.01)
        ready.set()
        await asyncio.to_thread(done.wait)
        stop.set()
        await task

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    ready.wait(10)
    try:
        yield f"ws://127.0.0.1:{port[0]}/v1/stream"
    finally:
        done.set()
        thread.join()


def test_watch_prints_a_line_for_each_bin(tmp_path):
    with gateway() as url:
        done = CliRunner().invoke(app, ["watch", "--url", url, "--rows", "3", "--json", "--data", str(tmp_path)])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 3
    assert lines[0]["bin_seq"] < lines[2]["bin_seq"]
    assert -1 <= lines[0]["net"] <= 1


def test_watch_prints_each_bin_of_a_replay_once(tmp_path):
    with gateway(period_s=0, history=100) as url:
        given = ["--url", url, "--from", "bin/0", "--rows", "90", "--json", "--data", str(tmp_path)]
        done = CliRunner().invoke(app, ["watch", *given])
    assert done.exit_code == 0, done.output
    bins = [json.loads(line)["bin_seq"] for line in done.stdout.splitlines()]
    assert bins == list(range(bins[0], bins[0] + 90))


def test_silence_is_drawn_although_nothing_comes(monkeypatch):
    monkeypatch.setattr(watch, "LOOK_S", 0.2)

    async def main(url):
        console = Console(width=120, record=True, file=io.StringIO())
        out = SimpleNamespace(console=console, as_json=False)
        what = {"tape": None, "instrument": None, "line": "main", "start": "live"}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4):
                await watch._watch(out, url, None, what, None, 0)
        return console.export_text()

    with gateway(period_s=0) as url:
        shown = asyncio.run(main(url))
    assert "STALE" in shown.splitlines()[-2]


def test_watch_draws_the_ladder_where_there_is_no_terminal(tmp_path):
    with gateway() as url:
        done = CliRunner().invoke(app, ["watch", "--url", url, "--rows", "2", "--data", str(tmp_path)])
        assert done.exit_code == 0, done.output
        assert "GLBX.MDP3:ESH4" in done.stdout
        assert "pressure above" in done.stdout
        assert max(map(len, done.stdout.splitlines())) == watch.SCREEN_CELLS
        missing = CliRunner().invoke(app, ["watch", "--url", url, "--tape", "none", "--data", str(tmp_path)])
    assert isinstance(missing.exception, InputError)


def test_without_a_gateway_it_says_what_to_do(tmp_path):
    done = CliRunner().invoke(app, ["watch", "--data", str(tmp_path)])
    assert isinstance(done.exception, MissingServiceError)
    assert "barograph up" in str(done.exception)
