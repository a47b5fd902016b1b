"""Pages of `docs/` that are made from the code: topics, settings, commands. `make docs` writes them, a test compares.

A page that is written by hand falls behind; a page that is generated and compared cannot.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click
import typer

from runtime.settings import Settings
from schemas import mbo
from schemas.columns import Column, row_dtype
from schemas.topics import CATALOGUE
from sinks.tables import TABLES

_NOTE: Final = "<!-- made by `make docs` from the code; edits here are lost -->\n"


def topics_page() -> str:
    """docs/topics.md: every topic, its configuration, its row."""
    lines = ["# Topics\n", _NOTE]
    lines.append("`T` is a tape, `L` a line. `barograph topics apply` makes them as declared here.\n")
    lines.append("| topic | key | value | producer | consumers |\n|---|---|---|---|---|")
    for spec in CATALOGUE:
        row = (f"`{spec.name('T', 'L')}`", spec.key, spec.value, spec.producer, ", ".join(spec.consumers))
        lines.append("| " + " | ".join(row) + " |")
    lines.append("\n## Configuration\n\n| topic | settings |\n|---|---|")
    for spec in CATALOGUE:
        settings = ", ".join(f"`{key}={value}`" for key, value in spec.config().items())
        lines.append(f"| `{spec.name('T', 'L')}` | {settings} |")
    lines.append("\n## Rows\n\n### `mbo`: DBN MBO records, 56 bytes\n")
    lines.append((mbo.__doc__ or "").split("\n\n", 2)[2].strip())
    for table in TABLES.values():
        lines += [] if table.raw else _columns(table.name, table.columns)
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """docs/settings.md: every setting, its variable, default and meaning."""
    lines = ["# Settings\n", _NOTE, "An option of the command line wins over the environment, the environment over the"]
    lines.append("default.\n\n| variable | default | meaning |\n|---|---|---|")
    for name, field in Settings.model_fields.items():
        default = str(field.default) or "(empty)"
        lines.append(f"| `BAROGRAPH_{name.upper()}` | `{default}` | {field.description} |")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """docs/commands.md: every command with its arguments and options."""
    from control.app import app

    lines = ["# Commands\n", _NOTE]
    lines.append("Exit codes: 0 done, 1 the answer is no, 2 bad usage or input, 3 a service is missing.\n")
    for path, command in _commands(typer.main.get_command(app), "barograph"):
        lines.append(f"## `{path}`\n\n{(command.help or '').strip()}\n")
        rows = [_parameter(p) for p in command.params if p.name != "help"]
        if rows:
            lines.append("| parameter | default | meaning |\n|---|---|---|")
            lines += rows
            lines.append("")
    return "\n".join(lines)


def _columns(title: str, columns: tuple[Column, ...]) -> list[str]:
    lines = [f"\n### `{title}`: {row_dtype(columns).itemsize:,} bytes a row\n"]
    lines.append("| column | type | unit | meaning |\n|---|---|---|---|")
    for c in columns:
        kind = f"{c.dtype}[{c.width}]" if c.width else c.dtype
        lines.append(f"| `{c.name}` | {kind} | {c.unit} | {c.doc} |")
    return lines


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(command, click.Group) or hasattr(command, "commands"):
        for name in sorted(command.commands):
            yield from _commands(command.commands[name], f"{path} {name}")
    elif not command.hidden:
        yield path, command


def _parameter(parameter: Any) -> str:
    is_option = parameter.param_type_name == "option"
    name = ", ".join(f"`{o}`" for o in parameter.opts) if is_option else f"`{parameter.name.upper()}`"
    default = parameter.default
    shown = "" if default is None or default is False or callable(default) else f"`{default}`"
    return f"| {name} | {shown} | {getattr(parameter, 'help', None) or ''} |"


PAGES: Final[dict[str, Callable[[], str]]] = {
    "topics.md": topics_page,
    "settings.md": settings_page,
    "commands.md": commands_page,
}


def write(folder: Path) -> None:
    """Write every generated page into `folder`."""
    for name, page in PAGES.items():
        (folder / name).write_text(page())


if __name__ == "__main__":
    write(Path("docs"))
