"""How everything is, for `/v1/status`: what answers, how far each consumer is behind, and what is missing.

A look costs the broker some dozens of requests, so askers within `KEPT_S` share one.
"""

import threading
import time
from contextlib import closing, suppress
from typing import Any, Final

from control.health import status
from control.lag import Follower
from runtime.codec import decode_avro
from runtime.endpoints import Endpoints
from runtime.errors import BarographError
from runtime.kafka import consumer, read_range, watermarks
from runtime.object_store import object_store_at
from runtime.settings import Settings
from runtime.tapes import Manifest, TapeStore
from schemas.topics import GAPS

KEPT_S: Final = 2.0
"""How long an answer counts. A console asks once a second for each of its tabs; a broker needs only one look."""

GAPS_SHOWN: Final = 20
"""Newest gaps that are told of each partition; the rest is counted."""


class Board:
    """The latest look, and followers that remember how each consumer moved between looks.

    Args:
        settings: where everything is.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._followers: dict[tuple[str, str], Follower] = {}
        self._seen_s, self._seen = -KEPT_S, dict[str, Any]()

    def look(self, now_s: float | None = None) -> dict[str, Any]:
        """How everything is; `parts` that do not answer are said, and what they would tell is left out."""
        with self._lock:
            moment_s = time.monotonic() if now_s is None else now_s
            if moment_s - self._seen_s >= KEPT_S:
                self._seen, self._seen_s = self._look(moment_s), moment_s
            return self._seen

    def _look(self, now_s: float) -> dict[str, Any]:
        settings = self._settings
        servers = settings.bootstrap_servers or Endpoints(settings.data_dir).find("kafka") or ""
        found: dict[str, Any] = {"services": {}, "tapes": {}, "lag": [], "gaps": [], "errors": []}
        try:
            known = status(settings)
            found |= {"services": known["services"], "tapes": known["tapes"]}
        except BarographError as error:
            found["errors"].append(str(error))
        tapes = TapeStore(object_store_at(settings.state_location))
        for manifest in [m for name in tapes.names() if (m := tapes.load(name)) and m.state != "deleted"]:
            if not servers:
                break
            try:
                found["lag"] += self._lag(servers, manifest, now_s)
                found["gaps"].append({"tape": manifest.tape, **gaps_of(servers, manifest)})
            except BarographError as error:
                found["errors"].append(str(error))
        return found

    def _lag(self, servers: str, manifest: Manifest, now_s: float) -> list[dict[str, Any]]:
        rows = []
        for line in manifest.lines:
            key = manifest.tape_id, line
            if key not in self._followers:
                self._followers[key] = Follower(servers, manifest, line, self._settings)
            rows += self._followers[key].look(now_s)
        return rows


def gaps_of(servers: str, manifest: Manifest) -> dict[str, Any]:
    """How many gap records a tape has, and the newest of them.

    Raises:
        BarographError: the broker does not answer.
    """
    topic, count, newest = GAPS.name(manifest.tape), 0, list[dict[str, Any]]()
    for partition in range(manifest.partitions):
        with closing(consumer(servers)) as client:
            low, high = watermarks(client, topic, partition)
        count += high - low
        for message in read_range(servers, topic, partition, max(low, high - GAPS_SHOWN), high):
            with suppress(BarographError):
                newest.append(decode_avro("gap", message.value))
    return {"records": count, "newest": newest}
