"""Verbs of SQL: ask the store, bring its tables up to date."""

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from control import options
from control.output import Output
from runtime.errors import UsageError

LOOK_S = 0.5
"""How often the server is asked how far a query is: seldom enough to cost nothing, often enough to look alive."""


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (sql, migrate):
        app.command(verb.__name__)(verb)


def sql(
    statement: Annotated[str | None, typer.Argument(help="a SELECT; docs/sql.md has the tables and examples")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="file that holds the SELECT instead")] = None,
    param: Annotated[list[str] | None, typer.Option("--param", help="NAME=VALUE for {NAME:Type} in it")] = None,
    form: Annotated[str, typer.Option("--format", help="table, csv, parquet, arrow or json")] = "table",
    out_file: Annotated[Path | None, typer.Option("--out", help="file to write; default: standard output")] = None,
    lake: Annotated[bool, typer.Option("--lake", help="ask the Parquet lake instead, under the same names")] = False,
    lake_url: options.Lake = None,
    clickhouse_url: options.ClickHouse = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Ask the store; opens it by itself when none runs. Ctrl-C cancels the query on the server too."""
    from control import query
    from control.lake_views import lake_store
    from control.services import Services

    if form not in query.FORMATS:
        raise UsageError(f"--format {form} is not known", remedy=f"use {', '.join(query.FORMATS)}")
    if form in query.BINARY and out_file is None and not as_json and sys.stdout.isatty():
        raise UsageError(f"{form} is no text for a terminal", remedy="give --out FILE, or send it to a program")
    if (statement is None) == (file is None):
        raise UsageError("give a SELECT, or --file with one", remedy="see docs/sql.md")
    text = statement if statement is not None else _text_of(cast("Path", file))
    question = query.Question(text, query.parameters_of(param or [], text))
    out = Output(as_json)
    settings = options.settings(data_dir=data, clickhouse_url=clickhouse_url, lake_url=lake_url)
    with ExitStack() as parts:
        if lake:
            url = parts.enter_context(lake_store(settings.lake_location))
        else:
            url = parts.enter_context(Services(settings, out)).store()
        with _shown(out, url, question), query.asking(url, question) as answer:
            rows = query.write(answer, cast("Any", "json" if as_json else form), out_file)
    if out_file is not None:
        out.note(f"{rows:,} rows in {out_file}")


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is no text in UTF-8", remedy="give a file that holds one SELECT") from error


@contextmanager
def _shown(out: Output, url: str, question: Any) -> Iterator[None]:
    """How far the query is, on a terminal's standard error, until the `with` ends."""
    from control import query

    if not out.errors.is_terminal:
        yield
        return
    over = threading.Event()
    with out.bar("query", "rows read") as advance:

        def look() -> None:
            while not over.wait(LOOK_S):
                if (found := query.progress(url, question)) is not None:
                    advance(found.read_rows, found.total_rows)

        thread = threading.Thread(target=look, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(LOOK_S * 4)


def migrate(
    clickhouse_url: options.ClickHouse = None, data: options.Data = None, as_json: options.Json = False
) -> None:
    """Make the tables and views that the store lacks or has of an older release; a second time does nothing."""
    from control.services import Services, open_store
    from sinks.ddl import VIEWS, apply_ddl
    from sinks.tables import all_tables

    out = Output(as_json)
    with (
        Services(options.settings(data_dir=data, clickhouse_url=clickhouse_url), out) as services,
        closing(open_store(services.store())) as client,
    ):
        applied = apply_ddl(client)
    out.result({"tables": len(all_tables()), "views": len(VIEWS), "changed": list(applied.changed)})
