"""The embedded broker, real: life, death, and data that is older than any retention."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from control.embedded.folder_lock import FolderLock
from control.embedded.kafka import EmbeddedKafka
from control.embedded.kafka_jars import JarsUnavailableError
from runtime.errors import ChildFailedError, FolderInUseError, PortTakenError

pytestmark = pytest.mark.real

JUNE_2012_MS = 1_340_285_400_000
"""21 Jun 2012, 13:30 UTC."""

FOREVER = {"retention.ms": "-1", "retention.bytes": "-1", "message.timestamp.after.max.ms": str((1 << 63) - 1)}
"""What a tape's topics have; without it the broker deletes such old data."""

OWNER = """
import sys, time
from pathlib import Path
from control.embedded.kafka import EmbeddedKafka
broker = EmbeddedKafka(Path(sys.argv[1]))
broker.start()
print(broker.pid, broker.bootstrap_servers, flush=True)
time.sleep(120)
"""


def admin_of(broker: EmbeddedKafka) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})


def create(servers: str, name: str, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(name, 1, 1, config=config)])[name].result(20)


def publish(servers: str, topic: str, stamps_ms: list[int]) -> None:
    failures: list[object] = []
    producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True, "log_level": 3})
    for i, stamp_ms in enumerate(stamps_ms):
        producer.produce(
            topic, str(i), partition=0, timestamp=stamp_ms, on_delivery=lambda e, _m: failures.append(e) if e else None
        )
    assert producer.flush(30) == 0
    assert failures == []


def values(servers: str, topic: str, count: int) -> list[str]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "t", "enable.auto.commit": False, "log_level": 3})
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        return [str(m.value().decode()) for m in consumer.consume(count, timeout=20)]
    finally:
        consumer.close()


def watermarks(servers: str, topic: str) -> tuple[int, int]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "t", "log_level": 3})
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
        return int(low), int(high)
    finally:
        consumer.close()


def wait_until(condition: object, timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def javas_on(folder: Path) -> list[int]:
    """Java processes that work on this folder."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "java" and any(str(folder) in part for part in process.info["cmdline"] or ()):
            found.append(process.pid)
    return found


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", int, str]]:
    """A Python process that owns a broker on `tmp_path`; with the broker's pid and address."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        pid, servers = process.stdout.readline().split()
        yield process, int(pid), servers
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_topics_ports_and_cluster_survive_a_restart_and_a_stop_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedKafka(tmp_path) as broker:
        first = broker.bootstrap_servers
        create(first, "kept", **FOREVER)
        create(first, "gone")
        publish(first, "kept", [JUNE_2012_MS] * 3)
        assert list((tmp_path / "data").glob("gone-*"))
        admin = admin_of(broker)
        admin.delete_topics(["gone"])["gone"].result(20)
        wait_until(lambda: not list((tmp_path / "data").glob("gone-*")), 30, "a deleted topic keeps its disk")
        cluster_id = admin.list_topics(timeout=10).cluster_id
        pid = broker.pid
    assert pid is not None
    assert not psutil.pid_exists(pid)
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "--meant-for-another-program")
    with EmbeddedKafka(tmp_path, port=int(first.split(":")[1])) as broker:
        assert broker.bootstrap_servers == first
        assert admin_of(broker).list_topics(timeout=10).cluster_id == cluster_id
        assert values(first, "kept", 3) == ["0", "1", "2"]
        assert "Kafka Server started" in broker.log_path.read_text()
    assert javas_on(tmp_path) == []


def test_a_killed_owner_leaves_no_java_and_a_folder_that_starts_again(
    owner: tuple["subprocess.Popen[str]", int, str], tmp_path: Path
) -> None:
    process, pid, servers = owner
    create(servers, "kept", **FOREVER)
    publish(servers, "kept", [JUNE_2012_MS] * 5)
    assert javas_on(tmp_path) == [pid]
    process.kill()
    process.wait()
    wait_until(lambda: javas_on(tmp_path) == [], 10, "Java outlived its owner")
    with EmbeddedKafka(tmp_path) as again:
        assert again.bootstrap_servers == servers
        assert values(servers, "kept", 5) == ["0", "1", "2", "3", "4"]
    assert javas_on(tmp_path) == []


