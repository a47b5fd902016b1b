"""A headless Chromium, and the console with a gateway on synthetic rows: real sockets, real WebGL, no pipeline."""

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from control.api import create_app
from control.api_guard import Trust
from runtime.auth import Authority
from runtime.object_store import LocalObjectStore
from runtime.tapes import Instrument, Line, Manifest, TapeStore
from tests.browser.synthetic import TAPE_ID, SyntheticFeeder
from ws_gateway.server import Gateway

INSTRUMENTS = ("GLBX.MDP3:ESH4", "GLBX.MDP3:NQH4")
CHROMIUM_ARGS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox", "--disable-gpu-sandbox"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser; without one the test is skipped, or fails where CI promises that nothing is."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        text = "no Chromium on PATH: install it (apt-get install chromium)"
        pytest.fail(text) if os.environ.get("CI") == "true" else pytest.skip(text)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


class Host:
    """Api and gateway on an event loop in a thread of its own."""

    def __init__(self, data_dir: Path, authority: Authority | None = None) -> None:
        self._authority = authority
        known = {n: Instrument(0, 250_000_000 // (1 + 4 * i)) for i, n in enumerate(INSTRUMENTS)}
        lines = {"main": Line("run-1")}
        tape = Manifest("synthetic", TAPE_ID, instruments=known, lines=lines)  # the id that the gateway's hub tells
        TapeStore(LocalObjectStore(data_dir / "state")).save(tape)
        self.gateway_port = 0
        app = create_app(
            gateway_url=lambda: f"ws://127.0.0.1:{self.gateway_port}/v1/stream",
            state=data_dir / "state",
            trust=Trust(authority),
        )
        config = uvicorn.Config(app, "127.0.0.1", 0, log_config=None)
        self._socket = config.bind_socket()
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/"
        self._api = uvicorn.Server(config)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.start_gateway()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._api.serve([self._socket]))

    def start_gateway(self) -> None:
        sent = self.feeder.sent if hasattr(self, "feeder") else 140
        self.feeder = SyntheticFeeder(INSTRUMENTS, history=sent + 10)  # the same market, a second later
        self._stop = asyncio.Event()
        ready = threading.Event()

        def answer(port: int) -> None:
            self.gateway_port = port
            ready.set()

        gateway = Gateway(self.feeder, [self.url.rstrip("/")], authority=self._authority)
        served = gateway.run("127.0.0.1", self.gateway_port, self._stop, answer)
        self._gateway = asyncio.run_coroutine_threadsafe(served, self.loop)
        assert ready.wait(20)

    def do(self, function: Callable[..., Any], *args: Any, **known: Any) -> None:
        """Call something on the gateway's loop, and wait until it is done."""

        async def call() -> None:
            function(*args, **known)

        asyncio.run_coroutine_threadsafe(call(), self.loop).result(60)

    def stop_gateway(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._gateway.result(20)

    def close(self) -> None:
        self.stop_gateway()
        self._api.should_exit = True
        self._thread.join(20)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Api and gateway, stopped at the end."""
    made = Host(tmp_path)
    yield made
    made.close()


class Page:
    """A page of the console, with what its tests ask again and again."""

    def __init__(self, browser: Any, url: str, **known: Any) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 760}, **known)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.goto(url)

    def ask(self, expression: str) -> Any:
        return self.page.evaluate(f"window.__barograph && window.__barograph.{expression}")

    def until(self, expression: str, seconds: float = 100) -> None:
        """Wait until an expression on the hooks holds; polled from here, because the page's policy forbids eval."""
        deadline = time.monotonic() + seconds
        while not self.ask(expression):
            assert time.monotonic() < deadline, f"{expression} never held; page says {self.errors}"
            time.sleep(0.1)

    def settled(self, expression: str, still_ms: int = 700) -> Any:
        """The value of an expression once it stays the same for a while, however busy the machine is."""
        deadline, before = time.monotonic() + 100, object()
        while (now := self.ask(expression)) != before:
            assert time.monotonic() < deadline, f"{expression} never rests"
            before = now
            self.page.wait_for_timeout(still_ms)
        return now

    def picture(self) -> bytes:
        """The heatmap's part of the page as the browser shows it (PNG)."""
        box = self.page.locator("#heat").bounding_box()
        return bytes(self.page.screenshot(clip=box, timeout=90_000))  # software WebGL on a busy machine takes its time


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Page]]:
    """Opens pages and closes them at the end."""
    pages: list[Page] = []

    def open_one(url: str, **known: Any) -> Page:
        pages.append(Page(chromium, url, **known))
        return pages[-1]

    yield open_one
    for page in pages:
        page.page.close()
