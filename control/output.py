"""What a command shows: one result on standard output, progress and notices on standard error.

With `--json` the result is one JSON document and nothing else is printed. Progress bars appear only on a terminal and
only for work that takes longer than a moment.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from runtime.errors import BarographError

WIDTH: Final = 4_000
"""Characters of a line where no terminal sets them. What reads a pipe has no width, and half a cell is no cell."""

Advance = Callable[[int, int], None]
"""Called with (done, total)."""


class Output:
    """The voice of one command.

    Args:
        as_json: whether the result is for programs.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
        self.errors = Console(stderr=True, highlight=False)

    def result(self, value: Any, human: Callable[[Console], None] | None = None) -> None:
        """Show the result: as JSON, or by `human` (default: as a small table of its items)."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")
        elif human is not None:
            human(self.console)
        else:
            self.console.print(fields(value))

    def note(self, text: str) -> None:
        """A line for people while work goes on."""
        if not self.as_json:
            self.errors.print(text)

    @contextmanager
    def bar(self, title: str, unit: str = "") -> Iterator[Advance]:
        """A progress bar; silent when standard error is no terminal or the result is JSON."""
        if self.as_json or not self.errors.is_terminal:
            yield lambda _done, _total: None
            return
        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(40),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.errors, transient=True) as progress:
            task = progress.add_task(title, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total or None)


def fields(value: Mapping[str, Any]) -> Table:
    """A mapping as two columns; nested mappings are indented by a dotted name."""
    table = Table(show_header=False, box=None, pad_edge=False)

    def add(prefix: str, node: Any) -> None:
        if isinstance(node, Mapping):
            for key, child in node.items():
                add(f"{prefix}.{key}" if prefix else str(key), child)
        elif isinstance(node, list | tuple) and node and isinstance(node[0], Mapping):
            for index, child in enumerate(node):
                add(f"{prefix}.{index}", child)
        else:
            table.add_row(f"[dim]{escape(prefix)}[/dim]", f"{node:,}" if isinstance(node, int) else plain(node))

    add("", value)
    return table


def plain(value: Any) -> str:
    """A value that others gave, as it stands: what looks like markup is none, and nothing in it moves the cursor."""
    text = "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in str(value))
    return escape(text)


def rows(titles: Sequence[str], body: Sequence[Sequence[Any]]) -> Table:
    """Rows under titles; a text may hold rich's markup, so what others gave goes through `plain` first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title)
    for row in body:
        table.add_row(*(f"{cell:,}" if type(cell) is int else str(cell) for cell in row))
    return table


def show_error(error: BarographError, as_json: bool) -> None:
    """One sentence on standard error; with `--json` also a document on standard output."""
    if as_json:
        document = {"error": error.message, "remedy": error.remedy, "exit_code": error.exit_code}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    sys.stderr.write(f"barograph: {error}\n")
