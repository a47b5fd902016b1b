"""The console's transport bar, its address, and what it says when the stream is not whole."""

import re
import time
from urllib.parse import unquote

import pytest

from tests.browser.conftest import INSTRUMENTS
from ws_gateway import subscription
from ws_gateway.channel import Gap
from ws_gateway.fanout import Name
from ws_gateway.frames import Block

pytestmark = pytest.mark.real

BIN = Name("synthetic", "main", "bins", INSTRUMENTS[0])
DATA, HELD, CONFLATED, GAP = 0, 1, 2, 3


def opened(host, open_page, fragment=""):
    page = open_page(host.url + fragment)
    page.until("bins > 140")
    return page


def bins(page):
    """Bins of the columns that are drawn as data, in order."""
    return [bin_seq for kind, bin_seq in page.ask("drawn") if kind == DATA]


def whole(found):
    """Each bin once, none missing."""
    return found == list(range(found[0], found[0] + len(found)))


def shown_at(page):
    """The moment that the page's address names."""
    found = re.search(r"[#&]at=([^&]*)", page.page.url)
    return unquote(found[1]) if found else ""


def paused(page):
    page.page.keyboard.press(" ")
    page.until("state == 'paused'")
    return page.settled("lastBin")  # what was under way has come


def test_pause_stands_still_and_going_on_misses_no_column(host, open_page):
    page = opened(host, open_page)
    page.until("state == 'live'")
    at = paused(page)
    page.page.wait_for_timeout(900)
    assert page.ask("lastBin") == at
    assert shown_at(page) == page.ask("cursor")
    assert page.page.get_by_role("button", name="Go on").is_visible()
    assert page.page.get_by_role("button", name="Live", exact=True).get_attribute("aria-pressed") == "false"
    page.page.get_by_role("button", name="Go on").click()
    page.until(f"lastBin > {at + 20} && __barograph.state == 'live' && __barograph.live")
    assert whole(bins(page))
    page.settled("live")
    assert shown_at(page) == ""
    assert page.errors == []


def test_a_step_shows_one_bin_more(host, open_page):
    page = opened(host, open_page)
    at = paused(page)
    for n in (1, 2):
        page.page.keyboard.press(".")
        page.until(f"lastBin == {at + n}")
    page.page.get_by_role("button", name="One bin on").click()
    page.until(f"lastBin == {at + 3}")
    assert page.settled("lastBin") == at + 3
    assert page.ask("paused")
    assert whole(bins(page))


def test_a_seek_shows_the_bin_with_what_led_to_it_and_its_trades(host, open_page):
    page = opened(host, open_page)
    first = page.ask("firstBin")
    page.until("trades.length > 50")
    known = page.ask("trades")
    page.page.keyboard.press("g")
    assert page.page.locator("#t-moment").evaluate("e => e === document.activeElement")
    page.page.keyboard.type(f"bin/{first + 100}")
    page.page.keyboard.press("Enter")
    page.until(f"paused && __barograph.lastBin == {first + 100} && __barograph.columns > 90")
    assert page.settled("lastBin") == first + 100
    assert bins(page) == list(range(first, first + 101))
    assert page.settled("trades") == [t for t in known if t[0] <= first + 100]
    page.page.keyboard.press(".")
    page.until(f"lastBin == {first + 101}")
    assert page.settled("trades") == [t for t in known if t[0] <= first + 101]


def test_the_pace_is_kept_until_the_replay_is_live(host, open_page):
    page = opened(host, open_page)
    first = page.ask("firstBin")
    page.page.fill("#t-moment", f"bin/{first + 20}")
    page.page.get_by_role("button", name="Go", exact=True).click()
    page.until(f"lastBin == {first + 20}")
    page.page.select_option("#t-pace", "2")
    page.page.locator("#stage").focus()
    page.page.keyboard.press(" ")
    page.until(f"lastBin > {first + 25} && __barograph.state == 'replay'")
    shown, wall = page.page.evaluate("""async () => {
      const shown = () => window.__barograph.last().tMs, at = [shown(), performance.now()];
      await new Promise((done) => setTimeout(done, 3000));
      return [shown() - at[0], performance.now() - at[1]];
    }""")
    assert 0.5 < shown / wall / 2 < 2  # twice as fast as it happened, as a page on a busy machine can tell
    assert shown_at(page).startswith("synthetic/main/grid/")
    for _ in range(6):
        page.page.keyboard.press("p")
    assert page.ask("pace") == "max"
    page.until("state == 'live' && __barograph.live")
    assert whole(bins(page))
    assert page.errors == []


