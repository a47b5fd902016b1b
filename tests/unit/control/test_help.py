"""`--help` of every command: it is shown, and shows all that was written."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from control.app import app


def commands(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The way to every command and group."""
    yield path
    for name, child in getattr(node, "commands", {}).items():
        yield from commands(child, (*path, name))


@pytest.mark.parametrize("path", list(commands(typer.main.get_command(app))), ids=" ".join)
def test_help_shows_all_that_was_written(path: tuple[str, ...]) -> None:
    node: Any = typer.main.get_command(app)
    for name in path:
        node = node.commands[name]
    shown = CliRunner(env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"}).invoke(app, [*path, "--help"])
    assert shown.exit_code == 0, shown.exception
    for parameter in node.params:
        help_text = (getattr(parameter, "help", None) or "").partition("[")
        assert help_text[0] in shown.output
        assert not help_text[1], "what stands in brackets is taken for markup"
