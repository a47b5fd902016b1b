"""Objects under names: what a folder on this machine and a bucket have in common.

Names are relative paths with `/`. A put is all or nothing: readers see the old object or the new one, also after a
power cut (temporary file, fsync, rename, fsync of the folder). Names that start with a dot are never listed: they are
puts that did not finish.
"""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from runtime.errors import InputError, MissingServiceError


class ObjectStore(Protocol):
    """What the project needs of a store of objects."""

    def put(self, name: str, data: bytes) -> None:
        """Write or replace an object."""

    def put_new(self, name: str, data: bytes) -> bool:
        """Write an object only if none of that name exists; whether it was written."""

    def get(self, name: str) -> bytes | None:
        """The object's bytes, None if there is none."""

    def names(self, prefix: str = "") -> Iterator[str]:
        """Names that start with `prefix`, in order."""

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens if there is none."""


class FolderFullError(MissingServiceError, OSError):
    """A folder took no more bytes: no room, or a fault of its disk. What it held is unharmed.

    It is an `OSError` too, so whoever waits for a store to come back waits for this one.
    """

    def __init__(self, folder: Path, reason: str) -> None:
        self.folder, self.reason = folder, reason
        super().__init__(f"{folder} takes no more data ({reason.lower()})", remedy="make room there; work then goes on")


class LocalObjectStore:
    """Objects as files below a folder.

    Args:
        root: the folder; made when first written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Where an object lies.

        Raises:
            InputError: the name would leave the folder.
        """
        path = (self.root / name).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise InputError(f"object name {name!r} leads out of {self.root}", remedy="use a plain relative name")
        return path

    def put(self, name: str, data: bytes) -> None:
        """Write or replace an object durably.

        Raises:
            FolderFullError: there is no room.
        """
        path = self.path(name)
        temporary = self._write_temporary(path, data)
        os.replace(temporary, path)
        _sync_folder(path.parent)

    def put_new(self, name: str, data: bytes) -> bool:
        """Write an object durably unless it exists; whether it was written.

        Raises:
            FolderFullError: there is no room.
        """
        path = self.path(name)
        temporary = self._write_temporary(path, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        _sync_folder(path.parent)
        return True

    def get(self, name: str) -> bytes | None:
        """The object's bytes, None if there is none."""
        try:
            return self.path(name).read_bytes()
        except FileNotFoundError:
            return None

    def names(self, prefix: str = "") -> Iterator[str]:
        """Names that start with `prefix`, in order."""
        folder = self.root / prefix.rpartition("/")[0]
        found = (
            path.relative_to(self.root).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        )
        yield from sorted(name for name in found if name.startswith(prefix))

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens if there is none."""
        self.path(name).unlink(missing_ok=True)

    def _write_temporary(self, path: Path, data: bytes) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}"
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            temporary.unlink(missing_ok=True)  # half a file on a full disk would only make it fuller
            if error.filename is not None:  # it was not even opened, and the error says which
                raise
            raise FolderFullError(path.parent, error.strerror or "failed") from error
        return temporary


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: the folder's entry is data too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
