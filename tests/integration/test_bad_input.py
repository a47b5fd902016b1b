"""Bad input of every kind: one sentence, the right exit code, nothing published, nothing left running."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control import cli as command_line
from tests.integration.conftest import SAMPLE, left_over

pytestmark = pytest.mark.real


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: object) -> tuple[int, str]:
    """Run the command line in this process: exit code, and standard error."""
    monkeypatch.setattr("sys.argv", ["barograph", *map(str, args)])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as left:
        command_line.main()
    return int(left.value.code or 0), capsys.readouterr().err


def cut(tmp_path: Path) -> Path:
    path = tmp_path / "cut.dbn.zst"
    path.write_bytes(SAMPLE.read_bytes()[:-1])
    return path


def text(tmp_path: Path) -> Path:
    path = tmp_path / "notes.dbn"
    path.write_text("these are not the records you are looking for")
    return path


def empty(tmp_path: Path) -> Path:
    path = tmp_path / "empty.dbn"
    path.touch()
    return path


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "cut": (cut, "is cut"),
    "text": (text, "is not a DBN file"),
    "empty": (empty, "is empty"),
    "missing": (lambda tmp: tmp / "nothing.dbn", "does not exist"),
    "folder": (lambda tmp: tmp, "is a folder"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("verb", ["verify", "inspect", "run", "grid", "book"])
def test_a_bad_file_is_one_sentence(
    what: str, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, words = BAD[what]
    data = tmp_path / "data"
    more = {"run": ["--data", data], "grid": ["--out", tmp_path / "g"], "book": ["--out", tmp_path / "b"]}
    code, error = call(capsys, monkeypatch, verb, make(tmp_path), *more.get(verb, []))
    assert code == 2
    assert words in error
    assert error.count("\n") == 1
    assert error.startswith("barograph: ")
    assert not (data / "kafka").exists(), "nothing may be started for a bad file"
    assert not (tmp_path / "b").exists()
    assert left_over(data) == []


@pytest.mark.data
def test_another_schema_is_refused_where_mbo_is_needed(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = data_dir / "dbn" / "naut_futures_mbp-1_20240701.dbn.zst"
    code, error = call(capsys, monkeypatch, "run", file, "--data", tmp_path / "d")
    assert code == 2
    assert "holds mbp-1 records; barograph replays mbo" in error


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run", str(SAMPLE), "--tape", "Not Legal"], "cannot name a tape"),
        (["run", str(SAMPLE), "--tick", "free"], "is no tick size"),
        (["run", str(SAMPLE), "--speed", "fast"], "is no speed"),
        (["grid", str(SAMPLE), "--out", "x", "--cell", "soon"], "is no width"),
        (["grid", str(SAMPLE), "--out", "x", "--gold", "--gold-state-table", "new"], "use symmetric or original"),
        (["grid", str(SAMPLE), "--out", "x", "--gold-state-table", "original"], "add --gold"),
        (["stage", "cook", "--tape", "t"], "there is no stage 'cook'"),
        (["tape", "show", "nothing"], "there is no tape 'nothing'"),
        (["nonsense"], "nonsense"),
        (["run"], "Missing argument 'files'"),
    ],
)
def test_bad_usage(
    args: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAROGRAPH_DATA_DIR", str(tmp_path))
    code, error = call(capsys, monkeypatch, *args)
    assert code == 2
    assert words in error


@pytest.mark.parametrize("verb", ["broker", "store", "api"])
def test_a_taken_port_is_one_sentence(verb: str, cli: Callable[..., Any], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = cli(verb, "--port", port, "--data", tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"port {port}" in done.stderr
    assert "taken" in done.stderr
    assert "Traceback" not in done.stderr
    assert left_over(tmp_path) == []


def test_no_network_on_the_first_start(cli: Callable[..., Any], tmp_path: Path) -> None:
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "no_proxy": "", "NO_PROXY": ""}
    done = cli("run", SAMPLE, "--data", tmp_path / "data", env={**os.environ, **nowhere, **cache})
    assert done.returncode == 3, done.stderr
    assert "Kafka" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "cache").rglob("*.jar"))
    assert left_over(tmp_path) == []


def test_settings_out_of_range(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, error = call(capsys, monkeypatch, "broker", "--port", "99999", "--data", tmp_path)
    assert (code, error.count("\n")) == (2, 1)
    assert "kafka_port cannot be 99999" in error
    monkeypatch.setenv("BAROGRAPH_PARTITIONS", "many")
    code, error = call(capsys, monkeypatch, "tape", "list")
    assert code == 2
    assert "BAROGRAPH_PARTITIONS" in error


def test_a_missing_broker_is_named(cli: Callable[..., Any], tmp_path: Path) -> None:
    done = cli("run", SAMPLE, "--bootstrap-servers", "127.0.0.1:9", "--data", tmp_path)
    assert done.returncode == 3
    assert "no Kafka broker answers at 127.0.0.1:9" in done.stderr
