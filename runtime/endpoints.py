"""Where the running parts of a data folder answer: `endpoints.json`.

Embedded parts take free ports, so something must say which. Whoever starts a part publishes its address, whoever needs
one looks it up; an address whose process is gone is not given out. Writers take a lock, readers need none (rename).
"""

import fcntl
import ipaddress
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from runtime.object_store import LocalObjectStore

FILE: Final = "endpoints.json"


class Endpoints:
    """The addresses of one data folder.

    Args:
        data_dir: the folder (`.barograph` by default).
    """

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir
        self._store = LocalObjectStore(data_dir)

    def publish(self, name: str, address: str, pid: int | None = None, *, lasting: bool = True) -> None:
        """Say that part `name` answers at `address` as long as process `pid` (default: this one) lives.

        A part that was started for one command is not `lasting`: others may ask it, but must not build on it.
        """
        with self._locked() as entries:
            entries[name] = {"address": address, "pid": pid or os.getpid(), "lasting": lasting}

    def withdraw(self, *names: str) -> None:
        """Forget the parts, if they are there."""
        with self._locked() as entries:
            for name in names:
                entries.pop(name, None)

    def find(self, name: str, *, lasting: bool = False) -> str | None:
        """The address of a part whose process lives, on request only of a lasting one; None if there is none."""
        return self.all(lasting=lasting).get(name)

    def all(self, *, lasting: bool = False) -> dict[str, str]:
        """Name → address of every part whose process lives; on request of the lasting ones only."""
        living = {name: entry for name, entry in self._read().items() if _alive(int(str(entry["pid"])))}
        return {name: str(e["address"]) for name, e in living.items() if e.get("lasting", True) or not lasting}

    def _read(self) -> dict[str, dict[str, object]]:
        entries: dict[str, dict[str, object]] = json.loads(self._store.get(FILE) or b"{}")
        return entries

    @contextmanager
    def _locked(self) -> Iterator[dict[str, dict[str, object]]]:
        self._dir.mkdir(parents=True, exist_ok=True)
        with (self._dir / f".{FILE}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            entries = self._read()
            yield entries
            self._store.put(FILE, json.dumps(entries, indent=2).encode())


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def without_login(url: str) -> str:
    """An address as it may be shown: without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
