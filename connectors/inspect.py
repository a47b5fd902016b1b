# ruff: noqa: A005  (only ever imported as connectors.inspect)
"""What is in a DBN file, for people: `barograph inspect`.

One pass, like verification, so a damaged file is refused with the place; then counts instead of proofs. Files of other
schemas than MBO give their metadata and the number of records of each type.
"""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from connectors.dbn_file import DbnFile, Progress
from connectors.dbn_metadata import DbnMetadata, utc
from connectors.dbn_verify import Tally
from schemas.mbo import (
    F_BAD_TS_RECV,
    F_LAST,
    F_MAYBE_BAD_BOOK,
    F_MBP,
    F_PUBLISHER_SPECIFIC,
    F_SNAPSHOT,
    F_TOB,
    MBO_RTYPE,
)
from schemas.units import PRICE_SCALE, UNDEF_PRICE

FLAGS: Final = {
    "last": F_LAST,
    "tob": F_TOB,
    "snapshot": F_SNAPSHOT,
    "mbp": F_MBP,
    "bad_ts_recv": F_BAD_TS_RECV,
    "maybe_bad_book": F_MAYBE_BAD_BOOK,
    "publisher_specific": F_PUBLISHER_SPECIFIC,
}


def inspect(path: Path | str, on_progress: Progress | None = None) -> dict[str, Any]:
    """Contents of a DBN file of any schema.

    Args:
        path: the file.
        on_progress: called with (bytes read, bytes in all).

    Returns:
        Plain values, ready for JSON: `file` (path, bytes, sha256, frames), `metadata`, `records`, `by_rtype`,
        `range` (first and last time), and for MBO records `actions`, `sides`, `flags` (name → records), `snapshot`
        (records, whether an R begins it, whether F_LAST ends it) and `instruments` (name → records, times, price range,
        tick, sequences). Prices are in the currency, as decimal text; times ISO 8601, UTC.

    Raises:
        DbnError: the file is not a whole DBN file.
    """
    tally, mbo = Tally(), _MboCounts()
    with DbnFile(path, on_progress) as file:
        for run in file.runs():
            tally.add(run, file.metadata)
            if run.rtype == MBO_RTYPE:
                mbo.add(run.mbo())
        report = tally.report(file)
        metadata = file.metadata
    out: dict[str, Any] = {
        "file": {"path": report.path, "bytes": report.bytes, "sha256": report.sha256, "frames": report.frames},
        "metadata": _metadata(metadata),
        "records": report.records,
        "by_rtype": dict(report.by_rtype),
        "range": {"first": utc(report.first_ns), "last": utc(report.last_ns)},
    }
    if report.mbo_records:
        out |= mbo.result()
        out["instruments"] = {
            name: {
                "records": stats.records,
                "first": utc(stats.first_ns),
                "last": utc(stats.last_ns),
                "low": decimal(stats.low_px),
                "high": decimal(stats.high_px),
                "tick": decimal(stats.tick_px),
                "first_sequence": stats.first_sequence,
                "last_sequence": stats.last_sequence,
            }
            for name, stats in report.instruments.items()
        }
    return out


def decimal(px: int) -> str:
    """A price of 1e-9 units as exact decimal text without trailing zeros; `-` for a missing one."""
    if px == UNDEF_PRICE:
        return "-"
    whole, rest = divmod(abs(px), PRICE_SCALE)
    text = f"{'-' if px < 0 else ''}{whole}.{rest:09d}"
    return text.rstrip("0").rstrip(".")


def _metadata(metadata: DbnMetadata) -> dict[str, Any]:
    plain = asdict(metadata)
    plain["mapped_instruments"] = len(plain.pop("intervals"))
    plain["start"], plain["end"] = utc(plain.pop("start_ns")), utc(plain.pop("end_ns"))
    plain["symbols"] = {"count": len(metadata.symbols), "first": list(metadata.symbols[:10])}
    return plain


class _MboCounts:
    """Counts of MBO records by action, side and flag."""

    def __init__(self) -> None:
        self._actions: Counter[str] = Counter()
        self._sides: Counter[str] = Counter()
        self._flags: Counter[int] = Counter()
        self._snapshot = {"records": 0, "begins_with_clear": False, "ends_with_last": False}

    def add(self, records: np.ndarray) -> None:
        """Take the next records of the file."""
        for counter, field in ((self._actions, "action"), (self._sides, "side")):
            values, counts = np.unique(records[field].view(np.uint8), return_counts=True)
            counter.update({_letter(v): int(c) for v, c in zip(values.tolist(), counts, strict=True)})
        values, counts = np.unique(records["flags"], return_counts=True)
        self._flags.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        snapshot = records[(records["flags"] & F_SNAPSHOT) != 0]
        if len(snapshot):
            if not self._snapshot["records"]:
                self._snapshot["begins_with_clear"] = bool(snapshot["action"][0] == b"R")
            self._snapshot["records"] += len(snapshot)
            self._snapshot["ends_with_last"] = bool(snapshot["flags"][-1] & F_LAST)

    def result(self) -> dict[str, Any]:
        """The counts."""
        by_flag = {name: sum(n for f, n in self._flags.items() if f & bit) for name, bit in FLAGS.items()}
        return {
            "actions": dict(sorted(self._actions.items())),
            "sides": dict(sorted(self._sides.items())),
            "flags": {name: count for name, count in by_flag.items() if count},
            "snapshot": self._snapshot,
        }


def _letter(code: int) -> str:
    return chr(code) if 32 < code < 127 else f"0x{code:02x}"
