"""The verb `watch`: a live ladder in the terminal, by the public client."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from control import options
from control.output import Output
from runtime.errors import InputError, MissingServiceError

if TYPE_CHECKING:
    import barograph

SCREEN_LINES = 12
"""Lines of a terminal that are not prices: frame, quotes, gauge, status."""

SCREEN_CELLS = 100
"""Width of the picture where no terminal has one. Lines for programs are as long as they are; a picture is for eyes."""

SCREEN_HZ = 20.0
"""Pictures a second. Eyes see no more; a terminal over a slow line takes no more."""

LOOK_S = 1.0
"""How often the picture is drawn when nothing comes, so that silence is seen within a second of being told."""

Row = dict[str, Any]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("watch")(watch)


def watch(
    tape: Annotated[str | None, typer.Option("--tape", help="tape or alias; default: the newest")] = None,
    instrument: Annotated[str | None, typer.Option("--instrument", help="VENUE:SYMBOL; default: the first")] = None,
    line: options.Line = "main",
    start: Annotated[str, typer.Option("--from", help="live, a cursor, bin/N or @ns since the epoch")] = "live",
    speed: Annotated[float | None, typer.Option("--speed", min=0.001, help="pace of a replay; default: max")] = None,
    rows: Annotated[int, typer.Option("--rows", min=0, help="rows to show before leaving; 0: until Ctrl-C")] = 0,
    url: Annotated[str | None, typer.Option("--url", help="ws://…/v1/stream; default: the running gateway")] = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Show an instrument live: the ladder around the mid, what comes and goes there, pressure and vacuum.

    `--json` prints one line for each bin instead.
    """
    from runtime.endpoints import Endpoints

    out, given = Output(as_json), options.settings(data_dir=data)
    token = given.token.get_secret_value() or None
    url = url or Endpoints(given.data_dir).find("gateway")
    if url is None:
        raise MissingServiceError(
            "no gateway runs on this data folder", remedy="start one with `barograph up`, or name one with --url"
        )
    what = {"tape": tape, "instrument": instrument, "line": line, "start": start}
    asyncio.run(_watch(out, url, token, what, speed, rows))


async def _watch(
    out: Output, url: str, token: str | None, what: dict[str, Any], speed: float | None, rows: int
) -> None:
    import barograph
    from control import ladder

    async with barograph.connect(url, token=token) as client:
        what["tape"], what["instrument"] = _place(client.hello, what["tape"], what["instrument"])
        rate_hz = None if out.as_json else SCREEN_HZ
        subscription = client.subscribe("grid", fields=ladder.FIELDS, dtype="f64", max_rate_hz=rate_hz, **what)
        if speed is not None and what["start"] != "live":
            await subscription.speed(speed)
        title = f"{what['instrument']}  ·  {what['tape']}/{what['line']}"
        with ExitStack() as stack:
            draw = None if out.as_json else _screen(out, stack, client, subscription, title)
            left = rows or None
            async for frame in _or_silence(subscription):
                told = _rows_of(frame)[:left] if frame is not None else []
                if draw is None:
                    _print(told, subscription)
                else:
                    draw(frame, told)
                left = left - len(told) if left is not None else None
                if left == 0:
                    return


async def _or_silence(subscription: "barograph.Subscription") -> AsyncIterator["barograph.Frame | None"]:
    """The frames, and None for each second in which none came, so that silence is shown too."""
    frames = aiter(subscription)
    while True:
        try:
            async with asyncio.timeout(LOOK_S):
                frame = await anext(frames)
        except TimeoutError:
            yield None
        except StopAsyncIteration:
            return
        else:
            yield frame


def _place(hello: dict[str, Any], tape: str | None, instrument: str | None) -> tuple[str, str]:
    """The tape and instrument that are meant.

    Raises:
        InputError: there is none yet.
    """
    known = {**hello["instruments"], **{a: hello["instruments"][t.split("/")[0]] for a, t in hello["aliases"].items()}}
    tapes = [name for name in hello["tapes"] if known.get(name)]
    tape = tape or ("live" if "live" in known else tapes[-1] if tapes else None)
    if tape is None or not known.get(tape):
        raise InputError(
            f"tape {tape} holds no instrument yet" if tape else "there is no tape yet",
            remedy="start a replay or a collector, or name one of " + (", ".join(tapes) or "those that it makes"),
        )
    return tape, instrument or known[tape][0]


def _screen(
    out: Output, stack: ExitStack, client: "barograph.Client", subscription: "barograph.Subscription", title: str
) -> Callable[["barograph.Frame | None", list[Row]], None]:
    """What draws the newest row, and how the stream is; without a frame the row before is drawn again."""
    from rich.live import Live

    from control import ladder

    if not out.console.is_terminal:
        out.console.width = SCREEN_CELLS
    live = stack.enter_context(Live(console=out.console, screen=out.console.is_terminal, auto_refresh=False))
    shown: list[Row] = []
    age_us = 0

    def draw(frame: "barograph.Frame | None", rows: list[Row]) -> None:
        nonlocal age_us
        shown[:] = rows[-1:] or shown
        age_us = frame.age_us if frame is not None else age_us
        if not shown:
            return
        link = ladder.Link(
            title,
            age_us,
            subscription.lag_ms,
            subscription.stale_ms,
            subscription.left_out,
            len(subscription.gaps),
            subscription.resumed,
            lost=not client.connected,
        )
        height = max(3, out.console.size.height - SCREEN_LINES) if out.console.is_terminal else 21
        live.update(ladder.picture(shown[0], link, height), refresh=True)

    return draw


def _print(rows: list[Row], subscription: "barograph.Subscription") -> None:
    from control import ladder

    for row in rows:
        told = {name: row[name].item() for name in (*ladder.SCALARS, "spot_tick", "tick_px")}
        told |= {"net": ladder.forces(row).net, "left_out": subscription.left_out, "gaps": len(subscription.gaps)}
        sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def _rows_of(frame: "barograph.Frame") -> list[Row]:
    columns = {name: frame.to_numpy(name) for name in frame.to_arrow().schema.names}
    return [{name: values[i] for name, values in columns.items()} for i in range(frame.to_arrow().num_rows)]
