"""Verification: a file is proved whole before anything of it is published.

A cut or damaged DBN file reads as a shorter good one with the usual readers, without a warning. Here one pass checks
that every zstd frame ends and its checksum holds, that each record has a type and length that exist, that the file
does not end inside a record, and, given a manifest, that it is the very file that was meant. What only a manifest can
tell: a file cut exactly between two frames or two records is a valid shorter file.

A manifest is JSON of one of two forms; unknown fields are ignored:

    {"files": [{"filename": NAME, "hash": "sha256:HEX", "size": BYTES}, ...]}    Databento's manifest.json
    {NAME: {"sha256": HEX, "records": N, "size": BYTES}, ...}                    our own; each field may be absent
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from connectors.dbn_errors import (
    FETCH_AGAIN,
    ManifestMismatchError,
    NoRecordsError,
    WrongSchemaError,
)
from connectors.dbn_file import DbnFile, Progress
from connectors.dbn_metadata import DbnMetadata, InstrumentNames
from connectors.dbn_records import (
    COMMON_HEADER,
    DEFINITION_RTYPE,
    HOUSEKEEPING,
    SIZES,
    SYMBOL_MAPPING_RTYPE,
    Run,
    symbol_mappings,
)
from connectors.dbn_stats import NO_TIME, InstrumentStats, MboStats
from runtime.errors import InputError
from schemas.mbo import MBO_RTYPE
from schemas.units import UNDEF_PRICE

ASK_FOR_MBO: Final = "request the same data with schema mbo"

_INCREMENT = np.dtype(
    {"names": ["instrument_id", "increment"], "formats": ["<u4", "<i8"], "offsets": [4, 24], "itemsize": 32}
)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a manifest says of a file; None where it says nothing."""

    sha256: str | None = None
    size_bytes: int | None = None
    records: int | None = None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """A whole file.

    Attributes:
        path: as given.
        version, schema, dataset: from its metadata; schema is None for a live session of several.
        records: records of all types.
        bytes: length of the file.
        sha256: hash of the file's bytes, hex.
        first_ns, last_ns: range of record times, ns; -1 without records.
        frames: zstd frames; 0 for a plain file.
        by_rtype: name of the record type → records.
        instruments: name → statistics, for MBO records, in order of first appearance.
        definition_ticks: instrument → tick size, 1e-9, from definition records in the file.
    """

    path: str
    version: int
    schema: str | None
    dataset: str
    records: int
    bytes: int
    sha256: str
    first_ns: int
    last_ns: int
    frames: int
    by_rtype: Mapping[str, int]
    instruments: Mapping[str, InstrumentStats]
    definition_ticks: Mapping[str, int]

    @property
    def is_empty(self) -> bool:
        """Whether the file ends with its metadata: valid, but nothing to replay."""
        return self.records == 0

    @property
    def mbo_records(self) -> int:
        """Records that a replay publishes."""
        return self.by_rtype.get("mbo", 0)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return asdict(self)


def verify(
    path: Path | str, *, manifest: Mapping[str, Expected] | None = None, on_progress: Progress | None = None
) -> VerifyReport:
    """Prove that a DBN file is whole, in one pass.

    Args:
        path: the file, `.dbn` or `.dbn.zst`, of any schema.
        manifest: file name → what it must be, see `load_manifest`; None to accept what is there.
        on_progress: called with (bytes read, bytes in all).

    Raises:
        DbnError: the file is not whole, not DBN, or not what the manifest says.
    """
    tally = Tally()
    with DbnFile(path, on_progress) as file:
        for run in file.runs():
            tally.add(run, file.metadata)
        report = tally.report(file)
    if manifest is not None:
        _compare(report, manifest)
    return report


