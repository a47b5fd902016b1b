"""The policy of compilation: cache files are named by all sources, and many processes may start at once."""

import os
import subprocess
import sys

from engine import _jit

PROGRAM = "from engine.exponential import expm1; print(expm1(-0.05).hex())"


def test_processes_that_start_at_once_share_an_empty_cache(tmp_path):
    env = dict(os.environ, NUMBA_CACHE_DIR=str(tmp_path))
    runs = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], env=env, stdout=subprocess.PIPE, text=True) for _ in range(6)
    ]
    results = {(run.communicate()[0], run.returncode) for run in runs}
    assert results == {("-0x1.8f874f58d95a1p-5\n", 0)}
    files = [path.name for path in tmp_path.rglob("*.nb?")]
    assert files
    assert all(_jit.SOURCE_HASH in name for name in files)


def test_the_name_of_the_cache_covers_every_source():
    hashed = _jit._source_hash()
    real = _jit.pkgutil.get_data
    try:
        for changed in ("actions.py", "mbo.py"):
            _jit.pkgutil.get_data = lambda package, name, changed=changed: (
                (real(package, name) or b"") + (b"#" if name == changed else b"")
            )
            assert _jit._source_hash() != hashed
    finally:
        _jit.pkgutil.get_data = real
    assert _jit._source_hash() == hashed == _jit.SOURCE_HASH
