"""Line coverage of `engine` with the compiler off: `make coverage`, which CI runs too.

With NUMBA_DISABLE_JIT kernels are plain Python, a few hundred times slower, and coverage sees their lines. What is run
are the unit tests, a few random examples, and a short simulated tape; what needs the compiler itself is left out.
Prints the lines that were missed; fails below 100 %.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent.parent
EXAMPLES = 30
"""Against the oracle. Fewer miss rare lines by chance; the seed is fixed, so that a miss is none of chance."""
LEFT_OUT = (
    "tests/unit/engine/test_jit.py",  # is about compiled kernels
    "tests/unit/engine/test_bad_records.py",  # many cases of few lines, a minute of them
)


def main():
    env = dict(os.environ, NUMBA_DISABLE_JIT="1", ENGINE_EXAMPLES=str(EXAMPLES), ENGINE_SEED="1")
    with tempfile.TemporaryDirectory() as folder:
        env["COVERAGE_FILE"] = str(Path(folder) / "coverage")
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=600"]
        argv += ["-W", "ignore:overflow encountered:RuntimeWarning"]  # hashes of ids wrap on purpose
        argv += ["--cov=engine", "--cov-report=term-missing:skip-covered", "--cov-fail-under=100"]
        argv += [f"--ignore={ROOT / path}" for path in LEFT_OUT]
        argv += [
            "-k",
            "not every_hard_case and not processor",
            str(ROOT / "tests/unit/engine"),
            str(ROOT / "tests/property"),
        ]
        sys.exit(subprocess.run([*argv, *sys.argv[1:]], cwd=ROOT, env=env, check=False).returncode)


if __name__ == "__main__":
    main()