def test_a_folder_has_one_broker_which_ctrl_c_does_not_reach_before_its_owner(
    owner: tuple["subprocess.Popen[str]", int, str], tmp_path: Path
) -> None:
    process, pid, servers = owner
    with pytest.raises(
        FolderInUseError, match=rf"a Kafka broker \(process {process.pid}\) already runs on {tmp_path}; "
    ):
        EmbeddedKafka(tmp_path).start()
    assert javas_on(tmp_path) == [pid]
    assert AdminClient({"bootstrap.servers": servers}).list_topics(timeout=10).brokers
    assert os.getsid(pid) != os.getsid(process.pid)


def test_a_taken_port_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            PortTakenError, match=rf"^port {port} of 127\.0\.0\.1 is taken by another process; "
        ) as caught:
            EmbeddedKafka(tmp_path, port=port).start()
    assert caught.value.exit_code == 2
    assert javas_on(tmp_path) == []
    assert not (tmp_path / "data").exists()
    FolderLock(tmp_path, "a test").acquire()  # the folder was given back


def test_another_free_port_is_taken_when_the_chosen_one_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        broker = EmbeddedKafka(tmp_path)
        choose, chosen = broker._choose_ports, []

        def unlucky_once() -> tuple[int, int]:
            ports = choose()
            chosen.append(ports)
            return (taken.getsockname()[1], ports[1]) if len(chosen) == 1 else ports

        monkeypatch.setattr(broker, "_choose_ports", unlucky_once)
        with broker:
            assert len(chosen) == 2
            assert admin_of(broker).list_topics(timeout=10).brokers
    assert javas_on(tmp_path) == []


def test_no_network_and_no_cache_is_one_sentence_with_code_3_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens: every connection is refused
    broker = EmbeddedKafka(tmp_path / "kafka")
    with pytest.raises(JarsUnavailableError) as caught:
        broker.start()
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.jar"))
    assert not (tmp_path / "kafka").exists()


def test_a_broker_that_cannot_start_says_where_its_log_is(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()  # formatted for another node than ours
    meta = "version=1\nnode.id=7\ncluster.id=AAAAAAAAQACAAAAAAAAAAQ\ndirectory.id=BAAAAAAAQACAAAAAAAAAAQ\n"
    (tmp_path / "data" / "meta.properties").write_text(meta)
    broker = EmbeddedKafka(tmp_path)
    with pytest.raises(
        ChildFailedError, match=r"the Kafka broker left with code \d+ before it was ready; its log is "
    ) as e:
        broker.start()
    assert "node" in e.value.log_path.read_text()
    assert javas_on(tmp_path) == []


def test_data_of_2012_stays_whole_under_a_retention_check_each_second(kafka: str) -> None:
    """`kept` has the settings of a tape; `aged` lacks the one that matters, to show that the check does delete."""
    stamps_ms = [JUNE_2012_MS + i for i in range(200)] + [4_102_444_800_000]  # and one of the year 2100
    small = {"segment.bytes": "1048576", "file.delete.delay.ms": "1000"}
    create(kafka, "kept", **FOREVER, **small)
    create(kafka, "aged", **small, **{"retention.ms": "604800000"})
    publish(kafka, "kept", stamps_ms)
    publish(kafka, "aged", stamps_ms[:200])
    wait_until(lambda: watermarks(kafka, "aged")[0] == 200, 60, "the retention check deleted nothing")
    assert watermarks(kafka, "kept") == (0, 201)
    assert values(kafka, "kept", 201) == [str(i) for i in range(201)]


def test_a_topic_that_is_not_there_is_not_made_by_a_producer(kafka: str) -> None:
    failures: list[object] = []
    producer = Producer({"bootstrap.servers": kafka, "message.timeout.ms": 3000, "log_level": 0})
    producer.produce("misspelt", b"x", on_delivery=lambda error, _m: failures.append(error))
    producer.flush(20)
    assert failures[0] is not None
    assert "misspelt" not in AdminClient({"bootstrap.servers": kafka}).list_topics(timeout=10).topics


@pytest.mark.long
@pytest.mark.parametrize("after_s", [0.5, 1.0, 1.5, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_killed_at_any_moment_of_its_first_start_the_folder_starts_again(
    after_s: float, by: signal.Signals, tmp_path: Path
) -> None:
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.DEVNULL)
    time.sleep(after_s)
    process.send_signal(by)
    process.wait()
    wait_until(lambda: javas_on(tmp_path) == [], 10, "Java outlived its owner")
    with EmbeddedKafka(tmp_path) as broker:
        assert admin_of(broker).list_topics(timeout=10).brokers
