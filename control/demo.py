"""The demo: everything on, fed by a simulated market at real time, on a tape that is made anew at each start."""

import threading
import time
import webbrowser
from contextlib import closing
from typing import Any, Final

from connectors import simulated_feed
from control.arrival import SINKS, Arrival
from control.output import Output
from control.pipeline import LINE_CONFIG
from control.stack import Stack
from runtime.errors import MissingServiceError
from runtime.kafka import CheckedProducer
from runtime.settings import Settings
from runtime.tapes import Line, Manifest, new_tape
from schemas.topics import DERIVED
from streams.run_id import run_id

TAPE: Final = "demo"
LINE: Final = "main"

INSTRUMENTS: Final = 2
"""Simulated instruments: enough to switch between, few enough for a laptop."""

SETTLE_S: Final = 10.0
"""With `--seconds`: how long to wait, after the feed has stopped, for what is under way to arrive; about one second."""


def run(settings: Settings, out: Output, *, seconds: float | None, seed: int, open_browser: bool) -> dict[str, Any]:
    """Run the demo until Ctrl-C or for `seconds` of market, and report.

    Args:
        settings: ports, addresses, data folder.
        out: for progress and notices.
        seconds: length of the demo, None for no end.
        seed: of the simulated market.
        open_browser: whether to open the console.

    Raises:
        MissingServiceError: a part cannot be had or died.
    """
    started_s = time.monotonic()
    made: list[Manifest] = []
    with Stack(settings, out, frozenset({TAPE}), lambda stack: made.append(_new_tape(stack))) as stack:
        (manifest,) = made
        stop = threading.Event()
        failed: list[BaseException] = []
        feed = threading.Thread(target=_feed, args=(manifest, stack.bootstrap_servers, seed, stop, failed), daemon=True)
        feed.start()
        out.note(f"console: {stack.console_url}")
        if open_browser:
            webbrowser.open(stack.console_url)
        end_s = float("inf") if seconds is None else time.monotonic() + seconds
        startup_s = time.monotonic() - started_s
        try:
            stack.run(lambda: time.monotonic() >= end_s or bool(failed))
        finally:
            stop.set()
            feed.join(SETTLE_S)
        if failed:
            raise MissingServiceError(f"the simulated feed stopped: {failed[0]}") from failed[0]
        return _report(settings, stack, manifest, startup_s, time.monotonic() - started_s)


def _new_tape(stack: Stack) -> Manifest:
    admin = stack.admin
    old = admin.tapes.load(TAPE)
    if old is not None:
        admin.delete(old, stack.store_url)
    known = simulated_feed.instruments(INSTRUMENTS)
    manifest = new_tape(TAPE, live=True, instruments=known)
    return admin.open(manifest, LINE, Line(run_id(LINE_CONFIG), LINE_CONFIG))


def _feed(manifest: Manifest, servers: str, seed: int, stop: threading.Event, failed: list[BaseException]) -> None:
    try:
        simulated_feed.run_feed(manifest.tape, manifest.instruments, CheckedProducer(servers), stop, seed=seed)
    except BaseException as error:
        failed.append(error)


def _report(settings: Settings, stack: Stack, manifest: Manifest, startup_s: float, total_s: float) -> dict[str, Any]:
    """How far everything came, after waiting a moment for what was under way."""
    with closing(Arrival(stack.bootstrap_servers, manifest, LINE, settings.state_dir)) as arrival:
        deadline_s = time.monotonic() + SETTLE_S
        while not arrival.complete() and time.monotonic() < deadline_s:
            stack.poll()
            time.sleep(0.2)
        return {
            "console": stack.console_url,
            "tape": TAPE,
            "messages": {"published": arrival.published(), **{s.stream: arrival.computed(s) for s in DERIVED}},
            "rows": {sink: arrival.written(sink)["rows"] for sink in SINKS},
            "complete": arrival.complete(),
            "seconds": {"startup": round(startup_s, 3), "total": round(total_s, 3)},
        }
