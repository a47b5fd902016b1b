"""Verbs on tapes and topics: `tape list|show|alias|cutover|backfill|export|compact|delete`, `topics …`."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from control import options
from control.output import Output, rows
from runtime.errors import AnswerIsNo, InputError, UsageError
from runtime.object_store import object_store_at
from runtime.settings import Settings
from runtime.tapes import Alias, TapeStore
from schemas.topics import CATALOGUE, of_tape

tape_app = typer.Typer(help="Tapes: what was recorded or replayed.", no_args_is_help=True)
topics_app = typer.Typer(help="Topics: the catalogue, and what the broker has.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.add_typer(tape_app, name="tape")
    app.add_typer(topics_app, name="topics")


def _tapes(settings: Settings) -> TapeStore:
    return TapeStore(object_store_at(settings.state_location))


@tape_app.command("list")
def list_tapes(data: options.Data = None, as_json: options.Json = False) -> None:
    """List the tapes of the data folder."""
    store = _tapes(options.settings(data_dir=data))
    found, aliases = [store.require(name) for name in store.names()], store.aliases()
    titles = ("tape", "state", "instruments", "partitions", "lines", "sources")
    body = [
        (m.tape, m.state, len(m.instruments), m.partitions, ", ".join(m.lines), ", ".join(s.name for s in m.sources))
        for m in found
    ]
    out = Output(as_json)
    if not found and not as_json:
        out.note("no tapes yet; make one with: barograph run FILE")
    named = [(name, f"{alias.tape}/{alias.line}") for name, alias in aliases.items()]

    def show(console: Console) -> None:
        console.print(rows(titles, body))
        if named:
            console.print(rows(("\nalias", "\nnames"), named))

    out.result([{**asdict(m), "aliases": _aliases_of(m.tape, aliases)} for m in found], show)


def _aliases_of(tape: str, aliases: Mapping[str, Alias]) -> dict[str, str]:
    """Aliases of a tape → the line that each names."""
    return {name: alias.line for name, alias in aliases.items() if alias.tape == tape}


@tape_app.command("show")
def show_tape(
    tape: Annotated[str, typer.Argument(help="name of the tape, or an alias")],
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Show a tape's manifest: instruments, sources, partitions, lines, state, aliases."""
    store = _tapes(options.settings(data_dir=data))
    aliases = store.aliases()
    manifest = store.require(aliases[tape].tape if tape in aliases else tape)
    Output(as_json).result({**asdict(manifest), "aliases": _aliases_of(manifest.tape, aliases)})


@tape_app.command("alias")
def alias_tape(
    name: Annotated[str, typer.Argument(help="the alias; not the name of a tape")],
    place: Annotated[str | None, typer.Argument(help="TAPE or TAPE/LINE that it names")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="remove the alias; the tape stays")] = False,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Give a tape and line another name for readers, point it elsewhere, or remove it."""
    store = _tapes(options.settings(data_dir=data))
    if delete == (place is not None):
        raise UsageError("an alias needs either TAPE/LINE or --delete", remedy="give one of them")
    if place is None:
        store.delete_alias(name)
        Output(as_json).result({"alias": name, "deleted": True})
        return
    tape, _, line = place.partition("/")
    alias = Alias(tape, line or "main")
    store.set_alias(name, alias)
    Output(as_json).result({"alias": name, **asdict(alias)})


@tape_app.command("cutover")
def cut_over(
    tape: Annotated[str, typer.Argument(help="name of the tape")],
    line: options.Line = "main",
    bootstrap_servers: options.Bootstrap = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Hand a line that another release computed over to this one, from the states that it left."""
    from control.cutover import hand_over
    from control.services import Services

    settings, out = options.settings(data_dir=data, bootstrap_servers=bootstrap_servers), Output(as_json)
    with Services(settings, out) as services:
        manifest, made = hand_over(settings, services.kafka(), tape, options.legal("line", line))
    if not made and not as_json:
        out.note(f"line {line} of tape {tape} is of run {manifest.lines[line].run} already")
    body = [(h.stage, h.partition, h.cutover.seq, h.cutover.from_run, h.cutover.to_run) for h in made]
    titles = ("stage", "partition", "seq", "from run", "to run")
    out.result([asdict(h) for h in made], lambda console: console.print(rows(titles, body)))


