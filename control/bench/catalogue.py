"""Benches by name."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from control.bench import report
from control.bench.session import Case, Session, run
from control.output import Advance
from runtime.errors import UsageError


def _engine() -> tuple[Case, ...]:
    from control.bench.engine_bench import CASES

    return CASES


def _streams() -> tuple[Case, ...]:
    from control.bench.streams_bench import CASES

    return CASES


def _replay() -> tuple[Case, ...]:
    from control.bench.replay_bench import CASES

    return CASES


def _sinks() -> tuple[Case, ...]:
    from control.bench.sinks_bench import CASES

    return CASES


def _gateway() -> tuple[Case, ...]:
    from control.bench.gateway_bench import CASES

    return CASES


BENCHES: Final[dict[str, Callable[[], tuple[Case, ...]]]] = {
    "engine": _engine,
    "streams": _streams,
    "replay": _replay,
    "sinks": _sinks,
    "gateway": _gateway,
}
"""Cases of each bench, imported only when it is run: they bring kernels with them."""


def measure(name: str, rows: Sequence[str], session: Session, advance: Advance) -> dict[str, Any]:
    """Run a bench, or some of its rows, and return the result document.

    Raises:
        UsageError: no such bench or row.
        WrongAnswerError: what was measured computed something wrong.
    """
    if name not in BENCHES:
        raise UsageError(f"bench {name} is not known", remedy=f"use {', '.join(BENCHES)}")
    cases = BENCHES[name]()
    known = {one for case in cases for one in (case.name, *case.rows)}
    if strange := [row for row in rows if row not in known]:
        raise UsageError(f"bench {name} has no row {strange[0]}", remedy=f"use {', '.join(sorted(known))}")
    outcome = run([case for case in cases if case.wanted(rows)], session, advance)
    return report.document(name, outcome, session.runs, session.quick)
