import asyncio
import re

import httpx
import pytest

from control.api import console_dir, create_app
from runtime.errors import InputError
from runtime.object_store import LocalObjectStore
from runtime.tapes import Instrument, Line, TapeStore, new_tape

GATEWAY = "ws://127.0.0.1:8761/v1/stream"


class Browser:
    """Asks an application without a socket."""

    def __init__(self, app):
        self._transport = httpx.ASGITransport(app)

    def get(self, path):
        async def ask():
            async with httpx.AsyncClient(transport=self._transport, base_url="http://127.0.0.1") as client:
                return await client.get(path)

        return asyncio.run(ask())


@pytest.fixture
def client(tmp_path):
    tape = new_tape("t1", instruments={"X:Y": Instrument(0, 250_000_000)}, lines={"main": Line("r")})
    TapeStore(LocalObjectStore(tmp_path / "state")).save(tape)
    return Browser(create_app(gateway_url=lambda: GATEWAY, state=tmp_path / "state"))


def test_health(client):
    assert client.get("/health").json() == {"status": "ok"}


def test_config_names_the_gateway_and_what_exists(client):
    config = client.get("/v1/config").json()
    assert config["gateway_url"] == GATEWAY
    (tape,) = config["tapes"]
    assert (tape["name"], tape["lines"], tape["state"]) == ("t1", ["main"], "open")
    assert tape["instruments"] == {"X:Y": {"tick_px": 250_000_000, "bucket": 1, "lot": "1"}}


def test_config_before_a_gateway_and_a_tape(tmp_path):
    client = Browser(create_app(gateway_url=lambda: None, state=tmp_path / "state"))
    config = client.get("/v1/config").json()
    assert config["gateway_url"] is None
    assert config["tapes"] == []


def test_the_console_and_all_it_names_are_served(client):
    page = client.get("/").text
    names = re.findall(r'(?:href|src)="([^"#]+)"', page)
    assert {"style.css", "src/main.js", "icon.svg", "vendor/inter.woff2"} <= set(names)
    modules = ["src/main.js"]
    for name in modules:
        source = client.get(f"/{name}")
        assert source.status_code == 200
        assert "javascript" in source.headers["content-type"]
        found = re.findall(r'from "(\.[^"]+)"', source.text) if name.startswith("src/") else []
        modules += [m for m in (_resolve(f) for f in found) if m not in modules]
    assert "vendor/flechette.mjs" in modules
    assert all(client.get(f"/{n}").status_code == 200 for n in names)


def test_every_answer_is_hardened(client):
    for path in ("/", "/health", "/v1/config", "/style.css", "/nothing"):
        headers = client.get(path).headers
        assert "connect-src 'self' ws://127.0.0.1:8761;" in headers["content-security-policy"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", ["/../pyproject.toml", "/..%2fpyproject.toml", "/%2e%2e/pyproject.toml"])
def test_nothing_outside_the_console_is_served(client, path):
    assert client.get(path).status_code == 404


def test_the_console_needs_nothing_from_elsewhere():
    for path in console_dir().rglob("*"):
        if path.suffix in {".html", ".css", ".js"}:
            assert not re.search(r"""(?:src|href|url|from|import)\s*[=(]?\s*["']?https?:""", path.read_text()), path


def test_a_missing_console_is_said_so(monkeypatch, tmp_path):
    monkeypatch.setattr("control.api.REPOSITORY", tmp_path)
    monkeypatch.setattr("control.api.resources.files", lambda _: tmp_path)
    with pytest.raises(InputError, match="console"):
        console_dir()


def _resolve(name):
    return f"src/{name[2:]}" if name.startswith("./") else name.removeprefix("../")
