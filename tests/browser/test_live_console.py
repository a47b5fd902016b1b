"""The console against the real pipeline: simulated market, broker, books stage, gateway, Chromium."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parent.parent.parent

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the console of a running demo."""
    folder = tmp_path_factory.mktemp("demo")
    env = {**os.environ, "BAROGRAPH_API_PORT": "0", "BAROGRAPH_GATEWAY_PORT": "0"}
    argv = [sys.executable, "-m", "control.cli", "demo", "--headless", "--data", str(folder)]
    with (folder / "out.log").open("wb") as log:
        demo = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=log, stderr=log)
    try:
        yield wait_for_console(folder, demo)
    finally:
        demo.send_signal(signal.SIGINT)
        demo.wait(40)


def wait_for_console(folder: Path, demo: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert demo.poll() is None, (folder / "out.log").read_text()[-3000:]
        known = folder / "endpoints.json"
        if known.is_file() and (folder / "log" / "stages-demo-main.log").is_file():
            return str(json.loads(known.read_text())["api"]["address"])
        time.sleep(0.2)
    raise AssertionError((folder / "out.log").read_text()[-3000:])


def test_the_heatmap_changes_while_data_flows(console: str, open_page: Callable[..., Any]) -> None:
    with urlopen(f"{console}/v1/config") as answer:
        assert "demo" in answer.read().decode()
    page = open_page(console)
    page.until("columns > 5 && __barograph.uploads > 5", 90)
    first, before = page.picture(), page.ask("lastBin")
    page.until(f"lastBin > {before} + 10", 60)
    page.page.wait_for_timeout(500)
    assert page.picture() != first
    assert page.errors == []
