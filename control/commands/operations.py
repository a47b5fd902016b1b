"""Verbs of daily work: sql, status, doctor, reconcile."""

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from control import options
from control.output import Output, rows
from runtime.errors import AnswerIsNo, UsageError
from runtime.object_store import object_store_at


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (sql, status, doctor, reconcile):
        app.command(verb.__name__)(verb)


def sql(
    statement: Annotated[str, typer.Argument(help="a SELECT; tables: bins, trades, bars, mbo")],
    form: Annotated[str, typer.Option("--format", help="table, csv, parquet or arrow")] = "table",
    out_file: Annotated[Path | None, typer.Option("--out", help="file to write; default: standard output")] = None,
    clickhouse_url: options.ClickHouse = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Ask the store; opens it by itself when none runs."""
    from control import query
    from control.services import Services

    if form not in ("table", "csv", "parquet", "arrow"):
        raise UsageError(f"--format {form} is not known", remedy="use table, csv, parquet or arrow")
    out = Output(as_json)
    with Services(options.settings(data_dir=data, clickhouse_url=clickhouse_url), out) as services:
        answer = query.ask(services.store(), statement)
    if as_json:
        out.result(answer.to_pylist())
    else:
        query.write(answer, cast("Any", form), out_file)


def status(
    bootstrap_servers: options.Bootstrap = None, data: options.Data = None, as_json: options.Json = False
) -> None:
    """Show which parts run on the data folder, and how far each tape is."""
    from control import health

    settings, out = options.settings(data_dir=data, bootstrap_servers=bootstrap_servers), Output(as_json)
    out.result(health.status(settings))


def doctor(data: options.Data = None, as_json: options.Json = False) -> None:
    """Check whether this machine can run everything; exit code 1 if it cannot."""
    from control import health

    out = Output(as_json)
    findings = health.examine(options.settings(data_dir=data))
    marks = {"ok": "[green]ok[/green]", "warning": "[yellow]warning[/yellow]", "failed": "[red]failed[/red]"}
    body = [(f.check, marks[f.grade], f.detail, "" if f.grade == "ok" else f.remedy) for f in findings]
    out.result([asdict(f) for f in findings], lambda console: console.print(rows(("check", "", "", ""), body)))
    failed = [f for f in findings if f.grade == "failed"]
    if failed:
        raise AnswerIsNo(f"{len(failed)} check(s) failed: {failed[0].detail}", remedy=failed[0].remedy)


def reconcile(
    tape: options.ReadTape,
    line: options.ReadLine = None,
    bootstrap_servers: options.Bootstrap = None,
    clickhouse_url: options.ClickHouse = None,
    lake_url: options.Lake = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Compare a tape's topics with ClickHouse and the lake, row by row; exit code 1 if they differ."""
    from control.arrival import Arrival
    from control.services import Services, open_store
    from schemas.topics import DERIVED
    from sinks.reconcile import reconcile as reconcile_tape

    given = options.settings(
        data_dir=data, bootstrap_servers=bootstrap_servers, clickhouse_url=clickhouse_url, lake_url=lake_url
    )
    out = Output(as_json)
    manifest, line = options.place(given, tape, line)
    with Services(given, out) as services:
        lake = object_store_at(given.lake_location)
        with closing(open_store(services.store())) as client:
            report = reconcile_tape(manifest, line, services.kafka(), client=client, lake=lake)
        with closing(Arrival(services.kafka(), manifest, line, given.state_dir)) as arrival:
            pending = max(arrival.published() - arrival.computed(spec) for spec in DERIVED)
    found = {"missing": report.missing, "duplicate": report.duplicate, **asdict(report)}
    titles = ("table", "topic rows", "store rows", "lake rows", "missing", "duplicate")
    body = [(n, t.topic_rows, t.store_rows, t.lake_rows, t.missing, t.duplicate) for n, t in report.tables.items()]
    out.result(found, lambda console: console.print(rows(titles, body)))
    if pending:
        raise AnswerIsNo(
            f"the stages of tape {tape} have {pending} raw message(s) before them",
            remedy="let `barograph up` or `run` finish the tape first",
        )
    if report.missing or report.duplicate:
        raise AnswerIsNo(
            f"tape {tape} has {report.missing} missing and {report.duplicate} duplicate rows",
            remedy="start its sinks again; if rows stay duplicate, make the tape again with --replace",
        )