def require_mbo(report: VerifyReport) -> None:
    """Refuse a whole file that cannot be replayed: another schema, a mixture, or no record.

    A live session counts as MBO if everything else in it is housekeeping (definitions, symbol mappings, messages).

    Raises:
        WrongSchemaError: it holds other market data than MBO.
        NoRecordsError: it holds no MBO record.
    """
    if report.schema not in (None, "mbo"):
        raise WrongSchemaError(report.path, f"holds {report.schema} records; barograph replays mbo", ASK_FOR_MBO)
    housekeeping = {SIZES[rtype][0] for rtype in HOUSEKEEPING}
    others = sorted(set(report.by_rtype) - housekeeping - {"mbo"})
    if others:
        kinds = ", ".join(others)
        raise WrongSchemaError(report.path, f"also holds {kinds} records; barograph replays mbo alone", ASK_FOR_MBO)
    if not report.mbo_records:
        raise NoRecordsError(
            report.path, "has metadata but no mbo record: there is nothing to replay", "request a range with trading"
        )


def verify_all(
    paths: Iterable[Path | str],
    *,
    manifest: Mapping[str, Expected] | None = None,
    on_progress: Progress | None = None,
) -> list[VerifyReport]:
    """Verify files that shall be replayed together; nothing may be published before this returns.

    Args:
        paths: the files, in any order.
        manifest: as in `verify`.
        on_progress: called with (bytes read, bytes of the file) for each file in turn.

    Returns:
        Their reports in the order of their first record.

    Raises:
        DbnError: one of them is not whole, not MBO, or empty.
        InputError: none was given, one was given twice, or two hold one instrument at the same time.
    """
    reports = []
    for path in paths:
        reports.append(verify(path, manifest=manifest, on_progress=on_progress))
        require_mbo(reports[-1])
    if not reports:
        raise InputError("no file was given", remedy="name at least one .dbn or .dbn.zst file")
    reports.sort(key=lambda report: (report.first_ns, report.last_ns, report.sha256))
    _refuse_overlaps(reports)
    return reports


def load_manifest(path: Path | str) -> dict[str, Expected]:
    """Read a manifest of either form (module docstring): file name → what the file must be.

    Raises:
        InputError: it cannot be read or is of neither form.
    """
    try:
        raw = json.loads(Path(path).read_bytes())
        files = {f["filename"]: f for f in raw["files"]} if isinstance(raw.get("files"), list) else raw
        return {Path(name).name: _expected(entry) for name, entry in files.items()}
    except OSError as error:
        raise InputError(f"manifest {path} cannot be read ({error.strerror})", remedy="correct the path") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"manifest {path} is not a file list ({error})",
            remedy='give Databento\'s manifest.json, or {"NAME": {"sha256": "HEX", "records": N}}',
        ) from error


def _expected(entry: Mapping[str, Any]) -> Expected:
    text = entry.get("sha256", entry.get("hash"))
    digest = None if text is None else str(text).removeprefix("sha256:").lower()
    if digest is not None and (len(digest) != 64 or set(digest) - set("0123456789abcdef")):
        raise ValueError(f"{text!r} is no sha256")
    size, records = entry.get("size"), entry.get("records")
    return Expected(digest, None if size is None else int(size), None if records is None else int(records))


def _compare(report: VerifyReport, manifest: Mapping[str, Expected]) -> None:
    """Raise unless the file is the one that the manifest describes."""
    name = Path(report.path).name
    expected = manifest.get(name)
    if expected is None:
        raise ManifestMismatchError(report.path, "is not in the manifest", "give the manifest of this very download")
    for what, got, wanted in (
        ("bytes", report.bytes, expected.size_bytes),
        ("records", report.records, expected.records),
    ):
        if wanted is not None and got != wanted:
            raise ManifestMismatchError(
                report.path, f"has {got:,} {what}, but its manifest says {wanted:,}", FETCH_AGAIN
            )
    if expected.sha256 is not None and report.sha256 != expected.sha256:
        raise ManifestMismatchError(
            report.path, f"has sha256 {report.sha256[:12]}…, but its manifest says {expected.sha256[:12]}…", FETCH_AGAIN
        )


