"""Verbs for when something is stuck or doubted: lag, dlq list|show|replay, certify."""

import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from control import options
from control.output import Output, fields, rows
from runtime.errors import AnswerIsNo, UsageError
from runtime.object_store import LocalObjectStore
from runtime.tapes import Manifest, TapeStore

if TYPE_CHECKING:
    from control.certificate import Difference
    from control.certify import FoundRow

dlq_app = typer.Typer(help="Dead letters: messages that a stage had to leave out.", no_args_is_help=True)

Stage = Annotated[str | None, typer.Option("--stage", help="only what this stage left out")]
LetterId = Annotated[str, typer.Argument(help="id of the letter, or its first digits")]

WATCH_EVERY_S = 2.0
"""Between two looks of `lag --watch`: ten of them fill the window of the rules in 20 s."""

DIFFERENCES_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("lag")(lag)
    app.command("certify")(certify)
    app.add_typer(dlq_app, name="dlq")


def lag(
    tape: Annotated[str | None, typer.Option("--tape", help="tape or alias; default: every tape and line")] = None,
    line: options.ReadLine = None,
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
    places = _places(settings.state_dir, tape, line)
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
            f"{first['consumer']} of tape {first['tape']} is {first['status'].lower()} {first['lag']} message(s) before "
            f"the end of partition {first['partition']}",
            remedy="start `barograph up`, or look at the log of that process",
        )


def _places(state_dir: Path, tape: str | None, line: str | None) -> list[tuple[Manifest, str]]:
    tapes = TapeStore(LocalObjectStore(state_dir))
    if tape is not None:
        return [tapes.resolve(tape, line)]
    manifests = [tapes.require(name) for name in tapes.names()]
    return [(m, name) for m in manifests for name in m.lines if line in (None, name) and m.state != "deleted"]


def _lag_table(found: list[dict[str, Any]]) -> Table:
    colours = {"OK": "green", "WARN": "yellow", "UNKNOWN": "dim", "STALLED": "red", "STOPPED": "red"}
    titles = ("tape", "line", "consumer", "stream", "partition", "end", "position", "lag", "lag s", "idle s", "status")
    keys = [title.replace(" ", "_") for title in titles[:-1]]
    body = [
        (*("-" if r[k] is None else r[k] for k in keys), f"[{colours[r['status']]}]{r['status']}[/]") for r in found
    ]
    return rows(titles, body)


