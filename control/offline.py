"""Engine over a file without any broker: what `barograph grid` and `barograph book` write.

The same engine and the same rows as in the pipeline, so `bins_sha256` here equals that of a run over the same file. The
file is verified first; then it is read again in pieces, rows leave as they come, and memory does not grow with it.
Results appear under their names only when they are complete.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from connectors import instruments
from connectors.dbn_file import DbnFile
from connectors.dbn_metadata import InstrumentNames
from connectors.dbn_records import SYMBOL_MAPPING_RTYPE, symbol_mappings
from connectors.dbn_verify import VerifyReport, verify_all
from engine.engine import Engine, EngineConfig, Output
from schemas import bins
from schemas.columns import Column, RowHash, Table, hash_of_hashes, table_rows, to_arrow
from schemas.mbo import MBO_RTYPE
from streams.build_books import summary

Advance = Callable[[int, int], None]

ROW_GROUP_ROWS: Final = 2_048
"""Bins in one Parquet row group: 36 MB at the default radius. Readers skip by group; larger ones cost memory."""


def write_grid(
    file: Path,
    out_dir: Path,
    config: Mapping[str, Any],
    *,
    tick_px: int | None = None,
    limit: int | None = None,
    on_progress: Advance = lambda _done, _total: None,
) -> dict[str, Any]:
    """Write `bins.parquet`, `manifest.json` and `checksums.json` of a DBN file into a folder.

    Args:
        file: DBN file of MBO records.
        out_dir: folder; made if absent, files of these names in it are replaced.
        config: `cell_ns`, `radius`, `emission` and further fields of `EngineConfig`.
        tick_px: tick of all instruments, 1e-9; None to find it out.
        limit: stop after so many records; the last bin is closed all the same.
        on_progress: called with (records done, records in all).

    Returns:
        The manifest: file, config, bins_sha256, and per instrument tick, records, bins, book summary.

    Raises:
        DbnError: the file is not whole or holds no MBO records.
        InputError: the tick cannot be told.
    """
    (report,) = verify_all([file])
    row = bins.columns(int(config["radius"]))
    books = _Books(report, tick_px, config)
    out_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        parquet = stack.enter_context(_ParquetOut(out_dir / "bins.parquet"))
        for name, output in books.outputs(limit, on_progress):
            if table_rows(output.bins):
                parquet.write(_bins_batch(name, books.rows(name, output, row), row))
        parquet.finish(_bins_batch("", None, row).schema)
    hashes = {name: digest.hexdigest() for name, digest in books.hashes.items()}
    manifest = {
        "file": {"name": file.name, "sha256": report.sha256, "records": report.records},
        "config": dict(config),
        "bins_sha256": hash_of_hashes(hashes),
        "instruments": {name: books.describe(name) | {"bins_sha256": hashes[name]} for name in sorted(hashes)},
    }
    _write_json(out_dir / "manifest.json", manifest)
    sums = {name: _sha256(out_dir / name) for name in ("bins.parquet", "manifest.json")}
    _write_json(out_dir / "checksums.json", sums)
    return manifest


def write_book(
    file: Path,
    out_file: Path,
    *,
    tick_px: int | None = None,
    on_progress: Advance = lambda _done, _total: None,
) -> dict[str, Any]:
    """Write the MBP-10 rows of a DBN file as Parquet, DBN's column names and units.

    Args:
        file: DBN file of MBO records.
        out_file: Parquet file to write.
        tick_px: tick of all instruments, 1e-9; None to find it out.
        on_progress: called with (records done, records in all).

    Returns:
        Rows written, and per instrument the book's final state.

    Raises:
        DbnError: the file is not whole or holds no MBO records.
        InputError: the tick cannot be told.
    """
    (report,) = verify_all([file])
    books = _Books(report, tick_px, {"mbp10": True})
    out_file.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with _ParquetOut(out_file) as parquet:
        for name, output in books.outputs(None, on_progress):
            if len(output.mbp10):
                parquet.write(_mbp10_batch(name, output.mbp10))
                written += len(output.mbp10)
        parquet.finish(_mbp10_batch("", np.empty(0, mbp10_dtype())).schema)
    return {
        "file": str(out_file),
        "rows": written,
        "instruments": {name: books.describe(name) for name in sorted(books.engines)},
    }


@dataclass(slots=True)
class _Books:
    """The engines of one file, an instrument each."""

    report: VerifyReport
    tick_px: int | None
    config: Mapping[str, Any]
    engines: dict[str, Engine] = field(default_factory=dict)
    hashes: dict[str, RowHash] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def outputs(self, limit: int | None, on_progress: Advance) -> Iterator[tuple[str, Output]]:
        """What the engines give, in file order; ends with every engine flushed."""
        known, self.notices = instruments.resolve([self.report], tick_px=self.tick_px)
        for name, instrument in known.items():
            self.engines[name] = Engine(EngineConfig(tick_px=instrument.tick_px, **dict(self.config)))
        done, total = 0, self.report.mbo_records if limit is None else min(limit, self.report.mbo_records)
        for name, records in _by_instrument(self.report, total):
            start = 0
            while start < len(records):
                output, start = self.engines[name].apply(records, start)
                yield name, output
            done += len(records)
            on_progress(done, total)
        for name, engine in self.engines.items():
            flushed = False
            while not flushed:
                output, flushed = engine.flush()
                yield name, output

    def rows(self, name: str, output: Output, row: tuple[Column, ...]) -> dict[str, np.ndarray]:
        """The bins of an output as topic rows, hashed on the way."""
        config, count = self.engines[name].config, table_rows(output.bins)
        header = {"tick_px": np.full(count, config.tick_px, "<i8"), "bucket": np.full(count, config.bucket, "<i8")}
        table = {**header, **output.bins}
        self.hashes.setdefault(name, RowHash(row)).update(table)
        return table

    def describe(self, name: str) -> dict[str, Any]:
        """What a manifest says of an instrument."""
        return {"tick_px": self.engines[name].config.tick_px, **summary(self.engines[name])}


def _by_instrument(report: VerifyReport, limit: int) -> Iterator[tuple[str, np.ndarray]]:
    """The first `limit` MBO records of a file, in pieces of one instrument each."""
    names: InstrumentNames | None = None
    with DbnFile(report.path) as file:
        for run in file.runs():
            names = names or InstrumentNames(file.metadata)
            if run.rtype == SYMBOL_MAPPING_RTYPE:
                names.learn(symbol_mappings(run))
            elif run.rtype == MBO_RTYPE and limit > 0:
                records = run.mbo()[:limit]
                limit -= len(records)
                codes = names.codes(records)
                for code in np.unique(codes):
                    yield names.names[int(code)], np.ascontiguousarray(records[codes == code])


class _ParquetOut:
    """A Parquet file that takes its name when it is complete; removed if anything fails."""

    def __init__(self, path: Path) -> None:
        self._path, self._temporary = path, path.with_name(f".{path.name}.part")
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def __enter__(self) -> "_ParquetOut":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
        self._temporary.unlink(missing_ok=True)

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        self._waiting.append(batch)
        self._rows += batch.num_rows
        if self._rows >= ROW_GROUP_ROWS:
            self._flush(batch.schema)

    def finish(self, schema: pa.Schema) -> None:
        """Complete the file, empty if there were no rows, and give it its name."""
        self._flush(schema)
        assert self._writer is not None
        self._writer.close()
        with self._temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(self._temporary, self._path)

    def _flush(self, schema: pa.Schema) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._temporary, schema, compression="zstd", compression_level=1)
        self._writer.write_table(pa.Table.from_batches(self._waiting, schema))
        self._waiting, self._rows = [], 0


def _bins_batch(instrument: str, table: Table | None, row: tuple[Column, ...]) -> pa.RecordBatch:
    """Topic rows as people read them: with the instrument's name, and the rest_depth vectors after the others."""
    rest = tuple(Column(n, "f8", "lots", "sum of bid and ask", row[-1].width) for n in bins.REST_VECTORS)
    columns = (*row, *rest)
    if table is None:
        empty = {c.name: np.zeros((0, c.width) if c.width else 0, c.numpy_dtype) for c in columns}
        return _named("", to_arrow(empty, columns))
    return _named(instrument, to_arrow(bins.with_rest_depth(table), columns))


def mbp10_dtype() -> np.dtype:
    """Row type of MBP-10 output."""
    from schemas.mbp10 import MBP10_DTYPE

    return MBP10_DTYPE


def _mbp10_batch(instrument: str, records: np.ndarray) -> pa.RecordBatch:
    names = [name for name in records.dtype.names or () if not name.startswith("_")]
    arrays = [pa.array(np.ascontiguousarray(records[n]).astype(_plain(records.dtype[n]))) for n in names]
    return _named(instrument, pa.RecordBatch.from_arrays(arrays, names=names))


def _plain(dtype: np.dtype) -> np.dtype:
    return np.dtype("U1") if dtype.kind == "S" else dtype


def _named(instrument: str, batch: pa.RecordBatch) -> pa.RecordBatch:
    column = pa.array([instrument] * batch.num_rows, pa.string())
    return batch.add_column(0, pa.field("instrument", pa.string(), nullable=False), column)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)
