"""Verbs of daily work: status, doctor, reconcile."""

from dataclasses import asdict, replace
from typing import Annotated

import typer

from control import options
from control.commands.processes import until_signal
from control.output import Output, rows
from runtime.errors import AnswerIsNo, UsageError
from runtime.lifeline import watch_lifeline
from runtime.object_store import ObjectStore, object_store_at
from runtime.tapes import Deletion, Manifest
from runtime.telemetry import serve_metrics


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (status, doctor, reconcile):
        app.command(verb.__name__)(verb)


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
    tape: Annotated[str | None, typer.Option("--tape", help="tape or alias; with --watch: default all")] = None,
    line: options.ReadLine = None,
    watch: Annotated[bool, typer.Option("--watch", help="compare again and again until Ctrl-C")] = False,
    every: Annotated[float, typer.Option("--every", min=0.1, help="seconds between two looks of --watch")] = 30.0,
    bootstrap_servers: options.Bootstrap = None,
    clickhouse_url: options.ClickHouse = None,
    lake_url: options.Lake = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Compare a tape's topics with ClickHouse and the lake, row by row; exit code 1 if they differ.

    `--watch` reads what came since the last look, and everything once an hour. Rows that a sink has not reached yet
    wait; they are not missing. Counts are at BAROGRAPH_METRICS_PORT.
    """
    from control.reconciler import Reconciler, compare
    from control.services import Services

    given = options.settings(
        data_dir=data, bootstrap_servers=bootstrap_servers, clickhouse_url=clickhouse_url, lake_url=lake_url
    )
    out = Output(as_json)
    if tape is None and not watch:
        raise UsageError("--tape is missing", remedy="name one, or watch all with --watch")
    if watch:
        watch_lifeline()
        serve_metrics(given.metrics_port)
        with Services(given, out, lasting=True) as services:
            Reconciler(given, services.kafka(), services.store(), out).watch(tape, line, every, until_signal())
        return
    manifest, line = options.place(given, str(tape), line)
    with Services(given, out) as services:
        report, pending = compare(manifest, line, given, services)
    found = {"missing": report.missing, "duplicate": report.duplicate, **asdict(report)}
    titles = ("table", "topic rows", "store rows", "lake rows", "missing", "duplicate")
    body = [(n, t.topic_rows, t.store_rows, t.lake_rows, t.all_missing, t.duplicate) for n, t in report.tables.items()]
    out.result(found, lambda console: console.print(rows(titles, body)))
    if pending:
        raise AnswerIsNo(
            f"the stages of tape {tape} have {pending} raw message(s) before them",
            remedy="let `barograph up` or `run` finish the tape first",
        )
    if report.damaged:
        raise AnswerIsNo(
            f"tape {tape} has {len(report.damaged)} damaged lake object(s), the first is {report.damaged[0]}",
            remedy="delete them and make the tape again with --replace, or restore them from a copy",
        )
    if not report.clean:
        if broken_off(object_store_at(given.state_location), manifest):
            raise AnswerIsNo(
                f"a deletion in tape {tape} was broken off: {report.duplicate} rows or messages of it are still there",
                remedy="call the same `barograph tape delete` again, which ends it",
            )
        raise AnswerIsNo(
            f"tape {tape} has {report.missing} missing and {report.duplicate} duplicate rows",
            remedy="start its sinks again; topics that the broker lost come back with `barograph tape backfill`",
        )


def broken_off(states: ObjectStore, manifest: Manifest) -> bool:
    """Whether a deletion of a part of a tape was noted in its manifest and not ended: some of it is still there."""
    from control.tape_delete import unfinished_records

    noted = {replace(deletion, at="") for deletion in manifest.deletions}
    return any(
        all(replace(Deletion(**given), at="") in noted for given in record["ranges"])
        for record in unfinished_records(states, manifest)
    )
