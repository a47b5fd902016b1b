"""What is measured in turns, and the row that comes of it.

A *timed* function prepares what it needs, runs what is measured, and returns the seconds of that part alone. Two of
them are compared only by running them in turns: on a shared machine a minute can differ from the next by a factor of
two, but two neighbouring seconds rarely do.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median
from time import process_time_ns
from typing import Any, Literal

Timed = Callable[[], float]
"""Runs once and returns seconds."""


class Skip(Exception):  # noqa: N818  (a row that cannot be measured here is no fault)
    """A row cannot be measured on this machine.

    Args:
        reason: why, and what would help.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Figure:
    """Samples of one quantity in its unit."""

    samples: tuple[float, ...]

    @property
    def value(self) -> float:
        """The median."""
        return median(self.samples)

    def per_second(self, count: float) -> "Figure":
        """Seconds of a run that did `count` things, as a rate."""
        return Figure(tuple(count / max(s, 1e-9) for s in self.samples))

    def times(self, factor: float) -> "Figure":
        """Every sample in another unit."""
        return Figure(tuple(s * factor for s in self.samples))


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure must reach.

    Attributes:
        relation: whether at least or at most the limit is good.
        limit: the limit, in the figure's unit, or as a ratio.
    """

    relation: Literal[">=", "<="]
    limit: float

    def met(self, value: float) -> bool:
        """Whether the value reaches it."""
        return value >= self.limit if self.relation == ">=" else value <= self.limit


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a result.

    Attributes:
        row: its name.
        figure: what was measured.
        unit: unit of the figure and of its baseline.
        baseline: name of what was measured in turns with it; empty if nothing was.
        baseline_figure: its figure.
        inverse: the ratio is baseline / value ("so many times faster" of a time) and not value / baseline.
        gate: what the ratio must reach; without a baseline, what the value must.
        aim: what the value should reach on a quiet reference machine.
        conditions: everything one needs to know to measure it again.
    """

    row: str
    figure: Figure
    unit: str
    baseline: str = ""
    baseline_figure: Figure | None = None
    inverse: bool = False
    gate: Bound | None = None
    aim: Bound | None = None
    conditions: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Value over baseline, or the inverse; None without a baseline."""
        if self.baseline_figure is None:
            return None
        value, base = self.figure.value, self.baseline_figure.value
        over, under = (base, value) if self.inverse else (value, base)
        return over / under if under else None

    def document(self, judged: bool) -> dict[str, Any]:
        """The row for programs; `gate_met` and `aim_met` are None where there is none, and bind only if `judged`."""
        ratio, base = self.ratio, self.baseline_figure
        gated = self.figure.value if base is None else ratio
        return {
            "row": self.row,
            "value": _short(self.figure.value),
            "unit": self.unit,
            "min": _short(min(self.figure.samples)),
            "max": _short(max(self.figure.samples)),
            "runs": len(self.figure.samples),
            "baseline": self.baseline or None,
            "baseline_value": _short(base.value) if base else None,
            "baseline_min": _short(min(base.samples)) if base else None,
            "baseline_max": _short(max(base.samples)) if base else None,
            "ratio": _short(ratio) if ratio is not None else None,
            "ratio_of": None if base is None else "baseline / value" if self.inverse else "value / baseline",
            "gate": asdict(self.gate) if self.gate else None,
            "gate_met": self.gate.met(gated) if self.gate and gated is not None else None,
            "aim": asdict(self.aim) if self.aim else None,
            "aim_met": self.aim.met(self.figure.value) if self.aim else None,
            "judged": judged,
            "conditions": self.conditions,
        }


def _short(value: float) -> float:
    """Six digits that count; more would claim what was not measured."""
    return float(f"{value:.6g}")


class Stopwatch:
    """Seconds of process CPU time, filled in when `cpu` ends."""

    seconds: float = 0.0


@contextmanager
def cpu() -> Iterator[Stopwatch]:
    """Process CPU time of the block, user and system, all threads; the garbage collector waits meanwhile."""
    watch = Stopwatch()
    gc.collect()
    gc.disable()
    begin = process_time_ns()
    try:
        yield watch
    finally:
        watch.seconds = (process_time_ns() - begin) / 1e9
        gc.enable()


def interleave(runs: int, timed: Sequence[Timed], warm_up: bool = True) -> list[Figure]:
    """Run all in turns, once for nothing and then `runs` times.

    Args:
        runs: how many samples of each.
        timed: what to run, in this order in every turn.
        warm_up: whether the first turn is for nothing.

    Returns:
        Seconds of each, in the order given.
    """
    samples: list[list[float]] = [[] for _ in timed]
    for turn in range(0 if warm_up else 1, runs + 1):
        for one, seconds in zip(timed, samples, strict=True):
            taken = one()
            if turn:
                seconds.append(taken)
    return [Figure(tuple(s)) for s in samples]
