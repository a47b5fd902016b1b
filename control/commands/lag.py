"""Verb of keeping up: lag."""

import time
from contextlib import ExitStack, closing
from typing import Annotated, Any, Final

import typer
from rich.live import Live
from rich.table import Table

from control import options
from control.output import Output, rows
from runtime.errors import AnswerIsNo, UsageError
from runtime.object_store import object_store_at
from runtime.tapes import Manifest, TapeStore

WATCH_EVERY_S: Final = 2.0
"""Between two looks of `lag --watch`: ten of them, a full window of the rules, are 18 s."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("lag")(lag)


def lag(
    tape: Annotated[str | None, typer.Option("--tape", help="tape or alias; default: every tape and line")] = None,
    line: Annotated[
        str | None, typer.Option("--line", help="only this line; default: the alias's, or main of --tape")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="look every 2 s until Ctrl-C")] = False,
    bootstrap_servers: options.Bootstrap = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Show how far stages and sinks are behind, in messages and seconds; exit code 1 if one stands still.

    Two looks cannot tell a stall from a pause: where nothing moved between them the status is UNKNOWN. `--watch` looks
    on, and knows after 10 s.
    """
    from control.lag import Follower, once
    from control.services import Services

    settings, out = options.settings(data_dir=data, bootstrap_servers=bootstrap_servers), Output(as_json)
    if watch and as_json:
        raise UsageError("--watch and --json exclude each other", remedy="call `lag --json` again and again")
    places = _places(settings.state_location, tape, line)
    with Services(settings, out) as services, ExitStack() as stack:
        servers = services.kafka() if places else ""
        opened = [stack.enter_context(closing(Follower(servers, m, name, settings))) for m, name in places]
        if watch:
            with Live(console=out.console) as screen:
                while True:
                    now_s = time.monotonic()
                    screen.update(_lag_table([row for one in opened for row in one.look(now_s)]))
                    time.sleep(WATCH_EVERY_S)
        found = once(opened)
    out.result(found, lambda console: console.print(_lag_table(found)))
    bad = [row for row in found if row["status"] in ("STALLED", "STOPPED")]
    if bad:
        first = bad[0]
        raise AnswerIsNo(
            f"{first['consumer']} of tape {first['tape']} is {first['status'].lower()}, with {first['lag']} message(s) "
            f"before it in partition {first['partition']}",
            remedy="start `barograph up`, or look at the log of that process",
        )


def _places(state: str, tape: str | None, line: str | None) -> list[tuple[Manifest, str]]:
    tapes = TapeStore(object_store_at(state))
    if tape is not None:
        return [tapes.resolve(tape, line)]
    manifests = [tapes.require(name) for name in tapes.names()]
    return [(m, name) for m in manifests for name in m.lines if line in (None, name) and m.state != "deleted"]


def _lag_table(found: list[dict[str, Any]]) -> Table:
    colours = {"OK": "green", "WARN": "yellow", "UNKNOWN": "dim", "STALLED": "red", "STOPPED": "red"}
    keys = ("stream", "partition", "end", "position", "lag", "lag_records", "lag_s", "idle_s")
    body = []
    for r in found:
        place, name = f"{r['tape']}/{r['line']}", r["consumer"].partition(" ")[2]
        cells = ("-" if r[key] is None else r[key] for key in keys)
        body.append((place, name, *cells, f"[{colours[r['status']]}]{r['status']}[/]"))
    return rows(
        ("tape/line", "consumer", "stream", "part", "end", "at", "lag", "records", "lag s", "idle s", "status"), body
    )
