"""What stands before the api: every route by every role, foreign pages, tokens, sizes, floods."""

import asyncio
import json
import logging
import time
from types import SimpleNamespace

import httpx
import pytest

from control.api import create_app
from control.api_guard import BODY_BYTES_MAX, Trust
from runtime.auth_limits import LIMITS
from runtime.auth_rules import RULES, Role
from runtime.object_store import LocalObjectStore
from runtime.settings import Settings
from runtime.tapes import Alias, Instrument, Line, TapeStore, new_tape
from tests.unit.runtime.auth_world import NOW_NS, AuthWorld, confused, token, unsigned
from ws_gateway.protocol import CLIENT_OPS

ANYBODY = {"GET /", "GET /health", "GET /ready", "ws auth"}
TRADERS = {"POST /v1/sql", "ws subscribe past", "ws clock", "ws seek", "ws step", "ws speed"}
OWNED = {"ws subscribe past", "ws clock", "ws seek", "ws step", "ws speed"}
"""What was meant, written a second time: the table must say the same."""


class World:
    """An application with authentication, and somebody of each role."""

    def __init__(self, folder):
        self.auth = AuthWorld(folder / "state")
        self.texts = {role: self.auth.key(role.value, role)[1] for role in Role}
        tapes = TapeStore(LocalObjectStore(folder / "state"))
        tapes.save(new_tape("t1", instruments={"X:Y": Instrument(0, 250_000_000)}, lines={"main": Line("r")}))
        tapes.set_alias("best", Alias("t1"))
        self.app = create_app(
            gateway_url=lambda: None,
            state=folder / "state",
            settings=Settings(data_dir=folder),
            trust=Trust(self.auth.authority),
        )

    def ask(self, method, path, role=None, client="10.0.0.9", **known):
        headers = {**({"Authorization": f"Bearer {self.texts[role]}"} if role else {}), **known.pop("headers", {})}

        async def main():
            transport = httpx.ASGITransport(self.app, client=(client, 5))
            async with httpx.AsyncClient(transport=transport, base_url="http://api.example:8760") as asking:
                return await asking.request(method, path, headers=headers, **known)

        return asyncio.run(main())


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def code(answer):
    body = answer.json()["error"]
    assert set(body) == {"code", "message", "remedy"}
    return body["code"]


def routes(app):
    return [(m, r.path) for r in app.state.routes for m in sorted(r.methods) if m != "HEAD"]


def meant(what, role):
    """Whether somebody of a role should get something."""
    if what in ANYBODY:
        return True
    if role is None:
        return False
    if what.split(" ")[0] in ("POST", "PUT", "DELETE") and what.endswith("{rest:path}"):
        return role is Role.ADMIN
    return role is not Role.VIEWER if what in TRADERS else True


def test_every_route_and_operation_stands_in_the_table_and_nothing_else(world):
    served = {f"{method} {path}" for method, path in routes(world.app)} | {"GET /"}
    spoken = {f"ws {op}" for op in CLIENT_OPS} | {"ws subscribe past", "ws clock"}
    gateway = {"GET /health", "GET /ready", "GET /metrics"}
    assert set(RULES) == served | spoken | gateway


@pytest.mark.parametrize("what", sorted(RULES))
@pytest.mark.parametrize("role", [None, *Role])
@pytest.mark.parametrize("owner", [None, "me", "another"])
def test_the_table_says_what_was_meant_to_every_role_and_owner(what, role, owner):
    from runtime.auth_rules import may

    expected = meant(what, role) and (what not in OWNED or owner != "another" or role is Role.ADMIN)
    assert may(role, "me", what, owner) is expected


def test_every_route_is_open_to_those_it_is_meant_for_and_to_no_others(world):
    filled = {
        "{tape}": "t1",
        "{name}": "x",
        "{subject}": "s",
        "{version}": "1",
        "{schema_id}": "1",
        "{rest:path}": "x/y/z",
    }
    for method, template in routes(world.app):
        path = template
        for name, value in filled.items():
            path = path.replace(name, value)
        for role in (None, *Role):
            status = world.ask(method, path, role, client=f"10.0.{hash(template) % 200}.{len(path)}").status_code
            name = f"{method} {template}"
            refused = 401 if role is None else 403
            assert (status in (401, 403)) is not meant(name, role), (name, role, status)
            assert meant(name, role) or status == refused


