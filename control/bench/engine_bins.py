"""Rows of bins: what an emitted bin costs, and gold on it."""

from typing import Any, Final

import numpy as np

from control.bench.engine_runs import book_run, conditions, config, cut, feed
from control.bench.measure import Bound, Row, cpu
from control.bench.oracle import WrongAnswerError
from control.bench.session import Session
from control.bench.synthetic import Shape
from engine.engine import Engine, Output
from engine.gold import Gold, GoldConfig

BINS_BLOCK: Final = 1_024


def bins_per_s(session: Session) -> list[Row]:
    """Six records a bin, as in a real stock's tape: bins are nearly all of the cost; beside copying their bytes."""
    bins = session.scaled(500, 8_000)
    shape = Shape(6 * bins, levels=100, queue=20, per_bin=6)
    stream = session.stream(shape)[0]
    outputs: list[Output] = []
    feed(Engine(config(stream)), [stream.opening, *cut(stream.records, BINS_BLOCK)], outputs.append)
    arrays = [array for output in outputs for table in (output.bins, output.trades) for array in table.values()]
    rows = sum(len(output.bins["bin_seq"]) for output in outputs)
    if rows < bins - 1:
        raise WrongAnswerError("bins_per_s", f"{rows} bins came out of {bins}")

    def copy() -> float:
        with cpu() as watch:
            for array in arrays:
                array.copy()
        return watch.seconds

    run = book_run(session, "bins_per_s", shape, physics=True, block=BINS_BLOCK)
    ours, base = session.interleave([run, copy])
    size = sum(array.nbytes for array in arrays)
    told = conditions(session, shape, physics=True) | {"block": BINS_BLOCK, "radius": 50, "bytes_per_bin": size // rows}
    return [
        Row(
            "bins_per_s",
            ours.per_second(rows),
            "bins/s",
            "copy_same_bytes",
            base.per_second(rows),
            aim=Bound(">=", 40e3),
            conditions=told,
        )
    ]


GOLD_ROWS: Final = 16
"""Rows of bins in one call of gold."""
_GOLD_WINDOW: Final = 300
_GOLD_MIN: Final = 75
_DIFFERENCES: Final = ("composite_d1", "composite_d2", "composite_d3")
_SCORE_ERROR_MAX: Final = 1e-9
"""Rounding in another order stays far below; a wrong median or window does not."""


def gold(session: Session) -> list[Row]:
    """A bin of gold with full windows, beside medians and MADs by NumPy over the same windows."""
    measured = session.scaled(20, 200)
    shape = Shape((_GOLD_WINDOW + measured) * 760, levels=22, queue=20, per_bin=760)
    stream = session.stream(shape)[0]
    settings = config(stream)
    outputs: list[Output] = []
    feed(Engine(settings), [stream.opening, *cut(stream.records, 760 * GOLD_ROWS)], outputs.append)
    tables = [output.bins for output in outputs if len(output.bins["bin_seq"])]
    rows = [len(table["bin_seq"]) for table in tables]
    before = int(np.searchsorted(np.cumsum(rows), _GOLD_WINDOW)) + 1
    count, first = sum(rows[before:]), sum(rows[:before])

    def kernel() -> tuple[Any, float]:
        one = Gold(GoldConfig(), settings.cell_ns, settings.tick_px * settings.bucket, settings.radius)
        made = [one.apply(table) for table in tables[:before]]
        with cpu() as watch:
            made += [one.apply(table) for table in tables[before:]]
        return made, watch.seconds

    made, _ = kernel()
    differences = np.stack([np.concatenate([table[name] for table in made]) for name in _DIFFERENCES], axis=1)
    scores = np.concatenate([table["flow_score"] for table in made])[first:]
    naive, _ = _naive_scores(differences, first, settings.cell_ns / 1e9)
    if not np.allclose(naive, scores, rtol=0.0, atol=_SCORE_ERROR_MAX):
        raise WrongAnswerError("gold", f"flow scores differ from NumPy's by {np.abs(naive - scores).max():.3g}")
    ours, base = session.interleave(
        [lambda: kernel()[1], lambda: _naive_scores(differences, first, settings.cell_ns / 1e9)[1]]
    )
    told = conditions(session, shape, physics=True)
    told |= {"block": 760 * GOLD_ROWS, "cells": 2 * settings.radius + 1, "window": _GOLD_WINDOW, "bins": count}
    return [
        Row(
            "gold",
            ours.times(1e6 / count),
            "us/bin",
            "numpy_median",
            base.times(1e6 / count),
            inverse=True,
            gate=Bound(">=", 20.0),
            aim=Bound("<=", 100.0),
            conditions=told,
        )
    ]


def _naive_scores(differences: np.ndarray, first: int, cell_s: float) -> tuple[np.ndarray, float]:
    """Flow scores by their definition, with a fresh median and MAD for every bin.

    Args:
        differences: the three differences of composite, float64[bins, 3, cells].
        first: bin to begin with.
        cell_s: width of a bin, s.

    Returns:
        Scores, float64[bins - first, cells], and process CPU time, s.
    """
    weights = np.array([0.55, 0.30, 0.15])
    floors = np.array([1e-7 / cell_s**order for order in (1, 2, 3)])[:, None]
    scores = np.zeros((len(differences) - first, differences.shape[2]))
    with cpu() as watch:
        for i in range(first, len(differences)):
            window = differences[max(0, i + 1 - _GOLD_WINDOW) : i + 1]
            middle = np.median(window, axis=0)
            scale = 1.4826 * np.median(np.abs(window - middle), axis=0)
            known = (scale > floors) & (len(window) >= _GOLD_MIN)
            z = np.where(known, (window[-1] - middle) / np.where(known, scale, 1.0), 0.0)
            scores[i - first] = weights @ np.tanh(z / 3.0) / weights.sum()
    return scores, watch.seconds
