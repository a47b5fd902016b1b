"""Objects under names: what a folder on this machine and a bucket have in common.

Names are relative paths with `/`. A put is all or nothing: readers see the old object or the new one, also after a
power cut (temporary file, fsync, rename, fsync of the folder). Names that start with a dot are never listed: they are
puts that did not finish.

No object is ever uploaded in parts, whatever its size: a put is one request, so one that breaks off leaves nothing, and
there are no orphaned parts to be found and swept. On a folder the same break leaves a dot file; `sweep` removes those.

Whatever keeps a store from doing what it is asked (a full disk, no network, no permission) is an OSError; what the
stores below say of it is in its text. So callers tell "it cannot now" from "there is none" and from a bad name.
"""

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import from_url

from runtime.errors import InputError, MissingServiceError

REMOTE: Final = ("s3://", "gs://", "az://")
"""Schemes of stores that are reached over the network; everything else is a folder."""

RETRY: Final = {"max_retries": 5, "retry_timeout": timedelta(seconds=20)}
"""How long a remote store may be asked again before it counts as away. A checkpoint waits for it, and what is held in
memory meanwhile grows with the input; much less would make a slow bucket an error."""

ORPHAN_AGE_S: Final = 3600.0
"""Age at which a put that did not finish counts as given up. One that still runs is younger by far; sweeping it away
would only make its rename fail, and it would be done again."""

_TEMPORARY: Final = re.compile(r"\..+\.[0-9a-f]{12}")


class ObjectStore(Protocol):
    """What the project needs of a store of objects."""

    def put(self, name: str, data: bytes) -> None:
        """Write or replace an object."""

    def put_new(self, name: str, data: bytes) -> bool:
        """Write an object only if none of that name exists; whether it was written."""

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        """Replace an object only if it still is `old` (None: there is none); whether `new` stands there now."""

    def get(self, name: str) -> bytes | None:
        """The object's bytes, None if there is none."""

    def names(self, prefix: str = "") -> Iterator[str]:
        """Names that start with `prefix`, in order."""

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Names that start with `prefix`, in order, with the bytes of each."""

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

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        """Replace an object durably if it still is `old`; on a folder, whoever swaps holds a lock of its own."""
        if old is None:
            return self.put_new(name, new) or self.get(name) == new
        if self.get(name) != old:
            return self.get(name) == new
        self.put(name, new)
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

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Names that start with `prefix`, in order, with the bytes of each."""
        return {name: path.stat().st_size for name in self.names(prefix) if (path := self.path(name)).exists()}

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens if there is none."""
        self.path(name).unlink(missing_ok=True)

    def sweep(self, older_than_s: float = ORPHAN_AGE_S) -> int:
        """Remove what puts left that did not finish, if it is at least this old; how many files."""
        orphans = [p for p in self.root.rglob(".*") if _TEMPORARY.fullmatch(p.name) and p.is_file()]
        gone = [p for p in orphans if time.time() - p.stat().st_mtime >= older_than_s]
        for path in gone:
            path.unlink(missing_ok=True)
        return len(gone)

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
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary


class RemoteObjectStore:
    """Objects in a bucket: S3 and what speaks like it, GCS, Azure.

    Credentials, region and endpoint come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …), as with
    every other client of these stores, and never from a URL or a log line.

    Args:
        url: `s3://bucket/prefix`, `gs://…`, `az://…`.
        config: settings of the client beside those of the environment.
    """

    def __init__(self, url: str, **config: Any) -> None:
        self.url = url
        try:
            make: Any = from_url  # its overloads are one for each provider
            self._store: Any = make(
                url, retry_config=dict(RETRY), **config
            )  # options of ours would hide those of AWS_*
        except BaseError as error:
            raise InputError(f"{url} names no object store ({_said(error)})", remedy="see docs/settings.md") from error

    def put(self, name: str, data: bytes) -> None:
        """Write or replace an object."""
        with self._asking(name):
            obstore.put(self._store, _plain(name), data, use_multipart=False)

    def put_new(self, name: str, data: bytes) -> bool:
        """Write an object unless it exists (`If-None-Match: *`); whether it was written.

        After a lost answer the retry meets the object that the first try wrote: that is False too. So callers who want
        to know what stands read it.
        """
        with self._asking(name):
            try:
                obstore.put(self._store, _plain(name), data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
            return True

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        """Replace an object if it still is `old` (`If-Match`); whether `new` stands there now.

        After a lost answer the retry is refused, because the first try has changed the object; so what stands there is
        looked at before a refusal is believed.
        """
        if old is None:
            return self.put_new(name, new) or self.get(name) == new
        with self._asking(name):
            try:
                found = obstore.get(self._store, _plain(name))
                held = bytes(found.bytes())
                version = {k: found.meta[k] for k in ("e_tag", "version") if found.meta.get(k)}
            except (NotFoundError, FileNotFoundError):
                return False
            if held != old:
                return held == new
            try:
                obstore.put(self._store, _plain(name), new, mode=cast("Any", version), use_multipart=False)
            except PreconditionError:
                return self.get(name) == new
            return True

    def get(self, name: str) -> bytes | None:
        """The object's bytes, None if there is none."""
        with self._asking(name):
            try:
                return bytes(obstore.get(self._store, _plain(name)).bytes())
            except (NotFoundError, FileNotFoundError):
                return None

    def names(self, prefix: str = "") -> Iterator[str]:
        """Names that start with `prefix`, in order."""
        yield from self.sizes(prefix)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Names that start with `prefix`, in order, with the bytes of each."""
        with self._asking(prefix):
            folder = prefix.rpartition("/")[0]  # stores match whole path segments only
            found = {meta["path"]: meta["size"] for page in obstore.list(self._store, folder or None) for meta in page}
        shown = (n for n in sorted(found) if n.startswith(prefix) and not n.rpartition("/")[2].startswith("."))
        return {name: found[name] for name in shown}

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens if there is none."""
        with self._asking(name):
            try:
                obstore.delete(self._store, _plain(name))
            except (NotFoundError, FileNotFoundError):
                return

    @contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        try:
            yield
        except BaseError as error:
            raise OSError(f"{self.url}: {name}: {_said(error)}") from error


def object_store_at(location: str | Path) -> ObjectStore:
    """The store at a URL, or in a folder."""
    text = str(location)
    if text.startswith(REMOTE):
        return RemoteObjectStore(text)
    return LocalObjectStore(Path(text.removeprefix("file://")))


def _plain(name: str) -> str:
    """A name as it was given, unless it would leave the prefix."""
    if ".." in name.split("/") or name.startswith("/"):
        raise InputError(f"object name {name!r} leads out of the store", remedy="use a plain relative name")
    return name


def _said(error: Exception) -> str:
    """The first line of what a store says; the rest is its own traceback."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: the folder's entry is data too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
