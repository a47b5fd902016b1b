"""What integration tests share: the command line as a user calls it, and a look at what is left running."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
SAMPLE = ROOT / "tests" / "golden" / "data" / "synthetic-2500.mbo.dbn.zst"


@pytest.fixture(scope="session")
def cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `barograph ARGS…` to its end; standard output and error are kept."""

    def run(*args: object, env: dict[str, str] | None = None, timeout: float = 240) -> Any:
        return subprocess.run(
            [sys.executable, "-m", "control.cli", *map(str, args)],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def report(cli: Callable[..., Any]) -> Callable[..., Any]:
    """Run a command with `--json` that must succeed; its result."""

    def run(*args: object) -> Any:
        done = cli(*args, "--json")
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout)

    return run


def left_over(folder: Path) -> list[str]:
    """Command lines of processes that still mention a data folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command and int(process.name) != os.getpid():
            found.append(command)
    return found
