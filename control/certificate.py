"""The certificate of a tape and line: what went in, who computed, what came out, all by hash.

Two runs over the same input by the same `run` must give the same outputs, on any machine, with any number of workers
and restarts. The certificate makes that a comparison of a few hashes. It is signed by nothing but its own content: the
last field is the sha256 of all others as canonical JSON (sorted keys, no spaces), so an edit is noticed.

| field | holds | part of "identical" |
|---|---|---|
| `inputs` | raw topic by partition: range of seq, counts, hash of its messages (`control.scan`) | no: goes by blocks |
| `records` | instrument → its raw records, hashed without block bounds | yes |
| `outputs` | stream → instrument → hash of its rows | yes |
| `books` | instrument → digest of its final book | yes |
| `runs` | stream → who computed it, from seq to seq; a change of release on the line shows here | no |
| `skips` | messages that were left out as poison: they are input too | yes: stage, partition, seq, part, reason |
| `run`, `config`, `config_sha256` | identity of code and configuration, and the configuration | no |
| `tape`, `tape_id`, `line`, `sources`, `blocking`, `software` | where it comes from | no |

A certificate of a replay that nobody has computed yet has no outputs; it certifies the raw side alone.
"""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from control.scan import TopicScan
from runtime.errors import AnswerIsNo, InputError
from runtime.tapes import Manifest
from schemas import topics

VERSION: Final = 2
KNOWN: Final = (1, 2)
"""Versions whose seal can be verified. Version 1 has sources, run, config, outputs and books only."""

_FIELDS: Final = {
    1: {"run", "config", "outputs", "books"},
    2: {"tape", "tape_id", "line", "inputs", "records", "run", "runs", "config", "outputs", "skips", "books"},
}
"""What is read of a certificate, by version; without any of it a file is none."""


def certificate(
    manifest: Manifest, line: str, scans: Mapping[str, TopicScan], skips: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Make a certificate.

    Args:
        manifest: the tape.
        line: the line.
        scans: stream → what its topic holds; the raw one must be there.
        skips: see `control.skips`; those beyond what was read do not count.
    """
    raw, known = scans[topics.MBO.stream], manifest.require_line(line)
    derived = [spec.stream for spec in topics.DERIVED if spec.stream in scans]
    summaries = scans[topics.BINS.stream].summaries if topics.BINS.stream in scans else {}
    body = {
        "version": VERSION,
        "tape": manifest.tape,
        "tape_id": manifest.tape_id,
        "line": line,
        "software": {"barograph": metadata.version("barograph"), "python": platform.python_version()},
        "sources": [asdict(source) for source in manifest.sources],
        "blocking": dict(manifest.blocking),
        "inputs": [part.to_dict() for part in raw.inputs],
        "records": {name: raw.raw[name].to_dict() for name in sorted(raw.raw)},
        "run": known.run,
        "runs": {stream: [asdict(span) for span in scans[stream].runs] for stream in derived},
        "config": dict(known.config),
        "config_sha256": hashlib.sha256(canonical(known.config)).hexdigest(),
        "outputs": {stream: scans[stream].by_instrument() for stream in derived},
        "skips": [dict(skip) for skip in skips if _within(skip, scans)],
        "books": {name: str(state["book_digest"]) for name, state in sorted(summaries.items())},
    }
    return {**body, "sha256": seal(body)}


def _within(skip: Mapping[str, Any], scans: Mapping[str, TopicScan]) -> bool:
    """Whether the outputs that were read show a skip: what a stage leaves out later is no part of them."""
    producer = f"{skip['stage']} stage"
    streams = [spec.stream for spec in topics.DERIVED if spec.producer == producer and spec.stream in scans]
    spans = [span for stream in streams for span in scans[stream].runs if span.partition == skip["partition"]]
    return any(span.seq_to >= skip["seq"] for span in spans)


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def seal(body: Mapping[str, Any]) -> str:
    """sha256 of a certificate without its own `sha256`, as canonical JSON."""
    return hashlib.sha256(canonical({key: value for key, value in body.items() if key != "sha256"})).hexdigest()


def read(path: Path) -> dict[str, Any]:
    """The certificate in a report, or in a file of its own, with an unbroken seal.

    Raises:
        InputError: the file cannot be read or holds no certificate.
        AnswerIsNo: the certificate does not match its seal.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else "is no JSON document"
        raise InputError(f"{path}: {reason}", remedy="give the report of a run, a certificate, or a tape") from error
    body = found.get("certificate", found) if isinstance(found, dict) else None
    version = body.get("version") if isinstance(body, dict) and isinstance(body.get("sha256"), str) else None
    if not isinstance(body, dict) or version not in KNOWN or not _FIELDS[version] <= body.keys():
        raise InputError(f"{path} holds no certificate", remedy="give the report of a run, a certificate, or a tape")
    if seal(body) != body["sha256"]:
        raise AnswerIsNo(
            f"{path}: the certificate does not match its seal, so it was edited or damaged",
            remedy="make it again from the tape: `barograph run` on the same files reports again",
        )
    return body


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """One entry in which two certificates, or a certificate and its tape, disagree.

    Attributes:
        what: `records`, `outputs.STREAM`, `books` or `skips`.
        name: the instrument, or the place of a skip.
        left, right: both values; empty where one side lacks it.
    """

    what: str
    name: str
    left: str
    right: str


def compared(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """What both certificates speak of: `records`, `outputs.STREAM`, `skips`, `books`.

    One of a replay that nobody has computed yet speaks of records alone.
    """
    computed = bool(left["outputs"]) and bool(right["outputs"])
    streams = [f"outputs.{name}" for name in _streams(left, right)] if computed else []
    others = ["records", *(("skips", "books") if computed else ())]
    return [*streams, *(what for what in others if what in left and what in right)]


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[Difference]:
    """Where two certificates differ in content, among what both speak of."""
    found: list[Difference] = []
    for what in compared(left, right):
        mine, theirs = (_entries(body, what) for body in (left, right))
        names = sorted({*mine, *theirs})
        pairs = ((name, mine.get(name, ""), theirs.get(name, "")) for name in names)
        found += [Difference(what, name, one, two) for name, one, two in pairs if one != two]
    return found


def _entries(body: Mapping[str, Any], what: str) -> Mapping[str, str]:
    """One part of a certificate: name → hash, or for skips place → reason."""
    if what == "records":
        return {name: entry["sha256"] for name, entry in body[what].items()}
    if what == "skips":
        return {f"{e['stage']}[{e['partition']}] seq {e['seq']}.{e['part']}": str(e["reason"]) for e in body[what]}
    entries: Mapping[str, str] = (
        body[what] if what == "books" else body["outputs"].get(what.removeprefix("outputs."), {})
    )
    return entries


def _streams(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """Streams of both, in the order of the catalogue."""
    order = [spec.stream for spec in topics.CATALOGUE]
    return sorted(
        {*left["outputs"], *right["outputs"]},
        key=lambda name: (order.index(name) if name in order else len(order), name),
    )
