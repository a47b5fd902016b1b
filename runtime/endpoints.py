"""Where the running parts of a data folder answer: `endpoints.json`.

Embedded parts take free ports, so something must say which. Whoever starts a part publishes its address, whoever needs
one looks it up; an address whose process is gone is not given out. Writers take a lock, readers need none (rename).
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

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

    def publish(self, name: str, address: str, pid: int | None = None) -> None:
        """Say that part `name` answers at `address` as long as process `pid` (default: this one) lives."""
        with self._locked() as entries:
            entries[name] = {"address": address, "pid": pid or os.getpid()}

    def withdraw(self, *names: str) -> None:
        """Forget the parts, if they are there."""
        with self._locked() as entries:
            for name in names:
                entries.pop(name, None)

    def find(self, name: str) -> str | None:
        """The address of a part whose process lives; None if there is none."""
        return self.all().get(name)

    def all(self) -> dict[str, str]:
        """Name → address of every part whose process lives."""
        return {n: str(e["address"]) for n, e in self._read().items() if _alive(int(str(e["pid"])))}

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


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
