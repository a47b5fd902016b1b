"""The console in a real browser: what people see changes when, and only when, data flows."""

import numpy as np
import pytest

pytestmark = pytest.mark.real


def colours(page):
    """How many colours the drawn heatmap has: an empty or plain picture has very few."""
    return page.page.evaluate("""() => {
      const c = document.getElementById('heat'), gl = c.getContext('webgl2'), seen = new Set();
      const p = new Uint8Array(c.width * c.height * 4);
      gl.readPixels(0, 0, c.width, c.height, gl.RGBA, gl.UNSIGNED_BYTE, p);
      for (let i = 0; i < p.length; i += 4) seen.add(p[i] << 16 | p[i + 1] << 8 | p[i + 2]);
      return seen.size;
    }""")


def test_the_heatmap_changes_while_data_flows_and_rests_when_it_stops(host, open_page):
    page = open_page(host.url)
    page.until("bins > 140 && __barograph.uploads > 140")
    first, pixels, uploads = page.picture(), page.ask("checksum()"), page.ask("uploads")
    assert colours(page) > 30
    page.until(f"uploads > {uploads + 10}")
    assert page.picture() != first
    assert page.ask("checksum()") != pixels
    assert page.ask("state") == "live"

    host.feeder.paused.set()
    page.until("state == 'stale'")
    page.until("view.right == __barograph.columns")
    still = page.settled("checksum()")  # the centre glides home
    page.page.wait_for_timeout(800)
    assert page.ask("checksum()") == still
    host.feeder.paused.clear()
    page.until("state == 'live'")
    assert page.errors == []


def test_what_is_drawn_is_what_was_sent(host, open_page):
    host.feeder.paused.set()
    page = open_page(host.url)
    page.until("bins > 0")
    page.until(f"lastBin == {host.feeder.markets[_es()].bin_seq - 1}")
    last = host.feeder.hub.channels[next(n for n in host.feeder.hub.channels if n.instrument == _es())].ring.newest
    for name in ("bid_depth", "ask_depth", "v_add"):
        np.testing.assert_array_equal(np.array(page.ask(f"vector('{name}')"), "f4"), last.table[name][-1].astype("f4"))
    shown = page.ask("last()")
    assert shown["bidPx"] == int(last.table["best_bid_px"][-1])
    assert shown["spot"] == int(last.table["spot_tick"][-1])
    assert page.page.locator("#bid-price").inner_text().replace(",", "") == f"{shown['bidPx'] / 1e9:.2f}"


def test_fields_themes_and_keys_change_the_picture(host, open_page):
    page = open_page(host.url)
    page.until("uploads > 140")
    seen = {page.ask("checksum()")}
    for key, field in (("2", "add_mass"), ("0", "balance"), ("8", "pressure")):
        page.page.keyboard.press(key)
        page.until(f"field == '{field}'")
        page.page.wait_for_timeout(500)
        seen.add(page.ask("checksum()"))
    assert page.page.locator("[aria-checked=true]").get_attribute("aria-label") == "Forces: Pressure"
    assert "field=pressure" in page.page.url
    page.page.keyboard.press("t")
    page.page.wait_for_timeout(500)
    seen.add(page.ask("checksum()"))
    assert len(seen) == 5
    width = page.ask("view.colW")
    page.page.keyboard.press("+")
    page.until(f"view.colW > {width}")
    assert page.errors == []


def test_another_instrument_starts_afresh_at_its_own_price(host, open_page):
    page = open_page(host.url)
    page.until("uploads > 100")
    before = page.ask("view.centre")
    page.page.select_option("#instrument", "GLBX.MDP3:NQH4")
    page.until("instrument == 'GLBX.MDP3:NQH4' && __barograph.bins > 100 && __barograph.view.centre !== null")
    assert abs(page.ask("view.centre") - before) > 1000
    assert "NQH4" in page.page.url


def test_a_lost_gateway_is_shown_and_found_again(host, open_page):
    page = open_page(host.url)
    page.until("state == 'live'")
    host.stop_gateway()
    page.until("state == 'lost'")
    assert "Trying again" in page.page.locator("#notice").inner_text()
    host.start_gateway()
    page.until("state == 'live'")
    assert page.ask("counts.lost") == 1
    bins = page.ask("bins")
    page.until(f"bins > {bins + 3}")


def test_the_page_is_usable_without_seeing_it(host, open_page):
    page = open_page(host.url, color_scheme="light")
    page.until("bins > 10")
    assert page.page.locator("html").get_attribute("data-theme") == "light"
    assert page.page.get_by_role("radio").count() == 10
    assert page.page.get_by_role("combobox", name="Instrument").is_visible()
    assert "Heatmap" in page.page.locator("#stage").get_attribute("aria-label")
    page.page.keyboard.press("?")
    assert page.page.get_by_role("dialog", name="Keyboard").is_visible()
    names = page.page.evaluate(
        "[...document.querySelectorAll('button')].map(b => b.getAttribute('aria-label') || b.textContent.trim())"
    )
    assert all(names)


def _es():
    return "GLBX.MDP3:ESH4"
