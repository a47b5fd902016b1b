"""The commands of README's section on what was recorded, run as they stand there."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]  # ten commands, a process each

SECTION = (
    (Path(__file__).parents[2] / "README.md").read_text().partition("## Ask, export, delete")[2].partition("\n## ")[0]
)
COMMANDS = [shlex.split(line, comments=True) for line in re.findall(r"^barograph (.*)$", SECTION, re.MULTILINE)]


def test_every_command_of_the_section_works(cli: Callable[..., Any], kafka: str, tmp_path: Path) -> None:
    assert len(COMMANDS) >= 7
    data, file = tmp_path / "data", tmp_path / "x.mbo.dbn.zst"
    broker = ["--bootstrap-servers", kafka]  # one for all of them; by itself each starts its own
    for words in (
        ["simulate", "--out", file, "--records", "1000", "--hours", "0.01"],
        ["run", file, "--tape", "mytape", "--data", data, *broker],
    ):
        done = cli(*words)
        assert done.returncode == 0, done.stderr
    for words in COMMANDS:
        out = [str(tmp_path / word) if word.endswith((".parquet", ".dbn.zst")) else word for word in words]
        out = [str(data / "lake") if word == "LAKE" else word for word in out]
        alone = words[0] == "sql" or words[:2] == ["tape", "compact"]
        done = cli(*out, "--data", data, *([] if alone else broker))
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    assert pl.read_parquet(tmp_path / "bins.parquet").height > 0
    assert pl.read_parquet(tmp_path / "hours.parquet").height > 0
