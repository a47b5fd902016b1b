"""Rows of a call and of a start: what Python's side of the engine costs."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time_ns
from typing import Final

import numpy as np
from numba import njit

from control.bench.engine_runs import check, conditions, config, cut, feed, plain_shape
from control.bench.measure import Bound, Figure, Row, cpu
from control.bench.oracle import WrongAnswerError
from control.bench.session import Session
from engine.engine import Engine

_ROOT: Final = Path(__file__).parent.parent.parent


@njit(cache=True, nogil=True)
def _empty(
    address: int, operation: int, resumed: int, records_address: int, count: int, start: int, t_ns: int
) -> tuple[int, int]:
    """Nothing, with the signature of the engine's kernel: what a call from Python costs at least."""
    return start, 0


CALL: Final = 64


def call_64(session: Session) -> list[Row]:
    """Each call of 64 records timed alone, bins that close among them; beside an empty compiled function."""
    return _calls(session, "call_64", physics=True)


def call_64_book(session: Session) -> list[Row]:
    """The same without physics."""
    return _calls(session, "call_64_book", physics=False)


def _calls(session: Session, name: str, physics: bool) -> list[Row]:
    shape = plain_shape(session, 640_000)
    stream, truth = session.stream(shape)
    blocks = cut(stream.records, CALL)
    _empty(0, 0, 0, 0, 0, 0, 0)

    def engine_calls() -> np.ndarray:
        engine = Engine(config(stream, physics))
        feed(engine, [stream.opening])
        taken = _time_each(lambda i: feed(engine, blocks[i : i + 1]), len(blocks))
        check(name, engine, truth)
        return taken

    def empty_calls() -> np.ndarray:
        return _time_each(lambda i: _empty(1 << 40, 0, 0, 1 << 40, CALL, i, 0), len(blocks))

    turns = [(engine_calls(), empty_calls()) for _ in range(session.runs + 1)][1:]
    rows = []
    for percent, aim in ((50, 6.0), (99, 20.0)):
        ours, base = (Figure(tuple(float(np.percentile(turn[n], percent)) for turn in turns)) for n in (0, 1))
        told = conditions(session, shape, physics=physics) | {"block": CALL, "calls": len(blocks)}
        row = f"{name}_p{percent}"
        rows.append(Row(row, ours, f"us p{percent}", "empty_call", base, aim=Bound("<=", aim), conditions=told))
    return rows


def _time_each(call: Callable[[int], object], count: int) -> np.ndarray:
    """Process CPU time of each call, us; the clock's own 0.3 us is part of it."""
    taken = np.empty(count)
    with cpu():
        for i in range(count):
            begin = process_time_ns()
            call(i)
            taken[i] = process_time_ns() - begin
    return taken / 1e3


_IMPORTS: Final = "import time; t = time.process_time(); import numba, pyarrow; print(time.process_time() - t)"
_FIRST_BIN: Final = """
import time
t = time.process_time()
import pyarrow
import numpy as np
from connectors.dbn_file import DbnFile
from engine.engine import Engine, EngineConfig
from schemas import bins, mbo
from schemas.columns import to_arrow
records = np.zeros(2, mbo.MBO_DTYPE)
records["length"], records["rtype"], records["action"], records["size"] = 14, mbo.MBO_RTYPE, b"A", 1
records["ts_event"] = records["ts_recv"] = 10**18
records["order_id"], records["side"], records["price"] = (1, 2), (b"B", b"A"), (10**9, 2 * 10**9)
engine = Engine(EngineConfig(tick_px=10**9))
engine.apply(records)
output, _ = engine.flush()
assert to_arrow(output.bins, bins.engine_columns(bins.RADIUS_DEFAULT)).num_rows == 1
print(time.process_time() - t)
"""


def _process(code: str) -> float:
    """Seconds that a fresh interpreter says its code took."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=_ROOT)
    if done.returncode:
        raise WrongAnswerError("start_warm", f"a fresh process failed: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout)


def start_warm(session: Session) -> list[Row]:
    """A fresh process from import to the first bin as Arrow, compiled kernels on disk; beside two imports alone."""
    both = [lambda: _process(_FIRST_BIN), lambda: _process(_IMPORTS)]
    ours, base = session.interleave(both)
    told = {"clock": "process CPU time of the child from its first import on", "cache": "warm"}
    row = Row("start_warm", ours, "s", "import_numba_pyarrow", base, gate=Bound("<=", 2.5), conditions=told)
    return [row]
