"""Verbs on dead letters: `dlq list|show|replay`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from control import options
from control.output import Output, fields, plain, rows
from runtime.errors import UsageError
from runtime.object_store import object_store_at
from runtime.tapes import TapeStore

dlq_app = typer.Typer(help="Dead letters: messages that a stage had to leave out.", no_args_is_help=True)

Stage = Annotated[str | None, typer.Option("--stage", help="only what this stage left out")]
LetterId = Annotated[str, typer.Argument(help="id of the letter, or its first digits")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.add_typer(dlq_app, name="dlq")


@dlq_app.command("list")
def list_letters(
    tape: options.ReadTape,
    line: Annotated[str | None, typer.Option("--line", help="only this line; default: the alias's, or all")] = None,
    stage: Stage = None,
    bootstrap_servers: options.Bootstrap = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """List the dead letters of a tape, each once."""
    from control.dead_letters import ID_SHOWN, read_letters, unique
    from control.services import Services

    settings, out = options.settings(data_dir=data, bootstrap_servers=bootstrap_servers), Output(as_json)
    tapes = TapeStore(object_store_at(settings.state_location))
    manifest, named = tapes.resolve(tape, line)
    wanted = named if line or tape in tapes.aliases() else None
    with Services(settings, out) as services:
        found = [letter.brief() for letter in unique(read_letters(services.kafka(), manifest), wanted, stage)]
    titles = ("id", "line", "stage", "topic", "partition", "offset", "seq", "instrument", "bytes", "attempts", "reason")
    body = [(f["id"][:ID_SHOWN], *(_cell(f[title]) for title in titles[1:])) for f in found]
    if not found:
        out.note(f"tape {manifest.tape} has no dead letters")
    out.result(found, (lambda console: console.print(rows(titles, body))) if found else (lambda _: None))


def _cell(value: int | str) -> int | str:
    return plain(value) if isinstance(value, str) else value


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
        object_store_at(value.parent).put(value.name, found.value)
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
    """Compute again what was skipped: on a new line (--to-line), or on a new tape with corrected bytes (--to-tape)."""
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
