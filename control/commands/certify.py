"""Verb of proof: certify."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from control import options
from control.output import Output, rows
from runtime.errors import AnswerIsNo
from runtime.object_store import object_store_at
from runtime.tapes import TapeStore

if TYPE_CHECKING:
    from control.certificate import Difference
    from control.certify import FoundRow
    from control.services import Services

DIFFERENCES_SHOWN: Final = 20
"""Lines of the table of differences: a screen."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("certify")(certify)


def certify(
    subject: Annotated[str, typer.Argument(help="report, certificate, or TAPE or TAPE/LINE as it is now")],
    other: Annotated[str | None, typer.Argument(help="a second one, to compare")] = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="file that takes the certificate of TAPE")] = None,
    bootstrap_servers: options.Bootstrap = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Verify a certificate against its seal and its tape, or compare two and show the first row that differs."""
    from control.services import Services

    settings, out = options.settings(data_dir=data, bootstrap_servers=bootstrap_servers), Output(as_json)
    with Services(settings, out) as services:  # starts nothing unless a topic has to be read
        left = _certificate(subject, services, out)
        if out_file is not None:
            object_store_at(out_file.parent).put(out_file.name, json.dumps(left, indent=2).encode() + b"\n")
        if other is None:
            _verify_one(subject, left, services, out)
        else:
            _compare_two(left, _certificate(other, services, out), services, out)


def _certificate(subject: str, services: "Services", out: Output) -> dict[str, Any]:
    """The certificate in a file; or of a tape, made now."""
    from control import certificate
    from control import certify as proof

    objects = object_store_at(services.settings.state_location)
    tapes, (name, _, line) = TapeStore(objects), subject.partition("/")
    if Path(subject).is_file() or not (name in tapes.names() or name in tapes.aliases()):
        return certificate.read(Path(subject))
    manifest, line = tapes.resolve(name, line or None)
    return proof.issue(manifest, line, services.kafka(), objects, out)


def _verify_one(subject: str, body: Mapping[str, Any], services: "Services", out: Output) -> None:
    from control import certify as proof

    objects = object_store_at(services.settings.state_location)
    manifest = proof.tape_of(body, TapeStore(objects))
    if manifest is None:
        out.note(
            f"tape {body.get('tape', 'of this certificate')} is not in this data folder: only the seal was verified"
        )
        out.result({"seal": "ok", "certificate": body["sha256"]})
        return
    streams, found = proof.against_tape(body, manifest, services.kafka(), objects, out)
    out.result({"seal": "ok", "certificate": body["sha256"], "tape": manifest.tape, "streams": streams})
    wrong = [name for name, state in streams.items() if state != "ok"]
    if wrong:
        raise AnswerIsNo(
            f"tape {manifest.tape} is not as {subject} certifies it: {', '.join(wrong)} ({_told(found)})",
            remedy="its topics were changed since, or the certificate is of other data",
        )


def _compare_two(left: Mapping[str, Any], right: Mapping[str, Any], services: "Services", out: Output) -> None:
    from control import certificate
    from control import certify as proof

    found = certificate.differences(left, right)
    if not found:
        out.result(
            {"identical": True, "compared": certificate.compared(left, right)},
            lambda console: console.print(f"[green]identical[/green]: {_summary(left, right)}"),
        )
        return
    tapes = TapeStore(object_store_at(services.settings.state_location))
    manifests = [proof.tape_of(body, tapes) for body in (left, right)]
    row: FoundRow | None = None
    if manifests[0] is not None and manifests[1] is not None:
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
    here = None not in manifests
    out.result(shown, lambda console: _show_difference(console, found, row, here))
    raise AnswerIsNo(f"the two differ: {_told(found)}")


def _summary(left: Mapping[str, Any], right: Mapping[str, Any]) -> str:
    from control import certificate

    parts = ", ".join(what.removeprefix("outputs.") for what in certificate.compared(left, right))
    runs = "one run" if left["run"] == right["run"] else f"runs {left['run']} and {right['run']}"
    return f"{parts} of {len(left.get('records', left['books']))} instrument(s), {runs}"


def _told(found: "list[Difference]") -> str:
    names = ", ".join(f"{d.what} of {d.name}" for d in found[:3])
    return names + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _show_difference(console: Console, found: "list[Difference]", row: "FoundRow | None", here: bool) -> None:
    body = [(d.what, d.name, d.left[:16] or "-", d.right[:16] or "-") for d in found[:DIFFERENCES_SHOWN]]
    console.print(rows(("differs", "of", "first", "second"), body))
    if row is None:
        if not here:
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
