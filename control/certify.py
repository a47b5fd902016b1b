"""Certificates against tapes: whether one still says the truth, and where two tapes part.

A certificate is only hashes, so two that differ say that something differs, not what. Where both tapes are still here,
their rows are read in step and the first one that differs is shown.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from control.certificate import Difference, certificate, differences
from control.first_difference import RowDifference, first_difference
from control.output import Output
from control.report import scan_tape
from control.scan import row_of
from control.skips import skips_of
from runtime.codec import decode_rows
from runtime.object_store import ObjectStore
from runtime.tape_reader import TopicReader
from runtime.tapes import Manifest, TapeStore
from schemas import topics
from schemas.columns import Table
from schemas.topics import TopicSpec
from sinks.tables import TABLES


@dataclass(frozen=True, slots=True)
class FoundRow:
    """The first differing row of two tapes: its stream and instrument, when it is, and what differs.

    Attributes:
        stream, instrument: where.
        ts_ns: event time by which rows of the stream are ordered.
        difference: the row.
    """

    stream: str
    instrument: str
    ts_ns: int
    difference: RowDifference


def issue(
    manifest: Manifest,
    line: str,
    servers: str,
    store: ObjectStore,
    out: Output,
    *,
    raw_only: bool = False,
    until: Mapping[str, Mapping[int, int]] | None = None,
) -> dict[str, Any]:
    """Make a certificate from the topics as they are now.

    Args:
        manifest: the tape.
        line: the line.
        servers: Kafka brokers.
        store: states, which hold the skips.
        out: for progress.
        raw_only: whether to leave out what stages made.
        until: stream → partition → last root message that counts; None for all that is there.

    Raises:
        HoleError, ConflictError: a topic is damaged.
    """
    scans = scan_tape(manifest, line, servers, out, (topics.MBO,) if raw_only else None, until)
    return certificate(manifest, line, scans, [] if raw_only else skips_of(store, manifest, line))


def tape_of(body: Mapping[str, Any], tapes: TapeStore) -> Manifest | None:
    """The tape that a certificate is of, if it is still here and the same."""
    manifest = tapes.load(str(body.get("tape", "")) or "-")
    same = manifest is not None and manifest.tape_id == body.get("tape_id") and body.get("line") in manifest.lines
    return manifest if same else None


def against_tape(
    body: Mapping[str, Any], manifest: Manifest, servers: str, store: ObjectStore, out: Output
) -> tuple[dict[str, str], list[Difference]]:
    """Hash a certificate's tape again, as far as the certificate goes: what came later does not count.

    Returns:
        Stream → `ok` or `differs` (the raw one first), and every difference.

    Raises:
        HoleError, ConflictError: a topic is damaged.
    """
    now = issue(manifest, str(body["line"]), servers, store, out, raw_only=not body["outputs"], until=range_of(body))
    found = differences(body, now)
    raw = topics.MBO.stream
    if body["inputs"] != now["inputs"] and not any(d.what == "records" for d in found):
        found.insert(0, Difference("inputs", raw, "as certified", "otherwise"))
    wrong = {raw if d.what in ("inputs", "records") else d.what.removeprefix("outputs.") for d in found}
    parts = [raw, *body["outputs"], *(("skips", "books") if body["outputs"] else ())]
    return {name: "differs" if name in wrong else "ok" for name in parts}, found


def range_of(body: Mapping[str, Any]) -> dict[str, dict[int, int]]:
    """How far a certificate goes: stream → partition → last root message."""
    until = {topics.MBO.stream: {int(part["partition"]): int(part["seq_to"]) for part in body["inputs"]}}
    for stream, spans in body["runs"].items():
        until[stream] = {int(span["partition"]): int(span["seq_to"]) for span in spans}  # the last span of each stands
    return until


def first_differing_row(
    left: Manifest, left_line: str, right: Manifest, right_line: str, found: list[Difference], servers: str
) -> FoundRow | None:
    """The earliest row that differs in the first stream that differs; None if only other things differ.

    Args:
        left, left_line, right, right_line: both tapes and lines.
        found: where their certificates differ.
        servers: Kafka brokers.
    """
    for spec in topics.DERIVED:
        names = [d.name for d in found if d.what == f"outputs.{spec.stream}"]
        rows = [row for name in names if (row := _in_stream(left, left_line, right, right_line, spec, name, servers))]
        if rows:
            return min(rows, key=lambda row: row.ts_ns)
    return None


def _in_stream(
    left: Manifest, left_line: str, right: Manifest, right_line: str, spec: TopicSpec, instrument: str, servers: str
) -> FoundRow | None:
    columns = row_of(spec, left.lines[left_line].config)
    if columns != row_of(spec, right.lines[right_line].config):
        return None  # rows of another shape: the configurations say how
    mine = _rows(left, left_line, spec, instrument, servers)
    difference = first_difference(mine, _rows(right, right_line, spec, instrument, servers), columns)
    if difference is None:
        return None
    ts_ns = difference.value(TABLES[spec.stream].time[0])
    return FoundRow(spec.stream, instrument, int(ts_ns), difference)


def _rows(manifest: Manifest, line: str, spec: TopicSpec, instrument: str, servers: str) -> Iterator[Table]:
    """The rows of one instrument in order, message by message; none if the tape lacks it."""
    if instrument not in manifest.instruments:
        return
    columns = row_of(spec, manifest.lines[line].config)
    for placed in TopicReader(servers, manifest, line, spec, manifest.instruments[instrument].partition):
        if placed.message.instrument == instrument and not placed.deleted:
            yield decode_rows(placed.message.value, columns)


def row_to_dict(found: FoundRow) -> dict[str, Any]:
    """For JSON."""
    columns = [asdict(column) for column in found.difference.columns]
    return {
        "stream": found.stream,
        "instrument": found.instrument,
        "row": found.difference.row,
        "bin_seq": found.difference.value("bin_seq"),
        "ts_ns": found.ts_ns,
        "ended": "left" if found.difference.left is None else "right" if found.difference.right is None else "",
        "columns": columns,
    }
