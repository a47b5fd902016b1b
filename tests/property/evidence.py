"""Many random examples, once, with a log: `make evidence`.

Runs the property tests of the engine in one process per seed, side by side, and writes what was run and what it held
to docs/evidence/engine-properties.txt. Writes nothing if an example failed; its output then names the seed. The seeds
are fixed: whoever runs the same commit with the same hypothesis sees the same examples.
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
LOG = ROOT / "docs/evidence/engine-properties.txt"
TESTS = ROOT / "tests/property/test_engine_vs_naive.py"
SEEDS = (1, 2)
"""One process each; two cores are what the reference machine has."""
EXAMPLES = int(os.environ.get("ENGINE_EXAMPLES", "50000"))
"""Examples against the oracle, of all processes together."""
PACKAGES = ("numpy", "numba", "llvmlite", "hypothesis")


def git(*argv):
    return subprocess.run(["git", *argv], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def start(seed, folder):
    """The property tests with a seed, their output in a file."""
    env = dict(
        os.environ,
        ENGINE_SEED=str(seed),
        ENGINE_EXAMPLES=str(EXAMPLES // len(SEEDS)),
        ENGINE_TALLY=str(folder / f"{seed}.json"),
    )
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS)]
    with (folder / f"{seed}.txt").open("wb") as out:
        return subprocess.Popen(argv, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT)


def report(commit, tally, seconds):
    """The log as text."""
    from engine._jit import SOURCE_HASH

    done = {name.removeprefix("examples: "): n for name, n in sorted(tally.items()) if name.startswith("examples: ")}
    held = {name: n for name, n in sorted(tally.items()) if not name.startswith("examples: ")}
    lines = [
        "Random record sequences through the engine and through the slow oracle: no difference.",
        "",
        f"commit            {commit}",
        f"kernel sources    {SOURCE_HASH}",
        f"seeds             {', '.join(map(str, SEEDS))}, a process each",
        f"duration          {seconds / 60:.0f} min wall, {len(SEEDS)} processes",
        f"python            {platform.python_version()}, {platform.machine()}, {platform.system()}",
        *(f"{name:<18}{version(name)}" for name in PACKAGES),
        "",
        "again with        " + f"ENGINE_EXAMPLES={EXAMPLES} make evidence",
        f"or one seed       ENGINE_SEED=1 ENGINE_EXAMPLES={EXAMPLES // len(SEEDS)} python -m pytest "
        f"{TESTS.relative_to(ROOT)}",
        "",
        "examples run without a failure",
        *(f"  {n:>9,}  {name}" for name, n in done.items()),
        "",
        "what the examples against the oracle held: records, calls, bins or configurations of each case",
        *(f"  {n:>9,}  {name}" for name, n in held.items()),
    ]
    return "\n".join(lines) + "\n"


def main():
    if git("status", "--porcelain", "--untracked-files=no"):
        sys.exit("evidence: the tree has changes; commit them first, so that the log can name what was run")
    commit, began = git("rev-parse", "HEAD"), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running = {seed: start(seed, folder) for seed in SEEDS}
        try:
            failed = [seed for seed, process in running.items() if process.wait()]
        finally:
            for process in running.values():
                process.kill()
                process.wait()
        for seed in failed:
            print((folder / f"{seed}.txt").read_text()[-20_000:])
        if failed:
            sys.exit(f"evidence: an example of seed {failed[0]} failed; no log was written")
        tally = sum((Counter(json.loads((folder / f"{seed}.json").read_text())) for seed in SEEDS), Counter())
    LOG.parent.mkdir(parents=True, exist_ok=True)
    LOG.write_text(report(commit, tally, time.monotonic() - began))
    print(LOG.relative_to(ROOT))


if __name__ == "__main__":
    main()