def end_the_tape(host):
    host.feeder.paused.set()
    time.sleep(0.3)
    for stream in ("bins", "trades"):
        host.do(host.feeder.hub.hear, Name("synthetic", "main", stream, INSTRUMENTS[0]), time.monotonic_ns(), end=True)


def test_a_finished_tape_is_gone_back_in_and_beyond_its_end_stands_the_end(host, open_page):
    page = opened(host, open_page)
    first = page.ask("firstBin")
    end_the_tape(host)
    page.until("state == 'ended'")
    last = page.settled("lastBin")
    page.page.fill("#t-moment", f"bin/{first + 30}")
    page.page.keyboard.press("Enter")
    page.until(f"state == 'paused' && __barograph.lastBin == {first + 30}")
    assert page.settled("lastBin") == first + 30
    page.page.locator("#stage").focus()
    page.page.keyboard.press(".")
    page.until(f"lastBin == {first + 31}")
    page.page.fill("#t-moment", f"bin/{last + 100_000}")
    page.page.keyboard.press("Enter")
    page.until(f"lastBin == {last}")
    assert bins(page)[-100:] == list(range(last - 99, last + 1))
    assert page.page.locator("#t-told").inner_text() == ""
    assert page.errors == []


def test_a_page_paused_before_there_is_anything_to_see_shows_where_it_stands(host, open_page):
    host.stop_gateway()
    page = open_page(host.url)
    page.until("state == 'connecting' || __barograph.state == 'lost'")
    page.page.keyboard.press(" ")
    host.start_gateway()
    page.until("state == 'paused' && __barograph.columns > 100")
    at = page.settled("lastBin")
    page.page.keyboard.press(" ")
    page.until(f"lastBin > {at + 5}")
    assert whole(bins(page))


def test_back_to_live(host, open_page):
    page = opened(host, open_page)
    paused(page)
    page.page.keyboard.press("<")
    page.until("columns > 0 && __barograph.state == 'paused'")
    page.page.keyboard.press("l")
    page.until("state == 'live' && __barograph.bins > 140")
    assert page.page.get_by_role("button", name="Live", exact=True).get_attribute("aria-pressed") == "true"
    page.settled("live")
    assert shown_at(page) == ""


def test_an_address_shows_the_same_moment_to_somebody_else(host, open_page):
    page = opened(host, open_page)
    at = paused(page)
    cursor, vector = page.ask("cursor"), page.ask("vector('bid_depth')")
    other = open_page(page.page.url)
    other.until(f"lastBin == {at} && __barograph.columns > 100")
    assert (other.settled("lastBin"), other.ask("cursor"), other.ask("paused")) == (at, cursor, True)
    assert other.ask("vector('bid_depth')") == vector
    first = other.ask("firstBin")
    other.page.evaluate(f"location.hash = location.hash.replace(/at=[^&]*/, 'at=bin%2F{first + 30}')")  # pasted over it
    other.until(f"lastBin == {first + 30}")
    assert other.errors == []


def test_a_moment_that_is_none_is_said(host, open_page):
    page = opened(host, open_page)
    page.page.fill("#t-moment", "yesterday")
    page.page.keyboard.press("Enter")
    assert "Write a time" in page.page.get_by_role("status").filter(has_text="Write").inner_text()
    assert page.ask("state") == "live"