OVERLAP_NS_MAX: Final = 1_000_000_000
"""How far files of one instrument may overlap, ns. Clocks of venue and capture differ by less around midnight; a file
that begins more than that before its predecessor ends repeats orders, and the book would be wrong without an error."""


def _refuse_overlaps(reports: list[VerifyReport]) -> None:
    """Raise if two files hold the same time of an instrument; the files stand in order of their first record."""
    seen: dict[str, tuple[str, int, int]] = {}
    hashes: dict[str, str] = {}
    for report in reports:
        twin = hashes.setdefault(report.sha256, report.path)
        if twin is not report.path:
            raise InputError(f"{twin} and {report.path} are the same file", remedy="name each file once")
        for name, stats in report.instruments.items():
            other, begin_ns, end_ns = seen.get(name, ("", NO_TIME, NO_TIME))
            within = stats.first_ns <= begin_ns or stats.last_ns <= end_ns
            if other and (within or stats.first_ns < end_ns - OVERLAP_NS_MAX):
                overlap = (min(end_ns, stats.last_ns) - stats.first_ns) / 1e9
                raise InputError(
                    f"{other} and {report.path} overlap by {overlap:,.3f} s of {name}",
                    remedy="give files that follow each other",
                )
            seen[name] = (report.path, stats.first_ns, stats.last_ns)


class Tally:
    """What one pass adds up."""

    def __init__(self) -> None:
        self._stats: MboStats | None = None
        self._by_rtype: dict[str, int] = {}
        self._range = (NO_TIME, NO_TIME)
        self._increments: dict[int, int] = {}

    def add(self, run: Run, metadata: DbnMetadata) -> None:
        """Take the next run."""
        name = SIZES[run.rtype][0]
        self._by_rtype[name] = self._by_rtype.get(name, 0) + len(run)
        if run.rtype == MBO_RTYPE:
            self._mbo(metadata).add(run.mbo())
        elif run.rtype == SYMBOL_MAPPING_RTYPE:
            self._mbo(metadata).names.learn(symbol_mappings(run))
        else:
            self._add_range(run)
            if run.rtype == DEFINITION_RTYPE:
                rows = run.view(_INCREMENT)
                self._increments.update(zip(rows["instrument_id"].tolist(), rows["increment"].tolist(), strict=True))

    def report(self, file: DbnFile) -> VerifyReport:
        """The finished report."""
        metadata = file.metadata
        instruments = self._mbo(metadata).by_instrument()
        for stats in instruments.values():
            self._widen(stats.first_ns, stats.last_ns)
        names, ticks = self._mbo(metadata).names, self._increments.items()
        return VerifyReport(
            path=file.path,
            version=metadata.version,
            schema=metadata.schema,
            dataset=metadata.dataset,
            records=file.records,
            bytes=file.read_bytes,
            sha256=file.sha256,
            first_ns=self._range[0],
            last_ns=self._range[1],
            frames=file.frames,
            by_rtype=dict(sorted(self._by_rtype.items())),
            instruments=instruments,
            definition_ticks={
                names.name(number, max(0, self._range[0])): px for number, px in ticks if 0 < px < UNDEF_PRICE
            },
        )

    def _mbo(self, metadata: DbnMetadata) -> MboStats:
        if self._stats is None:
            self._stats = MboStats(InstrumentNames(metadata))
        return self._stats

    def _add_range(self, run: Run) -> None:
        times = run.view(COMMON_HEADER)["ts_event"]
        known = times[times < np.uint64(1 << 63)]
        if len(known):
            self._widen(int(known.min()), int(known.max()))

    def _widen(self, first_ns: int, last_ns: int) -> None:
        if last_ns == NO_TIME:
            return
        first = first_ns if self._range[0] == NO_TIME else min(first_ns, self._range[0])
        self._range = (first, max(last_ns, self._range[1]))
