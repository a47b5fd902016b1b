"""Rows of a grid file: all that `barograph grid` does to a real tape, beside writing the same rows to Parquet alone."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from control.bench.engine_runs import BLOCK, check, cut, feed, real_tape, records_of
from control.bench.measure import Bound, Row, Timed, cpu
from control.bench.oracle import WrongAnswerError, book_of
from control.bench.session import Session
from control.offline import write_grid
from engine.engine import Engine, EngineConfig
from schemas import bins
from schemas.columns import RowHash, from_arrow, hash_of_hashes
from sinks.parquet import writer_options

CONFIG: Final[dict[str, Any]] = {"cell_ns": bins.CELL_NS_DEFAULT, "radius": bins.RADIUS_DEFAULT, "emission": "active"}


def grid(name: str) -> Callable[[Session], list[Row]]:
    """The rows of one real tape: the whole command but the start of its process, and the engine's share of it."""
    row = f"grid_{name}"

    def measure(session: Session) -> list[Row]:
        path, tick_px = real_tape(session, name)
        records = records_of(path)
        truth = book_of([records]).digest(tick_px)
        with TemporaryDirectory(prefix="barograph-bench-") as folder:
            out = Path(folder)
            manifest = write_grid(path, out, CONFIG, tick_px=tick_px)
            groups = _row_groups(out / "bins.parquet")
            _check(row, manifest, groups, truth)

            def whole() -> float:
                with cpu() as watch:
                    again = write_grid(path, out, CONFIG, tick_px=tick_px)
                if again["bins_sha256"] != manifest["bins_sha256"]:
                    raise WrongAnswerError(row, "two runs over the same file gave different bins")
                return watch.seconds

            def alone() -> float:
                with cpu() as watch:
                    _write(out / "alone.parquet", groups)
                return watch.seconds

            ours, base, engine = session.interleave([whole, alone, _engine(row, records, tick_px, truth)])
        told = CONFIG | {
            "tape": path.name,
            "records": len(records),
            "bins": sum(len(group) for group in groups),
            "arrow_bytes": sum(group.nbytes for group in groups),
            "row_groups": len(groups),
            "bins_sha256": manifest["bins_sha256"],
        }
        return [
            Row(row, ours, "s", "parquet_alone", base, gate=Bound("<=", 2.0), conditions=told),
            Row(f"{row}_engine", engine, "s", aim=Bound("<=", 0.3), conditions=told | {"block": BLOCK}),
        ]

    return measure


def _engine(row: str, records: Any, tick_px: int, truth: str) -> Timed:
    """The engine over records in memory, to the last bin."""
    blocks = cut(records, BLOCK)

    def run() -> float:
        engine = Engine(EngineConfig(tick_px=tick_px, **CONFIG))
        with cpu() as watch:
            feed(engine, blocks)
            while not engine.flush()[1]:
                pass
        check(row, engine, truth)
        return watch.seconds

    return run


def _row_groups(path: Path) -> list[pa.Table]:
    """The file as it lies there, a table for each row group."""
    with pq.ParquetFile(path) as file:
        return [file.read_row_group(i).combine_chunks() for i in range(file.num_row_groups)]


def _write(path: Path, groups: list[pa.Table]) -> None:
    """Write tables as the grid writes them: the same settings, a row group each."""
    with pq.ParquetWriter(path, groups[0].schema, **writer_options(groups[0].schema)) as writer:
        for group in groups:
            writer.write_table(group, row_group_size=len(group))


def _check(row: str, manifest: dict[str, Any], groups: list[pa.Table], truth: str) -> None:
    """Compare the manifest with the rows that are in the file, and its book with the slow one's.

    Raises:
        WrongAnswerError: they differ.
    """
    columns = bins.columns(bins.RADIUS_DEFAULT)
    ((instrument, told),) = manifest["instruments"].items()
    digest = RowHash(columns)
    for group in groups:
        digest.update(from_arrow(group, columns))
    if manifest["bins_sha256"] != hash_of_hashes({instrument: digest.hexdigest()}):
        raise WrongAnswerError(row, "the rows in the file are not those of the manifest's bins_sha256")
    if told["book_digest"] != truth:
        raise WrongAnswerError(
            row, f"the book's digest is {told['book_digest'][:16]}, that of the slow book is {truth[:16]}"
        )