def test_the_console_is_open_and_what_is_not_there_is_said(world):
    assert world.ask("GET", "/").status_code == 200
    assert world.ask("HEAD", "/style.css").status_code == 200
    nothing = world.ask("GET", "/nothing")
    assert (nothing.status_code, nothing.json()["error"]["remedy"]) == (404, "see /v1/openapi.json")
    for method, path in (("POST", "/"), ("PUT", "/v1/tapes"), ("DELETE", "/style.css"), ("OPTIONS", "/v1/sql")):
        answer = world.ask(method, path, Role.ADMIN)
        assert (answer.status_code, code(answer)) == (405, "wrong_method")
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "shown",
    [
        "", "Bearer", "Bearer ", "Basic YTpi", "Bearer nonsense", "Bearer a.b.c", f"Bearer {unsigned()}",
        f"Bearer {confused()}", f"Bearer {token(exp=5)}", f"Bearer {token(aud='x')}", f"Bearer {'x' * 5000}",
    ],
)  # fmt: skip
def test_bad_tokens_get_401_before_any_work(world, shown, monkeypatch):
    monkeypatch.setattr(TapeStore, "names", lambda _: pytest.fail("work was done"))
    answer = world.ask("GET", "/v1/tapes", headers={"Authorization": shown} if shown else {})
    assert (answer.status_code, code(answer)) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert world.ask("POST", "/v1/sql", content=b"x" * 1000, headers={"Authorization": shown}).status_code == 401


def test_two_tokens_are_none(world):
    text = world.texts[Role.ADMIN]
    headers = [("Authorization", f"Bearer {text}"), ("Authorization", f"Bearer {text}")]

    async def main():
        transport = httpx.ASGITransport(world.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://api.example") as client:
            return await client.get("/v1/tapes", headers=headers)

    assert asyncio.run(main()).status_code == 401


def test_a_token_of_an_issuer_is_good_and_ends_when_it_is_revoked(world):
    headers = {"Authorization": f"Bearer {token(now_s=int(time.time()))}"}
    assert world.ask("GET", "/v1/tapes", headers=headers).status_code == 200
    world.auth.keys.revoke_token("t1")
    world.auth.authority.refresh()
    assert world.ask("GET", "/v1/tapes", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://api.example:8760"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://api.example:9999"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_pages_of_other_sites_are_refused(world, headers, status):
    answer = world.ask("GET", "/v1/tapes", Role.ADMIN, headers=headers)
    assert answer.status_code == status
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_links_to_the_console_may_stand_anywhere(world):
    assert world.ask("GET", "/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:8760", 200), ("localhost", 200), ("[::1]:8760", 200), ("evil.example", 403), ("", 403)],
)
def test_without_authentication_only_own_names_lead_here(tmp_path, host, status):
    app = create_app(gateway_url=lambda: None, state=tmp_path / "state", settings=Settings(data_dir=tmp_path))

    async def main():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return [(await client.get(path, headers={"Host": host})).status_code for path in ("/v1/tapes", "/health")]

    assert asyncio.run(main()) == [status] * 2


