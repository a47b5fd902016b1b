"""What every course of faults does with its results: say them, and keep them as numbers and a page in docs/evidence."""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from control.embedded.kafka import EmbeddedKafka
from tests.integration.conftest import ROOT

EVIDENCE: Final = ROOT / "docs" / "evidence"

Results = dict[str, Any]
"""What a part gave, by its name."""


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def hash_of(text: str) -> int:
    """A seed."""
    return zlib.crc32(text.encode())


def commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def merged(plan: Sequence[tuple[Any, int]], before: Sequence[Results], now: Sequence[Results]) -> list[Results]:
    """Results of faults, those of now in place of earlier ones, in the order of the plan."""
    by_name = {f["fault"]: f for f in [*before, *now]}
    return [by_name[fault.name] for fault, _ in plan if fault.name in by_name]


def keep(stem: str, name: str, result: Any, began_s: float, page: Callable[[Results], str]) -> str:
    """Put a part's result into the evidence beside what the other parts gave; the page."""
    made = _made(stem)
    made[name] = {
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "seconds": round(time.monotonic() - began_s),
        "result": result,
    }
    (EVIDENCE / f"{stem}.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    text = page(made)
    (EVIDENCE / f"{stem}.md").write_text(text)
    return text


def kept(stem: str, name: str) -> Any:
    """What a part gave before; None if it never ran."""
    return _made(stem).get(name, {}).get("result")


def _made(stem: str) -> Results:
    file = EVIDENCE / f"{stem}.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


def head(title: str, verb: str, stem: str) -> list[str]:
    """First lines of a page."""
    return [f"# {title}", "", f"Made by `make {verb}`; the numbers are in `{stem}.json`."]


def run_parts(
    stem: str,
    parts: Mapping[str, Callable[[EmbeddedKafka, Path], Any]],
    plan: Sequence[tuple[Any, int]],
    is_good: Callable[[str, Any], bool],
    page: Callable[[Results], str],
) -> int:
    """Run the parts that the command names, or all, each with a broker of its own; the exit code."""
    good, text = True, ""
    with tempfile.TemporaryDirectory(prefix=f"chaos-{stem}-", ignore_cleanup_errors=True) as folder:
        for name in sys.argv[1:] or parts:
            began_s = time.monotonic()
            with EmbeddedKafka(Path(folder) / f"kafka-{name}", heap_mb=512) as broker:
                result = parts[name](broker, Path(folder) / name)
            say(f"{name}: {json.dumps(result, ensure_ascii=False)}")
            good = good and is_good(name, result)
            if name == "faults":
                result = merged(plan, kept(stem, name) or [], result)
            text = keep(stem, name, result, began_s, page)
    say(text)
    return 0 if good else 1
