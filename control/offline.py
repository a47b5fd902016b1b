"""Engine over a file without any broker: what `barograph grid` and `barograph book` write.

The same engine and the same rows as in the pipeline, so `bins_sha256` here equals that of a run over the same file. The
file is verified first; then it is read again in pieces, rows leave as they come, and memory does not grow with it, nor
with the bins of a quiet night. Results appear under their names only when they are complete.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from connectors import instruments
from connectors.dbn_file import DbnFile
from connectors.dbn_metadata import InstrumentNames
from connectors.dbn_records import SYMBOL_MAPPING_RTYPE, symbol_mappings
from connectors.dbn_verify import VerifyReport, verify_all
from control.parquet_file import ParquetFile
from engine.engine import Engine, EngineConfig, Output
from engine.gold import Gold, GoldConfig
from schemas import bins
from schemas.columns import Column, RowHash, Table, empty_table, hash_of_hashes, table_rows, to_arrow
from schemas.gold import columns as gold_columns
from schemas.mbo import MBO_RTYPE
from schemas.mbp10 import MBP10_DTYPE
from schemas.units import NS_PER_SECOND
from streams.build_books import summary

Advance = Callable[[int, int], None]

GROUP_BYTES: Final = 40 << 20
"""Arrow bytes in one Parquet row group: 2,000 bins at the default radius. Readers skip by group and hold one at a time,
the writer holds two; much smaller ones make a long footer: 80 columns x 150 bytes each."""

_BOOK_CONFIG: Final[dict[str, Any]] = {
    "mbp10": True,
    "physics": False,
    "radius": 0,
    "n_ticks": 8,
    "cell_ns": 86_400 * NS_PER_SECOND,
}
"""For the book alone: no physics, and as few bins as the engine has to keep."""

_MBP10_HEAD: Final = ("ts_recv", "ts_event", "rtype", "publisher_id", "instrument_id", "action", "side", "depth")
"""Databento's data frames begin with these columns; the other ones follow as they stand in the record."""


