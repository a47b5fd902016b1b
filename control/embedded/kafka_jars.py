"""The jars of the embedded broker on this machine: fetched once, hashed before every start.

They lie in the user's cache folder, so that projects share them and the second start needs no network. Hashing all of
them takes 0.1 s, so no record of earlier checks is kept that could be wrong. What is absent or damaged is fetched
through jgo (pure Python, no Maven) into a temporary folder, checked, and moved in by rename: a jar in the cache is
whole, and after a failure nothing new is there. A file lock makes a second process wait and then find the work done.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from control.embedded.kafka_lock import Jar, KafkaLock, sha256_of
from runtime.errors import InputError, MissingServiceError

OnProgress = Callable[[int, int], None]
"""Called from any thread with the bytes that have arrived and the bytes that will."""

Fetch = Callable[[Sequence[Jar], Path, Callable[[int], None]], None]
"""Puts jars into a folder under their file names and reports the bytes of each step; OSError or RuntimeError if not."""

FETCH_TIMEOUT_S: Final = 5
"""Longest silence of the registry, seconds. Someone waits for the first start: a dead network must be said soon, while
a slow answer of a loaded registry still counts."""

FETCH_THREADS: Final = 6
"""Downloads at a time. Latency rules with 46 small files; far more would look like an attack to the registry."""


class JarsUnavailableError(MissingServiceError):
    """The broker's jars are not in the cache and cannot be fetched.

    Args:
        count: how many are wanted.
        folder: the cache.
        reason: the first failure.
    """

    def __init__(self, count: int, folder: Path, reason: str) -> None:
        self.count, self.folder, self.reason = count, folder, reason
        super().__init__(
            f"{count} jars of the embedded Kafka are not in {folder} and cannot be fetched ({reason})",
            remedy="connect to the network once, or use a running Kafka with --bootstrap-servers",
        )


def cache_dir() -> Path:
    """The user's cache folder for Kafka versions: below XDG_CACHE_HOME, else `~/.cache`."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(configured) if Path(configured).is_absolute() else Path.home() / ".cache"
    return base / "barograph" / "kafka"


def bad_jars(lock: KafkaLock, folder: Path) -> list[Jar]:
    """The jars of the lock that are absent from `folder` or differ from their hash."""

    def is_good(jar: Jar) -> bool:
        path = folder / jar.file
        with contextlib.suppress(OSError):
            return path.stat().st_size == jar.size_bytes and sha256_of(path) == jar.sha256
        return False

    with ThreadPoolExecutor(4) as pool:
        return [jar for jar, good in zip(lock.jars, pool.map(is_good, lock.jars), strict=True) if not good]


def ensure_jars(
    lock: KafkaLock, cache: Path | None = None, on_progress: OnProgress | None = None, fetch: Fetch | None = None
) -> list[Path]:
    """The paths of all jars of the lock, each proved by its hash; fetches what is absent or damaged.

    Args:
        lock: what is wanted.
        cache: folder that holds one folder per version; default: `cache_dir()`.
        on_progress: called while bytes arrive; never called when nothing is fetched.
        fetch: how to get jars; default: `fetch_from_maven`.

    Raises:
        JarsUnavailableError: the network or the registry fails.
        InputError: the cache folder cannot be written.
    """
    cache = cache or cache_dir()
    folder = cache / lock.version
    if bad_jars(lock, folder):
        try:
            with _locked(cache):
                if wanted := bad_jars(lock, folder):  # another process may have fetched them while we waited
                    _fetch_into(folder, wanted, on_progress, fetch or fetch_from_maven)
        except (PermissionError, NotADirectoryError) as error:
            raise InputError(
                f"the cache folder {folder} cannot be written ({error.strerror})",
                remedy="set XDG_CACHE_HOME to a folder that can",
            ) from error
    return [folder / jar.file for jar in lock.jars]


def _fetch_into(folder: Path, wanted: Sequence[Jar], on_progress: OnProgress | None, fetch: Fetch) -> None:
    total, done, guard = sum(jar.size_bytes for jar in wanted), 0, threading.Lock()

    def count(size_bytes: int) -> None:
        nonlocal done
        with guard:
            before, done = done, min(done + size_bytes, total)
            if on_progress and done > before:
                on_progress(done, total)

    for abandoned in folder.parent.glob(".fetch-*"):  # of a process that was killed; we hold the lock
        shutil.rmtree(abandoned, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
        try:
            fetch(wanted, Path(scratch), count)
        except (OSError, RuntimeError) as error:
            raise JarsUnavailableError(len(wanted), folder, _in_short(error)) from error
        for jar in wanted:
            if sha256_of(Path(scratch) / jar.file) != jar.sha256:
                raise JarsUnavailableError(len(wanted), folder, f"{jar.file} came with a wrong sha256")
        folder.mkdir(exist_ok=True)
        for jar in wanted:
            (Path(scratch) / jar.file).replace(folder / jar.file)
    count(total)


def fetch_from_maven(jars: Sequence[Jar], folder: Path, count: Callable[[int], None]) -> None:
    """Fetch each coordinate, and nothing it depends on, from the repositories that jgo is set up for.

    Args:
        jars: what to fetch.
        folder: where to put it.
        count: told of the bytes of each step.

    Raises:
        OSError, RuntimeError: one of them cannot be had; the others are given up.
    """
    from jgo.config import GlobalSettings  # 0.3 s to import, and needed at the first start alone
    from jgo.maven import MavenContext, PythonResolver

    @contextlib.contextmanager
    def progress(_file: str, _size_bytes: int) -> Iterator[Callable[[int], None]]:
        yield count

    context = MavenContext(
        resolver=PythonResolver(progress_callback=progress),
        repo_cache=folder / "repository",
        remote_repos=GlobalSettings.load().repositories or None,
        timeout=FETCH_TIMEOUT_S,
    )

    def fetch(jar: Jar) -> None:
        group, artifact, version, *classifier = jar.coordinate.split(":")
        wanted: Any = context.project(group, artifact).at_version(version).artifact(*classifier)
        wanted.resolve().replace(folder / jar.file)

    pool = ThreadPoolExecutor(FETCH_THREADS)
    try:
        list(pool.map(fetch, jars))
    finally:
        pool.shutdown(cancel_futures=True)


def _in_short(error: Exception) -> str:
    """The innermost cause in a few words and without addresses: the outer ones repeat it around every address tried."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    if isinstance(cause, RuntimeError):
        return "the registry does not have one of them"
    if isinstance(cause, TimeoutError):
        return f"no answer within {FETCH_TIMEOUT_S} s"
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else type(cause).__name__
    return str(text).lower()


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
