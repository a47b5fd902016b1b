"""Verbs that move data: run, replay, up, demo."""

import json
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from control import options
from control.output import Output, fields, rows
from runtime.errors import AnswerIsNo
from schemas.units import PRICE_SCALE, UNDEF_PRICE

if TYPE_CHECKING:
    from control.pipeline import RunRequest

ReportFile = Annotated[Path | None, typer.Option("--report", help="file that takes the report as JSON")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (demo, up, run, replay):
        app.command(verb.__name__)(verb)


def run(
    files: options.Files,
    tape: options.MaybeTape = None,
    line: options.Line = "main",
    tick: options.Tick = None,
    speed: options.Speed = "max",
    replace: options.Replace = False,
    manifest: options.Manifest = None,
    partitions: options.Partitions = None,
    block_records: options.BlockRecords = None,
    report: ReportFile = None,
    bootstrap_servers: options.Bootstrap = None,
    clickhouse_url: options.ClickHouse = None,
    lake_url: options.Lake = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Run the whole pipeline on DBN files until all of it has arrived; ends by itself with a report."""
    from control import pipeline

    settings = options.settings(
        data_dir=data, bootstrap_servers=bootstrap_servers, clickhouse_url=clickhouse_url, lake_url=lake_url
    )
    out = Output(as_json)
    request = _request(files, tape, line, tick, speed, replace, manifest, partitions, block_records)
    made = pipeline.run(request, settings, out)
    if report is not None:
        _write(report, made)
    out.result(made, lambda console: _show(console, made))
    missing, duplicate = made["reconcile"]["missing"], made["reconcile"]["duplicate"]
    if missing or duplicate:
        raise AnswerIsNo(
            f"tape {made['tape']} has {missing} missing and {duplicate} duplicate rows in its stores",
            remedy="look at the sinks' logs; make the tape again with --replace",
        )


def replay(
    files: options.Files,
    tape: options.Tape,
    line: options.Line = "main",
    tick: options.Tick = None,
    speed: options.Speed = "1x",
    replace: options.Replace = False,
    manifest: options.Manifest = None,
    certificate: Annotated[Path | None, typer.Option("--certificate", help="file that takes a certificate")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="until the stages, which `up` runs, have computed it")] = False,
    partitions: options.Partitions = None,
    block_records: options.BlockRecords = None,
    bootstrap_servers: options.Bootstrap = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Publish DBN files on a tape at a chosen speed; `barograph up` on the same folder works on it.

    The certificate holds the raw side; with --wait also what the stages made of it, as that of `run`.
    """
    from control import pipeline

    settings, out = options.settings(data_dir=data, bootstrap_servers=bootstrap_servers), Output(as_json)
    request = _request(files, tape, line, tick, speed, replace, manifest, partitions, block_records)
    made = pipeline.replay(request, settings, out, wait=wait, certified=certificate is not None)
    if certificate is not None:
        _write(certificate, made["certificate"])
    out.result(made, lambda console: console.print(fields({k: v for k, v in made.items() if k != "certificate"})))


def up(
    tape: Annotated[list[str] | None, typer.Option("--tape", help="only these tapes; default: all open")] = None,
    bootstrap_servers: options.Bootstrap = None,
    clickhouse_url: options.ClickHouse = None,
    lake_url: options.Lake = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Keep everything running until Ctrl-C: broker, store, gateway, api, and the workers of every open tape."""
    from control.stack import Stack

    settings = options.settings(
        data_dir=data, bootstrap_servers=bootstrap_servers, clickhouse_url=clickhouse_url, lake_url=lake_url
    )
    out = Output(as_json)
    with Stack(settings, out, frozenset(tape) if tape else None) as stack:
        out.result({"console": stack.console_url, "kafka": stack.bootstrap_servers, "store": stack.store_url})
        stack.run(lambda: False)


def demo(
    seconds: Annotated[float | None, typer.Option("--seconds", min=1, help="length; default: until Ctrl-C")] = None,
    headless: Annotated[bool, typer.Option("--headless", help="do not open a browser")] = False,
    report: ReportFile = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="seed of the simulated market")] = 7,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Everything on, with a simulated market at real time on tape `demo`; prints the console's address."""
    from control import demo as demo_job

    settings, out = options.settings(data_dir=data), Output(as_json)
    made = demo_job.run(settings, out, seconds=seconds, seed=seed, open_browser=not headless)
    if report is not None:
        _write(report, made)
    out.result(made)


def _request(
    files: list[Path],
    tape: str | None,
    line: str,
    tick: str | None,
    speed: str,
    replace: bool,
    manifest: Path | None,
    partitions: int | None,
    block_records: int | None,
) -> "RunRequest":
    from control import pipeline

    factor = options.speed(speed)
    return pipeline.RunRequest(
        files=files,
        tape=None if tape is None else options.legal("tape", tape),
        line=options.legal("line", line),
        tick_px=options.tick_px(tick),
        speed=math.inf if factor is None else factor,
        replace=replace,
        expected=pipeline.load_expected(manifest),
        partitions=partitions,
        block_records=block_records,
    )


def _show(console: Console, made: dict[str, Any]) -> None:
    """A report for people."""
    body: list[tuple[Any, ...]] = []
    for name, i in made["instruments"].items():
        touch = (_px(i["best_bid_px"]), _px(i["best_ask_px"]))
        body.append((name, i["records"], i["bins"], *touch, i["orders"], i["book_digest"][:12]))
    console.print(rows(("instrument", "records", "bins", "best bid", "best ask", "orders", "book digest"), body))
    body = [(topic, t["messages"], t["records"], t["bytes"]) for topic, t in made["topics"].items()]
    console.print(rows(("\ntopic", "\nmessages", "\nrecords", "\nbytes"), body))
    store, lake, found = made["store"], made["lake"], made["reconcile"]
    console.print(f"\nrows in ClickHouse {store}, in the lake {lake}")
    console.print(f"reconcile: {found['missing']} missing, {found['duplicate']} duplicate")
    console.print(f"bins sha256 {made['bins']['sha256']}")
    console.print(f"run {made['certificate']['run']}, certificate {made['certificate']['sha256']}")
    console.print(f"{made['seconds']['total']:.1f} s; try: barograph sql 'SELECT count() FROM bins'")


def _px(px: int) -> str:
    return "-" if px == UNDEF_PRICE else f"{px / PRICE_SCALE:,.9g}"


def _write(path: Path, value: dict[str, Any]) -> None:
    """A report appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)
