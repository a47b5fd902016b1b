"""The console where a key is asked for: what a stranger, a viewer and a trader see, and keys that end meanwhile."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runtime.auth_rules import Role
from tests.browser.conftest import Host
from tests.unit.runtime.auth_world import NOW_NS, AuthWorld, token

pytestmark = pytest.mark.real


@dataclass
class Guarded:
    """A host that asks for keys, and the keys of two people."""

    host: Host
    world: AuthWorld
    viewer: str
    trader: str

    def jwt(self, name: str, *, lives_s: float = 3600, **claims: Any) -> str:
        now_s = time.time()
        return str(token(now_s=int(now_s), exp=now_s + lives_s, jti=name, role="trader", **claims))

    def revoke(self, name: str) -> None:
        self.world.keys.revoke_token(name)
        self.world.authority.refresh()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    world = AuthWorld(tmp_path / "auth")
    made = {role: world.keys.add(f"a {role.value}", role, NOW_NS)[1] for role in (Role.VIEWER, Role.TRADER)}
    world.authority.refresh()
    host = Host(tmp_path, world.authority)
    yield Guarded(host, world, made[Role.VIEWER], made[Role.TRADER])
    host.close()


def give(page, key):
    page.page.wait_for_selector("#login[open]", timeout=100_000)
    page.page.get_by_label("Key or token").fill(key)
    page.page.get_by_role("button", name="Show it").click()


def unexpected(page):
    """Errors of the page but for the answers that it asked for."""
    return [error for error in page.errors if "401" not in error]


def test_a_stranger_is_asked_for_a_key_and_sees_nothing(guarded, open_page):
    page = open_page(guarded.host.url)
    page.until("state == 'locked'")
    dialog = page.page.get_by_role("dialog", name="Show a key")
    assert dialog.is_visible()
    assert page.ask("columns") == 0
    give(page, "bgk_0123456789ab_" + "a" * 43)
    page.until("state == 'locked'")
    page.page.wait_for_selector("#login-why:not([hidden])", timeout=100_000)
    assert page.page.get_by_role("alert").inner_text() == "The api refuses this key: the token was not accepted."
    page.page.keyboard.press("Escape")
    assert "press K" in page.page.locator("#notice").inner_text().replace("Press", "press")
    page.page.locator("#stage").focus()
    page.page.keyboard.press("k")
    assert dialog.is_visible()
    give(page, guarded.trader)
    page.until("bins > 140 && __barograph.state == 'live'")
    assert guarded.trader not in page.page.url
    assert page.page.evaluate("localStorage.length + document.cookie.length") == 0
    page.page.reload()
    page.until("bins > 140 && __barograph.state == 'live'")  # kept in this tab
    assert page.page.get_by_role("dialog").count() == 0
    page.page.get_by_role("button", name="Key that is shown").click()
    page.page.get_by_role("button", name="Forget the key").click()
    page.until("state == 'locked'")
    assert unexpected(page) == []


def test_a_viewer_looks_pauses_and_goes_on_but_not_back(guarded, open_page):
    page = open_page(guarded.host.url)
    give(page, guarded.viewer)
    page.until("bins > 10 && __barograph.state == 'live'")
    for name in ("Back one minute", "One bin on", "Forward one minute", "Go"):
        assert page.page.get_by_role("button", name=name, exact=True).is_disabled()
    page.page.keyboard.press(",")
    page.page.keyboard.press(".")
    page.page.keyboard.press(" ")
    page.until("state == 'paused'")
    at = page.settled("lastBin")
    page.page.wait_for_timeout(700)
    assert page.ask("lastBin") == at
    page.page.keyboard.press(" ")
    page.until(f"lastBin > {at + 15} && __barograph.state == 'live'")
    guarded.host.stop_gateway()
    page.until("state == 'lost'")
    guarded.host.start_gateway()
    page.until(f"lastBin > {at + 40} && __barograph.state == 'live'")  # behind its cursor: that is no replay
    found = [bin_seq for kind, bin_seq in page.ask("drawn") if kind == 0]
    assert found == list(range(found[0], found[0] + len(found)))
    assert unexpected(page) == []


def test_a_key_that_ends_is_followed_by_another_without_a_break(guarded, open_page):
    page = open_page(guarded.host.url)
    give(page, guarded.jwt("first", lives_s=55))
    page.until("bins > 140 && __barograph.state == 'live'")
    page.page.wait_for_selector("text=The token ends in", timeout=100_000)
    page.page.keyboard.press("k")
    give(page, guarded.jwt("second"))
    page.page.wait_for_timeout(1000)
    assert page.page.locator("#t-told").inner_text() == ""
    guarded.revoke("first")
    at = page.ask("lastBin")
    page.until(f"lastBin > {at + 30}")
    assert page.ask("counts.lost") == 0
    guarded.revoke("second")
    page.until("state == 'locked'")
    assert "revoked" in page.page.get_by_role("alert").inner_text()
    assert page.ask("columns") > 140  # what was seen stays
    give(page, guarded.jwt("third"))
    at = page.ask("lastBin")
    page.until(f"lastBin > {at + 20} && __barograph.state == 'live'")
    found = [bin_seq for kind, bin_seq in page.ask("drawn") if kind == 0]
    assert found == list(range(found[0], found[0] + len(found)))
    assert unexpected(page) == []
