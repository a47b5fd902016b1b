"""How the engine is run for a figure: a fresh one, its book filled untimed, records in blocks, its digest checked."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from connectors.dbn_file import DbnFile
from control.bench.measure import Skip, Timed, cpu
from control.bench.oracle import WrongAnswerError
from control.bench.session import Session
from control.bench.synthetic import Shape, Stream
from engine.engine import Engine, EngineConfig, Output

BLOCK: Final = 4_096
PER_BIN: Final = 7_600
"""Records in a bin of 100 ms at 76,000 records a second, a busy future in a busy minute."""

TAPES: Final = {
    "esh4": ("dbn/esh4-glbx-mdp3-20231225.mbo.dbn.zst", 250_000_000),
    "aapl": ("derived/AAPL_20120621_lobster50.mbo.dbn.zst", 10_000_000),
}
"""Real tapes below the folder of market data, and their tick sizes."""


def real_tape(session: Session, name: str) -> tuple[Path, int]:
    """File and tick size of a real tape.

    Raises:
        Skip: it is not on this machine.
    """
    place, tick_px = TAPES[name]
    path = (session.market_data or Path()) / place
    if session.market_data is None or not path.is_file():
        raise Skip(f"no real tape {place}; BAROGRAPH_DATA or --market-data names its folder")
    return path, tick_px


def records_of(path: Path) -> np.ndarray:
    """All MBO records of a file of one instrument."""
    with DbnFile(path) as file:
        return np.concatenate([run.mbo() for run in file.runs()])


def config(stream: Stream, physics: bool = True) -> EngineConfig:
    """Engine settings for a stream."""
    return EngineConfig(tick_px=stream.tick_px, cell_ns=stream.cell_ns, physics=physics)


def feed(engine: Engine, blocks: Sequence[np.ndarray], take: Callable[[Output], None] | None = None) -> None:
    """Apply blocks one after the other; outputs go to `take`, or nowhere."""
    for block in blocks:
        start = 0
        while start < len(block):
            output, start = engine.apply(block, start)
            if take is not None:
                take(output)


def cut(records: np.ndarray, length: int) -> list[np.ndarray]:
    """Records in blocks, the last one shorter."""
    return [records[i : i + length] for i in range(0, len(records), length)]


def check(row: str, engine: Engine, truth: str) -> None:
    """Compare the book with the slow one's.

    Raises:
        WrongAnswerError: they differ.
    """
    if (found := engine.digest()) != truth:
        raise WrongAnswerError(row, f"the book's digest is {found[:16]}, that of the slow book is {truth[:16]}")


def book_run(session: Session, row: str, shape: Shape, physics: bool, block: int = BLOCK) -> Timed:
    """A run over a stream: opening untimed, records timed, digest checked."""
    stream, truth = session.stream(shape)
    blocks, settings = cut(stream.records, block), config(stream, physics)

    def run() -> float:
        engine = Engine(settings)
        feed(engine, [stream.opening])
        with cpu() as watch:
            feed(engine, blocks)
        check(row, engine, truth)
        return watch.seconds

    return run


def conditions(session: Session, shape: Shape, **more: Any) -> dict[str, Any]:
    """Everything needed to measure a row on this stream again."""
    return shape.conditions() | {"block": BLOCK, "digest": session.stream(shape)[1]} | more


def plain_shape(session: Session, records: int = 1_000_000) -> Shape:
    """The stream of most rows: 20,000 live orders in queues of 455, as near the touch of a large future."""
    return Shape(session.scaled(records // 20, records), levels=22, queue=455, per_bin=PER_BIN)


def swept_shape(session: Session, levels: int, queue: int) -> Shape:
    """One point of a sweep; its churn lets every order of the opening be replaced about once."""
    records = session.scaled(30_000, 500_000)
    churn = session.scaled(5_000, max(50_000, 4 * levels * queue))
    return Shape(records, levels, queue, PER_BIN, churn=churn)