def write_grid(
    file: Path,
    out_dir: Path,
    config: Mapping[str, Any],
    *,
    gold: GoldConfig | None = None,
    tick_px: int | None = None,
    limit: int | None = None,
    on_progress: Advance = lambda _done, _total: None,
) -> dict[str, Any]:
    """Write `bins.parquet`, `manifest.json` and `checksums.json` of a DBN file into a folder.

    Args:
        file: DBN file of MBO records.
        out_dir: folder; made if absent, files of these names in it are replaced.
        config: `cell_ns`, `radius`, `emission` and further fields of `EngineConfig`.
        gold: settings of gold, whose columns then follow those of the bins; None for bins alone.
        tick_px: tick of all instruments, 1e-9; None to find it out.
        limit: stop after so many records; the last bin is closed all the same.
        on_progress: called with (seconds of market time done, in all).

    Returns:
        The manifest: file, config, bins_sha256, and per instrument tick, records, bins, book summary. With gold also
        its settings, their hash, and gold_sha256, made like bins_sha256, which gold does not change.

    Raises:
        DbnError: the file is not whole or holds no MBO records.
        InputError: the tick cannot be told, or the folder cannot be written to.
    """
    (report,) = verify_all([file])
    books = _Books(report, tick_px, config)
    grid = _Grid(int(config["radius"]), gold)
    out_dir.mkdir(parents=True, exist_ok=True)
    with ParquetFile(out_dir / "bins.parquet", grid.schema, GROUP_BYTES) as parquet:
        for name, output in books.outputs(limit, on_progress):
            if table_rows(output.bins):
                parquet.write(grid.batch(name, books.engines[name].config, output.bins))
        parquet.finish()
    hashes = grid.hashes()
    manifest = {
        "file": {"name": file.name, "sha256": report.sha256, "records": report.records},
        "config": dict(config),
        **({"gold": {"config": asdict(gold), "config_sha256": gold.hash()}} if gold else {}),
        **{kind: hash_of_hashes(by_instrument) for kind, by_instrument in hashes.items()},
        "instruments": {
            name: books.describe(name) | {kind: hashes[kind][name] for kind in hashes}
            for name in sorted(hashes["bins_sha256"])
        },
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
    """Write the MBP-10 rows of a DBN file as Parquet.

    Columns are `instrument`, then those of Databento's data frames with `price_type="fixed", pretty_ts=False`: names,
    order, types and units are DBN's (prices int64 in 1e-9, times uint64 ns), missing values its sentinels.

    Args:
        file: DBN file of MBO records.
        out_file: Parquet file to write.
        tick_px: tick of all instruments, 1e-9; None to find it out.
        on_progress: called with (seconds of market time done, in all).

    Returns:
        Rows written, and per instrument the book's final state.

    Raises:
        DbnError: the file is not whole or holds no MBO records.
        InputError: the tick cannot be told, or the file cannot be written.
    """
    (report,) = verify_all([file])
    books = _Books(report, tick_px, _BOOK_CONFIG)
    out_file.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with ParquetFile(out_file, _mbp10_batch("", np.empty(0, MBP10_DTYPE)).schema, GROUP_BYTES) as parquet:
        for name, output in books.outputs(None, on_progress):
            if len(output.mbp10):
                parquet.write(_mbp10_batch(name, output.mbp10))
                written += len(output.mbp10)
        parquet.finish()
    described = {name: books.describe(name) for name in sorted(books.engines)}
    for told in described.values():
        del told["bins"]
    return {"file": str(out_file), "rows": written, "instruments": described}


@dataclass(slots=True)
class _Books:
    """The engines of one file, an instrument each."""

    report: VerifyReport
    tick_px: int | None
    config: Mapping[str, Any]
    engines: dict[str, Engine] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    reached_ns: int = 0

    def outputs(self, limit: int | None, on_progress: Advance) -> Iterator[tuple[str, Output]]:
        """What the engines give, in file order; ends with every engine flushed."""
        known, self.notices = instruments.resolve([self.report], tick_px=self.tick_px)
        for name, instrument in known.items():
            self.engines[name] = Engine(EngineConfig(tick_px=instrument.tick_px, **dict(self.config)))
        for name, records in _by_instrument(self.report, self.report.mbo_records if limit is None else limit):
            start = 0
            while start < len(records):
                output, start = self.engines[name].apply(records, start)
                yield name, output
                on_progress(*self._progress(name, output))
        for name, engine in self.engines.items():
            flushed = False
            while not flushed:
                output, flushed = engine.flush()
                yield name, output

    def _progress(self, name: str, output: Output) -> tuple[int, int]:
        """Seconds of market time (done, in all). Records would stand still in a night of silence that has bins."""
        ends = output.bins["ts_end_ns"]
        self.reached_ns = max(self.reached_ns, self.engines[name].t_ns, int(ends[-1]) if len(ends) else 0)
        first_ns, last_ns = self.report.first_ns, self.report.last_ns
        return (min(self.reached_ns, last_ns) - first_ns) // NS_PER_SECOND, (last_ns - first_ns) // NS_PER_SECOND

    def describe(self, name: str) -> dict[str, Any]:
        """What a manifest says of an instrument."""
        return {"tick_px": self.engines[name].config.tick_px, **summary(self.engines[name])}


class _Grid:
    """The rows of a grid file: made, and hashed, as the bins of the engines come.

    Args:
        radius: ticks on each side.
        gold: settings of gold; None for bins alone.
    """

    def __init__(self, radius: int, gold: GoldConfig | None) -> None:
        self._gold = gold
        self._golds: dict[str, Gold] = {}
        self._hashed = {"bins_sha256": bins.columns(radius)} | ({"gold_sha256": gold_columns(radius)} if gold else {})
        self._hashes: dict[str, dict[str, RowHash]] = {kind: {} for kind in self._hashed}
        rest = tuple(Column(n, "f8", "lots", "sum of bid and ask", 2 * radius + 1) for n in bins.REST_VECTORS)
        added = (c for c in self._hashed.get("gold_sha256", ()) if c.name != "bin_seq")  # the bins have it already
        self._columns = (*self._hashed["bins_sha256"], *rest, *added)

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of every batch."""
        return _named("", to_arrow(empty_table(self._columns), self._columns)).schema

    def batch(self, instrument: str, config: EngineConfig, table: Table) -> pa.RecordBatch:
        """Bins of one instrument as people read them: its name, the topic row, the rest_depth vectors, gold."""
        count = table_rows(table)
        header = {"tick_px": np.full(count, config.tick_px, "<i8"), "bucket": np.full(count, config.bucket, "<i8")}
        rows = self._hash("bins_sha256", instrument, {**header, **table})
        rows = bins.with_rest_depth(rows)
        if self._gold is not None:
            rows |= self._hash("gold_sha256", instrument, self._gold_of(self._gold, instrument, config).apply(table))
        return _named(instrument, to_arrow(rows, self._columns))

    def hashes(self) -> dict[str, dict[str, str]]:
        """Hash of all rows of each instrument that has any, by kind of row."""
        return {kind: {n: h.hexdigest() for n, h in found.items()} for kind, found in self._hashes.items()}

    def _hash(self, kind: str, instrument: str, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Take rows into their hash, and give them back."""
        self._hashes[kind].setdefault(instrument, RowHash(self._hashed[kind])).update(rows)
        return rows

    def _gold_of(self, gold: GoldConfig, instrument: str, config: EngineConfig) -> Gold:
        """The gold of an instrument, made with its first bins."""
        if instrument not in self._golds:
            unit_px = config.tick_px * config.bucket
            self._golds[instrument] = Gold(gold, config.cell_ns, unit_px, config.radius)
        return self._golds[instrument]


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


def _mbp10_batch(instrument: str, records: np.ndarray) -> pa.RecordBatch:
    """MBP-10 records as a data frame of DBN has them; `length` is framing, not data."""
    others = (n for n in MBP10_DTYPE.names or () if n not in _MBP10_HEAD and n != "length")
    names = (*_MBP10_HEAD, *others)
    arrays = [pa.array(np.ascontiguousarray(records[n]).astype(_plain(records.dtype[n]))) for n in names]
    schema = pa.schema([pa.field(n, a.type, nullable=False) for n, a in zip(names, arrays, strict=True)])
    return _named(instrument, pa.RecordBatch.from_arrays(arrays, schema=schema))


def _plain(dtype: np.dtype) -> np.dtype:
    return np.dtype("U1") if dtype.kind == "S" else dtype


def _named(instrument: str, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with the instrument before all columns, made of buffers for the reason given in `to_arrow`."""
    name, rows = instrument.encode(), batch.num_rows
    ends = np.arange(rows + 1, dtype="<i4") * len(name)
    column = pa.StringArray.from_buffers(rows, pa.py_buffer(ends), pa.py_buffer(name * rows))
    return batch.add_column(0, pa.field("instrument", pa.string(), nullable=False), column)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)
