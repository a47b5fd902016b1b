"""What was left out as poison: one object per message, written once, and input to everything computed after it.

`skips/TAPE_ID/LINE/STAGE/PARTITION/SEQ.PART.json`, SEQ with 20 digits, PART with 6. The stage that skips writes it
before any output, so whoever computes the line again leaves out the same messages.
"""

from dataclasses import asdict
from typing import Any, Final

from runtime.object_store import ObjectStore
from runtime.tapes import Manifest
from streams.poison import read_skip

FIELDS: Final = ("seq", "part", "offset", "topic", "instrument", "reason", "error", "attempts", "run")
"""What of a skip belongs into a certificate. Its traceback does not: it names paths of one machine."""


def skips_of(store: ObjectStore, manifest: Manifest, line: str) -> list[dict[str, Any]]:
    """The skips of a line in order of stage, partition, seq and part: `stage`, `partition` and `FIELDS`.

    Raises:
        InputError: one of them is damaged.
    """
    prefix = f"skips/{manifest.tape_id}/{line}/"
    found = []
    for name in store.names(prefix):
        stage, partition, _ = name.removeprefix(prefix).split("/")
        body = asdict(read_skip(store, name))
        found.append({"stage": stage, "partition": int(partition), **{key: body[key] for key in FIELDS}})
    return sorted(found, key=lambda skip: (skip["stage"], skip["partition"], skip["seq"], skip["part"]))
