"""Wrong usage: exit code 2, one sentence, and with `--json` the document that every other error has."""

import json
import sys
from pathlib import Path

import pytest

from control import cli


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code and what is printed."""
    monkeypatch.setattr(sys, "argv", ["barograph", *words])
    code = cli._run()
    return code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("grid", "F", "--json"), "Missing option '--out'"),
        (("book", "--json"), "Missing"),
        (("grid", "F", "--out", "o", "--radius", "3000", "--json"), "'--radius'"),
        (("grid", "F", "--strange", "--json"), "--strange"),
        (("grid", "F", "--out", "o", "--emission", "x", "--json"), "--emission x is not known"),
    ],
)
def test_wrong_usage(
    words: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(monkeypatch, capsys, *words)
    document = json.loads(out)
    assert (code, document["exit_code"]) == (2, 2)
    assert told in document["error"]
    assert err == f"barograph: {document['error']}; {document['remedy']}\n"
    assert ".;" not in err
    code, out, err = call(monkeypatch, capsys, *(w for w in words if w != "--json"))
    assert (code, out) == (2, "")
    assert told in err


@pytest.mark.parametrize(("made", "lack"), [(False, "is no folder"), (True, "has no bin/python")])
def test_peers_that_are_not_there_are_bad_usage_of_the_bench(
    made: bool, lack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "peers"
    if made:
        folder.mkdir()
    words = ("bench", "engine", "--quick", "--row", "book_l3_vs_nautilus", "--peers", str(folder))
    code, out, err = call(monkeypatch, capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"barograph: --peers {folder} {lack}; ")


@pytest.mark.parametrize("wrapped", [False, True])
def test_ctrl_c_is_an_exit_code_wherever_it_strikes(wrapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a class is being made, as in the first second of a program, Python wraps it in a RuntimeError."""

    def run() -> int:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            if not wrapped:
                raise
            raise RuntimeError("Error calling __set_name__") from error

    monkeypatch.setattr(cli, "_run", run)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 130


def test_other_errors_are_not_taken_for_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> int:
        raise ValueError("a fault of the program")

    monkeypatch.setattr(cli, "_run", run)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(ValueError, match="fault"):
        cli.main()
