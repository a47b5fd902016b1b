"""Settings of the embedded broker that something else relies on."""

from pathlib import Path

from control.embedded.kafka_config import broker_properties, java_command, render
from schemas.topics import MESSAGE_BYTES_MAX


def test_what_others_rely_on() -> None:
    properties = broker_properties(Path("/d"), 9001, 9002, retention_check_ms=1000)
    assert properties["listeners"] == "PLAINTEXT://127.0.0.1:9001,CONTROLLER://127.0.0.1:9002"
    assert int(properties["message.max.bytes"]) >= MESSAGE_BYTES_MAX
    assert int(properties["replica.fetch.max.bytes"]) >= MESSAGE_BYTES_MAX
    assert properties["auto.create.topics.enable"] == "false"
    assert properties["log.retention.check.interval.ms"] == "1000"
    assert "log.retention.check.interval.ms" not in broker_properties(Path("/d"), 9001, 9002)


def test_nothing_listens_beyond_this_machine() -> None:
    text = render(broker_properties(Path("/d"), 9001, 9002))
    assert "0.0.0.0" not in text
    assert all("127.0.0.1" in line for line in text.splitlines() if "://" in line or "@" in line)


def test_a_backslash_in_a_path_is_kept() -> None:
    assert render({"log.dirs": "C:\\data"}) == "log.dirs=C:\\\\data\n"
    assert render({"log.dirs": "/d ü/😀"}) == "log.dirs=/d \\u00fc/\\ud83d\\ude00\n"


def test_the_heap_and_the_log_are_set() -> None:
    command = java_command(Path("/jre/java"), [Path("/a.jar"), Path("/b.jar")], Path("/d"), Path("/l.xml"), 256)
    assert command[0] == "/jre/java"
    assert "-Xmx256m" in command
    assert "-Dbarograph.log=/d/log/server.log" in command
    assert command[-2:] == ["-cp", "/a.jar:/b.jar"]
