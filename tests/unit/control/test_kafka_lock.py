"""The committed lock, and what a damaged one leads to."""

import json
from pathlib import Path

import pytest

from control.embedded.kafka_lock import FILE, infra_dir, read_lock
from runtime.errors import InputError


def test_the_committed_lock_is_whole_and_names_no_address() -> None:
    lock = read_lock()
    artifacts = {jar.coordinate.split(":")[1] for jar in lock.jars}
    assert lock.version.startswith("4.")
    assert {"kafka_2.13", "kafka-clients", "kafka-server", "log4j-core", "log4j-slf4j-impl", "slf4j-api"} <= artifacts
    assert len({jar.file for jar in lock.jars}) == len(lock.jars)
    assert all(
        jar.coordinate.endswith(f":{lock.version}")
        for jar in lock.jars
        if jar.coordinate.startswith("org.apache.kafka:")
    )
    assert "://" not in (infra_dir() / FILE).read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../../evil.jar"},
        {"file": "noise.txt"},
        {"sha256": "00"},
        {"sha256": "g" * 64},
        {"size_bytes": 0},
        {"coordinate": "one:two"},
        {"unknown": 1},
    ],
)
def test_a_bad_entry_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    content = json.loads((infra_dir() / FILE).read_text())
    content["jars"][3].update(change)
    path = tmp_path / FILE
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="install the software again"):
        read_lock(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": "4.3.1"}', '{"version": "4.3.1", "jars": []}', "{"])
def test_what_is_no_lock_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text(text)
    with pytest.raises(InputError):
        read_lock(path)


def test_an_absent_lock_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_lock(tmp_path / FILE)
