"""Verbs on files, without any broker: verify, inspect, simulate, book, grid."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from control import options
from control.output import Output, rows
from runtime.errors import UsageError
from schemas.bins import RADIUS_DEFAULT

if TYPE_CHECKING:
    from engine.gold import GoldConfig


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    for verb in (verify, inspect, simulate_file, book, grid):
        app.command(verb.__name__.removesuffix("_file"))(verb)


def verify(
    files: options.Files,
    manifest: options.Manifest = None,
    as_json: options.Json = False,
) -> None:
    """Prove that DBN files are whole: frames, records, length, and a manifest if given."""
    from connectors import dbn_verify

    out = Output(as_json)
    expected = dbn_verify.load_manifest(manifest) if manifest else None
    reports = []
    with out.bar("verifying", "bytes") as advance:
        for file in files:
            reports.append(dbn_verify.verify(file, manifest=expected, on_progress=advance))
    titles = ("file", "schema", "records", "bytes", "frames", "instruments", "sha256")
    body = [
        (Path(r.path).name, r.schema or "live", r.records, r.bytes, r.frames, len(r.instruments), r.sha256[:16])
        for r in reports
    ]
    out.result([r.to_dict() for r in reports], lambda console: console.print(rows(titles, body)))


def inspect(file: options.File, as_json: options.Json = False) -> None:
    """Show what is in a DBN file: metadata, actions, flags, instruments, time range."""
    from connectors.inspect import inspect as inspect_file

    out = Output(as_json)
    with out.bar("reading", "bytes") as advance:
        found = inspect_file(file, advance)
    out.result(found)


def simulate_file(
    out_file: Annotated[Path, typer.Option("--out", help="file to write, .dbn or .dbn.zst")],
    records: Annotated[int, typer.Option("--records", min=1, help="order events to write")] = 1_000_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="same seed, same bytes")] = 7,
    instruments: Annotated[int, typer.Option("--instruments", min=1, max=64, help="instruments, SYN0 ...")] = 1,
    hours: Annotated[float, typer.Option("--hours", min=0.001, help="event time that the records span")] = 1.0,
    as_json: options.Json = False,
) -> None:
    """Write a synthetic DBN file of order events, labelled as such, from a documented model of order flow."""
    from connectors import simulate

    out = Output(as_json)
    with out.bar("simulating", "records") as advance:
        written = simulate.write(
            out_file, records=records, seed=seed, instruments=instruments, hours=hours, on_progress=advance
        )
    out.result(written)


def book(
    file: options.File,
    out_file: Annotated[Path, typer.Option("--out", help="Parquet file to write")],
    schema: Annotated[str, typer.Option("--schema", help="rows: mbp-10, DBN's columns and units")] = "mbp-10",
    tick: options.Tick = None,
    as_json: options.Json = False,
) -> None:
    """Build the book from a DBN file and write its top ten levels after each change. No broker."""
    from control import offline

    if schema != "mbp-10":
        raise UsageError(f"--schema {schema} is not known", remedy="use mbp-10")
    out = Output(as_json)
    with out.bar("book", "s of market time") as advance:
        result = offline.write_book(file, out_file, tick_px=options.tick_px(tick), on_progress=advance)
    out.result(result)


def grid(
    file: options.File,
    out_dir: Annotated[Path, typer.Option("--out", help="folder to write bins.parquet and manifest.json to")],
    tick: options.Tick = None,
    cell: Annotated[str, typer.Option("--cell", help="width of a bin")] = "100ms",
    radius: Annotated[int, typer.Option("--radius", min=1, max=1000, help="ticks on each side")] = RADIUS_DEFAULT,
    emission: Annotated[str, typer.Option("--emission", help="active, or dense for every bin")] = "active",
    gold: Annotated[bool, typer.Option("--gold", help="add pressure, vacuum, composite and flow score")] = False,
    gold_table: Annotated[
        str, typer.Option("--gold-state-table", help="state5 of gold: symmetric, or original for the first system's")
    ] = "symmetric",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="stop after so many records")] = None,
    as_json: options.Json = False,
) -> None:
    """Run the engine over a DBN file and write every bin of its pressure grid. No broker."""
    from control import offline

    if emission not in ("active", "dense"):
        raise UsageError(f"--emission {emission} is not known", remedy="use active or dense")
    out = Output(as_json)
    config = {"cell_ns": options.cell_ns(cell), "radius": radius, "emission": emission}
    with out.bar("grid", "s of market time") as advance:
        manifest = offline.write_grid(
            file,
            out_dir,
            config,
            gold=_gold_config(gold, gold_table),
            tick_px=options.tick_px(tick),
            limit=limit,
            on_progress=advance,
        )

    def human(console: Console) -> None:
        body: list[tuple[Any, ...]] = [
            (name, i["records"], i["bins"], i["bins_sha256"][:16]) for name, i in manifest["instruments"].items()
        ]
        console.print(rows(("instrument", "records", "bins", "sha256"), body))
        for kind in ("bins_sha256", "gold_sha256"):
            if kind in manifest:
                console.print(f"{kind} {manifest[kind]}")

    out.result(manifest, human)


def _gold_config(wanted: bool, state_table: str) -> "GoldConfig | None":
    """Settings of gold as the options say; None without `--gold`."""
    from engine.gold import GoldConfig

    if state_table not in ("symmetric", "original"):
        raise UsageError(f"--gold-state-table {state_table} is not known", remedy="use symmetric or original")
    if not wanted and state_table == "original":
        raise UsageError("--gold-state-table original is of no use alone", remedy="add --gold")
    return GoldConfig(state_table="original" if state_table == "original" else "symmetric") if wanted else None
