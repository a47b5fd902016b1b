"""Many seeds through the simulator, once, with a log: `make simulate`.

Runs the seeds from 0 in two processes and writes what was run and what struck to docs/evidence/simulation.txt. Writes
nothing if a seed failed; its output then names the seed and the command that repeats it.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LOG = ROOT / "docs/evidence/simulation.txt"
SEEDS = int(os.environ.get("SIM_SEEDS", "10000"))
PROCESSES = 2
"""Two cores are what the reference machine has."""
PACKAGES = ("numpy", "numba", "pyarrow", "greenlet")


def git(*argv):
    return subprocess.run(["git", *argv], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def start(number, folder):
    """A part of the seeds in a process, its output in a file."""
    each = SEEDS // PROCESSES
    argv = [sys.executable, "-m", "tests.simulation.run", "--seed", str(number * each), "--count", str(each)]
    with (folder / f"{number}.txt").open("wb") as out:
        return subprocess.Popen(
            [*argv, "--tally", str(folder / f"{number}.json")], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT
        )


def report(commit, tally, seconds):
    """The log as text."""
    lines = [
        "Random faults around the production shells, stages and sinks: no rule broken, everything done in time.",
        "",
        f"commit            {commit}",
        f"seeds             0 to {SEEDS // PROCESSES * PROCESSES - 1:,}, none failed",
        f"duration          {seconds / 60:.0f} min wall, {PROCESSES} processes",
        f"python            {platform.python_version()}, {platform.machine()}, {platform.system()}",
        *(f"{name:<18}{version(name)}" for name in PACKAGES),
        "",
        f"again with        SIM_SEEDS={SEEDS} make simulate",
        "or one seed       python -m tests.simulation.run --seed 17 --trace",
        "",
        "what struck, and what it led to",
        *(f"  {n:>9,}  {name}" for name, n in sorted(tally.items())),
    ]
    return "\n".join(lines) + "\n"


def main():
    if git("status", "--porcelain", "--untracked-files=no"):
        sys.exit("simulate: the tree has changes; commit them first, so that the log can name what was run")
    commit, began = git("rev-parse", "HEAD"), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running = {number: start(number, folder) for number in range(PROCESSES)}
        try:
            failed = [number for number, process in running.items() if process.wait()]
        finally:
            for process in running.values():
                process.kill()
                process.wait()
        for number in failed:
            print((folder / f"{number}.txt").read_text()[-20_000:])
        if failed:
            sys.exit("simulate: a seed failed; no log was written")
        tally = sum((Counter(json.loads((folder / f"{number}.json").read_text())) for number in running), Counter())
    LOG.parent.mkdir(parents=True, exist_ok=True)
    LOG.write_text(report(commit, tally, time.monotonic() - began))
    print(LOG.relative_to(ROOT))


if __name__ == "__main__":
    main()
