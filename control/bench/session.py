"""One execution of a bench: its options, the streams and the broker that its cases share, the run through the cases."""

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from control.bench import oracle, synthetic
from control.bench.calibration import NOISY_ABOVE, Calibration, slowdown
from control.bench.measure import Figure, Row, Skip, Timed, interleave
from control.bench.synthetic import Shape, Stream
from control.output import Advance

TOGETHER: Final = 3
"""Cases of a quick bench that run side by side: enough for two cores, while processes start and wait."""


@dataclass
class Session:
    """Options of a bench, streams already made, and, once a case asks for them, a folder and a broker of its own.

    A context: leaving it stops the broker and deletes the folder.

    Attributes:
        runs: samples of each figure.
        quick: whether the bench only has to show that it runs.
        market_data: folder of real market data; None if there is none.
        peers: Python interpreter of the environment with other people's books.
    """

    runs: int
    quick: bool
    market_data: Path | None
    peers: Path
    _streams: dict[Shape, tuple[Stream, str]] = field(default_factory=dict)
    _folder: Path | None = None
    _servers: str = ""
    _kept: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._kept.close()

    def at_end(self, call: Callable[[], object]) -> None:
        """Call something when the session ends, before what it keeps is gone."""
        self._kept.callback(call)

    def folder(self) -> Path:
        """A temporary folder for everything that the cases write."""
        if self._folder is None:
            self._folder = Path(self._kept.enter_context(tempfile.TemporaryDirectory(prefix="barograph-bench-")))
        return self._folder

    def kafka(self) -> str:
        """Bootstrap servers of the session's broker, started at the first call."""
        if not self._servers:
            from control.embedded.kafka import EmbeddedKafka

            broker = self._kept.enter_context(EmbeddedKafka(self.folder() / "kafka"))
            self._servers = broker.bootstrap_servers
        return self._servers

    def stream(self, shape: Shape) -> tuple[Stream, str]:
        """The stream of a shape, and the digest that a slow book has after it."""
        if shape not in self._streams:
            stream = synthetic.make(shape)
            truth = oracle.book_of((stream.opening, stream.records)).digest(stream.tick_px)
            self._streams[shape] = (stream, truth)
        return self._streams[shape]

    def interleave(self, timed: Sequence[Timed]) -> list[Figure]:
        """Seconds of what was run in turns, see `measure.interleave`; a quick bench has no turn for nothing."""
        return interleave(self.runs, timed, warm_up=not self.quick)

    def scaled(self, quick: int, full: int) -> int:
        """A size for the quick bench, or the size that counts."""
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Case:
    """Rows that are measured together.

    Attributes:
        name: what `--row` may call all of them.
        rows: their names, so that each is told as skipped if it cannot be measured.
        measure: measures them.
        alone: whether it has the machine for itself also in a quick bench, whose figures nobody judges.
    """

    name: str
    rows: tuple[str, ...]
    measure: Callable[[Session], list[Row]]
    alone: bool = True

    def wanted(self, names: Sequence[str]) -> bool:
        """Whether one of the names means this case or one of its rows; no names mean every case."""
        return not names or any(name == self.name or name in self.rows for name in names)


@dataclass
class Outcome:
    """What a bench found.

    Attributes:
        rows: each with how much slower than quiet the machine was around it.
        skipped: rows that could not be measured, and why.
        calibration: all samples.
    """

    rows: list[tuple[Row, float]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    calibration: Calibration = field(default_factory=Calibration)

    def documents(self, judge: bool) -> list[dict[str, Any]]:
        """Rows for programs; those measured in a noisy moment, and all if `judge` is False, are not judged."""
        return [
            row.document(judge and factor <= NOISY_ABOVE) | {"slowdown": round(factor, 3)} for row, factor in self.rows
        ]


def run(cases: Sequence[Case], session: Session, advance: Advance) -> Outcome:
    """Measure the cases in order.

    Raises:
        WrongAnswerError: what was measured computed something wrong.
    """
    out = Outcome()
    out.calibration.sample()
    crowd = _begin_together([case for case in cases if session.quick and not case.alone], session)
    for number, case in enumerate(cases):
        advance(number, len(cases))
        try:
            rows = crowd[case.name].result() if case.name in crowd else case.measure(session)
        except Skip as skip:
            out.skipped += [{"row": row, "reason": skip.reason} for row in case.rows]
            continue
        out.calibration.sample()
        factor = slowdown(out.calibration.touch_ns[-2:], out.calibration.load_ns[-2:])
        out.rows += [(row, factor) for row in rows]
        measured = {row.row for row in rows}
        out.skipped += [{"row": row, "reason": "not measured"} for row in case.rows if row not in measured]
    advance(len(cases), len(cases))
    return out


def _begin_together(cases: Sequence[Case], session: Session) -> dict[str, "Future[list[Row]]"]:
    """Start cases side by side: most of a quick one is to wait for processes to start."""
    if not cases:
        return {}
    session.kafka()
    pool = ThreadPoolExecutor(TOGETHER)
    begun = {case.name: pool.submit(case.measure, session) for case in cases}
    pool.shutdown(wait=False)
    session.at_end(lambda: pool.shutdown(cancel_futures=True))
    return begun
