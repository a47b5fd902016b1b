"""The report of a run: made from the topics, the store and the lake as they are, never from what a process remembers.

So the report of a tape that was finished long ago is the same as on the day it was made, but for its seconds.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict
from typing import Any

from control.certificate import certificate
from control.output import Output
from control.scan import TopicScan, scan_topic
from control.services import open_store
from control.skips import skips_of
from runtime.object_store import object_store_at
from runtime.tapes import Manifest
from schemas import topics
from schemas.topics import TopicSpec
from sinks.reconcile import reconcile


def build(
    manifest: Manifest,
    line: str,
    servers: str,
    store_url: str,
    lake: str,
    state: str,
    seconds: Callable[[], Mapping[str, float]],
    out: Output,
) -> dict[str, Any]:
    """Read everything back and report.

    Args:
        manifest: the tape.
        line: the line.
        servers: Kafka brokers.
        store_url: ClickHouse over HTTP.
        lake: where the lake lies: a folder or a URL.
        state: where the skips lie: a folder or a URL.
        seconds: tells how long the phases took so far.
        out: for progress.

    Raises:
        HoleError, ConflictError: a topic is damaged.
    """
    scans = scan_tape(manifest, line, servers, out)
    with closing(open_store(store_url)) as client:
        compared = reconcile(manifest, line, servers, client=client, lake=object_store_at(lake))
    bins = scans[topics.BINS.stream]
    skips = skips_of(object_store_at(state), manifest, line)
    return {
        "tape": manifest.tape,
        "line": line,
        "input": {"files": [asdict(source) for source in manifest.sources]},
        "instruments": dict(sorted(bins.summaries.items())),
        "topics": {name: scans[spec.stream].counts() for name, spec in topics.rooted(manifest.tape, line).items()},
        "bins": {"emitted": bins.records, "sha256": bins.sha256(), "by_instrument": bins.by_instrument()},
        "store": {table: counts.store_rows for table, counts in compared.tables.items()},
        "lake": {table: counts.lake_rows for table, counts in compared.tables.items()},
        "reconcile": {"missing": compared.missing, "duplicate": compared.duplicate},
        "seconds": {name: round(value, 3) for name, value in seconds().items()},
        "certificate": certificate(manifest, line, scans, skips),
    }


def scan_tape(
    manifest: Manifest,
    line: str,
    servers: str,
    out: Output,
    specs: Iterable[TopicSpec] | None = None,
    until: Mapping[str, Mapping[int, int]] | None = None,
) -> dict[str, TopicScan]:
    """Read the raw topic and what stages made of it; stream → what it holds.

    Args:
        manifest, line, servers, out: see `build`.
        specs: topics to read; None for all.
        until: stream → partition → last root message to read; None for all that is there.

    Raises:
        HoleError, ConflictError: a topic is damaged.
    """
    scans: dict[str, TopicScan] = {}
    for spec in topics.rooted(manifest.tape, line).values() if specs is None else specs:
        with out.bar(f"reading {spec.stream}", "messages") as advance:
            scans[spec.stream] = scan_topic(
                servers, manifest, line, spec, lambda n: advance(n, 0), (until or {}).get(spec.stream)
            )
    return scans