@tape_app.command("backfill")
def backfill_tape(
    tape: Annotated[str, typer.Argument(help="name of the tape")],
    from_lake: Annotated[str, typer.Option("--from-lake", help="lake to read: a folder, or s3://…, gs://…, az://…")],
    replace: Annotated[bool, typer.Option("--replace", help="delete the tape's topics first if they hold any")] = False,
    bootstrap_servers: options.Bootstrap = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Make a tape's topics again from the lake, message by message; it keeps its identity, so nothing is stored twice.

    The whole tape is read before anything is changed. If this is interrupted, call it again with --replace.
    """
    from control.pipeline import only_one
    from control.services import Services
    from control.tape_backfill import Backfill

    settings, out = options.settings(data_dir=data, bootstrap_servers=bootstrap_servers), Output(as_json)
    lake = object_store_at(from_lake)
    with Services(settings, out, lasting=True) as services, only_one(options.legal("tape", tape), settings):
        out.result(Backfill(settings, services.kafka(), tape, lake, out).run(replace_topics=replace))


@tape_app.command("export")
def export_tape(
    tape: Annotated[str, typer.Argument(help="name of the tape, or an alias")],
    out_file: Annotated[Path, typer.Option("--out", help="file to write: .dbn.zst or .dbn (raw), .parquet")],
    stream: Annotated[str, typer.Option("--stream", help="mbo, bins, trades, bars, or one of records")] = "mbo",
    instrument: Annotated[str, typer.Option("--instrument", help="only this one; default: all")] = "",
    source: Annotated[
        str, typer.Option("--from", help="topic, lake, or both: the lake where the log has ended")
    ] = "both",
    line: options.ReadLine = None,
    bootstrap_servers: options.Bootstrap = None,
    lake_url: options.Lake = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Write a stream of a tape to one file, DBN or Parquet."""
    from control.services import Services
    from control.tape_export import export

    if source not in ("both", "topic", "lake"):
        raise UsageError(f"--from {source} is not known", remedy="use topic, lake or both")
    settings = options.settings(data_dir=data, bootstrap_servers=bootstrap_servers, lake_url=lake_url)
    out = Output(as_json)
    manifest, line = options.place(settings, tape, line)
    with Services(settings, out) as services, out.bar("reading", "messages") as advance:
        servers = services.kafka() if source != "lake" else ""
        lake = object_store_at(settings.lake_location) if source != "topic" else None
        made = export(
            manifest, line, stream, out_file, servers=servers, lake=lake, instrument=instrument,
            on_progress=lambda n: advance(n, 0),
        )  # fmt: skip
    out.result(made)


@tape_app.command("compact")
def compact_tape(
    tape: Annotated[str, typer.Argument(help="name of the tape, or an alias")],
    fewest: Annotated[int, typer.Option("--fewest", min=2, help="join runs of at least this many objects")] = 4,
    lake_url: options.Lake = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Join a tape's small lake objects into larger ones, with the same messages in the same order.

    Sinks and readers may go on meanwhile. What was joined is read back and compared by hash before anything is deleted.
    """
    from control.tape_admin import TapeAdmin
    from sinks.erase import lanes
    from sinks.lake_compact import compact
    from sinks.tables import tape_tables

    settings, out = options.settings(data_dir=data, lake_url=lake_url), Output(as_json)
    manifest, _ = options.place(settings, tape, None)
    lake, found = object_store_at(settings.lake_location), list(lanes(manifest, tape_tables()))
    admin = TapeAdmin(settings, "")
    with admin.rewriting(manifest), out.bar("joining", "lanes") as advance:
        if admin.tapes.require(manifest.tape).tape_id != manifest.tape_id:
            raise InputError(f"tape {manifest.tape} was made again meanwhile", remedy="call this again")
        done = []
        for number, lane in enumerate(found):
            done.append((lane, compact(lake, lane, fewest)))
            advance(number + 1, len(found))
    if not any(did.made for _, did in done):
        out.note(f"nothing to join: no stream of {manifest.tape} has {fewest} small objects in a row")
    out.result(
        {f"{lane.topic}[{lane.partition}]": {"joined": did.joined, "made": did.made} for lane, did in done if did.made}
    )


@tape_app.command("delete")
def delete_tape(
    tape: Annotated[str, typer.Argument(help="name of the tape")],
    instrument: Annotated[str, typer.Option("--instrument", help="only this instrument")] = "",
    day: Annotated[str, typer.Option("--day", help="only this UTC day of engine time, such as 2024-01-02")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="delete; without it, what would go is shown")] = False,
    bootstrap_servers: options.Bootstrap = None,
    clickhouse_url: options.ClickHouse = None,
    lake_url: options.Lake = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Delete a tape, or an instrument or a day of it, from ClickHouse, lake and topics; a record of it stays.

    From Kafka only whole prefixes of a partition, or whole tapes go; what stays there is left out by readers.
    Of a day those messages go that lie in it as a whole. One across midnight stays, with all rows that were computed
    when it came; such messages are listed.
    """
    from control.services import Services
    from control.tape_delete import Eraser, Wish, begin_record, end_record

    settings = options.settings(
        data_dir=data, bootstrap_servers=bootstrap_servers, clickhouse_url=clickhouse_url, lake_url=lake_url
    )
    out = Output(as_json)
    manifest, states = _tapes(settings).require(tape), object_store_at(settings.state_location)
    with Services(settings, out) as services:
        if instrument or day:
            eraser = Eraser(settings, manifest, services.kafka(), out)
            found = eraser.find(Wish(instrument, day))
            if yes:
                out.result(eraser.erase(found, services.store()))
                return
            shown: dict[str, Any] = {
                "tape": tape,
                "would_delete": [asdict(deletion) for deletion in found.ranges],
                "stays_across_midnight": [asdict(across) for across in found.across],
            }
        elif yes:
            from control.tape_admin import TapeAdmin

            record = begin_record(states, manifest, {"ranges": "all"})
            TapeAdmin(settings, services.kafka()).delete(manifest, services.store())
            out.result(end_record(states, record, {}))
            return
        else:
            shown = {"tape": tape, "would_delete": "all of it"}
    out.note("nothing was deleted; add --yes to do it")
    out.result(shown)


@topics_app.command("list")
def list_topics(
    bootstrap_servers: options.Bootstrap = None, data: options.Data = None, as_json: options.Json = False
) -> None:
    """List the topics of every tape, and whether the broker has them."""
    from control.services import Services
    from control.topic_admin import TopicAdmin

    settings, out = options.settings(data_dir=data, bootstrap_servers=bootstrap_servers), Output(as_json)
    store = _tapes(settings)
    with Services(settings, out) as services:
        existing = TopicAdmin(services.kafka()).existing()
    found = [
        {"topic": name, "tape": m.tape, "line": line, "exists": name in existing, "topic_id": m.topic_ids.get(name, "")}
        for m in map(store.require, store.names())
        for line in m.lines
        for name in of_tape(m.tape, line)
    ]
    body = [(t["topic"], "yes" if t["exists"] else "MISSING", t["topic_id"]) for t in found]
    out.result(found, lambda console: console.print(rows(("topic", "exists", "id"), body)))


@topics_app.command("show")
def show_topic(
    stream: Annotated[str, typer.Argument(help="name of a stream, such as bins")], as_json: options.Json = False
) -> None:
    """Show the catalogue's entry of a stream: key, value, who writes and reads it, configuration."""
    for spec in CATALOGUE:
        if spec.stream == stream:
            Output(as_json).result({"topic": spec.name("TAPE", "LINE"), **asdict(spec), "config": spec.config()})
            return
    known = ", ".join(spec.stream for spec in CATALOGUE)
    raise InputError(f"there is no stream {stream!r}", remedy=f"use one of: {known}")


@topics_app.command("apply")
def apply_topics(
    tape: options.Tape,
    line: options.Line = "main",
    bootstrap_servers: options.Bootstrap = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Make the topics of a tape and line as the catalogue declares them; what exists is left alone.

    With BAROGRAPH_REGISTRY_URL, their schemas are put into that registry as well.
    """
    from control.registry_publish import publish
    from control.services import Services
    from control.topic_admin import TopicAdmin
    from runtime.registry_client import RegistryClient

    settings, out = options.settings(data_dir=data, bootstrap_servers=bootstrap_servers), Output(as_json)
    partitions = _tapes(settings).require(tape).partitions
    with Services(settings, out) as services:
        applied = TopicAdmin(services.kafka()).apply(tape, options.legal("line", line), partitions)
    if settings.registry_url:
        registry = RegistryClient(settings.registry_url)
        out.note(f"{len(publish(registry, tape, line))} subjects are in the registry at {registry.shown}")
    out.result(applied)


@topics_app.command("drift")
def drift_topics(
    tape: options.ReadTape,
    line: options.ReadLine = None,
    bootstrap_servers: options.Bootstrap = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Compare the topics of a tape and line with the catalogue; exit code 1 if they differ."""
    from control.services import Services
    from control.topic_admin import TopicAdmin

    settings, out = options.settings(data_dir=data, bootstrap_servers=bootstrap_servers), Output(as_json)
    manifest, line = options.place(settings, tape, line)
    with Services(settings, out) as services:
        found = TopicAdmin(services.kafka()).drift(manifest.tape, line)
    body = [(d.topic, d.key, d.declared, d.actual) for d in found]
    out.result(
        [asdict(d) for d in found],
        lambda console: console.print(rows(("topic", "setting", "declared", "actual"), body)),
    )
    if found:
        raise AnswerIsNo(f"{len(found)} setting(s) of tape {tape} differ from the catalogue", remedy="apply or replace")
