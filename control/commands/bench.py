"""Verb of measurement: bench."""

import os
from pathlib import Path
from typing import Annotated

import typer

from control import options
from control.output import Output
from runtime.errors import AnswerIsNo, UsageError

RUNS: int = 7
RUNS_QUICK: int = 1


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("bench")(bench)


def bench(
    name: Annotated[str, typer.Argument(help="which bench: engine, streams, replay, sinks, gateway")],
    row: Annotated[list[str] | None, typer.Option("--row", help="only these rows, by name or group")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="small and unjudged, to see that it runs")] = False,
    runs: Annotated[int | None, typer.Option("--runs", min=1, help="samples of each figure; default: 7")] = None,
    peers: Annotated[
        Path | None, typer.Option("--peers", help="environment of `make peers`; default: beside us")
    ] = None,
    market_data: Annotated[
        Path | None, typer.Option("--market-data", help="folder of real tapes; default: BAROGRAPH_DATA")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure, each figure beside its baseline; exit code 1 if a result is wrong or a gate is not reached."""
    from control.bench import catalogue, report
    from control.bench.peers import default_python
    from control.bench.session import Session

    if runs is not None and quick:
        raise UsageError("--runs and --quick exclude each other", remedy="give one of them")
    python = default_python(peers)
    if peers is not None and not python.exists():
        lack = "has no bin/python" if peers.is_dir() else "is no folder"
        raise UsageError(f"--peers {peers} {lack}", remedy="give the environment that `make peers` made")
    tapes = market_data or (Path(os.environ["BAROGRAPH_DATA"]) if os.environ.get("BAROGRAPH_DATA") else None)
    session = Session(
        runs=RUNS_QUICK if quick else runs or RUNS,
        quick=quick,
        market_data=tapes,
        peers=python,
    )
    wanted = [one for given in row or [] for one in given.split(",") if one]
    out = Output(as_json)
    with session, out.bar(f"bench {name}", "cases") as advance:
        result = catalogue.measure(name, wanted, session, advance)
    out.result(result, lambda console: report.show(console, result))
    if missed := [r["row"] for r in result["rows"] if r["judged"] and r["gate_met"] is False]:
        raise AnswerIsNo(f"{len(missed)} gate(s) not reached: {', '.join(missed)}")