@pytest.mark.parametrize("state", ["live", "paused"])
def test_a_gateway_that_restarts_costs_no_column_and_repeats_none(host, open_page, state):
    page = opened(host, open_page)
    if state == "paused":
        paused(page)
    before = bins(page)
    host.stop_gateway()
    page.until("state == 'lost'")
    assert "stopped where the connection did" in page.page.locator("#notice").inner_text()
    host.start_gateway()
    page.until(f"state == '{state}'")
    if state == "paused":
        assert page.settled("lastBin", 1500) == before[-1]
        page.page.keyboard.press(".")
        page.until(f"lastBin == {before[-1] + 1}")
        assert page.settled("lastBin") == before[-1] + 1
        page.page.keyboard.press(" ")
    page.until(f"lastBin > {before[-1] + 20} && __barograph.state == 'live'")
    after = bins(page)
    assert after[: len(before)] == before
    assert whole(after)
    page.until(f"trades.at(-1)[0] > {before[-1] + 20}")
    trades, other = page.ask("trades"), opened(host, open_page)
    other.until(f"trades.length > 50 && __barograph.trades.at(-1)[0] >= {trades[-1][0]}")
    first = other.ask("firstBin")
    last = trades[-1][0] - 1
    known = [t for t in other.ask("trades") if first <= t[0] <= last]
    assert [t for t in trades if first <= t[0] <= last] == known
    assert page.ask("counts") == {"leftOut": 0, "gaps": 0, "lost": 1}
    assert page.page.locator("#s-lost.alert b").inner_text() == "1"


def test_silence_is_shown_until_the_source_is_heard_again_with_rows_or_without(host, open_page):
    page = opened(host, open_page)
    page.until("state == 'live'")
    host.feeder.paused.set()
    page.until("state == 'stale'")
    assert "silent for" in page.page.locator("#notice").inner_text()
    deadline = time.monotonic() + 30
    while page.ask("state") == "stale":  # clocks come, but the market is quiet
        assert time.monotonic() < deadline
        host.do(host.feeder.hub.hear, BIN, time.monotonic_ns())
        page.page.wait_for_timeout(300)
    assert page.ask("state") == "live"
    assert page.page.locator("#notice").is_hidden()


def publish(host, gap=None):
    """One bin as the feeder makes it, with a gap before it."""
    row, _ = host.feeder.markets[INSTRUMENTS[0]].step()
    seq = int(row["bin_seq"][0])
    block = Block(seq + 1, 0, row, 1000, time.time_ns(), int(row["ts_end_ns"][0]), "run-1")
    host.feeder.hub.publish(BIN, block, time.monotonic_ns(), gap=gap)
    return seq


def test_a_gap_is_drawn_and_counted_with_its_cause(host, open_page):
    page = opened(host, open_page)
    host.feeder.paused.set()
    at = page.settled("lastBin")
    for _ in range(5):
        host.feeder.markets[INSTRUMENTS[0]].step()  # never sent
    host.do(publish, host, Gap(at + 2, at + 7, "messages are missing in the topic"))
    page.until(f"lastBin == {at + 6}")
    kinds = [kind for kind, _ in page.ask("drawn")][-5:]
    assert kinds == [GAP] * 4 + [DATA]
    assert page.page.locator("#s-gaps.alert b").inner_text() == "1"
    assert "messages are missing" in page.page.locator("#s-gaps").get_attribute("title")


def test_bins_left_out_are_drawn_and_counted(host, open_page, monkeypatch):
    page = opened(host, open_page)
    host.feeder.paused.set()
    at = page.settled("lastBin")
    monkeypatch.setattr(subscription, "BACKLOG_ROWS_MAX", 3)
    host.do(lambda: [publish(host) for _ in range(9)])  # before anybody could be sent one
    page.until(f"lastBin == {at + 9}")
    assert page.ask("counts.leftOut") == 8
    assert page.page.locator("#s-left.alert b").inner_text() == "8"
    kinds = [kind for kind, _ in page.ask("drawn")][-9:]
    assert kinds == [CONFLATED] * 8 + [DATA]


def test_rows_of_another_form_end_with_a_fresh_start_and_no_wrong_numbers(host, open_page):
    page = opened(host, open_page)
    host.feeder.paused.set()
    page.settled("lastBin")
    for market in host.feeder.markets.values():
        market.radius = 20  # the line is narrower now
    host.do(publish, host)
    page.until("counts.lost == 1 && __barograph.state == 'live'")
    assert "columns changed" in page.page.locator("#t-told").inner_text()
    page.until("columns > 0")
    host.feeder.paused.clear()
    page.until("bins > 5")
    assert len(page.ask("vector('bid_depth')")) == 41