def test_bodies_are_bounded(world):
    for known in ({"content": b"x" * (BODY_BYTES_MAX + 1)}, {"content": _pieces()}):
        answer = world.ask("POST", "/v1/sql", Role.ADMIN, **known)
        assert (answer.status_code, code(answer)) == (413, "too_large")
    answer = world.ask(
        "POST", "/v1/sql", Role.ADMIN, content=b"[" * 200_000, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400
    assert code(answer) == "bad_request"


async def _pieces():
    for _ in range(20):
        yield b"x" * (BODY_BYTES_MAX // 10)


def test_slow_bodies_are_ended(world, monkeypatch):
    monkeypatch.setattr("control.api_guard.BODY_S", 0.2)

    # the transport collects a body before it asks, so the guard is asked directly
    from starlette.datastructures import Headers

    from control.api_errors import ApiError
    from control.api_guard import _body

    async def receive():
        await asyncio.sleep(5)
        return {"type": "http.request"}

    with pytest.raises(ApiError) as caught:
        asyncio.run(_body(Headers({"content-length": "5"}), receive))
    assert caught.value.status == 408


def test_an_address_that_guesses_is_held_off_and_others_are_not(world):
    wrong = {"Authorization": "Bearer bgk_000000000000_x"}
    seen = [world.ask("GET", "/v1/tapes", headers=wrong).status_code for _ in range(LIMITS["failures"].amount + 2)]
    assert seen[0] == 401
    assert seen[-1] == 429
    assert world.ask("GET", "/v1/tapes", Role.VIEWER).status_code == 429
    assert world.ask("GET", "/v1/tapes", Role.VIEWER, client="10.0.0.10").status_code == 200


def test_a_user_asks_so_often_and_no_more(world):
    seen = [world.ask("POST", "/v1/sql", Role.TRADER, json={}).status_code for _ in range(LIMITS["sql"].amount + 1)]
    assert set(seen[:-1]) == {400}
    assert seen[-1] == 429
    assert world.ask("POST", "/v1/sql", Role.ADMIN, json={}).status_code == 400


def test_nothing_secret_is_logged_at_any_level(world, caplog):
    caplog.set_level(logging.DEBUG)
    secret = token(exp=5)
    for text in (secret, "bgk_000000000000_SECRETSECRET", world.texts[Role.ADMIN]):
        world.ask("GET", "/v1/tapes", headers={"Authorization": f"Bearer {text}"})
        world.ask("GET", f"/v1/tapes?token={text}", headers={"Authorization": f"Bearer {text}x"})
    written = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("barograph"))
    assert written.count("refused") >= 5
    everything = "\n".join(r.getMessage() for r in caplog.records if not r.name.startswith(("httpx", "httpcore")))
    for text in (secret, "SECRETSECRET", world.texts[Role.ADMIN].split("_", 2)[2]):
        assert text not in everything


def test_tapes_are_told_by_name_and_alias(world):
    listed = world.ask("GET", "/v1/tapes", Role.VIEWER).json()
    assert [t["name"] for t in listed["tapes"]] == ["t1"]
    assert listed["aliases"] == {"best": {"tape": "t1", "line": "main"}}
    for name in ("t1", "best"):
        tape = world.ask("GET", f"/v1/tapes/{name}", Role.VIEWER).json()
        assert tape["name"] == "t1"
        assert tape["lines"] == {"main": {"run": "r", "complete": False, "config": {}}}
        assert tape["instruments"]["X:Y"]["tick_px"] == 250_000_000
        assert tape["aliases"] == {"best": "main"}
    for name in ("nothing", "..", "%2e%2e", "a%00b"):
        assert world.ask("GET", f"/v1/tapes/{name}", Role.VIEWER).status_code in (404, 405)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("at=nonsense", 400), ("at=nothing/main/bins/X%253AY/0.0.0", 404), ("at=@5", 404), ("", 400),
        ("at=@5&tape=t1", 400), ("at=@5&tape=t1&stream=mbo&instrument=X:Y", 400), ("at=@5&tape=t1&line=no", 400),
        ("at=t1/main/x/X%253AY/0.0.0", 400),
    ],
)  # fmt: skip
def test_bad_places_are_refused(world, query, status):
    answer = world.ask("GET", f"/v1/cursor?{query}", Role.VIEWER)
    assert answer.status_code == status
    assert code(answer)


def test_serving_versions_are_read_through_the_registry(tmp_path):
    asked = {"stream": "grid", "tape": "t1", "instrument": "X:Y"}
    version = SimpleNamespace(id="v1", note="the best", subscriptions=(asked,))

    class Registry:
        def versions(self):
            return ["v1"]

        def aliases(self):
            return {"best": "v1"}

        def resolve(self, name):
            return version if name in ("v1", "best") else None

    known = {"gateway_url": lambda: None, "state": tmp_path, "settings": Settings(data_dir=tmp_path)}

    async def ask(app, path):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return await client.get(path)

    app = create_app(**known, serving=Registry())
    assert asyncio.run(ask(app, "/v1/serving")).json() == {"versions": ["v1"], "aliases": {"best": "v1"}}
    for name in ("best", "v1"):
        told = asyncio.run(ask(app, f"/v1/serving/{name}")).json()
        assert told == {"id": "v1", "note": "the best", "subscriptions": [asked]}
    assert asyncio.run(ask(app, "/v1/serving/no")).status_code == 404
    assert asyncio.run(ask(create_app(**known), "/v1/serving/v1")).status_code == 404


def test_status_without_services_says_what_is_there(world):
    status = world.ask("GET", "/v1/status", Role.VIEWER).json()
    assert status["tapes"]["t1"]["state"] == "open"
    assert status["lag"] == status["gaps"] == []
    assert json.dumps(status)


def test_sql_without_a_store_is_said(world):
    answer = world.ask("POST", "/v1/sql", Role.TRADER, json={"sql": "SELECT 1"})
    assert (answer.status_code, code(answer)) == (503, "missing_service")


def test_documents_are_served(world):
    openapi = world.ask("GET", "/v1/openapi.json", Role.VIEWER).json()
    assert "/v1/sql" in openapi["paths"]
    asyncapi = world.ask("GET", "/v1/schema", Role.VIEWER).json()
    assert asyncapi["asyncapi"] == "3.0.0"


def test_keys_made_for_the_api_count_from_now(world):
    assert world.auth.authority.admit(world.texts[Role.VIEWER], NOW_NS).role is Role.VIEWER