@dlq_app.command("list")
def list_letters(
    tape: options.ReadTape,
    line: Annotated[str | None, typer.Option("--line", help="only this line [default: the alias's, or all]")] = None,
    stage: Stage = None,
    bootstrap_servers: options.Bootstrap = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """List the dead letters of a tape, each once."""
    from control.dead_letters import ID_SHOWN, read_letters, unique
    from control.services import Services

    settings, out = options.settings(data_dir=data, bootstrap_servers=bootstrap_servers), Output(as_json)
    tapes = TapeStore(LocalObjectStore(settings.state_dir))
    manifest, named = tapes.resolve(tape, line)
    wanted = named if line or tape in tapes.aliases() else None
    with Services(settings, out) as services:
        found = [letter.brief() for letter in unique(read_letters(services.kafka(), manifest), wanted, stage)]
    titles = ("id", "line", "stage", "topic", "partition", "offset", "seq", "instrument", "bytes", "attempts", "reason")
    body = [(f["id"][:ID_SHOWN], *(f[title] for title in titles[1:])) for f in found]
    if not found:
        out.note(f"tape {manifest.tape} has no dead letters")
    out.result(found, (lambda console: console.print(rows(titles, body))) if found else (lambda _: None))


@dlq_app.command("show")
def show_letter(
    letter: LetterId,
    tape: options.ReadTape,
    value: Annotated[Path | None, typer.Option("--value", help="file that takes the original bytes")] = None,
    bootstrap_servers: options.Bootstrap = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Show everything about a dead letter: headers, traceback, the first bytes of its value."""
    from control.dead_letters import find, hexdump, read_letters, unique
    from control.services import Services

    settings, out = options.settings(data_dir=data, bootstrap_servers=bootstrap_servers), Output(as_json)
    manifest, _ = options.place(settings, tape, None)
    with Services(settings, out) as services:
        found = find(unique(read_letters(services.kafka(), manifest)), letter)
    if value is not None:
        LocalObjectStore(value.parent).put(value.name, found.value)
    body = found.full()

    def show(console: Console) -> None:
        headers = {header["name"]: header["value"] for header in body["headers"]}
        console.print(fields({**{k: v for k, v in body.items() if k not in ("headers", "trace")}, "headers": headers}))
        console.print(f"\n{hexdump(found.value)}", markup=False)
        if found.trace:
            console.print(f"\n{found.trace}", markup=False)

    out.result({**body, "value_hex_head": found.value[:256].hex()}, show)


@dlq_app.command("replay")
def replay_letters(
    tape: options.ReadTape,
    line: options.ReadLine = None,
    to_line: Annotated[str | None, typer.Option("--to-line", help="new line of the tape, by this release")] = None,
    to_tape: Annotated[str | None, typer.Option("--to-tape", help="new tape, with corrected messages")] = None,
    replace_value: Annotated[
        list[str] | None, typer.Option("--replace-value", help="ID=FILE: these bytes take the place of the value")
    ] = None,
    leave_out: Annotated[list[str] | None, typer.Option("--leave-out", help="ID of a letter, or `all`")] = None,
    bootstrap_servers: options.Bootstrap = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Compute again what dead letters kept out: on a new line, or on a new tape with their bytes corrected."""
    from control import letter_replay
    from control.services import Services

    if (to_line is None) == (to_tape is None):
        raise UsageError("dlq replay needs one of --to-line and --to-tape", remedy="nothing is replayed in place")
    if to_line is not None and (replace_value or leave_out):
        raise UsageError(
            "a line reads the tape as it is, so no letter can be changed for it", remedy="use --to-tape NEW"
        )
    choice = letter_replay.Choice(_replacements(replace_value or []), tuple(leave_out or ()))
    settings, out = options.settings(data_dir=data, bootstrap_servers=bootstrap_servers), Output(as_json)
    manifest, line = options.place(settings, tape, line)
    with Services(settings, out, lasting=True) as services:
        servers = services.kafka()
        if to_line is not None:
            made = letter_replay.to_line(settings, servers, manifest, line, options.legal("line", to_line))
        else:
            new = options.legal("tape", to_tape or "")
            made = letter_replay.to_tape(settings, servers, manifest, line, new, choice, out)
    if made.get("same_run"):
        out.note("this release computes as the old line did: what it could not apply, it will leave out again")
    out.result(made)
    out.note(f"`barograph up --tape {made['tape']}` works on it")


def _replacements(given: list[str]) -> dict[str, Path]:
    pairs = [text.partition("=") for text in given]
    for text, (beginning, _, file) in zip(given, pairs, strict=True):
        if not beginning or not file:
            raise UsageError(f"--replace-value {text} is not ID=FILE", remedy="write for example 3fa9=fixed.bin")
    return {beginning: Path(file) for beginning, _, file in pairs}


def certify(
    report: Annotated[Path, typer.Argument(help="report of a run, or a certificate")],
    other: Annotated[Path | None, typer.Argument(help="a second one, to compare")] = None,
    bootstrap_servers: options.Bootstrap = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Verify a certificate against its seal and its tape, or compare two and show the first row that differs."""
    from control import certificate

    settings, out = options.settings(data_dir=data, bootstrap_servers=bootstrap_servers), Output(as_json)
    bodies = [certificate.read(path) for path in (report, other) if path is not None]
    if other is None:
        _verify_one(report, bodies[0], settings, out)
    else:
        _compare_two(bodies[0], bodies[1], settings, out)


def _verify_one(path: Path, body: Mapping[str, Any], settings: Any, out: Output) -> None:
    from control import certify as proof
    from control.services import Services

    objects = LocalObjectStore(settings.state_dir)
    manifest = proof.tape_of(body, TapeStore(objects))
    if manifest is None:
        out.note(
            f"tape {body.get('tape', 'of this certificate')} is not in this data folder: only the seal was verified"
        )
        out.result({"seal": "ok", "certificate": body["sha256"]})
        return
    with Services(settings, out) as services:
        streams, found = proof.against_tape(body, manifest, services.kafka(), objects, out)
    out.result({"seal": "ok", "certificate": body["sha256"], "tape": manifest.tape, "streams": streams})
    wrong = [name for name, state in streams.items() if state != "ok"]
    if wrong:
        raise AnswerIsNo(
            f"tape {manifest.tape} is not as {path} certifies it: {', '.join(wrong)} ({_told(found)})",
            remedy="the tape has grown or its topics were changed since",
        )


def _compare_two(left: Mapping[str, Any], right: Mapping[str, Any], settings: Any, out: Output) -> None:
    from control import certificate
    from control import certify as proof
    from control.services import Services

    found = certificate.differences(left, right)
    if not found:
        out.result(
            {"identical": True, "streams": sorted({*left["outputs"], *right["outputs"]})},
            lambda console: console.print(f"[green]identical[/green]: {_summary(left, right)}"),
        )
        return
    tapes = TapeStore(LocalObjectStore(settings.state_dir))
    manifests = [proof.tape_of(body, tapes) for body in (left, right)]
    row: FoundRow | None = None
    if manifests[0] is not None and manifests[1] is not None:
        with Services(settings, out) as services:
            row = proof.first_differing_row(
                manifests[0], str(left["line"]), manifests[1], str(right["line"]), found, services.kafka()
            )
    shown = {
        "identical": False,
        "differences": [{"what": d.what, "name": d.name, "left": d.left, "right": d.right} for d in found],
        "first": None if row is None else proof.row_to_dict(row),
        "config_differs": left["config"] != right["config"],
        "run_differs": left["run"] != right["run"],
    }
    out.result(shown, lambda console: _show_difference(console, found, row))
    raise AnswerIsNo(f"the two differ: {_told(found)}")


def _summary(left: Mapping[str, Any], right: Mapping[str, Any]) -> str:
    streams = ", ".join(left["outputs"]) or "raw records"
    runs = "one run" if left["run"] == right["run"] else f"runs {left['run']} and {right['run']}"
    return f"{streams} of {len(left['books'] or left.get('records', {}))} instrument(s), {runs}"


def _told(found: "list[Difference]") -> str:
    names = ", ".join(f"{d.what} of {d.name}" for d in found[:3])
    return names + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _show_difference(console: Console, found: "list[Difference]", row: "FoundRow | None") -> None:
    body = [(d.what, d.name, d.left[:16] or "-", d.right[:16] or "-") for d in found[:DIFFERENCES_SHOWN]]
    console.print(rows(("differs", "of", "first", "second"), body))
    if row is None:
        console.print("\nboth tapes must be in this data folder to show the first row that differs")
        return
    difference = row.difference
    where = f"bin_seq {difference.value('bin_seq')}" if row.stream == "bins" else f"row {difference.row}"
    console.print(f"\nfirst difference: {row.stream} of {row.instrument}, {where}, ts {row.ts_ns} ns")
    if not difference.columns:
        side = "first" if difference.left is None else "second"
        console.print(f"the {side} ends before this row")
        return
    columns = [
        (c.column if c.element < 0 else f"{c.column}[{c.element}] (+{c.elements - 1})", repr(c.left), repr(c.right))
        for c in difference.columns
    ]
    console.print(rows(("column", "first", "second"), columns))
