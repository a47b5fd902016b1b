"""What a reader of the examples does: start the demo, run the example against it, see frames."""

import asyncio
import itertools
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import barograph
from runtime.endpoints import Endpoints
from tests.integration.conftest import ROOT, left_over

pytestmark = [pytest.mark.real, pytest.mark.timeout(500)]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A demo that has told its console's address; it is ended long before its time."""
    argv = [sys.executable, "-m", "control.cli", "demo", "--seconds", "600", "--headless", "--data", str(tmp_path)]
    env = {**os.environ, "BAROGRAPH_API_PORT": "0", "BAROGRAPH_GATEWAY_PORT": "0"}
    running = subprocess.Popen(
        argv, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert running.stderr is not None
    before = []
    for line in running.stderr:
        before.append(line)
        if line.startswith("console: "):
            break
    else:
        pytest.fail("the demo did not start: " + "".join(before))
    threading.Thread(target=running.stderr.read, daemon=True).start()  # else a full pipe would stop the demo
    yield running
    running.terminate()
    running.wait(40)
    deadline = time.monotonic() + 10
    while left_over(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left_over(tmp_path) == []


async def known(address: str) -> None:
    """Wait until the gateway lists the demo's tape; it looks for new ones every few seconds."""
    for _ in range(100):
        async with barograph.connect(address) as client:
            if client.hello["tapes"]:
                return
        await asyncio.sleep(0.1)
    pytest.fail("the gateway does not list the demo's tape")


def test_the_example_prints_frames(demo: "subprocess.Popen[str]", tmp_path: Path) -> None:
    address = Endpoints(tmp_path).find("gateway")
    assert address is not None
    asyncio.run(known(address))
    example = subprocess.Popen(
        [sys.executable, "-u", "examples/01_subscribe_grid.py", address],
        cwd=ROOT,
        env={**os.environ, "POLARS_FMT_MAX_COLS": "-1", "POLARS_TABLE_WIDTH": "400"},  # all names, each in one piece
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert example.stdout is not None
    stop = threading.Timer(60, example.kill)
    stop.start()
    shapes, printed = [], []
    try:
        for line in example.stdout:
            printed.append(line)
            shapes += re.findall(r"^shape: \((\d+), (\d+)\)", line)
            if len(shapes) == 2 and line.startswith("└"):
                break
    finally:
        stop.cancel()
        example.kill()
        example.wait()
    text = "".join(printed)
    assert len(shapes) == 2, text
    assert all(int(rows) >= 1 and int(columns) >= 3 for rows, columns in shapes), text
    names = re.findall(r"\w+", next(line for line in text.splitlines() if line.startswith("│")))
    assert {"bin_seq", "ts_end_ns", "best_bid_px", "best_ask_px", "rest_depth"} <= set(names), text
    assert re.search(r"array\[f32, \d+\]", text), "the grid's vectors have one fixed length"


SECTION = (ROOT / "README.md").read_text().partition("## Watch it live")[2].partition("\n## ")[0]
PROGRAMS = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
WATCHES = [shlex.split(line, comments=True) for line in re.findall(r"^barograph (watch.*)$", SECTION, re.MULTILINE)]
README_ADDRESS = "ws://127.0.0.1:8761/v1/stream"


def first_lines(program: str, count: int) -> list[str]:
    """What a program without an end prints first."""
    running = subprocess.Popen(
        [sys.executable, "-u", "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    stop = threading.Timer(60, running.kill)
    stop.start()
    assert running.stdout is not None
    try:
        return list(itertools.islice(running.stdout, count))
    finally:
        stop.cancel()
        running.kill()
        running.wait()


def test_what_the_readme_says_of_watching_works(
    demo: "subprocess.Popen[str]", cli: Callable[..., Any], tmp_path: Path
) -> None:
    address = Endpoints(tmp_path).find("gateway")
    assert address is not None
    asyncio.run(known(address))
    assert len(PROGRAMS) == 2
    for program in PROGRAMS:
        assert README_ADDRESS in program
        printed = first_lines(program.replace(README_ADDRESS, address), 6)
        assert len(printed) == 6, printed
        assert "Traceback" not in "".join(printed)
        assert re.search(r"^shape: \(\d+, \d+\)|^\[\[", printed[0]), printed
    assert len(WATCHES) == 3
    for words in WATCHES:
        ends = [] if "--rows" in words else ["--rows", "3"]  # for Ctrl-C
        done = cli(*words, *ends, "--data", tmp_path)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        if "--json" in words:
            assert len(done.stdout.splitlines()) == 3
            assert all(json.loads(line)["bin_seq"] > 0 for line in done.stdout.splitlines())
        else:
            assert "SYNTH.BARO:SYN0" in done.stdout


def test_a_gateways_taken_port_is_one_sentence(kafka: str, cli: Callable[..., Any], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = cli("gateway", "--port", port, "--bootstrap-servers", kafka, "--data", tmp_path)
    assert done.returncode == 2, done.stderr
    sentence = done.stderr.strip()
    assert sentence.startswith("barograph: "), done.stderr
    assert sentence.count("\n") == 0, done.stderr
    assert f"port {port}" in sentence
    assert "taken" in sentence
    assert Endpoints(tmp_path).find("gateway") is None
    assert left_over(tmp_path) == []
