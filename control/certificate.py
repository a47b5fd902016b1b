"""The certificate of a run: what went in, who computed, what came out, all by hash.

Two runs over the same input by the same `run` must give the same outputs, on any machine, with any number of workers
and restarts. The certificate makes that a comparison of a few hashes. It is signed by nothing but its own content: the
last field is the sha256 of all others as canonical JSON (sorted keys, no spaces), so an edit is noticed.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Final

VERSION: Final = 1


def certificate(
    *,
    sources: list[dict[str, Any]],
    blocking: Mapping[str, Any],
    run: str,
    config: Mapping[str, Any],
    outputs: Mapping[str, Mapping[str, str]],
    books: Mapping[str, str],
) -> dict[str, Any]:
    """Make a certificate.

    Args:
        sources: input files: name, sha256, records.
        blocking: rule by which raw blocks were cut.
        run: identity of code and configuration.
        config: the line's semantic configuration.
        outputs: stream → instrument → hash of its rows.
        books: instrument → digest of its final book.
    """
    body = {
        "version": VERSION,
        "software": {"barograph": metadata.version("barograph"), "python": platform.python_version()},
        "sources": sources,
        "blocking": dict(blocking),
        "run": run,
        "config": dict(config),
        "outputs": {stream: dict(hashes) for stream, hashes in outputs.items()},
        "books": dict(books),
    }
    return {**body, "sha256": seal(body)}


def seal(body: Mapping[str, Any]) -> str:
    """sha256 of a certificate without its own `sha256`, as canonical JSON."""
    rest = {key: value for key, value in body.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
