"""The cache of jars: whole or absent, repaired when damaged, safe with two processes, plain words without a network."""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import requests

from control.embedded import kafka_jars
from control.embedded.kafka_jars import JarsUnavailableError, bad_jars, cache_dir, ensure_jars, fetch_from_maven
from control.embedded.kafka_lock import Jar, KafkaLock, read_lock
from runtime.errors import InputError

CONTENT = {f"part-{i}.jar": f"content {i} ".encode() * (50 + i) for i in range(4)}
LOCK = KafkaLock(
    "4.0.0",
    tuple(
        Jar(f"org.example:part-{i}:1", name, len(data), hashlib.sha256(data).hexdigest())
        for i, (name, data) in enumerate(CONTENT.items())
    ),
)


class Registry:
    """Stands for the network: writes jars, counts requests, fails where told."""

    def __init__(self, wrong: str = "", absent: str = "", delay_s: float = 0.0) -> None:
        self.wrong, self.absent, self.delay_s = wrong, absent, delay_s
        self.asked: list[str] = []

    def __call__(self, jars: Sequence[Jar], folder: Path, count: Callable[[int], None]) -> None:
        for jar in jars:
            time.sleep(self.delay_s)
            self.asked.append(jar.file)
            if jar.file == self.absent:
                raise ConnectionError(101, "Network is unreachable")
            data = CONTENT[jar.file] if jar.file != self.wrong else b"x" * jar.size_bytes
            (folder / jar.file).write_bytes(data)
            count(jar.size_bytes)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_the_first_time_fetches_all_and_the_second_nothing(tmp_path: Path) -> None:
    registry, steps = Registry(), []
    paths = ensure_jars(LOCK, tmp_path, lambda done, total: steps.append((done, total)), registry)
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    assert steps[-1] == (LOCK.size_bytes, LOCK.size_bytes)
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    assert ensure_jars(LOCK, tmp_path, None, Registry(absent="part-0.jar")) == paths  # offline now
    assert files(tmp_path) == set(CONTENT)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_jar_is_noticed_and_it_alone_is_fetched_again(damage: str, tmp_path: Path) -> None:
    victim = ensure_jars(LOCK, tmp_path, None, Registry())[2]
    data = victim.read_bytes()
    if damage == "remove":
        victim.unlink()
    else:
        victim.write_bytes(data[:-1] + b"?" if damage == "flip" else data[:-1])
    assert [jar.file for jar in bad_jars(LOCK, victim.parent)] == [victim.name]
    registry = Registry()
    ensure_jars(LOCK, tmp_path, None, registry)
    assert registry.asked == [victim.name]
    assert victim.read_bytes() == data


def test_without_a_network_and_a_cache_one_sentence_and_nothing_half_done(tmp_path: Path) -> None:
    with pytest.raises(JarsUnavailableError) as caught:
        ensure_jars(LOCK, tmp_path, None, Registry(absent="part-2.jar"))
    assert caught.value.exit_code == 3
    assert str(caught.value) == (
        f"4 jars of the embedded Kafka are not in {tmp_path / '4.0.0'} and cannot be fetched (network is unreachable); "
        "connect to the network once, or use a running Kafka with --bootstrap-servers"
    )
    assert files(tmp_path) == set()


def test_what_a_killed_download_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".fetch-dead").mkdir()
    (tmp_path / ".fetch-dead" / "part-0.jar").write_bytes(b"half")
    ensure_jars(LOCK, tmp_path, None, Registry())
    assert files(tmp_path) == set(CONTENT)
    assert not (tmp_path / ".fetch-dead").exists()


def test_a_jar_that_comes_with_another_hash_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(JarsUnavailableError, match=r"part-1\.jar came with a wrong sha256"):
        ensure_jars(LOCK, tmp_path, None, Registry(wrong="part-1.jar"))
    assert files(tmp_path) == set()


def test_two_at_the_same_time_fetch_once(tmp_path: Path) -> None:
    registry = Registry(delay_s=0.05)
    threads = [threading.Thread(target=ensure_jars, args=(LOCK, tmp_path, None, registry)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(registry.asked) == sorted(CONTENT)
    assert bad_jars(LOCK, tmp_path / LOCK.version) == []


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        ensure_jars(LOCK, tmp_path / "file" / "cache", None, Registry())


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "barograph" / "kafka"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/invalid")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "barograph" / "kafka"


def test_a_dead_network_is_said_within_seconds_and_without_addresses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The real way through jgo, with every connection sent to a port where nobody listens."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    before = time.monotonic()
    with pytest.raises(JarsUnavailableError) as caught:
        ensure_jars(read_lock(), tmp_path, None, fetch_from_maven)
    assert time.monotonic() - before < 6 * kafka_jars.FETCH_TIMEOUT_S
    assert caught.value.reason == "connection refused"
    assert "http" not in str(caught.value)
    assert files(tmp_path) == set()


def test_a_registry_without_the_jar_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def not_found(*_args: object, **_options: object) -> requests.Response:
        response = requests.Response()
        response.status_code = 404
        return response

    monkeypatch.setattr("jgo.util.http.get", not_found)
    with pytest.raises(JarsUnavailableError, match="the registry does not have one of them"):
        ensure_jars(LOCK, tmp_path, None, fetch_from_maven)
